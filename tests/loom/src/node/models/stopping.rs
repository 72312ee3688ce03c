//! Whole nodes that end: by being sealed, by a disk that fails, by a panic.
//! Everybody who asked for something is told something, and told the truth.

use super::Model;
use super::scene::{BEGUN, Node, put};
use crate::node::clock::Clock;
use crate::node::event::Event;
use crate::node::threads::Parts;
use crate::physical::PhysicalError;
use crate::store::Store;
use crate::sync::oneshot::{Receiver, RecvError};
use crate::sync::thread::{JoinHandle, spawn};
use crate::types::Outcome;
use crate::wal::WalReader;

pub const MODELS: &[Model] = &[
    Model {
        name: "core_that_stops_answers_all_who_ask_meanwhile",
        preemptions: 2,
        scene: core_stops,
    },
    Model {
        name: "core_that_is_stopped_by_its_disk_answers_all",
        preemptions: 2,
        scene: core_fails,
    },
    Model {
        name: "node_sealed_while_it_writes_tells_what_it_did",
        preemptions: 2,
        scene: node_sealed,
    },
    Model {
        name: "node_whose_disk_fails_ends_and_answers",
        preemptions: 2,
        scene: node_fails,
    },
];

/// Callers and the word to stop race for the raft thread; no other thread runs.
fn core_stops() {
    let node = Node::leading();
    let (raft, clock) = (node.parts.raft, node.clock);
    let events = node.foundation.events;
    let raft = spawn(move || raft.run(clock));
    let other = events.clone();
    let writer = spawn(move || match other.propose(&put("a")) {
        // Without a WAL thread nothing is ever committed.
        Ok(answer) => match answer.blocking_recv() {
            Ok(Err(PhysicalError::NotRunning | PhysicalError::OutcomeUnknown { .. })) => {}
            other => panic!("{other:?}"),
        },
        Err(error) => assert!(matches!(error, PhysicalError::NotRunning)),
    });
    let read = events.read();
    events.send(Event::Stop);
    let answer = read.expect("it runs").blocking_recv();
    assert!(matches!(answer, Ok(Ok(_) | Err(PhysicalError::NotRunning))));
    assert!(matches!(
        events.read(),
        Ok(_) | Err(PhysicalError::NotRunning)
    ));
    raft.join().expect("ended");
    assert!(matches!(events.read(), Err(PhysicalError::NotRunning)));
    writer.join().expect("answered");
    assert!(!node.foundation.leadership.borrow().is_leader);
}

/// A write meets a disk that fails. It may be on it all the same.
fn core_fails() {
    let node = Node::leading();
    node.break_disk();
    let (raft, wal, clock) = (node.parts.raft, node.parts.wal, node.clock);
    let events = node.foundation.events;
    let raft = spawn(move || raft.run(clock));
    let wal = spawn(move || wal.run());
    let write = events.propose(&put("a")).expect("it runs");
    let read = events.read();
    let answer = write.blocking_recv();
    let is_unknown = matches!(
        answer,
        Ok(Err(
            PhysicalError::OutcomeUnknown { .. } | PhysicalError::Failed { .. }
        ))
    );
    assert!(is_unknown, "{answer:?}");
    if let Ok(read) = read {
        let answer = read.blocking_recv();
        assert!(matches!(
            answer,
            Ok(Ok(_) | Err(PhysicalError::Failed { .. }))
        ));
    }
    raft.join().expect("ended");
    wal.join().expect("ended");
    assert!(node.foundation.failure.error().is_some());
}

/// The threads of a node but the snapshotter, which has a model of its own:
/// loom has no room for five besides its first.
struct Running {
    raft: JoinHandle<()>,
    wal: JoinHandle<()>,
    apply: JoinHandle<Store>,
}

impl Running {
    fn start(parts: Parts, clock: Clock) -> Self {
        let Parts {
            raft, wal, apply, ..
        } = parts;
        Self {
            wal: spawn(move || wal.run()),
            apply: spawn(move || apply.run()),
            raft: spawn(move || raft.run(clock)),
        }
    }

    /// In the order in which the node waits for them.
    fn join(self) -> Store {
        self.raft.join().expect("ended");
        self.wal.join().expect("ended");
        self.apply.join().expect("ended")
    }
}

/// A write and a read are on their way when the node is sealed.
fn node_sealed() {
    let node = Node::leading();
    let events = node.foundation.events.clone();
    let log = node.parts.raft.ports.log.clone();
    let threads = Running::start(node.parts, node.clock);
    let write = events.propose(&put("a")).expect("it runs");
    let read = events.read().expect("it runs");
    events.send(Event::Stop);
    let store = threads.join();
    check_write(write, &store, &log);
    match read.blocking_recv() {
        Ok(Ok(view)) => assert!(BEGUN <= view.applied_index()),
        Ok(Err(PhysicalError::NotRunning)) | Err(RecvError) => {}
        other => panic!("{:?}", other.map(drop)),
    }
}

/// The same, ended by the disk instead.
fn node_fails() {
    let node = Node::leading();
    node.break_disk();
    let events = node.foundation.events.clone();
    let log = node.parts.raft.ports.log.clone();
    let threads = Running::start(node.parts, node.clock);
    let write = events.propose(&put("a")).expect("it runs");
    // Nobody says stop: the failure alone ends every thread.
    let store = threads.join();
    assert!(node.foundation.failure.error().is_some());
    check_write(write, &store, &log);
}

/// What is in the log is applied after a restart, if not before.
fn check_write(
    answer: Receiver<Result<Outcome, PhysicalError>>,
    store: &Store,
    log: &WalReader,
) {
    let is_there = store.view().value("a").is_some();
    let is_logged = log.entries(BEGUN.next(), BEGUN.next(), usize::MAX).is_ok();
    match answer.blocking_recv() {
        Ok(Ok(Outcome::Applied)) => assert!(is_there),
        Ok(Err(PhysicalError::NotRunning | PhysicalError::Failed { .. })) => {
            assert!(!is_there && !is_logged);
        }
        Ok(Err(PhysicalError::OutcomeUnknown { .. })) | Err(RecvError) => {}
        other => panic!("{other:?}"),
    }
}
