//! Starting the threads of a running node, and ending them in order.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use tokio::sync::watch;

use crate::membership::autopilot::{AutopilotConfig, Stability};
use crate::peer::DurableEnd;
use crate::physical::Leadership;
use crate::raft::{Config, Raft, ReadMode, RecoverError, Recovered};
use crate::store::Store;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::queue::{self, Receiver};
use crate::sync::thread::{Builder, JoinHandle};
use crate::types::{Incarnation, LogIndex, Millis, NodeId};

use super::apply_thread::{ApplyState, ApplyThread};
use super::belonging::{Belonging, OwnDirectory};
use super::board::Board;
use super::clock::Clock;
use super::driver::Driver;
use super::event::{Event, EventSender};
use super::failure::Failure;
use super::options::{SnapshotThresholds, Timings};
use super::peers::Peers;
use super::ports::{Pending, RuntimePorts};
use super::raft_thread::{Policy, Progress, RaftThread};
use super::recovery::Recovery;
use super::snapshots::Snapshots;
use super::snapshotter::Snapshotter;
use super::standing::StatusBoard;
use super::survivors::Forced;
use super::wal_thread::{WalThread, chain};

/// What a run of the node is built on.
pub(super) struct Foundation {
    pub config: Config,
    pub thresholds: SnapshotThresholds,
    pub checkpoint_interval: u64,
    pub autopilot: AutopilotConfig,
    pub board: Arc<Board>,
    pub snapshots: Arc<Snapshots>,
    pub failure: Arc<Failure>,
    pub status: Arc<StatusBoard>,
    pub leadership: Arc<watch::Sender<Leadership>>,
    pub peers: Arc<dyn Peers>,
    pub events: EventSender,
    pub directory: OwnDirectory,
}

/// What the threads of a node own, before anybody runs it.
pub(super) struct Parts {
    pub raft: RaftThread,
    pub wal: WalThread,
    pub apply: ApplyThread,
    pub snapshotter: Snapshotter,
    stopping: Arc<AtomicBool>,
}

/// The threads of a running node.
pub(super) struct Threads {
    raft: JoinHandle<()>,
    wal: JoinHandle<()>,
    apply: JoinHandle<Store>,
    snapshotter: JoinHandle<()>,
    stopping: Arc<AtomicBool>,
}

impl Parts {
    /// Puts them together around a core.
    ///
    /// # Errors
    /// What was recovered contradicts itself: the node must not go on.
    pub fn new(
        foundation: &Foundation,
        queue: Receiver<Event>,
        store: Store,
        recovery: Recovery,
        now: Millis,
    ) -> Result<Self, String> {
        let directory = &foundation.directory;
        let mut belonging =
            Belonging::recover(foundation.config.id, directory.clone(), &recovery.recovered);
        directory.durable.set(durable_end(&recovery.recovered));
        let covered = recovery.recovered.snapshot.as_ref();
        let snapshot_index = covered.map_or(LogIndex(0), |meta| meta.index);
        let forced = recovery.forced;
        let raft = core(foundation, recovery.recovered, forced.as_ref(), now);
        let raft = raft.map_err(|error| chain(&error))?;
        belonging.await_forced(forced);
        let (wal_sender, wal_receiver) = queue::channel();
        let (apply_sender, apply_receiver) = queue::channel();
        let (view_sender, view_receiver) = queue::channel();
        let stopping = Arc::new(AtomicBool::new(false));
        let ports = RuntimePorts {
            wal: wal_sender,
            log: recovery.wal.reader(),
            apply: apply_sender.clone(),
            peers: Arc::clone(&foundation.peers),
            board: Arc::clone(&foundation.board),
            snapshots: Arc::clone(&foundation.snapshots),
            failure: Arc::clone(&foundation.failure),
            pending: Pending::default(),
        };
        let wal = WalThread {
            wal: recovery.wal,
            commands: wal_receiver,
            events: foundation.events.clone(),
            snapshots: Arc::clone(&foundation.snapshots),
            failure: Arc::clone(&foundation.failure),
            stalled: None,
            durable: Arc::clone(&directory.durable),
        };
        let apply = ApplyThread {
            store,
            board: Arc::clone(&foundation.board),
            commands: apply_receiver,
            snapshotter: view_sender,
            snapshots: Arc::clone(&foundation.snapshots),
            thresholds: foundation.thresholds,
            failure: Arc::clone(&foundation.failure),
            events: foundation.events.clone(),
            checkpoint_interval: foundation.checkpoint_interval,
            state: ApplyState::after(snapshot_index),
        };
        let snapshotter = Snapshotter {
            views: view_receiver,
            snapshots: Arc::clone(&foundation.snapshots),
            events: foundation.events.clone(),
            apply: apply_sender,
            stopping: Arc::clone(&stopping),
        };
        Ok(Self {
            raft: raft_thread(foundation, queue, Driver::new(raft), ports, belonging),
            wal,
            apply,
            snapshotter,
            stopping,
        })
    }
}

