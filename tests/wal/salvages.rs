//! Damaged logs written anew: what is lost is named exactly, taken only from
//! who had the same, and the new log takes the place of the old at once or not
//! at all.

use std::sync::Arc;

use holdfast::disk::{Disk, MemoryDisk};
use holdfast::types::{Entry, EntryPayload, LogIndex, LogWrite, Term};
use holdfast::wal::{Opened, Position, Salvage, Unsuitable, WalError, salvage};

use crate::crashes::{crash, fates};
use crate::faults::{BLOCKS, Fault, History, history, history_salted, inject, is_same};
use crate::model::{BLOCK, IDENTITY, Model, depth, dir, entries, open, options, segment_paths};

const NO_SNAPSHOT: Position = (LogIndex(0), Term(0));

/// A peer with the same log gives what is wanted; how many entries that were.
fn fetch(salvage: &mut Salvage, snapshot: Position, peer: &Model) -> usize {
    let mut count = 0;
    for wanted in salvage.missing(snapshot) {
        let held = peer.entries.iter().find(|it| it.index == wanted.anchor.0);
        assert_eq!(held.unwrap().term, wanted.anchor.1, "an anchor nobody has");
        if wanted.first == snapshot.0 {
            salvage.confirm(snapshot, wanted.anchor);
        }
        for entry in &peer.entries {
            if (wanted.first..=wanted.last).contains(&entry.index) {
                salvage.supply(entry.clone(), Some(wanted.anchor)).unwrap();
                count += 1;
            }
        }
    }
    assert!(salvage.missing(snapshot).is_empty());
    count
}

fn check_opened(opened: &Opened, newest: &Model, snapshot: Position) {
    let expected = newest.after(snapshot.0);
    assert_eq!(opened.entries, expected.entries);
    assert_eq!(opened.base, expected.base);
    let mut hard_state = newest.hard_state;
    hard_state.commit_index = hard_state.commit_index.max(snapshot.0);
    assert_eq!(opened.hard_state, hard_state);
}

#[derive(Debug, Default)]
struct Counts {
    faults: u64,
    damaged: u64,
    refused: u64,
    rewritten: u64,
    fetched: usize,
}

/// Every damage that opening finds is mended or refused, never mended wrongly.
fn sweep(history: &History, snapshot: Position, faults_at_once: u64) -> Counts {
    let mut counts = Counts::default();
    let newest = history.states.last().unwrap();
    let stale = history_salted(0x0dd).disk;
    let blocks: Vec<_> = segment_paths(&history.disk)
        .into_iter()
        .flat_map(|path| (0..BLOCKS).map(move |block| (path.clone(), block)))
        .collect();
    let mut state = 7u64;
    for first in 0..blocks.len() {
        for draw in 0..7 * depth() {
            let disk = history.disk.duplicate();
            for number in 0..faults_at_once {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(draw | 1);
                let at = if number == 0 {
                    first
                } else {
                    (state >> 33) as usize % blocks.len()
                };
                let fault = match draw % 7 {
                    0 => Fault::Zero,
                    1 => Fault::Garbage,
                    2 => Fault::Misdirected,
                    3 => Fault::Stale,
                    4 => Fault::Flip((state >> 20) % 128),
                    _ => Fault::Flip((state >> 20) % BLOCK),
                };
                inject(&disk, &stale, &blocks[at].0, blocks[at].1, fault);
            }
            counts.faults += 1;
            mend(&disk, newest, snapshot, &mut counts);
        }
    }
    counts
}

