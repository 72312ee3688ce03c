use std::sync::Arc;

use holdfast::disk::{Disk, MemoryDisk};
use holdfast::types::{EntryPayload, LogIndex, LogWrite, Membership, NodeId, Term};
use holdfast::wal::{Identity, Verdict, Wal, WalError, WalReader};

use crate::model::{self, DIR, IDENTITY, Model, create, dir, open, options};

fn append(write: LogWrite, wal: &mut Wal, model: &mut Model) {
    wal.append(std::slice::from_ref(&write)).unwrap();
    model.apply(&write);
}

fn check(disk: &MemoryDisk, model: &Model) -> Wal {
    let (wal, opened) = open(disk, options(8)).unwrap();
    assert_eq!(opened.verdict, Verdict::Clean);
    assert_eq!(opened.hard_state, model.hard_state);
    assert!(model.matches_entries(&opened), "{opened:?}\n{model:?}");
    wal
}

#[test]
fn log_when_reopened_holds_what_was_appended() {
    let disk = MemoryDisk::new();
    let mut model = Model::default();
    let mut wal = create(&disk, options(8)).unwrap();
    assert_eq!(wal.identity(), IDENTITY);
    drop(wal);
    wal = check(&disk, &model);
    append(model.hard_state(1, Some(3), 0), &mut wal, &mut model);
    append(model.append(1, &[0, 10, 5000]), &mut wal, &mut model);
    append(model.replace(2, 2, &[7]), &mut wal, &mut model);
    append(model.append(3, &[1; 200]), &mut wal, &mut model);
    append(model.hard_state(3, None, 150), &mut wal, &mut model);
    drop(wal);
    wal = check(&disk, &model);
    append(model.append(3, &[30_000, 1]), &mut wal, &mut model);
    append(model.reset(1000, 3, &[4, 5]), &mut wal, &mut model);
    drop(wal);
    check(&disk, &model);
}

// What was cut must not come back at a restart, though nothing replaced it (W5).
#[test]
fn truncation_alone_is_durable() {
    let disk = MemoryDisk::new();
    let mut model = Model::default();
    let mut wal = create(&disk, options(8)).unwrap();
    append(model.append(1, &[10; 4]), &mut wal, &mut model);
    append(model.replace(3, 2, &[]), &mut wal, &mut model);
    drop(wal);
    check(&disk, &model);
}

#[test]
fn appended_group_is_one_durable_write() {
    let disk = MemoryDisk::new();
    let mut model = Model::default();
    let mut wal = create(&disk, options(64)).unwrap();
    let writes: Vec<LogWrite> = (0..64)
        .map(|_| {
            let write = model.append(1, &[256]);
            model.apply(&write);
            write
        })
        .collect();
    let before = disk.calls();
    wal.append(&writes).unwrap();
    assert_eq!(disk.calls() - before, 1);
    // 64 × (256 + 32) bytes behind one header, in 4 KiB blocks, split at 16 KiB.
    let block = |index: u64| {
        let path = &model::segment_paths(&disk)[0];
        let mut bytes = [0; 4];
        let file = disk.open(path).unwrap();
        file.read_at(index * 4096, &mut bytes).unwrap();
        bytes
    };
    assert_eq!((block(1), block(5), block(6)), (*b"HFB1", *b"HFB1", [0; 4]));
    drop(wal);
    check(&disk, &model);
}

#[test]
fn membership_and_noop_entries_come_back() {
    let disk = MemoryDisk::new();
    let mut model = Model::default();
    let mut wal = create(&disk, options(8)).unwrap();
    let mut write = model.append(1, &[0, 0]);
    let membership = Membership {
        voters: [NodeId(1)].into(),
        ..Membership::default()
    };
    write.entries[1].payload = EntryPayload::Membership(Arc::new(membership));
    append(write, &mut wal, &mut model);
    let read = wal
        .reader()
        .entries(LogIndex(1), LogIndex(9), 1 << 20)
        .unwrap();
    assert_eq!(read, model.entries);
    drop(wal);
    check(&disk, &model);
}

