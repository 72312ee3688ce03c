//! Membership changes as pure functions: what wishes make of a membership,
//! whether that needs a joint step, and what a joint membership leads to.

use std::collections::BTreeSet;

use crate::raft::ChangeError;
use crate::types::{Member, Membership, MembershipChange, NodeId};

/// What a list of wishes amounts to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// It is already so.
    Nothing,
    /// At most one voter differs: quorums of old and new intersect.
    Simple(Membership),
    /// More differ: enter this joint membership, then [`leave`] it.
    Joint(Membership),
}

/// What to append for these wishes.
///
/// # Errors
/// The member and the contradiction.
pub(super) fn plan(
    current: &Membership,
    changes: &[MembershipChange],
) -> Result<Plan, ChangeError> {
    assert!(
        !current.is_joint(),
        "plan a change inside a joint membership"
    );
    let mut target = current.clone();
    for change in changes {
        apply_one(&mut target, change)?;
    }
    if target == *current {
        return Ok(Plan::Nothing);
    }
    if target.voters.is_empty() {
        return Err(ChangeError::NoVoterLeft);
    }
    // A quorum of the old lives and one of the new need not share a directory.
    let reborn_in = |one: &Membership, id: &NodeId| one.members.get(id).map(|m| m.incarnation);
    let stays = current.voters.intersection(&target.voters);
    let mut swapped = stays.filter(|id| reborn_in(current, id) != reborn_in(&target, id));
    if let Some(id) = swapped.next() {
        return Err(ChangeError::RebornVoter(*id));
    }
    let differing = current.voters.symmetric_difference(&target.voters).count();
    if differing <= 1 {
        return Ok(Plan::Simple(target));
    }
    // The old half would count the vote of a directory that forgot its votes.
    let reborn = |id: &&NodeId| match (current.members.get(id), target.members.get(id)) {
        (Some(old), Some(new)) => old.incarnation != new.incarnation,
        _ => false,
    };
    if let Some(id) = current.voters.iter().find(reborn) {
        return Err(ChangeError::RebornVoter(*id));
    }
    Ok(Plan::Joint(enter(current, target)))
}

fn apply_one(target: &mut Membership, change: &MembershipChange) -> Result<(), ChangeError> {
    match change {
        MembershipChange::AddLearner { id, member } => add_learner(target, *id, member),
        MembershipChange::Promote(id) => {
            known(target, *id)?.non_voter = false;
            target.learners.remove(id);
            target.voters.insert(*id);
        }
        MembershipChange::Demote(id) => {
            known(target, *id)?.non_voter = true;
            target.voters.remove(id);
            target.learners.insert(*id);
        }
        MembershipChange::Remove(id) => {
            target.voters.remove(id);
            target.learners.remove(id);
            target.members.remove(id);
        }
        MembershipChange::SetAddress { id, address } => {
            known(target, *id)?.address.clone_from(address);
        }
    }
    Ok(())
}

fn known(target: &mut Membership, id: NodeId) -> Result<&mut Member, ChangeError> {
    target
        .members
        .get_mut(&id)
        .ok_or(ChangeError::UnknownMember(id))
}

fn add_learner(target: &mut Membership, id: NodeId, member: &Member) {
    let same_life = match target.members.get(&id) {
        Some(present) => present.incarnation == member.incarnation,
        None => false,
    };
    if same_life {
        // Its say stays as it is (M16): only what is known of it is renewed.
        let present = target.members.get_mut(&id).expect("looked up above");
        present.address.clone_from(&member.address);
        present.name.clone_from(&member.name);
        return;
    }
    target.voters.remove(&id);
    target.learners.insert(id);
    target.members.insert(id, member.clone());
}

/// The joint membership between `current` and `target`.
fn enter(current: &Membership, target: Membership) -> Membership {
    let outgoing = current.voters.clone();
    let learners_next: BTreeSet<NodeId> =
        target.learners.intersection(&outgoing).copied().collect();
    let mut members = target.members;
    for id in &outgoing {
        if let Some(member) = current.members.get(id) {
            members.entry(*id).or_insert_with(|| member.clone());
        }
    }
    Membership {
        voters: target.voters,
        learners: target.learners.difference(&outgoing).copied().collect(),
        learners_next,
        voters_outgoing: outgoing,
        members,
    }
}

/// The membership a joint one leads to.
pub(super) fn leave(joint: &Membership) -> Membership {
    assert!(joint.is_joint(), "leave a membership that is not joint");
    let mut learners = joint.learners.clone();
    learners.extend(joint.learners_next.iter().copied());
    let mut members = joint.members.clone();
    members.retain(|id, _| joint.voters.contains(id) || learners.contains(id));
    Membership {
        voters: joint.voters.clone(),
        voters_outgoing: BTreeSet::new(),
        learners,
        learners_next: BTreeSet::new(),
        members,
    }
}

