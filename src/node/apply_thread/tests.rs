//! One turn at a time, without threads.

use std::path::Path;

use super::*;
use crate::disk::MemoryDisk;
use crate::snapshot::SnapshotDirectory;
use crate::sync::queue::{Nothing, channel};
use crate::types::{EntryPayload, Term};

fn entries(indexes: std::ops::RangeInclusive<u64>) -> ApplyCommand {
    let entry = |index| Entry {
        index: LogIndex(index),
        term: Term(1),
        payload: EntryPayload::Noop,
    };
    ApplyCommand::Apply {
        entries: indexes.map(entry).collect(),
        waiters: Vec::new(),
    }
}

// A burst makes the next snapshot due while one is still being written, and
// then nothing more comes: what is due must not be forgotten (S13).
#[test]
fn snapshot_due_during_another_follows_it() {
    let disk = Arc::new(MemoryDisk::new());
    let folder = SnapshotDirectory::open(disk, Path::new("/snapshots")).unwrap();
    let (_commands, receiver) = channel();
    let (snapshotter, views) = channel();
    let (events, _events) = EventSender::new();
    let store = Store::new();
    let mut thread = ApplyThread {
        board: Arc::new(Board::new(store.view())),
        store,
        commands: receiver,
        snapshotter,
        snapshots: Arc::new(Snapshots::new(folder)),
        thresholds: SnapshotThresholds {
            entries: 10,
            bytes: 1 << 20,
        },
        failure: Arc::new(Failure::new(
            Arc::new(|reason| panic!("{reason}")),
            Arc::new(|reason| panic!("{reason}")),
        )),
        events,
        checkpoint_interval: 1000,
        state: ApplyState::default(),
    };
    thread.turn(entries(1..=10), 1).unwrap();
    assert_eq!(views.try_recv().unwrap().applied_index(), LogIndex(10));
    thread.turn(entries(11..=25), 1).unwrap();
    assert!(
        matches!(views.try_recv(), Err(Nothing::Yet)),
        "one at a time"
    );
    thread.turn(ApplyCommand::SnapshotEnded, 1).unwrap();
    assert_eq!(views.try_recv().unwrap().applied_index(), LogIndex(25));
}
