//! What servers say to each other: the vocabulary of the specification.

use super::log::At;
use crate::types::{LogIndex, NodeId, Term};

/// A statement made in a term.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Said {
    pub(super) term: Term,
    pub(super) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// "Vote for me": the end of the candidate's log.
    Campaign(At),
    /// "You have my vote."
    Vote,
    /// Entries after a position, by their digest.
    Append(At, u64, Told),
    /// "I lead."
    Beat(Told),
    /// "My log equals yours up to here, on my disk."
    Ack(LogIndex),
    /// "I take you for the leader, and heard you in this round."
    Heard(u64),
    /// "Take the snapshot that ends there."
    Install(At),
    /// "Campaign now."
    TimeoutNow,
    /// "Where may I read?", under a name of the asker's choice.
    AskRead(u64),
    /// "There", under that name.
    Read(u64, LogIndex),
    /// A refusal: binds nobody, names the term.
    Other(u8),
    /// A pre-vote: binds nobody, in a term that its sender is not in.
    Speculation(u8),
}

/// What every leader's message tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Told {
    pub(super) commit: LogIndex,
    /// Whoever answers says that it heard this round.
    pub(super) round: u64,
}

/// Who wants to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asker {
    Own(u64),
    Peer(NodeId, u64),
}
