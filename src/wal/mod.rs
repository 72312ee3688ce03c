//! The durable Raft log: entries, hard state and resets, in segment files.
//!
//! One thread owns a [`Wal`] and appends; any thread may read through a
//! [`WalReader`]. What [`Wal::append`] returned from is durable; what it was
//! busy with at a crash is there wholly or not at all, one log write at a time,
//! in order.
//!
//! Bytes are described in [`mod@format`], what a crash leaves and what becomes of
//! it in `recovery.rs`, the order of a rotation in `rotate.rs`.
//!
//! Invariants:
//! - no durable byte that counts is ever written again: truncation is a flag on
//!   the batch that replaces, prefixes go by whole files;
//! - acknowledged bytes share no block with a later write;
//! - every block says where it belongs and what was durable before it;
//! - a segment always has room for the SEAL batch that closes it;
//! - the first failed write or sync latches: nothing is written after it, for
//!   a sync that failed once may report success next time (D-004).
//!
//! Sources: the promise is Pebble's sync offset; direct synchronous writes and
//! the distrust of "first invalid means end" are TigerBeetle's; a SEAL that
//! demands its successor closes the missing-tail hole of raft-wal.

mod error;

pub mod format;

pub mod batch;

mod index;

mod segment;

mod rotate;

mod append;

mod reader;

mod walk;

mod verdict;

mod recovery;

mod survey;

mod mend;

mod salvage;

mod scrub;

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::codec::crc32;
use crate::disk::{AppendMode, BlockBuffer, Disk, DiskError};
use crate::types::{Entry, HardState, LogIndex, LogWrite, Term};

pub use error::{Damage, LostRange, WalError};
pub use format::Identity;
pub use mend::{Mended, mend};
pub use reader::WalReader;
pub use recovery::Verdict;
pub use salvage::{Position, Rehearsal, Salvage, Unsuitable, Wanted, rehearse, salvage};
pub use scrub::{Scrubbed, WalScrub};
pub use survey::{FLAWS_MAX, Outcome, Seen, Survey, owner, survey};

use batch::{BatchId, vote_order};
use error::Stop;
use format::{BLOCK, Lsn, SEGMENT_BYTES_MIN, SegmentHeader};
use index::Index;
use reader::Shared;
use recovery::{Recovered, recover};
use rotate::{Spare, activate, remove_spare};
use segment::{SegmentFile, Tail, list_segments, segment_name};

/// Sizes and habits of a log.
#[derive(Clone, Copy, Debug)]
pub struct WalOptions {
    /// Length of a segment file in bytes, a multiple of 4096. A log write that
    /// does not fit into one gets a segment of its own size.
    pub segment_bytes: u64,
    /// A log write is split into batches of about this many bytes, at least
    /// one entry each: what a reader reads at once.
    pub batch_bytes_max: u64,
    /// Fill the next segment with zeros on a thread, at the pace at which the
    /// current one fills. Otherwise it is filled when it is needed.
    pub prepare_in_background: bool,
    /// How appends reach the disk.
    pub append: AppendMode,
    /// Where salts are drawn from. Must differ between any two processes that
    /// ever use one directory: the default is random.
    pub salt_seed: u64,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            batch_bytes_max: 1 << 20,
            prepare_in_background: true,
            append: AppendMode::default(),
            // The standard library keys every state from the system's entropy.
            salt_seed: RandomState::new().hash_one("wal salt"),
        }
    }
}

/// The log of one node, as its owner thread holds it.
pub struct Wal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    identity: Identity,
    options: WalOptions,
    /// What the log says after everything begun.
    hard_state: HardState,
    last: (LogIndex, Term),
    snapshot: Option<(LogIndex, Term)>,
    /// The hard state's (term, vote) is not yet in two blocks.
    vote_is_new: bool,
    /// A later promise covers the last batch with content.
    is_promised: bool,
    /// Closed segments, oldest first, with the greatest index in each.
    closed: VecDeque<(u64, LogIndex)>,
    tail: Tail,
    tail_last_index: LogIndex,
    spare: Spare,
    shared: Arc<Shared>,
    poison: Option<Arc<DiskError>>,
}

/// What a log held when it was opened.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Newest durable hard state.
    pub hard_state: HardState,
    /// The last snapshot the log was reset to, if it ever was.
    pub snapshot: Option<(LogIndex, Term)>,
    /// Position and term before the first entry present (or that would be).
    pub base: (LogIndex, Term),
    /// Every entry present, consecutive.
    pub entries: Vec<Entry>,
    /// How the log was found.
    pub verdict: Verdict,
}

