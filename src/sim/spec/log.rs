//! What a server saves: term, vote and log. Part of the specification.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::sim::history::Life;
use crate::types::{LogIndex, NodeId, Term};

/// A position in a log, with the term of the entry there first: of two logs
/// the one that ends at the greater is more complete (3.6.1).
pub(super) type At = (Term, LogIndex);

/// Who decides. With `outgoing` voters a majority of each is needed.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
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

    /// Whether `next` may follow: one voter more or less, or into a joint
    /// configuration, or out of it (4.1, 4.3).
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Value {
    /// A command, by its digest; 0 is none.
    Command(u64),
    /// A configuration; it counts as soon as it is in a log.
    Config(Arc<Config>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) term: Term,
    pub(super) value: Value,
}

/// Every entry from the first on, also when a server compacts its log (5): a
/// snapshot stands for the entries that made it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Log {
    entries: imbl::Vector<Entry>,
    /// Those that are configurations.
    pub(super) configs: imbl::Vector<(LogIndex, Arc<Config>)>,
}

impl Log {
    pub(super) fn last(&self) -> At {
        let term = self.entries.last().map(|entry| entry.term);
        (term.unwrap_or_default(), self.len())
    }

    pub(super) fn len(&self) -> LogIndex {
        LogIndex(self.entries.len() as u64)
    }

    pub(super) fn get(&self, index: LogIndex) -> Option<&Entry> {
        self.entries.get(index.0.checked_sub(1)? as usize)
    }

    /// Whether this entry is there; every log begins after position 0.
    pub(super) fn has(&self, (term, index): At) -> bool {
        let entry = self.get(index);
        (term, index) == At::default() || entry.is_some_and(|entry| entry.term == term)
    }

    /// The newest configuration, committed or not (4.1).
    pub(super) fn config(&self) -> (LogIndex, Arc<Config>) {
        self.configs.last().cloned().unwrap_or_default()
    }

    pub(super) fn append(&mut self, entry: Entry) {
        if let Value::Config(config) = &entry.value {
            let index = self.len().next();
            self.configs.push_back((index, Arc::clone(config)));
        }
        self.entries.push_back(entry);
    }

    /// Drops every entry after `last`.
    pub(super) fn keep(&mut self, last: LogIndex) {
        let kept = self.entries.len().min(last.0 as usize);
        self.entries.truncate(kept);
        self.configs.retain(|(index, _)| *index <= last);
    }
}

/// What survives a crash, once it is on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Saved {
    pub(super) term: Term,
    pub(super) vote: Option<NodeId>,
    pub(super) log: Log,
}
