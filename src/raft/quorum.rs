//! What a majority says. Pure arithmetic over a membership; a joint membership
//! needs a majority of *each* half, never of their union (catalogue M4).

use std::collections::{BTreeMap, BTreeSet};

use crate::types::{Membership, NodeId};

/// Where an election stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tally {
    /// A quorum granted.
    Won,
    /// A quorum is no longer possible.
    Lost,
    /// Neither yet.
    Open,
}

/// How many of `count` voters decide.
pub(super) fn majority(count: usize) -> usize {
    count / 2 + 1
}

/// The highest index (or other count that only grows) that a quorum has
/// reached, given each voter's. Zero when nobody votes.
pub(super) fn committed<T: Ord + Copy + Default>(
    membership: &Membership,
    reached: impl Fn(NodeId) -> T,
) -> T {
    let incoming = committed_by(&membership.voters, &reached);
    if membership.is_joint() {
        incoming.min(committed_by(&membership.voters_outgoing, &reached))
    } else {
        incoming
    }
}

fn committed_by<T: Ord + Copy + Default>(
    voters: &BTreeSet<NodeId>,
    reached: &impl Fn(NodeId) -> T,
) -> T {
    if voters.is_empty() {
        return T::default();
    }
    let mut indexes: Vec<T> = voters.iter().map(|id| reached(*id)).collect();
    indexes.sort_unstable_by(|a, b| b.cmp(a));
    indexes[majority(indexes.len()) - 1]
}

/// Whether the voters for which `is_so` holds form a quorum.
pub(super) fn agrees(membership: &Membership, is_so: impl Fn(NodeId) -> bool) -> bool {
    let half = |voters: &BTreeSet<NodeId>| {
        voters.iter().filter(|id| is_so(**id)).count() >= majority(voters.len())
    };
    half(&membership.voters) && (!membership.is_joint() || half(&membership.voters_outgoing))
}

/// Where an election stands; answers of those without a vote do not count.
pub(super) fn tally(membership: &Membership, votes: &BTreeMap<NodeId, bool>) -> Tally {
    if agrees(membership, |id| votes.get(&id) == Some(&true)) {
        Tally::Won
    } else if agrees(membership, |id| votes.get(&id) != Some(&false)) {
        Tally::Open
    } else {
        Tally::Lost
    }
}

