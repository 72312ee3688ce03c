//! Round trips, every flipped byte, every power cut.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::format::VERSION;
use super::*;
use crate::disk::{Disk, Fate, MemoryDisk};
use crate::types::{
    Incarnation, LogIndex, Member, Membership, NodeId, Pair, Record, RestoreProgress, Term,
};

const FOLDER: &str = "/data/snapshots";
const CLUSTER: ClusterId = ClusterId(*b"cluster-identity");

fn open(disk: &MemoryDisk) -> SnapshotDirectory {
    SnapshotDirectory::open(Arc::new(disk.clone()), Path::new(FOLDER)).expect("opens")
}

fn meta(index: u64) -> SnapshotMeta {
    let member = Member {
        name: "node-7".to_owned(),
        address: "10.0.0.7:8201".to_owned(),
        incarnation: Incarnation(77),
        non_voter: false,
    };
    SnapshotMeta {
        index: LogIndex(index),
        term: Term(3),
        membership: Arc::new(Membership {
            voters: BTreeSet::from([NodeId(7)]),
            members: BTreeMap::from([(NodeId(7), member)]),
            ..Membership::default()
        }),
        membership_index: LogIndex(2),
    }
}

fn record(key: &str, value: &[u8], staged: bool) -> Record {
    Record {
        pair: Pair::new(key, value),
        staged,
    }
}

fn few_records() -> Vec<Record> {
    vec![
        record("core/keyring", b"ciphertext", false),
        record("logical/a/é", b"", false),
        record("core/keyring", b"restored", true),
    ]
}

fn state(records: &[Record]) -> StateHeader {
    let staged_count = records.iter().filter(|record| record.staged).count() as u64;
    StateHeader {
        state_machine_version: 1,
        restore_epoch: 4,
        restore: (staged_count != 0).then_some(RestoreProgress {
            id: 0x0123_4567_89ab_cdef_0011_2233_4455_6677,
            chunk_count: 9,
        }),
        entry_count: records.len() as u64 - staged_count,
        staged_count,
    }
}

/// How a snapshot is written: where it is called, or by threads beside.
type Way = fn(
    &SnapshotDirectory,
    ClusterId,
    SnapshotMeta,
    StateHeader,
) -> Result<SnapshotWriter, SnapshotError>;
const WAYS: [Way; 2] = [
    SnapshotDirectory::writer,
    SnapshotDirectory::overlapped_writer,
];

fn try_write(
    directory: &SnapshotDirectory,
    index: u64,
    records: &[Record],
) -> Result<SnapshotInfo, SnapshotError> {
    try_write_by(SnapshotDirectory::writer, directory, index, records)
}

fn try_write_by(
    way: Way,
    directory: &SnapshotDirectory,
    index: u64,
    records: &[Record],
) -> Result<SnapshotInfo, SnapshotError> {
    let mut writer = way(directory, CLUSTER, meta(index), state(records))?;
    for record in records {
        writer.add(record)?;
    }
    writer.finish()
}

fn write(directory: &SnapshotDirectory, index: u64, records: &[Record]) -> SnapshotInfo {
    try_write(directory, index, records).expect("is written")
}

fn read(directory: &SnapshotDirectory, info: &SnapshotInfo) -> Vec<Record> {
    directory
        .reader(info)
        .expect("opens")
        .collect::<Result<_, _>>()
        .expect("is sound")
}

fn file_bytes(directory: &SnapshotDirectory, info: &SnapshotInfo) -> Vec<u8> {
    let bytes = directory.bytes(info).expect("opens");
    bytes.read(0, usize::MAX).expect("is readable")
}

fn names(disk: &MemoryDisk) -> Vec<String> {
    disk.list(Path::new(FOLDER)).expect("lists")
}

/// Offers arbitrary bytes under a snapshot's name.
fn directory_holding(bytes: &[u8]) -> (MemoryDisk, SnapshotDirectory) {
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new(FOLDER)).expect("creates");
    let name = "snap-00000000000000000011-00000000000000000003.snap";
    let path = Path::new(FOLDER).join(name);
    let mut file = disk.create(&path).expect("creates");
    file.write_at(0, bytes).expect("writes");
    file.sync().expect("syncs");
    let directory = open(&disk);
    (disk, directory)
}

