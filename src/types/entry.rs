//! What the Raft log holds.

use std::fmt;
use std::sync::Arc;

use bincode::{Decode, Encode};

use super::{LogIndex, Membership, Term};

/// One element of the Raft log.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub struct Entry {
    /// Position, from 1, without gaps.
    pub index: LogIndex,
    /// Term of the leader that appended it.
    pub term: Term,
    /// What it says.
    pub payload: EntryPayload,
}

/// What an entry says.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub enum EntryPayload {
    /// A new leader's first entry: commits everything before it.
    Noop,
    /// An encoded [`super::Command`]; opaque to the consensus core.
    Command(Arc<[u8]>),
    /// A membership, active from the moment it is appended.
    Membership(Arc<Membership>),
}

impl Entry {
    /// Approximate size in bytes, for windows and caches.
    #[must_use]
    pub fn size(&self) -> usize {
        self.payload.entry_size()
    }
}

impl EntryPayload {
    /// Approximate size in bytes of an entry that says this.
    #[must_use]
    pub fn entry_size(&self) -> usize {
        const OVERHEAD: usize = 32;
        OVERHEAD
            + match self {
                Self::Noop => 0,
                Self::Command(bytes) => bytes.len(),
                Self::Membership(membership) => membership.size(),
            }
    }
}

// Payloads hold ciphertext, but a log line is no place for them either way.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{:?} {:?}", self.term, self.index, self.payload)
    }
}

impl fmt::Debug for EntryPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Noop => f.write_str("noop"),
            Self::Command(bytes) => write!(f, "command[{}]", bytes.len()),
            Self::Membership(membership) => write!(f, "{membership:?}"),
        }
    }
}
