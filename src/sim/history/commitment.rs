//! What is committed: everywhere the same, held by every later leader, and on
//! enough disks at the moment it is called so.

use std::collections::BTreeMap;

use crate::raft::Status;
use crate::sim::history::image::{Held, LogImage, life_of};
use crate::sim::history::logs::Logs;
use crate::sim::history::{Life, Property, Verdict, Violation};
use crate::types::{LogIndex, Membership, Term};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Commitment {
    committed: BTreeMap<LogIndex, Held>,
    /// How far the leader of each term got with committing.
    committed_in: BTreeMap<Term, LogIndex>,
    /// Where the log of each leader ended when it first led.
    elected: BTreeMap<Term, (LogIndex, Term)>,
}

impl Commitment {
    pub(super) fn highest(&self) -> LogIndex {
        let last = self.committed.last_key_value();
        last.map_or(LogIndex(0), |(index, _)| *index)
    }

    pub(super) fn at(&self, index: LogIndex) -> Option<Held> {
        self.committed.get(&index).copied()
    }

    /// CommittedImmutable: `log` of `life` is called committed for `index`.
    /// Returns the entry when nobody knew that before.
    pub(super) fn agree(
        &self,
        life: Life,
        log: &LogImage,
        index: LogIndex,
    ) -> Result<Option<Held>, Box<Violation>> {
        // Below a snapshot there is nothing to compare.
        let Some(held) = log.held(index) else {
            return Ok(None);
        };
        let Some(known) = self.at(index) else {
            return Ok(Some(held));
        };
        Violation::unless(known == held, Property::CommittedImmutable, life, || {
            let known = format!("{known:?} is committed at {index:?}");
            (known, format!("{held:?} is here"))
        })?;
        Ok(None)
    }

    /// A snapshot replaces a log: what it ends with is committed.
    pub(super) fn covers(&self, life: Life, index: LogIndex, term: Term) -> Verdict {
        let known = self.at(index).map(|held| held.term);
        Violation::unless(
            known == Some(term),
            Property::CommittedImmutable,
            life,
            || {
                let known = format!("{known:?} is committed at {index:?}");
                (known, format!("a snapshot ends there in {term:?}"))
            },
        )
    }

    /// Takes an entry for committed: by `term`'s leader, or as given (a
    /// cluster's first entry).
    pub(super) fn note(&mut self, index: LogIndex, held: Held, term: Option<Term>) {
        self.committed.insert(index, held);
        if let Some(term) = term {
            self.committed_in.insert(term, index);
        }
    }

    /// LeaderCompleteness: a new leader holds whatever leaders of earlier terms
    /// have committed.
    pub(super) fn elected(&mut self, life: Life, term: Term, log: &LogImage) -> Verdict {
        self.elected.insert(term, log.last());
        let earlier = self
            .committed_in
            .range(..term)
            .map(|(_, index)| *index)
            .max();
        let Some(index) = earlier.filter(|index| log.base() < *index) else {
            return Ok(());
        };
        let held = log.held(index);
        let known = self.at(index);
        Violation::unless(held == known, Property::LeaderCompleteness, life, || {
            let known = format!("{known:?} was committed at {index:?}");
            (known, format!("it leads {term:?} with {held:?}"))
        })
    }

    /// LeaderCompleteness, the other way round: an entry that a leader of
    /// `term` commits only now is in the log of every later leader there was.
    pub(super) fn late(&self, life: Life, logs: &Logs, index: LogIndex, term: Term) -> Verdict {
        let committed = self.at(index).map(|held| held.term);
        for (later, last) in self.elected.range(term.next()..) {
            let found = logs.ancestor(*last, index);
            let agrees = found.is_none() || found == committed;
            Violation::unless(agrees, Property::LeaderCompleteness, life, || {
                let known = format!("the leader of {later:?} had {found:?} at {index:?}");
                (
                    known,
                    format!("{committed:?} is committed there in {term:?}"),
                )
            })?;
        }
        Ok(())
    }
}

/// CommittedDurable: a majority of each half of `membership` has the entry on
/// the disk of the life that is the member.
///
/// A disk that was lost counts as it was: the leader may hear of its
/// acknowledgement only later, and an entry committed a moment before the loss
/// is no safer. Safe it is: a life that is over never votes again, its
/// successor only as a member of its own, so every majority that still can
/// elect meets the one that held the entry at a disk that is there.
pub(super) fn on_enough_disks<'a>(
    life: Life,
    membership: &Membership,
    index: LogIndex,
    held: Held,
    durable: impl Fn(Life) -> Option<&'a LogImage>,
) -> Verdict {
    let has = |member: Life| durable(member).is_some_and(|disk| disk.has(index, held.term));
    for half in [&membership.voters, &membership.voters_outgoing] {
        let count = half
            .iter()
            .filter(|id| has(life_of(membership, **id)))
            .count();
        let enough = half.is_empty() || half.len() < 2 * count;
        Violation::unless(enough, Property::CommittedDurable, life, || {
            let known = format!("{held:?} at {index:?} is on {count} disks of {half:?}");
            (known, "it is called committed".to_owned())
        })?;
    }
    Ok(())
}

/// VerifiedCommit: a follower's commit index stays within what the leader of
/// its term vouched for.
pub(super) fn is_verified(life: Life, status: &Status, verified: LogIndex) -> Verdict {
    let commit = status.commit_index;
    Violation::unless(commit <= verified, Property::VerifiedCommit, life, || {
        let known = format!("its log is known to equal the leader's up to {verified:?}");
        (known, format!("it commits {commit:?}"))
    })
}
