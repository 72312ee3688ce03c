//! What a running node does beside its work: measures the disk, and reads its
//! closed log segments and snapshots again at a bounded rate.
//!
//! A flaw is told in the log and remembered. A snapshot that has one is replaced
//! by `replacing.rs`; a log that has one is repaired by `mending.rs`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use crate::disk::Disk;
use crate::snapshot::{SnapshotScrub, SnapshotScrubbed};
use crate::sync::queue::{Nothing, Receiver};
use crate::sync::{Mutex, MutexGuard};
use crate::types::{LogIndex, Term};
use crate::wal::{Damage, Scrubbed, WalScrub};

use super::board::Board;
use super::options::ScrubOptions;
use super::replacing::Replacing;
use super::space::Space;
use super::wal_thread::chain;

/// Stored bytes that are not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// In a closed segment of the log: where, and which entries.
    Log(Damage),
    /// In a snapshot.
    Snapshot {
        /// The file.
        path: PathBuf,
        /// Position it covers.
        index: LogIndex,
        /// Term of that entry.
        term: Term,
        /// What is wrong with it.
        reason: String,
    },
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Log(damage) => write!(f, "log: {damage}"),
            Self::Snapshot { reason, .. } => write!(f, "{reason}"),
        }
    }
}

/// What scrubbing has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubStatus {
    /// Bytes read since the node was started.
    pub bytes: u64,
    /// Times that everything was read.
    pub rounds: u64,
    /// Flaws found, each once; at most [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// How often one was repaired: a snapshot set aside and another asked for,
    /// a log written anew.
    pub repaired: u64,
}

/// Findings kept.
pub const FINDINGS_MAX: usize = 100;

/// Where the status is found.
#[derive(Default)]
pub(super) struct ScrubBoard {
    status: Mutex<ScrubStatus>,
    /// Segments that a repair was begun for.
    begun: Mutex<BTreeSet<u64>>,
}

impl ScrubBoard {
    pub fn newest(&self) -> ScrubStatus {
        self.status().clone()
    }

    /// Notes a flaw, and says so in the log the first time.
    pub fn add(&self, finding: Finding) {
        let mut status = self.status();
        if status.findings.contains(&finding) || status.findings.len() >= FINDINGS_MAX {
            return;
        }
        tracing::error!(%finding, "stored bytes have changed");
        status.findings.push(finding);
    }

    /// Notes that something was repaired.
    pub fn add_repaired(&self) {
        self.status().repaired += 1;
    }

    /// Whether a repair for this segment may begin: each is tried once, unless
    /// it could not be begun.
    pub fn begin_repair(&self, segment: u64) -> bool {
        self.begun().insert(segment)
    }

    /// It could not be begun: it may be tried again.
    pub fn postpone_repair(&self, segment: u64) {
        self.begun().remove(&segment);
    }

    fn begun(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        // Every change is one step: a panic elsewhere left it whole.
        self.begun
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn status(&self) -> MutexGuard<'_, ScrubStatus> {
        // Every change is one step: a panic elsewhere left it whole.
        self.status
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Everything the thread owns. It ends when the sending side is dropped.
pub(super) struct Upkeep {
    pub disk: Arc<dyn Disk>,
    pub directory: PathBuf,
    pub board: Arc<Board>,
    pub space: Arc<Space>,
    pub scrub: Arc<ScrubBoard>,
    pub options: ScrubOptions,
    pub log: WalScrub,
    pub snapshots: SnapshotScrub,
    pub replacing: Replacing,
    /// Told of every flaw in the log, each time it is met.
    pub flaws: UnboundedSender<Damage>,
    /// Whether the log was read to its end in this round.
    pub log_is_done: bool,
    pub stop: Receiver<()>,
}

impl Upkeep {
    pub fn run(mut self) {
        let mut next_scrub = Instant::now() + self.options.pause;
        while self.stop.recv_timeout(INTERVAL) == Err(Nothing::Yet) {
            let state_bytes = self.board.newest().bytes();
            self.space.look(&*self.disk, &self.directory, state_bytes);
            self.replacing.look();
            if self.options.bytes_per_second > 0
                && Instant::now() >= next_scrub
                && self.scrub_some()
            {
                next_scrub = Instant::now() + self.options.pause;
            }
        }
    }

    /// Reads as much as an interval allows; whether a round ended.
    fn scrub_some(&mut self) -> bool {
        let share = INTERVAL.as_millis() as u64 * self.options.bytes_per_second / 1000;
        let (read, is_end) = self.step(share.max(1));
        let mut status = self.scrub.status();
        status.bytes += read;
        status.rounds += u64::from(is_end);
        is_end
    }

    /// First the log to its end, then the snapshots.
    fn step(&mut self, bytes: u64) -> (u64, bool) {
        if !self.log_is_done {
            return match self.log.step(bytes) {
                Ok((Scrubbed::Sound, read)) => (read, false),
                Ok((Scrubbed::Flaw(damage), read)) => {
                    // Nobody listens: the node is stopping, or runs alone.
                    let _ = self.flaws.send(damage.clone());
                    self.scrub.add(Finding::Log(damage));
                    (read, false)
                }
                Ok((Scrubbed::End, read)) => {
                    self.log_is_done = true;
                    (read, false)
                }
                Err(error) => {
                    tracing::warn!(error = chain(&error), "the log was not scrubbed");
                    (0, true)
                }
            };
        }
        match self.snapshots.step(bytes) {
            Ok((SnapshotScrubbed::Sound, read)) => (read, false),
            Ok((SnapshotScrubbed::End, read)) => {
                self.log_is_done = false;
                (read, true)
            }
            Ok((SnapshotScrubbed::Flaw(info, error), read)) => {
                tracing::warn!(error = chain(&error), "a snapshot is read again");
                self.replacing.replace(&info);
                (read, false)
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "a snapshot was not scrubbed");
                self.log_is_done = false;
                (0, true)
            }
        }
    }
}

/// How often the disk is measured, and a share of scrubbing done.
const INTERVAL: Duration = Duration::from_millis(250);
