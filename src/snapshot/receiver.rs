//! Receives a snapshot file from another node, byte for byte.

use super::directory::SnapshotDirectory;
use super::temporary::TemporaryFile;
use super::{SnapshotError, SnapshotInfo};

/// A snapshot on its way in. It outlives the connection it began on: the
/// sender continues at [`SnapshotReceiver::offset`], on another connection or
/// from another leader, as long as the SHA-256 announced is the same. Dropped
/// before [`SnapshotReceiver::finish`], it leaves nothing behind.
pub struct SnapshotReceiver {
    directory: SnapshotDirectory,
    file: TemporaryFile,
    expected_bytes: u64,
    synced_bytes: u64,
}

/// A snapshot received, durable and verified, that has no final name yet.
/// Dropped without being published, it is removed.
pub struct StagedSnapshot {
    pub(super) file: TemporaryFile,
    pub(super) info: SnapshotInfo,
}

impl SnapshotReceiver {
    pub(super) fn begin(
        directory: SnapshotDirectory,
        file: TemporaryFile,
        expected_bytes: u64,
    ) -> Self {
        Self {
            directory,
            file,
            expected_bytes,
            synced_bytes: 0,
        }
    }

    /// Where the next bytes must begin.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.file.length()
    }

    /// Length announced.
    #[must_use]
    pub fn expected_bytes(&self) -> u64 {
        self.expected_bytes
    }

    /// Appends bytes; syncs every 16 MiB, so that the final sync is short and
    /// a disk that fails is noticed early.
    ///
    /// # Errors
    /// Bytes from another offset, or more than were announced: nothing is
    /// changed. The disk failed: the receiver is of no use any more.
    pub fn append(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SnapshotError> {
        if offset != self.offset() {
            return Err(SnapshotError::WrongOffset {
                expected: self.offset(),
                given: offset,
            });
        }
        let end = offset + bytes.len() as u64;
        if self.expected_bytes < end {
            return Err(SnapshotError::WrongLength {
                expected: self.expected_bytes,
                received: end,
            });
        }
        self.file.append(bytes)?;
        if SYNC_BYTES <= end - self.synced_bytes {
            self.file.sync()?;
            self.synced_bytes = end;
        }
        Ok(())
    }

    /// Makes everything durable, reads it back from the disk and verifies it.
    ///
    /// # Errors
    /// Too few bytes, a damaged file, another content than `sha256` names, or
    /// a failing disk. What was received is gone then.
    pub fn finish(mut self, sha256: &[u8; 32]) -> Result<StagedSnapshot, SnapshotError> {
        if self.offset() != self.expected_bytes {
            return Err(SnapshotError::WrongLength {
                expected: self.expected_bytes,
                received: self.offset(),
            });
        }
        self.file.sync()?;
        let info = self.directory.verify_file(self.file.path())?;
        if info.sha256 != *sha256 {
            return Err(SnapshotError::WrongContent {
                expected: *sha256,
                found: info.sha256,
            });
        }
        Ok(StagedSnapshot {
            file: self.file,
            info,
        })
    }
}

impl StagedSnapshot {
    /// What it is. Its path is that of the staged file.
    #[must_use]
    pub fn info(&self) -> &SnapshotInfo {
        &self.info
    }
}

/// Bytes received between two syncs.
const SYNC_BYTES: u64 = 16 << 20;
