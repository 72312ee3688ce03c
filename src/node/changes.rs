//! Membership changes as the raft thread judges them, right before the core
//! makes them.

use crate::membership::Forecast;
use crate::membership::autopilot::is_here;
use crate::membership::forecast::forecast;
use crate::peer::check_beside;
use crate::raft::{Role, Status};
use crate::types::{Incarnation, MembershipChange, Millis, NodeId};

/// Why the leader would lose its quorum by these changes, as it stands at
/// `now`. Whoever does not lead has nothing to object.
pub(super) fn objection(
    now: Millis,
    status: &Status,
    changes: &[MembershipChange],
) -> Option<String> {
    let leader = status.leader.filter(|_| status.role == Role::Leader)?;
    let mut foretold = changes
        .iter()
        .map(|change| forecast(now, leader, status, change));
    foretold.find_map(Forecast::objection)
}

/// The next member that listens elsewhere than the membership says: one that
/// answers, in the life that the membership names, at an address that is
/// nobody else's.
pub(super) fn moved_address(
    now: Millis,
    status: &Status,
    greeted: impl Fn(NodeId, Incarnation) -> Option<String>,
) -> Option<MembershipChange> {
    let leads = status.role == Role::Leader && status.ready;
    if !leads || status.membership.is_joint() {
        return None;
    }
    let members = &status.membership.members;
    members.iter().find_map(|(id, member)| {
        let answers = status.peers.get(id).is_some_and(|peer| is_here(now, peer));
        if status.leader != Some(*id) && !answers {
            return None;
        }
        let address = greeted(*id, member.incarnation)?;
        let others = members.iter().filter(|(other, _)| *other != id);
        let mut others = others.map(|(_, member)| member.address.as_str());
        let is_free = others.clone().all(|other| other != address);
        let is_new = address != member.address && is_free;
        (is_new && check_beside(&address, others.by_ref()).is_ok())
            .then_some(MembershipChange::SetAddress { id: *id, address })
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::raft::PeerStatus;
    use crate::types::{Member, Membership};

    /// A leader of four voters, the fourth of which is dead.
    fn four() -> Status {
        let numbers = (1..=4).map(NodeId);
        let membership = Membership {
            voters: numbers.clone().collect(),
            members: numbers.map(|id| (id, Member::default())).collect(),
            ..Membership::default()
        };
        let peer = |contact| PeerStatus {
            last_contact: Some(Millis(contact)),
            ..PeerStatus::default()
        };
        Status {
            role: Role::Leader,
            ready: true,
            leader: Some(NodeId(1)),
            membership: Arc::new(membership),
            peers: [
                (NodeId(2), peer(60_000)),
                (NodeId(3), peer(60_000)),
                (NodeId(4), peer(1000)),
            ]
            .into(),
            ..Status::default()
        }
    }

    #[test]
    fn change_is_judged_by_the_membership_that_it_is_made_from() {
        let now = Millis(60_000);
        let mut status = four();
        let remove = |id| [MembershipChange::Remove(NodeId(id))];
        assert_eq!(objection(now, &status, &remove(2)), None);
        assert_eq!(objection(now, &status, &remove(3)), None);
        Arc::make_mut(&mut status.membership)
            .voters
            .remove(&NodeId(2));
        assert!(objection(now, &status, &remove(3)).is_some());
        assert_eq!(objection(now, &status, &remove(4)), None, "the dead one");
        status.role = Role::Follower;
        assert_eq!(objection(now, &status, &remove(3)), None, "not its to say");
    }

    fn moved(now: u64, edit: impl FnOnce(&mut Membership), life: u64) -> Option<String> {
        let mut status = four();
        let membership = Arc::make_mut(&mut status.membership);
        for (id, member) in &mut membership.members {
            member.address = format!("old{id}:1");
            member.incarnation = Incarnation(7);
        }
        edit(membership);
        let greeted = |id: NodeId, asked: Incarnation| {
            (id == NodeId(2) && asked == Incarnation(life)).then(|| "new:1".to_owned())
        };
        match moved_address(Millis(now), &status, greeted)? {
            MembershipChange::SetAddress {
                id: NodeId(2),
                address,
            } => Some(address),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn address_follows_a_member_that_greeted_from_elsewhere() {
        assert_eq!(moved(60_000, |_| {}, 7).as_deref(), Some("new:1"));
    }

    #[test]
    fn address_of_another_life_silence_or_member_is_not_followed() {
        assert_eq!(moved(60_000, |_| {}, 6), None, "an older directory's");
        assert_eq!(moved(65_000, |_| {}, 7), None, "it does not answer");
        let taken = |membership: &mut Membership| {
            let third = membership.members.entry(NodeId(3)).or_default();
            third.address = "new:1".to_owned();
        };
        assert_eq!(moved(60_000, taken, 7), None, "another member's");
        let joint = |membership: &mut Membership| {
            membership.voters_outgoing = [NodeId(1)].into();
        };
        assert_eq!(moved(60_000, joint, 7), None, "a change is under way");
    }
}
