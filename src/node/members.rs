//! Who may join, who leaves, who leads next: the checks made on the leader
//! before the core is asked, as pure functions where they can be.

use std::time::Duration;

use tokio::time::Instant;

use crate::physical::{JoinRequest, PhysicalError};
use crate::raft::Status;
use crate::types::{Incarnation, Member, MembershipChange, Millis, NodeId};

use super::event::{EventSender, refusal};
use super::handle::Inner;
use super::identity::node_number;

impl Inner {
    /// Admits a joiner as a learner.
    pub(super) async fn admit(&self, joiner: JoinRequest) -> Result<(), PhysicalError> {
        let events = self.leading()?;
        let (status, published) = self.status.newest();
        let change = admission(self.identity.id, &status, published, &joiner)?;
        change_membership(&events, change).await
    }

    /// Removes a member; the leader hands over first, and whoever leads then
    /// is to be asked again: `NotLeader`.
    pub(super) async fn remove(&self, node_id: &str) -> Result<(), PhysicalError> {
        let events = self.leading()?;
        let (status, _) = self.status.newest();
        let named = |(id, member): (&NodeId, &Member)| (member.name == node_id).then_some(*id);
        let Some(id) = status.membership.members.iter().find_map(named) else {
            return Ok(());
        };
        if id == self.identity.id {
            self.step_down().await?;
            return Err(PhysicalError::NotLeader);
        }
        change_membership(&events, MembershipChange::Remove(id)).await
    }

    /// Hands leadership to the best voter; returns when this node no longer
    /// leads.
    pub(super) async fn step_down(&self) -> Result<(), PhysicalError> {
        let events = self.leading()?;
        let mut leadership = self.leadership.subscribe();
        let target = match events.transfer(None)?.await {
            Ok(Ok(target)) => target,
            Ok(Err(rejection)) => return Err(refusal(rejection)),
            Err(_) => return Err(PhysicalError::NotRunning),
        };
        let ceded = leadership.wait_for(|leadership| !leadership.is_leader);
        let ceded = tokio::time::timeout(TRANSFER_WAIT, ceded).await.is_ok();
        if ceded {
            Ok(())
        } else {
            Err(PhysicalError::Unavailable {
                reason: format!("{target} did not take over leadership in time"),
            })
        }
    }
}

/// What admitting `joiner` amounts to, on the leader.
///
/// # Errors
/// `Refused`, naming who is in the way.
fn admission(
    leader: NodeId,
    status: &Status,
    now: Millis,
    joiner: &JoinRequest,
) -> Result<MembershipChange, PhysicalError> {
    let refused = |reason: String| Err(PhysicalError::Refused { reason });
    let id = node_number(&joiner.node_id);
    let incarnation = Incarnation(joiner.incarnation);
    let members = &status.membership.members;
    if let Some((_, other)) = members
        .iter()
        .find(|(other, member)| **other != id && member.address == joiner.cluster_address)
    {
        return refused(format!(
            "address {} already belongs to node {:?}: remove that node first",
            joiner.cluster_address, other.name
        ));
    }
    match members.get(&id) {
        Some(present) if present.name != joiner.node_id => refused(format!(
            "node id {:?} and the present {:?} go by the same number: choose another node_id",
            joiner.node_id, present.name
        )),
        Some(present) if present.incarnation == incarnation => Ok(MembershipChange::SetAddress {
            id,
            address: joiner.cluster_address.clone(),
        }),
        Some(present) if id == leader || is_live(status, now, id) => refused(format!(
            "node id {:?} is in use by a live member at {}: choose another node_id, \
             or remove that member first",
            joiner.node_id, present.address
        )),
        _ => Ok(MembershipChange::AddLearner {
            id,
            member: Member {
                name: joiner.node_id.clone(),
                address: joiner.cluster_address.clone(),
                incarnation,
                non_voter: joiner.non_voter,
            },
        }),
    }
}

