//! What a node's log holds, written and durable, rebuilt from the writes it
//! asked for and the completions it was told.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::codec;
use crate::sim::history::{Life, Property, Verdict, Violation};
use crate::types::{
    Entry, EntryPayload, HardState, LogIndex, LogWrite, Mark, Membership, NodeId, SnapshotMeta,
    Term,
};

/// An entry, by what tells it from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) term: Term,
    /// Of the payload. Its highest bits tell the kind.
    pub(super) hash: u64,
}

impl Held {
    pub(super) fn of(entry: &Entry) -> Self {
        Self {
            term: entry.term,
            hash: hash(&entry.payload),
        }
    }
}

/// A write with its entries reduced to what tells them apart.
#[derive(Clone, Debug)]
struct Write {
    hard_state: Option<HardState>,
    truncate_from: Option<LogIndex>,
    reset_to: Option<SnapshotMeta>,
    first: LogIndex,
    entries: Vec<Held>,
    memberships: Vec<(LogIndex, Arc<Membership>)>,
}

/// A log, as a disk holds it.
#[derive(Clone, Debug, Default)]
pub(super) struct LogImage {
    pub(super) hard_state: HardState,
    /// The position before the first entry; its term is 0 where unknown.
    base: (LogIndex, Term),
    entries: VecDeque<Held>,
    /// Ascending; the last is active.
    memberships: Vec<(LogIndex, Arc<Membership>)>,
}

/// The log of one life: what was asked of the disk, and what it did.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) written: LogImage,
    pub(super) durable: LogImage,
    /// The commit index that the log notes. What only a snapshot told of it is
    /// lost with its file.
    noted: LogIndex,
    pending: VecDeque<(Mark, Write)>,
}

impl LogImage {
    pub(super) fn base(&self) -> LogIndex {
        self.base.0
    }

    pub(super) fn last(&self) -> (LogIndex, Term) {
        match self.entries.back() {
            Some(held) => (
                LogIndex(self.base.0.0 + self.entries.len() as u64),
                held.term,
            ),
            None => self.base,
        }
    }

    pub(super) fn held(&self, index: LogIndex) -> Option<Held> {
        let position = index.0.checked_sub(self.base.0.0 + 1)?;
        self.entries.get(position as usize).copied()
    }

    /// Whether the log has this entry, or had it until it was purged: what is
    /// purged was committed.
    pub(super) fn has(&self, index: LogIndex, term: Term) -> bool {
        index <= self.base.0 || self.held(index).is_some_and(|held| held.term == term)
    }

