//! One simulated server: a disk, a clock, and a process that comes and goes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::disk::AppendMode;
use crate::disk::{Disk, MemoryDisk};
use crate::membership::GoDuration;
use crate::membership::autopilot::AutopilotConfig;
use crate::node::manual::{ManualNode, ManualOptions, ManualRepair};
use crate::node::{SnapshotThresholds, node_number};
use crate::peer::hello::{Roll, judge};
use crate::peer::{
    DurableEnd, Goodbye, Hello, MembershipProof, Run, SnapshotOffer, SnapshotSink, SnapshotSource,
};
use crate::raft::{Config, ReadMode};
use crate::types::{
    ClusterId, Incarnation, LogIndex, Member, Membership, Millis, NodeId, SnapshotMeta,
};
use crate::wal::WalOptions;

use super::agenda::Moment;
use super::clients::Ask;
use super::clock::Clock;
use super::history::Life;
use super::options::NodeSettings;
use super::world::Event;

/// All servers are of this cluster.
pub(super) const CLUSTER: ClusterId = ClusterId([0x5C; 16]);

/// How a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// Its process runs (or stands still).
    Up,
    /// Its process runs, has no core, and repairs its log.
    Repairing,
    /// Its process ended; another start is planned.
    Down,
    /// Its process ended and does not start until all is healed.
    Held,
    /// Its directory is gone or refused: down until an operator acts.
    Lost,
}

/// What a process is writing when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ambush {
    /// The log.
    Write,
    /// A snapshot.
    Snapshot,
}

/// One server.
pub(super) struct Server {
    pub name: String,
    pub id: NodeId,
    pub incarnation: Incarnation,
    pub disk: MemoryDisk,
    pub clock: Clock,
    pub presence: Presence,
    pub node: Option<ManualNode>,
    /// Instead of a node.
    pub repair: Option<ManualRepair>,
    /// Counts processes, so that events meant for a former one are known.
    pub run: u64,
    /// When the raft thread gets its next turn.
    pub wake_at: Option<Moment>,
    pub apply_is_due: bool,
    /// Counts durable writes, so that idleness is noticed.
    pub writes: u64,
    /// The process ends in the middle of what it writes next.
    pub ambush: Option<Ambush>,
    pub paused_until: Moment,
    /// What it does first when it goes on after a pause.
    pub deferred: Vec<Event>,
    pub stalled_until: Moment,
    /// Something on its disk was made to decay.
    pub is_rotten: bool,
    /// The disk has failed a call on purpose, or has no room.
    pub is_faulty: bool,
    /// Nothing on the disk could be mistaken for a torn write when it decays.
    pub is_marked: bool,
    /// Its process runs on a copy of another's directory, or on an older state
    /// of its own: what it does proves nothing about the code.
    pub is_impostor: bool,
    /// Processes that greeted the present one: their seats and runs.
    pub met: BTreeSet<(usize, u64)>,
    /// Processes that it does not speak with, because one of both refused the
    /// other: no connection brings what those say.
    pub shunned: BTreeSet<(usize, u64)>,
    pub book: Book,
    /// As its process last knew it.
    pub membership: Arc<Membership>,
    pub asks: Vec<Ask>,
    /// What a story told last of its state.
    pub told: String,
}

/// Who a process speaks with, and what it says of itself.
pub(super) struct Book {
    pub hello: Arc<Hello>,
    /// Members, and those that left a moment ago.
    pub members: BTreeMap<NodeId, Member>,
    pub departed: BTreeSet<NodeId>,
    /// The newest membership known to be committed.
    pub committed: Option<MembershipProof>,
    /// Known from the join answer.
    pub learned: BTreeSet<NodeId>,
}

impl Server {
    pub fn new(seat: usize, incarnation: Incarnation, clock: Clock) -> Self {
        let name = format!("n{}", seat + 1);
        let id = node_number(&name);
        Self {
            book: Book::new(&name, id, incarnation),
            name,
            id,
            incarnation,
            disk: MemoryDisk::new(),
            clock,
            presence: Presence::Down,
            node: None,
            repair: None,
            run: 0,
            wake_at: None,
            apply_is_due: false,
            writes: 0,
            ambush: None,
            paused_until: Moment(0),
            deferred: Vec::new(),
            stalled_until: Moment(0),
            is_rotten: false,
            is_faulty: false,
            is_marked: true,
            is_impostor: false,
            met: BTreeSet::new(),
            shunned: BTreeSet::new(),
            membership: Arc::default(),
            asks: Vec::new(),
            told: String::new(),
        }
    }

    /// What history calls it.
    pub fn life(&self) -> Life {
        Life {
            node: self.id,
            incarnation: self.incarnation,
        }
    }

    /// Its record in a membership.
    pub fn member(&self) -> Member {
        Member {
            name: self.name.clone(),
            address: format!("{}:8201", self.name),
            incarnation: self.incarnation,
            non_voter: false,
        }
    }

    /// What it is opened with; `salt` differs from start to start.
    pub fn options(&self, settings: &NodeSettings, salt: u64) -> ManualOptions {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        ManualOptions {
            disk,
            directory: PathBuf::from("/data"),
            name: self.name.clone(),
            config: config(self.life(), settings, salt),
            thresholds: SnapshotThresholds {
                entries: settings.snapshot_entries,
                bytes: 1 << 20,
            },
            checkpoint_interval: settings.checkpoint_interval,
            autopilot: AutopilotConfig {
                server_stabilization_time: GoDuration::from_milliseconds(
                    settings.stabilization_milliseconds,
                ),
                last_contact_threshold: GoDuration::from_seconds(2),
                max_trailing_logs: 20,
                ..AutopilotConfig::default()
            },
            wal: WalOptions {
                segment_bytes: settings.segment_bytes,
                batch_bytes_max: 4096,
                prepare_in_background: false,
                salt_seed: salt,
                append: if settings.maps_log {
                    AppendMode::Mapped
                } else {
                    AppendMode::Direct
                },
            },
            run_id: salt,
        }
    }

