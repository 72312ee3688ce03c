//! Bytes from a disk are anything: decoders answer, and never panic.

use holdfast::disk::{Disk, MemoryDisk};
use holdfast::types::{ClusterId, HardState, Incarnation, LogIndex, NodeId, Term};
use holdfast::wal::batch::{Records, is_intact, seal_table};
use holdfast::wal::format::{
    BATCH_HEADER, BatchHeader, Lsn, RECORD_HEADER, RecordHeader, SEAL, SEGMENT_HEADER,
    SegmentHeader,
};
use holdfast::wal::{Identity, WalError};
use proptest::prelude::*;

use crate::model::{BLOCK, IDENTITY, create, depth, dir, open, options, segment_paths};

fn hard_state() -> impl Strategy<Value = HardState> {
    (any::<u64>(), any::<Option<u64>>(), any::<u64>()).prop_map(|(term, vote, commit)| HardState {
        term: Term(term),
        vote: vote.map(NodeId),
        commit_index: LogIndex(commit),
    })
}

fn segment_header() -> impl Strategy<Value = SegmentHeader> {
    let identity = (any::<[u8; 16]>(), any::<u64>(), any::<u64>()).prop_map(|(a, b, c)| Identity {
        cluster: ClusterId(a),
        node: NodeId(b),
        incarnation: Incarnation(c),
    });
    let place = (1..u64::MAX, any::<u64>(), 0..u64::MAX / 2, 4..100_000u32);
    let snapshot = prop::option::of((1..u64::MAX, any::<u64>()));
    (identity, place, hard_state(), snapshot).prop_map(|(identity, place, hard_state, snapshot)| {
        let (sequence, salt, base_lsn, blocks) = place;
        SegmentHeader {
            identity,
            sequence,
            salt,
            base_lsn: Lsn(base_lsn),
            segment_bytes: blocks * BLOCK as u32,
            hard_state,
            snapshot: snapshot.map(|(index, term)| (LogIndex(index), Term(term))),
        }
    })
}

