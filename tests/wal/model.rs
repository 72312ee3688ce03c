//! What a log is supposed to hold, and writes to try on it.

use std::path::Path;
use std::sync::Arc;

use holdfast::disk::{AppendMode, Disk, MemoryDisk};
use holdfast::types::{
    ClusterId, Entry, EntryPayload, HardState, Incarnation, LogIndex, LogWrite, NodeId,
    SnapshotMeta, Term,
};
use holdfast::wal::{Identity, Opened, Wal, WalError, WalOptions};

pub const DIR: &str = "/data/log";
pub const BLOCK: u64 = 4096;

pub const IDENTITY: Identity = Identity {
    cluster: ClusterId([7; 16]),
    node: NodeId(0x1122_3344_5566_7788),
    incarnation: Incarnation(99),
};

/// Segments of so many blocks, nothing random, nothing in the background.
pub fn options(blocks: u64) -> WalOptions {
    WalOptions {
        segment_bytes: blocks * BLOCK,
        batch_bytes_max: 16 << 10,
        prepare_in_background: false,
        append: AppendMode::Direct,
        salt_seed: 0x5a17,
    }
}

/// Every way of appending that a disk in memory tells apart.
pub const MODES: [AppendMode; 2] = [AppendMode::Direct, AppendMode::Mapped];

pub fn dir() -> &'static Path {
    Path::new(DIR)
}

pub fn create(disk: &MemoryDisk, options: WalOptions) -> Result<Wal, WalError> {
    Wal::create(Arc::new(disk.clone()), dir(), IDENTITY, options)
}

pub fn open(disk: &MemoryDisk, options: WalOptions) -> Result<(Wal, Opened), WalError> {
    Wal::open(Arc::new(disk.clone()), dir(), Some(IDENTITY), options)
}

/// How much work a test does.
pub fn depth() -> u64 {
    let deep = std::env::var("WAL_DEEP").ok();
    deep.and_then(|value| value.parse().ok()).unwrap_or(1)
}

/// Log, hard state and reset point, as a `LogWrite` changes them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    pub hard_state: HardState,
    pub snapshot: Option<(LogIndex, Term)>,
    /// What the log begins after.
    pub base: (LogIndex, Term),
    pub entries: Vec<Entry>,
}

impl Model {
    pub fn last(&self) -> (LogIndex, Term) {
        let last = self.entries.last();
        last.map_or(self.base, |entry| (entry.index, entry.term))
    }

    pub fn apply(&mut self, write: &LogWrite) {
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(snapshot) = &write.reset_to {
            self.base = (snapshot.index, snapshot.term);
            self.snapshot = Some(self.base);
            self.entries.clear();
        }
        if let Some(from) = write.truncate_from {
            self.entries.retain(|entry| entry.index < from);
        }
        self.entries.extend(write.entries.iter().cloned());
    }

    /// The same log with entries up to `base` dropped.
    pub fn after(&self, base: LogIndex) -> Self {
        let mut model = self.clone();
        if base > self.base.0 {
            let position = self.entries.partition_point(|entry| entry.index <= base);
            let last = &self.entries[position - 1];
            model.base = (last.index, last.term);
            model.entries.drain(..position);
        }
        model
    }

    /// Whether `opened` is this log, apart from a purged prefix, and apart
    /// from a hard state that may be newer.
    pub fn matches_entries(&self, opened: &Opened) -> bool {
        opened.base.0 >= self.base.0
            && opened.base.0 <= self.last().0
            && self.after(opened.base.0).entries == opened.entries
            && self.after(opened.base.0).base == opened.base
            && self.snapshot == opened.snapshot
    }

    pub fn hard_state(&self, term: u64, vote: Option<u64>, commit: u64) -> LogWrite {
        LogWrite {
            hard_state: Some(HardState {
                term: Term(term),
                vote: vote.map(NodeId),
                commit_index: LogIndex(commit),
            }),
            ..LogWrite::default()
        }
    }

    /// Appends `sizes.len()` entries of those payload sizes.
    pub fn append(&self, term: u64, sizes: &[usize]) -> LogWrite {
        let last = self.last().0;
        LogWrite {
            entries: entries(last.next(), term, sizes),
            ..LogWrite::default()
        }
    }

    pub fn replace(&self, from: u64, term: u64, sizes: &[usize]) -> LogWrite {
        LogWrite {
            truncate_from: Some(LogIndex(from)),
            entries: entries(LogIndex(from), term, sizes),
            ..LogWrite::default()
        }
    }

    pub fn reset(&self, index: u64, term: u64, sizes: &[usize]) -> LogWrite {
        LogWrite {
            reset_to: Some(SnapshotMeta {
                index: LogIndex(index),
                term: Term(term),
                ..SnapshotMeta::default()
            }),
            entries: entries(LogIndex(index + 1), term, sizes),
            ..LogWrite::default()
        }
    }
}

/// Entries whose bytes depend on position and term, so that one never passes
/// for another.
pub fn entries(first: LogIndex, term: u64, sizes: &[usize]) -> Vec<Entry> {
    let one = |(position, &size): (usize, &usize)| {
        let index = LogIndex(first.0 + position as u64);
        Entry {
            index,
            term: Term(term),
            payload: match size {
                0 => EntryPayload::Noop,
                _ => EntryPayload::Command(payload(index.0, term, size)),
            },
        }
    };
    sizes.iter().enumerate().map(one).collect()
}

fn payload(index: u64, term: u64, size: usize) -> Arc<[u8]> {
    let mut state = index << 20 ^ term;
    let mut next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as u8
    };
    (0..size).map(|_| next()).collect()
}

/// The segment files of a disk, ascending.
pub fn segment_paths(disk: &MemoryDisk) -> Vec<std::path::PathBuf> {
    let names = disk.list(dir()).unwrap();
    let segments = names.iter().filter(|name| name.ends_with(".wal"));
    segments.map(|name| dir().join(name)).collect()
}
