//! Tells a history by hand: a cluster of three that behaves, until a test adds
//! the one thing that must not happen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::raft::message::{AppendResult, Message};
use crate::raft::{Effect, Input, Recovered, Role, Status};
use crate::sim::history::{History, Life, Observer, Step, Verdict};
use crate::types::{
    Entry, EntryPayload, HardState, Incarnation, LogIndex, LogWrite, Mark, Member, Membership,
    Millis, NodeId, Sequence, Term,
};

pub(super) fn life(node: u64) -> Life {
    Life {
        node: NodeId(node),
        incarnation: Incarnation(node),
    }
}

/// Voters `1..=count`, in their first lives.
pub(super) fn voters(ids: impl IntoIterator<Item = u64>) -> Membership {
    let ids: BTreeSet<NodeId> = ids.into_iter().map(NodeId).collect();
    let member = |id: &NodeId| Member {
        incarnation: life(id.0).incarnation,
        ..Member::default()
    };
    Membership {
        members: ids.iter().map(|id| (*id, member(id))).collect(),
        voters: ids,
        ..Membership::default()
    }
}

pub(super) fn command(text: &str) -> EntryPayload {
    EntryPayload::Command(Arc::from(text.as_bytes()))
}

pub(super) fn entry(index: u64, term: u64, payload: EntryPayload) -> Entry {
    Entry {
        index: LogIndex(index),
        term: Term(term),
        payload,
    }
}

/// A log write of a hard state only.
pub(super) fn choice(term: u64, vote: Option<u64>) -> LogWrite {
    LogWrite {
        hard_state: Some(HardState {
            term: Term(term),
            vote: vote.map(NodeId),
            commit_index: LogIndex(1),
        }),
        ..LogWrite::default()
    }
}

/// A log write of entries only.
pub(super) fn appended(entries: &[Entry]) -> LogWrite {
    LogWrite {
        entries: entries.to_vec(),
        ..LogWrite::default()
    }
}

pub(super) fn ack(term: u64, index: u64) -> Message {
    Message::AppendResponse {
        term: Term(term),
        result: AppendResult::Matched {
            match_index: LogIndex(index),
        },
        read_context: 0,
    }
}

pub(super) fn grant(term: u64) -> Message {
    Message::VoteResponse {
        term: Term(term),
        pre: false,
        granted: true,
    }
}

/// The history and what each node showed last.
#[derive(Debug)]
pub(super) struct Teller {
    pub(super) history: History,
    statuses: BTreeMap<Life, Status>,
    sequence: u64,
}

impl Teller {
    /// Three voters that hold the cluster's first entry, in term 1.
    pub(super) fn cluster() -> Self {
        let mut teller = Self {
            history: History::default(),
            statuses: BTreeMap::new(),
            sequence: 0,
        };
        for node in 1..=3 {
            let found = Self::first_entry();
            teller.start(life(node), &found).expect("a fresh cluster");
        }
        teller
    }

    /// What each node of the cluster begins with.
    pub(super) fn first_entry() -> Recovered {
        let membership = EntryPayload::Membership(Arc::new(voters(1..=3)));
        Recovered {
            hard_state: HardState {
                term: Term(1),
                vote: None,
                commit_index: LogIndex(1),
            },
            entries: vec![entry(1, 1, membership)],
            ..Recovered::default()
        }
    }

    /// A process starts from what its disk holds.
    pub(super) fn start(&mut self, life: Life, found: &Recovered) -> Verdict {
        let last = found.entries.last().map(|last| (last.index, last.term));
        let (last_index, last_term) = last.unwrap_or_default();
        let status = Status {
            term: found.hard_state.term,
            commit_index: found.hard_state.commit_index,
            last_index,
            last_term,
            membership: Arc::new(voters(1..=3)),
            membership_index: LogIndex(1),
            ..Status::default()
        };
        self.statuses.insert(life, status.clone());
        self.history.started(life, found, &status)
    }

    /// A core steps; `change` makes its new status of the old one.
    pub(super) fn step(
        &mut self,
        life: Life,
        inputs: &[Input],
        effects: &[Effect],
        change: impl FnOnce(&mut Status),
    ) -> Verdict {
        let status = self.statuses.get_mut(&life).expect("it was started");
        change(status);
        self.history.stepped(&Step {
            life,
            now: Millis(0),
            inputs,
            effects,
            status,
        })
    }

    /// A core asks for a write and shows what follows from it.
    pub(super) fn write(
        &mut self,
        life: Life,
        write: &LogWrite,
    ) -> Result<Mark, Box<super::Violation>> {
        self.write_and(life, write, |_| ())
    }

    /// The same, changing its status further.
    pub(super) fn write_and(
        &mut self,
        life: Life,
        write: &LogWrite,
        change: impl FnOnce(&mut Status),
    ) -> Result<Mark, Box<super::Violation>> {
        self.sequence += 1;
        let mark = Mark {
            accepted_term: Term(0),
            sequence: Sequence(self.sequence),
        };
        let effect = Effect::Persist {
            mark,
            write: write.clone(),
        };
        self.step(life, &[], &[effect], |status| {
            if let Some(hard_state) = write.hard_state {
                status.term = hard_state.term;
            }
            if let Some(last) = write.entries.last() {
                (status.last_index, status.last_term) = (last.index, last.term);
            }
            change(status);
        })?;
        Ok(mark)
    }

    /// Writes, and the disk completes it at once.
    pub(super) fn store(&mut self, life: Life, write: &LogWrite) -> Verdict {
        let mark = self.write(life, write)?;
        self.history.durable(life, mark)
    }

    /// `leader` campaigns in `term` with the vote of `voter`, and leads.
    pub(super) fn elect(&mut self, leader: u64, term: u64, voter: u64) -> Verdict {
        let campaign = choice(term, Some(leader));
        let mark = self.write_and(life(leader), &campaign, |status| {
            status.role = Role::Candidate;
        })?;
        self.history.durable(life(leader), mark)?;
        let last = &self.statuses[&life(leader)];
        let request = Message::VoteRequest {
            term: Term(term),
            pre: false,
            last_index: last.last_index,
            last_term: last.last_term,
            transfer: false,
        };
        self.history.sent(life(leader), NodeId(voter), &request)?;
        let vote = self.write_and(life(voter), &choice(term, Some(leader)), |status| {
            status.role = Role::Follower;
        })?;
        self.history.durable(life(voter), vote)?;
        self.history
            .sent(life(voter), NodeId(leader), &grant(term))?;
        self.lead(leader)
    }

    /// A node shows itself as the leader of its term.
    pub(super) fn lead(&mut self, leader: u64) -> Verdict {
        self.step(life(leader), &[], &[], |status| status.role = Role::Leader)
    }

    /// The entry reaches the disks of `nodes`.
    pub(super) fn replicate(&mut self, nodes: &[u64], new: &Entry) -> Verdict {
        for node in nodes {
            self.store(life(*node), &appended(std::slice::from_ref(new)))?;
        }
        Ok(())
    }

    /// A node's commit index moves.
    pub(super) fn commit(&mut self, node: u64, index: u64) -> Verdict {
        self.step(life(node), &[], &[], |status| {
            status.commit_index = LogIndex(index);
        })
    }
}
