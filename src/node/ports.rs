//! The real world behind the driver's traits: queues to the WAL and apply
//! threads, the transport, and those who wait for answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::physical::PhysicalError;
use crate::raft::message::Message;
use crate::raft::{Divergence, Mismatch, Rejection, RequestId};
use crate::sync::oneshot;
use crate::sync::queue::Sender;
use crate::types::{
    Entry, LogIndex, LogWrite, Mark, Membership, NodeId, Outcome, SnapshotMeta, Term,
};
use crate::wal::{WalError, WalReader};

use super::apply_thread::ApplyCommand;
use super::board::Board;
use super::driver;
use super::event::{DueWaiters, ProposalReply, ReadReply, Waiter, refusal};
use super::failure::Failure;
use super::peers::Peers;
use super::snapshots::Snapshots;
use super::wal_thread::{WalCommand, chain};

/// What the driver acts upon. Owned by the raft thread; nothing here blocks
/// but reading old entries from the log.
pub(super) struct RuntimePorts {
    pub wal: Sender<WalCommand>,
    pub log: WalReader,
    pub apply: Sender<ApplyCommand>,
    pub peers: Arc<dyn Peers>,
    pub board: Arc<Board>,
    pub snapshots: Arc<Snapshots>,
    pub failure: Arc<Failure>,
    pub pending: Pending,
}

impl RuntimePorts {
    /// Whether the core may see this message now: a snapshot is installed only
    /// once it is here.
    pub fn acceptable(&self, message: &Message) -> bool {
        match message {
            Message::InstallSnapshot { meta, .. } => {
                self.snapshots.claim(meta, self.board.applied())
            }
            _ => true,
        }
    }
}

impl Drop for RuntimePorts {
    /// However the raft thread ends, the apply thread must not wait for more.
    fn drop(&mut self) {
        let _ = self.apply.send(ApplyCommand::Stop);
    }
}

/// Everyone waiting for the core or for an index.
#[derive(Default)]
pub(super) struct Pending {
    last_request: u64,
    proposals: BTreeMap<RequestId, ProposalReply>,
    /// In the log, by position; two of one position differ in term.
    waiters: BTreeMap<LogIndex, Vec<Waiter>>,
    rounds: BTreeMap<RequestId, Vec<ReadReply>>,
    transfers: BTreeMap<RequestId, oneshot::Sender<Result<NodeId, Rejection>>>,
}

impl Pending {
    fn next_request(&mut self) -> RequestId {
        self.last_request += 1;
        RequestId(self.last_request)
    }

    /// Names a proposal or membership change.
    pub fn add_proposal(&mut self, reply: ProposalReply) -> RequestId {
        let id = self.next_request();
        self.proposals.insert(id, reply);
        id
    }

    /// Names a request nobody waits for.
    pub fn add_unattended(&mut self) -> RequestId {
        self.next_request()
    }

    /// Names a round of reads.
    pub fn add_round(&mut self, replies: Vec<ReadReply>) -> RequestId {
        let id = self.next_request();
        self.rounds.insert(id, replies);
        id
    }

    /// Names a transfer.
    pub fn add_transfer(&mut self, reply: oneshot::Sender<Result<NodeId, Rejection>>) -> RequestId {
        let id = self.next_request();
        self.transfers.insert(id, reply);
        id
    }

    /// Forgets those who stopped waiting.
    pub fn prune(&mut self) {
        for waiters in self.waiters.values_mut() {
            waiters.retain(|waiter| !waiter.reply.outcome.is_closed());
        }
        self.waiters.retain(|_, waiters| !waiters.is_empty());
        for replies in self.rounds.values_mut() {
            replies.retain(|reply| !reply.is_closed());
        }
    }

    /// Those whose entries these are; the displaced are told at once.
    fn due(&mut self, entries: &[Entry]) -> DueWaiters {
        let mut due = Vec::new();
        if self.waiters.is_empty() {
            return due;
        }
        for entry in entries {
            for waiter in self.waiters.remove(&entry.index).unwrap_or_default() {
                if waiter.term == entry.term {
                    due.push((entry.index, waiter.reply));
                } else {
                    waiter.reply.displaced();
                }
            }
        }
        due
    }

    /// A snapshot covers their positions: what became of them is unknown here.
    fn covered(&mut self, through: LogIndex) {
        let later = self.waiters.split_off(&through.next());
        for waiter in std::mem::replace(&mut self.waiters, later)
            .into_values()
            .flatten()
        {
            waiter.reply.finish(Err(PhysicalError::OutcomeUnknown {
                reason: "a snapshot replaced the log before it was applied".into(),
            }));
        }
    }

