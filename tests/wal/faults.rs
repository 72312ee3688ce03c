//! Decay of durable bytes: every block of a log, one fault at a time.
//!
//! A log with a fault either opens with exactly what was written or says it is
//! damaged. One exception: the last batch, when no later promise covers it, may
//! be taken for a torn write. It never yields wrong data.

use holdfast::disk::{Disk, MemoryDisk};
use holdfast::types::{LogIndex, LogWrite};
use holdfast::wal::{Outcome, Verdict, Wal, WalError, WalOptions, survey};

use crate::model::{BLOCK, IDENTITY, Model, create, depth, dir, open, options, segment_paths};

pub const BLOCKS: u64 = 8;

#[derive(Clone, Copy, Debug)]
pub enum Fault {
    Flip(u64),
    Zero,
    Garbage,
    Unreadable,
    /// The block shows what belongs to another.
    Misdirected,
    /// The block shows what an earlier life of the file had there.
    Stale,
}

pub struct History {
    pub disk: MemoryDisk,
    pub wal: Wal,
    /// Every state after a write, oldest first.
    pub states: Vec<Model>,
}

impl History {
    pub fn new() -> Self {
        Self::salted(options(BLOCKS).salt_seed)
    }

    pub fn salted(salt_seed: u64) -> Self {
        let disk = MemoryDisk::new();
        let options = WalOptions {
            salt_seed,
            ..options(BLOCKS)
        };
        Self {
            wal: create(&disk, options).unwrap(),
            disk,
            states: vec![Model::default()],
        }
    }

    pub fn append(&mut self, make: impl Fn(&Model) -> LogWrite) {
        let mut model = self.states.last().unwrap().clone();
        let write = make(&model);
        self.wal.append(std::slice::from_ref(&write)).unwrap();
        model.apply(&write);
        self.states.push(model);
    }
}

pub fn history() -> History {
    history_salted(options(BLOCKS).salt_seed)
}

pub fn history_salted(salt_seed: u64) -> History {
    let mut history = History::salted(salt_seed);
    history.append(|m| m.hard_state(1, Some(1), 0));
    for _ in 0..4 {
        history.append(|m| m.append(1, &[5000, 10]));
        history.append(|m| m.append(1, &[3, 4]));
    }
    history.append(|m| m.replace(10, 2, &[50, 60]));
    history.append(|m| m.hard_state(3, Some(2), 8));
    history.append(|m| m.append(3, &[6000, 0]));
    history
}

#[derive(Default, Debug)]
struct Counts {
    faults: u64,
    harmless: u64,
    damaged: u64,
    damaged_naming_entries: u64,
    last_batch_lost: u64,
}

/// Applies every fault to every block and judges what opening makes of it.
/// `may_lose` is how many of the last writes may be missing.
fn sweep(history: &History, may_lose: usize) -> Counts {
    let mut counts = Counts::default();
    let whole = history.disk.duplicate();
    let stale = history_salted(0x0dd).disk;
    for path in segment_paths(&whole) {
        let length = whole.open(&path).unwrap().length().unwrap();
        for block in 0..length / BLOCK {
            let flips = (0..4 * depth()).map(|draw| {
                // Header fields, then anywhere.
                let spread = (block * 7919 + draw * 104_729) % BLOCK;
                Fault::Flip(if draw % 2 == 0 { spread % 128 } else { spread })
            });
            let kinds = [
                Fault::Zero,
                Fault::Garbage,
                Fault::Unreadable,
                Fault::Misdirected,
                Fault::Stale,
            ];
            for fault in flips.chain(kinds) {
                let disk = whole.duplicate();
                inject(&disk, &stale, &path, block, fault);
                counts.faults += 1;
                judge(&disk, history, may_lose, fault, &mut counts);
            }
        }
    }
    counts
}

