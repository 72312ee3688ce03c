//! Entry points for bytes from outside: whatever they are, a decoder answers
//! with a value or an error, in bounded memory, and never panics. What decodes
//! is encoded again and must decode to the same.
//!
//! `fuzz_targets/` hands them to libFuzzer; `tests/fuzz.rs` replays the corpora
//! through the same functions in a plain `cargo test`.

mod storage;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast::codec;
use holdfast::disk::{AppendMode, BLOCK_BYTES, Disk, MemoryDisk};
use holdfast::membership::keyring::Keyring;
use holdfast::peer::frame;
use holdfast::raft::message::Message;
use holdfast::snapshot::archive::ArchiveReader;
use holdfast::types::{
    ClusterId, Entry, EntryPayload, HardState, Incarnation, LogIndex, LogWrite, NodeId, Term,
};
use holdfast::wal::{Identity, Wal, WalOptions};

pub use storage::{batch, operations, snapshot};

/// A frame between nodes: header, then payload.
pub fn frame(bytes: &[u8]) {
    let Some((header, payload)) = bytes.split_first_chunk::<{ frame::HEADER_BYTES }>() else {
        return;
    };
    let mut repaired = *header;
    // Past the checksum, which a fuzzer does not guess.
    let checksum = codec::crc32(0, &header[..16]);
    repaired[16..].copy_from_slice(&checksum.to_le_bytes());
    for header in [*header, repaired] {
        let Ok(parsed) = frame::parse_header(&header, frame::PAYLOAD_BYTES_MAX) else {
            continue;
        };
        assert!(parsed.payload_bytes <= frame::PAYLOAD_BYTES_MAX);
        let length = parsed.payload_bytes.min(payload.len());
        if frame::check_payload(&parsed, &payload[..length]).is_ok() {
            let again = frame::header(parsed.kind, &payload[..length]);
            assert!(length < parsed.payload_bytes || again == header);
        }
    }
}

/// A message of the consensus protocol.
pub fn message(bytes: &[u8]) {
    if let Ok(message) = codec::decode::<Message>("message", bytes) {
        let again = codec::decode("message", &codec::encode(&message));
        assert_eq!(again.ok(), Some(message));
    }
}

/// A log entry's payload: its kind, then its bytes; and what commands hold.
pub fn entry(bytes: &[u8]) {
    let Some((&kind, rest)) = bytes.split_first() else {
        return;
    };
    if let Ok(payload) = codec::decode_payload(kind, rest) {
        let (kind, encoded) = codec::encode_payload(&payload);
        assert_eq!(codec::decode_payload(kind, &encoded).ok(), Some(payload));
    }
    if let Ok(command) = codec::decode_command(rest) {
        let again = codec::decode_command(&codec::encode_command(&command));
        assert_eq!(again.ok(), Some(command));
    }
}

/// The TLS keyring, as it comes in the answer to a join.
pub fn keyring(bytes: &[u8]) {
    if let Ok(keyring) = Keyring::parse(bytes) {
        let stored = keyring.to_stored();
        let again = Keyring::parse(&stored).expect("what was stored is read");
        assert_eq!(again.to_stored(), stored);
    }
}

/// A snapshot archive, uploaded.
pub fn archive(bytes: &[u8]) {
    if let Ok(reader) = ArchiveReader::verify_unsealed(bytes) {
        let entries = reader.entries(bytes).expect("it was verified");
        let mut count = 0;
        for entry in entries {
            entry.expect("it was verified");
            count += 1;
        }
        assert_eq!(count, reader.entry_count());
    }
}

/// A configuration file, HCL or JSON.
pub fn configuration(bytes: &[u8]) {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("holdfast-fuzz-{}-{count}.hcl", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, bytes).expect("write a temporary file");
    let loaded = holdfast::config::load(std::slice::from_ref(&path), &|_| None, None);
    std::fs::remove_file(&path).expect("remove a temporary file");
    if let Ok(configuration) = loaded {
        assert!(!configuration.listeners.is_empty());
    }
}

/// Shares of an unseal key: the first byte says how long each is.
pub fn shares(bytes: &[u8]) {
    let Some((&length, rest)) = bytes.split_first() else {
        return;
    };
    let shares: Vec<&[u8]> = rest.chunks(usize::from(length).max(1)).collect();
    if let Ok(secret) = holdfast::seal::combine(&shares) {
        // The last byte of a share is its place on the curve.
        assert_eq!(secret.len() + 1, shares[0].len());
    }
}

/// A log whose first segment has been overwritten: the first four bytes say
/// where, the rest by what.
pub fn wal(bytes: &[u8]) {
    let Some((offset, rest)) = bytes.split_first_chunk::<4>() else {
        return;
    };
    let disk = MemoryDisk::new();
    let written = small_log(&disk);
    let folder = Path::new(WAL_FOLDER);
    let names = disk.list(folder).expect("a memory disk lists");
    let segment = names.iter().find(|name| name.ends_with(".wal"));
    let path = folder.join(segment.expect("a log has a segment"));
    let mut file = disk.open(&path).expect("a memory disk opens");
    let length = file.length().expect("a memory disk knows lengths");
    let offset = u64::from(u32::from_le_bytes(*offset)) % length;
    let room = usize::try_from(length - offset).unwrap_or(usize::MAX);
    let rest = &rest[..rest.len().min(room)];
    file.write_at(offset, rest).expect("a memory disk writes");
    drop(file);
    if let Ok((_, opened)) = Wal::open(Arc::new(disk), folder, Some(IDENTITY), wal_options()) {
        // A prefix of what was written: nothing invented, nothing reordered.
        assert!(opened.entries.len() <= written.len());
        for (found, expected) in opened.entries.iter().zip(&written) {
            assert_eq!(found, expected);
        }
    }
}

const WAL_FOLDER: &str = "/wal";

const IDENTITY: Identity = Identity {
    cluster: ClusterId([7; 16]),
    node: NodeId(1),
    incarnation: Incarnation(1),
};

fn wal_options() -> WalOptions {
    WalOptions {
        segment_bytes: 16 * BLOCK_BYTES as u64,
        batch_bytes_max: 4 * BLOCK_BYTES as u64,
        prepare_in_background: false,
        append: AppendMode::Direct,
        salt_seed: 1,
    }
}

/// Writes a log of a few batches; returns its entries.
fn small_log(disk: &MemoryDisk) -> Vec<Entry> {
    let folder = Path::new(WAL_FOLDER);
    disk.create_dir_all(folder).expect("a memory disk creates");
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut wal = Wal::create(disk, folder, IDENTITY, wal_options()).expect("a log is created");
    let mut written = Vec::new();
    for index in 1..=4 {
        let entry = Entry {
            index: LogIndex(index),
            term: Term(1),
            payload: EntryPayload::Command(vec![index as u8; 100].into()),
        };
        let write = LogWrite {
            hard_state: Some(HardState {
                term: Term(1),
                vote: Some(NodeId(1)),
                commit_index: LogIndex(index - 1),
            }),
            entries: vec![entry.clone()],
            ..LogWrite::default()
        };
        wal.append(&[write]).expect("a memory disk takes a log");
        written.push(entry);
    }
    written
}