#[test]
fn snapshot_written_reads_back() {
    let disk = MemoryDisk::new();
    let directory = open(&disk);
    let records = few_records();
    let info = write(&directory, 11, &records);
    assert_eq!(info.meta, meta(11));
    assert_eq!(info.state, state(&records));
    assert_eq!(info.cluster, CLUSTER);
    assert_eq!(info.entries(), 3);
    assert_eq!(read(&directory, &info), records);
    assert_eq!(directory.newest(), Some(info.clone()));
    assert_eq!(open(&disk).all(), [info]);
    let name = "snap-00000000000000000011-00000000000000000003.snap";
    assert_eq!(names(&disk), [name]);
}

/// The bytes of a small snapshot, a file a version of the format. `UPDATE=1`
/// rewrites that of the newest; its difference is a change of the format and
/// needs a new version.
#[test]
fn bytes_of_every_version_are_pinned_and_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/snapshot/testdata");
    let file = |version: u16| folder.join(format!("v{version}.hex"));
    let directory = open(&MemoryDisk::new());
    let written = write(&directory, 11, &few_records());
    let dump = dump(&file_bytes(&directory, &written));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(&folder).expect("creates");
        std::fs::write(file(VERSION), &dump).expect("writes");
    }
    for version in 1..=VERSION {
        let pinned = std::fs::read_to_string(file(version)).expect("run once with UPDATE=1");
        if version == VERSION {
            assert_eq!(dump, pinned);
        }
        // And these bytes, not only this program's memory of them, are that state.
        let (_, directory) = directory_holding(&undump(&pinned));
        let info = directory.newest().expect("is sound");
        assert_eq!(info.meta, meta(11));
        assert_eq!(info.cluster, CLUSTER);
        assert_eq!(read(&directory, &info), few_records());
        directory.verify(&info).expect("is sound to the last byte");
    }
}

/// Sixteen bytes a line; lines of zeros are left out.
fn dump(bytes: &[u8]) -> String {
    let mut text = format!("{} bytes\n", bytes.len());
    for (line, bytes) in bytes.chunks(16).enumerate() {
        if bytes.iter().any(|&byte| byte != 0) {
            text += &format!("{:06x} {}\n", line * 16, hex::encode(bytes));
        }
    }
    text
}

fn undump(text: &str) -> Vec<u8> {
    let mut lines = text.lines();
    let length = lines.next().and_then(|line| line.split(' ').next());
    let length = length.and_then(|it| it.parse().ok()).expect("a length");
    let mut bytes = vec![0; length];
    for line in lines {
        let (offset, digits) = line.split_once(' ').expect("an offset and bytes");
        let offset = usize::from_str_radix(offset, 16).expect("an offset");
        let line = hex::decode(digits).expect("bytes");
        bytes[offset..offset + line.len()].copy_from_slice(&line);
    }
    bytes
}

#[test]
fn equal_states_give_equal_bytes() {
    let records = few_records();
    let (one, other) = (open(&MemoryDisk::new()), open(&MemoryDisk::new()));
    write(&other, 5, &[]);
    let (first, second) = (write(&one, 11, &records), write(&other, 11, &records));
    assert_eq!(first.sha256, second.sha256);
    assert_eq!(file_bytes(&one, &first), file_bytes(&other, &second));
    assert_ne!(first.sha256, write(&one, 12, &records).sha256);
}

#[test]
fn empty_state_reads_back() {
    let directory = open(&MemoryDisk::new());
    let info = write(&directory, 1, &[]);
    assert_eq!(read(&directory, &info), []);
}

#[test]
fn records_across_chunks_read_back() {
    let directory = open(&MemoryDisk::new());
    let lengths = [0, 1 << 20, 1, (1 << 20) - 16 - 12 - 2, 3 << 20, 5];
    let records: Vec<Record> = lengths
        .iter()
        .enumerate()
        .map(|(number, length)| record(&format!("k{number}"), &vec![number as u8; *length], false))
        .collect();
    let info = write(&directory, 1, &records);
    assert_eq!(read(&directory, &info), records);
}

#[test]
fn membership_beyond_one_block_reads_back() {
    let directory = open(&MemoryDisk::new());
    let mut large = meta(11);
    let membership = Arc::make_mut(&mut large.membership);
    for id in 100..200 {
        membership.learners.insert(NodeId(id));
        membership.members.insert(
            NodeId(id),
            Member {
                name: format!("a-rather-long-node-name-{id}"),
                ..Member::default()
            },
        );
    }
    let writer = directory
        .writer(CLUSTER, large.clone(), state(&[]))
        .expect("begins");
    let info = writer.finish().expect("is written");
    assert_eq!(info.meta, large);
    assert!(8192 < info.bytes);
}

