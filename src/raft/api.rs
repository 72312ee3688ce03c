//! The core's vocabulary: what goes in, what comes out.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::raft::message::Message;
use crate::raft::refusal::Rejection;
use crate::types::{
    Checkpoint, Entry, EntryPayload, HardState, Incarnation, LogIndex, LogWrite, Mark, Membership,
    MembershipChange, Millis, NodeId, SnapshotMeta, Term,
};

/// Fixed parameters of one core. Times are in milliseconds.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this node is.
    pub id: NodeId,
    /// The life of its data directory. A membership that names another one
    /// speaks of a directory that is gone, and gives this one no vote.
    pub incarnation: Incarnation,
    /// Shortest election timeout; each wait is drawn from `min..max`.
    pub election_timeout_min: Millis,
    /// Longest election timeout (exclusive).
    pub election_timeout_max: Millis,
    /// How often a leader speaks to an idle peer.
    pub heartbeat_interval: Millis,
    /// Appends in flight to one peer, at most.
    pub inflight_messages_max: usize,
    /// Bytes in flight to one peer, at most.
    pub inflight_bytes_max: usize,
    /// Entry bytes in one append, at most (one entry always fits).
    pub message_bytes_max: usize,
    /// Uncommitted bytes a leader accepts before it answers Busy.
    pub uncommitted_bytes_max: usize,
    /// Applied entries kept in memory for followers, in bytes.
    pub cache_bytes_max: usize,
    /// Entries kept in the log before a new snapshot, so that a follower that
    /// was briefly away needs no snapshot.
    pub trailing_entries: u64,
    /// How a leader makes sure that it still leads when it is asked to read.
    pub read_mode: ReadMode,
    /// A write that is not durable for so long means a stalled disk: a leader
    /// hands over, others do not campaign.
    pub disk_stall_timeout: Millis,
    /// Seed of the election timeouts and of the names of forwarded reads: must
    /// differ between starts of a node, or late answers could be mistaken.
    pub seed: u64,
}

/// How a leader confirms a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub enum ReadMode {
    /// A quorum answers a heartbeat that left after the read arrived. No clock
    /// is trusted.
    #[default]
    Quorum,
    /// Without asking, while a lease from an earlier round of heartbeats runs.
    /// Holds only as far as the drift bound does: see `lease`.
    Lease {
        /// By how much the clock of one member may run faster than another's,
        /// in thousandths.
        drift_permille: u32,
    },
}

/// What the disk held when the node started.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Newest durable hard state.
    pub hard_state: HardState,
    /// The snapshot the log begins after, if any. The store holds it already.
    pub snapshot: Option<SnapshotMeta>,
    /// Every entry after the snapshot's index, consecutive (may begin earlier
    /// than the snapshot's end when the log was kept for slow followers).
    pub entries: Vec<Entry>,
    /// Highest index the store already holds (at least the snapshot's).
    pub applied_index: LogIndex,
}

/// Names a proposal or a membership change of this node; never reused within
/// one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub struct RequestId(pub u64);

/// What the core is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time has passed; `now` says how much.
    Tick,
    /// From an authenticated member (or, before any membership is known, from
    /// an authenticated node of this cluster).
    Message {
        /// The sender.
        from: NodeId,
        /// The life of its data directory, as the connection proved it.
        incarnation: Incarnation,
        /// What it said.
        message: Message,
    },
    /// Replicate this.
    Propose {
        /// Answered by `ProposalAccepted` or `Rejected`.
        id: RequestId,
        /// What to append.
        payload: EntryPayload,
    },
    /// Change the membership.
    ChangeMembership {
        /// Answered by `ProposalAccepted` (with the index of the entry whose
        /// commit completes the change, the final one of a joint change) or
        /// `Rejected`; `AlreadyDone` when there is nothing to do.
        id: RequestId,
        /// All of these together.
        changes: Vec<MembershipChange>,
    },
    /// Confirm a read on any member.
    ReadIndex {
        /// Answered by `ReadReady` or `Rejected`.
        id: RequestId,
    },
    /// Hand leadership to this voter, or to the best one.
    TransferLeadership {
        /// Answered by `TransferStarted` or `Rejected`.
        id: RequestId,
        /// To whom.
        target: Option<NodeId>,
    },
    /// Everything persisted up to this mark is durable.
    Durable(Mark),
    /// The store has applied up to here.
    Applied(LogIndex),
    /// This node wrote a verified snapshot; the log before it may be purged.
    SnapshotTaken(SnapshotMeta),
    /// A stream to a peer ended; `delivered` is the snapshot it staged.
    SnapshotStreamed {
        /// To whom.
        to: NodeId,
        /// What it now holds staged; `None`: the stream failed.
        delivered: Option<SnapshotMeta>,
    },
    /// The connection to a peer was lost or refused.
    Unreachable(NodeId),
    /// The store's digest at a position that every replica reports: a multiple
    /// of an interval that all share.
    Checkpoint(Checkpoint),
    /// An authenticated member showed this node a committed membership, while
    /// it refused to speak with it. Believed only when it is newer than all
    /// this node knows to be committed, and only in that it names this node no
    /// more: a node that was down while it was removed learns it so.
    CommittedMembership {
        /// Position of its entry.
        index: LogIndex,
        /// What is committed there.
        membership: Arc<Membership>,
    },
}

