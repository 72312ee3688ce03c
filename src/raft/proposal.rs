//! What a leader appends: commands, memberships, and its first entry.

use std::sync::Arc;

use crate::raft::change::{self, Plan};
use crate::raft::replication::Leadership;
use crate::raft::{ChangeError, Effect, Raft, Rejection, RequestId, State};
use crate::types::{Entry, EntryPayload, LogIndex, Membership, MembershipChange};

/// A joint change whose last entry is not appended yet.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub(super) struct PendingChange {
    id: RequestId,
    joint_index: LogIndex,
}

/// A learner further behind than this (or than the trailing entries, if more)
/// would stall commits as a voter (M15).
const PROMOTION_LAG_MAX: u64 = 256;

impl Raft {
    pub(super) fn propose(&mut self, id: RequestId, payload: EntryPayload) {
        if let Err(reason) = self.may_append(Some(&payload)) {
            self.outbox.reject(id, reason);
            return;
        }
        if let State::Leader(lead) = &self.state
            && let Some(transfer) = &lead.transfer
        {
            match transfer.holds_until() {
                Some(ends) => self.hold(id, payload, ends),
                None => self.outbox.reject(id, Rejection::Transferring),
            }
            return;
        }
        let (index, term) = (self.append_own(payload), self.term);
        self.outbox
            .effect(Effect::ProposalAccepted { id, index, term });
    }

    /// Whether a request to append may be taken at all.
    fn may_append(&self, payload: Option<&EntryPayload>) -> Result<(), Rejection> {
        if !matches!(self.state, State::Leader(_)) {
            return Err(self.not_leader());
        }
        if let Some(EntryPayload::Membership(_)) = payload {
            return Err(ChangeError::Proposed.into());
        }
        let (bytes, max) = (
            self.log.uncommitted_bytes() + self.held.bytes(),
            self.config.uncommitted_bytes_max,
        );
        if max <= bytes {
            return Err(Rejection::Busy { bytes, max });
        }
        Ok(())
    }

    /// Appends an entry of this leader's.
    pub(super) fn append_own(&mut self, payload: EntryPayload) -> LogIndex {
        assert!(
            matches!(self.state, State::Leader(_)),
            "only a leader appends its own"
        );
        let index = self.log.last().index.next();
        let entry = Entry {
            index,
            term: self.term,
            payload,
        };
        let changes_membership = matches!(entry.payload, EntryPayload::Membership(_));
        self.memberships.append(std::slice::from_ref(&entry));
        self.log.append([entry]);
        if changes_membership {
            self.sync_peers();
        }
        index
    }

    pub(super) fn change_membership(&mut self, id: RequestId, changes: &[MembershipChange]) {
        match self.plan_change(changes) {
            Err(reason) => self.outbox.reject(id, reason),
            Ok(Plan::Nothing) => self.outbox.effect(Effect::AlreadyDone { id }),
            Ok(Plan::Simple(next)) => {
                let index = self.append_own(EntryPayload::Membership(Arc::new(next)));
                let term = self.term;
                self.outbox
                    .effect(Effect::ProposalAccepted { id, index, term });
            }
            Ok(Plan::Joint(joint)) => {
                let joint_index = self.append_own(EntryPayload::Membership(Arc::new(joint)));
                if let State::Leader(lead) = &mut self.state {
                    lead.change = Some(PendingChange { id, joint_index });
                }
            }
        }
    }

    fn plan_change(&self, changes: &[MembershipChange]) -> Result<Plan, Rejection> {
        self.may_append(None)?;
        if let State::Leader(lead) = &self.state
            && lead.transfer.is_some()
        {
            return Err(Rejection::Transferring);
        }
        // Until an entry of this term is committed, an older leader's change
        // may be in force elsewhere unknown to this one (M1).
        if !self.is_ready() {
            return Err(Rejection::Unconfirmed);
        }
        let active = self.memberships.active();
        if self.log.commit() < active.index || active.membership.is_joint() {
            let index = active.index;
            return Err(Rejection::ChangeInProgress { index });
        }
        let plan = change::plan(&active.membership, changes)?;
        if let Plan::Simple(next) | Plan::Joint(next) = &plan {
            self.check_promotions(&active.membership, next)?;
        }
        Ok(plan)
    }

