//! What is asked, what is believed: over real logs on a disk in memory.

use std::path::Path;
use std::sync::Arc;

use crate::disk::{AppendMode, Disk, MemoryDisk};
use crate::node::options::Timings;
use crate::node::threads;
use crate::raft::message::Message;
use crate::raft::{Effect, Input, Raft, ReadMode, Recovered};
use crate::types::{
    ClusterId, EntryPayload, HardState, Incarnation, LogWrite, Millis, SnapshotMeta,
};
use crate::wal::{Identity, Wal, WalOptions, salvage};

use super::*;

const BLOCK: u64 = 4096;
const NO_SNAPSHOT: Position = (LogIndex(0), Term(0));

fn dir() -> &'static Path {
    Path::new("/log")
}

fn entry(index: u64, term: u64) -> Entry {
    Entry {
        index: LogIndex(index),
        term: Term(term),
        payload: EntryPayload::Command(Arc::from(vec![index as u8, term as u8])),
    }
}

/// A log of entries of these terms, a batch each, the last one promised.
fn log(terms: &[u64], commit: u64) -> (MemoryDisk, Wal) {
    let disk = MemoryDisk::new();
    let identity = Identity {
        cluster: ClusterId([1; 16]),
        node: NodeId(1),
        incarnation: Incarnation(1),
    };
    let options = WalOptions {
        segment_bytes: 64 * BLOCK,
        batch_bytes_max: 1 << 16,
        prepare_in_background: false,
        append: AppendMode::Direct,
        salt_seed: 1,
    };
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut wal = Wal::create(shared, dir(), identity, options).unwrap();
    for (position, term) in terms.iter().enumerate() {
        let write = LogWrite {
            entries: vec![entry(position as u64 + 1, *term)],
            ..LogWrite::default()
        };
        wal.append(&[write]).unwrap();
    }
    let hard_state = HardState {
        term: Term(*terms.last().unwrap()),
        vote: None,
        commit_index: LogIndex(commit),
    };
    let last = LogWrite {
        hard_state: Some(hard_state),
        ..LogWrite::default()
    };
    wal.append(&[last]).unwrap();
    wal.mark_idle().unwrap();
    (disk, wal)
}

/// The same log with these entries' batches lost, under repair.
fn patient(terms: &[u64], commit: u64, lost: &[u64]) -> Repair {
    let (disk, wal) = log(terms, commit);
    drop(wal);
    let names = disk.list(dir()).unwrap();
    let name = names.iter().find(|name| name.ends_with(".wal")).unwrap();
    for index in lost {
        let path = dir().join(name);
        disk.overwrite(&path, index * BLOCK, &[0; BLOCK as usize])
            .unwrap();
    }
    let salvage = salvage(&disk, dir(), None).unwrap();
    Repair::new(salvage, NO_SNAPSHOT, [NodeId(2), NodeId(3)].into_iter())
}

/// Peers answer every word until nobody has more to say.
fn converse(repair: &mut Repair, peers: &[(NodeId, &dyn Held, u64, u64)]) {
    let mut words = repair.round();
    let mut count = 0;
    while let Some((to, message)) = words.pop() {
        count += 1;
        assert!(count < 1000, "they talk for ever");
        let RepairMessage::Ask(ask) = message else {
            continue;
        };
        let peer = peers.iter().find(|(id, ..)| *id == to);
        if let Some((id, held, commit, snapshot)) = peer {
            let told = answer(*held, ask, LogIndex(*commit), LogIndex(*snapshot));
            words.extend(repair.handle(*id, told));
        }
    }
}

#[test]
fn exactly_the_lost_entries_are_fetched() {
    let terms = [1, 1, 2, 2, 2, 3];
    let mut repair = patient(&terms, 4, &[2, 5]);
    let (_disk, wal) = log(&terms, 6);
    assert!(!repair.is_whole());
    for _ in 0..3 {
        converse(&mut repair, &[(NodeId(2), &wal.reader(), 6, 0)]);
    }
    assert!(repair.is_whole());
    assert_eq!(repair.progress().missing, 0);
    for index in 1..=6 {
        let term = terms[index as usize - 1];
        let held = repair.salvage().entry(LogIndex(index));
        assert_eq!(held, Some(&entry(index, term)));
    }
}

