//! Linearizable reads without the log (thesis 6.4): a leader notes its commit
//! index, has a quorum confirm that it still leads, and lets the asker read
//! once it has applied that index. Learners and followers ask the leader.
//!
//! One round of heartbeats confirms every read that arrived before it left;
//! later ones wait for the next round. A round is named by a counter of this
//! core, never by anything a client chose (C3).

use std::mem;

use crate::raft::message::Message;
use crate::raft::{Config, Effect, Raft, Rejection, RequestId, State, quorum};
use crate::types::{LogIndex, Millis, NodeId};

/// Who wants to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
enum Asker {
    Here(RequestId),
    Peer { id: NodeId, context: u64 },
}

#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
struct Waiting {
    asker: Asker,
    deadline: Millis,
}

/// Reads that one context confirms.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
struct Round {
    context: u64,
    index: LogIndex,
    reads: Vec<Waiting>,
}

/// Reads handed to the leader under one context.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
struct Forward {
    context: u64,
    reads: Vec<Waiting>,
    sent: Option<(NodeId, Millis)>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub(super) struct Reads {
    /// Names rounds; every append and heartbeat carries the newest.
    context: u64,
    /// Names forwards. A term outlives a process that only follows in it, so a
    /// counter from 0 would let an answer to a former life confirm a read of
    /// this one: it starts at a number drawn for this life.
    forwards: u64,
    waiting: Vec<Waiting>,
    round: Option<Round>,
    forward: Option<Forward>,
}

impl Reads {
    /// `first_forward` must differ between lives of a process.
    pub(super) fn new(first_forward: u64) -> Self {
        Self {
            forwards: first_forward,
            ..Self::default()
        }
    }

    pub(super) fn context(&self) -> u64 {
        self.context
    }

    pub(super) fn next_context(&mut self) -> u64 {
        self.context += 1;
        self.context
    }

    pub(super) fn next_deadline(&self, config: &Config) -> Millis {
        let round = self.round.iter().flat_map(|round| &round.reads);
        let forwarded = self.forward.iter().flat_map(|forward| &forward.reads);
        let all = self.waiting.iter().chain(round).chain(forwarded);
        let expiry = all.map(|read| read.deadline).min();
        let resend = self.forward.as_ref().and_then(|forward| forward.sent);
        let resend = resend.map(|(_, at)| Millis(at.0 + config.heartbeat_interval.0));
        expiry
            .into_iter()
            .chain(resend)
            .min()
            .unwrap_or(Millis(u64::MAX))
    }

    fn knows(&self, asker: Asker) -> bool {
        let round = self.round.iter().flat_map(|round| &round.reads);
        self.waiting
            .iter()
            .chain(round)
            .any(|read| read.asker == asker)
    }
}

impl Raft {
    pub(super) fn read_index(&mut self, id: RequestId) {
        if self.removed || self.digests.diverged.is_some() {
            let reason = self.not_leader();
            self.outbox.reject(id, reason);
            return;
        }
        self.enqueue_read(Asker::Here(id));
    }

    /// A peer asks. Whoever does not lead stays silent: the peer asks again,
    /// of the leader it then knows, until its reads expire.
    pub(super) fn on_read_request(&mut self, from: NodeId, context: u64) {
        let asker = Asker::Peer { id: from, context };
        if self.heard_from(from).is_some() && !self.reads.knows(asker) {
            self.enqueue_read(asker);
        }
    }

    fn enqueue_read(&mut self, asker: Asker) {
        let deadline = Millis(self.now.0 + self.config.election_timeout_max.0);
        self.reads.waiting.push(Waiting { asker, deadline });
    }

    /// Finishes and starts rounds, sends what waits for a leader.
    pub(super) fn pump_reads(&mut self) {
        if !matches!(self.state, State::Leader(_)) {
            self.forward_reads();
            return;
        }
        self.finish_round();
        if self.reads.waiting.is_empty() {
            return;
        }
        if self.lease_until().is_some() {
            let index = self.log.commit();
            for read in mem::take(&mut self.reads.waiting) {
                self.answer_read(read.asker, index);
            }
            return;
        }
        if self.is_ready() && self.reads.round.is_none() {
            let reads = mem::take(&mut self.reads.waiting);
            let context = self.begin_round();
            self.reads.round = Some(Round {
                context,
                index: self.log.commit(),
                reads,
            });
            self.send_heartbeats();
            self.finish_round();
        }
    }

    fn finish_round(&mut self) {
        let State::Leader(lead) = &self.state else {
            return;
        };
        let Some(round) = &self.reads.round else {
            return;
        };
        let confirmed = quorum::agrees(&self.memberships.active().membership, |id| {
            id == self.config.id
                || lead
                    .peers
                    .get(&id)
                    .is_some_and(|peer| round.context <= peer.acked_context)
        });
        if !confirmed {
            return;
        }
        let round = self.reads.round.take().expect("looked at above");
        for read in round.reads {
            self.answer_read(read.asker, round.index);
        }
    }

    fn answer_read(&mut self, asker: Asker, index: LogIndex) {
        match asker {
            Asker::Here(id) => self.outbox.effect(Effect::ReadReady { id, index }),
            Asker::Peer { id, context } => {
                let term = self.term;
                let answer = Message::ReadIndexResponse {
                    term,
                    context,
                    index: Some(index),
                };
                self.outbox.send_now(id, answer);
            }
        }
    }

