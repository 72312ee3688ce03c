//! Logs and snapshots as a crash may leave them beside each other.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::codec::encode_command;
use crate::disk::MemoryDisk;
use crate::node::repair_thread::{examine, is_damage};
use crate::snapshot::SnapshotDirectory;
use crate::types::{Command, EntryPayload, Membership, Operation, Transaction};
use crate::wal::Identity;

struct Directory {
    memory: MemoryDisk,
    disk: Arc<dyn Disk>,
    wal: PathBuf,
    identity: DirectoryIdentity,
    snapshots: Snapshots,
    options: WalOptions,
}

const CLUSTER: ClusterId = ClusterId([7; 16]);

impl Directory {
    fn new() -> Self {
        let memory = MemoryDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(memory.clone());
        let base = Path::new("/data");
        disk.create_dir_all(base).unwrap();
        let identity = DirectoryIdentity::open_or_create(disk.as_ref(), base, "n1").unwrap();
        let folder = SnapshotDirectory::open(Arc::clone(&disk), &base.join("snapshots")).unwrap();
        let options = WalOptions {
            segment_bytes: 64 << 10,
            prepare_in_background: false,
            ..WalOptions::default()
        };
        Self {
            memory,
            disk,
            wal: base.join("wal"),
            identity,
            snapshots: Snapshots::new(folder),
            options,
        }
    }

    /// A log with these entries, `commit` of them known to be committed.
    fn write_log(&self, entries: &[Entry], commit: u64) -> Wal {
        let identity = Identity {
            cluster: CLUSTER,
            node: self.identity.id,
            incarnation: self.identity.incarnation,
        };
        let mut wal =
            Wal::create(Arc::clone(&self.disk), &self.wal, identity, self.options).unwrap();
        wal.append(&[LogWrite {
            hard_state: Some(HardState {
                term: Term(2),
                vote: None,
                commit_index: LogIndex(commit),
            }),
            entries: entries.to_vec(),
            ..LogWrite::default()
        }])
        .unwrap();
        wal
    }

    /// A snapshot of the state after these entries.
    fn write_snapshot(&self, entries: &[Entry]) {
        let mut store = Store::new();
        for entry in entries {
            store.apply(entry);
        }
        let never = AtomicBool::new(false);
        self.snapshots.write(store.view(), &never).unwrap();
    }

    fn recover(&self) -> Result<(Store, Recovery), NodeError> {
        let mut store = Store::new();
        let recovery = recover(
            &self.disk,
            &self.wal,
            &self.identity,
            &self.options,
            &self.snapshots,
            &mut store,
        )?;
        Ok((store, recovery.expect("there is a log")))
    }
}

/// The first is the membership, the others put their own number.
fn entries(count: u64, term: u64) -> Vec<Entry> {
    let entry = |index| {
        let payload = if index == 1 {
            EntryPayload::Membership(Arc::new(Membership::default()))
        } else {
            EntryPayload::Command(encode_command(&Command::Transaction(Transaction {
                preconditions: Vec::new(),
                operations: vec![Operation::Put {
                    key: format!("k/{index}"),
                    value: vec![1],
                }],
            })))
        };
        Entry {
            index: LogIndex(index),
            term: Term(term),
            payload,
        }
    };
    (1..=count).map(entry).collect()
}

#[test]
fn committed_entries_are_applied_and_the_rest_is_not() {
    let directory = Directory::new();
    drop(directory.write_log(&entries(9, 2), 6));
    let (store, recovery) = directory.recover().unwrap();
    assert_eq!(store.applied_index(), LogIndex(6));
    assert_eq!(recovery.recovered.entries.len(), 9);
    assert_eq!(recovery.recovered.applied_index, LogIndex(6));
}

#[test]
fn own_snapshot_is_loaded_and_the_log_after_it_applied() {
    let directory = Directory::new();
    drop(directory.write_log(&entries(9, 2), 8));
    directory.write_snapshot(&entries(5, 2));
    let (store, recovery) = directory.recover().unwrap();
    assert_eq!(store.applied_index(), LogIndex(8));
    assert_eq!(recovery.recovered.snapshot.unwrap().index, LogIndex(5));
    assert_eq!(recovery.recovered.entries.len(), 9);
}

