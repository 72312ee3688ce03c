//! The apply thread, and those who wait for an index.

use super::Model;
use super::scene::{BEGUN, Node, entry};
use crate::node::driver::{Machine, Requests};
use crate::node::event::Event;
use crate::physical::PhysicalError;
use crate::sync::oneshot;
use crate::sync::thread::spawn;
use crate::types::{LogIndex, SnapshotMeta, Term};

pub const MODELS: &[Model] = &[
    Model {
        name: "read_waits_for_its_index_and_no_longer",
        preemptions: 3,
        scene: read_waits,
    },
    Model {
        name: "read_of_an_index_never_applied_is_let_go",
        preemptions: 3,
        scene: read_let_go,
    },
    Model {
        name: "apply_that_fails_stops_the_core_with_the_reason",
        preemptions: 3,
        scene: failed_restore,
    },
    Model {
        name: "snapshotter_ends_with_the_apply_thread",
        preemptions: 2,
        scene: snapshotter_ends,
    },
];

/// Two reads, of the first and of the second of two indices, asked while the
/// apply thread is anywhere: before, between, after.
fn read_waits() {
    let node = Node::leading();
    let board = node.foundation.board;
    let parts = node.parts;
    let apply = spawn(move || parts.apply.run());
    let mut ports = parts.raft.ports;
    let answers = [1, 2].map(|offset| {
        let index = LogIndex(BEGUN.0 + offset);
        ports.apply(vec![entry(index.0)]);
        let (reply, answer) = oneshot::channel();
        let round = ports.pending.add_round(vec![reply]);
        ports.read_ready(round, index);
        (index, answer)
    });
    for (index, answer) in answers {
        let view = answer.blocking_recv().expect("answered").expect("a view");
        assert!(index <= view.applied_index());
        assert!(view.applied_index() <= board.newest().applied_index());
    }
    // However the raft thread ends: the apply thread follows.
    drop(ports);
    let store = apply.join().expect("ended");
    assert_eq!(store.applied_index(), board.applied());
}

fn read_let_go() {
    let node = Node::leading();
    let parts = node.parts;
    let apply = spawn(move || parts.apply.run());
    let mut ports = parts.raft.ports;
    let (reply, answer) = oneshot::channel();
    let round = ports.pending.add_round(vec![reply]);
    let reader = spawn(move || answer.blocking_recv());
    ports.read_ready(round, LogIndex(BEGUN.0 + 1));
    drop(ports);
    assert!(reader.join().expect("let go").is_err());
    apply.join().expect("ended");
}

/// A snapshot that is not there: nothing is applied any more, the core is
/// stopped and knows why, readers are let go.
fn failed_restore() {
    let node = Node::leading();
    let failure = node.foundation.failure;
    let parts = node.parts;
    let apply = spawn(move || parts.apply.run());
    let mut ports = parts.raft.ports;
    ports.restore_snapshot(SnapshotMeta {
        index: LogIndex(9),
        term: Term(2),
        ..SnapshotMeta::default()
    });
    let (reply, answer) = oneshot::channel();
    let round = ports.pending.add_round(vec![reply]);
    ports.read_ready(round, LogIndex(9));
    assert!(answer.blocking_recv().is_err());
    assert!(matches!(parts.raft.events.recv(), Some(Event::Stop)));
    let error = failure.error();
    assert!(matches!(error, Some(PhysicalError::Failed { .. })));
    apply.join().expect("ended");
}

/// A snapshot is due while the core ends: the apply thread, which hands out the
/// view, and the snapshotter, which answers it, both end.
fn snapshotter_ends() {
    let node = Node::leading();
    let snapshots = node.foundation.snapshots;
    let mut parts = node.parts;
    parts.apply.thresholds.entries = 1;
    let apply = spawn(move || parts.apply.run());
    let snapshotter = spawn(move || parts.snapshotter.run());
    let mut ports = parts.raft.ports;
    ports.apply(vec![entry(BEGUN.0 + 1)]);
    drop(ports);
    let store = apply.join().expect("ended");
    snapshotter.join().expect("ended");
    for info in snapshots.newest_first() {
        assert!(info.meta.index <= store.applied_index());
    }
}