    /// The term at `index`, where the log still knows it.
    pub(super) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.0 {
            return Some(self.base.1).filter(|term| Term(0) < *term);
        }
        self.held(index).map(|held| held.term)
    }

    /// The membership before the one that counts.
    pub(super) fn membership_before_last(&self) -> Option<&Arc<Membership>> {
        self.memberships
            .iter()
            .rev()
            .nth(1)
            .map(|(_, membership)| membership)
    }

    /// Each membership among freshly written entries, with the one before it.
    pub(super) fn memberships_around(
        &self,
        entries: &[Entry],
    ) -> impl Iterator<Item = (&Membership, &Membership)> {
        let first = entries
            .first()
            .map_or(LogIndex(u64::MAX), |entry| entry.index);
        let pairs = self.memberships.windows(2);
        pairs
            .filter(move |pair| first <= pair[1].0)
            .map(|pair| (pair[0].1.as_ref(), pair[1].1.as_ref()))
    }

    /// The membership that counts, if the log names any.
    pub(super) fn membership(&self) -> Option<&Arc<Membership>> {
        self.memberships.last().map(|(_, membership)| membership)
    }

    fn write(&mut self, life: Life, write: &Write) -> Verdict {
        if let Some(hard_state) = write.hard_state {
            self.write_hard_state(life, hard_state)?;
        }
        if let Some(meta) = &write.reset_to {
            self.base = (meta.index, meta.term);
            self.entries.clear();
            self.memberships = vec![(meta.membership_index, Arc::clone(&meta.membership))];
        }
        if let Some(from) = write.truncate_from {
            let kept = from.0.saturating_sub(self.base.0.0 + 1);
            self.entries.truncate(kept as usize);
            self.memberships.retain(|(index, _)| *index < from);
        }
        let last = self.last();
        let follows = write.entries.is_empty() || write.first == last.0.next();
        Violation::unless(follows, Property::WriteOrder, life, || {
            (format!("the log ends at {last:?}"), format!("{write:?}"))
        })?;
        self.entries.extend(&write.entries);
        self.memberships.extend_from_slice(&write.memberships);
        let (last, hard_state) = (self.last(), self.hard_state);
        let covered = hard_state.commit_index <= last.0 && last.1 <= hard_state.term;
        Violation::unless(covered, Property::WriteOrder, life, || {
            (
                format!("the log ends at {last:?}"),
                format!("{hard_state:?}"),
            )
        })
    }

    fn write_hard_state(&mut self, life: Life, new: HardState) -> Verdict {
        let old = self.hard_state;
        let sides = || (format!("{old:?} was written"), format!("then {new:?}"));
        Violation::unless(old.term <= new.term, Property::TermMonotone, life, sides)?;
        let changed = old.term == new.term && old.vote.is_some() && old.vote != new.vote;
        Violation::unless(!changed, Property::VoteMonotone, life, sides)?;
        self.hard_state = new;
        Ok(())
    }

    fn purge(&mut self, through: LogIndex) {
        if let Some(held) = self.held(through) {
            let count = through.0 - self.base.0.0;
            self.entries.drain(..count as usize);
            self.base = (through, held.term);
        }
    }

    /// Whether a restart found exactly this: entries that were purged here may
    /// still be there.
    fn equals(&self, found: &Self) -> bool {
        let first = self.base.0.max(found.base.0).next();
        let tail = |image: &Self| {
            let skipped = first.0 - image.base.0.0 - 1;
            image
                .entries
                .iter()
                .skip(skipped as usize)
                .copied()
                .collect::<Vec<_>>()
        };
        let last = |image: &Self| LogIndex(image.base.0.0 + image.entries.len() as u64);
        self.hard_state == found.hard_state
            && last(self) == last(found)
            && tail(self) == tail(found)
    }
}

impl Disk {
    /// What a disk held at the first start that was seen.
    pub(super) fn found(
        hard_state: HardState,
        snapshot: Option<&SnapshotMeta>,
        entries: &[Entry],
    ) -> Self {
        let mut image = LogImage {
            hard_state,
            ..LogImage::default()
        };
        if let Some(meta) = snapshot {
            image
                .memberships
                .push((meta.membership_index, Arc::clone(&meta.membership)));
            image.base = (meta.index, meta.term);
        }
        if let Some(first) = entries.first().map(|entry| entry.index.previous()) {
            let known = image.base.0 == first;
            image.base = (first, if known { image.base.1 } else { Term(0) });
        }
        image.entries.extend(entries.iter().map(Held::of));
        image.memberships.extend(memberships(entries));
        Self {
            written: image.clone(),
            durable: image,
            noted: LogIndex(0),
            pending: VecDeque::new(),
        }
    }

    /// The core asked for a write.
    pub(super) fn issue(&mut self, life: Life, mark: Mark, write: &LogWrite) -> Verdict {
        let write = Write {
            hard_state: write.hard_state,
            truncate_from: write.truncate_from,
            reset_to: write.reset_to.clone(),
            first: write
                .entries
                .first()
                .map_or(LogIndex(0), |entry| entry.index),
            entries: write.entries.iter().map(Held::of).collect(),
            memberships: memberships(&write.entries).collect(),
        };
        self.written.write(life, &write)?;
        self.pending.push_back((mark, write));
        Ok(())
    }

    /// Everything up to `mark` is on the disk.
    pub(super) fn complete(&mut self, life: Life, mark: Mark) -> Verdict {
        let reached = |(pending, _): &(Mark, Write)| pending.sequence <= mark.sequence;
        while self.pending.front().is_some_and(reached) {
            let Some((_, write)) = self.pending.pop_front() else {
                break;
            };
            self.note(life, &write)?;
        }
        Ok(())
    }

    fn note(&mut self, life: Life, write: &Write) -> Verdict {
        self.durable.write(life, write)?;
        if write.hard_state.is_some() {
            self.noted = self.durable.hard_state.commit_index;
        }
        Ok(())
    }

    pub(super) fn purge(&mut self, through: LogIndex) {
        self.written.purge(through);
        self.durable.purge(through);
    }

