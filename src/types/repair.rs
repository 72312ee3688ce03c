//! What nodes say to each other about entries that one of them lost (D-030).

use bincode::{Decode, Encode};

use super::{Entry, LogIndex, Term};

/// One word of that conversation. No consensus: it changes nothing but the
/// damaged log of whoever asks.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum RepairMessage {
    /// A node asks for what it lost.
    Ask(RepairAsk),
    /// What the other holds of it.
    Answer(RepairAnswer),
    /// Entries will not do: a node asks for the newest snapshot's stream.
    AskSnapshot,
}

/// Positions whose entries are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RepairAsk {
    /// First position.
    pub first: LogIndex,
    /// Last position.
    pub last: LogIndex,
    /// A position at or after `last`, and the term known there: a log that
    /// holds that entry held the same ones before it (Log Matching).
    pub anchor: (LogIndex, Term),
    /// The term of the first one, if it is known.
    pub first_term: Option<Term>,
}

/// What a node holds of what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RepairAnswer {
    /// The question.
    pub ask: RepairAsk,
    /// Whether the log that answers holds the anchor. If not, entries of the
    /// anchor's term and committed ones alone are given.
    pub is_anchored: bool,
    /// Entries from `first` to `last`, ascending; some or none of them.
    pub entries: Vec<Entry>,
    /// Up to here the log that answers is durable and committed.
    pub commit_index: LogIndex,
    /// The newest committed entry up to the anchor's position, if its term is
    /// still known there.
    pub committed: Option<(LogIndex, Term)>,
    /// First position still in that log.
    pub log_first: LogIndex,
    /// What the newest durable snapshot there covers; 0 without one.
    pub snapshot_index: LogIndex,
    /// A node that has lost nothing has nothing for the first position asked
    /// for: no entry that may be it, nor a snapshot that covers it. Of one that
    /// has lost something this is never known.
    pub lacks_first: bool,
}

impl RepairMessage {
    /// Approximate size in bytes, for queues.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Answer(answer) => answer.entries.iter().map(Entry::size).sum(),
            Self::Ask(_) | Self::AskSnapshot => 0,
        }
    }
}
