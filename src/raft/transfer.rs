//! Handing leadership over: on request, when a leader has voted itself out, and
//! when its disk stalls. Thesis 3.10.

use crate::raft::message::Message;
use crate::raft::progress::Progress;
use crate::raft::{Effect, Raft, Rejection, RequestId, State, TargetError};
use crate::types::{LogIndex, Millis, NodeId};

/// Why leadership is handed over, and so what follows when nobody takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub(super) enum Cause {
    /// Somebody asked for it: this node leads on.
    Asked,
    /// The leader is no voter any more: it stops either way.
    Leaving,
    /// Its disk hangs: it stops, unless it writes again.
    Stalled,
}

/// A transfer under way. Meanwhile nothing new is appended, or the target
/// might never have caught up (C6): writes are held.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub(super) struct Transfer {
    target: Option<NodeId>,
    pub(super) deadline: Millis,
    cause: Cause,
    told_at: Option<Millis>,
}

impl Transfer {
    /// Until when writes are held; `None`: this node will not lead again.
    pub(super) fn holds_until(&self) -> Option<Millis> {
        (self.cause != Cause::Leaving).then_some(self.deadline)
    }
}

impl Raft {
    pub(super) fn transfer_leadership(&mut self, id: RequestId, target: Option<NodeId>) {
        match self.check_target(target) {
            Err(reason) => self.outbox.reject(id, reason),
            Ok(target) => {
                self.start_transfer(Some(target), Cause::Asked);
                self.outbox.effect(Effect::TransferStarted { id, target });
            }
        }
    }

    fn check_target(&self, target: Option<NodeId>) -> Result<NodeId, Rejection> {
        let State::Leader(lead) = &self.state else {
            return Err(self.not_leader());
        };
        if let Some(transfer) = &lead.transfer {
            // Whoever asks for what is under way shall see it through.
            let same = target.is_none() || transfer.target == target;
            return match transfer.target {
                Some(under_way) if same && transfer.cause != Cause::Leaving => Ok(under_way),
                _ => Err(Rejection::Transferring),
            };
        }
        let Some(target) = target else {
            return self.best_target().ok_or(TargetError::Nobody.into());
        };
        if target == self.config.id {
            return Err(TargetError::LeadsAlready(target).into());
        }
        if !self
            .memberships
            .active()
            .membership
            .voters
            .contains(&target)
        {
            return Err(TargetError::NoVoter(target).into());
        }
        let patience = self.config.election_timeout_max;
        let answers = |peer: &Progress| peer.heard_within(self.now, patience);
        if !lead.peers.get(&target).is_some_and(answers) {
            return Err(TargetError::Silent(target).into());
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

    fn start_transfer(&mut self, target: Option<NodeId>, cause: Cause) {
        let patience = match cause {
            Cause::Asked | Cause::Leaving => self.config.election_timeout_max,
            // It fell silent: soon the others choose for themselves.
            Cause::Stalled => self.config.election_timeout_min,
        };
        let deadline = Millis(self.now.0 + patience.0);
        if let State::Leader(lead) = &mut self.state {
            let same = lead
                .transfer
                .is_some_and(|t| t.target == target && t.cause == cause);
            if !same {
                lead.transfer = Some(Transfer {
                    target,
                    deadline,
                    cause,
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
            .is_none_or(|transfer| transfer.cause != Cause::Leaving)
        {
            let target = self.best_target();
            self.start_transfer(target, Cause::Leaving);
        }
    }

    /// A leader whose disk hangs would keep its followers from electing one
    /// that can write (W13): the best of them is asked to take over at once.
    /// Alone it leads on: nobody else could.
    pub(super) fn hand_over_when_stalled(&mut self) {
        if !self.is_disk_stalled() || !self.has_other_voters() {
            return;
        }
        let State::Leader(lead) = &self.state else {
            return;
        };
        if lead.transfer.is_some() {
            return;
        }
        match self.best_target() {
            Some(target) => self.start_transfer(Some(target), Cause::Stalled),
            None => self.become_follower(self.term, None),
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
            // The request may arrive at any later time, and its election is
            // exempt from the patience that a lease counts on (C5).
            lead.lease.forfeit();
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
        let is_stalled = self.is_disk_stalled() && self.has_other_voters();
        if transfer.cause == Cause::Leaving || is_stalled {
            self.become_follower(self.term, None);
        } else {
            self.append_held();
        }
    }
}
