//! The core's vocabulary: what goes in, what comes out.

use std::collections::BTreeMap;

use crate::raft::message::Message;
use crate::types::{
    Entry, EntryPayload, HardState, LogIndex, LogWrite, Mark, Membership, MembershipChange, Millis,
    NodeId, SnapshotMeta, Term,
};

/// Fixed parameters of one core. Times are in milliseconds.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this node is.
    pub id: NodeId,
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
    /// Seed of the election timeouts and of the names of forwarded reads: must
    /// differ between starts of a node, or late answers could be mistaken.
    pub seed: u64,
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

/// What was found on the disk contradicts itself: the node must not start,
/// because entries it acknowledged may be gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// Entries do not follow each other.
    #[error("recover log: entry {index} of term {term} is followed by {next_index} of {next_term}")]
    Inconsecutive {
        /// Position of an entry.
        index: LogIndex,
        /// Its term.
        term: Term,
        /// Position of the entry after it.
        next_index: LogIndex,
        /// Its term.
        next_term: Term,
    },
    /// Entries between the snapshot and the log are missing.
    #[error("recover log: it begins at {first}, the snapshot ends at {snapshot}")]
    Gap {
        /// First position of the log.
        first: LogIndex,
        /// Last position of the snapshot; 0 without one.
        snapshot: LogIndex,
    },
    /// The hard state knows entries to be committed that are not here: the
    /// log's tail is lost.
    #[error("recover log: {commit} is committed, but the log ends at {last}: its tail is lost")]
    CommitBeyondLog {
        /// The durable commit index.
        commit: LogIndex,
        /// The end of the log.
        last: LogIndex,
    },
    /// The log holds entries of a term the hard state never saw.
    #[error("recover log: it ends in term {last_term}, the hard state knows only {term}")]
    TermBeyondHardState {
        /// Term of the last entry.
        last_term: Term,
        /// The durable term.
        term: Term,
    },
    /// The store claims to hold what the log does not, or less than the
    /// snapshot.
    #[error("recover store: it holds {applied}, the snapshot {snapshot} and the log {last}")]
    AppliedOutside {
        /// What the store holds.
        applied: LogIndex,
        /// The snapshot's end.
        snapshot: LogIndex,
        /// The log's end.
        last: LogIndex,
    },
    /// A membership whose sets do not fit together.
    #[error("recover membership at {index}: its sets do not fit together")]
    BadMembership {
        /// Its position.
        index: LogIndex,
    },
    /// Parameters with which no cluster can work.
    #[error("raft parameters: {0}")]
    BadConfig(&'static str),
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
        membership: std::sync::Arc<Membership>,
    },
}

/// Why a request was not begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Only the leader can do this.
    #[error("this node is not the leader")]
    NotLeader {
        /// Who is, as far as known.
        leader: Option<NodeId>,
    },
    /// Too many uncommitted bytes; try again.
    #[error("{bytes} uncommitted bytes are in flight, at most {max}: try again")]
    Busy {
        /// In flight now.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Leadership is being handed over; try again.
    #[error("leadership is being transferred: try again")]
    Transferring,
    /// Another membership change is under way.
    #[error("a membership change is in progress: try again when it is committed")]
    ChangeInProgress,
    /// The change makes no sense.
    #[error("membership change refused: {0}")]
    InvalidChange(String),
    /// Leadership could not be confirmed in time (no quorum, or lost).
    #[error("leadership could not be confirmed by a quorum")]
    Unconfirmed,
    /// There is no such voter, or none that could take over now.
    #[error("leadership transfer refused: {0}")]
    InvalidTarget(String),
    /// The node was told by a committed membership that it is no member.
    #[error("this node was removed from the cluster")]
    Removed,
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
    /// End of the log (durable or not).
    pub last_index: LogIndex,
    /// Term of the last entry.
    pub last_term: Term,
    /// The active membership and its position.
    pub membership: std::sync::Arc<Membership>,
    /// Position of the active membership.
    pub membership_index: LogIndex,
    /// A committed membership does not name this node (which was a member).
    pub removed: bool,
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
}
