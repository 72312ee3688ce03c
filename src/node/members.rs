//! Who may join, who leaves, who votes, who leads next: the checks made on the
//! leader before the core is asked, as pure functions where they can be.

use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use crate::membership::autopilot::is_here;
use crate::membership::forecast::forecast;
use crate::membership::picture::picture;
use crate::membership::{AutopilotConfig, ClusterHealth, Forecast};
use crate::peer::check_beside;
use crate::physical::{JoinRequest, MemberWish, PhysicalError};
use crate::raft::Status;
use crate::types::{Incarnation, Member, MembershipChange, Millis, NodeId};

use super::event::{Event, EventSender, refusal};
use super::handle::Inner;
use super::identity::node_number;

impl Inner {
    /// Admits a joiner as a learner.
    pub(super) async fn admit(&self, joiner: JoinRequest) -> Result<(), PhysicalError> {
        let events = self.leading()?;
        let (status, published) = self.status.newest();
        let change = admission(self.identity.id, &status, published, &joiner)?;
        change_membership(&events, change, true).await
    }

    /// Removes a member; the leader hands over first, and whoever leads then
    /// is to be asked again: `NotLeader`.
    pub(super) async fn remove(&self, node_id: &str, force: bool) -> Result<(), PhysicalError> {
        let events = self.leading()?;
        let (status, _) = self.status.newest();
        let Ok(id) = member_named(&status, node_id) else {
            return Ok(());
        };
        if id == self.identity.id {
            self.hand_over_to(None).await?;
            return Err(PhysicalError::NotLeader);
        }
        change_membership(&events, MembershipChange::Remove(id), force).await
    }

    /// Gives a member a vote. One that still catches up is waited for; one
    /// that does not answer would only make the quorum harder to reach.
    pub(super) async fn promote(&self, node_id: &str, force: bool) -> Result<(), PhysicalError> {
        let deadline = Instant::now() + CHANGE_WAIT;
        loop {
            let events = self.leading()?;
            let (status, now) = self.status.newest();
            let id = member_named(&status, node_id)?;
            if status.membership.is_voter(id) || is_caught_up(&status, now, id) {
                let promote = MembershipChange::Promote(id);
                return change_membership(&events, promote, force).await;
            }
            if deadline < Instant::now() {
                return Err(PhysicalError::Unavailable {
                    reason: format!(
                        "server {node_id} does not answer or has not caught up: \
                         promote it when it has"
                    ),
                });
            }
            tokio::time::sleep(CHANGE_PAUSE).await;
        }
    }

    /// Takes a member's vote; the leader hands over first, and whoever leads
    /// then is to be asked again: `NotLeader`.
    pub(super) async fn demote(&self, node_id: &str, force: bool) -> Result<(), PhysicalError> {
        let events = self.leading()?;
        let (status, _) = self.status.newest();
        let id = member_named(&status, node_id)?;
        if id == self.identity.id {
            self.hand_over_to(None).await?;
            return Err(PhysicalError::NotLeader);
        }
        change_membership(&events, MembershipChange::Demote(id), force).await
    }

    /// What fulfilling a wish about a member would do to the quorum.
    pub(super) fn forecast(
        &self,
        node_id: &str,
        wish: MemberWish,
    ) -> Result<Forecast, PhysicalError> {
        self.leading()?;
        let (status, now) = self.status.newest();
        let id = member_named(&status, node_id)?;
        let change = match wish {
            MemberWish::Remove => MembershipChange::Remove(id),
            MemberWish::Promote => MembershipChange::Promote(id),
            MemberWish::Demote => MembershipChange::Demote(id),
        };
        Ok(forecast(now, self.identity.id, &status, &change))
    }

    /// How the members are doing, on the leader.
    pub(super) fn cluster_health(&self) -> Result<ClusterHealth, PhysicalError> {
        self.leading()?;
        let (status, now) = self.status.newest();
        let memory = self.status.members();
        let config = self.autopilot();
        Ok(picture(now, &config, self.identity.id, &status, &memory))
    }

    /// The membership policy in force.
    pub(super) fn autopilot(&self) -> AutopilotConfig {
        self.autopilot
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Uses another membership policy from now on.
    pub(super) fn set_autopilot(&self, config: AutopilotConfig) {
        let mut current = self
            .autopilot
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *current = config.clone();
        drop(current);
        if let Some(running) = &*self.running.load() {
            running.events.send(Event::Autopilot(config));
        }
    }

    /// Hands leadership to a voter by name; the leader itself has it.
    pub(super) async fn hand_over_to_named(&self, node_id: &str) -> Result<(), PhysicalError> {
        self.leading()?;
        let (status, _) = self.status.newest();
        let id = member_named(&status, node_id)?;
        if id == self.identity.id {
            return Ok(());
        }
        self.hand_over_to(Some(id)).await
    }

    /// Hands leadership to this voter, or to the best; returns when this node
    /// no longer leads.
    pub(super) async fn hand_over_to(&self, target: Option<NodeId>) -> Result<(), PhysicalError> {
        let events = self.leading()?;
        let mut leadership = self.leadership.subscribe();
        let target = match events.transfer(target)?.await {
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

/// The member of this name.
fn member_named(status: &Status, node_id: &str) -> Result<NodeId, PhysicalError> {
    let named = |(id, member): (&NodeId, &Member)| (member.name == node_id).then_some(*id);
    let found = status.membership.members.iter().find_map(named);
    found.ok_or_else(|| PhysicalError::UnknownServer {
        node_id: node_id.to_owned(),
    })
}

/// Whether a learner answers and lacks next to nothing.
fn is_caught_up(status: &Status, now: Millis, id: NodeId) -> bool {
    status.peers.get(&id).is_some_and(|peer| {
        let lag = status.last_index.0.saturating_sub(peer.match_index.0);
        is_here(now, peer) && !peer.snapshot_in_flight && lag <= LAG_MAX
    })
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
    let others = members.iter().filter(|(other, _)| **other != id);
    let others = others.map(|(_, member)| member.address.as_str());
    if let Err(error) = check_beside(&joiner.cluster_address, others) {
        return refused(error.to_string());
    }
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
/// Unless forced, each try is judged anew: another change may have been made
/// meanwhile.
async fn change_membership(
    events: &EventSender,
    change: MembershipChange,
    is_forced: bool,
) -> Result<(), PhysicalError> {
    let deadline = Instant::now() + CHANGE_WAIT;
    loop {
        let answer = events.change(vec![change.clone()], is_forced)?;
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

/// Entries that a server may lack when it is given a vote.
const LAG_MAX: u64 = 1000;
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
    fn address_that_members_cannot_dial_is_refused() {
        for address in ["127.0.0.1:1", "localhost:1", "0.0.0.0:1", "nonsense"] {
            let error = admit(60_000, &joiner("n3", address, 3)).unwrap_err();
            assert!(error.to_string().contains(address), "{error}");
        }
    }

    #[test]
    fn address_of_another_member_is_refused() {
        let error = admit(60_000, &joiner("n3", "b:1", 3)).unwrap_err();
        assert!(error.to_string().contains("\"n2\""), "{error}");
    }
}
