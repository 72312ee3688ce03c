//! Entry points for bytes from a disk, and for whatever a disk may live
//! through.

use std::path::Path;
use std::sync::Arc;

use holdfast::codec;
use holdfast::disk::{AppendMode, BLOCK_BYTES, Disk, MemoryDisk};
use holdfast::snapshot::SnapshotReader;
use holdfast::types::{Entry, EntryPayload, HardState, LogIndex, LogWrite, NodeId, Term};
use holdfast::wal::batch::{Records, is_intact, seal_table, unreadable_entries};
use holdfast::wal::format::{BATCH_HEADER, BatchHeader, Lsn, SegmentHeader};
use holdfast::wal::{Opened, Wal, WalOptions};

use super::IDENTITY;

/// A batch: its header, then its body. Also with what a fuzzer does not guess
/// (place, salt, checksum) put right.
pub fn batch(bytes: &[u8]) {
    let Some((head, body)) = bytes.split_first_chunk::<BATCH_HEADER>() else {
        return;
    };
    let segment = SegmentHeader {
        identity: IDENTITY,
        sequence: 3,
        salt: 0x5a17,
        base_lsn: Lsn(1 << 20),
        segment_bytes: 16 * BLOCK_BYTES as u32,
        hard_state: HardState::default(),
        snapshot: None,
    };
    let offset = BLOCK_BYTES as u64;
    let mut repaired = *head;
    repaired[..4].copy_from_slice(b"HFB1");
    repaired[6..8].copy_from_slice(&1_u16.to_le_bytes());
    repaired[8..16].copy_from_slice(&segment.lsn(offset).0.to_le_bytes());
    repaired[16..24].copy_from_slice(&segment.salt.to_le_bytes());
    let checksum = codec::crc32(segment.seed(), &repaired[..124]);
    repaired[124..].copy_from_slice(&checksum.to_le_bytes());
    for head in [*head, repaired] {
        let Some((header, _)) = BatchHeader::decode(&segment, offset, &head) else {
            continue;
        };
        let length = header.length as usize;
        assert!(offset + length as u64 <= segment.area_end());
        let mut batch = [&head[..], body].concat();
        batch.resize(length, 0);
        let records = Records::new(&header, segment.seed(), &batch);
        let count = records.take_while(Result::is_ok).count();
        assert!(count <= header.record_count as usize);
        let _ = is_intact(&header, segment.seed(), &batch);
        let _ = seal_table(&header, segment.seed(), &batch);
        if let Some(range) = unreadable_entries(&header, segment.seed(), &batch) {
            assert!(header.first_index <= *range.start() && *range.end() <= header.last_index);
        }
    }
}

/// A snapshot file.
pub fn snapshot(bytes: &[u8]) {
    let disk = MemoryDisk::new();
    let path = Path::new("/snapshot");
    let mut file = disk.create(path).expect("a memory disk creates");
    file.write_at(0, bytes).expect("a memory disk writes");
    let Ok(reader) = SnapshotReader::open(file, path) else {
        return;
    };
    let expected = reader.info().entries();
    let mut count = 0;
    for record in reader {
        match record {
            Ok(_) => count += 1,
            Err(_) => return,
        }
    }
    assert_eq!(count, expected);
}

/// Operations on a log, two bytes each, power cuts among them, against what
/// the log should hold.
pub fn operations(bytes: &[u8]) {
    let Some((&first, rest)) = bytes.split_first() else {
        return;
    };
    let mut log = Checked::new(first);
    let (steps, _) = rest.as_chunks::<2>();
    for [operation, argument] in steps.iter().take(STEPS_MAX) {
        log.perform(*operation, *argument);
    }
    log.reopen();
}

const STEPS_MAX: usize = 120;
const FOLDER: &str = "/log";

/// What a log should hold.
#[derive(Clone, Debug, Default)]
struct State {
    hard_state: HardState,
    entries: Vec<Entry>,
}

struct Checked {
    disk: MemoryDisk,
    options: WalOptions,
    wal: Wal,
    state: State,
}

impl Checked {
    fn new(choice: u8) -> Self {
        let disk = MemoryDisk::new();
        let options = WalOptions {
            segment_bytes: [4, 6, 9, 24][usize::from(choice & 3)] * BLOCK_BYTES as u64,
            batch_bytes_max: 4 * BLOCK_BYTES as u64,
            prepare_in_background: false,
            append: match choice & 4 {
                0 => AppendMode::Direct,
                _ => AppendMode::Mapped,
            },
            salt_seed: 1,
        };
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let wal = Wal::create(shared, Path::new(FOLDER), IDENTITY, options);
        Self {
            disk,
            options,
            wal: wal.expect("a log is created"),
            state: State::default(),
        }
    }