#[test]
#[should_panic(expected = "assertion")]
fn record_out_of_order_panics() {
    let directory = open(&MemoryDisk::new());
    let records = [record("b", b"", false), record("a", b"", false)];
    let _ = try_write(&directory, 1, &records);
}

#[test]
fn flipped_byte_is_found_wherever_it_is() {
    let directory = open(&MemoryDisk::new());
    let sound = file_bytes(&directory, &write(&directory, 11, &few_records()));
    for offset in 0..sound.len() {
        let mut bytes = sound.clone();
        bytes[offset] ^= 0x10;
        let (disk, directory) = directory_holding(&bytes);
        let newest = directory.newest_verified().expect("the disk is fine");
        assert_eq!(newest, None, "byte {offset}");
        assert_eq!(directory.broken().len(), 1, "byte {offset}");
        assert!(!directory.broken()[0].reason.is_empty());
        let left = names(&disk);
        assert_eq!(left.len(), 1);
        assert!(left[0].ends_with(".snap.broken"));
    }
}

#[test]
fn file_cut_short_or_longer_is_found() {
    let directory = open(&MemoryDisk::new());
    let sound = file_bytes(&directory, &write(&directory, 11, &few_records()));
    for length in (0..sound.len()).step_by(7).chain([sound.len() - 1]) {
        let (_, directory) = directory_holding(&sound[..length]);
        assert_eq!(directory.newest_verified().expect("works"), None);
    }
    let longer = [&sound[..], &[0]].concat();
    let (_, directory) = directory_holding(&longer);
    assert_eq!(directory.newest_verified().expect("works"), None);
}

#[test]
fn newer_format_is_refused_and_left_alone() {
    let directory = open(&MemoryDisk::new());
    let mut bytes = file_bytes(&directory, &write(&directory, 11, &[]));
    bytes[8] = 2;
    let crc = crate::codec::crc32(0, &bytes[..4092]);
    bytes[4092..4096].copy_from_slice(&crc.to_le_bytes());
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new(FOLDER)).expect("creates");
    let path = Path::new(FOLDER).join("snap-1.snap");
    let mut file = disk.create(&path).expect("creates");
    file.write_at(0, &bytes).expect("writes");
    let refused = SnapshotDirectory::open(Arc::new(disk.clone()), Path::new(FOLDER));
    assert!(matches!(
        refused.map(|_| ()),
        Err(SnapshotError::Unsupported { version: 2, .. })
    ));
    assert_eq!(names(&disk), ["snap-1.snap"]);
}

#[test]
fn newest_that_rotted_gives_way_to_the_one_before() {
    let disk = MemoryDisk::new();
    let directory = open(&disk);
    let older = write(&directory, 10, &few_records());
    let newest = write(&directory, 20, &few_records());
    disk.overwrite(&newest.path, 4096 + 30, b"rot")
        .expect("overwrites");
    assert_eq!(directory.newest(), Some(newest.clone()));
    let verified = directory.newest_verified().expect("the disk is fine");
    assert_eq!(verified, Some(older.clone()));
    assert_eq!(directory.all(), [older]);
    let broken = directory.broken();
    assert_eq!(broken.len(), 1);
    assert!(broken[0].reason.contains("chunk checksum differs"));
    assert_eq!(open(&disk).broken().len(), 1);
}

#[test]
fn newest_with_a_bad_sector_gives_way_to_the_one_before() {
    for block in [0, 1] {
        let disk = MemoryDisk::new();
        let directory = open(&disk);
        let older = write(&directory, 10, &few_records());
        let newest = write(&directory, 20, &few_records());
        disk.make_unreadable(&newest.path, block).expect("exists");
        let verified = directory.newest_verified().expect("another is sound");
        assert_eq!(verified, Some(older));
        assert_eq!(directory.broken().len(), 1);
    }
}

#[test]
fn file_under_another_name_is_set_aside() {
    let disk = MemoryDisk::new();
    let directory = open(&disk);
    let info = write(&directory, 10, &[]);
    let other = Path::new(FOLDER).join("snap-99.snap");
    disk.rename(&info.path, &other).expect("renames");
    let directory = open(&disk);
    assert_eq!(directory.newest(), None);
    assert_eq!(directory.broken().len(), 1);
}

#[test]
fn open_removes_unfinished_files_and_leaves_strangers() {
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new(FOLDER)).expect("creates");
    for name in ["write-0.tmp", "receive-5.tmp", "notes.txt"] {
        drop(disk.create(&Path::new(FOLDER).join(name)).expect("creates"));
    }
    let directory = open(&disk);
    assert_eq!(directory.all(), []);
    assert_eq!(names(&disk), ["notes.txt"]);
}

