//! What a change of the membership does to the quorum: told before it is made.

use crate::raft::Status;
use crate::types::{MembershipChange, Millis, NodeId};

use super::autopilot::is_here;

/// A set of voters, and how far it is from losing its majority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quorum {
    /// All voters.
    pub voters: usize,
    /// Voters that answered the leader just now, the leader included.
    pub voters_in_contact: usize,
}

impl Quorum {
    /// Voters that a decision needs.
    #[must_use]
    pub fn needed(self) -> usize {
        self.voters / 2 + 1
    }

    /// Whether decisions can be taken.
    #[must_use]
    pub fn holds(self) -> bool {
        self.needed() <= self.voters_in_contact
    }

    /// Voters that may fail before no decision can be taken any more.
    #[must_use]
    pub fn failure_tolerance(self) -> usize {
        self.voters_in_contact.saturating_sub(self.needed())
    }
}

/// The quorum now and after a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    /// As it is.
    pub before: Quorum,
    /// As it would be.
    pub after: Quorum,
}

impl Forecast {
    /// Why the change is not made unless it is forced; `None`: nothing speaks
    /// against it.
    #[must_use]
    pub fn objection(self) -> Option<String> {
        if self.after.holds() || self.before == self.after {
            return None;
        }
        Some(format!(
            "the cluster would lose its quorum: {} of {} voters would be in contact, {} are needed",
            self.after.voters_in_contact,
            self.after.voters,
            self.after.needed()
        ))
    }
}

/// What `change` does to the quorum, as the leader knows its peers at `now`.
/// Half-done changes count as done.
#[must_use]
pub fn forecast(
    now: Millis,
    leader: NodeId,
    status: &Status,
    change: &MembershipChange,
) -> Forecast {
    let mut voters = status.membership.voters.clone();
    let count = |voters: &std::collections::BTreeSet<NodeId>| Quorum {
        voters: voters.len(),
        voters_in_contact: voters
            .iter()
            .filter(|id| {
                let answers = |id| status.peers.get(id).is_some_and(|peer| is_here(now, peer));
                **id == leader || answers(*id)
            })
            .count(),
    };
    let before = count(&voters);
    match change {
        MembershipChange::Promote(id) => drop(voters.insert(*id)),
        MembershipChange::Demote(id) | MembershipChange::Remove(id) => drop(voters.remove(id)),
        MembershipChange::AddLearner { .. } | MembershipChange::SetAddress { .. } => {}
    }
    Forecast {
        before,
        after: count(&voters),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::raft::PeerStatus;
    use crate::types::Membership;

    const NOW: Millis = Millis(60_000);

    /// Node 1 leads `voters`; of the others these answer.
    fn check(
        voters: &[u64],
        here: &[u64],
        change: &MembershipChange,
        before: (usize, usize),
        after: (usize, usize),
    ) -> Forecast {
        let membership = Membership {
            voters: voters.iter().copied().map(NodeId).collect(),
            ..Membership::default()
        };
        let peer = |id: &u64| {
            let peer = PeerStatus {
                last_contact: Some(NOW),
                ..PeerStatus::default()
            };
            (NodeId(*id), peer)
        };
        let status = Status {
            membership: Arc::new(membership),
            peers: here.iter().map(peer).collect(),
            ..Status::default()
        };
        let found = forecast(NOW, NodeId(1), &status, change);
        let quorum = |(voters, voters_in_contact)| Quorum {
            voters,
            voters_in_contact,
        };
        let (before, after) = (quorum(before), quorum(after));
        assert_eq!(found, Forecast { before, after });
        found
    }

    #[test]
    fn removal_from_a_whole_cluster_costs_tolerance_only() {
        let remove = MembershipChange::Remove(NodeId(3));
        let forecast = check(&[1, 2, 3], &[2, 3], &remove, (3, 3), (2, 2));
        assert_eq!(forecast.before.failure_tolerance(), 1);
        assert_eq!(forecast.after.failure_tolerance(), 0);
        assert_eq!(forecast.objection(), None);
    }

    #[test]
    fn removal_of_a_living_voter_beside_a_dead_one_is_objected_to() {
        let remove = MembershipChange::Remove(NodeId(2));
        let forecast = check(&[1, 2, 3], &[2], &remove, (3, 2), (2, 1));
        assert_eq!(
            forecast.objection().as_deref(),
            Some(
                "the cluster would lose its quorum: 1 of 2 voters would be in contact, \
                 2 are needed"
            )
        );
        let remove = MembershipChange::Remove(NodeId(3));
        let forecast = check(&[1, 2, 3], &[2], &remove, (3, 2), (2, 2));
        assert_eq!(forecast.objection(), None, "the dead one may go");
    }

    #[test]
    fn promotion_of_a_silent_learner_is_objected_to() {
        let promote = MembershipChange::Promote(NodeId(2));
        assert!(
            check(&[1], &[], &promote, (1, 1), (2, 1))
                .objection()
                .is_some()
        );
        assert!(
            check(&[1], &[2], &promote, (1, 1), (2, 2))
                .objection()
                .is_none()
        );
    }

    #[test]
    fn last_voter_is_a_quorum_that_cannot_go() {
        let demote = MembershipChange::Demote(NodeId(1));
        assert!(
            check(&[1], &[], &demote, (1, 1), (0, 0))
                .objection()
                .is_some()
        );
    }

    #[test]
    fn change_of_nothing_is_never_objected_to() {
        let remove = MembershipChange::Remove(NodeId(9));
        assert!(
            check(&[1, 2, 3], &[], &remove, (3, 1), (3, 1))
                .objection()
                .is_none()
        );
    }
}
