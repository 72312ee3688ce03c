//! What one node has on its disk, and what its store executed.

use std::sync::Arc;

use crate::raft::Recovered;
use crate::types::{
    Entry, EntryPayload, HardState, LogIndex, LogWrite, Membership, SnapshotMeta, Term,
};

/// The durable log and the snapshots beside it.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(super) struct Disk {
    pub(super) hard_state: HardState,
    /// The position before the first entry and its term.
    pub(super) base: (LogIndex, Term),
    pub(super) entries: Vec<Entry>,
    /// The newest two, oldest first.
    pub(super) snapshots: Vec<SnapshotMeta>,
}

impl Disk {
    pub(super) fn last(&self) -> (LogIndex, Term) {
        self.entries
            .last()
            .map_or(self.base, |entry| (entry.index, entry.term))
    }

    pub(super) fn entry(&self, index: LogIndex) -> Option<&Entry> {
        let position = index.0.checked_sub(self.base.0.0 + 1)?;
        self.entries.get(position as usize)
    }

    /// The term at a position, the base included.
    pub(super) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        self.entry(index).map(|entry| entry.term)
    }

    /// Applies one write.
    ///
    /// # Errors
    /// A sentence, when a durable promise would be taken back.
    pub(super) fn write(&mut self, write: &LogWrite) -> Result<(), String> {
        if let Some(next) = write.hard_state {
            let old = self.hard_state;
            let keeps_vote = old.term < next.term || old.vote.is_none() || old.vote == next.vote;
            if next.term < old.term || !keeps_vote {
                return Err(format!("{old:?} becomes {next:?} on disk"));
            }
            self.hard_state = next;
        }
        if let Some(meta) = &write.reset_to {
            self.publish(meta);
            self.base = (meta.index, meta.term);
            self.entries.clear();
        }
        if let Some(from) = write.truncate_from {
            self.entries.retain(|entry| entry.index < from);
        }
        for entry in &write.entries {
            if entry.index != self.last().0.next() {
                return Err(format!("{entry:?} leaves a gap after {:?}", self.last()));
            }
            self.entries.push(entry.clone());
        }
        if self.last().0 < self.hard_state.commit_index || self.hard_state.term < self.last().1 {
            return Err(format!("{:?} over {:?}", self.hard_state, self.last()));
        }
        Ok(())
    }

    /// A snapshot is under its final name.
    pub(super) fn publish(&mut self, meta: &SnapshotMeta) {
        if self.snapshots.last() != Some(meta) {
            self.snapshots.push(meta.clone());
        }
        let surplus = self.snapshots.len().saturating_sub(2);
        self.snapshots.drain(..surplus);
    }

    pub(super) fn purge(&mut self, through: LogIndex) {
        if let Some(term) = self.term_at(through) {
            self.entries.retain(|entry| through < entry.index);
            self.base = (through, term);
        }
    }

    /// What a start from this disk finds; the store holds the newest snapshot.
    pub(super) fn recovered(&self) -> Recovered {
        let snapshot = self.snapshots.last().cloned();
        Recovered {
            hard_state: self.hard_state,
            applied_index: snapshot.as_ref().map_or(LogIndex(0), |meta| meta.index),
            entries: self.entries.clone(),
            snapshot,
        }
    }
}

/// A state machine of which only the position matters: what it executed is
/// compared with what was committed.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(super) struct Store {
    pub(super) applied: (LogIndex, Term),
    membership: Arc<Membership>,
    membership_index: LogIndex,
}

impl Store {
    pub(super) fn restored(meta: Option<&SnapshotMeta>) -> Self {
        meta.map_or_else(Self::default, |meta| Self {
            applied: (meta.index, meta.term),
            membership: Arc::clone(&meta.membership),
            membership_index: meta.membership_index,
        })
    }

    pub(super) fn apply(&mut self, entry: &Entry) {
        self.applied = (entry.index, entry.term);
        if let EntryPayload::Membership(membership) = &entry.payload {
            self.membership = Arc::clone(membership);
            self.membership_index = entry.index;
        }
    }

    pub(super) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            index: self.applied.0,
            term: self.applied.1,
            membership: Arc::clone(&self.membership),
            membership_index: self.membership_index,
        }
    }
}
