//! Elections told in one step, for searches that are about something else.

use crate::raft::Role;
use crate::raft::message::Message;

use super::bounds::Elections;
use super::local::Output;
use super::steps::Successor;
use super::violation::Violation;
use super::world::{Action, PARCEL, State, Step, TIMEOUT, World};

impl World {
    pub(super) fn elections(&mut self, state: &State, node: usize, found: &mut Vec<Successor>) {
        let local = self.local(state, node);
        let below = local.written.hard_state.term.0 < self.bounds.term_max;
        if !below || local.raft.role() == Role::Leader {
            return;
        }
        match self.bounds.elections {
            Elections::Stepwise => {}
            Elections::PreVoteAtOnce => {
                let mut step = Step::of(state, state.used);
                let won = self.pre_vote(&mut step, node);
                let action = Action::Campaign { node };
                let campaigns = won.as_ref().map_or(true, |requests| !requests.is_empty());
                let done = won.map(|requests| self.post(&mut step, requests));
                if campaigns {
                    self.conclude(state, action, step, done, found);
                }
            }
            Elections::AtOnce => {
                for electors in 0..1 << self.node_count() {
                    let mut step = Step::of(state, state.used);
                    let won = self.elect(&mut step, node, electors);
                    if *won.as_ref().unwrap_or(&true) {
                        let action = Action::Elect { node, electors };
                        self.conclude(state, action, step, won.map(drop), found);
                    }
                }
            }
        }
    }

    /// A node's clock runs out and as many of the others as it needs grant a
    /// pre-vote. Returns what it sends then; nothing when it does not win.
    fn pre_vote(&mut self, step: &mut Step, node: usize) -> Result<Vec<u32>, Violation> {
        let mut outputs = self.happen(step, node, TIMEOUT, true)?;
        for request in outputs.clone() {
            if self.local(&step.state, node).raft.role() != Role::PreCandidate {
                break;
            }
            let asks = self.asks_for_vote(request, true);
            let other = self.index_of(self.parcel(request).to());
            if !asks {
                continue;
            }
            for answer in self.happen(step, other, PARCEL + request, true)? {
                let granted = matches!(
                    &self.parcel(answer).content,
                    Output::Message {
                        message: Message::VoteResponse { granted: true, .. },
                        ..
                    }
                );
                if granted && self.parcel(answer).to() == self.id(node) {
                    outputs.extend(self.happen(step, node, PARCEL + answer, true)?);
                }
            }
        }
        outputs.retain(|parcel| !self.asks_for_vote(*parcel, true));
        Ok(outputs)
    }

    fn asks_for_vote(&self, parcel: u32, whether_pre: bool) -> bool {
        match &self.parcel(parcel).content {
            Output::Message {
                message: Message::VoteRequest { pre, .. },
                ..
            } => *pre == whether_pre,
            _ => false,
        }
    }

    /// A whole election in which exactly the electors vote. Returns whether
    /// each of them was needed and the node leads.
    fn elect(&mut self, step: &mut Step, node: usize, electors: u32) -> Result<bool, Violation> {
        if electors & (1 << node) != 0 {
            return Ok(false);
        }
        let sent = self.pre_vote(step, node)?;
        let (requests, mut outputs): (Vec<u32>, Vec<u32>) = sent
            .into_iter()
            .partition(|parcel| self.asks_for_vote(*parcel, false));
        let mut left = electors;
        for request in requests {
            let other = self.index_of(self.parcel(request).to());
            if left & (1 << other) == 0 {
                continue;
            }
            if self.local(&step.state, node).raft.role() != Role::Candidate {
                return Ok(false);
            }
            left &= !(1 << other);
            for answer in self.happen(step, other, PARCEL + request, true)? {
                if self.parcel(answer).to() == self.id(node) {
                    outputs.extend(self.happen(step, node, PARCEL + answer, true)?);
                }
            }
        }
        self.post(step, outputs);
        Ok(left == 0 && self.local(&step.state, node).raft.role() == Role::Leader)
    }
}
