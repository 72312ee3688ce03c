//! One core for the tests beside the code. The other members are made up: the
//! test says what they say. Its disk and its store answer at once.

use std::collections::VecDeque;

use crate::raft::message::{AppendResult, Message};
use crate::raft::{Config, Effect, Input, Raft, ReadMode, Recovered, RequestId, Role, bootstrap};
use crate::types::{EntryPayload, Incarnation, LogIndex, Member, Membership, Millis, NodeId, Term};

/// See the module.
pub(super) struct Stage {
    pub(super) core: Raft,
    pub(super) now: Millis,
}

/// Node 1, with round numbers.
pub(super) fn config() -> Config {
    Config {
        id: NodeId(1),
        incarnation: Incarnation(0),
        election_timeout_min: Millis(100),
        election_timeout_max: Millis(200),
        heartbeat_interval: Millis(20),
        inflight_messages_max: 8,
        inflight_bytes_max: 1 << 20,
        message_bytes_max: 1 << 20,
        uncommitted_bytes_max: 1 << 20,
        cache_bytes_max: 1 << 20,
        trailing_entries: 10,
        read_mode: ReadMode::Quorum,
        disk_stall_timeout: Millis(400),
        seed: 1,
    }
}

/// Voters `1..=voters`, and learners after them.
pub(super) fn membership(voters: u64, learners: u64) -> Membership {
    let all = 1..=voters + learners;
    Membership {
        voters: (1..=voters).map(NodeId).collect(),
        learners: (voters + 1..=voters + learners).map(NodeId).collect(),
        members: all.map(|id| (NodeId(id), Member::default())).collect(),
        ..Membership::default()
    }
}

impl Stage {
    /// A founder of this cluster, as it starts for the first time.
    pub(super) fn new(config: Config, founders: Membership) -> Self {
        let write = bootstrap(founders);
        let recovered = Recovered {
            hard_state: write.hard_state.expect("bootstrap writes one"),
            entries: write.entries,
            ..Recovered::default()
        };
        let core = Raft::new(config, recovered, Millis(0)).expect("consistent");
        let mut stage = Self {
            core,
            now: Millis(0),
        };
        stage.step(Input::Applied(LogIndex(0)));
        stage
    }

    /// It leads in term 2; its first entry, at 2, is committed.
    pub(super) fn leading(config: Config, founders: Membership) -> Self {
        let others: Vec<NodeId> = founders.members.keys().copied().skip(1).collect();
        let mut stage = Self::elected(config, founders);
        for id in others {
            stage.hold(id, 2);
        }
        assert_eq!(stage.core.status().commit_index, LogIndex(2));
        stage
    }

    /// It leads in term 2; nobody holds its first entry yet.
    pub(super) fn elected(config: Config, founders: Membership) -> Self {
        let others: Vec<NodeId> = founders.members.keys().copied().skip(1).collect();
        let mut stage = Self::new(config, founders);
        stage.now = stage.core.next_deadline();
        stage.step(Input::Tick);
        for pre in [true, false] {
            for id in &others {
                let granted = Message::VoteResponse {
                    term: Term(2),
                    pre,
                    granted: true,
                };
                stage.hear(*id, granted);
            }
        }
        assert_eq!(stage.core.role(), Role::Leader);
        stage
    }

    /// Feeds one input, and what its disk and its store answer.
    pub(super) fn step(&mut self, input: Input) -> Vec<Effect> {
        let mut all = Vec::new();
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let effects = self.core.step(self.now, input);
            inputs.extend(effects.iter().filter_map(answer));
            all.extend(effects);
        }
        all
    }

    pub(super) fn hear(&mut self, from: NodeId, message: Message) -> Vec<Effect> {
        self.hear_in_life(from, 0, message)
    }

    /// From another directory of that name than the one that joined, unless 0.
    pub(super) fn hear_in_life(
        &mut self,
        from: NodeId,
        life: u64,
        message: Message,
    ) -> Vec<Effect> {
        self.step(Input::Message {
            from,
            incarnation: Incarnation(life),
            message,
        })
    }

    /// A follower says that it holds the leader's log up to `index`.
    pub(super) fn hold(&mut self, from: NodeId, index: u64) -> Vec<Effect> {
        let matched = AppendResult::Matched {
            match_index: LogIndex(index),
        };
        let message = Message::AppendResponse {
            term: self.core.status().term,
            result: matched,
            read_context: 0,
        };
        self.hear(from, message)
    }

    pub(super) fn propose(&mut self, text: &str) -> Vec<Effect> {
        let payload = EntryPayload::Command(text.as_bytes().into());
        let id = RequestId(0);
        self.step(Input::Propose { id, payload })
    }
}

fn answer(effect: &Effect) -> Option<Input> {
    match effect {
        Effect::Persist { mark, .. } => Some(Input::Durable(*mark)),
        Effect::Apply { entries } => entries.last().map(|last| Input::Applied(last.index)),
        _ => None,
    }
}