fn mend(disk: &MemoryDisk, newest: &Model, snapshot: Position, counts: &mut Counts) {
    let before = disk.duplicate();
    match open(&disk.duplicate(), options(BLOCKS)) {
        Err(WalError::Damaged(_)) => counts.damaged += 1,
        Err(error) => panic!("{error}"),
        Ok(_) => return,
    }
    let mut salvaged = match salvage(disk, dir(), Some(IDENTITY)) {
        Ok(salvaged) => salvaged,
        Err(WalError::Damaged(_)) => {
            counts.refused += 1;
            return;
        }
        Err(error) => panic!("{error}"),
    };
    // What it holds to be so is so.
    assert_eq!(salvaged.last(), newest.last());
    assert_eq!(salvaged.hard_state(), newest.hard_state);
    for entry in &newest.entries {
        let known = salvaged.term_at(entry.index);
        assert!(known.is_none_or(|term| term == entry.term));
        let held = salvaged.entry(entry.index);
        assert!(held.is_none_or(|held| held == entry));
    }
    counts.fetched += fetch(&mut salvaged, snapshot, newest);
    assert!(is_same(&before, disk), "a damaged log was touched");
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    salvaged
        .rewrite(&shared, dir(), snapshot, &options(BLOCKS))
        .unwrap();
    counts.rewritten += 1;
    for _ in 0..2 {
        let (wal, opened) = open(disk, options(BLOCKS)).unwrap();
        check_opened(&opened, newest, snapshot);
        drop(wal);
    }
    assert_eq!(segment_paths(disk).len(), 1);
}

#[test]
fn damage_below_a_promise_is_mended() {
    let mut history = history();
    history.wal.mark_idle().unwrap();
    let counts = sweep(&history, NO_SNAPSHOT, 1);
    println!("one fault: {counts:?}");
    assert!(counts.rewritten > 0 && counts.fetched > 0);
    // Only a lost header of the newest segment or the missing end is refused.
    assert!(counts.refused * 4 < counts.damaged, "{counts:?}");
}

#[test]
fn damage_in_many_places_is_mended_or_refused() {
    let mut history = history();
    for vote in 0..6 {
        history.append(|m| m.append(4 + vote, &[4000, 100, 20]));
        history.append(|m| m.hard_state(5 + vote, Some(vote), 9));
        if vote % 2 == 0 {
            history.append(|m| m.replace(m.last().0.0, 5 + vote, &[700]));
        }
        history.wal.mark_idle().unwrap();
    }
    for faults in [2, 3, 5] {
        let counts = sweep(&history, NO_SNAPSHOT, faults);
        println!("{faults} faults: {counts:?}");
        assert!(counts.rewritten > counts.refused);
    }
}

#[test]
fn damage_below_a_snapshot_costs_nothing() {
    let mut history = history();
    history.wal.mark_idle().unwrap();
    let newest = history.states.last().unwrap();
    let snapshot = newest.last();
    let counts = sweep(&history, snapshot, 1);
    println!("below a snapshot: {counts:?}");
    assert_eq!(counts.fetched, 0);
    assert!(counts.rewritten > 0);
}

#[test]
fn damage_after_a_reset_is_mended() {
    let mut history = history();
    history.append(|m| m.reset(40, 5, &[10, 5000]));
    history.append(|m| m.hard_state(6, None, 41));
    history.append(|m| m.append(6, &[5000, 5000, 1]));
    history.append(|m| m.append(6, &[1]));
    history.wal.mark_idle().unwrap();
    let newest = history.states.last().unwrap();
    let counts = sweep(&history, newest.base, 1);
    println!("after a reset: {counts:?}");
    assert!(counts.rewritten > 0 && counts.fetched > 0);
}