    /// What its process says of itself now.
    pub fn hello(&self) -> Hello {
        let node = self.node.as_ref();
        Hello {
            run: node.map(ManualNode::run).unwrap_or_default(),
            durable: node.map(ManualNode::durable_end).unwrap_or_default(),
            ..Hello::clone(&self.book.hello)
        }
    }

    /// Whether it has a process.
    pub fn is_running(&self) -> bool {
        self.node.is_some() || self.repair.is_some()
    }

    /// The newest snapshot of its process, for a peer that needs at least this
    /// much.
    pub fn newest_snapshot(&self, least: LogIndex) -> Option<Arc<dyn SnapshotSource>> {
        match (&self.node, &self.repair) {
            (Some(node), _) => node.newest_snapshot(least),
            (None, repair) => repair.as_ref()?.newest_snapshot(least),
        }
    }

    /// There is no snapshot that a peer could begin with.
    pub fn want_snapshot(&self) {
        if let Some(node) = &self.node {
            node.want_snapshot();
        }
    }

    /// A peer had all of a snapshot and did not take it; whether its process
    /// finds the file damaged and sets it aside.
    pub fn doubts_snapshot(&self, meta: &SnapshotMeta) -> bool {
        match (&self.node, &self.repair) {
            (Some(node), _) => node.doubt_snapshot(meta),
            (None, Some(repair)) => repair.doubt_snapshot(meta),
            (None, None) => false,
        }
    }

    /// A peer offers its process a snapshot.
    ///
    /// # Errors
    /// It is of no use here, or there is no process.
    pub fn accept_snapshot(
        &self,
        from: NodeId,
        offer: &SnapshotOffer,
    ) -> Result<Box<dyn SnapshotSink>, String> {
        match (&self.node, &self.repair) {
            (Some(node), _) => node.accept_snapshot(from, offer),
            (None, Some(repair)) => repair.accept_snapshot(from, offer),
            (None, None) => Err("the receiver is gone".to_owned()),
        }
    }

    /// Whether its process can do something now.
    pub fn is_awake(&self, now: Moment) -> bool {
        self.node.is_some() && self.paused_until <= now
    }
}

impl Book {
    pub fn new(name: &str, id: NodeId, incarnation: Incarnation) -> Self {
        Self {
            hello: Arc::new(Hello {
                cluster: CLUSTER,
                node: id,
                name: name.to_owned(),
                incarnation,
                run: Run::default(),
                durable: DurableEnd::default(),
                api_address: String::new(),
                cluster_address: String::new(),
                version: String::new(),
                membership_index: LogIndex(0),
            }),
            members: BTreeMap::new(),
            departed: BTreeSet::new(),
            committed: None,
            learned: BTreeSet::new(),
        }
    }

    /// Takes a new membership; whether anybody left.
    pub fn change(&mut self, index: LogIndex, members: BTreeMap<NodeId, Member>) -> bool {
        let before = std::mem::replace(&mut self.members, members);
        for (id, member) in before {
            if let std::collections::btree_map::Entry::Vacant(free) = self.members.entry(id) {
                free.insert(member);
                self.departed.insert(id);
            } else {
                self.departed.remove(&id);
            }
        }
        let mut hello = Hello::clone(&self.hello);
        hello.membership_index = index;
        self.hello = Arc::new(hello);
        !self.departed.is_empty()
    }

    /// Those that left are spoken with no longer; who they are.
    pub fn forget_departed(&mut self) -> BTreeSet<NodeId> {
        let departed = std::mem::take(&mut self.departed);
        for id in &departed {
            self.members.remove(id);
        }
        departed
    }

    /// Whether it calls that node at all.
    pub fn can_call(&self, id: NodeId) -> bool {
        self.members.contains_key(&id) || self.learned.contains(&id)
    }

    /// Whether it speaks with whoever greets so.
    ///
    /// # Errors
    /// What it says instead.
    pub fn judge(&self, hello: &Hello) -> Result<(), Goodbye> {
        let roll = Roll {
            members: &self.members,
            committed: self.committed.as_ref(),
        };
        judge(&self.hello, roll, hello)
    }
}

fn config(life: Life, settings: &NodeSettings, seed: u64) -> Config {
    Config {
        id: life.node,
        incarnation: life.incarnation,
        election_timeout_min: ELECTION_MIN,
        election_timeout_max: ELECTION_MAX,
        heartbeat_interval: HEARTBEAT,
        inflight_messages_max: settings.inflight_messages_max,
        inflight_bytes_max: settings.inflight_bytes_max,
        message_bytes_max: settings.message_bytes_max,
        uncommitted_bytes_max: settings.uncommitted_bytes_max,
        cache_bytes_max: settings.cache_bytes_max,
        trailing_entries: settings.trailing_entries,
        read_mode: match settings.lease_drift {
            0 => ReadMode::Quorum,
            drift_permille => ReadMode::Lease { drift_permille },
        },
        disk_stall_timeout: Millis(settings.stall_milliseconds),
        seed,
    }
}

// As in production.
const HEARTBEAT: Millis = Millis(100);
const ELECTION_MIN: Millis = Millis(500);
/// The longest election timeout.
pub(super) const ELECTION_MAX: Millis = Millis(1000);
