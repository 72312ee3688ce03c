//! Why the core refuses: to start on what the disk held, or to begin what was
//! asked. Each names what, where, and what to do about it; a variant for each
//! decision a caller can take.

use crate::raft::api::Divergence;
use crate::types::{LogIndex, NodeId, Term};

/// What was found on the disk contradicts itself: the node must not start,
/// because entries it acknowledged may be gone. Nothing is cut to fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// Entries do not follow each other.
    #[error(
        "recover log: entry {index} of term {term} is followed by {next_index} of {next_term}; \
         {REJOIN}"
    )]
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
    #[error("recover log: it begins at {first}, the snapshot ends at {snapshot}; {REJOIN}")]
    Gap {
        /// First position of the log.
        first: LogIndex,
        /// Last position of the snapshot; 0 without one.
        snapshot: LogIndex,
    },
    /// The hard state knows entries to be committed that are not here: the
    /// log's tail is lost.
    #[error(
        "recover log: {commit} is committed, but the log ends at {last}: its tail is lost; {REJOIN}"
    )]
    CommitBeyondLog {
        /// The durable commit index.
        commit: LogIndex,
        /// The end of the log.
        last: LogIndex,
    },
    /// The log holds entries of a term the hard state never saw.
    #[error(
        "recover log: it ends in term {last_term}, the hard state knows only {term}: its votes may \
         be forgotten; {REJOIN}"
    )]
    TermBeyondHardState {
        /// Term of the last entry.
        last_term: Term,
        /// The durable term.
        term: Term,
    },
    /// The store claims to hold what the log does not, or less than the
    /// snapshot.
    #[error(
        "recover store: it holds {applied}, the snapshot {snapshot} and the log {last}; {REJOIN}"
    )]
    AppliedOutside {
        /// What the store holds.
        applied: LogIndex,
        /// The snapshot's end.
        snapshot: LogIndex,
        /// The log's end.
        last: LogIndex,
    },
    /// A membership whose sets do not fit together.
    #[error("recover membership at {index}: its sets do not fit together; {REJOIN}")]
    BadMembership {
        /// Its position.
        index: LogIndex,
    },
    /// Parameters with which no cluster can work.
    #[error("raft parameters: {0}: correct the configuration")]
    BadConfig(&'static str),
}

/// What helps a node whose disk lost what it had promised to keep.
const REJOIN: &str =
    "remove this node from the cluster and let it join with an empty data directory";

/// Why a request was not begun. Nothing of it can take effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Only the leader can do this.
    #[error("this node is not the leader: {}", ask(*.leader))]
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
    #[error("leadership is being transferred: try again once there is a new leader")]
    Transferring,
    /// Another membership change is under way.
    #[error("the membership change at {index} is in progress: try again when it is committed")]
    ChangeInProgress {
        /// Position of its entry.
        index: LogIndex,
    },
    /// The change makes no sense.
    #[error("membership change refused: {0}")]
    InvalidChange(#[from] ChangeError),
    /// A learner lacks too much to become a voter: commits would wait for it.
    #[error(
        "membership change refused: {id} holds the log up to {match_index} of {last_index}: \
         try again when it has caught up"
    )]
    NotCaughtUp {
        /// Who.
        id: NodeId,
        /// What it is known to hold.
        match_index: LogIndex,
        /// The end of the leader's log.
        last_index: LogIndex,
    },
    /// Leadership could not be confirmed in time (no quorum, or lost).
    #[error("leadership could not be confirmed by a quorum: try again once a majority is up")]
    Unconfirmed,
    /// There is no such voter, or none that could take over now.
    #[error("leadership transfer refused: {0}")]
    InvalidTarget(#[from] TargetError),
    /// The node was told by a committed membership that it is no member.
    #[error(
        "this node was removed from the cluster: to bring it back, let it join with an empty data \
         directory"
    )]
    Removed,
    /// Its state differs from the majority's.
    #[error(transparent)]
    Diverged(Divergence),
}

fn ask(leader: Option<NodeId>) -> String {
    match leader {
        Some(leader) => format!("{leader} is, ask there"),
        None => "none is known, try again once one is elected".to_owned(),
    }
}

/// What is wrong with a membership change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// It names nobody.
    #[error("{0} is not a member: let it join first")]
    UnknownMember(NodeId),
    /// Nobody could decide anything any more.
    #[error("it would leave no voter: promote another member first")]
    NoVoterLeft,
    /// The old half of a joint membership would count the vote of a directory
    /// that forgot its votes.
    #[error("voter {0} has a new incarnation: replace it alone, not with other voters")]
    RebornVoter(NodeId),
    /// A membership entry was proposed like a command.
    #[error("a membership is changed, not proposed")]
    Proposed,
}

/// Why leadership does not go there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Nothing to hand over.
    #[error("{0} leads already")]
    LeadsAlready(NodeId),
    /// It could not lead.
    #[error("{0} is no voter: promote it first, or name another")]
    NoVoter(NodeId),
    /// It would not hear of it.
    #[error("{0} does not answer: name another, or none")]
    Silent(NodeId),
    /// The only voter, or the only one that answers.
    #[error("no other voter answers: try again when one is up")]
    Nobody,
}
