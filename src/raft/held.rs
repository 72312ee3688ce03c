//! Writes that arrive while leadership is handed over wait here instead of
//! failing. None of them is in any log, so whatever comes of the transfer their
//! answer is exact: appended in order when this node leads on, refused with the
//! new leader's name when another does.

use std::collections::VecDeque;

use crate::raft::{Effect, Raft, Rejection, RequestId, State};
use crate::types::{EntryPayload, Millis};

/// See the module. Bounded with the uncommitted bytes.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub(super) struct Held {
    writes: VecDeque<(RequestId, EntryPayload)>,
    bytes: usize,
    /// They are answered by then, whether or not there is a leader.
    deadline: Millis,
}

impl Held {
    pub(super) fn count(&self) -> usize {
        self.writes.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn next_deadline(&self) -> Millis {
        if self.writes.is_empty() {
            Millis(u64::MAX)
        } else {
            self.deadline
        }
    }
}

impl Raft {
    /// Keeps a write until the transfer under way is over.
    pub(super) fn hold(&mut self, id: RequestId, payload: EntryPayload, transfer_ends: Millis) {
        let patience = self.config.election_timeout_max;
        self.held.deadline = Millis(transfer_ends.0 + patience.0);
        self.held.bytes += payload.entry_size();
        self.held.writes.push_back((id, payload));
    }

    /// This node leads on, or again: they are appended in the order they came.
    pub(super) fn append_held(&mut self) {
        let Held { writes, .. } = std::mem::take(&mut self.held);
        for (id, payload) in writes {
            let (index, term) = (self.append_own(payload), self.term);
            self.outbox
                .effect(Effect::ProposalAccepted { id, index, term });
        }
    }

    /// Another node leads, or none does for too long.
    pub(super) fn refuse_held(&mut self) {
        let leads = matches!(self.state, State::Leader(_));
        let decided = self.leader.is_some() || self.removed || self.digests.diverged.is_some();
        let overdue = self.held.deadline <= self.now;
        if leads || self.held.writes.is_empty() || !(decided || overdue) {
            return;
        }
        let reason = self.not_leader();
        for (id, _) in std::mem::take(&mut self.held).writes {
            self.outbox.reject(id, reason.clone());
        }
    }

    /// Why a node that does not lead takes no write.
    pub(super) fn not_leader(&self) -> Rejection {
        match self.digests.diverged {
            Some(divergence) => Rejection::Diverged(divergence),
            None if self.removed => Rejection::Removed,
            None => Rejection::NotLeader {
                leader: self.leader,
            },
        }
    }
}
