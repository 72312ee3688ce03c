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
}

impl Memberships {
    /// Begins with a committed membership.
    pub(super) fn new(index: LogIndex, membership: Arc<Membership>) -> Self {
        Self {
            placed: vec![Placed { index, membership }],
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
                let membership = Arc::clone(membership);
                self.placed.push(Placed {
                    index: entry.index,
                    membership,
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
        self.placed.drain(..committed.unwrap_or(0));
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
}