impl Wal {
    /// Makes an empty log in a folder, which is made if need be. Blocks while
    /// the first segment is filled with zeros.
    ///
    /// # Errors
    /// [`WalError::Exists`], or the disk's; an interrupted creation can be
    /// repeated.
    pub fn create(
        disk: Arc<dyn Disk>,
        dir: &Path,
        identity: Identity,
        options: WalOptions,
    ) -> Result<Self, WalError> {
        check_options(&options);
        disk.create_dir_all(dir)?;
        if !list_segments(&*disk, dir)?.is_empty() {
            return Err(WalError::Exists(dir.to_path_buf()));
        }
        let mut spare = Spare::new(Arc::clone(&disk), dir, options.segment_bytes);
        let (file, bytes) = spare.take(options.segment_bytes)?;
        let base_lsn = Lsn(bytes);
        let header = SegmentHeader {
            identity,
            sequence: 1,
            salt: salt(options.salt_seed, 1, base_lsn),
            base_lsn,
            segment_bytes: u32::try_from(bytes).expect("options were checked"),
            hard_state: HardState::default(),
            snapshot: None,
        };
        let (io, segment) = activate(&disk, dir, file, header, options.append)?;
        let tail = Tail {
            io,
            header,
            offset: BLOCK,
            last: BatchId::default(),
            rows: Vec::new(),
            segment,
            memory: BlockBuffer::default(),
        };
        Ok(Self {
            dir: dir.to_path_buf(),
            identity,
            options,
            hard_state: HardState::default(),
            last: (LogIndex(0), Term(0)),
            snapshot: None,
            vote_is_new: false,
            is_promised: true,
            closed: VecDeque::new(),
            tail,
            tail_last_index: LogIndex(0),
            spare,
            shared: Shared::new(Index::default(), BTreeMap::new()),
            poison: None,
            disk,
        })
    }

