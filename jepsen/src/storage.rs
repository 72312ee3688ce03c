//! The log beside other people's logs and beside the device itself, and what a
//! large state costs: snapshot, restart, memory, and what a leader that has it
//! answers meanwhile. It measures; it never judges.
//!
//! Short slices of one contestant follow slices of the next, in another order
//! each round, so that all meet the same noise. A contestant is compared with the
//! device within a round; the report names the median of the rounds and where
//! half of them lie: how far it can be believed.

mod serving;

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use holdfast::codec::encode_command;
use holdfast::disk::{AppendMode, BlockBuffer, Disk, RealDisk};
use holdfast::snapshot::{SnapshotDirectory, SnapshotInfo};
use holdfast::store::{Store, View};
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
    #[arg(long, default_value_t = 250)]
    milliseconds: u64,
    /// Slices for each contestant and shape.
    #[arg(long, default_value_t = 12)]
    rounds: usize,
    /// Only these parts: `appends`, `state`, `serving`; all without it.
    #[arg(long)]
    only: Option<String>,
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
    let wants = |part| arguments.only.as_deref().is_none_or(|only| only == part);
    let mut report = String::new();
    if wants("appends") {
        report += &appends(arguments, scratch)?;
    }
    if wants("state") {
        report += &large_state(arguments.entries, scratch)?.to_string();
    }
    if wants("serving") {
        report += &serving::measured(arguments.entries, scratch)?;
    }
    Ok(report)
}

fn appends(arguments: &StorageArguments, scratch: &Path) -> anyhow::Result<String> {
    let mut report = String::from(
        "Append and make durable: the part of what the device gives, median of the rounds (half \
         of them between these); appends a second; p50, p99\n\n| records |",
    );
    for (name, _) in CONTESTANTS {
        write!(report, " {name} |")?;
    }
    writeln!(report, "\n|---|{}", "---|".repeat(CONTESTANTS.len()))?;
    for shape in SHAPES {
        let slices = slices(arguments, scratch, shape)?;
        write!(report, "| {} B x {} |", shape.0, shape.1)?;
        for rounds in &slices {
            let pairs = rounds.iter().zip(&slices[0]);
            let mut parts: Vec<f64> = pairs.map(|(own, raw)| rate(own) / rate(raw)).collect();
            parts.sort_by(f64::total_cmp);
            let part =
                |fraction: f64| parts[(fraction * (parts.len() - 1) as f64).round() as usize];
            let all = rounds.concat();
            let rate = rate(&all);
            let durations = Durations::new(all);
            let micros = |fraction| durations.quantile(fraction).as_micros();
            write!(
                report,
                " {:.2} ({:.2}-{:.2}); {rate:.0}/s; {}, {} us |",
                part(0.5),
                part(0.25),
                part(0.75),
                micros(0.5),
                micros(0.99),
            )?;
        }
        report.push('\n');
    }
    eprintln!();
    Ok(report)
}

/// How long each append took, by contestant and round.
fn slices(
    arguments: &StorageArguments,
    scratch: &Path,
    shape: (usize, usize),
) -> anyhow::Result<Vec<Vec<Vec<Duration>>>> {
    let length = Duration::from_millis(arguments.milliseconds);
    let count = CONTESTANTS.len();
    let mut took = vec![Vec::new(); count];
    std::fs::create_dir_all(scratch)?;
    for round in 0..arguments.rounds {
        for place in (0..count).map(|place| (place + round) % count) {
            eprint!("\r{} B x {}, round {}   ", shape.0, shape.1, round + 1);
            let directory = scratch.join(format!("{place}"));
            let slice = match CONTESTANTS[place].1 {
                Contestant::Holdfast(mode) => holdfast(&directory, shape, length, mode),
                Contestant::Raw => peer(&arguments.peers, "raw", &directory, shape, length),
                Contestant::Peer(name) => peer(&arguments.peers, name, &directory, shape, length),
            };
            took[place].push(slice?);
            std::fs::remove_dir_all(&directory)?;
            // Freeing the blocks is no business of the next contestant.
            std::fs::File::open(scratch)?.sync_all()?;
            std::thread::sleep(SETTLING);
        }
    }
    Ok(took)
}

/// After a contestant's files were removed.
const SETTLING: Duration = Duration::from_millis(20);

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

fn put(number: u64) -> Operation {
    let key = format!("{number:0width$}", width = KEY_BYTES);
    let mut value = vec![0x5A; VALUE_BYTES];
    value[..8].copy_from_slice(&number.to_le_bytes());
    Operation::Put { key, value }
}

