//! What the scenes are made of: a node of one that leads already, so that no
//! model spends its interleavings on an election.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use crate::disk::MemoryDisk;
use crate::membership::autopilot::AutopilotConfig;
use crate::node::belonging::OwnDirectory;
use crate::node::board::Board;
use crate::node::clock::Clock;
use crate::node::event::EventSender;
use crate::node::failure::Failure;
use crate::node::options::{SnapshotThresholds, Timings};
use crate::node::peers::Peers;
use crate::node::recovery::Recovery;
use crate::node::snapshots::Snapshots;
use crate::node::standing::StatusBoard;
use crate::node::threads::{Foundation, Parts, config};
use crate::physical::Leadership;
use crate::raft::message::Message;
use crate::raft::{self, ReadMode, Recovered};
use crate::snapshot::SnapshotDirectory;
use crate::store::{Store, View};
use crate::sync::queue::Receiver;
use crate::types::{
    ClusterId, Command, Entry, EntryPayload, Incarnation, LogIndex, Member, Membership, Millis,
    NodeId, Operation, RepairMessage, Term, Transaction,
};
use crate::wal::{Identity, Wal, WalOptions};

const NODE: NodeId = NodeId(1);

/// The position that the node has applied when a scene begins: its membership
/// and the first entry of its leadership.
pub const BEGUN: LogIndex = LogIndex(2);

/// A node before its threads run.
pub struct Node {
    pub disk: MemoryDisk,
    pub foundation: Foundation,
    pub parts: Parts,
    pub clock: Clock,
}

/// Nobody.
struct Nobody;

impl Peers for Nobody {
    fn send(&self, _to: NodeId, _message: Message) {}
    fn send_repair(&self, _to: NodeId, _message: RepairMessage) {}
    fn stream_snapshot(&self, _to: NodeId, _least: LogIndex) {}
    fn set_members(&self, _index: LogIndex, _membership: &Membership) {}
    fn set_committed(&self, _index: LogIndex, _membership: &Arc<Membership>) {}
    fn api_address(&self, _id: NodeId) -> Option<String> {
        None
    }
    fn cluster_address(&self, _id: NodeId, _life: Incarnation) -> Option<String> {
        None
    }
}

impl Node {
    /// A node of one that leads, has applied [`BEGUN`] and has nothing to do.
    pub fn leading() -> Self {
        Self::with_segments(SEGMENT_BYTES)
    }

    /// The same with log segments of this size.
    pub fn with_segments(segment_bytes: u64) -> Self {
        let disk = MemoryDisk::new();
        let (events, queue) = EventSender::new();
        let foundation = foundation(events);
        let recovery = founded(&disk, segment_bytes);
        let elected = Clock(Millis(10_000));
        let parts = Parts::new(&foundation, queue, Store::new(), recovery, Millis(0));
        let mut node = Self {
            disk,
            foundation,
            parts: parts.expect("a founded log fits together"),
            clock: elected,
        };
        node.parts.raft.begin(Millis(0));
        node.parts.raft.turn(None, || elected.now());
        node.settle();
        assert!(node.foundation.leadership.borrow().is_leader);
        assert!(node.foundation.board.applied() == BEGUN);
        node
    }

    /// Runs every part by turns, on this thread, until none has work.
    pub fn settle(&mut self) {
        let parts = &mut self.parts;
        loop {
            let mut worked = false;
            while let Ok(command) = parts.wal.commands.try_recv() {
                let group = parts.wal.gather(command);
                parts.wal.carry_out(group).expect("the disk is well");
                worked = true;
            }
            while let Ok(command) = parts.apply.commands.try_recv() {
                parts.apply.turn(command, 1).expect("nothing is restored");
                worked = true;
            }
            while let Ok(event) = parts.raft.events.try_recv() {
                let now = self.clock.now();
                parts.raft.turn(Some(event), || now);
                worked = true;
            }
            if !worked {
                return;
            }
        }
    }

    /// The disk fails with the next call that changes something.
    pub fn break_disk(&self) {
        self.disk.fail_at(self.disk.calls());
    }
}

fn foundation(events: EventSender) -> Foundation {
    Foundation {
        config: config(
            (NODE, Incarnation(1)),
            Timings::alone(),
            1,
            ReadMode::Quorum,
        ),
        thresholds: SnapshotThresholds {
            entries: u64::MAX,
            bytes: u64::MAX,
        },
        autopilot: AutopilotConfig::default(),
        board: Arc::new(Board::new(Store::new().view())),
        snapshots: Arc::new(Snapshots::new(SnapshotDirectory::default())),
        failure: Arc::new(Failure::new(Arc::new(|_| {}), Arc::new(|_| {}))),
        status: Arc::new(StatusBoard::new()),
        leadership: Arc::new(watch::Sender::new(Leadership::default())),
        peers: Arc::new(Nobody),
        events,
        checkpoint_interval: u64::MAX,
        directory: OwnDirectory {
            incarnation: Incarnation(1),
            durable: Arc::default(),
            remember_removal: Arc::new(|_| Ok(())),
        },
    }
}

/// A log with a membership of one.
fn founded(disk: &MemoryDisk, segment_bytes: u64) -> Recovery {
    let identity = Identity {
        cluster: ClusterId::default(),
        node: NODE,
        incarnation: Incarnation(1),
    };
    let options = WalOptions {
        segment_bytes,
        prepare_in_background: false,
        salt_seed: 1,
        ..WalOptions::default()
    };
    let member = Member {
        name: "a".into(),
        address: String::new(),
        incarnation: Incarnation(1),
        non_voter: false,
    };
    let write = raft::bootstrap(Membership {
        voters: [NODE].into(),
        members: [(NODE, member)].into(),
        ..Membership::default()
    });
    let wal = Wal::create(Arc::new(disk.clone()), Path::new("/wal"), identity, options);
    let mut wal = wal.expect("the disk is empty");
    wal.append(std::slice::from_ref(&write))
        .expect("the disk is well");
    Recovery {
        wal,
        cluster: ClusterId::default(),
        recovered: Recovered {
            hard_state: write.hard_state.unwrap_or_default(),
            snapshot: None,
            entries: write.entries,
            applied_index: LogIndex(0),
        },
        forced: None,
    }
}

/// Stores something under a key.
pub fn put(key: &str) -> Command {
    Command::Transaction(Transaction {
        operations: vec![Operation::Put {
            key: key.into(),
            value: vec![1],
        }],
        ..Transaction::default()
    })
}

/// An entry of the node's leadership.
pub fn entry(index: u64) -> Entry {
    Entry {
        index: LogIndex(index),
        term: Term(2),
        payload: EntryPayload::Noop,
    }
}

/// What a store shows that has applied so many entries.
pub fn view(applied: u64) -> View {
    let mut store = Store::new();
    for index in 1..=applied {
        store.apply(&entry(index));
    }
    store.view()
}

/// Smallest that a log may have.
pub const SEGMENT_BYTES_MIN: u64 = 16 << 10;
const SEGMENT_BYTES: u64 = 64 << 10;