    /// Opens the log in a folder, cutting a torn tail. The caller holds the
    /// directory's lock. Blocks while the whole log is read.
    ///
    /// # Errors
    /// [`WalError::Missing`] without a log; [`WalError::Foreign`] if it is not
    /// `expected`'s (`None`: anybody's, but all segments alike);
    /// [`WalError::Damaged`] or [`WalError::Version`], every file untouched.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        expected: Option<Identity>,
        options: WalOptions,
    ) -> Result<(Self, Opened), WalError> {
        check_options(&options);
        let recovered = recover(&*disk, dir, expected)?;
        let verdict = recovered.verdict;
        let unused = recovered.unused;
        let worthless = recovered.worthless.clone();
        let (mut wal, opened) = Self::resume(disk, dir, options, recovered)?;
        wal.repair(verdict, unused, &worthless)?;
        Ok((wal, opened))
    }

    /// The log as recovery read it, before anything is changed.
    fn resume(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: WalOptions,
        recovered: Recovered,
    ) -> Result<(Self, Opened), WalError> {
        let Recovered {
            walk,
            verdict,
            headers,
            tail,
            tail_offset,
            ..
        } = recovered;
        let hard_state = HardState {
            commit_index: walk.hard_state.commit_index,
            ..walk.highest
        };
        let mut segments: BTreeMap<u64, Arc<SegmentFile>> = headers
            .iter()
            .map(|header| {
                let segment = SegmentFile::closed(Arc::clone(&disk), dir, *header);
                (header.sequence, Arc::new(segment))
            })
            .collect();
        let segment = Arc::new(SegmentFile::active(Arc::clone(&disk), dir, tail.header)?);
        let io = disk.segment_io(segment.path(), options.append)?;
        segments.insert(tail.header.sequence, Arc::clone(&segment));
        let opened = Opened {
            hard_state,
            snapshot: walk.snapshot,
            base: walk.index.base(),
            entries: walk.entries,
            verdict,
        };
        let mut closed: VecDeque<(u64, LogIndex)> = walk.last_indexes.into();
        let (_, tail_last_index) = closed.pop_back().expect("the tail was read");
        let wal = Self {
            dir: dir.to_path_buf(),
            identity: tail.header.identity,
            options,
            hard_state,
            last: walk.index.last(),
            snapshot: walk.snapshot,
            vote_is_new: vote_order(&hard_state) != vote_order(&walk.hard_state),
            is_promised: walk.ends_with_mark,
            closed,
            tail: Tail {
                io,
                header: tail.header,
                offset: tail_offset,
                last: walk.last.expect("recovery found what to continue"),
                rows: walk.rows,
                segment,
                memory: BlockBuffer::default(),
            },
            tail_last_index,
            spare: Spare::new(Arc::clone(&disk), dir, options.segment_bytes),
            shared: Shared::new(walk.index, segments),
            poison: None,
            disk,
        };
        Ok((wal, opened))
    }

    /// What opening changes on the disk. Interrupted anywhere, opening again
    /// finds the same log.
    fn repair(
        &mut self,
        verdict: Verdict,
        unused: Option<u64>,
        worthless: &[u64],
    ) -> Result<(), WalError> {
        remove_spare(&*self.disk, &self.dir)?;
        for &sequence in worthless {
            self.disk.remove(&self.dir.join(segment_name(sequence)))?;
            self.disk.sync_dir(&self.dir)?;
        }
        if let Some(sequence) = unused {
            // Prepared for a rotation that was not made: the next one starts
            // from a fresh file.
            self.disk.remove(&self.dir.join(segment_name(sequence)))?;
            self.disk.sync_dir(&self.dir)?;
        }
        match verdict {
            Verdict::TornTail { .. } => self.abandon_tail()?,
            Verdict::Clean if self.vote_is_new => self.write_hard_state()?,
            Verdict::Clean => {}
        }
        Ok(())
    }

    /// Whose log it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// How appends reach the disk, in words: the mode asked for may have been
    /// refused.
    #[must_use]
    pub fn append_way(&self) -> &'static str {
        self.tail.io.way()
    }

    /// Makes writes durable, in order, each wholly or not at all; together in
    /// one synchronous write where they fit into one segment.
    ///
    /// Panics if a write contradicts the log (a gap, a lower term, cutting
    /// committed entries): that is a broken program.
    ///
    /// # Errors
    /// [`WalError::TooLarge`], nothing written; [`WalError::NoRoom`], saying
    /// how many are written; otherwise [`WalError::Poisoned`], now and ever
    /// after.
    pub fn append(&mut self, writes: &[LogWrite]) -> Result<(), WalError> {
        self.check_poison()?;
        self.append_writes(writes)
    }

    /// A reader of this log.
    #[must_use]
    pub fn reader(&self) -> WalReader {
        WalReader::new(Arc::clone(&self.shared))
    }

    /// Drops closed segments that hold nothing after `through`, oldest first,
    /// and those that a reset made worthless. The hard state stays.
    ///
    /// # Errors
    /// [`WalError::Poisoned`]: a half-made removal is not continued blindly.
    /// [`WalError::NoRoom`]: it may be tried again.
    pub fn purge(&mut self, through: LogIndex) -> Result<(), WalError> {
        self.check_poison()?;
        let result = self.purge_segments(through);
        self.latch(result)
    }

    fn purge_segments(&mut self, through: LogIndex) -> Result<(), Stop> {
        let reset_sequence = self.oldest_live_segment();
        while let Some(&(sequence, last_index)) = self.closed.front() {
            if last_index > through && sequence >= reset_sequence {
                break;
            }
            if self.tail.rows.is_empty() {
                // The survivor must say where the log begins.
                self.write_mark()?;
            }
            let segment = {
                let mut published = self.shared.published();
                published.index.drop_before(sequence + 1);
                published.segments.remove(&sequence)
            };
            let path = match segment {
                Some(segment) => segment.path().to_path_buf(),
                None => self.dir.join(segment_name(sequence)),
            };
            self.disk.remove(&path)?;
            // One at a time: the survivors must be consecutive whatever a
            // crash makes of removals that are not durable.
            self.disk.sync_dir(&self.dir)?;
            self.closed.pop_front();
        }
        Ok(())
    }

    /// The segment of the first live entry; the tail if there are none.
    fn oldest_live_segment(&self) -> u64 {
        let published = self.shared.published();
        let first = published.index.base().0.next();
        let extent = published.index.extents_from(first).next();
        extent.map_or(self.tail.header.sequence, |extent| extent.segment)
    }

    /// Makes it certain that the last write is durable, should its bytes decay:
    /// nothing if that is so already. For quiet moments and for shutdown.
    ///
    /// # Errors
    /// [`WalError::Poisoned`], or [`WalError::NoRoom`].
    pub fn mark_idle(&mut self) -> Result<(), WalError> {
        self.check_poison()?;
        if self.is_promised {
            return Ok(());
        }
        let result = self.write_mark();
        self.latch(result)
    }

    fn check_poison(&self) -> Result<(), WalError> {
        match &self.poison {
            Some(error) => Err(WalError::Poisoned(Arc::clone(error))),
            None => Ok(()),
        }
    }

    fn latch(&mut self, result: Result<(), Stop>) -> Result<(), WalError> {
        match result {
            Ok(()) => Ok(()),
            Err(Stop::Failed(error)) => {
                self.poison = Some(Arc::new(error));
                self.check_poison()
            }
            // Nothing was begun on the log itself: it is as good as before.
            Err(stop @ Stop::Full { .. }) => Err(stop.into()),
        }
    }

    /// Fills the reserve anew on a thread of its own, if it was used and there
    /// is room again. For quiet moments.
    pub fn replenish(&mut self) {
        if self.options.prepare_in_background && self.poison.is_none() {
            self.spare.replenish();
        }
    }
}

fn check_options(options: &WalOptions) {
    assert!(options.segment_bytes.is_multiple_of(BLOCK));
    assert!(options.segment_bytes >= SEGMENT_BYTES_MIN);
    assert!(options.segment_bytes <= u64::from(u32::MAX) / 2);
    assert!(options.batch_bytes_max > 0);
}

fn salt(seed: u64, sequence: u64, base_lsn: Lsn) -> u64 {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
    bytes[16..].copy_from_slice(&base_lsn.0.to_le_bytes());
    seed ^ (u64::from(crc32(1, &bytes)) << 32 | u64::from(crc32(2, &bytes)))
}