    /// Whether a restart makes that of what is durable and of its newest
    /// snapshot.
    ///
    /// What a snapshot covers was committed, whatever the log notes of it. One
    /// that was published when the crash came, before the log was reset to it,
    /// has the log reset now. A term and vote that a torn write still tells are
    /// kept, though nothing else of that write is. A commit index that the log
    /// does not note may be forgotten: the snapshot that told it may be damaged,
    /// and it is no promise, for a leader has what is committed.
    fn is_found_as(&self, found: &LogImage, snapshot: Option<&SnapshotMeta>) -> bool {
        let mut image = self.durable.clone();
        let committed = &mut image.hard_state.commit_index;
        *committed = found.hard_state.commit_index.clamp(self.noted, *committed);
        let choice = |state: &HardState| (state.term, state.vote);
        let told = self
            .pending
            .iter()
            .filter_map(|(_, write)| write.hard_state);
        if told
            .map(|state| choice(&state))
            .any(|known| known == choice(&found.hard_state))
        {
            image.hard_state.term = found.hard_state.term;
            image.hard_state.vote = found.hard_state.vote;
        }
        // Whoever starts the core may leave it to the core to see all this.
        let Some(meta) = snapshot.filter(|_| !image.equals(found)) else {
            return image.equals(found);
        };
        let hard_state = &mut image.hard_state;
        hard_state.commit_index = hard_state.commit_index.max(meta.index);
        if image.has(meta.index, meta.term) {
            return image.equals(found);
        }
        if image.hard_state.term < meta.term {
            image.hard_state.term = meta.term;
            image.hard_state.vote = None;
        }
        image.base = (meta.index, meta.term);
        image.entries.clear();
        image.equals(found)
    }

    /// Recovery: what was found is what was durable, and some first ones of the
    /// writes under way.
    pub(super) fn restart(
        &mut self,
        life: Life,
        found: Self,
        snapshot: Option<&SnapshotMeta>,
    ) -> Verdict {
        let acknowledged = self.durable.hard_state;
        let last = self.durable.last();
        let mut survivors = 0;
        while !self.is_found_as(&found.durable, snapshot) {
            let Some((_, write)) = self.pending.pop_front() else {
                return Violation::unless(false, Property::Recovery, life, || {
                    let writes = format!("and {survivors} writes may have survived");
                    (
                        format!("{acknowledged:?} and a log to {last:?} were durable, {writes}"),
                        format!("{:?}, {:?}", found.durable.hard_state, found.durable.last()),
                    )
                });
            };
            survivors += 1;
            self.note(life, &write)?;
        }
        self.pending.clear();
        self.durable = found.durable;
        self.written = self.durable.clone();
        Ok(())
    }
}

/// A member of a membership, as the life that joined.
pub(super) fn life_of(membership: &Membership, node: NodeId) -> Life {
    let incarnation = membership
        .members
        .get(&node)
        .map(|member| member.incarnation);
    Life {
        node,
        incarnation: incarnation.unwrap_or_default(),
    }
}

/// Tells payloads apart.
pub(super) fn hash(payload: &EntryPayload) -> u64 {
    let (kind, hash) = match payload {
        EntryPayload::Noop => (0, 0),
        EntryPayload::Command(bytes) => (KIND_COMMAND, hash_bytes(bytes)),
        EntryPayload::Membership(_) => (2, hash_bytes(&codec::encode_payload(payload).1)),
    };
    (kind << KIND_SHIFT) | (hash >> 2)
}

/// Whether a [`hash`] is that of a command.
pub(super) fn is_command(hash: u64) -> bool {
    hash >> KIND_SHIFT == KIND_COMMAND
}

fn hash_bytes(bytes: &[u8]) -> u64 {
    let mix = |sum: u64, word: u64| (sum.rotate_left(5) ^ word).wrapping_mul(0x517C_C1B7_2722_0A95);
    let mut sum = mix(1, bytes.len() as u64);
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        sum = mix(sum, u64::from_le_bytes(word));
    }
    sum
}

const KIND_SHIFT: u32 = 62;
const KIND_COMMAND: u64 = 1;

fn memberships(entries: &[Entry]) -> impl Iterator<Item = (LogIndex, Arc<Membership>)> {
    entries.iter().filter_map(|entry| match &entry.payload {
        EntryPayload::Membership(membership) => Some((entry.index, Arc::clone(membership))),
        _ => None,
    })
}
