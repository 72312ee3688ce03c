//! Verdicts, and what a survey says of logs with flaws.

use std::sync::Arc;

use holdfast::disk::{Disk, MemoryDisk};
use holdfast::types::{LogIndex, Term};
use holdfast::wal::{Identity, Outcome, Seen, Survey, WalError, survey};

use crate::model::{BLOCK, IDENTITY, Model, create, dir, open, options, segment_paths};

fn look(disk: &MemoryDisk) -> Survey {
    survey(disk, dir(), Some(IDENTITY), &mut |_| {}).unwrap()
}

/// Segments of 8 blocks, each but the last full of 2 blocks of entries a batch.
fn long_log() -> (MemoryDisk, Model) {
    let disk = MemoryDisk::new();
    let mut model = Model::default();
    let mut wal = create(&disk, options(8)).unwrap();
    for _ in 0..9 {
        let write = model.append(3, &[3000, 3000]);
        wal.append(std::slice::from_ref(&write)).unwrap();
        model.apply(&write);
    }
    wal.mark_idle().unwrap();
    (disk, model)
}

#[test]
fn clean_log_is_shown_entry_by_entry() {
    let (disk, model) = long_log();
    let mut entries = Vec::new();
    let mut segments = 0;
    let found = survey(&disk, dir(), Some(IDENTITY), &mut |seen| match seen {
        Seen::Entry { header, payload } => entries.push((header.index, payload.len())),
        Seen::Segment { is_doubled, .. } => {
            assert!(is_doubled);
            segments += 1;
        }
        Seen::Batch { .. } => {}
        Seen::NoHeader { .. } | Seen::Flaw(_) => panic!("{seen:?}"),
    })
    .unwrap();
    assert!(matches!(found.outcome, Outcome::Clean), "{}", found.outcome);
    assert_eq!(found.outcome.to_string(), "clean");
    assert_eq!(segments, segment_paths(&disk).len());
    let expected: Vec<LogIndex> = model.entries.iter().map(|entry| entry.index).collect();
    let indexes: Vec<LogIndex> = entries.iter().map(|(index, _)| *index).collect();
    assert_eq!(indexes, expected);
    assert_eq!(found.entries, Some((LogIndex(1), LogIndex(18))));
    assert_eq!(found.identity, Some(IDENTITY));
}

#[test]
fn opening_yields_exactly_one_of_five_outcomes() {
    let (disk, _) = long_log();
    let paths = segment_paths(&disk);
    let last = paths.last().unwrap();
    let outcome =
        |disk: &MemoryDisk, expected| survey(disk, dir(), expected, &mut |_| {}).unwrap().outcome;

    let torn = disk.duplicate();
    let mut wal = open(&torn, options(8)).unwrap().0;
    let write = Model {
        entries: vec![],
        base: (LogIndex(18), Term(3)),
        ..Model::default()
    }
    .append(3, &[3000, 3000]);
    wal.append(&[write]).unwrap();
    drop(wal);
    let path = segment_paths(&torn).pop().unwrap();
    let end = (1..8).rfind(|block| {
        let mut bytes = [0; 4];
        let file = torn.open(&path).unwrap();
        file.read_at(block * BLOCK, &mut bytes).unwrap();
        bytes == *b"HFB1"
    });
    let second = (end.unwrap() + 1) * BLOCK;
    torn.overwrite(&path, second, &[0; 4096]).unwrap();
    let found = outcome(&torn, Some(IDENTITY));
    assert!(
        matches!(
            found,
            Outcome::TornTail {
                discarded: Some((LogIndex(19), LogIndex(20))),
                ..
            }
        ),
        "{found}"
    );

    let damaged = disk.duplicate();
    damaged.overwrite(&paths[0], BLOCK + 200, &[9]).unwrap();
    let found = outcome(&damaged, Some(IDENTITY));
    assert!(matches!(found, Outcome::Damaged(_)), "{found}");

    let stranger = Identity {
        node: holdfast::types::NodeId(1),
        ..IDENTITY
    };
    let found = outcome(&disk, Some(stranger));
    assert!(matches!(found, Outcome::Foreign { .. }), "{found}");

    let newer = disk.duplicate();
    let mut header = [0; 256];
    let file = newer.open(last).unwrap();
    file.read_at(0, &mut header).unwrap();
    header[8] = 9;
    let crc = holdfast::codec::crc32(0, &header[..252]);
    header[252..].copy_from_slice(&crc.to_le_bytes());
    newer.overwrite(last, 0, &header).unwrap();
    let found = outcome(&newer, Some(IDENTITY));
    assert!(
        matches!(found, Outcome::Stopped(WalError::Version { found: 9, .. })),
        "{found}"
    );
    let found = outcome(&MemoryDisk::new(), None);
    assert!(
        matches!(found, Outcome::Stopped(WalError::Missing(_))),
        "{found}"
    );
    assert!(matches!(outcome(&disk, None), Outcome::Clean));
}

#[test]
fn survey_names_every_flaw_with_its_entries() {
    let (disk, _) = long_log();
    let paths = segment_paths(&disk);
    assert!(paths.len() >= 3, "{}", paths.len());
    // A payload of entry 2, the header of the batch with 5 and 6, a whole
    // segment's headers.
    disk.overwrite(&paths[0], BLOCK + 128 + 32 + 3008 + 100, &[1])
        .unwrap();
    disk.overwrite(&paths[1], BLOCK, &[0xee; 128]).unwrap();
    let third = disk.open(&paths[2]).unwrap().length().unwrap();
    disk.overwrite(&paths[2], 0, &[0; 256]).unwrap();
    disk.overwrite(&paths[2], third - BLOCK, &[0; 256]).unwrap();

    let found = look(&disk);
    let lost: Vec<(u64, u64, u64)> = found
        .flaws
        .iter()
        .map(|flaw| {
            let lost = flaw.lost.unwrap();
            assert_eq!((lost.first_term, lost.last_term), (Term(3), Term(3)));
            (flaw.segment, lost.first.0, lost.last.0)
        })
        .collect();
    assert_eq!(
        lost,
        [(1, 2, 2), (2, 5, 6), (3, 9, 12)],
        "{:#?}",
        found.flaws
    );
    let Outcome::Damaged(first) = found.outcome else {
        panic!("{}", found.outcome);
    };
    assert_eq!(first, found.flaws[0]);
}

#[test]
fn one_lost_header_is_named_and_harmless() {
    let (disk, _) = long_log();
    let path = &segment_paths(&disk)[1];
    disk.overwrite(path, 0, &[0; 256]).unwrap();
    let found = look(&disk);
    assert!(matches!(found.outcome, Outcome::Clean), "{}", found.outcome);
    assert_eq!(found.half_headers, [2]);
    assert!(found.flaws.is_empty());
}

#[test]
fn survey_leaves_the_disk_alone() {
    let (disk, _) = long_log();
    disk.overwrite(&segment_paths(&disk)[1], BLOCK, &[0xee; 128])
        .unwrap();
    let names = disk.list(dir()).unwrap();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let before: Vec<_> = segment_paths(&disk)
        .iter()
        .map(|path| shared.map(path).unwrap().bytes().to_vec())
        .collect();
    look(&disk);
    for (path, before) in segment_paths(&disk).iter().zip(before) {
        assert!(shared.map(path).unwrap().bytes() == before);
    }
    assert_eq!(disk.list(dir()).unwrap(), names);
}