/// Whether the sets of a membership fit together as its type demands. What
/// comes from a peer or a disk is checked with this before it is believed.
pub(super) fn is_consistent(membership: &Membership) -> bool {
    let Membership {
        voters,
        voters_outgoing,
        learners,
        learners_next,
        members,
    } = membership;
    let in_a_set =
        |id: &NodeId| voters.contains(id) || voters_outgoing.contains(id) || learners.contains(id);
    voters.is_disjoint(learners)
        && voters.is_disjoint(learners_next)
        && learners_next.is_subset(voters_outgoing)
        && (!voters.is_empty() || (voters_outgoing.is_empty() && learners.is_empty()))
        && members.keys().all(in_a_set)
        && voters
            .iter()
            .chain(voters_outgoing)
            .chain(learners)
            .all(|id| members.contains_key(id))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::types::Incarnation;

    fn member(life: u64) -> Member {
        Member {
            incarnation: Incarnation(life),
            ..Member::default()
        }
    }

    fn three() -> Membership {
        let voters: BTreeSet<NodeId> = (1..=3).map(NodeId).collect();
        Membership {
            members: voters.iter().map(|id| (*id, member(1))).collect(),
            voters,
            ..Membership::default()
        }
    }

    #[test]
    fn one_voter_changes_simply_and_two_jointly() {
        let simple = plan(&three(), &[MembershipChange::Remove(NodeId(3))]);
        let Ok(Plan::Simple(smaller)) = simple else {
            panic!("{simple:?}")
        };
        assert_eq!(smaller.voters, [NodeId(1), NodeId(2)].into());
        let joint = plan(
            &three(),
            &[
                MembershipChange::Demote(NodeId(2)),
                MembershipChange::Remove(NodeId(3)),
            ],
        );
        let Ok(Plan::Joint(joint)) = joint else {
            panic!("{joint:?}")
        };
        assert_eq!(format!("{joint:?}"), "voters{n1}&&{n1, n2, n3} next{n2}");
        assert_eq!(format!("{:?}", leave(&joint)), "voters{n1} learners{n2}");
    }

    #[test]
    fn address_change_keeps_learner_a_learner() {
        let mut current = three();
        current.learners.insert(NodeId(4));
        current.members.insert(NodeId(4), member(1));
        let moved = MembershipChange::SetAddress {
            id: NodeId(4),
            address: "b:1".into(),
        };
        let Ok(Plan::Simple(next)) = plan(&current, &[moved]) else {
            panic!()
        };
        assert_eq!(next.learners, current.learners);
        let again = MembershipChange::AddLearner {
            id: NodeId(1),
            member: Member {
                address: "c:1".into(),
                ..member(1)
            },
        };
        let Ok(Plan::Simple(next)) = plan(&current, &[again]) else {
            panic!()
        };
        assert!(next.voters.contains(&NodeId(1)));
    }

    #[test]
    fn new_incarnation_of_voter_comes_in_as_learner_and_only_alone() {
        let replace = MembershipChange::AddLearner {
            id: NodeId(3),
            member: member(2),
        };
        let Ok(Plan::Simple(next)) = plan(&three(), std::slice::from_ref(&replace)) else {
            panic!()
        };
        assert_eq!(format!("{next:?}"), "voters{n1, n2} learners{n3}");
        assert!(plan(&three(), &[replace, MembershipChange::Remove(NodeId(2))]).is_err());
    }

    #[test]
    fn voter_is_not_swapped_for_another_life_in_one_step() {
        let swap = [
            MembershipChange::AddLearner {
                id: NodeId(3),
                member: member(2),
            },
            MembershipChange::Promote(NodeId(3)),
        ];
        let refused = Err(ChangeError::RebornVoter(NodeId(3)));
        assert_eq!(plan(&three(), &swap), refused);
    }

    #[test]
    fn nonsense_is_refused_and_no_change_is_nothing() {
        assert!(plan(&three(), &[MembershipChange::Promote(NodeId(9))]).is_err());
        let everybody: Vec<_> = (1..=3)
            .map(|n| MembershipChange::Remove(NodeId(n)))
            .collect();
        assert!(plan(&three(), &everybody).is_err());
        let same = [
            MembershipChange::Promote(NodeId(1)),
            MembershipChange::Remove(NodeId(9)),
        ];
        assert_eq!(plan(&three(), &same), Ok(Plan::Nothing));
    }

    #[test]
    fn sets_that_contradict_each_other_are_no_membership() {
        let check = |voters: &[u64], outgoing: &[u64], learners: &[u64], next: &[u64]| {
            let set = |list: &[u64]| list.iter().copied().map(NodeId).collect();
            is_consistent(&Membership {
                voters: set(voters),
                voters_outgoing: set(outgoing),
                learners: set(learners),
                learners_next: set(next),
                members: (1..=3).map(|id| (NodeId(id), member(1))).collect(),
            })
        };
        assert!(check(&[1, 2], &[], &[3], &[]));
        assert!(check(&[1, 2], &[1, 3], &[], &[3]), "3 becomes a learner");
        assert!(!check(&[1, 2], &[], &[], &[]), "3 is nothing");
        assert!(!check(&[1, 2, 4], &[], &[3], &[]), "4 is unknown");
        assert!(!check(&[1, 2, 3], &[], &[3], &[]), "3 votes and does not");
        assert!(!check(&[1, 2, 3], &[3], &[], &[3]), "3 will not and does");
        assert!(!check(&[1, 2], &[], &[3], &[3]), "3 never voted");
        assert!(!check(&[], &[], &[1, 2, 3], &[]), "learners of nobody");
        assert!(!check(&[], &[1, 2, 3], &[], &[]), "towards nobody");
        assert!(is_consistent(&Membership::default()), "before all");
    }

    fn any_change() -> impl Strategy<Value = MembershipChange> {
        (0u8..5, 1u64..7, 1u64..3).prop_map(|(kind, id, life)| {
            let id = NodeId(id);
            match kind {
                0 => MembershipChange::AddLearner {
                    id,
                    member: member(life),
                },
                1 => MembershipChange::Promote(id),
                2 => MembershipChange::Demote(id),
                3 => MembershipChange::Remove(id),
                _ => MembershipChange::SetAddress {
                    id,
                    address: format!("h{life}:1"),
                },
            }
        })
    }

    /// The reference model: a map from member to whether it votes.
    fn model(roles: &mut BTreeMap<NodeId, (bool, u64)>, change: &MembershipChange) {
        match change {
            MembershipChange::AddLearner { id, member } => {
                let life = member.incarnation.0;
                if roles.get(id).is_none_or(|(_, known)| *known != life) {
                    roles.insert(*id, (false, life));
                }
            }
            MembershipChange::Promote(id) => roles.get_mut(id).expect("planned").0 = true,
            MembershipChange::Demote(id) => roles.get_mut(id).expect("planned").0 = false,
            MembershipChange::Remove(id) => drop(roles.remove(id)),
            MembershipChange::SetAddress { .. } => {}
        }
    }

    proptest! {
        #[test]
        fn sequences_of_changes_follow_the_model(
            batches in proptest::collection::vec(
                proptest::collection::vec(any_change(), 1..4), 1..12),
        ) {
            let mut current = three();
            let mut roles: BTreeMap<NodeId, (bool, u64)> =
                (1..=3).map(|n| (NodeId(n), (true, 1))).collect();
            for batch in batches {
                let next = match plan(&current, &batch) {
                    Err(_) => continue,
                    Ok(Plan::Nothing) => current.clone(),
                    Ok(Plan::Simple(next)) => {
                        let moved = current.voters.symmetric_difference(&next.voters).count();
                        prop_assert!(moved <= 1);
                        next
                    }
                    Ok(Plan::Joint(joint)) => {
                        prop_assert!(is_consistent(&joint), "{:?}", joint);
                        prop_assert_eq!(&joint.voters_outgoing, &current.voters);
                        leave(&joint)
                    }
                };
                batch.iter().for_each(|change| model(&mut roles, change));
                prop_assert!(is_consistent(&next), "{:?}", next);
                let voters: BTreeSet<NodeId> =
                    roles.iter().filter(|(_, role)| role.0).map(|(id, _)| *id).collect();
                prop_assert_eq!(&next.voters, &voters);
                prop_assert_eq!(next.members.len(), roles.len());
                current = next;
            }
        }
    }

    // Whoever renews the address of a member says nothing of its say (M16).
    #[test]
    fn renewed_member_stays_a_permanent_non_voter() {
        let known = Member {
            non_voter: true,
            ..Member::default()
        };
        let mut current = Membership::default();
        current.voters.insert(NodeId(1));
        current.members.insert(NodeId(1), Member::default());
        current.learners.insert(NodeId(2));
        current.members.insert(NodeId(2), known);
        let moved = MembershipChange::AddLearner {
            id: NodeId(2),
            member: Member {
                address: "b:1".to_owned(),
                ..Member::default()
            },
        };
        let planned = plan(&current, &[moved]).expect("possible");
        let Plan::Simple(next) = planned else {
            panic!("{planned:?}");
        };
        assert!(next.members[&NodeId(2)].non_voter);
        assert_eq!(next.members[&NodeId(2)].address, "b:1");
    }
}
