//! The fuzz targets' corpora, replayed without a fuzzer: what once made a
//! decoder fail is tried by every `cargo test`.
//!
//! `UPDATE=1 cargo test --test fuzz` writes the seeds anew, from the encoders.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use holdfast::codec;
use holdfast::disk::{Disk, MemoryDisk};
use holdfast::peer::{frame, generate_keyring};
use holdfast::raft::message::{AppendResult, Message};
use holdfast::snapshot::SnapshotDirectory;
use holdfast::snapshot::archive::{ArchiveMeta, ArchiveWriter};
use holdfast::types::{
    ClusterId, Command, Entry, EntryPayload, Incarnation, LogIndex, LogWrite, NodeId, Operation,
    Pair, Precondition, Record, SnapshotMeta, StateHeader, Term, Transaction,
};
use holdfast::wal::{Identity, Wal, WalOptions};

type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 11] = [
    ("frame", targets::frame),
    ("message", targets::message),
    ("entry", targets::entry),
    ("keyring", targets::keyring),
    ("archive", targets::archive),
    ("wal", targets::wal),
    ("batch", targets::batch),
    ("snapshot", targets::snapshot),
    ("operations", targets::operations),
    ("configuration", targets::configuration),
    ("shares", targets::shares),
];

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target)
}

/// Name and bytes of every committed input of a target.
fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    static UPDATED: Once = Once::new();
    UPDATED.call_once(update_seeds);
    let entries = fs::read_dir(corpus(target)).expect("every target has a corpus");
    let mut inputs: Vec<_> = entries
        .map(|entry| entry.expect("a corpus is readable").path())
        .map(|path| {
            let bytes = fs::read(&path).expect("a corpus is readable");
            (path.display().to_string(), bytes)
        })
        .collect();
    inputs.sort();
    inputs
}

#[test]
fn corpora_are_decoded_or_refused() {
    for (target, run) in TARGETS {
        let inputs = inputs(target);
        assert!(!inputs.is_empty(), "{target} has no corpus");
        for (name, bytes) in inputs {
            eprintln!("{name}");
            run(&bytes);
        }
    }
}

/// Each input cut at every length, and with each byte changed in turn: the
/// neighbourhood where decoders of lengths go wrong.
#[test]
fn cut_and_changed_inputs_are_decoded_or_refused() {
    for (target, run) in TARGETS {
        for (_, bytes) in inputs(target) {
            let step = bytes.len().div_ceil(200).max(1);
            for position in (0..bytes.len()).step_by(step) {
                run(&bytes[..position]);
                let mut changed = bytes.clone();
                changed[position] ^= 0x81;
                run(&changed);
            }
        }
    }
}

#[test]
fn every_target_is_replayed() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let files = fs::read_dir(folder).expect("the targets' folder");
    let names = files.map(|file| file.expect("a target").path());
    let mut names: Vec<String> = names
        .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    let mut replayed = TARGETS.map(|(name, _)| name.to_owned());
    replayed.sort();
    assert_eq!(names, replayed);
}

fn update_seeds() {
    if std::env::var_os("UPDATE").is_none() {
        return;
    }
    for (target, seeds) in seeds() {
        let folder = corpus(target);
        fs::create_dir_all(&folder).expect("create a corpus");
        for (number, seed) in seeds.into_iter().enumerate() {
            fs::write(folder.join(format!("seed-{number}")), seed).expect("write a seed");
        }
    }
}

fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let command = codec::encode_command(&Command::Transaction(Transaction {
        preconditions: Vec::<Precondition>::new(),
        operations: vec![
            Operation::Put {
                key: "core/mounts".into(),
                value: vec![1, 2, 3],
            },
            Operation::Delete { key: "a/b".into() },
        ],
    }));
    let messages = messages(&command);
    let frames = messages
        .iter()
        .map(|message| frame::encode(frame::FrameKind::Message, message))
        .collect();
    let entry = |kind: u8, bytes: &[u8]| [&[kind], bytes].concat();
    vec![
        ("frame", frames),
        ("message", messages),
        (
            "entry",
            vec![entry(1, &[]), entry(2, &command), entry(3, &[0; 40])],
        ),
        (
            "keyring",
            vec![generate_keyring().expect("generate a keyring").to_vec()],
        ),
        ("archive", vec![archive(0), archive(3)]),
        (
            "wal",
            vec![
                b"\0\0\0\0HFWAL".to_vec(),
                b"\0\x10\0\0\0\0\0\0".to_vec(),
                b"\0\x20\0\0\xff".to_vec(),
            ],
        ),
        ("batch", batches()),
        ("snapshot", snapshots()),
        ("operations", (0..4).map(operations).collect()),
        ("configuration", vec![HCL.into(), JSON.into()]),
        ("shares", vec![shares(2, 2), shares(5, 3)]),
    ]
}