    fn check_promotions(&self, before: &Membership, after: &Membership) -> Result<(), Rejection> {
        let State::Leader(lead) = &self.state else {
            return Err(self.not_leader());
        };
        let lag_max = self.config.trailing_entries.max(PROMOTION_LAG_MAX);
        let last = self.log.last().index;
        for id in after.voters.difference(&before.voters) {
            let known = lead
                .peers
                .get(id)
                .map_or(LogIndex(0), |peer| peer.match_index);
            if known == LogIndex(0) || known.0 + lag_max < last.0 {
                return Err(Rejection::NotCaughtUp {
                    id: *id,
                    match_index: known,
                    last_index: last,
                });
            }
        }
        Ok(())
    }

    /// A committed joint membership is left, once, by whoever leads (M6, M7):
    /// the entry appended here is active at once, so the condition is gone.
    pub(super) fn leave_joint_membership(&mut self) {
        let active = self.memberships.active();
        let committed = active.index <= self.log.commit();
        if !active.membership.is_joint() || !committed || !self.is_ready() {
            return;
        }
        let next = change::leave(&active.membership);
        let index = self.append_own(EntryPayload::Membership(Arc::new(next)));
        let term = self.term;
        if let State::Leader(lead) = &mut self.state
            && let Some(PendingChange { id, .. }) = lead.change.take()
        {
            self.outbox
                .effect(Effect::ProposalAccepted { id, index, term });
        }
    }

    /// Leadership is lost: what waited for it is answered.
    pub(super) fn abdicate(&mut self, lead: Leadership) {
        // The joint entry may yet be committed; any leader then finishes the
        // change. Its own fate is therefore the truth to watch.
        if let Some(PendingChange { id, joint_index }) = lead.change {
            let term = self
                .log
                .term_at(joint_index)
                .expect("appended by this leadership");
            self.outbox.effect(Effect::ProposalAccepted {
                id,
                index: joint_index,
                term,
            });
        }
        self.reject_confirmations();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::stage::{Stage, config, membership};
    use crate::types::NodeId;

    fn promote(stage: &mut Stage) -> Effect {
        let changes = vec![MembershipChange::Promote(NodeId(2))];
        let id = RequestId(1);
        let answers = stage.step(crate::raft::Input::ChangeMembership { id, changes });
        let is_answer = |effect: &Effect| {
            matches!(
                effect,
                Effect::Rejected { .. } | Effect::ProposalAccepted { .. }
            )
        };
        answers.into_iter().find(is_answer).expect("answered")
    }

    // A learner that lacks more would stall commits as a voter (M15).
    #[test]
    fn learner_is_promoted_when_it_lacks_no_more_than_the_bound() {
        let mut stage = Stage::leading(config(), membership(1, 1));
        for _ in 0..=PROMOTION_LAG_MAX {
            stage.propose("a");
        }
        let refused = promote(&mut stage);
        let expected = Rejection::NotCaughtUp {
            id: NodeId(2),
            match_index: LogIndex(2),
            last_index: LogIndex(2 + PROMOTION_LAG_MAX + 1),
        };
        let reason = expected.clone();
        assert!(
            matches!(&refused, Effect::Rejected { reason, .. } if *reason == expected),
            "{refused:?}, not {reason:?}"
        );
        stage.hold(NodeId(2), 3);
        let accepted = promote(&mut stage);
        assert!(
            matches!(accepted, Effect::ProposalAccepted { .. }),
            "{accepted:?}"
        );
    }

    // Nothing is known of it yet: no short log makes it a voter.
    #[test]
    fn learner_that_never_answered_is_not_promoted() {
        let mut stage = Stage::elected(config(), membership(1, 1));
        let refused = promote(&mut stage);
        assert!(
            matches!(
                &refused,
                Effect::Rejected {
                    reason: Rejection::NotCaughtUp { .. },
                    ..
                }
            ),
            "{refused:?}"
        );
    }
}
