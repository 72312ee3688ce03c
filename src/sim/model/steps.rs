//! What can happen next, within the bounds.

use crate::raft::Role;
use crate::raft::message::Message;

use super::bounds::{Countable, Elections, Used};
use super::local::{Output, Stimulus};
use super::violation::Violation;
use super::world::{Action, BROKEN, PARCEL, STAGED, STREAMED, State, Step, World};

/// What a state leads to, and by what.
pub(super) type Successor = (Action, Result<State, Violation>);

impl World {
    /// Everything that can happen next.
    pub(super) fn successors(&mut self, state: &State, found: &mut Vec<Successor>) {
        for node in 0..self.node_count() {
            self.local_steps(state, node, found);
            self.elections(state, node, found);
        }
        for position in 0..state.network.len() {
            self.deliveries(state, state.network[position], found);
        }
    }

    fn local_steps(&mut self, state: &State, node: usize, found: &mut Vec<Successor>) {
        for code in 0..self.menu_count() {
            let Some(used) = self.may_happen(state, node, &self.stimulus(code).clone()) else {
                continue;
            };
            for (prompt, used) in self.paces(state, node, used) {
                let mut step = Step::of(state, used);
                let done = self.happen(&mut step, node, code, prompt);
                if self.was_quick(state, &step, node, prompt) {
                    continue;
                }
                let action = Action::Local {
                    node,
                    stimulus: code,
                    prompt,
                };
                let done = done.map(|outputs| self.post(&mut step, outputs));
                self.conclude(state, action, step, done, found);
            }
        }
    }

    /// A disk that is up to date may be quick or, within bounds, slow.
    fn paces(&self, state: &State, node: usize, used: Used) -> Vec<(bool, Used)> {
        if !self.local(state, node).pending.is_empty() {
            return vec![(false, used)];
        }
        let slow = used.one_more(Countable::SlowWrite, &self.bounds);
        std::iter::once((true, used))
            .chain(slow.map(|used| (false, used)))
            .collect()
    }

    /// Whether a slow disk had nothing to do: then it was as a quick one.
    fn was_quick(&self, before: &State, step: &Step, node: usize, prompt: bool) -> bool {
        let idle = |state: &State| self.local(state, node).pending.is_empty();
        !prompt && idle(before) && idle(&step.state)
    }

    /// Whether a stimulus of the menu may come now, and what it costs.
    fn may_happen(&self, state: &State, node: usize, stimulus: &Stimulus) -> Option<Used> {
        let local = self.local(state, node);
        let role = local.raft.role();
        let leads = role == Role::Leader;
        let used = state.used;
        let once_more = |what| used.one_more(what, &self.bounds);
        match stimulus {
            Stimulus::Timeout if leads => once_more(Countable::Abdication),
            Stimulus::Timeout => {
                let stepwise = self.bounds.elections == Elections::Stepwise;
                let below = local.written.hard_state.term.0 < self.bounds.term_max;
                (stepwise && below).then_some(used)
            }
            Stimulus::Heartbeat if leads => once_more(Countable::Heartbeat),
            Stimulus::Wait if leads => once_more(Countable::Wait),
            Stimulus::Propose(number) if leads => {
                let next = u64::from(used.count(Countable::Proposal)) + 1;
                (*number == next).then(|| once_more(Countable::Proposal))?
            }
            Stimulus::Read(id) => {
                let next = u64::from(used.count(Countable::Read)) + 1;
                (id.0 == next).then(|| once_more(Countable::Read))?
            }
            Stimulus::Change(_) if leads => once_more(Countable::Change),
            Stimulus::Transfer(to) if leads && *to != local.id => once_more(Countable::Transfer),
            Stimulus::TakeSnapshot => once_more(Countable::Snapshot),
            Stimulus::Sync { all } => {
                let pending = local.pending.len();
                (0 < pending && (*all || 1 < pending)).then_some(used)
            }
            Stimulus::Crash {
                survivors,
                published,
            } => {
                let lost = local.pending.get(*survivors);
                let resets = lost.is_some_and(|(_, write)| write.reset_to.is_some());
                let makes_sense = *survivors <= local.pending.len() && (resets || !published);
                makes_sense.then(|| once_more(Countable::Crash))?
            }
            _ => None,
        }
    }

