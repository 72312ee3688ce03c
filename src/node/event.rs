//! What reaches the raft thread, and how callers wait for answers.
//!
//! One queue feeds the thread. It is bounded at its sources: callers hold a
//! permit while they wait, messages of peers are counted and dropped when too
//! many are queued, and completions are as few as the writes that cause them.
//! So nothing inside the node ever blocks on this queue.

use std::sync::Arc;

use crate::membership::autopilot::AutopilotConfig;
use crate::peer::MembershipProof;
use crate::physical::PhysicalError;
use crate::raft::Rejection;
use crate::raft::message::Message;
use crate::sync::permits::{Permit, Permits};
use crate::sync::{oneshot, queue};
use crate::types::{
    Checkpoint, Command, EntryPayload, Incarnation, LogIndex, Mark, MembershipChange, NodeId,
    Outcome, RepairMessage, SnapshotMeta, Term,
};

use crate::store::View;

/// What the raft thread is told.
pub(super) enum Event {
    /// Replicate a command.
    Propose(Proposal),
    /// Confirm a read.
    Read(ReadReply),
    /// Change the membership.
    Change(Change),
    /// Hand leadership over; answered with whom, or why not.
    Transfer {
        target: Option<NodeId>,
        reply: oneshot::Sender<Result<NodeId, Rejection>>,
    },
    /// From a peer.
    Message {
        from: NodeId,
        incarnation: Incarnation,
        message: Message,
        /// Counts it while it is queued.
        _permit: Permit,
    },
    /// From a peer, of lost entries.
    Repair {
        from: NodeId,
        message: RepairMessage,
        /// Counts it while it is queued.
        _permit: Permit,
    },
    /// From the WAL thread.
    Durable(Mark),
    /// From the snapshotter.
    SnapshotTaken(SnapshotMeta),
    /// From the upkeep or the transport: a snapshot is wanted, due or not.
    TakeSnapshot,
    /// From the transport.
    SnapshotStreamed {
        to: NodeId,
        delivered: Option<SnapshotMeta>,
    },
    /// From the transport.
    Unreachable(NodeId),
    /// From the apply thread: what the state amounts to at a position that
    /// every replica reports.
    Checkpoint(Checkpoint),
    /// A peer said hello: its addresses may be new.
    PeersChanged,
    /// A peer showed a committed membership that does not name this node.
    Excluded(MembershipProof),
    /// Another promotion policy.
    Autopilot(AutopilotConfig),
    /// The node is being sealed.
    Stop,
}

/// A membership change that somebody waits for.
pub(super) struct Change {
    /// Made in one step.
    pub changes: Vec<MembershipChange>,
    /// Even at the cost of the quorum.
    pub is_forced: bool,
    /// Who waits.
    pub reply: ProposalReply,
}

/// A command on its way into the log.
pub(super) struct Proposal {
    /// Encoded [`Command`].
    pub payload: EntryPayload,
    /// Who waits.
    pub reply: ProposalReply,
}

/// What a proposal may be told.
pub(super) type ProposalResult = Result<Outcome, PhysicalError>;

/// Those waiting for a proposal; dropping it unanswered means "unknown".
pub(super) struct ProposalReply {
    /// Told as soon as the entry has its place in the log.
    pub accepted: Option<oneshot::Sender<Result<(), PhysicalError>>>,
    /// Told when the entry is applied, or certainly never will be.
    pub outcome: oneshot::Sender<ProposalResult>,
    /// Another entry in its place proves that this one never took effect;
    /// false for membership changes, which another leader may complete.
    pub displaced_is_undone: bool,
    /// Held until answered: bounds what is in flight.
    pub _permit: Option<Permit>,
}

impl ProposalReply {
    /// The entry has its place.
    pub fn accept(&mut self) {
        if let Some(accepted) = self.accepted.take() {
            // The caller may have stopped waiting: nothing to do then.
            let _ = accepted.send(Ok(()));
        }
    }

    /// The final answer.
    pub fn finish(mut self, result: ProposalResult) {
        if let Some(accepted) = self.accepted.take() {
            let _ = accepted.send(result.clone().map(|_| ()));
        }
        let _ = self.outcome.send(result);
    }

    /// Another entry took the place.
    pub fn displaced(self) {
        let error = if self.displaced_is_undone {
            PhysicalError::NotLeader
        } else {
            PhysicalError::OutcomeUnknown {
                reason: "another leader took over the change".into(),
            }
        };
        self.finish(Err(error));
    }
}

/// Someone waiting for a confirmed picture.
pub(super) type ReadReply = oneshot::Sender<Result<Arc<View>, PhysicalError>>;

/// A proposal in the log, waiting for its index.
pub(super) struct Waiter {
    /// Term of the entry it waits for.
    pub term: Term,
    /// Who.
    pub reply: ProposalReply,
}

/// Waiters whose entries are about to be applied, in log order.
pub(super) type DueWaiters = Vec<(LogIndex, ProposalReply)>;

/// The sending side of the raft thread's queue.
#[derive(Clone)]
pub(super) struct EventSender {
    queue: queue::Sender<Event>,
    callers: Permits,
    messages: Permits,
}

impl EventSender {
    pub fn new() -> (Self, queue::Receiver<Event>) {
        Self::bounded(CALLERS_MAX, MESSAGES_MAX)
    }

    /// With room for so many callers and messages of peers.
    pub fn bounded(callers_max: usize, messages_max: usize) -> (Self, queue::Receiver<Event>) {
        let (queue, receiver) = queue::channel();
        let sender = Self {
            queue,
            callers: Permits::new(callers_max),
            messages: Permits::new(messages_max),
        };
        (sender, receiver)
    }