#[test]
fn snapshot_with_a_bad_sector_gives_way_to_the_one_before() {
    for block in [0, 1] {
        let directory = Directory::new();
        drop(directory.write_log(&entries(9, 2), 8));
        directory.write_snapshot(&entries(5, 2));
        directory.write_snapshot(&entries(7, 2));
        let newest = directory.snapshots.newest_first().remove(0);
        let made = directory.memory.make_unreadable(&newest.path, block);
        made.unwrap();
        let (store, recovery) = directory.recover().unwrap();
        assert_eq!(store.applied_index(), LogIndex(8));
        assert_eq!(recovery.recovered.snapshot.unwrap().index, LogIndex(5));
        assert_eq!(directory.snapshots.directory().broken().len(), 1);
    }
}

/// A running node covered a rotten segment with a new snapshot, and starts
/// again: the snapshot before cannot be read, and is not needed.
#[test]
fn older_snapshot_with_a_bad_sector_does_not_stop_a_repair() {
    let directory = Directory::new();
    let all = entries(11, 2);
    let mut wal = directory.write_log(&all[..9], 9);
    for entry in &all[9..] {
        wal.append(&[LogWrite {
            entries: vec![entry.clone()],
            ..LogWrite::default()
        }])
        .unwrap();
    }
    wal.mark_idle().unwrap();
    drop(wal);
    directory.write_snapshot(&all[..5]);
    directory.write_snapshot(&all);
    let segment = directory.wal.join("0000000000000001.wal");
    let rotten = [0xee; 100];
    directory.memory.overwrite(&segment, 4096, &rotten).unwrap();
    let error = directory.recover().err().unwrap();
    assert!(is_damage(&error), "{error}");
    let older = directory.snapshots.newest_first().remove(1);
    directory.memory.make_unreadable(&older.path, 1).unwrap();
    let mut store = Store::new();
    let patient = examine(
        &directory.disk,
        &directory.wal,
        &directory.identity,
        &directory.options,
        &directory.snapshots,
        &mut store,
    )
    .unwrap();
    assert!(patient.repair.is_whole());
    assert_eq!(patient.repair.snapshot().0, LogIndex(11));
    assert_eq!(store.applied_index(), LogIndex(11));
    assert_eq!(directory.snapshots.newest_first().len(), 1);
}

/// A snapshot came from the leader and was published; power failed before the
/// log's record of it. The log ends before it, or holds another history.
#[test]
fn published_snapshot_without_its_record_is_resumed() {
    for (log, commit) in [(entries(3, 1), 2), (entries(40, 1), 0)] {
        let directory = Directory::new();
        drop(directory.write_log(&log, commit));
        directory.write_snapshot(&entries(20, 2));
        let (store, recovery) = directory.recover().unwrap();
        assert_eq!(store.applied_index(), LogIndex(20));
        assert!(recovery.recovered.entries.is_empty());
        let state = recovery.recovered.hard_state;
        assert_eq!((state.term, state.commit_index), (Term(2), LogIndex(20)));
        drop(recovery);
        // The record is durable now: the next start finds it.
        let (store, recovery) = directory.recover().unwrap();
        assert_eq!(store.applied_index(), LogIndex(20));
        assert_eq!(recovery.recovered.snapshot.unwrap().index, LogIndex(20));
    }
}

#[test]
fn log_that_begins_after_a_missing_snapshot_is_refused() {
    let directory = Directory::new();
    let mut wal = directory.write_log(&entries(3, 1), 2);
    let meta = SnapshotMeta {
        index: LogIndex(20),
        term: Term(2),
        ..SnapshotMeta::default()
    };
    wal.append(&[LogWrite {
        reset_to: Some(meta),
        ..LogWrite::default()
    }])
    .unwrap();
    drop(wal);
    let error = directory.recover().err().unwrap();
    assert!(matches!(error, NodeError::Gap { first, .. } if first == LogIndex(21)));
}

#[test]
fn log_of_another_directory_is_refused() {
    let mut directory = Directory::new();
    drop(directory.write_log(&entries(3, 1), 2));
    directory.identity.incarnation = crate::types::Incarnation(1);
    let error = directory.recover().err().unwrap();
    assert!(matches!(error, NodeError::ForeignLog { .. }), "{error}");
}