pub fn inject(
    disk: &MemoryDisk,
    stale: &MemoryDisk,
    path: &std::path::Path,
    block: u64,
    fault: Fault,
) {
    let mut bytes = vec![0; BLOCK as usize];
    let file = disk.open(path).unwrap();
    file.read_at(block * BLOCK, &mut bytes).unwrap();
    match fault {
        Fault::Flip(byte) => bytes[byte as usize] ^= 1 << (byte % 8),
        Fault::Zero => bytes.fill(0),
        Fault::Garbage => {
            let mut state = block as u8 | 1;
            bytes.fill_with(|| {
                state = state.wrapping_mul(37).wrapping_add(11);
                state
            });
        }
        Fault::Unreadable => return disk.make_unreadable(path, block).unwrap(),
        Fault::Misdirected => {
            let other = if block == 1 { 2 } else { 1 };
            file.read_at(other * BLOCK, &mut bytes).unwrap();
        }
        Fault::Stale => {
            // That life had fewer segments, perhaps.
            match stale.open(path) {
                Ok(file) => file.read_at(block * BLOCK, &mut bytes).unwrap(),
                Err(_) => bytes.fill(0xd5),
            }
        }
    }
    disk.overwrite(path, block * BLOCK, &bytes).unwrap();
}

fn judge(disk: &MemoryDisk, history: &History, may_lose: usize, fault: Fault, counts: &mut Counts) {
    let before = disk.duplicate();
    let survey = survey(disk, dir(), Some(IDENTITY), &mut |_| {}).unwrap();
    let is_damaged = matches!(survey.outcome, Outcome::Damaged(_));
    assert_eq!(is_damaged, !survey.flaws.is_empty(), "{survey:?}");
    let (wal, opened) = match open(disk, options(BLOCKS)) {
        Err(WalError::Damaged(damage)) => {
            counts.damaged += 1;
            assert!(is_damaged, "{survey:?}");
            counts.damaged_naming_entries += u64::from(damage.lost.is_some());
            assert!(is_same(&before, disk), "a damaged log was touched");
            return;
        }
        Err(error) => panic!("{error}"),
        Ok(opened) => opened,
    };
    assert!(!is_damaged, "{survey:?}");
    let newest = history.states.last().unwrap();
    if newest.matches_entries(&opened) && newest.hard_state == opened.hard_state {
        counts.harmless += 1;
    } else {
        let kept = history.states.len() - 1 - may_lose;
        let state = history.states[kept..]
            .iter()
            .rev()
            .find(|s| s.matches_entries(&opened));
        assert!(state.is_some(), "wrong or missing data: {opened:?}");
        counts.last_batch_lost += 1;
    }
    let last = opened.base.0.0 + opened.entries.len() as u64;
    // A map reads whole pages, those nobody needs included.
    if !opened.entries.is_empty() && !matches!(fault, Fault::Unreadable) {
        let first = opened.base.0.next();
        let read = wal
            .reader()
            .entries(first, LogIndex(last), usize::MAX)
            .unwrap();
        assert_eq!(read, opened.entries);
    }
}

pub fn is_same(before: &MemoryDisk, after: &MemoryDisk) -> bool {
    let paths = segment_paths(before);
    let same = |path| match (before.map(path), after.map(path)) {
        (Ok(before), Ok(after)) => before.bytes() == after.bytes(),
        // Unreadable before as after.
        (Err(_), Err(_)) => true,
        _ => false,
    };
    paths == segment_paths(after) && paths.iter().all(|path| same(path))
}

#[test]
fn fault_anywhere_below_a_promise_is_damage() {
    let mut history = history();
    history.wal.mark_idle().unwrap();
    let counts = sweep(&history, 0);
    println!("promised log: {counts:?}");
    assert_eq!(counts.last_batch_lost, 0);
    assert!(counts.damaged > counts.faults / 4);
    assert!(counts.damaged_naming_entries > counts.damaged / 2);
}

#[test]
fn fault_in_the_last_unpromised_batch_may_pass_for_torn() {
    let history = history();
    let counts = sweep(&history, 1);
    println!("unpromised end: {counts:?}");
    assert!(counts.last_batch_lost > 0);
}