/// The end may be a write that was cut short, or more damage: nobody can tell.
#[test]
fn damaged_log_with_a_doubtful_end_is_refused() {
    let history = history();
    let paths = segment_paths(&history.disk);
    let begun = |path: &&std::path::PathBuf| {
        let map = history.disk.map(path).unwrap();
        map.bytes()[BLOCK as usize..].starts_with(b"HFB1")
    };
    let newest = paths.iter().rev().find(begun).unwrap();
    let map = history.disk.map(newest).unwrap();
    let blocks = map.bytes().chunks(BLOCK as usize);
    let mut last = blocks.enumerate().filter(|(_, it)| it.starts_with(b"HFB1"));
    let (last, _) = last.next_back().unwrap();
    let torn = history.disk.duplicate();
    torn.overwrite(newest, last as u64 * BLOCK + 200, &[0; 500])
        .unwrap();
    // By itself it is a write cut short.
    assert!(open(&torn.duplicate(), options(BLOCKS)).is_ok());
    torn.overwrite(&paths[0], 2 * BLOCK, &[0; 4096]).unwrap();
    let refused = salvage(&torn, dir(), None);
    assert!(matches!(refused, Err(WalError::Damaged(_))), "{refused:?}");
    // With a sound end the damage is mended.
    let sound = history.disk.duplicate();
    sound.overwrite(&paths[0], 2 * BLOCK, &[0; 4096]).unwrap();
    assert!(salvage(&sound, dir(), None).is_ok());
}

#[test]
fn entries_that_lost_ones_replaced_do_not_come_back() {
    // Entry 2 of term 1 is replaced by a batch that is lost.
    let mut history = History::new();
    history.append(|m| m.append(1, &[10, 10]));
    history.append(|m| m.replace(2, 2, &[20]));
    history.append(|m| m.append(3, &[30]));
    history.wal.mark_idle().unwrap();
    let path = &segment_paths(&history.disk)[0];
    history.disk.overwrite(path, 2 * BLOCK, &[0; 4096]).unwrap();
    let mut salvaged = salvage(&history.disk, dir(), None).unwrap();
    assert_eq!(salvaged.term_at(LogIndex(2)), Some(Term(2)));
    let former = entries(LogIndex(2), 1, &[10]).remove(0);
    let refused = salvaged.supply(former, Some((LogIndex(3), Term(3))));
    assert_eq!(
        refused,
        Err(Unsuitable::OtherTerm {
            index: LogIndex(2),
            known: Term(2),
            found: Term(1),
        })
    );
    // The entry before it may be another now, too: it is asked for.
    let missing = salvaged.missing(NO_SNAPSHOT);
    let wanted = (missing[0].first, missing[0].last, missing[0].anchor);
    assert_eq!(wanted, (LogIndex(1), LogIndex(2), (LogIndex(2), Term(2))));
    fetch(&mut salvaged, NO_SNAPSHOT, history.states.last().unwrap());
}

#[test]
fn entries_of_unknown_term_need_an_anchor() {
    let mut history = History::new();
    history.append(|m| m.append(1, &[10]));
    history.append(|m| m.append(1, &[10]));
    history.append(|m| m.append(2, &[10]));
    history.append(|m| m.append(3, &[30]));
    history.wal.mark_idle().unwrap();
    let path = &segment_paths(&history.disk)[0];
    history.disk.overwrite(path, 2 * BLOCK, &[0; 8192]).unwrap();
    // The table would tell.
    history.disk.overwrite(path, 5 * BLOCK, &[0; 4096]).unwrap();
    let mut salvaged = salvage(&history.disk, dir(), None).unwrap();
    let entry: Entry = entries(LogIndex(2), 1, &[10]).remove(0);
    assert_eq!(salvaged.term_at(LogIndex(2)), None);
    for anchor in [
        None,
        Some((LogIndex(3), Term(1))),
        Some((LogIndex(9), Term(3))),
    ] {
        let supplied = salvaged.supply(entry.clone(), anchor);
        assert_eq!(supplied, Err(Unsuitable::Undetermined(LogIndex(2))));
    }
    let anchor = Some((LogIndex(3), Term(2)));
    assert_eq!(salvaged.supply(entry, anchor), Ok(()));
}

