//! Pure glue between the core and the world: steps `Raft` in batches and turns
//! its effects, in order, into calls on traits. The simulator implements the
//! same traits, so what runs in production is what is simulated.
//!
//! What it must never do: decide anything, read a clock, name a thread, a
//! socket or a file.
//!
//! Invariants: a message with `after` leaves only once that mark is durable;
//! held messages leave in the order they were produced; a durability
//! completion releases messages before the core hears of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::raft::message::Message;
use crate::raft::{Divergence, Effect, Input, Mismatch, Raft, Rejection, RequestId, Status};
use crate::types::{
    Entry, LogIndex, LogWrite, Mark, Membership, Millis, NodeId, Sequence, SnapshotMeta, Term,
};

/// Where log writes go.
pub trait Log {
    /// Begins to make `write` durable; the completion comes back as
    /// [`Input::Durable`] with this mark or a later one.
    fn submit(&mut self, mark: Mark, write: LogWrite);
    /// The log up to here may go.
    fn purge(&mut self, through: LogIndex);
}

/// Where entries too old for the core's memory come from.
pub trait LogReader {
    /// `first..=last`, stopping (after at least one entry) at `bytes_max`;
    /// `None` when the range is gone.
    fn read(&mut self, first: LogIndex, last: LogIndex, bytes_max: usize) -> Option<Vec<Entry>>;
}

/// The other members. Never blocks; what cannot be sent is dropped.
pub trait Network {
    /// Sends a message.
    fn send(&mut self, to: NodeId, message: Message);
    /// Streams the newest durable snapshot, if it covers at least this;
    /// answered by [`Input::SnapshotStreamed`].
    fn stream_snapshot(&mut self, to: NodeId, least: LogIndex);
    /// Another membership is active.
    fn set_members(&mut self, index: LogIndex, membership: Arc<Membership>);
}

/// The replicated state machine.
pub trait Machine {
    /// Executes consecutive committed entries; answered by
    /// [`Input::Applied`].
    fn apply(&mut self, entries: Vec<Entry>);
    /// Replaces the state by this durable snapshot's; answered by
    /// [`Input::Applied`].
    fn restore_snapshot(&mut self, meta: SnapshotMeta);
    /// A peer's state differs from this leader's: somebody should look.
    fn mismatched(&mut self, mismatch: Mismatch);
    /// The state is wrong: nothing of it may be served any more.
    fn diverged(&mut self, divergence: Divergence);
}

/// Those who asked for something.
pub trait Requests {
    /// Appended at this position; the outcome follows when it is applied.
    fn accepted(&mut self, id: RequestId, index: LogIndex, term: Term);
    /// There is nothing to do.
    fn already_done(&mut self, id: RequestId);
    /// Not begun.
    fn rejected(&mut self, id: RequestId, reason: Rejection);
    /// May be served once `index` is applied.
    fn read_ready(&mut self, id: RequestId, index: LogIndex);
    /// Leadership is being handed over.
    fn transfer_started(&mut self, id: RequestId, target: NodeId);
}

/// Everything a driver acts upon.
pub trait Ports: Log + LogReader + Network + Machine + Requests {}

impl<P: Log + LogReader + Network + Machine + Requests> Ports for P {}

/// Watches a driver from within: how the simulator learns what the core was
/// told and decided, and ends a process between two effects.
pub trait Tap: Send {
    /// The core handled `inputs`; nothing of `effects` has been carried out.
    fn stepped(&mut self, now: Millis, inputs: &[Input], effects: &[Effect], status: &Status);
    /// Whether the process lives on to carry out the next effect. Once it does
    /// not, the driver does nothing any more.
    fn lives(&mut self) -> bool;
}

/// The core and what waits for its marks.
pub struct Driver {
    raft: Raft,
    /// Absent in production.
    tap: Option<Box<dyn Tap>>,
    /// The tap ended the process.
    is_dead: bool,
    /// For the next step.
    inputs: Vec<Input>,
    /// Messages waiting for a mark, by its sequence.
    held: BTreeMap<Sequence, Vec<(NodeId, Message)>>,
    durable: Sequence,
}

