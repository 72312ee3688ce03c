//! A follower's side of replication: what it takes from a leader, and how far
//! it believes a commit index.

use crate::raft::message::{AppendResult, Message};
use crate::raft::{Raft, State};
use crate::types::{Entry, LogIndex, NodeId, Term};

/// Where an append stands against the own log.
enum Fit {
    /// The logs differ at or before `prev_index`.
    Rejected,
    /// It contradicts what is committed here: some program is broken.
    Contradicts,
    /// Entries from this place in the message on are new; what is there goes.
    From(usize),
}

impl Raft {
    pub(super) fn on_leader_message(&mut self, from: NodeId, message: Message) {
        // Two leaders in one term cannot be; whoever says so is not believed.
        let other = self.leader.is_some_and(|leader| leader != from);
        if other || matches!(self.state, State::Leader(_)) {
            return;
        }
        self.become_follower(self.term, Some(from));
        match message {
            Message::AppendEntries {
                prev_index,
                prev_term,
                entries,
                commit_index,
                read_context,
                ..
            } => {
                self.leader_commit = commit_index;
                if let Some(result) = self.append_entries(prev_index, prev_term, entries) {
                    let response = Message::AppendResponse {
                        term: self.term,
                        result,
                        read_context,
                    };
                    self.outbox.send_after_everything(from, response);
                }
            }
            Message::Heartbeat {
                commit_index,
                read_context,
                agreed,
                ..
            } => {
                self.leader_commit = self.leader_commit.max(commit_index);
                self.believe_commit(LogIndex(0));
                self.on_agreed(agreed);
                let response = self.heartbeat_response(read_context);
                self.outbox.send_after_hard_state(from, response);
            }
            Message::InstallSnapshot { meta, .. } => self.install_snapshot(from, &meta),
            _ => unreachable!("dispatched by kind"),
        }
    }

    pub(super) fn heartbeat_response(&self, read_context: u64) -> Message {
        Message::HeartbeatResponse {
            term: self.term,
            read_context,
            patience: self.config.election_timeout_min,
            checkpoints: self.digests.newest(),
        }
    }

    fn append_entries(
        &mut self,
        prev_index: LogIndex,
        prev_term: Term,
        entries: Vec<Entry>,
    ) -> Option<AppendResult> {
        let verified = LogIndex(prev_index.0 + entries.len() as u64);
        match self.fit(prev_index, prev_term, &entries) {
            Fit::Contradicts => return None,
            Fit::Rejected => {
                let hint = self.log.last_at_most(prev_index, prev_term);
                return Some(AppendResult::Rejected {
                    prev_index,
                    hint_index: hint.index,
                    hint_term: hint.term,
                });
            }
            Fit::From(position) => self.replace_tail(entries, position),
        }
        if self.log.last().index == verified {
            self.accepted_term = self.term;
        }
        self.believe_commit(verified);
        Some(AppendResult::Matched {
            match_index: verified,
        })
    }

    fn fit(&self, prev_index: LogIndex, prev_term: Term, entries: &[Entry]) -> Fit {
        // Below the base everything is committed and therefore equal.
        if self.log.base() <= prev_index && self.log.term_at(prev_index) != Some(prev_term) {
            let committed = prev_index <= self.log.commit();
            return if committed {
                Fit::Contradicts
            } else {
                Fit::Rejected
            };
        }
        let differs = |entry: &Entry| {
            self.log.base() <= entry.index && self.log.term_at(entry.index) != Some(entry.term)
        };
        let position = entries.iter().position(differs).unwrap_or(entries.len());
        match entries.get(position) {
            Some(entry) if entry.index <= self.log.commit() => Fit::Contradicts,
            _ => Fit::From(position),
        }
    }

    /// Truncates only where an entry conflicts: a delayed shorter append must
    /// not take away what a later one brought (R2).
    fn replace_tail(&mut self, mut entries: Vec<Entry>, position: usize) {
        let fresh = entries.split_off(position);
        let Some(first) = fresh.first() else {
            return;
        };
        if first.index <= self.log.last().index {
            self.truncate(first.index);
        }
        self.memberships.append(&fresh);
        self.log.append(fresh);
    }

    fn truncate(&mut self, from: LogIndex) {
        assert!(
            !matches!(self.state, State::Leader(_)),
            "a leader truncates its log"
        );
        self.log.truncate(from);
        self.memberships.truncate(from);
        self.durability.clip(self.log.last().index);
    }

    /// The verified-index rule: the leader's commit index holds for as much of
    /// this log as is known to equal the leader's. That is everything once an
    /// append of this term ended exactly at the log's end, and otherwise only
    /// what the message at hand proved (R3, R4).
    fn believe_commit(&mut self, verified: LogIndex) {
        let known = if self.accepted_term == self.term {
            self.log.last().index
        } else {
            verified
        };
        self.commit_to(self.leader_commit.min(known));
    }
}
