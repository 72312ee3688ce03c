//! A node whose threads are given their turns by hand, one at a time: what the
//! simulator drives. Everything but the queues' waiting is the production code;
//! disk, peers and time are the caller's.
//!
//! What it must never do: decide when something happens, or do what no thread
//! of a real node does.

mod repair;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::disk::Disk;
use crate::membership::autopilot::AutopilotConfig;
use crate::peer::{
    DurableEnd, Goodbye, Handler, Hello, MembershipProof, OwnDurableEnd, Refuser, Run,
    SnapshotOffer, SnapshotSink, SnapshotSource, Witness,
};
use crate::physical::{Leadership, PhysicalError};
use crate::raft::message::Message;
use crate::raft::{Config, Effect, Input, Recovered, Rejection, Status};
use crate::snapshot::SnapshotDirectory;
use crate::store::{Store, View};
use crate::sync::oneshot;
use crate::types::{
    ClusterId, Command, Incarnation, LogIndex, Mark, Member, Membership, MembershipChange, Millis,
    NodeId, Outcome, RepairMessage, SnapshotMeta,
};
use crate::wal::{Identity, Wal, WalOptions};

use super::NodeError;
use super::belonging::OwnDirectory;
use super::board::Board;
use super::driver::Tap;
use super::event::{Event, EventSender};
use super::failure::Failure;
use super::identity::DirectoryIdentity;
use super::network::{ForwardSlot, Greetings, PeerHandler};
use super::options::SnapshotThresholds;
use super::peers::Peers;
use super::recovery::recover;
use super::refusals::Refusals;
use super::snapshots::Snapshots;
use super::standing::StatusBoard;
use super::stream::{Incoming, Outgoing};
use super::threads::{Foundation, Parts};
use super::wal_thread::{WalGroup, chain};
use super::witness_file::WitnessFile;

pub(crate) use repair::ManualRepair;

/// What a node is opened with.
pub(crate) struct ManualOptions {
    pub disk: Arc<dyn Disk>,
    pub directory: PathBuf,
    pub name: String,
    pub config: Config,
    pub thresholds: SnapshotThresholds,
    pub checkpoint_interval: u64,
    pub autopilot: AutopilotConfig,
    pub wal: WalOptions,
    /// Tells this run from others of the same number.
    pub run_id: u64,
}

/// What a turn did to the world outside, in order.
pub(crate) enum Happening {
    /// The core decided.
    Stepped {
        now: Millis,
        inputs: Vec<Input>,
        effects: Vec<Effect>,
        status: Box<Status>,
    },
    /// A message left.
    Sent { to: NodeId, message: Message },
    /// A word about lost entries left.
    SpokeOfRepair { to: NodeId, message: RepairMessage },
    /// The newest snapshot is to be streamed.
    StreamWanted { to: NodeId, least: LogIndex },
    /// Another membership is active.
    Members {
        index: LogIndex,
        members: BTreeMap<NodeId, Member>,
    },
    /// Another membership is known to be committed.
    Committed(MembershipProof),
}

/// One apply command carried out.
pub(crate) struct Executed {
    pub first: LogIndex,
    pub last: LogIndex,
    pub view: Arc<View>,
    pub is_restored: bool,
}

/// See the module.
pub(crate) struct ManualNode {
    parts: Parts,
    events: EventSender,
    handler: PeerHandler,
    snapshots: Arc<Snapshots>,
    board: Arc<Board>,
    failure: Arc<Failure>,
    is_refused: Arc<AtomicBool>,
    run: Run,
    durable: Arc<OwnDurableEnd>,
    witness: WitnessFile,
    happenings: Recorder,
    fuse: Fuse,
    writing: Option<WalGroup>,
    picture: Option<View>,
    is_unmarked: bool,
    was_torn: bool,
}

/// Makes the data directory of a new member, with the first membership if it
/// is one of the founders.
///
/// # Errors
/// The disk failed; the directory must be wiped before another try.
pub(crate) fn create_directory(
    options: &ManualOptions,
    cluster: ClusterId,
    incarnation: Incarnation,
    founder: Option<Membership>,
) -> Result<(), NodeError> {
    let disk = &options.disk;
    let directory = &options.directory;
    disk.create_dir_all(directory)
        .map_err(NodeError::Directory)?;
    let identity = DirectoryIdentity::create(disk.as_ref(), directory, &options.name, incarnation)?;
    let owner = Identity {
        cluster,
        node: identity.id,
        incarnation,
    };
    let path = wal_path(directory);
    let mut wal =
        Wal::create(Arc::clone(disk), &path, owner, options.wal).map_err(NodeError::Log)?;
    if let Some(membership) = founder {
        let write = crate::raft::bootstrap(membership);
        wal.append(&[write]).map_err(NodeError::Log)?;
    }
    wal.mark_idle().map_err(NodeError::Log)
}

