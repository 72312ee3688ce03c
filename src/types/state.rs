//! What a snapshot of the replicated store consists of: the vocabulary that
//! `store` yields and `snapshot` writes.

use std::fmt;

use bincode::{Decode, Encode};

use super::{LogIndex, Pair};

/// One storage entry of a snapshot.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Storage path and value.
    pub pair: Pair,
    /// Gathered by a restore in progress, not yet part of the state.
    pub staged: bool,
}

/// What a snapshot holds besides its [`super::SnapshotMeta`] and its records.
/// All of it is replicated: equal on every node at one index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateHeader {
    /// Version of the state machine that produced the state.
    pub state_machine_version: u16,
    /// Counts committed restores.
    pub restore_epoch: u64,
    /// A restore that has begun and not ended.
    pub restore: Option<RestoreProgress>,
    /// Records that are part of the state.
    pub entry_count: u64,
    /// Records gathered by `restore`; 0 without one.
    pub staged_count: u64,
}

/// How far a restore has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreProgress {
    /// Which restore.
    pub id: u128,
    /// Chunks gathered so far; also the sequence of the next.
    pub chunk_count: u64,
}

/// What a replica's whole state amounted to once it had applied `index`. Two
/// replicas that applied the same entries have the same digest there, whatever
/// snapshots or restarts lie between.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub struct Checkpoint {
    /// Last position applied.
    pub index: LogIndex,
    /// Of the state then.
    pub digest: u128,
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:x}", self.index, self.digest)
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.staged { " staged" } else { "" };
        write!(f, "{:?}{mark}", self.pair)
    }
}
