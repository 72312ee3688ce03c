//! A core must survive whatever a peer says: lies, absurd numbers, messages of
//! no known protocol run. What it then believes is another matter.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use holdfast::raft::message::{AppendResult, Message};
use holdfast::raft::{Config, Input, Raft, ReadMode, Recovered, bootstrap};
use holdfast::types::{
    Checkpoint, Entry, EntryPayload, LogIndex, Membership, Millis, NodeId, SnapshotMeta, Term,
};

use crate::cluster::founding;
use crate::random::Dice;

fn number(dice: &mut Dice) -> u64 {
    match dice.below(10) {
        0 => dice.pick(&[u64::MAX, u64::MAX - 1, 1 << 62, (1 << 62) + 1]),
        1 => dice.below(1000),
        _ => dice.below(9),
    }
}

fn membership(dice: &mut Dice) -> Membership {
    match dice.below(4) {
        0 => Membership::default(),
        1 => founding(&[1, 2], &[3]),
        2 => Membership {
            members: founding(&[9], &[]).members,
            ..founding(&[1], &[])
        },
        _ => founding(&[1, 2, 3], &[]),
    }
}

fn entries(dice: &mut Dice, prev: u64) -> Vec<Entry> {
    let (count, term) = (dice.below(4), dice.below(9));
    (0..count)
        .map(|offset| {
            let orderly = !dice.percent(5);
            Entry {
                index: LogIndex(if orderly {
                    prev.wrapping_add(1 + offset)
                } else {
                    number(dice)
                }),
                term: Term(if orderly { term } else { number(dice) }),
                payload: if dice.percent(80) {
                    EntryPayload::Noop
                } else {
                    EntryPayload::Membership(Arc::new(membership(dice)))
                },
            }
        })
        .collect()
}

fn checkpoint(dice: &mut Dice) -> Checkpoint {
    Checkpoint {
        index: LogIndex(number(dice)),
        digest: dice.below(3).into(),
    }
}

fn message(dice: &mut Dice) -> Message {
    let term = Term(if dice.percent(90) {
        1 + dice.below(8)
    } else {
        number(dice)
    });
    let index = LogIndex(number(dice));
    let (other, other_term) = (LogIndex(number(dice)), Term(number(dice)));
    let (flag, context) = (dice.percent(50), number(dice));
    match dice.below(12) {
        0 => Message::VoteRequest {
            term,
            pre: flag,
            last_index: index,
            last_term: other_term,
            transfer: dice.percent(50),
        },
        1 => Message::VoteResponse {
            term,
            pre: flag,
            granted: dice.percent(80),
        },
        2..5 => Message::AppendEntries {
            term,
            prev_index: index,
            prev_term: other_term,
            entries: entries(dice, index.0),
            commit_index: other,
            read_context: context,
        },
        5 => Message::AppendResponse {
            term,
            result: AppendResult::Matched { match_index: index },
            read_context: context,
        },
        6 => Message::AppendResponse {
            term,
            result: AppendResult::Rejected {
                prev_index: index,
                hint_index: other,
                hint_term: other_term,
            },
            read_context: context,
        },
        7 => Message::Heartbeat {
            term,
            commit_index: index,
            read_context: context,
            agreed: flag.then(|| checkpoint(dice)),
        },
        8 => Message::HeartbeatResponse {
            term,
            read_context: context,
            patience: Millis(number(dice)),
            checkpoints: (0..dice.below(12)).map(|_| checkpoint(dice)).collect(),
        },
        9 => Message::InstallSnapshot {
            term,
            meta: SnapshotMeta {
                index,
                term: other_term,
                membership: Arc::new(membership(dice)),
                membership_index: other,
            },
        },
        10 => Message::InstallSnapshotResponse {
            term,
            match_index: index,
        },
        _ => match dice.below(3) {
            0 => Message::TimeoutNow { term },
            1 => Message::ReadIndexRequest { term, context },
            _ => Message::ReadIndexResponse {
                term,
                context,
                index: flag.then_some(index),
            },
        },
    }
}

/// A lone core: its disk answers at once, its store too.
fn listen(seed: u64) {
    let mut dice = Dice(seed);
    let config = Config {
        id: NodeId(1),
        incarnation: holdfast::types::Incarnation(1),
        election_timeout_min: Millis(100),
        election_timeout_max: Millis(200),
        heartbeat_interval: Millis(20),
        inflight_messages_max: 3,
        inflight_bytes_max: 300,
        message_bytes_max: 100,
        uncommitted_bytes_max: 1000,
        cache_bytes_max: 100,
        trailing_entries: 2,
        read_mode: ReadMode::Lease {
            drift_permille: 100,
        },
        disk_stall_timeout: Millis(400),
        seed,
    };
    let write = bootstrap(founding(&[1, 2, 3], &[]));
    let recovered = Recovered {
        hard_state: write.hard_state.expect("a term"),
        entries: write.entries,
        ..Recovered::default()
    };
    let mut raft = Raft::new(config, recovered, Millis(0)).expect("a fresh cluster");
    let mut now = 0;
    for _ in 0..400 {
        now += dice.below(30);
        let input = if dice.percent(20) {
            Input::Tick
        } else if dice.percent(3) {
            Input::CommittedMembership {
                index: LogIndex(number(&mut dice)),
                membership: Arc::new(membership(&mut dice)),
            }
        } else {
            let from = NodeId(1 + dice.below(4));
            Input::Message {
                from,
                incarnation: holdfast::types::Incarnation(u64::from(dice.percent(10))),
                message: message(&mut dice),
            }
        };
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for effect in raft.step(Millis(now), input) {
                inputs.extend(done(effect));
            }
        }
    }
}

fn done(effect: holdfast::raft::Effect) -> Option<Input> {
    use holdfast::raft::Effect;
    match effect {
        Effect::Persist { mark, .. } => Some(Input::Durable(mark)),
        Effect::Apply { entries } => entries.last().map(|entry| Input::Applied(entry.index)),
        Effect::RestoreSnapshot(meta) => Some(Input::Applied(meta.index)),
        Effect::StreamSnapshot { to, .. } => Some(Input::SnapshotStreamed {
            to,
            delivered: None,
        }),
        _ => None,
    }
}

#[test]
fn nothing_a_peer_says_panics() {
    for seed in 0..500 {
        let survived = catch_unwind(AssertUnwindSafe(|| listen(seed)));
        assert!(survived.is_ok(), "seed {seed} of nonsense panics");
    }
}