#[test]
fn two_patients_help_each_other() {
    let terms = [1, 1, 1, 1, 1, 1];
    let mut one = patient(&terms, 0, &[2]);
    let mut other = patient(&terms, 0, &[4]);
    let given = other.salvage().clone();
    converse(&mut one, &[(NodeId(2), &given, 0, 0)]);
    let given = one.salvage().clone();
    converse(&mut other, &[(NodeId(2), &given, 0, 0)]);
    assert!(one.is_whole() && other.is_whole());
}

#[test]
fn entries_of_another_term_are_not_believed() {
    let mut repair = patient(&[2, 2, 2, 2], 0, &[3]);
    let (_disk, wal) = log(&[2, 2, 3, 3], 1);
    for _ in 0..3 {
        converse(&mut repair, &[(NodeId(2), &wal.reader(), 1, 0)]);
    }
    assert!(!repair.is_whole());
    assert_eq!(repair.progress().fetched, 0);
    assert_eq!(repair.salvage().last(), (LogIndex(4), Term(2)));
}

#[test]
fn what_was_committed_instead_ends_the_log() {
    let mut repair = patient(&[1, 2, 2, 2], 1, &[3]);
    let (_disk, wal) = log(&[1, 2, 3, 3], 4);
    for _ in 0..3 {
        converse(&mut repair, &[(NodeId(2), &wal.reader(), 4, 0)]);
    }
    assert!(repair.is_whole());
    assert_eq!(repair.salvage().last(), (LogIndex(3), Term(3)));
}

#[test]
fn snapshot_is_asked_for_when_entries_do_not_come() {
    let mut repair = patient(&[1, 1, 1, 1, 1], 5, &[2]);
    let asked = |repair: &mut Repair| {
        let words = repair.round();
        words.contains(&(NodeId(3), RepairMessage::AskSnapshot))
    };
    // Nobody said yet that there is one.
    assert!((0..20).all(|_| !asked(&mut repair)));
    let ask = RepairAsk {
        first: LogIndex(2),
        last: LogIndex(2),
        anchor: (LogIndex(2), Term(1)),
        first_term: None,
    };
    let told = RepairMessage::Answer(RepairAnswer {
        ask,
        is_anchored: false,
        entries: Vec::new(),
        commit_index: LogIndex(9),
        committed: None,
        log_first: LogIndex(5),
        snapshot_index: LogIndex(4),
        lacks_first: false,
    });
    repair.handle(NodeId(3), told);
    assert!((0..20).any(|_| asked(&mut repair)));
    repair.use_snapshot((LogIndex(4), Term(1)));
    assert!(repair.is_whole());
    // An older one takes nothing back.
    repair.use_snapshot((LogIndex(1), Term(1)));
    assert_eq!(repair.snapshot().0, LogIndex(4));
}

#[test]
fn strangers_are_not_listened_to() {
    let mut repair = patient(&[1, 1, 1], 3, &[2]);
    let (_disk, wal) = log(&[1, 1, 1], 3);
    let ask = RepairAsk {
        first: LogIndex(2),
        last: LogIndex(2),
        anchor: (LogIndex(2), Term(1)),
        first_term: None,
    };
    let told = answer(&wal.reader(), ask, LogIndex(3), LogIndex(0));
    assert!(repair.handle(NodeId(9), told).is_empty());
    assert!(!repair.is_whole());
}

#[test]
fn answers_are_bounded_and_within_the_question() {
    let (_disk, wal) = log(&[1, 1, 2, 2], 4);
    let reader = wal.reader();
    let told = |first: u64, last: u64, anchor: (u64, u64)| {
        let ask = RepairAsk {
            first: LogIndex(first),
            last: LogIndex(last),
            anchor: (LogIndex(anchor.0), Term(anchor.1)),
            first_term: None,
        };
        match answer(&reader, ask, LogIndex(1), LogIndex(0)) {
            RepairMessage::Answer(answer) => {
                let indexes = answer.entries.iter().map(|entry| entry.index.0);
                (answer.is_anchored, indexes.collect::<Vec<_>>())
            }
            _ => unreachable!(),
        }
    };
    assert_eq!(told(2, 3, (4, 2)), (true, vec![2, 3]));
    // Without the anchor only entries of its term, and what is committed.
    assert_eq!(told(1, 4, (9, 2)), (false, vec![1, 3, 4]));
    assert_eq!(told(1, 4, (9, 7)), (false, vec![1]));
    assert_eq!(told(2, 4, (9, 7)), (false, vec![]));
    // Nonsense.
    for (first, last, anchor) in [
        (3, 2, (4, 2)),
        (2, 9, (4, 2)),
        (0, 0, (0, 0)),
        (7, 8, (8, 2)),
    ] {
        assert_eq!(told(first, last, anchor).1, Vec::<u64>::new());
    }
}