#[test]
fn reader_gives_any_range_from_active_and_closed_segments() {
    let disk = MemoryDisk::new();
    let mut model = Model::default();
    let mut wal = create(&disk, options(8)).unwrap();
    for sizes in [&[9, 3000, 0][..], &[8000], &[2; 70], &[40_000], &[5; 3]] {
        append(model.append(1, sizes), &mut wal, &mut model);
    }
    append(model.replace(70, 2, &[1, 2]), &mut wal, &mut model);
    let reader = wal.reader();
    let last = model.last().0.0;
    for first in 1..=last {
        for end in [first, first + 1, first + 40, u64::MAX >> 1] {
            let read = reader
                .entries(LogIndex(first), LogIndex(end), usize::MAX)
                .unwrap();
            let expected = &model.entries[first as usize - 1..end.min(last) as usize];
            assert_eq!(read, expected);
        }
        let one = reader.entries(LogIndex(first), LogIndex(last), 0).unwrap();
        assert_eq!(one, model.entries[first as usize - 1..first as usize]);
    }
    let gone = |first: u64, end: u64| reader.entries(LogIndex(first), LogIndex(end), 1);
    for (first, end) in [(0, 5), (last + 1, last + 1), (5, 4)] {
        assert!(
            matches!(gone(first, end), Err(WalError::Gone { .. })),
            "{first}"
        );
    }
}

#[test]
fn purge_drops_whole_segments_and_keeps_the_rest() {
    let disk = MemoryDisk::new();
    let mut model = Model::default();
    let mut wal = create(&disk, options(8)).unwrap();
    append(model.hard_state(4, Some(2), 0), &mut wal, &mut model);
    for _ in 0..12 {
        append(model.append(4, &[3000; 3]), &mut wal, &mut model);
    }
    let files = model::segment_paths(&disk).len();
    assert!(files > 5);
    let reader = wal.reader();
    wal.purge(LogIndex(20)).unwrap();
    assert!(model::segment_paths(&disk).len() < files);
    let gone = reader.entries(LogIndex(1), LogIndex(36), 1).unwrap_err();
    let WalError::Gone { first, last, .. } = gone else {
        panic!("{gone}");
    };
    assert!(first <= LogIndex(21) && last == LogIndex(36));
    let read = reader.entries(first, last, usize::MAX).unwrap();
    assert_eq!(read, model.entries[first.0 as usize - 1..]);
    wal.purge(LogIndex(36)).unwrap();
    assert_eq!(model::segment_paths(&disk).len(), 1);
    drop(wal);
    wal = check(&disk, &model);
    append(model.append(4, &[1]), &mut wal, &mut model);
    drop(wal);
    check(&disk, &model);
}

#[test]
fn reset_makes_older_segments_worthless() {
    let disk = MemoryDisk::new();
    let mut model = Model::default();
    let mut wal = create(&disk, options(8)).unwrap();
    append(model.append(1, &[9000; 6]), &mut wal, &mut model);
    append(model.reset(100, 2, &[]), &mut wal, &mut model);
    wal.purge(LogIndex(0)).unwrap();
    assert_eq!(model::segment_paths(&disk).len(), 1);
    for _ in 0..10 {
        append(model.append(2, &[5000]), &mut wal, &mut model);
    }
    // The segment with the reset may go as well: headers carry it on.
    wal.purge(model.last().0).unwrap();
    drop(wal);
    let (_, opened) = open(&disk, options(8)).unwrap();
    assert_eq!(opened.snapshot, Some((LogIndex(100), Term(2))));
}