    /// The raft thread ends: nobody will be answered any more. What was never
    /// appended is certainly not done; the rest stays unknown.
    pub fn close(&mut self, error: &PhysicalError) {
        for reply in std::mem::take(&mut self.proposals).into_values() {
            reply.finish(Err(error.clone()));
        }
        for waiter in std::mem::take(&mut self.waiters).into_values().flatten() {
            waiter.reply.finish(Err(PhysicalError::OutcomeUnknown {
                reason: format!("the node stopped before it was committed: {error}"),
            }));
        }
        for reply in std::mem::take(&mut self.rounds).into_values().flatten() {
            let _ = reply.send(Err(error.clone()));
        }
    }
}

impl driver::Log for RuntimePorts {
    fn submit(&mut self, mark: Mark, write: LogWrite) {
        // A WAL thread that ended has reported why; the node is stopping.
        let _ = self.wal.send(WalCommand::Write(mark, write));
    }

    fn purge(&mut self, through: LogIndex) {
        // The log is kept from the older of the two snapshots, so that a
        // rotten newest one can still be replaced.
        let floor = self.snapshots.purge_floor();
        let _ = self.wal.send(WalCommand::Purge(through.min(floor)));
    }
}

impl driver::LogReader for RuntimePorts {
    fn read(&mut self, first: LogIndex, last: LogIndex, bytes_max: usize) -> Option<Vec<Entry>> {
        match self.log.entries(first, last, bytes_max) {
            Ok(entries) => Some(entries),
            Err(WalError::Gone { .. }) => None,
            Err(error) => {
                self.failure.report(&chain(&error));
                None
            }
        }
    }
}

impl driver::Network for RuntimePorts {
    fn send(&mut self, to: NodeId, message: Message) {
        self.peers.send(to, message);
    }

    fn stream_snapshot(&mut self, to: NodeId, least: LogIndex) {
        self.peers.stream_snapshot(to, least);
    }

    fn set_members(&mut self, index: LogIndex, membership: Arc<Membership>) {
        self.peers.set_members(index, &membership);
    }
}

impl driver::Machine for RuntimePorts {
    fn apply(&mut self, entries: Vec<Entry>) {
        let waiters = self.pending.due(&entries);
        let _ = self.apply.send(ApplyCommand::Apply { entries, waiters });
    }

    fn restore_snapshot(&mut self, meta: SnapshotMeta) {
        self.pending.covered(meta.index);
        let _ = self.apply.send(ApplyCommand::Restore(meta));
    }

    fn mismatched(&mut self, mismatch: Mismatch) {
        tracing::error!(%mismatch, "two replicas differ");
    }

    /// As with a failed disk: what this node would say is not to be trusted.
    fn diverged(&mut self, divergence: Divergence) {
        self.failure.report(&divergence.to_string());
    }
}

impl RuntimePorts {
    /// Has a snapshot taken of what is applied.
    pub fn take_snapshot(&self) {
        // The apply thread has ended: then the node is stopping.
        let _ = self.apply.send(ApplyCommand::TakeSnapshot);
    }
}

impl driver::Requests for RuntimePorts {
    fn accepted(&mut self, id: RequestId, index: LogIndex, term: Term) {
        if let Some(mut reply) = self.pending.proposals.remove(&id) {
            reply.accept();
            self.pending
                .waiters
                .entry(index)
                .or_default()
                .push(Waiter { term, reply });
        }
    }

    fn already_done(&mut self, id: RequestId) {
        if let Some(reply) = self.pending.proposals.remove(&id) {
            reply.finish(Ok(Outcome::Applied));
        }
    }

    fn rejected(&mut self, id: RequestId, reason: Rejection) {
        if let Some(reply) = self.pending.proposals.remove(&id) {
            reply.finish(Err(refusal(reason)));
        } else if let Some(replies) = self.pending.rounds.remove(&id) {
            let error = match refusal(reason) {
                // Any member may read: without a leader it is unavailable.
                PhysicalError::NotLeader => PhysicalError::Unavailable {
                    reason: "no leader is known".into(),
                },
                error => error,
            };
            for reply in replies {
                let _ = reply.send(Err(error.clone()));
            }
        } else if let Some(reply) = self.pending.transfers.remove(&id) {
            let _ = reply.send(Err(reason));
        }
    }

    fn read_ready(&mut self, id: RequestId, index: LogIndex) {
        let Some(replies) = self.pending.rounds.remove(&id) else {
            return;
        };
        if self.board.applied() < index {
            let _ = self.apply.send(ApplyCommand::Read { index, replies });
            return;
        }
        let view = self.board.newest();
        for reply in replies {
            let _ = reply.send(Ok(Arc::clone(&view)));
        }
    }

    fn transfer_started(&mut self, id: RequestId, target: NodeId) {
        if let Some(reply) = self.pending.transfers.remove(&id) {
            let _ = reply.send(Ok(target));
        }
    }
}

#[cfg(test)]
mod tests;
