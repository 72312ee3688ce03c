//! The log as it is about to be written anew.

use crate::codec::encode_payload;
use crate::types::{Entry, HardState};
use crate::wal::WalOptions;
use crate::wal::batch::{BatchId, WriteBuffer};
use crate::wal::format::{
    BATCH_HEADER, BLOCK, CONTINUES, RESET, SegmentHeader, record_bytes, seal_bytes,
};
use crate::wal::walk::{Batches, Keep, OpenSegment, SegmentEnd, Walk};

use super::Position;

/// A log as it is about to be written.
pub(super) struct Sketch<'a> {
    pub snapshot: Position,
    pub entries: Vec<&'a Entry>,
    pub hard_state: HardState,
}

impl Sketch<'_> {
    /// Where it ends.
    pub fn last(&self) -> Position {
        let last = self.entries.last();
        last.map_or(self.snapshot, |entry| (entry.index, entry.term))
    }

    /// Bytes of a segment that holds it, at most.
    pub fn bytes(&self, options: &WalOptions) -> u64 {
        let records: u64 = self
            .entries
            .iter()
            .map(|entry| record_bytes(encode_payload(&entry.payload).1.len() as u64))
            .sum();
        let terms = self
            .entries
            .windows(2)
            .filter(|pair| pair[0].term != pair[1].term);
        let batches = 2 + terms.count() as u64 + 2 * records / options.batch_bytes_max;
        let log = records + batches * (BATCH_HEADER as u64 + BLOCK);
        // Room for batches that open and close it later.
        let bytes = 2 * BLOCK + log + 8 * BLOCK + seal_bytes(batches + 8);
        bytes.next_multiple_of(BLOCK)
    }

    /// One write: its batches count together or not at all.
    pub fn encode(&self, header: SegmentHeader, batch_bytes_max: u64) -> WriteBuffer {
        let mut buffer = WriteBuffer::new(header, BLOCK, BatchId::default());
        buffer.begin(RESET, self.snapshot.0.next(), self.snapshot.1);
        let mut last_term = self.snapshot.1;
        for entry in &self.entries {
            let (kind, payload) = encode_payload(&entry.payload);
            let bytes = record_bytes(payload.len() as u64);
            if !buffer.has_room(Some(entry.term), bytes, batch_bytes_max) {
                buffer.close(CONTINUES, self.hard_state);
                buffer.begin(0, entry.index, last_term);
            }
            buffer.push_entry(entry.index, entry.term, kind, &payload);
            last_term = entry.term;
        }
        buffer.close(0, self.hard_state);
        buffer
    }

    /// Whether a segment, read again, holds this and nothing else.
    pub fn is_in(&self, segment: &OpenSegment) -> bool {
        let mut walk = Walk::new(&segment.header, Keep::Entries);
        let batches = Batches::of(segment, walk.keep());
        let end = walk.accept(&segment.header, batches);
        matches!(end, Ok(SegmentEnd::Broken { .. }))
            && segment.has_both_headers()
            && walk.entries.iter().eq(self.entries.iter().copied())
            && walk.hard_state == self.hard_state
            && walk.index.last() == self.last()
            && walk.ends_with_mark
    }
}