/// The batches of a small log, without their padding.
fn batches() -> Vec<Vec<u8>> {
    let disk = MemoryDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let identity = Identity {
        cluster: ClusterId([7; 16]),
        node: NodeId(1),
        incarnation: Incarnation(1),
    };
    let options = WalOptions {
        segment_bytes: 16 * 4096,
        prepare_in_background: false,
        salt_seed: 1,
        ..WalOptions::default()
    };
    let folder = Path::new("/log");
    let mut wal = Wal::create(shared, folder, identity, options).expect("create a log");
    let entry = |index: u64| Entry {
        index: LogIndex(index),
        term: Term(1),
        payload: EntryPayload::Command(vec![index as u8; 40].into()),
    };
    for entries in [vec![entry(1)], vec![entry(2), entry(3)]] {
        let write = LogWrite {
            entries,
            ..LogWrite::default()
        };
        wal.append(&[write]).expect("append");
    }
    wal.mark_idle().expect("mark");
    let map = disk.map(&folder.join("0000000000000001.wal"));
    let map = map.expect("a log has a segment");
    let blocks = map.bytes().chunks(4096);
    let batches = blocks.filter(|block| block.starts_with(b"HFB1"));
    batches.map(|block| block[..320].to_vec()).collect()
}

/// Snapshot files without and with records.
fn snapshots() -> Vec<Vec<u8>> {
    let disk = MemoryDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let directory = SnapshotDirectory::open(shared, Path::new("/snapshots")).expect("open");
    let write = |count: u64| {
        let meta = SnapshotMeta {
            index: LogIndex(count + 1),
            term: Term(1),
            ..SnapshotMeta::default()
        };
        let state = StateHeader {
            entry_count: count,
            ..StateHeader::default()
        };
        let writer = directory.writer(ClusterId([7; 16]), meta, state);
        let mut writer = writer.expect("begin a snapshot");
        for number in 0..count {
            let record = Record {
                pair: Pair::new(&format!("key-{number}"), &[number as u8; 30]),
                staged: false,
            };
            writer.add(&record).expect("write a record");
        }
        let path = writer.finish().expect("finish a snapshot").path;
        disk.map(&path).expect("there it is").bytes().to_vec()
    };
    vec![write(0), write(3)]
}

/// Every operation a few times, in another order for each seed.
fn operations(seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let steps = (0..160).map(|_| next());
    std::iter::once(seed * 3).chain(steps).collect()
}

/// Shares of a key, as the target takes them.
fn shares(count: usize, threshold: usize) -> Vec<u8> {
    let fill = |random: &mut [u8]| {
        random.fill(0x5a);
        true
    };
    let split = holdfast::seal::split(b"thirty-two bytes of a secret key", count, threshold, fill);
    let split = split.expect("a key is split");
    let length = u8::try_from(split[0].len()).expect("a share is short");
    let mut input = vec![length];
    split
        .iter()
        .for_each(|share| input.extend_from_slice(share));
    input
}

const HCL: &str = r#"# A comment.
storage "raft" {
  path = "/var/lib/holdfast"
  node_id = "n1"
  performance_multiplier = 1
  retry_join { leader_api_addr = "https://n2:8200" }
}
listener "tcp" {
  address = "127.0.0.1:8200"
  cluster_address = "127.0.0.1:8201"
  tls_disable = true
}
api_addr = "http://127.0.0.1:8200"
cluster_addr = "https://127.0.0.1:8201"
"#;

const JSON: &str = r#"{"storage": {"raft": {"path": "/d", "node_id": "n1"}},
"listener": [{"tcp": {"address": "127.0.0.1:8200", "tls_disable": true}}],
"api_addr": "http://127.0.0.1:8200", "cluster_addr": "https://127.0.0.1:8201"}"#;

fn messages(command: &Arc<[u8]>) -> Vec<Vec<u8>> {
    let (term, index) = (Term(3), LogIndex(9));
    let messages = [
        Message::VoteRequest {
            term,
            pre: true,
            last_index: index,
            last_term: term,
            transfer: false,
        },
        Message::AppendEntries {
            term,
            prev_index: index,
            prev_term: term,
            entries: vec![
                Entry {
                    index: LogIndex(10),
                    term,
                    payload: EntryPayload::Noop,
                },
                Entry {
                    index: LogIndex(11),
                    term,
                    payload: EntryPayload::Command(Arc::clone(command)),
                },
            ],
            commit_index: index,
            read_context: 7,
        },
        Message::AppendResponse {
            term,
            result: AppendResult::Rejected {
                prev_index: index,
                hint_index: LogIndex(4),
                hint_term: Term(2),
            },
            read_context: 7,
        },
        Message::ReadIndexResponse {
            term,
            context: 1,
            index: Some(index),
        },
    ];
    messages.iter().map(codec::encode).collect()
}

fn archive(entry_count: u8) -> Vec<u8> {
    let meta = ArchiveMeta::default();
    let entries =
        || (0..entry_count).map(|number| Pair::new(&format!("core/key-{number}"), &[number; 20]));
    let seal = |sums: &[u8]| Ok::<_, std::convert::Infallible>(sums.to_vec());
    let writer = ArchiveWriter::prepare(&meta, entries, seal).expect("prepare an archive");
    writer.write(Vec::new(), 0).expect("write an archive")
}
