//! The replicated state machine: committed log entries in, storage entries
//! out. Every node that has applied the same entries holds the same state,
//! bit for bit.
//!
//! What it must never do: read a clock, draw a random number, do I/O, look
//! into a value, or let an outcome depend on anything but the state and the
//! entry. Bytes that do not decode are an outcome, not a panic: a panic would
//! stop every node, one after the other, at the same index.
//!
//! Invariants: entries are applied consecutively, terms never fall; a
//! transaction whose preconditions do not hold, and a restore step that is
//! refused, change nothing but the applied position.
//!
//! Point-in-time pictures ([`View`]) cost microseconds, because the map is
//! persistent (D-002): the snapshotter and readers never stop the applier.

mod digest;
mod entries;
mod map;
mod restore;
mod view;

pub use entries::{Entries, Scan};
pub use map::{ByKey, PersistentMap, StateMap};
pub use view::View;

use std::sync::Arc;

use crate::codec;
use crate::types::{
    Checkpoint, Command, CommandRef, Entry, EntryPayload, LogIndex, Membership, OperationRef,
    Outcome, Pair, PreconditionRef, Record, RestoreStep, SnapshotMeta, StateHeader, Term,
    TransactionRef,
};

use restore::{Shadow, Step};

/// Version of what commands mean. A snapshot carries it, so that a program
/// that would execute the following entries differently refuses to go on.
pub const STATE_MACHINE_VERSION: u16 = 1;

/// The state machine. One owner applies; others read [`View`]s.
#[derive(Clone, Default)]
pub struct Store {
    entries: Entries,
    shadow: Option<Shadow>,
    applied: Applied,
}

/// Where the store stands.
#[derive(Clone, Debug, Default)]
struct Applied {
    index: LogIndex,
    term: Term,
    restore_epoch: u64,
    membership: Arc<Membership>,
    membership_index: LogIndex,
}

/// A snapshot whose parts contradict each other. The store is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError<E> {
    /// A newer program wrote it; this one could execute what follows
    /// differently from its peers.
    #[error(
        "snapshot at index {index} is of state machine version {found}, this program knows {known}"
    )]
    Version {
        /// The snapshot.
        index: LogIndex,
        /// Its version.
        found: u16,
        /// The newest known here.
        known: u16,
    },
    /// Reading the records failed.
    #[error("read snapshot records")]
    Records(#[source] E),
    /// Fewer or more records than the header says.
    #[error(
        "snapshot at index {index} holds {entries} entries and {staged} staged ones, \
         its header says {entries_expected} and {staged_expected}"
    )]
    Count {
        /// The snapshot.
        index: LogIndex,
        /// Entries found.
        entries: u64,
        /// Staged entries found.
        staged: u64,
        /// Entries announced.
        entries_expected: u64,
        /// Staged entries announced.
        staged_expected: u64,
    },
}

impl Store {
    /// An empty store that has applied nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies the next committed entry. The outcome of a command; `None` for
    /// an entry that carries none. A command that does not decode, or that
    /// this version does not know, is refused.
    ///
    /// # Panics
    /// When the entry does not follow the last one applied, or its term is
    /// lower: the caller is broken, and going on would make replicas differ.
    pub fn apply(&mut self, entry: &Entry) -> Option<Outcome> {
        assert_eq!(entry.index, self.applied.index.next());
        assert!(self.applied.term <= entry.term);
        self.applied.index = entry.index;
        self.applied.term = entry.term;
        match &entry.payload {
            EntryPayload::Noop => None,
            EntryPayload::Membership(membership) => {
                self.applied.membership = Arc::clone(membership);
                self.applied.membership_index = entry.index;
                None
            }
            EntryPayload::Command(bytes) => Some(self.execute(bytes)),
        }
    }

    /// A picture of the state as it is now.
    #[must_use]
    pub fn view(&self) -> View {
        View {
            entries: self.entries.clone(),
            shadow: self.shadow.clone(),
            applied: self.applied.clone(),
        }
    }