#[test]
fn fault_in_a_purged_log_is_damage() {
    let mut history = history();
    history.wal.purge(LogIndex(6)).unwrap();
    history.wal.mark_idle().unwrap();
    let counts = sweep(&history, 0);
    println!("purged log: {counts:?}");
    assert_eq!(counts.last_batch_lost, 0);
}

#[test]
fn vote_survives_the_loss_of_either_block() {
    for block in [1, 2] {
        let mut history = History::new();
        history.append(|m| m.hard_state(7, Some(3), 0));
        let disk = history.disk.duplicate();
        let path = &segment_paths(&disk)[0];
        disk.overwrite(path, block * BLOCK + 50, &[0xff; 3000])
            .unwrap();
        for _ in 0..2 {
            // Also after the cut.
            let (wal, opened) = open(&disk, options(BLOCKS)).unwrap();
            drop(wal);
            assert_eq!(opened.hard_state, history.states[1].hard_state);
        }
    }
}

#[test]
fn missing_segment_is_damage() {
    let mut history = history();
    history.wal.mark_idle().unwrap();
    let paths = segment_paths(&history.disk);
    assert!(paths.len() >= 3);
    for path in &paths {
        let disk = history.disk.duplicate();
        disk.remove(path).unwrap();
        match open(&disk, options(BLOCKS)) {
            Err(WalError::Damaged(_)) => {}
            // A missing oldest segment is what a purge leaves.
            Ok((_, opened)) => {
                assert_eq!(path, &paths[0]);
                assert!(opened.base.0 > LogIndex(0));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn decay_after_opening_is_seen_by_the_reader() {
    let history = history();
    let reader = history.wal.reader();
    let last = history.states.last().unwrap().last().0;
    let all = reader.entries(LogIndex(1), last, usize::MAX).unwrap();
    let mut seen = 0;
    for path in segment_paths(&history.disk) {
        for block in 1..BLOCKS - 1 {
            // A fresh log each time: maps of this disk are copies.
            let disk = history.disk.duplicate();
            let (wal, _) = open(&disk, options(BLOCKS)).unwrap();
            disk.overwrite(&path, block * BLOCK + 161, &[0x55]).unwrap();
            match wal.reader().entries(LogIndex(1), last, usize::MAX) {
                Ok(read) => assert_eq!(read, all),
                Err(WalError::Damaged(damage)) => {
                    assert!(damage.lost.is_some());
                    seen += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(seen > 3, "{seen}");
}

#[test]
fn promises_move_with_every_write() {
    let history = history();
    let mut promises = Vec::new();
    for path in segment_paths(&history.disk) {
        let map = history.disk.map(&path).unwrap();
        for block in map
            .bytes()
            .chunks(BLOCK as usize)
            .filter(|block| block.starts_with(b"HFB1"))
        {
            let field =
                |offset: usize| u64::from_le_bytes(block[offset..offset + 8].try_into().unwrap());
            let (lsn, promise) = (field(8), field(32));
            assert!(promise > 0 && promise <= lsn);
            promises.push(promise);
        }
    }
    assert!(promises.is_sorted());
    promises.dedup();
    assert!(promises.len() >= history.states.len() - 1);
}

#[test]
fn torn_tail_names_what_it_discards() {
    let mut history = History::new();
    history.append(|m| m.append(1, &[10]));
    history.append(|m| m.append(1, &[20, 5000]));
    let disk = history.disk.duplicate();
    let path = &segment_paths(&disk)[0];
    disk.overwrite(path, 3 * BLOCK, &[0; 4096]).unwrap();
    let (_, opened) = open(&disk, options(BLOCKS)).unwrap();
    assert_eq!(
        opened.verdict,
        Verdict::TornTail {
            segment: 1,
            offset: 2 * BLOCK,
            discarded: Some((LogIndex(2), LogIndex(3))),
        }
    );
    assert_eq!(opened.entries.len(), 1);
}

#[test]
fn rotten_payload_is_named_exactly() {
    let mut history = History::new();
    history.append(|m| m.append(4, &[600, 600, 600]));
    history.wal.mark_idle().unwrap();
    let path = &segment_paths(&history.disk)[0];
    // Header 128, then records of 32 + 608 bytes: into the second payload.
    history
        .disk
        .overwrite(path, BLOCK + 128 + 640 + 100, &[0xee])
        .unwrap();
    let Err(WalError::Damaged(damage)) = open(&history.disk, options(BLOCKS)) else {
        panic!("damage was not seen");
    };
    assert_eq!(
        damage.to_string(),
        "an unreadable batch in segment 1 at byte 4096: \
         entries 2 (term 4) to 2 (term 4) cannot be read"
    );
}

#[test]
fn segment_of_another_history_is_damage() {
    // Two lives of equal shape: everything about the exchanged segment fits,
    // but the batch it says it continues.
    let lives = [1, 2].map(|term| {
        let mut history = History::new();
        history.append(|m| m.hard_state(1, Some(term), 0));
        for _ in 0..6 {
            history.append(|m| m.append(1, &[5000]));
        }
        history
    });
    let path = &segment_paths(&lives[0].disk)[1];
    let disk = lives[0].disk.duplicate();
    let bytes = lives[1].disk.map(path).unwrap();
    disk.overwrite(path, 0, bytes.bytes()).unwrap();
    assert!(matches!(
        open(&disk, options(BLOCKS)),
        Err(WalError::Damaged(_))
    ));
}

#[test]
fn what_an_earlier_use_of_the_file_left_beyond_the_end_is_nothing() {
    // The earlier log went further. What it left says where it belongs, and is
    // intact; it must neither be read nor vouch for the gap before it.
    let mut earlier = History::salted(0x0dd);
    let mut history = History::new();
    for life in [&mut earlier, &mut history] {
        life.append(|m| m.append(1, &[10]));
        life.append(|m| m.append(1, &[20]));
    }
    for _ in 0..3 {
        earlier.append(|m| m.append(1, &[30]));
    }
    let path = &segment_paths(&history.disk)[0];
    let left = earlier.disk.map(path).unwrap();
    let newest = history.states.last().unwrap();
    let end = 3;
    for first in end..end + 3 {
        let disk = history.disk.duplicate();
        let begin = first * BLOCK;
        assert!(left.bytes()[begin as usize..].starts_with(b"HFB1"));
        let beyond = begin as usize..((BLOCKS - 1) * BLOCK) as usize;
        disk.overwrite(path, begin, &left.bytes()[beyond]).unwrap();
        let (_, opened) = open(&disk, options(BLOCKS)).unwrap();
        assert!(newest.matches_entries(&opened), "from {first}: {opened:?}");
    }
}

#[test]
fn extra_files_are_ignored_and_extra_segments_are_damage() {
    let history = history();
    let newest = history.states.last().unwrap();
    let put = |disk: &MemoryDisk, name: &str, bytes: &[u8]| {
        let mut file = disk.create(&dir().join(name)).unwrap();
        file.write_at(0, bytes).unwrap();
        file.sync().unwrap();
        disk.sync_dir(dir()).unwrap();
    };
    let disk = history.disk.duplicate();
    for name in [
        "spare",
        "reserve.tmp",
        "lost+found",
        "1.wal",
        "0000.wal.old",
    ] {
        put(&disk, name, &[7; 5000]);
    }
    let (wal, opened) = open(&disk, options(BLOCKS)).unwrap();
    assert!(newest.matches_entries(&opened));
    drop(wal);
    assert!(!disk.list(dir()).unwrap().contains(&"spare".to_owned()));

    // A copy under the next number, one under a number far away, an empty one.
    let paths = segment_paths(&history.disk);
    let copy = history.disk.map(&paths[0]).unwrap();
    for (distance, bytes) in [(1, copy.bytes()), (9, copy.bytes()), (1, &[])] {
        let disk = history.disk.duplicate();
        let name = format!("{:016x}.wal", paths.len() as u64 + distance);
        put(&disk, &name, bytes);
        let result = open(&disk, options(BLOCKS));
        assert!(matches!(result, Err(WalError::Damaged(_))), "{name}");
    }
}
