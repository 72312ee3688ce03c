//! An immutable picture of the store at one applied index.

use std::sync::Arc;

use crate::types::{
    LogIndex, Membership, Pair, Record, SnapshotMeta, StateHeader, StoredValue, Term,
};

use super::entries::{Entries, Scan};
use super::restore::Shadow;
use super::{Applied, STATE_MACHINE_VERSION};

/// The state at one applied index. Cheap to clone, never changes, may be read
/// from any thread. Dropping the last view of an old state frees it, which
/// takes a while for a large one: do that off the threads that must not wait.
#[derive(Clone)]
pub struct View {
    pub(super) entries: Entries,
    pub(super) shadow: Option<Shadow>,
    pub(super) applied: Applied,
}

impl View {
    /// The value at `key`.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<StoredValue> {
        self.entries.pair(key).map(Pair::stored)
    }

    /// Names directly below `prefix` (which ends in `/` or is empty),
    /// ascending; a name with more below it appears once and ends in `/`.
    #[must_use]
    pub fn list(&self, prefix: &str) -> Vec<String> {
        self.entries.list(prefix)
    }

    /// All entries in key order; the walk owns its picture.
    #[must_use]
    pub fn scan(&self) -> Scan {
        self.entries.scan()
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.count()
    }

    /// Whether there are no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Length of all keys and values, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.entries.bytes()
    }

    /// Length of the keys and values a restore in progress has gathered.
    #[must_use]
    pub fn staged_bytes(&self) -> u64 {
        self.shadow
            .as_ref()
            .map_or(0, |shadow| shadow.entries.bytes())
    }

    /// Last log position this picture includes.
    #[must_use]
    pub fn applied_index(&self) -> LogIndex {
        self.applied.index
    }

    /// Term of that entry.
    #[must_use]
    pub fn applied_term(&self) -> Term {
        self.applied.term
    }

    /// Committed restores so far.
    #[must_use]
    pub fn restore_epoch(&self) -> u64 {
        self.applied.restore_epoch
    }

    /// The last membership applied.
    #[must_use]
    pub fn membership(&self) -> &Arc<Membership> {
        &self.applied.membership
    }

    /// Log position of that membership.
    #[must_use]
    pub fn membership_index(&self) -> LogIndex {
        self.applied.membership_index
    }

    /// What a snapshot of this picture covers.
    #[must_use]
    pub fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            index: self.applied.index,
            term: self.applied.term,
            membership: Arc::clone(&self.applied.membership),
            membership_index: self.applied.membership_index,
        }
    }

    /// What a snapshot of this picture says before its records.
    #[must_use]
    pub fn header(&self) -> StateHeader {
        let staged = self.shadow.as_ref();
        StateHeader {
            state_machine_version: STATE_MACHINE_VERSION,
            restore_epoch: self.applied.restore_epoch,
            restore: staged.map(|shadow| shadow.progress),
            entry_count: self.entries.count() as u64,
            staged_count: staged.map_or(0, |shadow| shadow.entries.count() as u64),
        }
    }

    /// The records of a snapshot of this picture: the state in key order, then
    /// what a restore in progress has gathered, in key order.
    pub fn records(&self) -> impl Iterator<Item = Record> + Send + 'static {
        let record = |staged| move |pair| Record { pair, staged };
        let staged = self.shadow.as_ref().map(|shadow| shadow.entries.scan());
        self.scan()
            .map(record(false))
            .chain(staged.into_iter().flatten().map(record(true)))
    }
}
