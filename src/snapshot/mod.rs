//! Snapshot files: the replicated state at one log index, written, verified,
//! streamed to other nodes and received from them.
//!
//! What it must never do: let a file be found under its final name before it
//! was verified from the disk and its name is durable; delete or skip a file
//! that is bad without saying so.
//!
//! ```text
//! header   magic HFSNAP01 · format version · state machine version · length
//!          cluster · index · term · membership index · restore epoch
//!          restore in progress · entry and staged counts · membership
//!          zeros to a multiple of 4 KiB · CRC-32
//! chunk*   magic HFSC · sequence · length · CRC-32 chained from what precedes
//!          at most 1 MiB of the record stream
//! footer   magic HFSF · chunk table · SHA-256 of everything before it
//!          length · CRC-32 · magic HFSNAPOK
//!
//! record   key length u32 · value length u32 · staged u32 · key · value
//! ```
//!
//! Records run on from chunk to chunk: first the state in key order, then what
//! a restore in progress has gathered, in key order. There is no time and no
//! node in it: equal states give equal bytes, so that replicas can compare
//! SHA-256 to find divergence.
//!
//! A crash leaves at most a `.tmp` file, removed at the next start. A file
//! found bad is renamed to `.broken` and kept for inspection.
//!
//! Everything blocks. `archive` is the downloadable form, which OpenBao reads
//! and writes too.

pub mod archive;
mod directory;
mod format;
mod output;
mod reader;
mod receiver;
mod scrub;
mod temporary;
mod writer;

pub use directory::{BrokenSnapshot, SnapshotBytes, SnapshotDirectory};
pub use reader::SnapshotReader;
pub use receiver::{SnapshotReceiver, StagedSnapshot};
pub use scrub::{SnapshotScrub, SnapshotScrubbed};
pub use writer::SnapshotWriter;

use std::path::PathBuf;

use crate::disk::DiskError;
use crate::types::{ClusterId, SnapshotMeta, StateHeader};

/// What is known of a snapshot file from its header and footer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// What it covers.
    pub meta: SnapshotMeta,
    /// What else it says before its records.
    pub state: StateHeader,
    /// Whose state.
    pub cluster: ClusterId,
    /// Length of the file.
    pub bytes: u64,
    /// Of the whole file but the footer's end: names the content.
    pub sha256: [u8; 32],
    /// Where it is.
    pub path: PathBuf,
}

impl SnapshotInfo {
    /// Number of records, staged ones included.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.state.entry_count + self.state.staged_count
    }
}

/// Why a snapshot was not written, read or received.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file system failed.
    #[error("snapshot file")]
    Disk(#[source] DiskError),
    /// The disk cannot give back what it holds: a bad sector.
    #[error("snapshot {} cannot be read at byte {offset}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// From which byte on.
        offset: u64,
        /// The system's word.
        #[source]
        source: DiskError,
    },
    /// The file does not hold what was written.
    #[error("snapshot {} is damaged at byte {offset}: {reason}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Near which byte.
        offset: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// Written by a newer program.
    #[error("snapshot {} has format version {version}, which this program does not know", path.display())]
    Unsupported {
        /// Which file.
        path: PathBuf,
        /// Its format version.
        version: u16,
    },
    /// An earlier write to this file failed: it must not be used again.
    #[error("an earlier write to snapshot {} failed", path.display())]
    Poisoned {
        /// Which file.
        path: PathBuf,
    },
    /// Received bytes do not continue what is there.
    #[error("received snapshot bytes begin at {given}, expected {expected}")]
    WrongOffset {
        /// The offset to continue at.
        expected: u64,
        /// The offset given.
        given: u64,
    },
    /// More, or fewer, bytes than were announced.
    #[error("received {received} snapshot bytes of {expected} announced")]
    WrongLength {
        /// Announced.
        expected: u64,
        /// Received.
        received: u64,
    },
    /// A sound snapshot, but not the one that was announced.
    #[error(
        "received a snapshot with SHA-256 {}, expected {}",
        hex::encode(found),
        hex::encode(expected)
    )]
    WrongContent {
        /// Announced.
        expected: [u8; 32],
        /// Received.
        found: [u8; 32],
    },
}

impl SnapshotError {
    /// Whether it is this file that is bad, so that another may be sound.
    #[must_use]
    pub fn is_about_content(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Unreadable { .. })
    }
}

#[cfg(test)]
mod tests;
