//! Handing leadership over: on request, and when a leader has voted itself out.
//! Thesis 3.10.

use crate::raft::message::Message;
use crate::raft::{Effect, Raft, Rejection, RequestId, State};
use crate::types::{LogIndex, Millis, NodeId};

/// A transfer under way. Meanwhile nothing new is appended, or the target
/// might never have caught up (C6).
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub(super) struct Transfer {
    target: Option<NodeId>,
    pub(super) deadline: Millis,
    /// The leader is no voter any more: it stops at the deadline either way.
    leaving: bool,
    told_at: Option<Millis>,
}

impl Raft {
    pub(super) fn transfer_leadership(&mut self, id: RequestId, target: Option<NodeId>) {
        match self.check_target(target) {
            Err(reason) => self.outbox.reject(id, reason),
            Ok(target) => {
                self.start_transfer(Some(target), false);
                self.outbox.effect(Effect::TransferStarted { id, target });
            }
        }
    }

    fn check_target(&self, target: Option<NodeId>) -> Result<NodeId, Rejection> {
        let State::Leader(lead) = &self.state else {
            return Err(self.not_leader());
        };
        if let Some(transfer) = &lead.transfer {
            let same = target.is_some() && transfer.target == target && !transfer.leaving;
            return if same {
                transfer.target.ok_or(Rejection::Transferring)
            } else {
                Err(Rejection::Transferring)
            };
        }
        let Some(target) = target else {
            let nobody = || Rejection::InvalidTarget("no other voter answers".into());
            return self.best_target().ok_or_else(nobody);
        };
        let voters = &self.memberships.active().membership.voters;
        if target == self.config.id {
            return Err(Rejection::InvalidTarget(format!("{target} leads already")));
        }
        if !voters.contains(&target) {
            return Err(Rejection::InvalidTarget(format!("{target} is no voter")));
        }
        Ok(target)
    }

    /// The voter that lacks least, among those that answer.
    fn best_target(&self) -> Option<NodeId> {
        let State::Leader(lead) = &self.state else {
            return None;
        };
        let voters = &self.memberships.active().membership.voters;
        let patience = self.config.election_timeout_max;
        let candidates = lead
            .peers
            .iter()
            .filter(|(id, peer)| voters.contains(id) && peer.heard_within(self.now, patience));
        candidates
            .max_by_key(|(_, peer)| peer.match_index)
            .map(|(id, _)| *id)
    }

    fn start_transfer(&mut self, target: Option<NodeId>, leaving: bool) {
        let deadline = Millis(self.now.0 + self.config.election_timeout_max.0);
        if let State::Leader(lead) = &mut self.state {
            let same = lead
                .transfer
                .is_some_and(|t| t.target == target && t.leaving == leaving);
            if !same {
                lead.transfer = Some(Transfer {
                    target,
                    deadline,
                    leaving,
                    told_at: None,
                });
            }
        }
    }

    /// A leader that a committed membership gives no vote leads no longer than
    /// it takes to hand over (M11).
    pub(super) fn hand_over_when_removed(&mut self) {
        let active = self.memberships.active();
        let has_vote = active.membership.is_voter(self.config.id);
        if has_vote || self.log.commit() < active.index {
            return;
        }
        let State::Leader(lead) = &self.state else {
            return;
        };
        if lead
            .transfer
            .as_ref()
            .is_none_or(|transfer| !transfer.leaving)
        {
            let target = self.best_target();
            self.start_transfer(target, true);
        }
    }

    /// Tells the target to campaign once it has everything, again each time the
    /// message may be lost.
    pub(super) fn push_transfer(&mut self) {
        let last = self.log.last().index;
        let (now, again) = (self.now, self.config.heartbeat_interval);
        let State::Leader(lead) = &mut self.state else {
            return;
        };
        let Some(Transfer {
            target: Some(target),
            told_at,
            ..
        }) = &mut lead.transfer
        else {
            return;
        };
        let matched = lead
            .peers
            .get(target)
            .map_or(LogIndex(0), |peer| peer.match_index);
        let told_lately = told_at.is_some_and(|at| now.0 < at.0 + again.0);
        if matched == last && !told_lately {
            *told_at = Some(now);
            self.outbox
                .send_now(*target, Message::TimeoutNow { term: self.term });
        }
    }

    pub(super) fn expire_transfer(&mut self) {
        let State::Leader(lead) = &mut self.state else {
            return;
        };
        let Some(transfer) = lead.transfer.filter(|t| t.deadline <= self.now) else {
            return;
        };
        lead.transfer = None;
        if transfer.leaving {
            self.become_follower(self.term, None);
        }
    }
}
