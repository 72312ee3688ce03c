//! The log beside other people's logs and beside the device itself, and what a
//! large state costs: snapshot, restart, memory. It measures; it never judges.
//!
//! Slices of one contestant follow slices of the next, round after round, so
//! that all meet the same noise.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use holdfast::codec::encode_command;
use holdfast::disk::{AppendMode, Disk, RealDisk};
use holdfast::snapshot::SnapshotDirectory;
use holdfast::store::Store;
use holdfast::types::{
    ClusterId, Command as StoreCommand, Entry, EntryPayload, Incarnation, LogIndex, LogWrite,
    NodeId, Operation, Term, Transaction,
};
use holdfast::wal::{Identity, Wal, WalOptions};

use crate::Verdict;
use crate::statistics::Durations;

/// Arguments of `jepsen storage`.
#[derive(Args)]
pub struct StorageArguments {
    /// Where to write; on the device to be measured. A folder in it is made and
    /// removed.
    #[arg(long, default_value = ".")]
    directory: PathBuf,
    /// Length of each slice.
    #[arg(long, default_value_t = 500)]
    milliseconds: u64,
    /// Slices for each contestant and shape.
    #[arg(long, default_value_t = 4)]
    rounds: u32,
    /// The program built from `jepsen/peers`.
    #[arg(long, default_value = "target/peers/release/storage-peers")]
    peers: PathBuf,
    /// Entries of the large state.
    #[arg(long, default_value_t = 1_000_000)]
    entries: u64,
    /// Also write the report to this file.
    #[arg(long)]
    output: Option<PathBuf>,
}

