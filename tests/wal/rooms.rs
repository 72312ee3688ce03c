//! A full disk: what was acknowledged stays, nothing is half done, and the log
//! goes on by itself when there is room again.

use std::time::{Duration, Instant};

use holdfast::disk::{Disk, MemoryDisk};
use holdfast::types::{LogIndex, LogWrite};
use holdfast::wal::{Verdict, Wal, WalError, WalOptions};

use crate::model::{BLOCK, Model, create, dir, open, options, segment_paths};

/// Groups of writes of two blocks each, as the states they lead to.
fn writes(model: &Model, count: usize) -> (Vec<LogWrite>, Vec<Model>) {
    let mut states = vec![model.clone()];
    let mut writes = Vec::new();
    for _ in 0..count {
        let mut state = states.last().unwrap().clone();
        let write = state.append(2, &[3000, 3000]);
        state.apply(&write);
        states.push(state);
        writes.push(write);
    }
    (writes, states)
}

fn refused(wal: &mut Wal, writes: &[LogWrite]) -> usize {
    match wal.append(writes) {
        Err(WalError::NoRoom { done, .. }) => done,
        other => panic!("{other:?}"),
    }
}

fn check(disk: &MemoryDisk, model: &Model) {
    let (_, opened) = open(&disk.duplicate(), options(10)).unwrap();
    assert_eq!(opened.verdict, Verdict::Clean);
    assert!(model.matches_entries(&opened), "{opened:?}");
}

#[test]
fn append_without_room_says_what_is_durable_and_goes_on_later() {
    let disk = MemoryDisk::new();
    let mut wal = create(&disk, options(10)).unwrap();
    let (writes, states) = writes(&Model::default(), 9);
    disk.set_full(true);
    let done = refused(&mut wal, &writes);
    assert!((1..9).contains(&done), "{done}");
    assert_eq!(refused(&mut wal, &writes[done..]), 0);
    check(&disk, &states[done]);
    let last = states[done].last().0;
    let read = wal.reader().entries(LogIndex(1), last, usize::MAX).unwrap();
    assert_eq!(read, states[done].entries);
    // What fits into the segment is still written.
    wal.mark_idle().unwrap();
    assert_eq!(segment_paths(&disk).len(), 1);

    disk.set_full(false);
    wal.append(&writes[done..]).unwrap();
    drop(wal);
    check(&disk, &states[9]);
    assert!(segment_paths(&disk).len() > 1);
}

#[test]
fn restart_on_a_full_disk_finds_what_was_acknowledged() {
    let disk = MemoryDisk::new();
    let mut wal = create(&disk, options(10)).unwrap();
    let (writes, states) = writes(&Model::default(), 9);
    disk.set_full(true);
    let done = refused(&mut wal, &writes);
    drop(wal);
    let (mut wal, opened) = open(&disk, options(10)).unwrap();
    assert!(states[done].matches_entries(&opened));
    assert_eq!(refused(&mut wal, &writes[done..]), 0);
    disk.set_full(false);
    wal.append(&writes[done..]).unwrap();
    drop(wal);
    check(&disk, &states[9]);
}

#[test]
fn torn_tail_on_a_full_disk_waits_for_room() {
    let disk = MemoryDisk::new();
    let mut wal = create(&disk, options(10)).unwrap();
    let (writes, states) = writes(&Model::default(), 2);
    wal.append(&writes[..1]).unwrap();
    wal.append(&writes[1..]).unwrap();
    drop(wal);
    let path = &segment_paths(&disk)[0];
    disk.overwrite(path, 4 * BLOCK, &[0; 4096]).unwrap();
    disk.set_full(true);
    for _ in 0..2 {
        let error = open(&disk, options(10)).err().unwrap();
        assert!(matches!(error, WalError::NoRoom { .. }), "{error}");
    }
    disk.set_full(false);
    let (_, opened) = open(&disk, options(10)).unwrap();
    assert!(matches!(opened.verdict, Verdict::TornTail { .. }));
    assert!(states[1].matches_entries(&opened));
}

/// The disk becomes full before any one of many steps, and has room again
/// later: nothing is lost, doubled or poisoned.
#[test]
fn full_disk_at_any_step_loses_nothing() {
    let (writes, states) = writes(&Model::default(), 12);
    for full_at in 0..writes.len() {
        for room_at in full_at + 1..=writes.len() {
            let disk = MemoryDisk::new();
            let mut wal = create(&disk, options(10)).unwrap();
            let mut done = 0;
            for step in 0..writes.len() {
                if step == full_at || step == room_at {
                    disk.set_full(step == full_at);
                }
                match wal.append(&writes[done..=step]) {
                    Ok(()) => done = step + 1,
                    Err(WalError::NoRoom { done: more, .. }) => done += more,
                    Err(error) => panic!("{error}"),
                }
                check(&disk, &states[done]);
            }
            disk.set_full(false);
            wal.append(&writes[done..]).unwrap();
            check(&disk, &states[writes.len()]);
        }
    }
}

#[test]
fn reserve_is_used_when_the_disk_is_full_and_filled_anew() {
    let disk = MemoryDisk::new();
    let options = WalOptions {
        prepare_in_background: true,
        ..options(10)
    };
    let reserve = dir().join("reserve");
    let mut wal = create(&disk, options).unwrap();
    let wait_for_reserve = |wal: &mut Wal| {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !disk.exists(&reserve).unwrap() {
            assert!(Instant::now() < deadline, "no reserve was filled");
            wal.replenish();
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    wait_for_reserve(&mut wal);
    disk.set_full(true);
    let (writes, states) = writes(&Model::default(), 40);
    let done = refused(&mut wal, &writes);
    assert!(!disk.exists(&reserve).unwrap());
    let used = segment_paths(&disk).len();
    assert!(used >= 2, "{used}");
    check(&disk, &states[done]);
    disk.set_full(false);
    wal.append(&writes[done..]).unwrap();
    wait_for_reserve(&mut wal);
    drop(wal);
    check(&disk, &states[40]);
}
