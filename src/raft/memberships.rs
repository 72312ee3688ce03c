//! The memberships in the live log. One is active from the moment it is
//! appended (thesis 4.1), so the newest counts, and truncation brings back the
//! one before (catalogue M9).

use std::sync::Arc;

use crate::types::{Entry, EntryPayload, Incarnation, LogIndex, Membership, NodeId, Term};

/// A membership and the position that carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub(super) struct Placed {
    pub(super) index: LogIndex,
    pub(super) membership: Arc<Membership>,
}

/// Ascending; the first is the newest known committed one (empty, at 0, when
/// none is), the last is active.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub(super) struct Memberships {
    placed: Vec<Placed>,
    /// What an operator put in the place of the committed membership.
    forced: Option<Forced>,
}

/// Counts until a leader that was elected under it has said so in the log, and
/// that is committed; memberships of earlier leaders are history of a quorum
/// that is gone.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
struct Forced {
    membership: Arc<Membership>,
    /// No leader of this term or an earlier one was elected under it.
    since: Term,
}

impl Memberships {
    /// Begins with a committed membership.
    pub(super) fn new(index: LogIndex, membership: Arc<Membership>) -> Self {
        Self {
            placed: vec![Placed { index, membership }],
            forced: None,
        }
    }

    /// An operator says who is left: this counts in place of the committed
    /// membership and of those that leaders up to `since` appended. `term_at`
    /// knows the terms of the log.
    pub(super) fn force(
        &mut self,
        membership: &Arc<Membership>,
        since: Term,
        term_at: impl Fn(LogIndex) -> Option<Term>,
    ) {
        let later = self.placed.split_off(1);
        self.placed[0].membership = Arc::clone(membership);
        self.forced = Some(Forced {
            membership: Arc::clone(membership),
            since,
        });
        for placed in later {
            let term = term_at(placed.index);
            self.push(placed, term.unwrap_or_default());
        }
    }

    /// A forced membership that no leader has put into this log yet.
    pub(super) fn unwritten_force(&self) -> Option<&Arc<Membership>> {
        let forced = self.forced.as_ref().filter(|_| self.placed.len() == 1);
        forced.map(|forced| &forced.membership)
    }

    /// The log was replaced by a snapshot that ends in `term`.
    pub(super) fn reset(&mut self, index: LogIndex, membership: &Arc<Membership>, term: Term) {
        match self.forced.take().filter(|forced| term <= forced.since) {
            // Older than what was forced.
            Some(forced) => {
                let first = self.committed().index;
                *self = Self::new(first, Arc::clone(&forced.membership));
                self.forced = Some(forced);
            }
            None => *self = Self::new(index, Arc::clone(membership)),
        }
    }

    fn push(&mut self, placed: Placed, term: Term) {
        let is_history = self.placed.len() == 1
            && self
                .forced
                .as_ref()
                .is_some_and(|forced| term <= forced.since);
        if !is_history {
            self.placed.push(placed);
        }
    }

    /// The one that counts.
    pub(super) fn active(&self) -> &Placed {
        self.placed.last().expect("never empty")
    }

    /// The newest one known to be committed.
    pub(super) fn committed(&self) -> &Placed {
        self.placed.first().expect("never empty")
    }

    /// Notes the memberships among appended entries.
    pub(super) fn append(&mut self, entries: &[Entry]) {
        for entry in entries {
            if let EntryPayload::Membership(membership) = &entry.payload {
                assert!(self.active().index < entry.index, "membership goes back");
                let placed = Placed {
                    index: entry.index,
                    membership: Arc::clone(membership),
                };
                self.push(placed, entry.term);
            }
        }
    }

    /// The log lost everything from `from` on.
    pub(super) fn truncate(&mut self, from: LogIndex) {
        assert!(
            self.committed().index < from,
            "truncate a committed membership"
        );
        self.placed.retain(|placed| placed.index < from);
    }

    /// The log is committed up to `commit`: older memberships are history.
    pub(super) fn commit(&mut self, commit: LogIndex) {
        let committed = self
            .placed
            .iter()
            .rposition(|placed| placed.index <= commit);
        let history = committed.unwrap_or(0);
        self.placed.drain(..history);
        if 0 < history {
            self.forced = None;
        }
    }

    /// Whether `id`, in this life, votes in the committed membership or any
    /// later one: a newcomer that replays the log reads of its name's former
    /// lives, and must not take their votes for its own (M14). The
    /// active one alone will not do: an uncommitted membership may have taken
    /// the vote of the only node whose log can win (catalogue E20).
    pub(super) fn may_campaign(&self, id: NodeId, life: Incarnation) -> bool {
        self.placed.iter().any(|placed| {
            let member = placed.membership.members.get(&id);
            placed.membership.is_voter(id) && member.is_some_and(|one| one.incarnation == life)
        })
    }

    /// Whether the active membership names `id` in another life than this.
    pub(super) fn names_another_life(&self, id: NodeId, life: Incarnation) -> bool {
        let member = self.active().membership.members.get(&id);
        member.is_some_and(|member| member.incarnation != life)
    }

