//! Closed segments read again while the log is in use.

use holdfast::disk::{Disk, MemoryDisk};
use holdfast::types::LogIndex;
use holdfast::wal::{Scrubbed, Wal, WalScrub};

use crate::model::{BLOCK, Model, create, options, segment_paths};

fn log() -> (MemoryDisk, Wal, Model) {
    let disk = MemoryDisk::new();
    let mut wal = create(&disk, options(8)).unwrap();
    let mut model = Model::default();
    for _ in 0..9 {
        let write = model.append(3, &[3000, 3000]);
        wal.append(std::slice::from_ref(&write)).unwrap();
        model.apply(&write);
    }
    (disk, wal, model)
}

/// A round in steps of so many bytes: the flaws, and the bytes read.
fn round(scrub: &mut WalScrub, bytes: u64) -> (Vec<String>, u64) {
    let (mut flaws, mut all) = (Vec::new(), 0);
    loop {
        let (found, read) = scrub.step(bytes).unwrap();
        assert!(read < bytes + 16 * BLOCK, "{read} bytes in one step");
        all += read;
        match found {
            Scrubbed::Sound => {}
            Scrubbed::Flaw(damage) => flaws.push(damage.to_string()),
            Scrubbed::End => return (flaws, all),
        }
    }
}

#[test]
fn sound_segments_are_read_again_and_again() {
    let (disk, wal, _) = log();
    let mut scrub = WalScrub::new(&wal.reader());
    let closed = segment_paths(&disk).len() as u64 - 1;
    for bytes in [1, BLOCK, 1 << 20] {
        let (flaws, read) = round(&mut scrub, bytes);
        assert!(flaws.is_empty(), "{flaws:?}");
        assert_eq!(read, closed * 6 * BLOCK, "{bytes}");
    }
}

#[test]
fn decay_of_every_used_block_is_found_and_named() {
    let (disk, wal, model) = log();
    drop(wal);
    let paths = segment_paths(&disk);
    for path in &paths[..paths.len() - 1] {
        for block in 1..7 {
            let disk = disk.duplicate();
            let (wal, _) = crate::model::open(&disk, options(8)).unwrap();
            let mut scrub = WalScrub::new(&wal.reader());
            let mut bytes = [0; 4];
            let file = disk.open(path).unwrap();
            file.read_at(block * BLOCK + 200, &mut bytes).unwrap();
            let is_zero = bytes == [0; 4];
            disk.overwrite(path, block * BLOCK + 200, &[0xa5; 4])
                .unwrap();
            let (flaws, _) = round(&mut scrub, BLOCK);
            if is_zero {
                // Padding, or behind the SEAL batch.
                assert!(flaws.len() <= 1);
                continue;
            }
            assert_eq!(flaws.len(), 1, "{path:?} {block}: {flaws:?}");
            assert!(flaws[0].contains(" in segment "), "{flaws:?}");
            // Told again in the next round: it is still there.
            assert_eq!(round(&mut scrub, BLOCK).0, flaws);
        }
    }
    assert_eq!(model.last().0, LogIndex(18));
}

#[test]
fn unreadable_block_and_lost_header_are_flaws() {
    let (disk, wal, _) = log();
    let mut scrub = WalScrub::new(&wal.reader());
    let paths = segment_paths(&disk);
    disk.make_unreadable(&paths[0], 2).unwrap();
    disk.overwrite(&paths[1], 0, &[0; 256]).unwrap();
    disk.overwrite(&paths[1], 7 * BLOCK, &[0; 256]).unwrap();
    let (flaws, _) = round(&mut scrub, BLOCK);
    assert_eq!(flaws.len(), 2, "{flaws:?}");
    assert!(flaws[1].contains("header in segment 2"), "{flaws:?}");
}

#[test]
fn segments_purged_meanwhile_are_passed_over() {
    let (_disk, mut wal, model) = log();
    let mut scrub = WalScrub::new(&wal.reader());
    assert!(matches!(scrub.step(1).unwrap().0, Scrubbed::Sound));
    wal.purge(model.last().0).unwrap();
    let (flaws, _) = round(&mut scrub, BLOCK);
    assert!(flaws.is_empty(), "{flaws:?}");
    assert!(matches!(scrub.step(1).unwrap(), (Scrubbed::End, 0)));
}
