//! What servers say to each other: the vocabulary of the specification.

use super::log::{At, Entry};
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
    /// "These entries follow that one in my log."
    Append(At, Vec<Entry>, Told),
    /// "I lead."
    Beat(Told),
    /// "My log equals yours up to here, on my disk."
    Ack(LogIndex),
    /// "I take you for the leader, and heard you in this round"; 0 is none.
    Heard(u64),
    /// "Take my log up to there, as a snapshot."
    Install(At),
    /// "Campaign now."
    TimeoutNow,
    /// "Where may I read?", by number.
    AskRead(u64),
    /// "There", to the question of that number.
    Read(u64, LogIndex),
    /// Any refusal.
    No,
}

/// A leader's commit index, and a round that whoever answers has heard.
pub(super) type Told = (LogIndex, u64);

/// A read under way: who asks for it, and its number there.
pub(super) type Asker = (NodeId, u64);