impl ManualNode {
    /// Opens a data directory as `RaftNode` does and puts the threads' parts
    /// together; [`Self::begin`] follows. Also gives what the core started
    /// from.
    ///
    /// # Errors
    /// Damage, or the disk: the node does not start.
    pub fn open(options: &ManualOptions, now: Millis) -> Result<(Self, Recovered), NodeError> {
        let disk = &options.disk;
        let directory = &options.directory;
        let mut identity =
            DirectoryIdentity::open_or_create(disk.as_ref(), directory, &options.name)?;
        identity.run.id = options.run_id;
        let run = identity.run;
        let witness = WitnessFile::open(Arc::clone(disk), directory);
        let snapshots = SnapshotDirectory::open(Arc::clone(disk), &directory.join("snapshots"))
            .map_err(NodeError::Snapshots)?;
        let snapshots = Arc::new(Snapshots::new(snapshots));
        let mut store = Store::new();
        let path = wal_path(directory);
        let recovery = recover(disk, &path, &identity, &options.wal, &snapshots, &mut store)?;
        let Some(recovery) = recovery else {
            return Err(NodeError::Load("the directory holds no log".into()));
        };
        snapshots.set_cluster(recovery.cluster);
        let recovered = recovery.recovered.clone();
        let was_torn = recovery.was_torn;
        let (events, queue) = EventSender::new();
        let happenings = Recorder::default();
        let board = Arc::new(Board::new(store.view()));
        let (failure, is_refused) = latch();
        let own = own_directory(options, &identity);
        let durable = Arc::clone(&own.durable);
        let foundation = Foundation {
            config: options.config.clone(),
            thresholds: options.thresholds,
            checkpoint_interval: options.checkpoint_interval,
            directory: own,
            autopilot: options.autopilot.clone(),
            board: Arc::clone(&board),
            snapshots: Arc::clone(&snapshots),
            failure: Arc::clone(&failure),
            status: Arc::new(StatusBoard::new()),
            leadership: Arc::new(watch::Sender::new(Leadership::default())),
            peers: Arc::new(happenings.clone()),
            events: events.clone(),
        };
        let mut parts =
            Parts::new(&foundation, queue, store, recovery, now).map_err(NodeError::Load)?;
        let fuse = Fuse(Arc::new(AtomicU32::new(u32::MAX)));
        parts.raft.driver.watch(Box::new(RecordingTap {
            happenings: happenings.clone(),
            fuse: fuse.clone(),
        }));
        let handler = handler(&foundation, identity);
        let node = Self {
            parts,
            events,
            handler,
            snapshots,
            board,
            failure,
            is_refused,
            run,
            durable,
            witness,
            happenings,
            fuse,
            writing: None,
            picture: None,
            is_unmarked: true,
            was_torn,
        };
        Ok((node, recovered))
    }

    /// The raft thread's first act.
    pub fn begin(&mut self, now: Millis) {
        self.parts.raft.begin(now);
    }

    /// One turn of the raft thread: everything queued, then the clock.
    pub fn raft_turn(&mut self, now: Millis) {
        let first = self.parts.raft.events.try_recv().ok();
        self.parts.raft.turn(first, || now);
    }

    /// When a turn is due though nothing happens.
    pub fn deadline(&self) -> Millis {
        self.parts.raft.deadline()
    }

    /// What the turns did outside since the last call.
    pub fn take_happenings(&self) -> Vec<Happening> {
        std::mem::take(&mut *self.happenings.list())
    }

    /// The process ends within the next step, after that many effects.
    pub fn die_after(&self, effects: u32) {
        self.fuse.0.store(effects, Ordering::Relaxed);
    }

    /// It does not end so after all.
    pub fn live_on(&self) {
        self.fuse.0.store(u32::MAX, Ordering::Relaxed);
    }

    /// Whether it has ended so.
    pub fn is_dead(&self) -> bool {
        self.fuse.0.load(Ordering::Relaxed) == 0
    }