#[test]
fn abandoned_log_ends_with_what_was_committed() {
    let mut history = History::new();
    history.append(|m| m.append(1, &[10, 20]));
    history.append(|m| m.hard_state(2, Some(1), 1));
    history.append(|m| m.append(2, &[30]));
    history.append(|m| m.append(2, &[40]));
    history.wal.mark_idle().unwrap();
    let path = &segment_paths(&history.disk)[0];
    history.disk.overwrite(path, 4 * BLOCK, &[0; 4096]).unwrap();
    let mut salvaged = salvage(&history.disk, dir(), None).unwrap();
    assert!(!salvaged.supersede((LogIndex(2), Term(1))), "it agrees");
    assert!(
        !salvaged.supersede((LogIndex(1), Term(7))),
        "committed here"
    );
    assert!(
        !salvaged.supersede((LogIndex(9), Term(7))),
        "nothing is known of it"
    );
    assert!(salvaged.supersede((LogIndex(3), Term(4))));
    assert_eq!(salvaged.last(), (LogIndex(3), Term(4)));
    let mut leader = history.states[1].clone();
    leader.apply(&leader.append(4, &[77]));
    fetch(&mut salvaged, NO_SNAPSHOT, &leader);
    let disk: Arc<dyn Disk> = Arc::new(history.disk.clone());
    salvaged
        .rewrite(&disk, dir(), NO_SNAPSHOT, &options(BLOCKS))
        .unwrap();
    let (_, opened) = open(&history.disk, options(BLOCKS)).unwrap();
    assert_eq!(opened.entries, leader.entries);
    // A term is never taken back.
    assert_eq!(opened.hard_state.term, Term(4));
}

/// A power cut at every call of rewriting and opening: the log is damaged as
/// before and salvaged again, or it is the new one.
#[test]
fn rewriting_survives_a_crash_at_every_call() {
    let mut history = history();
    history.wal.mark_idle().unwrap();
    let newest = history.states.last().unwrap().clone();
    let path = segment_paths(&history.disk)[1].clone();
    history
        .disk
        .overwrite(&path, 2 * BLOCK, &[0; 4096])
        .unwrap();
    let damaged = history.disk.duplicate();
    let rewrite = |disk: &MemoryDisk| -> Result<(), WalError> {
        let mut salvaged = salvage(disk, dir(), Some(IDENTITY))?;
        fetch(&mut salvaged, NO_SNAPSHOT, &newest);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        salvaged.rewrite(&shared, dir(), NO_SNAPSHOT, &options(BLOCKS))?;
        open(disk, options(BLOCKS)).map(|_| ())
    };
    let (mut crashes, mut old, mut new) = (0, 0, 0);
    for call in 0.. {
        let disk = damaged.duplicate();
        disk.power_off_at(disk.calls() + call);
        let finished = rewrite(&disk).is_ok() && !disk.is_off();
        let mut choices = fates(&disk.unsynced());
        // All subsets of a whole segment tell nothing more.
        choices.truncate(100);
        for choice in choices {
            crashes += 1;
            let survivor = crash(&disk, &choice);
            match open(&survivor, options(BLOCKS)) {
                Ok((_, opened)) => {
                    new += 1;
                    check_opened(&opened, &newest, NO_SNAPSHOT);
                }
                Err(WalError::Damaged(_)) => {
                    old += 1;
                    rewrite(&survivor).unwrap();
                }
                Err(error) => panic!("{error}"),
            }
            let (_, opened) = open(&survivor, options(BLOCKS)).unwrap();
            check_opened(&opened, &newest, NO_SNAPSHOT);
        }
        if finished {
            break;
        }
    }
    println!("rewriting: {crashes} crashes, {old} before, {new} after");
    assert!(old > 0 && new > 0);
}

/// The block of a segment at which a batch with a flag begins.
fn block_of(disk: &MemoryDisk, segment: usize, flag: u16) -> u64 {
    let path = &segment_paths(disk)[segment];
    let map = disk.map(path).unwrap();
    let mut blocks = map.bytes().chunks(BLOCK as usize);
    let begins = |block: &[u8]| {
        block.starts_with(b"HFB1") && u16::from_le_bytes([block[4], block[5]]) & flag != 0
    };
    blocks.position(begins).unwrap() as u64
}