#[test]
fn failed_write_poisons_and_touches_the_disk_no_more() {
    for fails_at in 0..3 {
        let disk = MemoryDisk::new();
        let mut model = Model::default();
        let mut wal = create(&disk, options(8)).unwrap();
        append(model.append(1, &[10]), &mut wal, &mut model);
        disk.fail_at(disk.calls() + fails_at);
        // A reset rotates: several calls.
        let write = model.reset(9, 1, &[10]);
        let error = wal.append(std::slice::from_ref(&write)).unwrap_err();
        assert!(matches!(error, WalError::Poisoned(_)));
        let calls = disk.calls();
        for result in [
            wal.append(std::slice::from_ref(&write)),
            wal.append(&[]),
            wal.purge(LogIndex(1)),
            wal.mark_idle(),
        ] {
            assert!(matches!(result, Err(WalError::Poisoned(_))));
        }
        assert_eq!(disk.calls(), calls);
    }
}

#[test]
fn foreign_missing_and_existing_logs_are_named() {
    let disk = MemoryDisk::new();
    assert!(matches!(open(&disk, options(8)), Err(WalError::Missing(_))));
    let wal = create(&disk, options(8)).unwrap();
    drop(wal);
    assert!(matches!(
        create(&disk, options(8)),
        Err(WalError::Exists(_))
    ));
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let stranger = |change: fn(&mut Identity)| {
        let mut identity = IDENTITY;
        change(&mut identity);
        match Wal::open(Arc::clone(&shared), dir(), Some(identity), options(8)) {
            Err(WalError::Foreign {
                expected, found, ..
            }) => assert_eq!((expected, found), (identity, IDENTITY)),
            other => panic!("{:?}", other.err()),
        }
    };
    stranger(|identity| identity.cluster.0[3] ^= 1);
    stranger(|identity| identity.node.0 ^= 1);
    stranger(|identity| identity.incarnation.0 ^= 1);
    let (wal, _) = Wal::open(Arc::clone(&shared), dir(), None, options(8)).unwrap();
    assert_eq!(wal.identity(), IDENTITY, "{DIR}");
}

#[test]
fn mark_is_written_once_and_covers_the_last_write() {
    let disk = MemoryDisk::new();
    let mut model = Model::default();
    let mut wal = create(&disk, options(8)).unwrap();
    wal.mark_idle().unwrap();
    append(model.append(1, &[10]), &mut wal, &mut model);
    wal.mark_idle().unwrap();
    let calls = disk.calls();
    wal.mark_idle().unwrap();
    assert_eq!(disk.calls(), calls);
    drop(wal);
    let mut wal = check(&disk, &model);
    let calls = disk.calls();
    wal.mark_idle().unwrap();
    assert_eq!(disk.calls(), calls);
    drop(wal);
    // Without the mark this would be taken for a torn write.
    disk.overwrite(&model::segment_paths(&disk)[0], 4096 + 200, &[0xaa])
        .unwrap();
    let Err(WalError::Damaged(damage)) = open(&disk, options(8)) else {
        panic!("damage was not seen");
    };
    let lost = damage.lost.unwrap();
    assert_eq!((lost.first, lost.last), (LogIndex(1), LogIndex(1)));
    assert_eq!((lost.first_term, lost.last_term), (Term(1), Term(1)));
}

#[test]
fn commit_index_beyond_the_log_is_cut() {
    let disk = MemoryDisk::new();
    let mut wal = create(&disk, options(8)).unwrap();
    let mut write = Model::default().append(1, &[10]);
    write.hard_state = Model::default().hard_state(1, None, 5).hard_state;
    wal.append(&[write]).unwrap();
    drop(wal);
    let (_, opened) = open(&disk, options(8)).unwrap();
    assert_eq!(opened.hard_state.commit_index, LogIndex(1));
}

#[test]
fn log_and_reader_may_cross_threads() {
    fn is_send<T: Send>() {}
    fn is_sync<T: Sync>() {}
    is_send::<Wal>();
    is_send::<WalReader>();
    is_sync::<WalReader>();
}