impl Threads {
    /// Starts all of them.
    ///
    /// # Errors
    /// What was recovered contradicts itself, or the system gives no thread:
    /// the node must not go on.
    pub fn spawn(
        foundation: &Foundation,
        queue: Receiver<Event>,
        store: Store,
        recovery: Recovery,
        clock: Clock,
    ) -> Result<Self, String> {
        let parts = Parts::new(foundation, queue, store, recovery, clock.now())?;
        Self::start(foundation, parts, clock)
    }

    /// Starts all of them from where their parts are.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(foundation: &Foundation, parts: Parts, clock: Clock) -> Result<Self, String> {
        let Parts {
            raft,
            wal,
            apply,
            snapshotter,
            stopping,
        } = parts;
        Ok(Self {
            wal: foundation.spawn("wal", || wal.run())?,
            apply: foundation.spawn("apply", || apply.run())?,
            snapshotter: foundation.spawn("snapshotter", || snapshotter.run())?,
            raft: foundation.spawn("raft", move || raft.run(clock))?,
            stopping,
        })
    }

    /// Waits until all have ended, after `Event::Stop` was sent; gives the
    /// store back, or nothing if a thread panicked. Blocks.
    pub fn join(self) -> Option<Store> {
        self.stopping.store(true, Ordering::Relaxed);
        let raft = self.raft.join();
        let wal = self.wal.join();
        let apply = self.apply.join();
        let snapshotter = self.snapshotter.join();
        raft.and(wal).and(snapshotter).and(apply).ok()
    }
}

/// What the disk holds at the start.
pub(super) fn durable_end(recovered: &Recovered) -> DurableEnd {
    let covered = recovered.snapshot.as_ref();
    let covered = covered.map_or(LogIndex(0), |meta| meta.index);
    let last = recovered.entries.last();
    DurableEnd {
        term: recovered.hard_state.term,
        index: last.map_or(covered, |entry| entry.index.max(covered)),
    }
}

fn core(
    foundation: &Foundation,
    recovered: Recovered,
    forced: Option<&Forced>,
    now: Millis,
) -> Result<Raft, RecoverError> {
    let mut raft = Raft::new(foundation.config.clone(), recovered, now)?;
    if let Some(forced) = forced {
        raft.force_membership(&forced.membership, forced.term)?;
    }
    Ok(raft)
}

fn raft_thread(
    foundation: &Foundation,
    queue: Receiver<Event>,
    driver: Driver,
    ports: RuntimePorts,
    belonging: Belonging,
) -> RaftThread {
    RaftThread {
        driver,
        ports,
        events: queue,
        status: Arc::clone(&foundation.status),
        leadership: Arc::clone(&foundation.leadership),
        belonging,
        policy: Policy {
            config: foundation.autopilot.clone(),
            memory: Stability::default(),
            next_look: Millis(0),
        },
        progress: Progress::default(),
    }
}

impl Foundation {
    fn spawn<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>, String> {
        let watch = Watch {
            name,
            failure: Arc::clone(&self.failure),
            events: self.events.clone(),
        };
        let watched = move || {
            let _watch = watch;
            work()
        };
        Builder::new()
            .name(name.to_owned())
            .spawn(watched)
            .map_err(|error| format!("start thread {name}: {error}"))
    }
}

/// Ends the node when a thread ends in a panic: the others would wait for it,
/// and their callers for them.
struct Watch {
    name: &'static str,
    failure: Arc<Failure>,
    events: EventSender,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.failure
                .report(&format!("the thread {} ended in a panic", self.name));
            self.events.send(Event::Stop);
        }
    }
}

/// A write that takes as long as so many of the longest election timeouts (two
/// seconds by default) means a stalled disk.
const DISK_STALL_FACTOR: u64 = 2;

/// What the core is told of a node's options.
pub(super) fn config(
    (id, incarnation): (NodeId, Incarnation),
    timings: Timings,
    trailing_entries: u64,
    read_mode: ReadMode,
) -> Config {
    Config {
        id,
        incarnation,
        election_timeout_min: timings.election_min,
        election_timeout_max: timings.election_max,
        heartbeat_interval: timings.heartbeat,
        inflight_messages_max: 64,
        inflight_bytes_max: 16 << 20,
        message_bytes_max: 1 << 20,
        uncommitted_bytes_max: 64 << 20,
        cache_bytes_max: 64 << 20,
        trailing_entries,
        read_mode,
        disk_stall_timeout: Millis(DISK_STALL_FACTOR * timings.election_max.0),
        // Nodes must not draw the same timeouts; nothing else depends on it.
        // The standard library keys every state from the system's entropy.
        seed: RandomState::new().hash_one(id),
    }
}