/// Loses the batch of one entry.
fn lose_entry(disk: &MemoryDisk, index: u64) {
    let index = index.to_le_bytes();
    for segment in 0..segment_paths(disk).len() {
        let map = disk.map(&segment_paths(disk)[segment]).unwrap();
        let mut blocks = map.bytes().chunks(BLOCK as usize);
        let holds = |block: &[u8]| {
            block.starts_with(b"HFB1") && block[40..48] == index && block[48..56] == index
        };
        if let Some(block) = blocks.position(holds) {
            return lose(disk, segment, block as u64);
        }
    }
    panic!("no batch of that entry alone");
}

fn lose(disk: &MemoryDisk, segment: usize, block: u64) {
    let path = &segment_paths(disk)[segment];
    disk.overwrite(path, block * BLOCK, &[0xA5; BLOCK as usize])
        .unwrap();
}

/// The log was reset to a snapshot of a later term, without entries; the write
/// that said so is lost. The table of its segment names the writes behind it: they
/// do not continue the former entries.
#[test]
fn lost_reset_leaves_nothing_certain_before_it() {
    let mut history = History::new();
    for _ in 0..4 {
        history.append(|m| m.append(3, &[10; 20]));
    }
    history.append(|m| m.hard_state(5, None, 30));
    history.append(|m| m.reset(60, 5, &[]));
    let reset_in = segment_paths(&history.disk).len() - 1;
    while segment_paths(&history.disk).len() == reset_in + 1 {
        history.append(|m| m.append(5, &[10, 20]));
    }
    history.append(|m| m.hard_state(5, None, 62));
    history.append(|m| m.append(5, &[10]));
    history.wal.mark_idle().unwrap();
    let newest = history.states.last().unwrap();
    lose(&history.disk, reset_in, 1);
    lose(&history.disk, reset_in, 2);
    let mut salvaged = salvage(&history.disk, dir(), None).unwrap();
    assert_eq!(salvaged.last(), newest.last());
    let snapshot = (LogIndex(60), Term(5));
    assert!(salvaged.continues(snapshot));
    assert_eq!(salvaged.term_at(LogIndex(60)), None);
    assert!(salvaged.check(snapshot, &options(BLOCKS)).is_ok());
    assert!(fetch(&mut salvaged, snapshot, newest) > 0);
    let disk: Arc<dyn Disk> = Arc::new(history.disk.clone());
    salvaged
        .rewrite(&disk, dir(), snapshot, &options(BLOCKS))
        .unwrap();
    let (_, opened) = open(&history.disk, options(BLOCKS)).unwrap();
    check_opened(&opened, newest, snapshot);
}

#[test]
fn log_that_contradicts_a_snapshot_is_not_given_up() {
    let mut history = History::new();
    history.append(|m| m.append(3, &[10, 20]));
    history.append(|m| m.append(5, &[10, 20]));
    history.append(|m| m.hard_state(5, None, 1));
    history.wal.mark_idle().unwrap();
    let salvaged = salvage(&history.disk, dir(), None).unwrap();
    let check = |snapshot: (u64, u64)| {
        let snapshot = (LogIndex(snapshot.0), Term(snapshot.1));
        assert!(!salvaged.continues(snapshot));
        salvaged.check(snapshot, &options(BLOCKS)).is_ok()
    };
    // Entries 3 and 4 of term 5 follow the snapshot's.
    assert!(!check((2, 5)));
    // Entry 1 of term 3 is committed.
    assert!(!check((1, 1)));
    // Others were replaced, or are covered.
    assert!(check((2, 4)));
    assert!(check((4, 6)));
    assert!(check((9, 5)));
}

