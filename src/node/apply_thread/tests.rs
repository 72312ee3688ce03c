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

/// A thread that takes a snapshot after 10 entries, and where its pictures go.
fn thread() -> (ApplyThread, Receiver<View>) {
    let disk = Arc::new(MemoryDisk::new());
    let folder = SnapshotDirectory::open(disk, Path::new("/snapshots")).unwrap();
    let (_commands, receiver) = channel();
    let (snapshotter, views) = channel();
    let (events, _events) = EventSender::new();
    let store = Store::new();
    let thread = ApplyThread {
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
    (thread, views)
}

// A burst makes the next snapshot due while one is still being written, and
// then nothing more comes: what is due must not be forgotten (S13).
#[test]
fn snapshot_due_during_another_follows_it() {
    let (mut thread, views) = thread();
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

// The newest file was damaged and set aside: another must not wait for entries
// that may never come.
#[test]
fn snapshot_asked_for_is_taken_though_nothing_changed() {
    let (mut thread, views) = thread();
    thread.turn(entries(1..=10), 1).unwrap();
    views.try_recv().unwrap();
    thread.turn(ApplyCommand::SnapshotEnded, 1).unwrap();
    thread.turn(ApplyCommand::TakeSnapshot, 1).unwrap();
    assert_eq!(views.try_recv().unwrap().applied_index(), LogIndex(10));
}
