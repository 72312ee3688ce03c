//! What a simulated node keeps: a log image, snapshots and a store.

use std::sync::Arc;

use holdfast::types::{
    Checkpoint, Entry, EntryPayload, HardState, LogIndex, LogWrite, Membership, SnapshotMeta, Term,
};

/// The log as a disk holds it.
#[derive(Clone, Debug, Default)]
pub struct LogImage {
    pub hard_state: HardState,
    /// The position before the first entry and, where known, its term.
    pub base: (LogIndex, Term),
    pub entries: Vec<Entry>,
}

impl LogImage {
    pub fn last(&self) -> (LogIndex, Term) {
        self.entries
            .last()
            .map_or(self.base, |entry| (entry.index, entry.term))
    }

    pub fn entry(&self, index: LogIndex) -> Option<&Entry> {
        let position = index.0.checked_sub(self.base.0.0 + 1)?;
        self.entries.get(position as usize)
    }

    /// Applies one write, checking that it fits.
    pub fn write(&mut self, write: &LogWrite) {
        if let Some(hard_state) = write.hard_state {
            let old = self.hard_state;
            assert!(
                old.term <= hard_state.term,
                "TermMonotone: {old:?} then {hard_state:?}"
            );
            if old.term == hard_state.term && old.vote.is_some() {
                assert_eq!(old.vote, hard_state.vote, "VoteMonotone in {:?}", old.term);
            }
            self.hard_state = hard_state;
        }
        if let Some(meta) = &write.reset_to {
            self.base = (meta.index, meta.term);
            self.entries.clear();
        }
        if let Some(from) = write.truncate_from {
            assert!(
                from <= self.last().0,
                "truncate from {from:?} beyond {:?}",
                self.last()
            );
            self.entries.retain(|entry| entry.index < from);
        }
        for entry in &write.entries {
            assert_eq!(entry.index, self.last().0.next(), "a gap in {write:?}");
            self.entries.push(entry.clone());
        }
        assert!(
            self.hard_state.commit_index <= self.last().0,
            "commit ahead of the log"
        );
        assert!(
            self.last().1 <= self.hard_state.term,
            "entries ahead of the term"
        );
    }

    pub fn purge(&mut self, through: LogIndex) {
        let term = self.entry(through).expect("purge of what is there").term;
        self.entries.retain(|entry| through < entry.index);
        self.base = (through, term);
    }

    pub fn range(&self, first: LogIndex, last: LogIndex, bytes_max: usize) -> Vec<Entry> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        for index in first.0..=last.0 {
            let Some(entry) = self.entry(LogIndex(index)) else {
                break;
            };
            bytes += entry.size();
            if !taken.is_empty() && bytes_max < bytes {
                break;
            }
            taken.push(entry.clone());
        }
        taken
    }
}

/// A state machine that remembers only a digest of all it executed.
#[derive(Clone, Debug, Default)]
pub struct Store {
    pub applied: (LogIndex, Term),
    pub digest: u64,
    pub membership: Arc<Membership>,
    pub membership_index: LogIndex,
}

impl Store {
    pub fn apply(&mut self, entry: &Entry) {
        assert_eq!(entry.index, self.applied.0.next(), "applied out of order");
        self.applied = (entry.index, entry.term);
        self.digest = mix(self.digest, hash(entry));
        if let EntryPayload::Membership(membership) = &entry.payload {
            self.membership = Arc::clone(membership);
            self.membership_index = entry.index;
        }
    }

    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            index: self.applied.0,
            digest: self.digest.into(),
        }
    }

    pub fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            index: self.applied.0,
            term: self.applied.1,
            membership: Arc::clone(&self.membership),
            membership_index: self.membership_index,
        }
    }
}

/// A snapshot file: the store, whole.
pub type Snapshot = Store;

pub fn hash(entry: &Entry) -> u64 {
    let (kind, bytes) = holdfast::codec::encode_payload(&entry.payload);
    let seed = mix(entry.index.0, mix(entry.term.0, u64::from(kind)));
    bytes
        .iter()
        .fold(seed, |sum, byte| mix(sum, u64::from(*byte)))
}

fn mix(a: u64, b: u64) -> u64 {
    (a.rotate_left(5) ^ b).wrapping_mul(0x517C_C1B7_2722_0A95)
}