/// A write was torn before its last batch, so the log goes on without it: what
/// says so is lost, and the batch is whole.
#[test]
fn batches_behind_a_lost_cut_do_not_come_back() {
    const SEAL: u16 = 1 << 2;
    let mut history = History::new();
    history.append(|m| LogWrite {
        hard_state: m.hard_state(1, None, 7).hard_state,
        ..m.append(1, &[10; 9])
    });
    let torn = {
        let model = history.states.last().unwrap();
        let replaced = model.replace(8, 2, &[20]);
        let mut after = model.clone();
        after.apply(&replaced);
        let mut later = after.append(3, &[30, 30]);
        later.hard_state = after.hard_state(3, None, 10).hard_state;
        [replaced, later]
    };
    let before = segment_paths(&history.disk).len();
    let used = |disk: &MemoryDisk| {
        let map = disk.map(&segment_paths(disk)[before - 1]).unwrap();
        let blocks = map.bytes().chunks(BLOCK as usize);
        let mut begun = blocks.enumerate().filter(|(_, it)| it.starts_with(b"HFB1"));
        begun.next_back().unwrap().0 as u64
    };
    let cut = used(&history.disk) + 1;
    history.wal.append(&torn).unwrap();
    assert!(cut < used(&history.disk), "the write has several batches");
    let path = segment_paths(&history.disk)[before - 1].clone();
    let disk = history.disk.duplicate();
    disk.overwrite(&path, cut * BLOCK, &[0; BLOCK as usize])
        .unwrap();
    let (wal, opened) = open(&disk, options(BLOCKS)).unwrap();
    let expected = opened.entries.clone();
    assert_eq!(expected.last().unwrap().index, LogIndex(9));
    drop(wal);
    assert_eq!(block_of(&disk, before - 1, SEAL), cut);

    // The cut alone is lost.
    let damaged = disk.duplicate();
    lose(&damaged, before - 1, cut);
    let salvaged = salvage(&damaged, dir(), None).unwrap();
    assert_eq!(salvaged.last(), (LogIndex(9), Term(1)));
    assert_eq!(salvaged.hard_state().commit_index, LogIndex(7));
    for entry in &expected {
        let known = salvaged.term_at(entry.index);
        assert!(known.is_none_or(|term| term == entry.term));
    }

    // So is what the next segment begins with: nobody can tell.
    let (mut wal, _) = open(&disk, options(BLOCKS)).unwrap();
    let mut model = history.states.last().unwrap().clone();
    model.entries.truncate(9);
    for _ in 0..2 {
        let write = model.append(4, &[10]);
        model.apply(&write);
        wal.append(&[write]).unwrap();
    }
    wal.mark_idle().unwrap();
    drop(wal);
    lose(&disk, before - 1, cut);
    assert!(salvage(&disk, dir(), None).is_ok());
    lose(&disk, before, 1);
    let refused = salvage(&disk, dir(), None);
    assert!(matches!(refused, Err(WalError::Damaged(_))), "{refused:?}");
}

/// Peers remember how far this node acknowledged in a term: a log that ends
/// earlier is an honest one only in a later term.
#[test]
fn end_that_goes_back_is_of_a_later_term() {
    let mut history = History::new();
    history.append(|m| m.append(1, &[10, 20]));
    history.append(|m| m.hard_state(4, Some(1), 1));
    history.append(|m| m.append(4, &[30, 40]));
    history.append(|m| m.append(4, &[50]));
    history.wal.mark_idle().unwrap();
    let rewrite = |mut salvaged: Salvage, snapshot: Position| {
        for wanted in salvaged.missing(snapshot) {
            let count = wanted.last.0 + 1 - wanted.first.0;
            for given in entries(wanted.first, 3, &vec![77; count as usize]) {
                salvaged.supply(given, Some(wanted.anchor)).unwrap();
            }
        }
        let disk = history.disk.duplicate();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        salvaged
            .rewrite(&shared, dir(), snapshot, &options(BLOCKS))
            .unwrap();
        let (_, opened) = open(&disk, options(BLOCKS)).unwrap();
        (opened.hard_state.term, opened.hard_state.vote)
    };
    let salvaged = salvage(&history.disk, dir(), None).unwrap();
    let voted = salvaged.hard_state().vote;
    assert_eq!(rewrite(salvaged.clone(), NO_SNAPSHOT), (Term(4), voted));
    // Something else was committed at 3, in an older term.
    let mut superseded = salvaged.clone();
    assert!(superseded.supersede((LogIndex(3), Term(3))));
    assert_eq!(rewrite(superseded, NO_SNAPSHOT), (Term(5), None));
    // A snapshot holds it.
    let snapshot = (LogIndex(3), Term(3));
    assert!(!salvaged.continues(snapshot));
    assert_eq!(rewrite(salvaged.clone(), snapshot), (Term(5), None));
    // One that covers all takes nothing back.
    let snapshot = (LogIndex(9), Term(4));
    assert_eq!(rewrite(salvaged, snapshot), (Term(4), voted));
}

