//! From what a step decided to the ordered list of effects. The ordering rules
//! live here and nowhere else: what must wait for which write is said when a
//! message is queued, and becomes a mark when the step's write is named.

use crate::raft::message::Message;
use crate::raft::{Effect, Raft, Rejection, RequestId};
use crate::types::{LogWrite, NodeId};

/// What a message must wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// Nothing: it says only what was durable before this leadership began, or
    /// what the leader's own disk does not vouch for.
    Nothing,
    /// The term and vote it was sent in.
    HardState,
    /// Everything persisted before it.
    Everything,
}

/// What a step wants said, before marks are known.
#[derive(Clone, Debug, Default)]
pub(super) struct Outbox {
    queued: Vec<(Effect, Wait)>,
}

impl Outbox {
    pub(super) fn send_now(&mut self, to: NodeId, message: Message) {
        self.push(to, message, Wait::Nothing);
    }

    pub(super) fn send_after_hard_state(&mut self, to: NodeId, message: Message) {
        self.push(to, message, Wait::HardState);
    }

    pub(super) fn send_after_everything(&mut self, to: NodeId, message: Message) {
        self.push(to, message, Wait::Everything);
    }

    /// Any other effect; it follows the step's write.
    pub(super) fn effect(&mut self, effect: Effect) {
        self.queued.push((effect, Wait::Nothing));
    }

    pub(super) fn reject(&mut self, id: RequestId, reason: Rejection) {
        self.effect(Effect::Rejected { id, reason });
    }

    fn push(&mut self, to: NodeId, message: Message, wait: Wait) {
        self.queued.push((
            Effect::Send {
                to,
                message,
                after: None,
            },
            wait,
        ));
    }
}

impl Raft {
    pub(super) fn collect_effects(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        effects.extend(self.persist());
        let after_everything = self.durability.after_everything();
        let after_hard_state = self.durability.after_hard_state();
        for (mut effect, wait) in std::mem::take(&mut self.outbox).queued {
            if let Effect::Send { after, .. } = &mut effect {
                *after = match wait {
                    Wait::Nothing => None,
                    Wait::HardState => after_hard_state,
                    Wait::Everything => after_everything,
                };
            }
            effects.push(effect);
        }
        effects.extend(self.announce_membership());
        if self.digests.diverged.is_some() {
            return effects; // A wrong state is not carried on.
        }
        effects.extend(self.hand_out_snapshot());
        loop {
            let entries = self.log.hand_out(self.config.message_bytes_max);
            if entries.is_empty() {
                break;
            }
            effects.push(Effect::Apply { entries });
        }
        effects
    }

    /// The one write of a step. The commit index rides along when something
    /// else is written: never ahead of the entries it covers, which are in this
    /// write or an earlier one.
    fn persist(&mut self) -> Option<Effect> {
        let hard_state = self.hard_state();
        let written = self.durability.written();
        let names_vote = (hard_state.term, hard_state.vote) != (written.term, written.vote);
        if !names_vote && !self.log.has_unwritten() {
            return None;
        }
        let unwritten = self.log.take_unwritten();
        let write = LogWrite {
            hard_state: (hard_state != written).then_some(hard_state),
            truncate_from: unwritten.truncate_from,
            entries: unwritten.entries,
            reset_to: unwritten.reset_to,
        };
        let issued = write.hard_state.unwrap_or(written);
        let mark = self
            .durability
            .issue(self.now, issued, self.log.last().index);
        Some(Effect::Persist { mark, write })
    }

    fn announce_membership(&mut self) -> Option<Effect> {
        let active = self.memberships.active();
        if self.announced.as_ref() == Some(active) {
            return None;
        }
        let active = active.clone();
        self.announced = Some(active.clone());
        Some(Effect::MembershipActive {
            index: active.index,
            membership: active.membership,
        })
    }

    /// A log that was reset becomes the store's state once that is durable.
    fn hand_out_snapshot(&mut self) -> Option<Effect> {
        let durable = self.log.durable();
        let meta = self.restoring.take_if(|meta| meta.index <= durable)?;
        self.log.hand_out_snapshot();
        Some(Effect::RestoreSnapshot(meta))
    }
}