/// Two servers are left beside the patient, with these logs.
fn forced(repair: &mut Repair, logs: [(&[u64], u64, u64); 2]) {
    repair.only_among([NodeId(2), NodeId(3)].into_iter());
    let logs = logs.map(|(terms, commit, snapshot)| (log(terms, commit).1, commit, snapshot));
    let readers: Vec<_> = logs.iter().map(|(wal, ..)| wal.reader()).collect();
    let peers: Vec<(NodeId, &dyn Held, u64, u64)> = (2..)
        .zip(&readers)
        .zip(&logs)
        .map(|((id, reader), (_, commit, snapshot))| {
            (NodeId(id), reader as &dyn Held, *commit, *snapshot)
        })
        .collect();
    for _ in 0..5 {
        converse(repair, &peers);
    }
}

#[test]
fn entry_that_nobody_left_has_ends_the_log() {
    let mut repair = patient(&[1, 1, 2, 2, 2], 2, &[4]);
    forced(&mut repair, [(&[1, 1, 2], 1, 0), (&[1, 1], 1, 0)]);
    assert_eq!(repair.settle_lost(), Some(Nowhere::Cut(LogIndex(4))));
    assert!(repair.is_whole());
    assert_eq!(repair.salvage().last(), (LogIndex(3), Term(2)));
    assert_eq!(repair.settle_lost(), None);
}

/// Each is asked for one gap after the other, not all for the same at once.
/// What is known to be committed here and there is the same, whatever its term.
#[test]
fn entries_that_nobody_left_has_are_told_apart() {
    let mut repair = patient(&[1, 1, 2, 2, 2, 2], 2, &[3, 5]);
    repair.only_among([NodeId(2), NodeId(3)].into_iter());
    let (_disk, short) = log(&[1, 1], 2);
    let short = short.reader();
    let peers = [
        (NodeId(2), &short as &dyn Held, 2, 0),
        (NodeId(3), &short as &dyn Held, 2, 0),
    ];
    converse(&mut repair, &peers[..1]);
    converse(&mut repair, &peers);
    converse(&mut repair, &peers[1..]);
    assert_eq!(repair.settle_lost(), Some(Nowhere::Cut(LogIndex(3))));
    assert!(repair.is_whole());
}

#[test]
fn committed_entry_that_nobody_left_has_is_not_given_up() {
    let mut repair = patient(&[1, 1, 2, 2, 2], 4, &[4]);
    forced(&mut repair, [(&[1, 1, 2], 3, 0), (&[1, 1], 1, 0)]);
    assert_eq!(repair.settle_lost(), Some(Nowhere::Committed(LogIndex(4))));
    assert_eq!(repair.salvage().last(), (LogIndex(5), Term(2)));
}

#[test]
fn nothing_is_given_up_while_a_copy_may_exist() {
    // Nobody says that the others are lost for good.
    let mut repair = patient(&[1, 1, 2, 2, 2], 2, &[4]);
    let (_disk, short) = log(&[1, 1, 2], 1);
    let short = short.reader();
    let both = [
        (NodeId(2), &short as &dyn Held, 1, 0),
        (NodeId(3), &short as &dyn Held, 1, 0),
    ];
    converse(&mut repair, &both);
    assert_eq!(repair.settle_lost(), None);
    // One has not answered.
    repair.only_among([NodeId(2), NodeId(3)].into_iter());
    converse(&mut repair, &both[..1]);
    assert_eq!(repair.settle_lost(), None);
    // One has a snapshot that covers it.
    let covering = [both[0], (NodeId(3), &short as &dyn Held, 1, 4)];
    converse(&mut repair, &covering);
    assert_eq!(repair.settle_lost(), None);
    // One lost something itself.
    let other = patient(&[1, 1, 2, 2, 2], 2, &[4]);
    let damaged = [both[0], (NodeId(3), other.salvage() as &dyn Held, 2, 0)];
    converse(&mut repair, &damaged);
    assert_eq!(repair.settle_lost(), None);
    converse(&mut repair, &both);
    assert_eq!(repair.settle_lost(), Some(Nowhere::Cut(LogIndex(4))));
}

/// What a node says of its core and its log about a lost entry.
fn told(reader: &WalReader, raft: &Raft, anchor: Position) -> RepairAnswer {
    let ask = RepairAsk {
        first: anchor.0,
        last: anchor.0,
        anchor,
        first_term: None,
    };
    match answer_running(reader, ask, &raft.status(), LogIndex(0)) {
        RepairMessage::Answer(answer) => answer,
        _ => unreachable!(),
    }
}