    /// Replaces everything by a snapshot's content. The new state is built
    /// aside: an error leaves the store as it was. Returns the former state,
    /// to be dropped where nobody waits.
    ///
    /// # Errors
    /// A newer state machine, a record that could not be read, or counts that
    /// differ from `header`.
    pub fn restore_from<E>(
        &mut self,
        records: impl IntoIterator<Item = Result<Record, E>>,
        meta: &SnapshotMeta,
        header: &StateHeader,
    ) -> Result<Store, RestoreError<E>> {
        if STATE_MACHINE_VERSION < header.state_machine_version {
            return Err(RestoreError::Version {
                index: meta.index,
                found: header.state_machine_version,
                known: STATE_MACHINE_VERSION,
            });
        }
        let mut entries = Entries::default();
        let mut staged = Entries::default();
        for record in records {
            let record = record.map_err(RestoreError::Records)?;
            let target = if record.staged {
                &mut staged
            } else {
                &mut entries
            };
            target.put(record.pair);
        }
        let (entry_count, staged_count) = (entries.count() as u64, staged.count() as u64);
        if (entry_count, staged_count) != (header.entry_count, header.staged_count)
            || (header.restore.is_none() && staged_count != 0)
        {
            return Err(RestoreError::Count {
                index: meta.index,
                entries: entry_count,
                staged: staged_count,
                entries_expected: header.entry_count,
                staged_expected: header.staged_count,
            });
        }
        let restored = Store {
            entries,
            shadow: header.restore.map(|progress| Shadow {
                progress,
                entries: staged,
            }),
            applied: Applied {
                index: meta.index,
                term: meta.term,
                restore_epoch: header.restore_epoch,
                membership: Arc::clone(&meta.membership),
                membership_index: meta.membership_index,
            },
        };
        Ok(std::mem::replace(self, restored))
    }

    /// What the whole state amounts to at the position it stands at.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            index: self.applied.index,
            digest: digest::state(&self.entries, self.shadow.as_ref(), &self.applied),
        }
    }

    /// Last log position applied; 0 before the first.
    #[must_use]
    pub fn applied_index(&self) -> LogIndex {
        self.applied.index
    }

    /// Term of that entry.
    #[must_use]
    pub fn applied_term(&self) -> Term {
        self.applied.term
    }

    /// The last membership applied; empty before the first.
    #[must_use]
    pub fn membership(&self) -> &Arc<Membership> {
        &self.applied.membership
    }

    /// Log position of that membership.
    #[must_use]
    pub fn membership_index(&self) -> LogIndex {
        self.applied.membership_index
    }

    /// Committed restores so far.
    #[must_use]
    pub fn restore_epoch(&self) -> u64 {
        self.applied.restore_epoch
    }

    fn execute(&mut self, command: &[u8]) -> Outcome {
        let refused = Outcome::RestoreRefused {
            reason: UNDECODABLE,
        };
        match codec::borrow_command(command) {
            Some(Ok(CommandRef::Transaction(transaction))) => self.transact(&transaction),
            Some(Ok(CommandRef::Restore(step))) => self.restore(step),
            Some(Err(_)) => refused,
            None => match codec::decode_command(command) {
                Ok(Command::Transaction(transaction)) => self.transact(&transaction.borrowed()),
                Ok(Command::Restore(step)) => self.restore(step),
                Err(_) => refused,
            },
        }
    }

    fn transact(&mut self, transaction: &TransactionRef<'_>) -> Outcome {
        let mut preconditions = transaction.preconditions.iter();
        if let Some(broken) = preconditions.find(|it| !self.holds(it)) {
            let key = broken.key.to_owned();
            return Outcome::PreconditionFailed { key };
        }
        for operation in &transaction.operations {
            match *operation {
                OperationRef::Put { key, value } => self.entries.put(Pair::new(key, value)),
                OperationRef::Delete { key } => self.entries.delete(key),
            }
        }
        Outcome::Applied
    }

    fn holds(&self, precondition: &PreconditionRef<'_>) -> bool {
        let pair = self.entries.pair(precondition.key);
        pair.map(Pair::value) == precondition.expected
    }

    fn restore(&mut self, step: RestoreStep) -> Outcome {
        match restore::step(&mut self.shadow, step) {
            Step::Done(outcome) => outcome,
            Step::Replace(entries) => {
                self.entries = entries;
                self.applied.restore_epoch += 1;
                Outcome::Applied
            }
        }
    }
}

const UNDECODABLE: &str = "the command does not decode";

#[cfg(test)]
mod tests;