    /// Whether any membership still in question names `id`.
    pub(super) fn names(&self, id: NodeId) -> bool {
        self.placed
            .iter()
            .any(|placed| placed.membership.members.contains_key(&id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Member, Term};

    fn entry(index: u64, voters: &[u64]) -> Entry {
        let voters: std::collections::BTreeSet<_> = voters.iter().copied().map(NodeId).collect();
        let members = voters.iter().map(|id| (*id, Member::default())).collect();
        let membership = Membership {
            voters,
            members,
            ..Membership::default()
        };
        Entry {
            index: LogIndex(index),
            term: Term(1),
            payload: EntryPayload::Membership(Arc::new(membership)),
        }
    }

    #[test]
    fn newest_is_active_until_truncated_and_history_goes_on_commit() {
        let mut memberships = Memberships::new(LogIndex(0), Arc::default());
        memberships.append(&[entry(1, &[1]), entry(5, &[1, 2]), entry(9, &[2])]);
        assert_eq!(memberships.active().index, LogIndex(9));
        memberships.commit(LogIndex(6));
        assert_eq!(memberships.committed().index, LogIndex(5));
        assert!(
            memberships.may_campaign(NodeId(1), Incarnation(0)),
            "the committed one still names it"
        );
        memberships.truncate(LogIndex(7));
        assert_eq!(memberships.active().index, LogIndex(5));
        memberships.append(&[entry(7, &[2])]);
        memberships.commit(LogIndex(7));
        assert!(!memberships.may_campaign(NodeId(1), Incarnation(0)));
    }

    fn of(entry: &Entry) -> Arc<Membership> {
        match &entry.payload {
            EntryPayload::Membership(membership) => Arc::clone(membership),
            _ => panic!("no membership"),
        }
    }

    /// As `entry`, by a leader elected under a forced membership.
    fn later(index: u64, voters: &[u64]) -> Entry {
        Entry {
            term: Term(3),
            ..entry(index, voters)
        }
    }

    fn forced(memberships: &mut Memberships) -> Arc<Membership> {
        let forced = of(&entry(0, &[1]));
        memberships.force(&forced, Term(1), |_| Some(Term(1)));
        forced
    }

    #[test]
    fn forced_membership_counts_until_a_leader_says_it_and_it_is_committed() {
        let mut memberships = Memberships::new(LogIndex(1), of(&entry(1, &[1, 2, 3])));
        memberships.append(&[entry(4, &[1, 2])]);
        let forced = forced(&mut memberships);
        assert_eq!(memberships.active().index, LogIndex(1));
        assert_eq!(memberships.active().membership, forced);
        // Even one that says the same: what follows it is history too.
        memberships.append(&[entry(5, &[1]), entry(6, &[2, 3])]);
        assert_eq!(memberships.active().membership, forced, "history");
        memberships.append(&[later(7, &[1]), later(8, &[1, 4])]);
        assert_eq!(memberships.active().index, LogIndex(8), "the log goes on");
        memberships.truncate(LogIndex(7));
        assert_eq!(memberships.unwritten_force(), Some(&forced));
        memberships.append(&[later(7, &[1])]);
        memberships.commit(LogIndex(6));
        memberships.truncate(LogIndex(7));
        assert_eq!(
            memberships.unwritten_force(),
            Some(&forced),
            "not committed"
        );
        memberships.append(&[later(7, &[1])]);
        memberships.commit(LogIndex(7));
        assert_eq!(memberships.committed().index, LogIndex(7));
        memberships.append(&[entry(9, &[1, 2])]);
        assert_eq!(memberships.active().index, LogIndex(9), "nothing is forced");
    }

    #[test]
    fn what_a_leader_made_of_a_forced_membership_counts_after_a_restart() {
        let mut memberships = Memberships::new(LogIndex(1), of(&entry(1, &[1, 2, 3])));
        memberships.append(&[entry(4, &[1, 2]), later(7, &[1]), later(8, &[1, 4])]);
        let forced = of(&entry(0, &[1]));
        let term_at = |index| {
            Some(if index < LogIndex(7) {
                Term(1)
            } else {
                Term(3)
            })
        };
        memberships.force(&forced, Term(1), term_at);
        assert_eq!(memberships.active().index, LogIndex(8));
        assert_eq!(memberships.unwritten_force(), None);
    }

    #[test]
    fn forced_membership_outlives_an_older_snapshot_only() {
        let old = of(&entry(1, &[1, 2, 3]));
        let mut memberships = Memberships::new(LogIndex(1), Arc::clone(&old));
        let forced = forced(&mut memberships);
        memberships.reset(LogIndex(1), &old, Term(1));
        assert_eq!(memberships.unwritten_force(), Some(&forced));
        // It was said, and changed since.
        let grown = of(&entry(9, &[1, 4, 5]));
        memberships.reset(LogIndex(9), &grown, Term(4));
        assert_eq!(memberships.unwritten_force(), None);
        assert_eq!(memberships.active().membership, grown);
    }
}