fn core(recovered: Recovered) -> Raft {
    let timings = Timings::alone();
    let owner = (NodeId(1), Incarnation(1));
    let config = threads::config(owner, timings, 0, ReadMode::Quorum);
    Raft::new(config, recovered, Millis(0)).unwrap()
}

/// A follower's core replaces an entry and learns in the same message that the
/// new one is committed. Until the write is made, readers of its log see the
/// former entry, which must not pass for the committed one.
#[test]
fn entry_being_replaced_is_not_called_committed() {
    let (_disk, mut wal) = log(&[1, 1], 1);
    let mut raft = core(Recovered {
        hard_state: HardState {
            term: Term(1),
            vote: None,
            commit_index: LogIndex(1),
        },
        entries: vec![entry(1, 1), entry(2, 1)],
        ..Recovered::default()
    });
    let message = Message::AppendEntries {
        term: Term(2),
        prev_index: LogIndex(1),
        prev_term: Term(1),
        entries: vec![entry(2, 2)],
        commit_index: LogIndex(2),
        read_context: 0,
    };
    let from = NodeId(2);
    let input = Input::Message {
        from,
        incarnation: Incarnation(0),
        message,
    };
    let effects = raft.step(Millis(1), input);
    assert_eq!(raft.status().commit_index, LogIndex(2));
    let anchor = (LogIndex(2), Term(2));
    let before = told(&wal.reader(), &raft, anchor);
    assert_eq!(before.committed, Some((LogIndex(1), Term(1))));
    assert_eq!(before.commit_index, LogIndex(1));
    for effect in effects {
        if let Effect::Persist { mark, write } = effect {
            wal.append(&[write]).unwrap();
            raft.step(Millis(1), Input::Durable(mark));
        }
    }
    let after = told(&wal.reader(), &raft, anchor);
    assert_eq!(after.committed, Some(anchor));
    assert!(after.is_anchored);
}

/// A node acknowledged an entry, lost it, and asks for it while the leader's own
/// write of it is under way: it must not take the entry for one that nobody has.
#[test]
fn entry_being_written_is_not_called_lacking() {
    let (_disk, mut wal) = log(&[1, 1], 1);
    let mut raft = core(Recovered {
        hard_state: HardState {
            term: Term(1),
            vote: None,
            commit_index: LogIndex(1),
        },
        entries: vec![entry(1, 1), entry(2, 1)],
        ..Recovered::default()
    });
    let anchor = (LogIndex(3), Term(2));
    assert!(told(&wal.reader(), &raft, anchor).lacks_first);
    let message = Message::AppendEntries {
        term: Term(2),
        prev_index: LogIndex(2),
        prev_term: Term(1),
        entries: vec![entry(3, 2)],
        commit_index: LogIndex(1),
        read_context: 0,
    };
    let input = Input::Message {
        from: NodeId(2),
        incarnation: Incarnation(0),
        message,
    };
    let effects = raft.step(Millis(1), input);
    assert!(!told(&wal.reader(), &raft, anchor).lacks_first);
    for effect in effects {
        if let Effect::Persist { mark, write } = effect {
            wal.append(&[write]).unwrap();
            raft.step(Millis(1), Input::Durable(mark));
        }
    }
    assert!(told(&wal.reader(), &raft, anchor).is_anchored);
    // One that certainly has another entry there lacks this one.
    let other = (LogIndex(3), Term(1));
    assert!(told(&wal.reader(), &raft, other).lacks_first);
}

/// The power failed between a snapshot's arrival and the write that begins the
/// log after it: the store is past what the log on disk tells.
#[test]
fn log_that_a_snapshot_is_about_to_replace_is_not_called_committed() {
    let (_disk, wal) = log(&[1, 1, 1], 1);
    let raft = core(Recovered {
        hard_state: HardState {
            term: Term(3),
            vote: None,
            commit_index: LogIndex(1),
        },
        snapshot: Some(SnapshotMeta {
            index: LogIndex(2),
            term: Term(3),
            ..SnapshotMeta::default()
        }),
        entries: vec![entry(1, 1), entry(2, 1), entry(3, 1)],
        applied_index: LogIndex(2),
    });
    let told = told(&wal.reader(), &raft, (LogIndex(2), Term(1)));
    assert_eq!(told.committed, Some(NO_SNAPSHOT));
    assert_eq!(told.commit_index, LogIndex(0));
}