/// What nobody has any more is given up: the log ends before it, or with the
/// snapshot of this node, in a later term.
#[test]
fn log_ends_before_what_nobody_has() {
    let mut history = History::new();
    history.append(|m| m.append(1, &[10, 20]));
    history.append(|m| m.hard_state(4, Some(1), 2));
    history.append(|m| m.append(4, &[30]));
    history.append(|m| m.append(4, &[40]));
    history.append(|m| m.append(4, &[50]));
    history.wal.mark_idle().unwrap();
    lose_entry(&history.disk, 4);
    let salvaged = salvage(&history.disk, dir(), None).unwrap();
    assert_eq!(salvaged.missing(NO_SNAPSHOT)[0].first, LogIndex(4));
    let end = |snapshot: Position, first: u64| {
        let mut salvaged = salvaged.clone();
        salvaged.end_before(LogIndex(first), snapshot);
        assert!(salvaged.missing(snapshot).is_empty());
        let disk = history.disk.duplicate();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        salvaged
            .rewrite(&shared, dir(), snapshot, &options(BLOCKS))
            .unwrap();
        let (_, opened) = open(&disk, options(BLOCKS)).unwrap();
        let indexes: Vec<u64> = opened.entries.iter().map(|it| it.index.0).collect();
        let state = opened.hard_state;
        assert_eq!((state.term, state.vote), (Term(5), None));
        (opened.base.0.0, indexes, state.commit_index.0)
    };
    assert_eq!(end(NO_SNAPSHOT, 4), (0, vec![1, 2, 3], 2));
    assert_eq!(end((LogIndex(2), Term(1)), 4), (2, vec![3], 2));
    assert_eq!(end((LogIndex(3), Term(4)), 4), (3, vec![], 3));
    assert_eq!(end((LogIndex(4), Term(4)), 4), (4, vec![], 4));
}

#[test]
fn log_too_long_for_a_segment_is_known_before_it_is_written() {
    let mut history = History::new();
    history.append(|m| m.append(1, &[10; 300]));
    history.wal.mark_idle().unwrap();
    let mut salvaged = salvage(&history.disk, dir(), None).unwrap();
    let options = options(BLOCKS);
    assert!(salvaged.check(NO_SNAPSHOT, &options).is_ok());
    // One payload for all of them: memory for one.
    let payload: Arc<[u8]> = Arc::from(vec![0; 8 << 20]);
    for index in 1..=300 {
        let entry = Entry {
            index: LogIndex(index),
            term: Term(1),
            payload: EntryPayload::Command(Arc::clone(&payload)),
        };
        salvaged.supply(entry, None).unwrap();
    }
    let refused = salvaged.check(NO_SNAPSHOT, &options);
    assert!(
        matches!(refused, Err(WalError::TooLarge { .. })),
        "{refused:?}"
    );
    // Behind a snapshot there is less of it.
    let snapshot = (LogIndex(200), Term(1));
    assert!(salvaged.check(snapshot, &options).is_ok());
}
