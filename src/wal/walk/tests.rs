//! What reading a segment asks of a device with bad blocks.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::disk::MemoryDisk;
use crate::types::{ClusterId, EntryPayload, Incarnation, LogWrite, NodeId};
use crate::wal::{Identity, Wal, WalOptions};

/// Counts the reads of large pieces.
struct Counted {
    file: Box<dyn File>,
    pieces: Arc<AtomicU64>,
}

impl File for Counted {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> DiskResult<()> {
        self.file.write_at(offset, bytes)
    }

    fn sync(&mut self) -> DiskResult<()> {
        self.file.sync()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> DiskResult<()> {
        self.file.read_at(offset, buffer)
    }

    fn read_blocks(&self, offset: u64, blocks: &mut [u8]) -> DiskResult<()> {
        self.pieces.fetch_add(1, Ordering::Relaxed);
        self.file.read_blocks(offset, blocks)
    }

    fn length(&self) -> DiskResult<u64> {
        self.file.length()
    }

    fn set_length(&mut self, length: u64) -> DiskResult<()> {
        self.file.set_length(length)
    }

    fn drop_cache(&self) -> DiskResult<()> {
        self.file.drop_cache()
    }
}

/// A piece with a bad block in it takes the device seconds to give up on: it is
/// asked for once, not once for each batch before the block.
#[test]
fn piece_that_cannot_be_read_is_asked_for_once() {
    let disk = MemoryDisk::new();
    let dir = Path::new("/log");
    let identity = Identity {
        cluster: ClusterId([1; 16]),
        node: NodeId(1),
        incarnation: Incarnation(1),
    };
    let options = WalOptions {
        segment_bytes: 256 << 10,
        prepare_in_background: false,
        ..WalOptions::default()
    };
    let mut wal = Wal::create(Arc::new(disk.clone()), dir, identity, options).unwrap();
    for index in 1..=20 {
        let entry = Entry {
            index: LogIndex(index),
            term: Term(1),
            payload: EntryPayload::Command(Arc::from([1])),
        };
        let write = LogWrite {
            entries: vec![entry],
            ..LogWrite::default()
        };
        wal.append(&[write]).unwrap();
    }
    drop(wal);
    disk.make_unreadable(&dir.join(segment_name(1)), 15)
        .unwrap();
    let mut segment = OpenSegment::open(&disk, dir, 1).unwrap().unwrap();
    let pieces = Arc::new(AtomicU64::new(0));
    segment.file = Box::new(Counted {
        file: segment.file,
        pieces: Arc::clone(&pieces),
    });
    let read = Batches::of(&segment, Keep::Entries);
    assert_eq!(read.batches.len(), 14);
    assert_eq!(pieces.load(Ordering::Relaxed), 1);
}