    fn perform(&mut self, operation: u8, argument: u8) {
        match operation % 8 {
            0..=3 => {
                let write = self.state.write(operation, argument);
                let group = std::slice::from_ref(&write);
                self.wal.append(group).expect("a memory disk takes a log");
                self.state.apply(&write);
            }
            4 => self.wal.mark_idle().expect("a memory disk takes a mark"),
            5 => {
                let through = self.state.hard_state.commit_index;
                self.wal.purge(through).expect("a memory disk purges");
            }
            6 => self.reopen(),
            _ => self.power_cut(operation, argument),
        }
    }

    fn open(&mut self) -> Opened {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let opened = Wal::open(disk, Path::new(FOLDER), Some(IDENTITY), self.options);
        let (wal, opened) = opened.expect("a log without damage opens");
        self.wal = wal;
        opened
    }

    fn reopen(&mut self) {
        let opened = self.open();
        assert!(self.state.is_in(&opened), "{opened:?}\n{:?}", self.state);
        assert_eq!(opened.hard_state, self.state.hard_state);
    }

    /// Writes until the power fails, and finds what was acknowledged.
    fn power_cut(&mut self, operation: u8, argument: u8) {
        let calls = self.disk.calls() + u64::from(argument % 16);
        self.disk.power_off_at(calls);
        let begun = loop {
            let write = self.state.write(operation >> 3, argument);
            let mut begun = self.state.clone();
            begun.apply(&write);
            match self.wal.append(&[write]) {
                Ok(()) => self.state = begun,
                Err(_) => break begun,
            }
        };
        let seed = u64::from(operation) << 8 | u64::from(argument);
        self.disk = self.disk.crash_seeded(seed);
        let opened = self.open();
        let states = [&begun, &self.state];
        let found = states.into_iter().find(|state| state.is_in(&opened));
        let found = found
            .unwrap_or_else(|| panic!("{opened:?}\n{:?}", self.state))
            .clone();
        let order = |state: &HardState| (state.term, state.vote);
        assert!(order(&opened.hard_state) >= order(&self.state.hard_state));
        assert!(order(&opened.hard_state) <= order(&begun.hard_state));
        self.state = State {
            hard_state: opened.hard_state,
            ..found
        };
    }
}

impl State {
    fn last(&self) -> (u64, u64) {
        let last = self.entries.last();
        last.map_or((0, 0), |entry| (entry.index.0, entry.term.0))
    }

    /// A write that fits: no lower term, nothing committed is cut.
    fn write(&self, operation: u8, argument: u8) -> LogWrite {
        const SIZES: [usize; 8] = [0, 1, 250, 3000, 3900, 4096, 9000, 20_000];
        let (last, last_term) = self.last();
        let hard = self.hard_state;
        if operation % 4 == 3 {
            let term = hard.term.0.max(last_term) + u64::from(argument & 1);
            let vote = (argument & 2 != 0).then_some(NodeId(u64::from(argument >> 4)));
            let is_new = term > hard.term.0 || hard.vote.is_none();
            return LogWrite {
                hard_state: Some(HardState {
                    term: Term(term),
                    vote: if is_new { vote } else { hard.vote },
                    commit_index: LogIndex(last.saturating_sub(u64::from(argument >> 5)))
                        .max(hard.commit_index),
                }),
                ..LogWrite::default()
            };
        }
        let back = u64::from(argument & 3);
        let from = match operation % 4 {
            2 => (last + 1).saturating_sub(back).max(hard.commit_index.0 + 1),
            _ => last + 1,
        };
        let term = last_term.max(1) + u64::from(argument >> 2 & 1);
        let count = u64::from(argument >> 3 & 3) + 1;
        let size = SIZES[usize::from(argument >> 5)];
        let entry = |index: u64| Entry {
            index: LogIndex(index),
            term: Term(term),
            payload: match size {
                0 => EntryPayload::Noop,
                _ => EntryPayload::Command(vec![(index ^ term) as u8; size].into()),
            },
        };
        LogWrite {
            truncate_from: (from <= last).then_some(LogIndex(from)),
            entries: (from..from + count).map(entry).collect(),
            ..LogWrite::default()
        }
    }

    fn apply(&mut self, write: &LogWrite) {
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(from) = write.truncate_from {
            self.entries.retain(|entry| entry.index < from);
        }
        self.entries.extend(write.entries.iter().cloned());
    }

    /// Whether a log holds this, but for what was purged.
    fn is_in(&self, opened: &Opened) -> bool {
        let kept = self
            .entries
            .iter()
            .filter(|entry| entry.index > opened.base.0);
        opened.entries.iter().eq(kept) && opened.base.0 <= self.hard_state.commit_index
    }
}
