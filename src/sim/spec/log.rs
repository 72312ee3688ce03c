//! What a server saves: term, vote and log. Part of the specification.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::sim::history::Life;
use crate::types::{LogIndex, NodeId, Term};

/// A position in a log and the term of the entry there.
pub(super) type At = (LogIndex, Term);

/// Who decides. With `outgoing` voters a majority of each is needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) voters: BTreeSet<Life>,
    pub(super) outgoing: BTreeSet<Life>,
}

impl Config {
    /// Whether the servers that agree are enough.
    pub(super) fn quorum(&self, agrees: impl Fn(Life) -> bool) -> bool {
        let majority = |voters: &BTreeSet<Life>| {
            voters.len() < 2 * voters.iter().filter(|voter| agrees(**voter)).count()
        };
        majority(&self.voters) && (self.outgoing.is_empty() || majority(&self.outgoing))
    }

    pub(super) fn votes(&self, server: Life) -> bool {
        self.voters.contains(&server) || self.outgoing.contains(&server)
    }

    /// Whether `next` may follow: one voter more or less, or into a joint
    /// configuration, or out of it (thesis 4.1, 4.3).
    pub(super) fn may_become(&self, next: &Self) -> bool {
        match (self.outgoing.is_empty(), next.outgoing.is_empty()) {
            (true, true) => self.voters.symmetric_difference(&next.voters).count() <= 1,
            (true, false) => next.outgoing == self.voters,
            (false, true) => next.voters == self.voters,
            (false, false) => false,
        }
    }
}

/// What an entry says, as far as Raft cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// A command, by its digest; 0 is none.
    Command(u64),
    /// A configuration; it counts as soon as it is in a log.
    Config(Arc<Config>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) term: Term,
    pub(super) value: Value,
}

/// Entries after a position up to which all is committed and forgotten. Copies
/// share what they have in common.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    pub(super) start: At,
    entries: imbl::Vector<Entry>,
    /// The configurations in it, and the last before it.
    configs: Vec<(LogIndex, Arc<Config>)>,
}

impl Log {
    pub(super) fn starting_at(start: At, config: (LogIndex, Arc<Config>)) -> Self {
        let configs = vec![config];
        let entries = imbl::Vector::new();
        Self {
            start,
            entries,
            configs,
        }
    }

    pub(super) fn last(&self) -> At {
        let index = LogIndex(self.start.0.0 + self.entries.len() as u64);
        (
            index,
            self.entries.last().map_or(self.start.1, |entry| entry.term),
        )
    }

    pub(super) fn next(&self) -> LogIndex {
        self.last().0.next()
    }

    pub(super) fn get(&self, index: LogIndex) -> Option<&Entry> {
        let position = index.0.checked_sub(self.start.0.0 + 1)?;
        self.entries.get(position as usize)
    }

    pub(super) fn term(&self, index: LogIndex) -> Option<Term> {
        let known = (index == self.start.0).then_some(self.start.1);
        known.or_else(|| self.get(index).map(|entry| entry.term))
    }

    /// Whether this entry is there; what is forgotten was committed, so nobody
    /// can hold anything else there.
    pub(super) fn has(&self, (index, term): At) -> bool {
        index < self.start.0 || self.term(index) == Some(term)
    }

    /// The newest configuration in the log, committed or not (4.1).
    pub(super) fn config(&self) -> (LogIndex, Arc<Config>) {
        self.configs.last().cloned().unwrap_or_default()
    }

    /// The configurations that may still count when `commit` is committed.
    pub(super) fn live_configs(&self, commit: LogIndex) -> &[(LogIndex, Arc<Config>)] {
        let committed = self.configs.iter().rposition(|(index, _)| *index <= commit);
        &self.configs[committed.unwrap_or(0)..]
    }

    pub(super) fn after(&self, index: LogIndex) -> impl Iterator<Item = &Entry> {
        let skipped = index.0.saturating_sub(self.start.0.0) as usize;
        (skipped..self.entries.len()).filter_map(|position| self.entries.get(position))
    }

    pub(super) fn append(&mut self, entry: Entry) {
        let index = self.next();
        if let Value::Config(config) = &entry.value
            && self.config().0 < index
        {
            self.configs.push((index, Arc::clone(config)));
        }
        self.entries.push_back(entry);
    }

    /// Drops every entry from `from` on, and the configurations among them.
    pub(super) fn cut(&mut self, from: LogIndex) {
        let kept = from.0.saturating_sub(self.start.0.0 + 1) as usize;
        self.entries.truncate(kept.min(self.entries.len()));
        self.configs.retain(|(index, _)| *index < from);
    }

    /// Forgets entries up to `through` (5.1).
    pub(super) fn forget(&mut self, through: LogIndex) {
        if let Some(term) = self.get(through).map(|entry| entry.term) {
            let count = through.0 - self.start.0.0;
            self.entries = self.entries.split_off(count as usize);
            self.start = (through, term);
        }
    }
}

/// What survives a crash, once it is on the disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Saved {
    pub(super) term: Term,
    pub(super) vote: Option<NodeId>,
    pub(super) log: Log,
}
