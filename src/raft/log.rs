//! The log as the core sees it: the term of every live position, the newest
//! entries themselves, and how far they are written, durable, committed and
//! applied.
//!
//! Terms are kept as runs (a log of millions of entries has a handful), so a
//! consistency check never needs the disk. Entries are cached up to a bound;
//! only applied ones are evicted, so whatever may still be sent before it is
//! durable, truncated or applied is always here.
//!
//! Positions, lowest first: `base <= snapshot <= applied <= handed <= commit
//! <= last`; `base` is the position before the first live entry.

use std::collections::VecDeque;

use crate::raft::RecoverError;
use crate::types::{Entry, LogIndex, SnapshotMeta, Term};

/// A position and the term of its entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub(super) struct Position {
    pub(super) index: LogIndex,
    pub(super) term: Term,
}

/// Consecutive entries of one term, from `first` to the next run.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
struct Run {
    first: LogIndex,
    term: Term,
}

/// What the disk still lacks; taken once per step.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    pub(super) reset_to: Option<SnapshotMeta>,
    pub(super) truncate_from: Option<LogIndex>,
    pub(super) entries: Vec<Entry>,
}

/// See the module.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub(super) struct Log {
    base: Position,
    runs: VecDeque<Run>,
    last: LogIndex,
    /// A suffix of the log, ending at `last`.
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    cache_bytes_max: usize,
    /// The newest durable snapshot of this node.
    snapshot: Position,
    /// The one before it: what must be replayed should the newest be damaged.
    snapshot_before: LogIndex,
    commit: LogIndex,
    handed: LogIndex,
    applied: LogIndex,
    durable: LogIndex,
    /// Up to here entries were put into a write.
    written: LogIndex,
    truncate_from: Option<LogIndex>,
    reset_to: Option<SnapshotMeta>,
    uncommitted_bytes: usize,
}

impl Log {
    /// The log as it was found: entries after `snapshot`, or from further back.
    ///
    /// # Errors
    /// Gaps, terms that fall, a missing beginning.
    pub(super) fn recover(
        snapshot: Option<&SnapshotMeta>,
        entries: Vec<Entry>,
        cache_bytes_max: usize,
    ) -> Result<Self, RecoverError> {
        let snapshot_at = snapshot.map_or_else(Position::default, |meta| Position {
            index: meta.index,
            term: meta.term,
        });
        check_consecutive(&entries)?;
        let first = entries.first().map(|entry| entry.index);
        if let Some(first) = first.filter(|first| *first > snapshot_at.index.next()) {
            return Err(RecoverError::Gap {
                first,
                snapshot: snapshot_at.index,
            });
        }
        let mut log = Self::empty_after(snapshot_at, cache_bytes_max);
        let agrees = entries
            .iter()
            .find(|entry| entry.index == snapshot_at.index)
            .is_some_and(|entry| entry.term == snapshot_at.term);
        let follows = first == Some(snapshot_at.index.next());
        if agrees || follows {
            check_follows(snapshot_at, &entries[0])?;
            log.adopt(entries);
        } else {
            // A snapshot was installed and the crash came before the log was
            // reset after it: do that now (catalogue S3, S4). With no entries
            // that is not certain, and doing it twice is harmless.
            log.reset_to = snapshot.cloned();
        }
        log.written = log.last;
        log.durable = if log.reset_to.is_some() {
            LogIndex(0)
        } else {
            log.last
        };
        Ok(log)
    }

    /// Entries that agree with the snapshot; they may begin before its end.
    fn adopt(&mut self, entries: Vec<Entry>) {
        let first = entries[0].index;
        let mut anchor = None;
        if first <= self.snapshot.index {
            // The term before the first entry is known only at the very start;
            // otherwise the first entry itself serves as the base.
            let position = Position {
                index: first,
                term: entries[0].term,
            };
            anchor = (first != LogIndex(1)).then_some(position);
            self.base = anchor.unwrap_or_default();
            self.last = self.base.index;
        }
        self.append(entries.into_iter().skip(usize::from(anchor.is_some())));
        let uncommitted = self.cache.iter().filter(|entry| self.commit < entry.index);
        self.uncommitted_bytes = uncommitted.map(Entry::size).sum();
    }

    fn empty_after(position: Position, cache_bytes_max: usize) -> Self {
        Self {
            base: position,
            runs: VecDeque::new(),
            last: position.index,
            cache: VecDeque::new(),
            cache_bytes: 0,
            cache_bytes_max,
            snapshot: position,
            snapshot_before: position.index,
            commit: position.index,
            handed: position.index,
            applied: position.index,
            durable: position.index,
            written: position.index,
            truncate_from: None,
            reset_to: None,
            uncommitted_bytes: 0,
        }
    }

    pub(super) fn base(&self) -> LogIndex {
        self.base.index
    }

    pub(super) fn last(&self) -> Position {
        let term = self.runs.back().map_or(self.base.term, |run| run.term);
        Position {
            index: self.last,
            term,
        }
    }