/// What the core wants done, in this order.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Make durable; answer `Durable(mark)`, in order.
    Persist {
        /// Names the completion.
        mark: Mark,
        /// What to write, atomically.
        write: LogWrite,
    },
    /// Send, but not before `after` is durable.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
        /// Hold it until this mark is durable.
        after: Option<Mark>,
    },
    /// As `Send` of an `AppendEntries` whose `entries` are still empty: fill
    /// them from the log on disk, `first..=last`, stopping (after at least one
    /// entry) at `bytes_max`. Send nothing when the range is gone.
    SendFromLog {
        /// To whom.
        to: NodeId,
        /// `AppendEntries` without its entries.
        message: Message,
        /// First position wanted.
        first: LogIndex,
        /// Last position wanted.
        last: LogIndex,
        /// Stop there.
        bytes_max: usize,
    },
    /// Execute, consecutive, committed and durable here.
    Apply {
        /// Non-empty.
        entries: Vec<Entry>,
    },
    /// Replace the store's state by this durable snapshot's; emitted after the
    /// write with `reset_to` is durable.
    RestoreSnapshot(SnapshotMeta),
    /// The proposal was appended here at this position. Its outcome is known
    /// when that index is applied: same term, done; another term, it never
    /// happened.
    ProposalAccepted {
        /// Which.
        id: RequestId,
        /// Where.
        index: LogIndex,
        /// In which term.
        term: Term,
    },
    /// A membership change asked for what is already so.
    AlreadyDone {
        /// Which.
        id: RequestId,
    },
    /// The request was not begun. Nothing of it can take effect.
    Rejected {
        /// Which.
        id: RequestId,
        /// Why.
        reason: Rejection,
    },
    /// The read may be served once the store has applied `index`.
    ReadReady {
        /// Which.
        id: RequestId,
        /// Read index.
        index: LogIndex,
    },
    /// Leadership is being handed over; watch the status.
    TransferStarted {
        /// Which.
        id: RequestId,
        /// To whom.
        target: NodeId,
    },
    /// Stream the newest durable snapshot to this peer; answer
    /// `SnapshotStreamed`. At most one at a time per peer.
    StreamSnapshot {
        /// To whom.
        to: NodeId,
        /// What it must cover at least: the log begins after this.
        least: LogIndex,
    },
    /// The log up to here is no longer needed (snapshot durable, followers
    /// served): its segments may go.
    Purge {
        /// Last position that may go.
        through: LogIndex,
    },
    /// Another membership became active (or was undone by truncation):
    /// addresses and roles for the transport.
    MembershipActive {
        /// Position of its entry (or of the snapshot that carries it).
        index: LogIndex,
        /// The membership.
        membership: Arc<Membership>,
    },
    /// A peer's state differs from this leader's. Who is wrong is decided by
    /// the majority ([`Effect::Diverged`] there, then); with two replicas
    /// nobody can tell.
    DigestMismatch(Mismatch),
    /// This node's state differs from what a majority of the voters agree on:
    /// it has stopped applying, reading and leading for good. Its process must
    /// serve nothing more, and its data directory must not be used again.
    Diverged(Divergence),
}

/// A peer that applied the same entries and holds another state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
#[error(
    "the state of {peer} at position {index} is {theirs:032x}, here it is {own:032x}: one of the \
     two replicas is wrong; if no node stops by itself, compare backups of both before one is \
     replaced"
)]
pub struct Mismatch {
    /// Whose.
    pub peer: NodeId,
    /// Where.
    pub index: LogIndex,
    /// This node's digest.
    pub own: u128,
    /// The peer's.
    pub theirs: u128,
}

/// This node differs from a majority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
#[error(
    "the state of this node at position {index} is {own:032x}, a majority agrees on {agreed:032x}: \
     remove this node from the cluster and let it join with an empty directory"
)]
pub struct Divergence {
    /// Where.
    pub index: LogIndex,
    /// This node's digest.
    pub own: u128,
    /// The majority's.
    pub agreed: u128,
}

/// What a node is just now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Follows, or waits.
    #[default]
    Follower,
    /// Asks whether an election would succeed.
    PreCandidate,
    /// Campaigns.
    Candidate,
    /// Leads.
    Leader,
}

/// A cheap copy of what an observer may know.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// This node's role.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// The leader of that term, as far as known.
    pub leader: Option<NodeId>,
    /// Leader only: an entry of its own term is committed, so it may serve.
    pub ready: bool,
    /// Positions.
    pub commit_index: LogIndex,
    /// Highest index the store reported applied.
    pub applied_index: LogIndex,
    /// The log on this disk holds the entries of this one up to here, for
    /// certain.
    pub durable_index: LogIndex,
    /// End of the log (durable or not).
    pub last_index: LogIndex,
    /// Term of the last entry.
    pub last_term: Term,
    /// The active membership and its position.
    pub membership: Arc<Membership>,
    /// Position of the active membership.
    pub membership_index: LogIndex,
    /// The newest membership known to be committed.
    pub committed_membership: Arc<Membership>,
    /// Its position.
    pub committed_membership_index: LogIndex,
    /// A committed membership does not name this node (which was a member).
    pub removed: bool,
    /// The state differs from a majority's: nothing is served any more.
    pub diverged: Option<Divergence>,
    /// The newest checkpoint on which a majority of the voters agrees.
    pub agreed: Option<Checkpoint>,
    /// The oldest write has been waiting for the disk for too long.
    pub disk_stalled: bool,
    /// Leader only: reads need no confirmation before then.
    pub lease_until: Option<Millis>,
    /// Writes held until it is known who leads next.
    pub held_count: usize,
    /// Leader only: what is known of each peer.
    pub peers: BTreeMap<NodeId, PeerStatus>,
}

/// The leader's view of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerStatus {
    /// Known equal and durable there.
    pub match_index: LogIndex,
    /// Next position to send.
    pub next_index: LogIndex,
    /// When it last answered; `None`: never in this leadership.
    pub last_contact: Option<Millis>,
    /// A snapshot is on its way.
    pub snapshot_in_flight: bool,
    /// Its state differs from this leader's.
    pub mismatch: Option<Mismatch>,
}
