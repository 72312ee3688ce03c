//! The WAL thread and the readers of its log.

use super::Model;
use super::scene::{BEGUN, Node, SEGMENT_BYTES_MIN, entry};
use crate::node::driver::Log;
use crate::node::event::Event;
use crate::sync::thread::spawn;
use crate::types::{LogIndex, LogWrite, Mark, Sequence, Term};
use crate::wal::{WalError, WalReader};

pub const MODELS: &[Model] = &[
    Model {
        name: "log_write_said_durable_is_readable",
        preemptions: 2,
        scene: durable_is_readable,
    },
    Model {
        name: "log_write_that_fails_stops_the_core_with_the_reason",
        preemptions: 3,
        scene: failed_write,
    },
    Model {
        name: "log_read_while_purged_is_whole_or_gone",
        preemptions: 2,
        scene: read_while_purged,
    },
];

fn mark(sequence: u64) -> Mark {
    Mark {
        accepted_term: Term(2),
        sequence: Sequence(sequence),
    }
}

fn write(index: u64) -> LogWrite {
    LogWrite {
        entries: vec![entry(index)],
        ..LogWrite::default()
    }
}

/// What a reader gets is what was written, from `first` on without a gap.
fn check_read(reader: &WalReader, first: u64) -> LogIndex {
    match reader.entries(LogIndex(first), LogIndex(u64::MAX), usize::MAX) {
        Ok(entries) => {
            for (offset, read) in entries.iter().enumerate() {
                assert_eq!(read.index, LogIndex(first + offset as u64));
            }
            entries.last().map_or(LogIndex(0), |entry| entry.index)
        }
        Err(WalError::Gone { .. }) => LogIndex(0),
        Err(error) => panic!("{error}"),
    }
}

/// The raft thread submits two writes; each mark it hears of is readable, also
/// for a thread that was not told.
fn durable_is_readable() {
    let node = Node::leading();
    let mut parts = node.parts;
    let first = BEGUN.0 + 1;
    let reader = parts.raft.ports.log.clone();
    let other = spawn(move || {
        let before = check_read(&reader, 1);
        let after = check_read(&reader, 1);
        assert!(before <= after, "{before:?}, then {after:?}");
    });
    let wal = spawn(move || parts.wal.run());
    parts.raft.ports.submit(mark(100), write(first));
    parts.raft.ports.submit(mark(101), write(first + 1));
    let mut durable = 0;
    while durable < 101 {
        let Some(Event::Durable(mark)) = parts.raft.events.recv() else {
            panic!("nothing else happens");
        };
        assert!(durable < mark.sequence.0);
        durable = mark.sequence.0;
        let last = check_read(&parts.raft.ports.log, 1);
        assert!(first + (durable - 100) <= last.0);
    }
    drop(parts.raft);
    wal.join().expect("ended");
    other.join().expect("read");
}

/// The disk fails under the first write: no mark is said durable, the core is
/// stopped and knows why, and what it submits afterwards holds nobody up.
fn failed_write() {
    let node = Node::leading();
    node.break_disk();
    let mut parts = node.parts;
    let failure = node.foundation.failure;
    let wal = spawn(move || parts.wal.run());
    parts.raft.ports.submit(mark(100), write(BEGUN.0 + 1));
    parts.raft.ports.submit(mark(101), write(BEGUN.0 + 2));
    assert!(matches!(parts.raft.events.recv(), Some(Event::Stop)));
    assert!(failure.error().is_some());
    parts.raft.ports.submit(mark(102), write(BEGUN.0 + 3));
    wal.join().expect("ended");
    assert!(parts.raft.events.try_recv().is_err());
}

/// The log moves to a second segment and drops the first, under a reader.
fn read_while_purged() {
    let node = Node::with_segments(SEGMENT_BYTES_MIN);
    let parts = node.parts;
    let reader = parts.raft.ports.log.clone();
    let other = spawn(move || {
        check_read(&reader, 1);
        check_read(&reader, BEGUN.0 + 1);
    });
    let mut wal = parts.wal.wal;
    for index in BEGUN.0 + 1..BEGUN.0 + 4 {
        wal.append(&[write(index)]).expect("the disk is well");
    }
    wal.purge(LogIndex(BEGUN.0 + 2)).expect("the disk is well");
    assert_eq!(check_read(&parts.raft.ports.log, 1), LogIndex(0));
    let last = check_read(&parts.raft.ports.log, BEGUN.0 + 3);
    assert_eq!(last, LogIndex(BEGUN.0 + 3));
    other.join().expect("read");
}
