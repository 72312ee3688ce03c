//! Appending through a shared map.
//!
//! A store into a map cannot report an error: where the file system has no
//! block for the page, or cannot read it, the process gets SIGBUS. So only files
//! whose blocks are all there are mapped for appending, on file systems that
//! write them in place; and every append first asks the kernel to bring its
//! pages in for writing (`MADV_POPULATE_WRITE`), which does report errors. What
//! remains is a page that is evicted and becomes unreadable between that call
//! and the store.
//!
//! Raw pointers only: readers of the same file may hold slices of maps of their
//! own, and a `&mut [u8]` over the same pages would contradict them.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::ptr;

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::fstatfs;

use super::BLOCK_BYTES;
use super::direct::is_refusal;

/// A segment mapped for appending.
pub(super) struct MappedSegment {
    map: MmapRaw,
}

impl MappedSegment {
    /// Maps a file; `None`: stores into it might raise SIGBUS.
    pub(super) fn open(file: &File) -> io::Result<Option<Self>> {
        let metadata = file.metadata()?;
        let is_allocated = metadata.blocks() * SYSTEM_BLOCK_BYTES >= metadata.len();
        let kind = fstatfs(file)?.f_type;
        if !is_allocated || metadata.len() == 0 || COPY_ON_WRITE.contains(&(kind as u64)) {
            return Ok(None);
        }
        let map = MmapOptions::new().map_raw(file)?;
        // Kernels before 5.14 do not know the advice.
        match map.advise_range(Advice::PopulateWrite, 0, BLOCK_BYTES) {
            Err(error) if is_refusal(&error) => Ok(None),
            result => result.map(|()| Some(Self { map })),
        }
    }

    /// Stores `blocks` at `offset` and syncs that range.
    pub(super) fn append(&mut self, offset: u64, blocks: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let end = offset.checked_add(blocks.len());
        assert!(end.is_some_and(|end| end <= self.map.len()));
        if blocks.is_empty() {
            return Ok(());
        }
        self.map
            .advise_range(Advice::PopulateWrite, offset, blocks.len())?;
        self.store(offset, blocks);
        self.map.flush_range(offset, blocks.len())
    }

    /// Stores `blocks` at `offset`; the pages must be in memory.
    fn store(&mut self, offset: usize, blocks: &[u8]) {
        let end = offset.checked_add(blocks.len());
        assert!(end.is_some_and(|end| end <= self.map.len()));
        // SAFETY: source and target are valid for `blocks.len()` bytes: the
        // range was just checked against the map, which `self` keeps mapped, and
        // the file is never cut (its owner holds the directory's lock). They do
        // not overlap: `blocks` is borrowed from the caller's memory and no
        // slice of this map is ever made. No other thread stores here, for
        // `self` is borrowed exclusively, and maps of readers are made only of
        // closed segments, to which nothing is appended.
        unsafe {
            let target = self.map.as_mut_ptr().add(offset);
            ptr::copy_nonoverlapping(blocks.as_ptr(), target, blocks.len());
        }
    }
}

/// The unit of `st_blocks`, whatever the file system's own.
const SYSTEM_BLOCK_BYTES: u64 = 512;

/// Btrfs, ZFS and bcachefs: writing to an allocated block takes a new one, so
/// that a full disk would show in a store.
const COPY_ON_WRITE: [u64; 3] = [0x9123_683e, 0x2fc1_2fc1, 0xca45_1a4e];

#[cfg(test)]
mod tests {
    use super::*;

    /// Anonymous memory in place of a file: Miri can follow it.
    fn anonymous(bytes: usize) -> MappedSegment {
        let map = MmapOptions::new().len(bytes).map_anon().unwrap();
        MappedSegment { map: map.into() }
    }

    fn byte(segment: &MappedSegment, offset: usize) -> u8 {
        assert!(offset < segment.map.len());
        // SAFETY: within the map, which nothing else touches.
        unsafe { segment.map.as_ptr().add(offset).read() }
    }

    #[test]
    fn stores_reach_exactly_their_range() {
        let length = 4 * BLOCK_BYTES;
        let mut segment = anonymous(length);
        segment.store(BLOCK_BYTES, &[7; 2 * BLOCK_BYTES]);
        segment.store(length - BLOCK_BYTES, &[9; BLOCK_BYTES]);
        segment.store(length, &[]);
        let edges = [0, 1, 2, 3].map(|block| block * BLOCK_BYTES);
        assert_eq!(edges.map(|offset| byte(&segment, offset)), [0, 7, 7, 9]);
        let ends = edges.map(|offset| byte(&segment, offset + BLOCK_BYTES - 1));
        assert_eq!(ends, [0, 7, 7, 9]);
        // Over what was stored before.
        segment.store(BLOCK_BYTES, &[5; BLOCK_BYTES]);
        assert_eq!(byte(&segment, BLOCK_BYTES), 5);
        assert_eq!(byte(&segment, 2 * BLOCK_BYTES), 7);
    }

    #[test]
    fn stores_past_the_end_are_refused() {
        for (offset, count) in [(BLOCK_BYTES, 1), (1, BLOCK_BYTES), (usize::MAX, 2)] {
            let refused = std::panic::catch_unwind(|| {
                anonymous(BLOCK_BYTES).store(offset, &vec![1; count]);
            });
            assert!(refused.is_err(), "{count} bytes at {offset}");
        }
    }
}