    /// Sends; false when the thread has ended.
    pub fn send(&self, event: Event) -> bool {
        self.queue.send(event).is_ok()
    }

    /// A message of a peer; dropped when too many are queued, as a network
    /// would.
    pub fn deliver(&self, from: NodeId, incarnation: Incarnation, message: Message) {
        if let Some(_permit) = self.messages.take() {
            self.send(Event::Message {
                from,
                incarnation,
                message,
                _permit,
            });
        }
    }

    /// The same of a word about lost entries.
    pub fn deliver_repair(&self, from: NodeId, message: RepairMessage) {
        if let Some(_permit) = self.messages.take() {
            self.send(Event::Repair {
                from,
                message,
                _permit,
            });
        }
    }

    /// Proposes; the receiver is told the outcome.
    ///
    /// # Errors
    /// `Busy` when too many callers wait; `NotRunning`.
    pub fn propose(
        &self,
        command: &Command,
    ) -> Result<oneshot::Receiver<ProposalResult>, PhysicalError> {
        let permit = self.callers.take().ok_or(PhysicalError::Busy)?;
        let (outcome, receiver) = oneshot::channel();
        self.send_proposal(command, None, outcome, Some(permit))?;
        Ok(receiver)
    }

    /// Proposes without counting against the callers' bound; tells separately
    /// when the entry has its place, so that an order can be kept.
    ///
    /// # Errors
    /// `NotRunning`.
    pub fn propose_in_order(&self, command: &Command) -> Result<OrderedProposal, PhysicalError> {
        let (accepted, accepted_receiver) = oneshot::channel();
        let (outcome, receiver) = oneshot::channel();
        self.send_proposal(command, Some(accepted), outcome, None)?;
        Ok(OrderedProposal {
            accepted: accepted_receiver,
            outcome: receiver,
        })
    }

    /// Asks for a confirmed picture.
    ///
    /// # Errors
    /// `NotRunning`.
    pub fn read(
        &self,
    ) -> Result<oneshot::Receiver<Result<Arc<View>, PhysicalError>>, PhysicalError> {
        let (reply, receiver) = oneshot::channel();
        self.send_or_stopped(Event::Read(reply))?;
        Ok(receiver)
    }

    /// Asks for a membership change; unless forced, one that costs the quorum
    /// is refused.
    ///
    /// # Errors
    /// `NotRunning`.
    pub fn change(
        &self,
        changes: Vec<MembershipChange>,
        is_forced: bool,
    ) -> Result<oneshot::Receiver<ProposalResult>, PhysicalError> {
        let (outcome, receiver) = oneshot::channel();
        let reply = ProposalReply {
            accepted: None,
            outcome,
            displaced_is_undone: false,
            _permit: None,
        };
        self.send_or_stopped(Event::Change(Change {
            changes,
            is_forced,
            reply,
        }))?;
        Ok(receiver)
    }

    /// Asks to hand leadership over.
    ///
    /// # Errors
    /// `NotRunning`.
    pub fn transfer(
        &self,
        target: Option<NodeId>,
    ) -> Result<oneshot::Receiver<Result<NodeId, Rejection>>, PhysicalError> {
        let (reply, receiver) = oneshot::channel();
        self.send_or_stopped(Event::Transfer { target, reply })?;
        Ok(receiver)
    }

    fn send_proposal(
        &self,
        command: &Command,
        accepted: Option<oneshot::Sender<Result<(), PhysicalError>>>,
        outcome: oneshot::Sender<ProposalResult>,
        permit: Option<Permit>,
    ) -> Result<(), PhysicalError> {
        self.send_or_stopped(Event::Propose(Proposal {
            payload: EntryPayload::Command(crate::codec::encode_command(command)),
            reply: ProposalReply {
                accepted,
                outcome,
                displaced_is_undone: true,
                _permit: permit,
            },
        }))
    }

    fn send_or_stopped(&self, event: Event) -> Result<(), PhysicalError> {
        if self.send(event) {
            Ok(())
        } else {
            Err(PhysicalError::NotRunning)
        }
    }
}

/// The two answers to a proposal whose order matters.
pub(super) struct OrderedProposal {
    /// It has its place in the log.
    pub accepted: oneshot::Receiver<Result<(), PhysicalError>>,
    /// What became of it.
    pub outcome: oneshot::Receiver<ProposalResult>,
}

/// What a rejection means to the layers above.
pub(super) fn refusal(rejection: Rejection) -> PhysicalError {
    match rejection {
        Rejection::NotLeader { .. } => PhysicalError::NotLeader,
        // Nothing was begun: the caller may simply try again.
        Rejection::Busy { .. } | Rejection::ChangeInProgress { .. } => PhysicalError::Busy,
        Rejection::InvalidChange(_) | Rejection::InvalidTarget(_) => PhysicalError::Refused {
            reason: rejection.to_string(),
        },
        Rejection::Diverged(_) => PhysicalError::Failed {
            reason: rejection.to_string(),
        },
        Rejection::NotCaughtUp { .. }
        | Rejection::Transferring
        | Rejection::Unconfirmed
        | Rejection::Removed => PhysicalError::Unavailable {
            reason: rejection.to_string(),
        },
    }
}

/// Callers waiting for a proposal, at most.
const CALLERS_MAX: usize = 4096;
/// Messages of peers in the queue, at most.
const MESSAGES_MAX: usize = 4096;
