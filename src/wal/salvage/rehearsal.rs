//! What writing a log anew would come to, told while it is still written.

use std::path::Path;

use crate::disk::{BLOCK_BYTES, BlockBuffer, Disk, DiskResult, File, MemoryDisk};
use crate::wal::WalOptions;
use crate::wal::error::WalError;
use crate::wal::segment::{list_segments, segment_name};

use super::{Position, Wanted, salvage};

/// What it would take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rehearsal {
    /// Room for the new log.
    pub bytes: u64,
    /// Entries that peers would be asked for.
    pub missing: Vec<Wanted>,
}

/// Salvages a copy, held in memory, of the log in a folder, as if it were to be
/// written anew behind this snapshot of the node (0: none). The log may be
/// written meanwhile: it is read past the page cache, and nothing in the folder
/// changes. Blocks while the whole log is read.
///
/// # Errors
/// As [`salvage`] and [`super::Salvage::check`]. A copy that caught half a
/// write may be refused where the next one is not.
pub fn rehearse(
    disk: &dyn Disk,
    dir: &Path,
    snapshot: Position,
    options: &WalOptions,
) -> Result<Rehearsal, WalError> {
    let copy = MemoryDisk::new();
    copy.create_dir_all(dir)?;
    for sequence in list_segments(disk, dir)? {
        copy_segment(disk, &copy, &dir.join(segment_name(sequence)))?;
    }
    let salvage = salvage(&copy, dir, None)?;
    salvage.check(snapshot, options)?;
    let bytes = salvage.sketch(snapshot).bytes(options);
    Ok(Rehearsal {
        bytes: bytes.max(options.segment_bytes),
        missing: salvage.missing(snapshot),
    })
}

/// Blocks that cannot be read cannot be in the copy either.
fn copy_segment(disk: &dyn Disk, copy: &MemoryDisk, path: &Path) -> DiskResult<()> {
    let from = disk.open(path)?;
    let mut to = copy.create(path)?;
    let length = from.length()?;
    to.set_length(length)?;
    let mut unreadable = Vec::new();
    let mut buffer = BlockBuffer::zeroed(PIECE_BYTES);
    let mut offset = 0;
    while offset < length {
        let left = usize::try_from(length - offset).unwrap_or(usize::MAX);
        let piece = &mut buffer.as_mut_slice()[..left.min(PIECE_BYTES)];
        if read(&*from, offset, piece).is_ok() {
            to.write_at(offset, piece)?;
        } else {
            for (at, block) in (offset..)
                .step_by(BLOCK_BYTES)
                .zip(piece.chunks_mut(BLOCK_BYTES))
            {
                match read(&*from, at, block) {
                    Ok(()) => to.write_at(at, block)?,
                    Err(_) => unreadable.push(at / BLOCK_BYTES as u64),
                }
            }
        }
        offset += piece.len() as u64;
    }
    to.sync()?;
    for block in unreadable {
        copy.make_unreadable(path, block)?;
    }
    Ok(())
}

fn read(file: &dyn File, offset: u64, bytes: &mut [u8]) -> DiskResult<()> {
    match bytes.len().is_multiple_of(BLOCK_BYTES) {
        true => file.read_blocks(offset, bytes),
        false => file.read_at(offset, bytes),
    }
}

/// Read at once.
const PIECE_BYTES: usize = 1 << 20;
