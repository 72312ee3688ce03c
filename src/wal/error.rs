//! What can go wrong with the log, one variant per decision a caller can take.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::disk::DiskError;
use crate::types::{LogIndex, Term};

use super::format::Identity;

/// Why the log did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WalError {
    /// A file operation failed outside an append (opening, reading). Of an
    /// append: see [`WalError::Poisoned`].
    #[error("log: a file operation failed")]
    Disk(#[source] Arc<DiskError>),
    /// A write or sync failed, now or earlier. What is on the disk is unknown
    /// beyond the last acknowledged append; the process must stop and recover.
    #[error("log is poisoned by a failed write: stop and restart this node")]
    Poisoned(#[source] Arc<DiskError>),
    /// There is no room for another segment, and the reserve is used up.
    /// Nothing was begun that does not count: of an append, the first `done`
    /// writes are durable and the others may be tried again.
    #[error("no room for another log segment")]
    NoRoom {
        /// Writes that are durable.
        done: usize,
        /// The disk's word.
        #[source]
        source: Arc<DiskError>,
    },
    /// Bytes that were durable are not what was written. The files were left
    /// untouched.
    #[error("log is damaged: {0}")]
    Damaged(Damage),
    /// The directory belongs to another cluster, node or life of it.
    #[error("log segment {segment} belongs to {found}, expected {expected}")]
    Foreign {
        /// Sequence number of the segment that says so.
        segment: u64,
        /// Who was to open it.
        expected: Identity,
        /// Whom it belongs to.
        found: Identity,
    },
    /// Written by a newer program.
    #[error("log segment {segment} has format version {found}, this program reads version {known}")]
    Version {
        /// Sequence number of the segment.
        segment: u64,
        /// Its version.
        found: u16,
        /// The newest known here.
        known: u16,
    },
    /// There is no log to open.
    #[error("no log in {}", .0.display())]
    Missing(PathBuf),
    /// There is a log already where one was to be created.
    #[error("there is a log already in {}", .0.display())]
    Exists(PathBuf),
    /// The position is not in the log: purged, or not yet written.
    #[error("log position {wanted} is not among those on disk ({first} to {last})")]
    Gone {
        /// The position asked for.
        wanted: LogIndex,
        /// First position on disk.
        first: LogIndex,
        /// Last position on disk; before `first` if there is none.
        last: LogIndex,
    },
    /// One write does not fit into any segment.
    #[error("a log write of {bytes} bytes exceeds the largest segment ({max} bytes)")]
    TooLarge {
        /// Bytes it would take.
        bytes: u64,
        /// Bytes a segment can have.
        max: u64,
    },
}

/// Where the log is damaged and what is lost by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Sequence number of the segment.
    pub segment: u64,
    /// Byte offset in it.
    pub offset: u64,
    /// What was found there.
    pub what: &'static str,
    /// The entries known to be lost; `None`: none, or which is not known.
    pub lost: Option<LostRange>,
}

/// Entries that were acknowledged and cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostRange {
    /// First position.
    pub first: LogIndex,
    /// Last position known to be affected.
    pub last: LogIndex,
    /// Term of the first, as far as known a lower bound.
    pub first_term: Term,
    /// Term of the last.
    pub last_term: Term,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            segment,
            offset,
            what,
            lost,
        } = self;
        write!(f, "{what} in segment {segment} at byte {offset}")?;
        match lost {
            None => Ok(()),
            Some(lost) => write!(
                f,
                ": entries {} (term {}) to {} (term {}) cannot be read",
                lost.first, lost.first_term, lost.last, lost.last_term
            ),
        }
    }
}

/// Why an operation stopped half-way.
#[derive(Debug)]
pub(super) enum Stop {
    /// A write or sync failed.
    Failed(DiskError),
    /// No room for the next segment; so many writes before that are durable.
    Full {
        /// How many.
        done: usize,
        /// The disk's word.
        error: DiskError,
    },
}

impl Stop {
    /// The same, with so many writes durable before it.
    pub fn after(self, done: usize) -> Self {
        match self {
            Self::Full { error, .. } => Self::Full { done, error },
            failed @ Self::Failed(_) => failed,
        }
    }
}

impl From<DiskError> for Stop {
    fn from(error: DiskError) -> Self {
        Self::Failed(error)
    }
}

impl From<Stop> for WalError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Failed(error) => error.into(),
            Stop::Full { done, error } => Self::NoRoom {
                done,
                source: Arc::new(error),
            },
        }
    }
}

impl From<DiskError> for WalError {
    fn from(error: DiskError) -> Self {
        Self::Disk(Arc::new(error))
    }
}