/// Records appended at a time: bytes of each, and how many.
const SHAPES: [(usize, usize); 5] = [(256, 1), (256, 8), (256, 64), (16 << 10, 1), (16 << 10, 64)];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Contestant {
    Raw,
    Holdfast(AppendMode),
    Peer(&'static str),
}

const CONTESTANTS: [(&str, Contestant); 5] = [
    ("device", Contestant::Raw),
    ("Holdfast", Contestant::Holdfast(AppendMode::Direct)),
    ("Holdfast, mmap", Contestant::Holdfast(AppendMode::Mapped)),
    ("raft-engine", Contestant::Peer("raft-engine")),
    ("okaywal", Contestant::Peer("okaywal")),
];

/// Runs `jepsen storage`.
///
/// # Errors
/// The peers are not built, or the disk failed.
pub fn run(arguments: &StorageArguments) -> anyhow::Result<Verdict> {
    let scratch = arguments.directory.join("storage-scratch");
    let report = measured(arguments, &scratch);
    let _ = std::fs::remove_dir_all(&scratch);
    let report = report?;
    print!("{report}");
    if let Some(path) = &arguments.output {
        std::fs::write(path, &report).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(Verdict::Valid)
}

fn measured(arguments: &StorageArguments, scratch: &Path) -> anyhow::Result<String> {
    let mut report = appends(arguments, scratch)?;
    report += &large_state(arguments.entries, scratch)?.to_string();
    Ok(report)
}

fn appends(arguments: &StorageArguments, scratch: &Path) -> anyhow::Result<String> {
    let length = Duration::from_millis(arguments.milliseconds);
    let mut report = String::from(
        "Append and make durable, appends a second (p50, p99); in brackets the part of what the \
         device gives\n\n| records |",
    );
    for (name, _) in CONTESTANTS {
        write!(report, " {name} |")?;
    }
    writeln!(report, "\n|---|{}", "---|".repeat(CONTESTANTS.len()))?;
    for shape in SHAPES {
        let mut took: Vec<Vec<Duration>> = vec![Vec::new(); CONTESTANTS.len()];
        for round in 0..arguments.rounds {
            for (place, (_, contestant)) in CONTESTANTS.iter().enumerate() {
                eprint!("\r{} B x {}, round {}   ", shape.0, shape.1, round + 1);
                let directory = scratch.join(format!("{place}"));
                let slice = match contestant {
                    Contestant::Holdfast(mode) => holdfast(&directory, shape, length, *mode),
                    Contestant::Raw => peer(&arguments.peers, "raw", &directory, shape, length),
                    Contestant::Peer(name) => {
                        peer(&arguments.peers, name, &directory, shape, length)
                    }
                };
                took[place].extend(slice?);
                std::fs::remove_dir_all(&directory)?;
            }
        }
        let rates: Vec<f64> = took.iter().map(|took| rate(took)).collect();
        write!(report, "| {} B x {} |", shape.0, shape.1)?;
        for (took, rate) in took.into_iter().zip(&rates) {
            let durations = Durations::new(took);
            let micros = |fraction| durations.quantile(fraction).as_micros();
            let (median, slow) = (micros(0.5), micros(0.99));
            write!(
                report,
                " {rate:.0} ({median}, {slow} us) [{:.2}] |",
                rate / rates[0]
            )?;
        }
        report.push('\n');
    }
    eprintln!();
    Ok(report)
}

fn rate(took: &[Duration]) -> f64 {
    let all: Duration = took.iter().sum();
    took.len() as f64 / all.as_secs_f64().max(f64::MIN_POSITIVE)
}

fn peer(
    program: &Path,
    engine: &str,
    directory: &Path,
    (bytes, count): (usize, usize),
    length: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let ran = Command::new(program)
        .arg(engine)
        .arg(directory)
        .args([
            bytes.to_string(),
            count.to_string(),
            length.as_millis().to_string(),
        ])
        .output()
        .with_context(|| format!("run {}: make storage builds it", program.display()))?;
    if !ran.status.success() {
        bail!("{engine}: {}", String::from_utf8_lossy(&ran.stderr));
    }
    let lines = String::from_utf8(ran.stdout)?;
    let nanoseconds = lines
        .lines()
        .map(str::parse)
        .collect::<Result<Vec<u64>, _>>()?;
    Ok(nanoseconds.into_iter().map(Duration::from_nanos).collect())
}

fn create(directory: &Path, append: AppendMode) -> anyhow::Result<Wal> {
    let identity = Identity {
        cluster: ClusterId([1; 16]),
        node: NodeId(1),
        incarnation: Incarnation(1),
    };
    let options = WalOptions {
        append,
        ..WalOptions::default()
    };
    std::fs::create_dir_all(directory)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
    Ok(Wal::create(
        disk,
        &directory.join("wal"),
        identity,
        options,
    )?)
}

fn holdfast(
    directory: &Path,
    (bytes, count): (usize, usize),
    length: Duration,
    mode: AppendMode,
) -> anyhow::Result<Vec<Duration>> {
    let mut wal = create(directory, mode)?;
    let payload: Arc<[u8]> = vec![0x5A; bytes].into();
    let (begin, mut took, mut index) = (Instant::now(), Vec::new(), 0);
    while begin.elapsed() < length {
        let before = Instant::now();
        let entries = (0..count).map(|_| {
            index += 1;
            entry(index, Arc::clone(&payload))
        });
        wal.append(&[write_of(entries.collect())])?;
        took.push(before.elapsed());
    }
    Ok(took)
}

fn entry(index: u64, payload: Arc<[u8]>) -> Entry {
    Entry {
        index: LogIndex(index),
        term: Term(1),
        payload: EntryPayload::Command(payload),
    }
}

fn write_of(entries: Vec<Entry>) -> LogWrite {
    let first = entries
        .first()
        .is_some_and(|entry| entry.index == LogIndex(1));
    LogWrite {
        hard_state: first.then(|| holdfast::types::HardState {
            term: Term(1),
            ..Default::default()
        }),
        entries,
        ..LogWrite::default()
    }
}

const KEY_BYTES: usize = 64;
const VALUE_BYTES: usize = 256;

fn put(number: u64) -> Arc<[u8]> {
    let key = format!("{number:0width$}", width = KEY_BYTES);
    let mut value = vec![0x5A; VALUE_BYTES];
    value[..8].copy_from_slice(&number.to_le_bytes());
    encode_command(&StoreCommand::Transaction(Transaction {
        preconditions: Vec::new(),
        operations: vec![Operation::Put { key, value }],
    }))
}

/// What a state of so many entries costs.
struct Cost {
    entries: u64,
    held_bytes: u64,
    applying: Duration,
    snapshot_bytes: u64,
    snapshot: Duration,
    plain: Duration,
    load: Duration,
    log_bytes: u64,
    replay: Duration,
}

fn large_state(entries: u64, scratch: &Path) -> anyhow::Result<Cost> {
    eprintln!("a state of {entries} entries");
    let directory = scratch.join("state");
    let mut wal = create(&directory, AppendMode::Direct)?;
    let mut store = Store::new();
    let before = resident_bytes()?;
    let (mut applying, mut log_bytes) = (Duration::ZERO, 0);
    for first in (1..=entries).step_by(BATCH) {
        let last = entries.min(first + BATCH as u64 - 1);
        let batch: Vec<Entry> = (first..=last)
            .map(|index| entry(index, put(index)))
            .collect();
        log_bytes += batch.iter().map(|entry| entry.size() as u64).sum::<u64>();
        wal.append(&[write_of(batch.clone())])?;
        let begin = Instant::now();
        batch.iter().for_each(|entry| drop(store.apply(entry)));
        applying += begin.elapsed();
    }
    let held_bytes = resident_bytes()?.saturating_sub(before);
    drop(wal);

    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
    let snapshots = SnapshotDirectory::open(Arc::clone(&disk), &directory.join("snapshots"))?;
    let begin = Instant::now();
    let view = store.view();
    let mut writer = snapshots.writer(ClusterId([1; 16]), view.meta(), view.header())?;
    for record in view.records() {
        writer.add(&record)?;
    }
    let info = writer.finish()?;
    let snapshot = begin.elapsed();
    let snapshot_bytes = std::fs::metadata(&info.path)?.len();
    let plain = plain_write(&directory.join("plain"), snapshot_bytes)?;

    drop((view, store));
    let begin = Instant::now();
    let mut restored = Store::new();
    let former = restored.restore_from(snapshots.reader(&info)?, &info.meta, &info.state)?;
    let load = begin.elapsed();
    drop((former, restored));
    let begin = Instant::now();
    let (_, opened) = Wal::open(disk, &directory.join("wal"), None, WalOptions::default())?;
    let mut replayed = Store::new();
    opened
        .entries
        .iter()
        .for_each(|entry| drop(replayed.apply(entry)));
    Ok(Cost {
        entries,
        held_bytes,
        applying,
        snapshot_bytes,
        snapshot,
        plain,
        load,
        log_bytes,
        replay: begin.elapsed(),
    })
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.entries;
        let seconds = |took: Duration| took.as_secs_f64();
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        writeln!(
            f,
            "\n{entries} entries, keys of {KEY_BYTES} B, values of {VALUE_BYTES} B\n"
        )?;
        writeln!(f, "| what | seen |\n|---|---|")?;
        writeln!(
            f,
            "| memory for each entry | {} B |",
            self.held_bytes / entries.max(1)
        )?;
        writeln!(
            f,
            "| apply | {:.0} entries a second |",
            entries as f64 / seconds(self.applying)
        )?;
        writeln!(
            f,
            "| snapshot of {:.0} MB, written, synced, verified | {:.2} s, {:.2} of a plain write \
             and sync of as many bytes ({:.2} s) |",
            megabytes(self.snapshot_bytes),
            seconds(self.snapshot),
            seconds(self.snapshot) / seconds(self.plain),
            seconds(self.plain)
        )?;
        writeln!(
            f,
            "| restart from the snapshot | {:.2} s, {:.0} MB/s |",
            seconds(self.load),
            megabytes(self.snapshot_bytes) / seconds(self.load)
        )?;
        writeln!(
            f,
            "| replay of the log ({:.0} MB of entries) into an empty state | {:.2} s, {:.0} MB/s |",
            megabytes(self.log_bytes),
            seconds(self.replay),
            megabytes(self.log_bytes) / seconds(self.replay)
        )
    }
}

/// Entries of one log write while the state is made.
const BATCH: usize = 512;

fn plain_write(path: &Path, bytes: u64) -> anyhow::Result<Duration> {
    let chunk = vec![0x5A; 1 << 20];
    let begin = Instant::now();
    let mut file = std::fs::File::create(path)?;
    let mut left = bytes;
    while 0 < left {
        let part = left.min(chunk.len() as u64);
        std::io::Write::write_all(&mut file, &chunk[..part as usize])?;
        left -= part;
    }
    file.sync_all()?;
    Ok(begin.elapsed())
}

fn resident_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    let kilobytes: u64 = kilobytes.context("VmRSS in /proc/self/status")?.parse()?;
    Ok(kilobytes << 10)
}
