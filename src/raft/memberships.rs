//! The memberships in the live log. One is active from the moment it is
//! appended (thesis 4.1), so the newest counts, and truncation brings back the
//! one before (catalogue M9).

use std::sync::Arc;

use crate::types::{Entry, EntryPayload, Incarnation, LogIndex, Membership, NodeId};

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
    /// What an operator put in the place of the committed membership. It counts
    /// until the log says the same and that is committed; what the log says
    /// before that is history of a quorum that is gone.
    forced: Option<Arc<Membership>>,
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
    /// membership, and of all that are not committed.
    pub(super) fn force(&mut self, membership: &Arc<Membership>) {
        self.forced = Some(Arc::clone(membership));
        let later = self.placed.split_off(1);
        self.placed[0].membership = Arc::clone(membership);
        for placed in &later {
            self.push(placed);
        }
    }

    /// A forced membership that the log does not say yet.
    pub(super) fn unwritten_force(&self) -> Option<&Arc<Membership>> {
        self.forced.as_ref().filter(|_| self.placed.len() == 1)
    }

    /// The log was replaced by a snapshot.
    pub(super) fn reset(&mut self, index: LogIndex, membership: &Arc<Membership>) {
        match self.forced.take() {
            // The snapshot is older than what was forced.
            Some(forced) if forced != *membership => {
                let first = self.committed().index;
                *self = Self::new(first, Arc::clone(&forced));
                self.forced = Some(forced);
            }
            _ => *self = Self::new(index, Arc::clone(membership)),
        }
    }

    fn push(&mut self, placed: &Placed) {
        let is_history = self
            .unwritten_force()
            .is_some_and(|forced| *forced != placed.membership);
        if !is_history {
            self.placed.push(placed.clone());
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
                self.push(&Placed {
                    index: entry.index,
                    membership: Arc::clone(membership),
                });
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

    #[test]
    fn forced_membership_counts_until_the_log_says_it_and_it_is_committed() {
        let mut memberships = Memberships::new(LogIndex(1), of(&entry(1, &[1, 2, 3])));
        memberships.append(&[entry(4, &[1, 2])]);
        let forced = of(&entry(0, &[1]));
        memberships.force(&forced);
        assert_eq!(memberships.active().index, LogIndex(1));
        assert_eq!(memberships.active().membership, forced);
        memberships.append(&[entry(5, &[2, 3])]);
        assert_eq!(memberships.active().membership, forced, "history");
        memberships.append(&[entry(6, &[1]), entry(7, &[1, 4])]);
        assert_eq!(memberships.active().index, LogIndex(7), "the log goes on");
        memberships.truncate(LogIndex(6));
        assert_eq!(memberships.unwritten_force(), Some(&forced));
        memberships.append(&[entry(6, &[1])]);
        memberships.commit(LogIndex(5));
        memberships.truncate(LogIndex(6));
        assert_eq!(
            memberships.unwritten_force(),
            Some(&forced),
            "not committed"
        );
        memberships.append(&[entry(6, &[1])]);
        memberships.commit(LogIndex(6));
        memberships.append(&[entry(8, &[1, 2])]);
        assert_eq!(memberships.active().index, LogIndex(8), "nothing is forced");
    }

    #[test]
    fn forced_membership_outlives_an_older_snapshot_only() {
        let old = of(&entry(1, &[1, 2, 3]));
        let forced = of(&entry(0, &[1]));
        let mut memberships = Memberships::new(LogIndex(1), Arc::clone(&old));
        memberships.force(&forced);
        memberships.reset(LogIndex(1), &old);
        assert_eq!(memberships.unwritten_force(), Some(&forced));
        memberships.reset(LogIndex(9), &forced);
        assert_eq!(memberships.unwritten_force(), None);
        assert_eq!(memberships.active().index, LogIndex(9));
    }
}
