//! Files that decay, on a disk in memory.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::disk::{Disk, MemoryDisk};
use crate::node::snapshots::Snapshots;
use crate::store::Store;
use crate::sync::queue::Receiver;
use crate::types::{Entry, EntryPayload, LogIndex, Term};

struct Kept {
    disk: MemoryDisk,
    snapshots: Snapshots,
    scrub: Arc<ScrubBoard>,
    replacing: Replacing,
    events: Receiver<Event>,
    store: Store,
}

impl Kept {
    fn new() -> Self {
        let disk = MemoryDisk::new();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let files = SnapshotDirectory::open(shared, Path::new("/snapshots")).unwrap();
        let scrub = Arc::new(ScrubBoard::default());
        let (sender, events) = EventSender::new();
        Self {
            disk,
            snapshots: Snapshots::new(files.clone()),
            replacing: Replacing::new(files, Arc::clone(&scrub), sender),
            scrub,
            events,
            store: Store::new(),
        }
    }

    /// Applies this many entries, then writes a snapshot.
    fn write(&mut self, entries: u64) -> SnapshotInfo {
        for _ in 0..entries {
            self.store.apply(&Entry {
                index: self.store.applied_index().next(),
                term: Term(1),
                payload: EntryPayload::Noop,
            });
        }
        let never = AtomicBool::new(false);
        self.snapshots.write(self.store.view(), &never).unwrap();
        self.snapshots.directory().newest().unwrap()
    }

    fn rot(&self, info: &SnapshotInfo) {
        self.disk.overwrite(&info.path, 100, b"rot").unwrap();
    }

    /// Whether another snapshot was asked for since the last look.
    fn is_asked(&self) -> bool {
        matches!(self.events.try_recv(), Ok(Event::TakeSnapshot))
    }

    fn indexes(&self) -> Vec<LogIndex> {
        let all = self.snapshots.directory().all();
        all.iter().map(|info| info.meta.index).collect()
    }
}

#[test]
fn decayed_snapshot_beside_a_sound_one_is_set_aside_at_once() {
    let mut kept = Kept::new();
    kept.write(3);
    let newest = kept.write(2);
    kept.rot(&newest);
    kept.replacing.replace(&newest);
    assert_eq!(kept.indexes(), [LogIndex(3)]);
    assert!(kept.is_asked());
    assert_eq!(kept.scrub.newest().repaired, 1);
}

#[test]
fn file_that_reads_well_the_second_time_stays() {
    let mut kept = Kept::new();
    kept.write(3);
    let newest = kept.write(2);
    kept.replacing.replace(&newest);
    assert_eq!(kept.indexes(), [LogIndex(3), LogIndex(5)]);
    assert!(!kept.is_asked());
    assert_eq!(kept.scrub.newest().findings, []);
}

/// A node alone has nobody else to ask, should it stop in between.
#[test]
fn last_file_is_set_aside_only_when_there_is_another() {
    let mut kept = Kept::new();
    let last = kept.write(3);
    kept.rot(&last);
    kept.replacing.replace(&last);
    kept.replacing.look();
    assert_eq!(kept.indexes(), [LogIndex(3)]);
    assert!(kept.is_asked());
    kept.write(1);
    kept.replacing.look();
    assert_eq!(kept.indexes(), [LogIndex(4)]);
    let broken = kept.snapshots.directory().broken();
    assert_eq!(broken.len(), 1);
    assert_eq!(kept.scrub.newest().repaired, 1);
}

/// Nothing was executed since: the new file takes the name of the bad one.
#[test]
fn file_that_took_the_name_of_the_last_one_stays() {
    let mut kept = Kept::new();
    let last = kept.write(3);
    kept.rot(&last);
    kept.replacing.replace(&last);
    assert_eq!(kept.write(0).path, last.path);
    kept.replacing.look();
    kept.replacing.look();
    assert_eq!(kept.indexes(), [LogIndex(3)]);
    assert_eq!(kept.snapshots.directory().broken(), []);
    assert_eq!(kept.scrub.newest().repaired, 1);
    kept.snapshots.directory().verify(&last).unwrap();
}