    /// The WAL thread takes what is queued; false when there is nothing, or it
    /// is still writing.
    pub fn begin_write(&mut self) -> bool {
        if self.writing.is_some() {
            return false;
        }
        let wal = &self.parts.wal;
        self.writing = wal.commands.try_recv().ok().map(|first| wal.gather(first));
        self.writing.is_some()
    }

    /// Whether the WAL thread is writing.
    pub fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// The WAL thread finishes what it took; up to which mark all is durable.
    ///
    /// # Errors
    /// The disk failed, or has no room: the node stops.
    pub fn finish_write(&mut self) -> Result<Option<Mark>, String> {
        let Some(group) = self.writing.take() else {
            return Ok(None);
        };
        let mark = group.last_mark;
        let written = match self.parts.wal.carry_out(group) {
            Ok(_) if self.parts.wal.stalled.is_some() => Err("no room on the disk".into()),
            written => written,
        };
        let written = self.latched(written)?;
        self.is_unmarked |= written;
        Ok(mark)
    }

    /// Whether a snapshot that did not verify was set aside since the start.
    pub fn set_a_snapshot_aside(&self) -> bool {
        let broken = self.snapshots.directory().broken();
        broken.iter().any(|broken| !broken.reason.is_empty())
    }

    /// Whether opening cut an unfinished write.
    pub fn cut_a_torn_tail(&self) -> bool {
        self.was_torn
    }

    /// Whether the last batch in the log lacks a later promise: damage to it
    /// could pass for a torn write.
    pub fn is_unmarked(&self) -> bool {
        self.is_unmarked
    }

    /// The WAL thread found nothing to do for a while.
    ///
    /// # Errors
    /// The disk failed: the node stops.
    pub fn mark_idle(&mut self) -> Result<(), String> {
        if self.writing.is_some() || !std::mem::take(&mut self.is_unmarked) {
            return Ok(());
        }
        let marked = self.parts.wal.wal.mark_idle();
        self.latched(marked.map_err(|error| chain(&error)))
    }

    /// The apply thread carries out one command; `None` when there is none.
    ///
    /// # Errors
    /// A snapshot could not be loaded: the node stops.
    pub fn apply_turn(&mut self) -> Result<Option<Executed>, String> {
        let before = self.board.applied();
        let Ok(command) = self.parts.apply.commands.try_recv() else {
            return Ok(None);
        };
        let restores = matches!(command, super::apply_thread::ApplyCommand::Restore(_));
        let turned = self.parts.apply.turn(command, 1);
        self.latched(turned)?;
        let view = self.board.newest();
        let last = view.applied_index();
        let first = if restores && before < last {
            last.next()
        } else {
            before.next()
        };
        Ok(Some(Executed {
            first,
            last,
            view,
            is_restored: restores && before < last,
        }))
    }

    /// The snapshotter takes a picture; false when there is none, or it is
    /// still writing one.
    pub fn begin_snapshot(&mut self) -> bool {
        if self.picture.is_some() {
            return false;
        }
        self.picture = self.parts.snapshotter.views.try_recv().ok();
        self.picture.is_some()
    }

    /// Whether the snapshotter is writing.
    pub fn is_snapshotting(&self) -> bool {
        self.picture.is_some()
    }

    /// The snapshotter finishes its picture.
    pub fn finish_snapshot(&mut self) {
        if let Some(view) = self.picture.take() {
            self.parts.snapshotter.write(view);
        }
    }

    /// A message arrived.
    pub fn deliver(&self, from: NodeId, incarnation: Incarnation, message: Message) {
        self.handler.message(from, incarnation, message);
    }

    /// A peer lost entries.
    pub fn deliver_repair(&self, from: NodeId, message: RepairMessage) {
        self.handler.repair(from, message);
    }

    /// The connection to a peer was lost.
    pub fn unreachable(&self, peer: NodeId) {
        self.handler.unreachable(peer);
    }

    /// A peer refuses to speak with this node.
    pub fn refused(&self, peer: NodeId, goodbye: &Goodbye) {
        self.handler.refused(peer, goodbye, Refuser::Peer);
    }

    /// Whether a peer refused this process its identity: it ends, for good.
    pub fn is_refused(&self) -> bool {
        self.is_refused.load(Ordering::Relaxed)
    }

    /// Which run of its directory this process is.
    pub fn run(&self) -> Run {
        self.run
    }

    /// How far its durable state reaches.
    pub fn durable_end(&self) -> DurableEnd {
        self.durable.now()
    }