fn command(number: u64) -> Arc<[u8]> {
    encode_command(&StoreCommand::Transaction(Transaction {
        preconditions: Vec::new(),
        operations: vec![put(number)],
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
    direct: Duration,
    load: Duration,
    log_bytes: u64,
    reading: Duration,
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
            .map(|index| entry(index, command(index)))
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
    let view = store.view();
    let (info, snapshot, plain, direct) = snapshots_of(&view, &snapshots, &disk, &directory)?;

    drop((view, store));
    let begin = Instant::now();
    let mut restored = Store::new();
    let former = restored.restore_from(snapshots.reader(&info)?, &info.meta, &info.state)?;
    let load = begin.elapsed();
    drop((former, restored));
    let begin = Instant::now();
    let (_, opened) = Wal::open(disk, &directory.join("wal"), None, WalOptions::default())?;
    let reading = begin.elapsed();
    let mut replayed = Store::new();
    opened
        .entries
        .iter()
        .for_each(|entry| drop(replayed.apply(entry)));
    Ok(Cost {
        entries,
        held_bytes,
        applying,
        snapshot_bytes: info.bytes,
        snapshot,
        plain,
        direct,
        load,
        log_bytes,
        reading,
        replay: begin.elapsed(),
    })
}

/// Writes snapshots, each beside as many bytes written plainly: the last of
/// them, and the median times of a snapshot, a cached and a direct write.
fn snapshots_of(
    view: &View,
    snapshots: &SnapshotDirectory,
    disk: &Arc<dyn Disk>,
    directory: &Path,
) -> anyhow::Result<(SnapshotInfo, Duration, Duration, Duration)> {
    let (mut took, mut plain, mut direct) = (Vec::new(), Vec::new(), Vec::new());
    let mut last = None;
    for _ in 0..SNAPSHOTS {
        let begin = Instant::now();
        let (meta, header) = (view.meta(), view.header());
        let mut writer = snapshots.overlapped_writer(ClusterId([1; 16]), meta, header)?;
        for record in view.records() {
            writer.add(&record)?;
        }
        let info = writer.finish()?;
        took.push(begin.elapsed());
        plain.push(plain_write(&directory.join("plain"), info.bytes)?);
        direct.push(direct_write(disk, &directory.join("direct"), info.bytes)?);
        last = Some(info);
    }
    let last = last.context("a snapshot")?;
    let median = |took| Durations::new(took).quantile(0.5);
    Ok((last, median(took), median(plain), median(direct)))
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
            "| snapshot of {:.0} MB, written, synced, read back | {:.2} s, {:.2} of a plain write \
             and sync of as many bytes ({:.2} s), {:.2} of a direct one ({:.2} s) |",
            megabytes(self.snapshot_bytes),
            seconds(self.snapshot),
            seconds(self.snapshot) / seconds(self.plain),
            seconds(self.plain),
            seconds(self.snapshot) / seconds(self.direct),
            seconds(self.direct)
        )?;
        writeln!(
            f,
            "| restart from the snapshot | {:.2} s, {:.0} MB/s |",
            seconds(self.load),
            megabytes(self.snapshot_bytes) / seconds(self.load)
        )?;
        writeln!(
            f,
            "| replay of the log ({:.0} MB of entries) into an empty state | {:.2} s, {:.0} MB/s \
             (reading it alone {:.2} s, {:.0} MB/s) |",
            megabytes(self.log_bytes),
            seconds(self.replay),
            megabytes(self.log_bytes) / seconds(self.replay),
            seconds(self.reading),
            megabytes(self.log_bytes) / seconds(self.reading)
        )
    }
}

/// Snapshots written, each beside plain writes of as many bytes.
const SNAPSHOTS: usize = 5;
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
    let took = begin.elapsed();
    std::fs::remove_file(path)?;
    Ok(took)
}

/// The same past the page cache.
fn direct_write(disk: &Arc<dyn Disk>, path: &Path, bytes: u64) -> anyhow::Result<Duration> {
    let chunk = BlockBuffer::zeroed(1 << 20);
    let begin = Instant::now();
    let mut file = disk.create(path)?;
    for offset in (0..bytes).step_by(chunk.len()) {
        file.write_blocks(offset, chunk.as_slice())?;
    }
    file.sync()?;
    let took = begin.elapsed();
    disk.remove(path)?;
    Ok(took)
}

fn resident_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    let kilobytes: u64 = kilobytes.context("VmRSS in /proc/self/status")?.parse()?;
    Ok(kilobytes << 10)
}