/// Whether a peer answered this leader lately.
fn is_live(status: &Status, now: Millis, id: NodeId) -> bool {
    let contact = status.peers.get(&id).and_then(|peer| peer.last_contact);
    contact.is_some_and(|contact| now.0.saturating_sub(contact.0) < LIVE_WITHIN.0)
}

/// Asks until no other change is in the way, and waits until it is committed.
async fn change_membership(
    events: &EventSender,
    change: MembershipChange,
) -> Result<(), PhysicalError> {
    let deadline = Instant::now() + CHANGE_WAIT;
    loop {
        let answer = events.change(vec![change.clone()])?;
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(Ok(_))) => return Ok(()),
            // Another change is under way.
            Ok(Ok(Err(PhysicalError::Busy))) if Instant::now() + CHANGE_PAUSE < deadline => {
                tokio::time::sleep(CHANGE_PAUSE).await;
            }
            Ok(Ok(Err(error))) => return Err(error),
            Ok(Err(_)) => {
                return Err(PhysicalError::OutcomeUnknown {
                    reason: "the node stopped before the change was committed".into(),
                });
            }
            Err(_) => {
                return Err(PhysicalError::OutcomeUnknown {
                    reason: "the membership change was not committed in time".into(),
                });
            }
        }
    }
}

/// A member heard of within this time is live.
const LIVE_WITHIN: Millis = Millis(5000);
/// For the next leader to take over.
const TRANSFER_WAIT: Duration = Duration::from_secs(5);
/// For a membership change to be committed.
const CHANGE_WAIT: Duration = Duration::from_secs(10);
/// Between two tries while another change is under way.
const CHANGE_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::raft::PeerStatus;
    use crate::types::Membership;

    fn member(name: &str, address: &str, incarnation: u64) -> (NodeId, Member) {
        let member = Member {
            name: name.into(),
            address: address.into(),
            incarnation: Incarnation(incarnation),
            non_voter: false,
        };
        (node_number(name), member)
    }

    fn status() -> Status {
        let membership = Membership {
            members: [member("n1", "a:1", 1), member("n2", "b:1", 2)].into(),
            ..Membership::default()
        };
        let peer = PeerStatus {
            last_contact: Some(Millis(1000)),
            ..PeerStatus::default()
        };
        Status {
            membership: Arc::new(membership),
            peers: [(node_number("n2"), peer)].into(),
            ..Status::default()
        }
    }

    fn joiner(name: &str, address: &str, incarnation: u64) -> JoinRequest {
        JoinRequest {
            node_id: name.into(),
            cluster_address: address.into(),
            incarnation,
            non_voter: false,
        }
    }

    fn admit(now: u64, joiner: &JoinRequest) -> Result<MembershipChange, PhysicalError> {
        admission(node_number("n1"), &status(), Millis(now), joiner)
    }

    #[test]
    fn stranger_becomes_a_learner() {
        let change = admit(1000, &joiner("n3", "c:1", 3)).unwrap();
        assert!(
            matches!(change, MembershipChange::AddLearner { id, .. } if id == node_number("n3"))
        );
    }

    #[test]
    fn name_of_a_live_member_is_refused() {
        let error = admit(2000, &joiner("n2", "c:1", 9)).unwrap_err();
        assert!(error.to_string().contains("b:1"), "{error}");
    }

    #[test]
    fn name_of_a_silent_member_is_taken_over() {
        let change = admit(60_000, &joiner("n2", "c:1", 9)).unwrap();
        assert!(matches!(change, MembershipChange::AddLearner { .. }));
    }

    #[test]
    fn name_of_the_leader_is_refused_however_silent() {
        assert!(admit(60_000, &joiner("n1", "c:1", 9)).is_err());
    }

    #[test]
    fn same_directory_at_another_address_moves() {
        let change = admit(1000, &joiner("n2", "c:1", 2)).unwrap();
        assert!(matches!(change, MembershipChange::SetAddress { address, .. } if address == "c:1"));
    }

    #[test]
    fn address_of_another_member_is_refused() {
        let error = admit(60_000, &joiner("n3", "b:1", 3)).unwrap_err();
        assert!(error.to_string().contains("\"n2\""), "{error}");
    }
}