    /// What it remembers of its peers.
    pub fn witness(&self) -> &Witness {
        self.witness.witness()
    }

    /// Writes down what it remembers of its peers.
    pub fn keep_witness(&self) {
        self.witness.write();
    }

    /// The newest snapshot, for a peer that needs at least this much.
    pub fn newest_snapshot(&self, least: LogIndex) -> Option<Arc<dyn SnapshotSource>> {
        let info = self.snapshots.newest_covering(least)?;
        let directory = self.snapshots.directory().clone();
        Some(Arc::new(Outgoing::new(directory, info)))
    }

    /// What the files cover, newest first.
    pub fn snapshot_files(&self) -> Vec<(SnapshotMeta, PathBuf)> {
        let files = self.snapshots.newest_first().into_iter();
        files.map(|info| (info.meta, info.path)).collect()
    }

    /// A peer offers a snapshot.
    ///
    /// # Errors
    /// It is of no use here, or the disk failed.
    pub fn accept_snapshot(
        &self,
        from: NodeId,
        offer: &SnapshotOffer,
    ) -> Result<Box<dyn SnapshotSink>, String> {
        let sink = self.handler.snapshot(from, offer);
        sink.map_err(|error| error.0)
    }

    /// A peer had all of a snapshot and did not take it; whether the file is
    /// damaged here, and set aside. Not if the disk does not say.
    pub fn doubt_snapshot(&self, meta: &SnapshotMeta) -> bool {
        self.snapshots.set_aside_if_damaged(meta).unwrap_or(false)
    }

    /// There is no snapshot that a peer could begin with.
    pub fn want_snapshot(&self) {
        self.events.send(Event::TakeSnapshot);
    }

    /// A stream to a peer ended.
    pub fn streamed(&self, to: NodeId, delivered: Option<SnapshotMeta>) {
        self.events.send(Event::SnapshotStreamed { to, delivered });
    }

    /// Proposes a command.
    pub fn propose(&self, command: &Command) -> Ticket<Outcome> {
        Ticket::from(self.events.propose(command))
    }

    /// Asks for a confirmed picture.
    pub fn read(&self) -> Ticket<Arc<View>> {
        Ticket::from(self.events.read())
    }

    /// Asks for a membership change.
    pub fn change(&self, changes: Vec<MembershipChange>) -> Ticket<Outcome> {
        Ticket::from(self.events.change(changes, true))
    }

    /// Asks to hand leadership over.
    pub fn transfer(&self, target: Option<NodeId>) -> Transfer {
        Transfer(self.events.transfer(target).ok())
    }

    /// The core's status.
    pub fn status(&self) -> Status {
        self.parts.raft.driver.status()
    }

    /// What was applied last.
    pub fn view(&self) -> Arc<View> {
        self.board.newest()
    }

    /// Why the node stopped, if it did.
    pub fn failure(&self) -> Option<String> {
        match self.failure.error() {
            Some(PhysicalError::Failed { reason }) => Some(reason),
            _ => None,
        }
    }

    fn latched<T>(&self, result: Result<T, String>) -> Result<T, String> {
        result.inspect_err(|reason| self.failure.report(reason))
    }
}

/// A failure to be looked at, and whether it is that of the identity.
fn latch() -> (Arc<Failure>, Arc<AtomicBool>) {
    let is_refused = Arc::new(AtomicBool::new(false));
    let refused = Arc::clone(&is_refused);
    let on_refusal = Arc::new(move |_: &str| refused.store(true, Ordering::Relaxed));
    (
        Arc::new(Failure::new(Arc::new(|_| {}), on_refusal)),
        is_refused,
    )
}

fn handler(foundation: &Foundation, identity: DirectoryIdentity) -> PeerHandler {
    let refusals = Refusals::new(
        identity,
        Arc::clone(&foundation.directory.durable),
        Arc::clone(&foundation.failure),
        foundation.events.clone(),
    );
    PeerHandler {
        events: foundation.events.clone(),
        snapshots: Arc::clone(&foundation.snapshots),
        board: Arc::clone(&foundation.board),
        greetings: Greetings::new(&nobody()),
        forward: ForwardSlot::default(),
        incoming: Incoming::default(),
        refusals,
    }
}

fn own_directory(options: &ManualOptions, identity: &DirectoryIdentity) -> OwnDirectory {
    let (disk, directory) = (Arc::clone(&options.disk), options.directory.clone());
    let removed = identity.clone();
    OwnDirectory {
        incarnation: identity.incarnation,
        durable: Arc::default(),
        remember_removal: Arc::new(move |index| {
            removed
                .mark_removed(disk.as_ref(), &directory, index)
                .map_err(|error| chain(&error))
        }),
    }
}