    fn forward_reads(&mut self) {
        if self.reads.forward.is_none() && !self.reads.waiting.is_empty() {
            self.reads.forwards = self.reads.forwards.wrapping_add(1);
            let reads = mem::take(&mut self.reads.waiting);
            self.reads.forward = Some(Forward {
                context: self.reads.forwards,
                reads,
                sent: None,
            });
        }
        let Some(forward) = &mut self.reads.forward else {
            return;
        };
        let Some(leader) = self.leader else {
            // Nobody to ask again: or the time to do so would be long past and
            // its owner be woken without end.
            forward.sent = None;
            return;
        };
        let again = self.config.heartbeat_interval.0;
        let asked = forward
            .sent
            .is_some_and(|(to, at)| to == leader && self.now.0 < at.0 + again);
        if !asked {
            forward.sent = Some((leader, self.now));
            let context = forward.context;
            let request = Message::ReadIndexRequest {
                term: self.term,
                context,
            };
            self.outbox.send_after_hard_state(leader, request);
        }
    }

    pub(super) fn on_read_response(&mut self, context: u64, index: Option<LogIndex>) {
        let Some(index) = index else {
            return; // Asked again until the reads expire.
        };
        let answered = self
            .reads
            .forward
            .take_if(|forward| forward.context == context);
        for read in answered.into_iter().flat_map(|forward| forward.reads) {
            self.answer_read(read.asker, index);
        }
    }

    /// This node leads now: what it asked of others it answers itself.
    pub(super) fn adopt_forwarded_reads(&mut self) {
        if let Some(forward) = self.reads.forward.take() {
            self.reads.waiting.extend(forward.reads);
        }
    }

    /// Leadership is lost: nothing it was confirming can be confirmed.
    pub(super) fn reject_confirmations(&mut self) {
        let round = self
            .reads
            .round
            .take()
            .into_iter()
            .flat_map(|round| round.reads);
        let all: Vec<Waiting> = mem::take(&mut self.reads.waiting)
            .into_iter()
            .chain(round)
            .collect();
        for read in all {
            self.refuse_read(read.asker);
        }
    }

    /// Nothing is read here any more.
    pub(super) fn refuse_all_reads(&mut self) {
        self.adopt_forwarded_reads();
        self.reject_confirmations();
    }

    fn refuse_read(&mut self, asker: Asker) {
        let reason = match self.digests.diverged {
            Some(divergence) => Rejection::Diverged(divergence),
            None => Rejection::Unconfirmed,
        };
        match asker {
            Asker::Here(id) => self.outbox.reject(id, reason),
            Asker::Peer { id, context } => {
                let term = self.term;
                let answer = Message::ReadIndexResponse {
                    term,
                    context,
                    index: None,
                };
                self.outbox.send_after_hard_state(id, answer);
            }
        }
    }

    /// No read waits for ever.
    pub(super) fn expire_reads(&mut self) {
        let now = self.now;
        let mut expired = Vec::new();
        let mut sift = |reads: &mut Vec<Waiting>| {
            reads.retain(|read| {
                let keep = now < read.deadline;
                if !keep {
                    expired.push(read.asker);
                }
                keep
            });
        };
        sift(&mut self.reads.waiting);
        if let Some(round) = &mut self.reads.round {
            sift(&mut round.reads);
        }
        if let Some(forward) = &mut self.reads.forward {
            sift(&mut forward.reads);
        }
        self.reads.round.take_if(|round| round.reads.is_empty());
        self.reads
            .forward
            .take_if(|forward| forward.reads.is_empty());
        for asker in expired {
            self.refuse_read(asker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{Input, Recovered, bootstrap};
    use crate::types::{Incarnation, Member, Membership, Term};

    /// A follower had asked its leader for a read index when it lost it. The
    /// time to ask again passed while there was nobody to ask, and the deadline
    /// stayed in the past: the node's thread span until the read expired.
    /// Found by the simulator (seed 0), in every second seed.
    #[test]
    fn read_without_leader_wakes_nobody_in_the_past() {
        let ids: [NodeId; 3] = [1, 2, 3].map(NodeId);
        let member = |id: NodeId| Member {
            name: format!("n{id}"),
            incarnation: Incarnation(id.0),
            ..Member::default()
        };
        let write = bootstrap(Membership {
            voters: ids.into(),
            members: ids.map(|id| (id, member(id))).into(),
            ..Membership::default()
        });
        let config = Config {
            id: ids[0],
            incarnation: Incarnation(1),
            election_timeout_min: Millis(500),
            election_timeout_max: Millis(1000),
            heartbeat_interval: Millis(100),
            inflight_messages_max: 8,
            inflight_bytes_max: 1 << 20,
            message_bytes_max: 1 << 20,
            uncommitted_bytes_max: 1 << 20,
            cache_bytes_max: 1 << 20,
            trailing_entries: 8,
            read_mode: crate::raft::ReadMode::Quorum,
            disk_stall_timeout: Millis(2000),
            seed: 1,
        };
        let recovered = Recovered {
            hard_state: write.hard_state.unwrap(),
            entries: write.entries,
            ..Recovered::default()
        };
        let mut raft = Raft::new(config, recovered, Millis(0)).unwrap();
        let heartbeat = Message::Heartbeat {
            term: Term(2),
            commit_index: LogIndex(1),
            read_context: 0,
            agreed: None,
        };
        let from = ids[1];
        raft.step(
            Millis(1),
            Input::Message {
                from,
                incarnation: Incarnation(from.0),
                message: heartbeat,
            },
        );
        let mut now = Millis(1);
        let mut asked = false;
        while now.0 < 5000 {
            if !asked && 450 < now.0 {
                raft.step(now, Input::ReadIndex { id: RequestId(1) });
                asked = true;
            }
            raft.step(now, Input::Tick);
            assert!(now < raft.next_deadline(), "woken in the past at {now:?}");
            now = Millis(now.0 + 10);
        }
        assert!(asked && raft.status().leader.is_none());
    }
}