// Imported or restored state may carry a lower term at a higher index: what
// was applied last is the newest (S10).
#[test]
fn newest_is_the_one_of_the_highest_index_whatever_its_term() {
    let directory = open(&MemoryDisk::new());
    let records = few_records();
    let older = SnapshotMeta {
        term: Term(9),
        ..meta(10)
    };
    let mut writer = directory
        .writer(CLUSTER, older, state(&records))
        .expect("begins");
    for record in &records {
        writer.add(record).expect("is added");
    }
    writer.finish().expect("is written");
    let newer = write(&directory, 20, &records);
    directory.prune(1).expect("prunes");
    assert_eq!(directory.all(), [newer]);
}

#[test]
fn prune_keeps_the_newest() {
    let disk = MemoryDisk::new();
    let directory = open(&disk);
    let infos: Vec<SnapshotInfo> = [30, 10, 20]
        .map(|index| write(&directory, index, &few_records()))
        .into();
    let mut pinned = directory.reader(&infos[1]).expect("opens");
    directory.prune(2).expect("prunes");
    assert_eq!(directory.all(), [infos[2].clone(), infos[0].clone()]);
    assert_eq!(names(&disk).len(), 2);
    assert!(pinned.all(|record| record.is_ok()), "an open file stays");
    directory.prune(2).expect("nothing to do");
    assert_eq!(open(&disk).all().len(), 2);
}

#[test]
fn writer_dropped_leaves_nothing() {
    let disk = MemoryDisk::new();
    let directory = open(&disk);
    let writer = directory.writer(CLUSTER, meta(1), state(&[]));
    assert_eq!(names(&disk).len(), 1);
    drop(writer.expect("begins"));
    assert_eq!(names(&disk), [""; 0]);
}

#[test]
fn snapshot_received_in_pieces_is_published() {
    let source = open(&MemoryDisk::new());
    let sent = write(&source, 11, &few_records());
    let bytes = source.bytes(&sent).expect("opens");
    let disk = MemoryDisk::new();
    let directory = open(&disk);
    let mut receiver = directory.receiver(sent.bytes).expect("begins");
    loop {
        let piece = bytes.read(receiver.offset(), 1000).expect("reads");
        if piece.is_empty() {
            break;
        }
        let offset = receiver.offset();
        receiver.append(offset, &piece).expect("fits");
        // A piece that comes again after a reconnect is refused, with the
        // offset to go on from.
        assert!(matches!(
            receiver.append(offset, &piece),
            Err(SnapshotError::WrongOffset { expected, .. }) if expected == receiver.offset()
        ));
    }
    let staged = receiver.finish(&sent.sha256).expect("is sound");
    assert_eq!(staged.info().meta, sent.meta);
    assert_eq!(directory.newest(), None);
    let published = directory.publish(staged).expect("is published");
    assert_eq!(directory.newest(), Some(published.clone()));
    assert_eq!(
        file_bytes(&directory, &published),
        file_bytes(&source, &sent)
    );
    assert_eq!(names(&disk).len(), 1);
}

#[test]
fn received_bytes_that_are_not_the_announced_snapshot_are_refused() {
    let source = open(&MemoryDisk::new());
    let sent = write(&source, 11, &few_records());
    let sound = file_bytes(&source, &sent);
    let mut flipped = sound.clone();
    flipped[4100] ^= 1;
    let disk = MemoryDisk::new();
    let directory = open(&disk);
    let finish = |bytes: &[u8], announced: u64, sha256: &[u8; 32]| {
        let mut receiver = directory.receiver(announced).expect("begins");
        receiver.append(0, bytes)?;
        receiver.finish(sha256).map(|_| ())
    };
    let length = sent.bytes;
    assert!(matches!(
        finish(&flipped, length, &sent.sha256),
        Err(SnapshotError::Damaged { .. })
    ));
    assert!(matches!(
        finish(&sound, length, &[0; 32]),
        Err(SnapshotError::WrongContent { .. })
    ));
    assert!(matches!(
        finish(&sound, length - 1, &sent.sha256),
        Err(SnapshotError::WrongLength { .. })
    ));
    assert!(matches!(
        finish(&sound, length + 1, &sent.sha256),
        Err(SnapshotError::WrongLength { .. })
    ));
    assert_eq!(names(&disk), [""; 0]);
    assert_eq!(directory.newest(), None);
}