/// A batch header with a right CRC and otherwise anything in it, as a segment
/// of 8 blocks might hold it at `offset`.
fn batch_header(segment: SegmentHeader, offset: u64) -> impl Strategy<Value = BatchHeader> {
    let near = || prop_oneof![0..20u64, any::<u64>()];
    let sizes = (
        prop_oneof![0..9u32, any::<u32>()],
        prop_oneof![0..9u32, any::<u32>()],
    );
    let indexes = (near(), near(), near(), near());
    (any::<u16>(), sizes, indexes, any::<u32>(), hard_state()).prop_map(
        move |(flags, (blocks, record_count), indexes, crc, hard_state)| BatchHeader {
            flags,
            lsn: segment.lsn(offset),
            salt: segment.salt,
            length: blocks.wrapping_mul(BLOCK as u32),
            record_count,
            synced_lsn: Lsn(indexes.3),
            first_index: LogIndex(indexes.0),
            last_index: LogIndex(indexes.1),
            term: Term(indexes.2),
            prev_index: LogIndex(indexes.0.wrapping_sub(1)),
            prev_term: Term(1),
            prev_lsn: Lsn(0),
            prev_crc: 0,
            directory_crc: crc,
            hard_state,
            body_crc: crc,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400 * depth() as u32,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn segment_header_round_trips_and_any_flip_is_seen(header in segment_header(), bit in 0..2048usize) {
        let mut bytes = header.encode();
        prop_assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(SegmentHeader::decode(&bytes).is_err());
    }

    #[test]
    fn batch_header_decodes_only_what_fits_its_place(header in batch_header(SEGMENT, 2 * BLOCK)) {
        let bytes = header.encode(SEGMENT.seed());
        if let Some((decoded, _)) = BatchHeader::decode(&SEGMENT, 2 * BLOCK, &bytes) {
            prop_assert!(u64::from(decoded.length) + 2 * BLOCK <= SEGMENT.area_end());
            prop_assert!(decoded.last_index.next() >= decoded.first_index);
            prop_assert!(decoded.synced_lsn <= decoded.lsn);
            let elsewhere = BatchHeader::decode(&SEGMENT, 3 * BLOCK, &bytes);
            prop_assert!(elsewhere.is_none());
        }
    }

    #[test]
    fn arbitrary_bytes_decode_to_nothing(bytes in prop::collection::vec(any::<u8>(), 256..9000)) {
        let segment: &[u8; SEGMENT_HEADER] = bytes.first_chunk().unwrap();
        prop_assert!(SegmentHeader::decode(segment).is_err());
        let batch: &[u8; BATCH_HEADER] = bytes.first_chunk().unwrap();
        prop_assert!(BatchHeader::decode(&SEGMENT, BLOCK, batch).is_none());
        let record: &[u8; RECORD_HEADER] = bytes.first_chunk().unwrap();
        prop_assert!(RecordHeader::decode(record, 1).is_none());
    }

    #[test]
    fn records_of_arbitrary_bytes_end(
        header in batch_header(SEGMENT, BLOCK),
        is_seal in any::<bool>(),
        bytes in prop::collection::vec(any::<u8>(), 0..9000),
        payload_bytes in any::<u32>(),
    ) {
        let mut header = header;
        header.flags = if is_seal { SEAL } else { 0 };
        let mut bytes = bytes;
        // Even a right record header may claim any length.
        let record = RecordHeader {
            kind: 0xf0,
            payload_bytes,
            index: header.first_index,
            term: header.term,
            payload_crc: 0,
        };
        let (record, _) = record.encode(SEGMENT.seed());
        if let Some(place) = bytes.get_mut(BATCH_HEADER..BATCH_HEADER + RECORD_HEADER) {
            place.copy_from_slice(&record);
        }
        let _ = is_intact(&header, SEGMENT.seed(), &bytes);
        let _ = seal_table(&header, SEGMENT.seed(), &bytes);
        header.first_index = LogIndex(header.first_index.0 >> 2);
        let records = Records::new(&header, SEGMENT.seed(), &bytes).flatten();
        prop_assert!(records.count() <= bytes.len() / RECORD_HEADER);
    }

    #[test]
    fn log_of_arbitrary_blocks_opens_or_says_why(
        headers in prop::collection::vec((1..7u64, batch_header(SEGMENT, 0)), 0..6),
        noise in prop::collection::vec((0..8 * BLOCK, any::<u8>()), 0..6),
    ) {
        let disk = MemoryDisk::new();
        drop(create(&disk, options(8)).unwrap());
        let path = segment_paths(&disk).remove(0);
        let mut first = [0; SEGMENT_HEADER];
        disk.open(&path).unwrap().read_at(0, &mut first).unwrap();
        let segment = SegmentHeader::decode(&first).unwrap();
        for (block, mut header) in headers {
            header.lsn = segment.lsn(block * BLOCK);
            header.salt = segment.salt;
            disk.overwrite(&path, block * BLOCK, &header.encode(segment.seed())).unwrap();
        }
        for (offset, byte) in noise {
            disk.overwrite(&path, offset, &[byte]).unwrap();
        }
        match open(&disk, options(8)) {
            Ok((mut wal, _)) => wal.mark_idle().unwrap(),
            Err(WalError::Damaged(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

const SEGMENT: SegmentHeader = SegmentHeader {
    identity: IDENTITY,
    sequence: 1,
    salt: 17,
    base_lsn: Lsn(8 * BLOCK),
    segment_bytes: 8 * BLOCK as u32,
    hard_state: HardState {
        term: Term(0),
        vote: None,
        commit_index: LogIndex(0),
    },
    snapshot: None,
};

#[test]
fn files_that_are_no_segments_are_damage() {
    for length in [0, 1, 255, 4096, 8 * BLOCK - 1, 8 * BLOCK, 9 * BLOCK] {
        let disk = MemoryDisk::new();
        disk.create_dir_all(dir()).unwrap();
        let mut file = disk.create(&dir().join("0000000000000001.wal")).unwrap();
        file.write_at(0, &vec![0x48; length as usize]).unwrap();
        assert!(matches!(open(&disk, options(8)), Err(WalError::Damaged(_))));
    }
}

#[test]
fn segment_of_a_newer_version_is_refused_as_such() {
    let disk = MemoryDisk::new();
    drop(create(&disk, options(8)).unwrap());
    let path = segment_paths(&disk).remove(0);
    let mut bytes = [0; 256];
    disk.open(&path).unwrap().read_at(0, &mut bytes).unwrap();
    bytes[8] = 2;
    let crc = holdfast::codec::crc32(0, &bytes[..252]);
    bytes[252..].copy_from_slice(&crc.to_le_bytes());
    disk.overwrite(&path, 0, &bytes).unwrap();
    let error = open(&disk, options(8)).err().unwrap();
    assert!(
        matches!(
            error,
            WalError::Version {
                segment: 1,
                found: 2,
                known: 1
            }
        ),
        "{error}"
    );
}
