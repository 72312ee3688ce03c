//! The durable write: one call that returns when the blocks are on the disk;
//! and reading past the page cache what was written past it.
//!
//! `O_DIRECT` with a per-write `RWF_DSYNC` where the file system takes it, so
//! that an error belongs to the call that caused it and no page cache can
//! claim otherwise later; else the same through the page cache; else a write
//! and `fdatasync`. A file system that refuses a way (`EINVAL`,
//! `EOPNOTSUPP`, `ENOSYS`) did no part of it: falling back is not a retry of a
//! failed write.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::{Errno, ReadWriteFlags, pwritev2};

use super::BLOCK_BYTES;
use super::blocks::{BlockBuffer, is_aligned};

/// Writes whole blocks of one file durably.
pub(super) struct DurableWriter {
    way: Way,
    /// For blocks that do not lie where direct I/O wants them.
    buffer: BlockBuffer,
}

enum Way {
    /// Past the page cache, through this second descriptor. Per-write
    /// `RWF_DSYNC` instead of `O_DSYNC`: rustix 1.1 maps its `DSYNC` open flag
    /// to `O_SYNC`, which also waits for time stamps.
    Direct(File),
    /// Through the page cache, synchronous.
    Dsync,
    /// Through the page cache, then `fdatasync`.
    Flush,
}

impl DurableWriter {
    /// Chooses the best way the file system offers for `path`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            way: open_direct(path)?.map_or(Way::Dsync, Way::Direct),
            buffer: BlockBuffer::default(),
        })
    }

    /// Writes through the page cache.
    pub(super) fn cached() -> Self {
        Self {
            way: Way::Dsync,
            buffer: BlockBuffer::default(),
        }
    }

    /// The way taken now.
    pub(super) fn way(&self) -> &'static str {
        match self.way {
            Way::Direct(_) => "direct synchronous writes",
            Way::Dsync => "synchronous writes",
            Way::Flush => "writes and fdatasync",
        }
    }

    /// Writes `blocks` at `offset`, both multiples of [`BLOCK_BYTES`]; durable
    /// on return. `cached` is the file's ordinary descriptor.
    pub(super) fn write(&mut self, cached: &File, offset: u64, blocks: &[u8]) -> io::Result<()> {
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64));
        assert!(blocks.len().is_multiple_of(BLOCK_BYTES));
        if let Way::Direct(direct) = &self.way {
            let aligned = match is_aligned(blocks) {
                true => blocks,
                false => {
                    self.buffer.clear(KEPT_BYTES_MAX);
                    self.buffer.extend_from_slice(blocks);
                    self.buffer.as_slice()
                }
            };
            match write_dsync(direct, offset, aligned) {
                Err(error) if is_refusal(&error) => self.way = Way::Dsync,
                result => return result,
            }
        }
        if matches!(self.way, Way::Dsync) {
            match write_dsync(cached, offset, blocks) {
                Err(error) if is_refusal(&error) => self.way = Way::Flush,
                result => return result,
            }
        }
        cached.write_all_at(blocks, offset)?;
        cached.sync_data()
    }
}

/// Opens a file for direct I/O; `None` where that cannot be had.
pub(super) fn open_direct(path: &Path) -> io::Result<Option<File>> {
    let flags = i32::try_from(OFlags::DIRECT.bits()).expect("open flags fit a C int");
    let mut options = OpenOptions::new();
    match options
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
    {
        Ok(file) => Ok(Some(file)),
        // No `/proc` to reach the file by its descriptor: also only slower.
        Err(error) if is_refusal(&error) || error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Fills `blocks`, whole blocks, past the page cache.
pub(super) fn read_direct(direct: &File, offset: u64, blocks: &mut [u8]) -> io::Result<()> {
    if is_aligned(blocks) {
        return direct.read_exact_at(blocks, offset);
    }
    let mut buffer = BlockBuffer::zeroed(blocks.len());
    direct.read_exact_at(buffer.as_mut_slice(), offset)?;
    blocks.copy_from_slice(buffer.as_slice());
    Ok(())
}

/// Writes `blocks`, whole blocks, past the page cache; durable after a sync.
pub(super) fn write_direct(direct: &File, offset: u64, blocks: &[u8]) -> io::Result<()> {
    if is_aligned(blocks) {
        return direct.write_all_at(blocks, offset);
    }
    let mut buffer = BlockBuffer::with_capacity(blocks.len());
    buffer.extend_from_slice(blocks);
    direct.write_all_at(buffer.as_slice(), offset)
}

fn write_dsync(file: &File, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match pwritev2(file, &[IoSlice::new(bytes)], offset, ReadWriteFlags::DSYNC) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                bytes = &bytes[written..];
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether the file system declined this way of doing it before doing any.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS))
}

/// Room kept between writes, in bytes.
const KEPT_BYTES_MAX: usize = 1 << 20;