impl Driver {
    /// Takes over a core.
    #[must_use]
    pub fn new(raft: Raft) -> Self {
        Self {
            raft,
            tap: None,
            is_dead: false,
            inputs: Vec::new(),
            held: BTreeMap::new(),
            durable: Sequence(0),
        }
    }

    /// Has everything watched from now on.
    pub fn watch(&mut self, tap: Box<dyn Tap>) {
        self.tap = Some(tap);
    }

    /// Carries out what a core wants before any input: the membership it
    /// recovered is announced.
    pub fn begin<P: Ports>(&mut self, now: Millis, ports: &mut P) {
        self.decide_and_perform(now, Vec::new(), ports);
    }

    /// Queues an input for [`Self::step`].
    pub fn push(&mut self, input: Input) {
        self.inputs.push(input);
    }

    /// Steps the core with everything queued, and carries out what it decides:
    /// one write and one message per peer for all of it.
    pub fn step<P: Ports>(&mut self, now: Millis, ports: &mut P) {
        let inputs = std::mem::take(&mut self.inputs);
        if inputs.is_empty() {
            return;
        }
        for input in &inputs {
            if let Input::Durable(mark) = input {
                self.durable = self.durable.max(mark.sequence);
            }
        }
        self.release(ports);
        self.decide_and_perform(now, inputs, ports);
    }

    fn decide_and_perform<P: Ports>(&mut self, now: Millis, inputs: Vec<Input>, ports: &mut P) {
        if self.is_dead {
            return;
        }
        let effects = match &mut self.tap {
            None => self.raft.step_all(now, inputs),
            Some(tap) => {
                let effects = self.raft.step_all(now, inputs.clone());
                tap.stepped(now, &inputs, &effects, &self.raft.status());
                effects
            }
        };
        for effect in effects {
            if self.tap.as_mut().is_some_and(|tap| !tap.lives()) {
                self.is_dead = true;
                return;
            }
            self.perform(effect, ports);
        }
    }

    /// When the core wants to hear of time next.
    #[must_use]
    pub fn next_deadline(&self) -> Millis {
        self.raft.next_deadline()
    }

    /// What an observer may know.
    #[must_use]
    pub fn status(&self) -> Status {
        self.raft.status()
    }

    /// The core, for invariant checks.
    #[must_use]
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    fn release<P: Ports>(&mut self, ports: &mut P) {
        if self.is_dead {
            return;
        }
        while let Some(first) = self.held.first_entry() {
            if *first.key() > self.durable {
                break;
            }
            for (to, message) in first.remove() {
                ports.send(to, message);
            }
        }
    }

    fn perform<P: Ports>(&mut self, effect: Effect, ports: &mut P) {
        match effect {
            Effect::Persist { mark, write } => ports.submit(mark, write),
            Effect::Send { to, message, after } => match after {
                Some(mark) if mark.sequence > self.durable => {
                    self.held
                        .entry(mark.sequence)
                        .or_default()
                        .push((to, message));
                }
                _ => ports.send(to, message),
            },
            Effect::SendFromLog {
                to,
                mut message,
                first,
                last,
                bytes_max,
            } => {
                let Some(read) = ports.read(first, last, bytes_max) else {
                    return;
                };
                if let Message::AppendEntries { entries, .. } = &mut message {
                    *entries = read;
                    ports.send(to, message);
                }
            }
            Effect::Apply { entries } => ports.apply(entries),
            Effect::RestoreSnapshot(meta) => ports.restore_snapshot(meta),
            Effect::ProposalAccepted { id, index, term } => ports.accepted(id, index, term),
            Effect::AlreadyDone { id } => ports.already_done(id),
            Effect::Rejected { id, reason } => ports.rejected(id, reason),
            Effect::ReadReady { id, index } => ports.read_ready(id, index),
            Effect::TransferStarted { id, target } => ports.transfer_started(id, target),
            Effect::StreamSnapshot { to, least } => ports.stream_snapshot(to, least),
            Effect::Purge { through } => ports.purge(through),
            Effect::MembershipActive { index, membership } => ports.set_members(index, membership),
            Effect::DigestMismatch(mismatch) => ports.mismatched(mismatch),
            Effect::Diverged(divergence) => ports.diverged(divergence),
        }
    }
}

#[cfg(test)]
mod tests;
