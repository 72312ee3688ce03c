//! What must become durable, and how completion is named.

use std::sync::Arc;

use bincode::{Decode, Encode};

use super::{Entry, LogIndex, Membership, NodeId, Sequence, Term};

/// The part of the state a node must not forget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub struct HardState {
    /// Highest term seen.
    pub term: Term,
    /// Candidate chosen in `term`.
    pub vote: Option<NodeId>,
    /// A commit index; may lag, never exceeds the entries written with it.
    pub commit_index: LogIndex,
}

/// A durability point: completions arrive in `sequence` order; one of an older
/// `accepted_term` never counts for entries of a newer (ABA, catalogue R17).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub struct Mark {
    /// Term in which the write was requested.
    pub accepted_term: Term,
    /// Order of the request.
    pub sequence: Sequence,
}

/// One atomic write to the log: everything in it becomes durable together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub struct LogWrite {
    /// New hard state; `None` keeps the last one.
    pub hard_state: Option<HardState>,
    /// Drops every entry from here on before appending. `None`: plain append.
    pub truncate_from: Option<LogIndex>,
    /// Consecutive entries; the first follows the log's end after truncation.
    pub entries: Vec<Entry>,
    /// Replaces the whole log: it now begins after this snapshot (which is
    /// already durable under its final name when the write is made). With
    /// entries present they follow it.
    pub reset_to: Option<SnapshotMeta>,
}

/// What a snapshot covers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub struct SnapshotMeta {
    /// Last log position it includes.
    pub index: LogIndex,
    /// Term of that entry.
    pub term: Term,
    /// Membership committed at `index`.
    pub membership: Arc<Membership>,
    /// Log position of that membership.
    pub membership_index: LogIndex,
}