    fn deliveries(&mut self, state: &State, parcel: u32, found: &mut Vec<Successor>) {
        let receiver = self.index_of(self.parcel(parcel).to());
        if matches!(self.parcel(parcel).content, Output::Snapshot { .. }) {
            self.streams(state, parcel, found);
            return;
        }
        let twice = state.used.one_more(Countable::Duplicate, &self.bounds);
        let ways = std::iter::once((false, state.used)).chain(twice.map(|used| (true, used)));
        for (keep, used) in ways {
            for (prompt, used) in self.paces(state, receiver, used) {
                let mut step = Step::of(state, used);
                if !keep {
                    step.state.network.retain(|other| *other != parcel);
                }
                let done = self.happen(&mut step, receiver, PARCEL + parcel, prompt);
                if self.was_quick(state, &step, receiver, prompt) {
                    continue;
                }
                let done = done.and_then(|outputs| self.answer(&mut step, outputs));
                let action = Action::Deliver {
                    parcel,
                    keep,
                    prompt,
                };
                self.conclude(state, action, step, done, found);
            }
        }
    }

    /// A snapshot's bytes arrive and its sender learns so, or it breaks off.
    fn streams(&mut self, state: &State, parcel: u32, found: &mut Vec<Successor>) {
        let from = self.index_of(self.parcel(parcel).from);
        let to = self.index_of(self.parcel(parcel).to());
        for arrives in [true, false] {
            let mut step = Step::of(state, state.used);
            step.state.network.retain(|other| *other != parcel);
            let staged = if arrives {
                self.happen(&mut step, to, STAGED + parcel, true).map(drop)
            } else {
                Ok(())
            };
            let (code, action) = if arrives {
                let (keep, prompt) = (false, true);
                (
                    STREAMED,
                    Action::Deliver {
                        parcel,
                        keep,
                        prompt,
                    },
                )
            } else {
                (BROKEN, Action::Break { parcel })
            };
            let done = staged.and_then(|()| self.happen(&mut step, from, code + parcel, true));
            let done = done.map(|outputs| self.post(&mut step, outputs));
            self.conclude(state, action, step, done, found);
        }
    }

    /// What a node says goes on its way; with round trips, what it says to
    /// whoever asked arrives at once.
    fn answer(&mut self, step: &mut Step, outputs: Vec<u32>) -> Result<(), Violation> {
        if !self.bounds.round_trips {
            self.post(step, outputs);
            return Ok(());
        }
        let (answers, rest): (Vec<u32>, Vec<u32>) = outputs
            .into_iter()
            .partition(|parcel| is_answer(&self.parcel(*parcel).content));
        self.post(step, rest);
        for answer in answers {
            let asker = self.index_of(self.parcel(answer).to());
            let follows = self.happen(step, asker, PARCEL + answer, true)?;
            self.post(step, follows);
        }
        Ok(())
    }

    /// Keeps a step that led somewhere.
    pub(super) fn conclude(
        &mut self,
        before: &State,
        action: Action,
        step: Step,
        done: Result<(), Violation>,
        found: &mut Vec<Successor>,
    ) {
        let state = match done {
            Ok(()) => self.settled(before, step),
            Err(violation) => return found.push((action, Err(violation))),
        };
        let same = (&state.locals, state.history, &state.network)
            == (&before.locals, before.history, &before.network);
        if !same {
            found.push((action, Ok(state)));
        }
    }
}

fn is_answer(content: &Output) -> bool {
    let Output::Message { message, .. } = content else {
        return false;
    };
    matches!(
        message,
        Message::VoteResponse { .. }
            | Message::AppendResponse { .. }
            | Message::HeartbeatResponse { .. }
            | Message::InstallSnapshotResponse { .. }
            | Message::ReadIndexResponse { .. }
    )
}