fn wal_path(directory: &Path) -> PathBuf {
    directory.join("wal")
}

/// The simulator greets for its nodes.
fn nobody() -> Hello {
    Hello {
        cluster: ClusterId::default(),
        node: NodeId(0),
        name: String::new(),
        incarnation: Incarnation(0),
        run: Run::default(),
        durable: DurableEnd::default(),
        api_address: String::new(),
        cluster_address: String::new(),
        version: String::new(),
        membership_index: LogIndex(0),
    }
}

/// What became of a request.
#[derive(Clone, Debug)]
pub(crate) enum Answer<T> {
    /// Done.
    Done(T),
    /// Certainly not done.
    Refused,
    /// Perhaps done, perhaps not, perhaps later.
    Unknown,
}

/// Someone waiting for an answer.
pub(crate) struct Ticket<T>(Result<oneshot::Receiver<Result<T, PhysicalError>>, PhysicalError>);

impl<T> Ticket<T> {
    fn from(asked: Result<oneshot::Receiver<Result<T, PhysicalError>>, PhysicalError>) -> Self {
        Self(asked)
    }

    /// The answer, once it is there.
    pub fn poll(&mut self) -> Option<Answer<T>> {
        let result = match &mut self.0 {
            Ok(receiver) => match receiver.try_recv() {
                Ok(result) => result,
                Err(oneshot::error::TryRecvError::Empty) => return None,
                Err(oneshot::error::TryRecvError::Closed) => {
                    return Some(Answer::Unknown);
                }
            },
            Err(error) => Err(error.clone()),
        };
        Some(match result {
            Ok(value) => Answer::Done(value),
            Err(PhysicalError::OutcomeUnknown { .. } | PhysicalError::Failed { .. }) => {
                Answer::Unknown
            }
            Err(_) => Answer::Refused,
        })
    }
}

/// Someone waiting for a transfer to begin.
pub(crate) struct Transfer(Option<oneshot::Receiver<Result<NodeId, Rejection>>>);

impl Transfer {
    /// Whether it began, once that is known.
    pub fn poll(&mut self) -> Option<bool> {
        match self.0.as_mut()?.try_recv() {
            Ok(answer) => Some(answer.is_ok()),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(false),
        }
    }
}

/// Effects the process lives to carry out; at 0 it is dead.
#[derive(Clone)]
struct Fuse(Arc<AtomicU32>);

/// Notes what leaves the node.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<Happening>>>);

impl Recorder {
    fn list(&self) -> std::sync::MutexGuard<'_, Vec<Happening>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peers for Recorder {
    fn send(&self, to: NodeId, message: Message) {
        self.list().push(Happening::Sent { to, message });
    }

    fn send_repair(&self, to: NodeId, message: RepairMessage) {
        self.list().push(Happening::SpokeOfRepair { to, message });
    }

    fn stream_snapshot(&self, to: NodeId, least: LogIndex) {
        self.list().push(Happening::StreamWanted { to, least });
    }

    fn set_members(&self, index: LogIndex, membership: &Membership) {
        let members = membership.members.clone();
        self.list().push(Happening::Members { index, members });
    }

    fn set_committed(&self, index: LogIndex, membership: &Arc<Membership>) {
        let membership = Arc::clone(membership);
        let proof = MembershipProof { index, membership };
        self.list().push(Happening::Committed(proof));
    }

    fn api_address(&self, _id: NodeId) -> Option<String> {
        None
    }

    fn cluster_address(&self, _id: NodeId, _life: Incarnation) -> Option<String> {
        None
    }
}

struct RecordingTap {
    happenings: Recorder,
    fuse: Fuse,
}

impl Tap for RecordingTap {
    fn stepped(&mut self, now: Millis, inputs: &[Input], effects: &[Effect], status: &Status) {
        self.happenings.list().push(Happening::Stepped {
            now,
            inputs: inputs.to_vec(),
            effects: effects.to_vec(),
            status: Box::new(status.clone()),
        });
    }

    fn lives(&mut self) -> bool {
        let left = self.fuse.0.load(Ordering::Relaxed);
        if left != u32::MAX && left != 0 {
            self.fuse.0.store(left - 1, Ordering::Relaxed);
        }
        left != 0
    }
}