/// The threads beside are some chunks behind when theirs fails.
#[test]
fn write_that_failed_poisons_the_writer() {
    for way in WAYS {
        let disk = MemoryDisk::new();
        let directory = open(&disk);
        let mut writer = way(&directory, CLUSTER, meta(1), state(&[])).expect("begins");
        disk.fail_at(disk.calls() + 10);
        let mut add = |number| {
            let big = record(&format!("{number:03}"), &vec![1; 1 << 20], false);
            writer.add(&big).err()
        };
        let errors: Vec<_> = (0..100).filter_map(&mut add).take(2).collect();
        assert!(
            matches!(
                errors[..],
                [SnapshotError::Disk(_), SnapshotError::Poisoned { .. }]
            ),
            "{errors:?}"
        );
        drop(writer);
        assert_eq!(names(&disk), [""; 0]);
    }
}

/// Power fails at every call of: write a second snapshot, prune to one. After
/// any of them, whatever is on the disk opens, nothing is broken, and the
/// newest is the old or the new one, whole.
#[test]
fn power_cut_at_any_call_leaves_the_old_or_the_new_snapshot() {
    WAYS.into_iter().for_each(cut_power_at_any_call);
}

fn cut_power_at_any_call(way: Way) {
    // Written in several pieces.
    let mut records = few_records();
    records.insert(0, record("a", &vec![1; 600 << 10], false));
    let story = |disk: &MemoryDisk| -> Result<(), SnapshotError> {
        let directory = SnapshotDirectory::open(Arc::new(disk.clone()), Path::new(FOLDER))?;
        try_write_by(way, &directory, 20, &records)?;
        directory.prune(1)
    };
    let before = MemoryDisk::new();
    write(&open(&before), 10, &few_records());
    let rehearsal = before.duplicate();
    story(&rehearsal).expect("without a fault it succeeds");
    let calls = 0..rehearsal.calls();
    assert!(8 <= calls.clone().count());
    for call in calls {
        let disk = before.duplicate();
        disk.power_off_at(call);
        story(&disk).expect_err("the power failed");
        let fates = [Fate::Lost, Fate::Kept, Fate::Torn(0b0101_0101)];
        let crashed = fates.map(|fate| disk.crash(|_| fate));
        let seeded = (0..20).map(|seed| disk.crash_seeded(seed));
        for after in crashed.into_iter().chain(seeded) {
            let directory = open(&after);
            let newest = directory.newest_verified().expect("the disk is fine");
            let index = newest.map(|info| info.meta.index.0);
            assert!(matches!(index, Some(10 | 20)), "call {call}: {index:?}");
            assert_eq!(directory.broken(), [], "call {call}");
            assert!(names(&after).iter().all(|name| name.ends_with(".snap")));
            story(&after).expect("goes on");
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..9000),
        magic in any::<bool>(),
    ) {
        let mut bytes = bytes;
        if magic && 16 <= bytes.len() {
            bytes[..8].copy_from_slice(b"HFSNAP01");
            bytes[12..16].copy_from_slice(&4096_u32.to_le_bytes());
        }
        let (_, directory) = directory_holding(&bytes);
        prop_assert_eq!(directory.newest_verified().expect("the disk is fine"), None);
    }

    /// Checksums made right, so that the checks behind them are reached.
    #[test]
    fn arbitrary_record_stream_never_panics(payload in prop::collection::vec(0..3_u8, 1..80)) {
        let sound = {
            let directory = open(&MemoryDisk::new());
            file_bytes(&directory, &write(&directory, 11, &few_records()))
        };
        let mut bytes = sound[..4096].to_vec();
        let (chunk, crc) = format::encode_chunk(0, &payload, format::header_crc(&bytes));
        let row = format::Chunk { offset: 4096, length: payload.len() as u32, crc };
        bytes.extend_from_slice(&chunk);
        bytes.extend_from_slice(&payload);
        let table = format::encode_table(&[row]);
        bytes.extend_from_slice(&table);
        let mut sha256 = [0; 32];
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
        sha256.copy_from_slice(digest.as_ref());
        bytes.truncate(bytes.len() - table.len());
        bytes.extend_from_slice(&format::encode_tail(table, &sha256));
        let (_, directory) = directory_holding(&bytes);
        prop_assert_eq!(directory.all().len(), 1);
        prop_assert_eq!(directory.newest_verified().expect("the disk is fine"), None);
    }
}