/// As [`tally`], when every voter must grant.
pub(super) fn unanimity(membership: &Membership, votes: &BTreeMap<NodeId, bool>) -> Tally {
    let answers = || membership.voters.iter().map(|id| votes.get(id));
    if answers().all(|answer| answer == Some(&true)) {
        Tally::Won
    } else if answers().any(|answer| answer == Some(&false)) {
        Tally::Lost
    } else {
        Tally::Open
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::LogIndex;

    fn ids(numbers: &[u64]) -> BTreeSet<NodeId> {
        numbers.iter().copied().map(NodeId).collect()
    }

    fn membership(incoming: &[u64], outgoing: &[u64]) -> Membership {
        Membership {
            voters: ids(incoming),
            voters_outgoing: ids(outgoing),
            ..Membership::default()
        }
    }

    #[test]
    fn unanimity_takes_every_voter() {
        let three = membership(&[1, 2, 3], &[]);
        let after = |votes: &[(u64, bool)]| {
            let votes = votes
                .iter()
                .map(|(id, vote)| (NodeId(*id), *vote))
                .collect();
            unanimity(&three, &votes)
        };
        assert_eq!(after(&[(1, true), (2, true)]), Tally::Open);
        assert_eq!(after(&[(1, true), (2, false)]), Tally::Lost);
        assert_eq!(
            after(&[(1, true), (2, true), (3, true), (9, false)]),
            Tally::Won
        );
    }

    #[test]
    fn committed_takes_majority_of_each_half() {
        let reached = |id: NodeId| LogIndex([0, 9, 8, 7, 1, 0][id.0 as usize]);
        let check = |incoming: &[u64], outgoing: &[u64], expected: u64| {
            let membership = membership(incoming, outgoing);
            assert_eq!(committed(&membership, reached), LogIndex(expected));
        };
        check(&[], &[], 0);
        check(&[1], &[], 9);
        check(&[1, 2], &[], 8);
        check(&[1, 2, 3], &[], 8);
        check(&[1, 2, 3, 4], &[], 7);
        check(&[3, 4, 5], &[1, 2, 3], 1);
    }

    #[test]
    fn learners_decide_nothing() {
        let membership = Membership {
            learners: ids(&[4, 5]),
            ..membership(&[1, 2, 3], &[])
        };
        let is_learner = |id: NodeId| membership.learners.contains(&id);
        let reached = |id: NodeId| LogIndex(if is_learner(id) { 9 } else { id.0 });
        assert_eq!(committed(&membership, reached), LogIndex(2));
        let granted_by_learners = (1..=5).map(NodeId).map(|id| (id, 3 <= id.0)).collect();
        assert_eq!(tally(&membership, &granted_by_learners), Tally::Lost);
    }

    #[test]
    fn four_voters_split_in_two_elect_nobody() {
        let membership = membership(&[1, 2, 3, 4], &[]);
        let votes = [(NodeId(1), true), (NodeId(2), true)].into();
        assert_eq!(tally(&membership, &votes), Tally::Open);
        let votes = (1..=4).map(|n| (NodeId(n), n <= 2)).collect();
        assert_eq!(tally(&membership, &votes), Tally::Lost);
    }

    #[test]
    fn nobody_wins_without_voters() {
        assert_ne!(tally(&membership(&[], &[]), &BTreeMap::new()), Tally::Won);
    }

    fn set() -> impl Strategy<Value = Vec<u64>> {
        proptest::collection::vec(1u64..8, 1..6)
    }

    proptest! {
        // The reference: try every index, count heads in each half.
        #[test]
        fn committed_equals_exhaustive_search(
            incoming in set(),
            outgoing in proptest::option::of(set()),
            reached in proptest::collection::vec(0u64..6, 8),
        ) {
            let membership = membership(&incoming, &outgoing.unwrap_or_default());
            let found = committed(&membership, |id| LogIndex(reached[id.0 as usize]));
            let halves = [&membership.voters, &membership.voters_outgoing];
            let expected = (0..6).rev().find(|index| {
                halves.iter().filter(|half| !half.is_empty()).all(|half| {
                    let count = half.iter().filter(|id| reached[id.0 as usize] >= *index).count();
                    2 * count > half.len()
                })
            });
            prop_assert_eq!(Some(found.0), expected);
        }

        #[test]
        fn tally_never_wins_and_loses_under_more_votes(
            incoming in set(),
            outgoing in proptest::option::of(set()),
            votes in proptest::collection::btree_map(1u64..8, any::<bool>(), 0..8),
            more in proptest::collection::btree_map(1u64..8, any::<bool>(), 0..8),
        ) {
            let membership = membership(&incoming, &outgoing.unwrap_or_default());
            let first: BTreeMap<_, _> = votes.into_iter().map(|(n, v)| (NodeId(n), v)).collect();
            let mut second: BTreeMap<_, _> = more.into_iter().map(|(n, v)| (NodeId(n), v)).collect();
            second.extend(first.clone());
            let before = tally(&membership, &first);
            if before != Tally::Open {
                prop_assert_eq!(tally(&membership, &second), before);
            }
        }

        // Any two quorums of adjacent memberships share a voter.
        #[test]
        fn quorums_of_joint_and_half_intersect(
            incoming in set(),
            outgoing in set(),
            yes in proptest::collection::btree_set(1u64..8, 0..8),
        ) {
            let joint = membership(&incoming, &outgoing);
            for half in [membership(&incoming, &[]), membership(&outgoing, &[])] {
                let mine = agrees(&joint, |id| yes.contains(&id.0));
                let theirs = agrees(&half, |id| !yes.contains(&id.0));
                prop_assert!(!(mine && theirs));
            }
        }
    }
}
