//! The only access to files, the only memmap2 and the only `unsafe`. Real
//! files here (`RealDisk`), an in-memory disk for `-dev` and tests
//! (`MemoryDisk`); the simulator brings a faulty one.
//!
//! Everything blocks. Every error names operation and path. After the first
//! failed write or sync of a file the caller must not use it again (D-004).

mod real;

mod append;

mod blocks;

mod direct;

mod mapped;

mod lock;

mod memory;

mod crash;

#[cfg(test)]
mod tests;

pub use blocks::BlockBuffer;
pub use crash::{CacheAfter, Fate, Unsynced};
pub use memory::MemoryDisk;
pub use real::{RealDisk, open_read_only};

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Blocks of durable writes, in bytes: offset and length of
/// [`SegmentIo::append`] are multiples of it.
pub const BLOCK_BYTES: usize = 4096;

/// A failed file operation.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}", path.display())]
pub struct DiskError {
    /// What was tried, e.g. `sync`.
    pub operation: &'static str,
    /// On which file or folder.
    pub path: PathBuf,
    /// The system's word.
    #[source]
    pub source: io::Error,
}

impl DiskError {
    pub(crate) fn new(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self {
            operation,
            path: path.to_path_buf(),
            source,
        }
    }
}

impl DiskError {
    /// Whether there was no room, so that it may go well later.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }
}

/// Result of a file operation.
pub type DiskResult<T> = Result<T, DiskError>;

/// A file system.
pub trait Disk: Send + Sync + 'static {
    /// Creates a folder and its parents, durable in their parents.
    fn create_dir_all(&self, path: &Path) -> DiskResult<()>;
    /// Names in a folder, sorted.
    fn list(&self, path: &Path) -> DiskResult<Vec<String>>;
    /// Whether a file exists.
    fn exists(&self, path: &Path) -> DiskResult<bool>;
    /// Creates a new empty file, mode 0600; an existing one is an error.
    fn create(&self, path: &Path) -> DiskResult<Box<dyn File>>;
    /// Opens a file for reading and writing.
    fn open(&self, path: &Path) -> DiskResult<Box<dyn File>>;
    /// Replaces `to` atomically; durable after `sync_dir`.
    fn rename(&self, from: &Path, to: &Path) -> DiskResult<()>;
    /// Removes a file; durable after `sync_dir`.
    fn remove(&self, path: &Path) -> DiskResult<()>;
    /// Makes creations, renames and removals in a folder durable.
    fn sync_dir(&self, path: &Path) -> DiskResult<()>;
    /// Bytes that can still be written below a folder.
    fn free_bytes(&self, path: &Path) -> DiskResult<u64>;
    /// Appends to a file of zeroed, synced blocks, in this way or the next
    /// best that the file system and the file allow. The file keeps its length.
    fn segment_io(&self, path: &Path, mode: AppendMode) -> DiskResult<Box<dyn SegmentIo>>;
    /// The whole file, read-only; nobody may write to it any more.
    fn map(&self, path: &Path) -> DiskResult<Arc<dyn Mapped>>;
    /// Takes the lock of a data directory, released on drop or process end.
    /// Held elsewhere: an error of kind `WouldBlock` naming the holder's pid.
    fn lock(&self, path: &Path) -> DiskResult<Box<dyn Send + Sync>>;
}

/// How appends to a segment reach the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppendMode {
    /// One direct, synchronous write each, past the page cache.
    #[default]
    Direct,
    /// One synchronous write each, through the page cache.
    Cached,
    /// Stores through a shared map, and a sync of the range (`wal_io =
    /// "mmap"`).
    Mapped,
}

/// The end of a segment: zeroed blocks that are filled, each once, in order.
pub trait SegmentIo: Send {
    /// Puts whole blocks at a multiple of [`BLOCK_BYTES`], within the file;
    /// they are durable when it returns. After an error it must not be called
    /// again (D-004).
    fn append(&mut self, offset: u64, blocks: &[u8]) -> DiskResult<()>;
    /// What it does for that, in words for the log: shows a fallback.
    fn way(&self) -> &'static str;
}

/// An open file.
pub trait File: Send + Sync {
    /// Buffered write at a byte offset; durable after `sync`.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> DiskResult<()>;
    /// Writes whole blocks at a multiple of [`BLOCK_BYTES`], past the page
    /// cache where possible; durable after `sync`, like any other write. For
    /// what is large and not read soon: nothing of it waits in memory for that
    /// sync.
    fn write_blocks(&mut self, offset: u64, blocks: &[u8]) -> DiskResult<()> {
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64));
        assert!(blocks.len().is_multiple_of(BLOCK_BYTES));
        self.write_at(offset, blocks)
    }
    /// Makes writes and the length durable.
    fn sync(&mut self) -> DiskResult<()>;
    /// Fills `buffer` from a byte offset; short of the end is an error.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> DiskResult<()>;
    /// Fills a buffer of whole blocks from a multiple of [`BLOCK_BYTES`],
    /// past the page cache where possible. For files that are being written
    /// durably at the same time: a cached read ahead of the writer could keep
    /// what the direct write is about to replace.
    fn read_blocks(&self, offset: u64, blocks: &mut [u8]) -> DiskResult<()> {
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64));
        assert!(blocks.len().is_multiple_of(BLOCK_BYTES));
        self.read_at(offset, blocks)
    }
    /// Length in bytes.
    fn length(&self) -> DiskResult<u64>;
    /// Gives it this length, and room on the disk for all of it: what was not
    /// written reads as zeros. `false`: not here, nothing was done. Appending
    /// to such blocks is durable like any other write, only slower.
    fn allocate(&mut self, length: u64) -> DiskResult<bool> {
        let _ = length;
        Ok(false)
    }
    /// Cuts or extends with zeros.
    fn set_length(&mut self, length: u64) -> DiskResult<()>;
    /// Drops what the page cache holds, so that reads come from the disk.
    fn drop_cache(&self) -> DiskResult<()>;
}

/// A mapped, immutable file.
pub trait Mapped: Send + Sync {
    /// Its bytes.
    fn bytes(&self) -> &[u8];
}