    pub(super) fn commit(&self) -> LogIndex {
        self.commit
    }

    pub(super) fn handed(&self) -> LogIndex {
        self.handed
    }

    pub(super) fn applied(&self) -> LogIndex {
        self.applied
    }

    pub(super) fn durable(&self) -> LogIndex {
        self.durable
    }

    pub(super) fn snapshot(&self) -> Position {
        self.snapshot
    }

    pub(super) fn snapshot_before(&self) -> LogIndex {
        self.snapshot_before
    }

    pub(super) fn uncommitted_bytes(&self) -> usize {
        self.uncommitted_bytes
    }

    /// The term of the entry at `index`; `None` outside `base..=last`.
    pub(super) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index || self.last < index {
            return None;
        }
        let run = self.runs.partition_point(|run| run.first <= index) - 1;
        Some(self.runs[run].term)
    }

    /// The highest position at or before `index` whose term is at most `term`:
    /// where two logs may still agree. Never below the base.
    pub(super) fn last_at_most(&self, index: LogIndex, term: Term) -> Position {
        let mut index = index.min(self.last);
        while self.base.index < index {
            let run = self.runs[self.runs.partition_point(|run| run.first <= index) - 1];
            if run.term <= term {
                return Position {
                    index,
                    term: run.term,
                };
            }
            index = run.first.previous();
        }
        self.base
    }

    /// Whether a log ending at `other` is at least as complete (thesis 3.6.1).
    pub(super) fn is_up_to_date(&self, other: Position) -> bool {
        let last = self.last();
        (other.term, other.index) >= (last.term, last.index)
    }

    /// Appends consecutive entries.
    pub(super) fn append(&mut self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            let last = self.last();
            assert_eq!(entry.index, last.index.next(), "append leaves a gap");
            assert!(
                last.term <= entry.term,
                "append {entry:?} after term {:?}",
                last.term
            );
            if self.runs.is_empty() || last.term < entry.term {
                self.runs.push_back(Run {
                    first: entry.index,
                    term: entry.term,
                });
            }
            self.last = entry.index;
            self.cache_bytes += entry.size();
            self.uncommitted_bytes += entry.size();
            self.cache.push_back(entry);
        }
        self.evict();
    }

    /// Drops every entry from `from` on.
    pub(super) fn truncate(&mut self, from: LogIndex) {
        assert!(
            self.commit < from,
            "truncate committed entries from {from:?}"
        );
        assert!(from <= self.last, "truncate beyond the end at {from:?}");
        while self.cache.back().is_some_and(|entry| from <= entry.index) {
            let entry = self.cache.pop_back().expect("looked at above");
            self.cache_bytes -= entry.size();
            self.uncommitted_bytes -= entry.size();
        }
        while self.runs.back().is_some_and(|run| from <= run.first) {
            self.runs.pop_back();
        }
        self.last = from.previous();
        self.durable = self.durable.min(self.last);
        if from <= self.written {
            let earlier = self.truncate_from.unwrap_or(from);
            self.truncate_from = Some(earlier.min(from));
            self.written = self.last;
        }
    }

    /// Replaces everything by a snapshot that is about to be made the log's
    /// beginning. Nothing is durable until that write is.
    pub(super) fn reset(&mut self, meta: &SnapshotMeta) {
        assert!(
            self.commit < meta.index,
            "install below commit {:?}",
            self.commit
        );
        let (handed, applied) = (self.handed, self.applied);
        let position = Position {
            index: meta.index,
            term: meta.term,
        };
        *self = Self::empty_after(position, self.cache_bytes_max);
        self.handed = handed;
        self.applied = applied;
        self.durable = LogIndex(0);
        self.reset_to = Some(meta.clone());
    }

    /// Takes what the disk lacks; from now on it counts as written.
    pub(super) fn take_unwritten(&mut self) -> Unwritten {
        let fresh = (self.last.0 - self.written.0) as usize;
        let start = self.cache.len() - fresh;
        self.written = self.last;
        Unwritten {
            reset_to: self.reset_to.take(),
            truncate_from: self.truncate_from.take(),
            entries: self.cache.range(start..).cloned().collect(),
        }
    }

    pub(super) fn has_unwritten(&self) -> bool {
        self.written < self.last || self.truncate_from.is_some() || self.reset_to.is_some()
    }

    /// Everything up to `index` is durable.
    pub(super) fn advance_durable(&mut self, index: LogIndex) {
        assert!(
            index <= self.written,
            "durable {index:?} beyond what was written"
        );
        self.durable = self.durable.max(index);
    }

    /// Raises the commit index; never lowers it. Returns whether it moved.
    pub(super) fn commit_to(&mut self, index: LogIndex) -> bool {
        assert!(
            index <= self.last,
            "commit {index:?} beyond the end {:?}",
            self.last
        );
        if index <= self.commit {
            return false;
        }
        for position in self.commit.0 + 1..=index.0 {
            // Entries found at start may have been evicted below `applied`.
            if let Some(size) = self.cached(LogIndex(position)).map(Entry::size) {
                self.uncommitted_bytes -= size;
            }
        }
        self.commit = index;
        true
    }

    /// The next committed and locally durable entries to execute, of about
    /// `bytes_max` bytes at most (one always fits).
    pub(super) fn hand_out(&mut self, bytes_max: usize) -> Vec<Entry> {
        let end = self.commit.min(self.durable);
        if end <= self.handed || self.handed < self.snapshot.index {
            return Vec::new();
        }
        let entries = self
            .cached_range(self.handed.next(), end, bytes_max)
            .expect("entries not applied are never evicted");
        self.handed = entries.last().expect("the range is not empty").index;
        entries
    }

    /// The snapshot the log was reset to is durable: the store will hold it.
    pub(super) fn hand_out_snapshot(&mut self) {
        self.handed = self.handed.max(self.snapshot.index);
    }

    /// The store reports what it executed; late reports change nothing.
    pub(super) fn advance_applied(&mut self, index: LogIndex) {
        assert!(
            index <= self.handed,
            "applied {index:?}, handed out {:?}",
            self.handed
        );
        self.applied = self.applied.max(index);
        self.evict();
    }

    /// A snapshot of this node's own state became durable.
    pub(super) fn advance_snapshot(&mut self, position: Position) {
        assert!(self.snapshot.index < position.index, "snapshot goes back");
        assert!(
            position.index <= self.handed,
            "snapshot of what was not applied"
        );
        self.snapshot_before = self.snapshot.index;
        self.snapshot = position;
    }

    /// Forgets entries up to `through`. Returns whether any went.
    pub(super) fn purge(&mut self, through: LogIndex) -> bool {
        assert!(
            through <= self.snapshot.index,
            "purge {through:?} beyond the snapshot"
        );
        if through <= self.base.index {
            return false;
        }
        let term = self.term_at(through).expect("between base and snapshot");
        while self
            .cache
            .front()
            .is_some_and(|entry| entry.index <= through)
        {
            self.cache_bytes -= self.cache.pop_front().expect("looked at above").size();
        }
        while self
            .runs
            .get(1)
            .is_some_and(|run| run.first <= through.next())
        {
            self.runs.pop_front();
        }
        if let Some(run) = self.runs.front_mut() {
            run.first = run.first.max(through.next());
        }
        self.base = Position {
            index: through,
            term,
        };
        if self.last == through {
            self.runs.clear();
        }
        true
    }

    /// Entries `first..`, at most to `last` and about `bytes_max`, from memory;
    /// `None` when the first is only on disk. At least one entry.
    pub(super) fn cached_range(
        &self,
        first: LogIndex,
        last: LogIndex,
        bytes_max: usize,
    ) -> Option<Vec<Entry>> {
        assert!(
            first <= last && last <= self.last,
            "range {first:?}..={last:?} is not there"
        );
        let start = self.cache_position(first)?;
        let count = (last.0 - first.0) as usize + 1;
        let mut bytes = 0;
        let mut taken = Vec::new();
        for entry in self.cache.range(start..start + count) {
            bytes += entry.size();
            if !taken.is_empty() && bytes_max < bytes {
                break;
            }
            taken.push(entry.clone());
        }
        Some(taken)
    }

    fn cached(&self, index: LogIndex) -> Option<&Entry> {
        self.cache_position(index)
            .and_then(|position| self.cache.get(position))
    }

    fn cache_position(&self, index: LogIndex) -> Option<usize> {
        let first = self.cache.front()?.index;
        index
            .0
            .checked_sub(first.0)
            .map(|position| position as usize)
    }

    fn evict(&mut self) {
        while self.cache_bytes_max < self.cache_bytes {
            let Some(oldest) = self
                .cache
                .front()
                .filter(|entry| entry.index <= self.applied)
            else {
                return;
            };
            self.cache_bytes -= oldest.size();
            self.cache.pop_front();
        }
    }

    /// Marks what a restart knows to be executed.
    pub(super) fn start_at(&mut self, commit: LogIndex, applied: LogIndex) {
        self.commit_to(commit);
        self.handed = self.handed.max(applied);
        self.advance_applied(applied);
    }
}

/// Terms never fall, from the snapshot into the log either.
fn check_follows(snapshot: Position, first: &Entry) -> Result<(), RecoverError> {
    if first.index == snapshot.index.next() && first.term < snapshot.term {
        return Err(RecoverError::Inconsecutive {
            index: snapshot.index,
            term: snapshot.term,
            next_index: first.index,
            next_term: first.term,
        });
    }
    Ok(())
}

fn check_consecutive(entries: &[Entry]) -> Result<(), RecoverError> {
    for pair in entries.windows(2) {
        if pair[1].index != pair[0].index.next() || pair[1].term < pair[0].term {
            return Err(RecoverError::Inconsecutive {
                index: pair[0].index,
                term: pair[0].term,
                next_index: pair[1].index,
                next_term: pair[1].term,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
