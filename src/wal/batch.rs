//! Batches: encoding those of one write, checking one that was read.

use std::ops::RangeInclusive;

use crate::codec::crc32;
use crate::disk::BlockBuffer;
use crate::types::{HardState, LogIndex, NodeId, Term};

use super::format::{
    BATCH_HEADER, BLOCK, BatchHeader, KIND_SEAL_TABLE, Lsn, RECORD_HEADER, RecordHeader, SEAL,
    SEG_START, SealRow, SegmentHeader, record_bytes,
};

/// What the next batch repeats of the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchId {
    /// Where it is; 0 before the first of all.
    pub lsn: Lsn,
    /// Its header CRC.
    pub crc: u32,
}

/// A finished batch: what the index and the SEAL table need of it.
#[derive(Clone, Copy, Debug)]
pub struct ClosedBatch {
    /// Place, range, term.
    pub row: SealRow,
    /// Header flags.
    pub flags: u16,
    /// Term of the entry before its first position.
    pub prev_term: Term,
}

/// Encodes the consecutive batches of one write to one segment.
pub struct WriteBuffer {
    segment: SegmentHeader,
    seed: u32,
    /// Offset of the write in the segment.
    offset: u64,
    bytes: BlockBuffer,
    last: BatchId,
    closed: Vec<ClosedBatch>,
    open: Option<OpenBatch>,
}

struct OpenBatch {
    start: usize,
    flags: u16,
    first_index: LogIndex,
    prev_term: Term,
    term: Term,
    record_count: u32,
    entry_count: u64,
    chain: u32,
    directory: u32,
}

impl WriteBuffer {
    /// An empty write at `offset` of a segment, after the batch `last`.
    #[must_use]
    pub fn new(segment: SegmentHeader, offset: u64, last: BatchId) -> Self {
        Self::within(BlockBuffer::default(), segment, offset, last)
    }

    /// The same in memory that is there already; its content goes.
    #[must_use]
    pub fn within(
        mut bytes: BlockBuffer,
        segment: SegmentHeader,
        offset: u64,
        last: BatchId,
    ) -> Self {
        bytes.clear(KEPT_BYTES_MAX);
        Self {
            seed: segment.seed(),
            segment,
            offset,
            bytes,
            last,
            closed: Vec::new(),
            open: None,
        }
    }

    /// Starts a batch whose first entry will be `first_index`; `prev_term` is
    /// the term of the entry before that.
    pub fn begin(&mut self, flags: u16, first_index: LogIndex, prev_term: Term) {
        assert!(self.open.is_none());
        assert!(first_index > LogIndex(0));
        let start = self.bytes.len();
        self.bytes.resize(start + BATCH_HEADER);
        let is_first = self.offset + start as u64 == BLOCK;
        self.open = Some(OpenBatch {
            start,
            flags: flags | if is_first { SEG_START } else { 0 },
            first_index,
            prev_term,
            term: Term(0),
            record_count: 0,
            entry_count: 0,
            chain: self.seed,
            directory: self.seed,
        });
    }

    /// Adds an entry to the open batch: the next position, the batch's term.
    pub fn push_entry(&mut self, index: LogIndex, term: Term, kind: u8, payload: &[u8]) {
        let open = self.open.as_mut().expect("a batch was begun");
        assert!(index.0 == open.first_index.0 + open.entry_count);
        assert!(open.entry_count == 0 || open.term == term);
        open.term = term;
        open.entry_count += 1;
        self.push_record(kind, index, term, payload);
    }

    /// Makes the open batch the segment's last, with its table.
    pub fn push_seal_table(&mut self, rows: &[SealRow]) {
        let table: Vec<u8> = rows.iter().flat_map(SealRow::encode).collect();
        self.push_record(KIND_SEAL_TABLE, LogIndex(0), Term(0), &table);
    }

    fn push_record(&mut self, kind: u8, index: LogIndex, term: Term, payload: &[u8]) {
        let open = self.open.as_mut().expect("a batch was begun");
        let header = RecordHeader {
            kind,
            payload_bytes: u32::try_from(payload.len()).expect("writes are bounded to a segment"),
            index,
            term,
            payload_crc: crc32(self.seed, payload),
        };
        let (bytes, crc) = header.encode(open.chain);
        open.chain = crc;
        open.directory = crc32(open.directory, &bytes);
        open.record_count += 1;
        self.bytes.extend_from_slice(&bytes);
        self.bytes.extend_from_slice(payload);
        self.bytes
            .resize(self.bytes.len().next_multiple_of(RECORD_HEADER));
    }

    /// Finishes the open batch, if any. `hard_state` is what holds after it;
    /// its commit index is cut to the entries present.
    pub fn close(&mut self, extra_flags: u16, hard_state: HardState) {
        let Some(open) = self.open.take() else { return };
        self.bytes
            .resize(self.bytes.len().next_multiple_of(BLOCK as usize));
        let batch = &self.bytes.as_slice()[open.start..];
        let last_index = LogIndex(open.first_index.0 + open.entry_count - 1);
        let header = BatchHeader {
            flags: open.flags | extra_flags,
            lsn: self.segment.lsn(self.offset + open.start as u64),
            salt: self.segment.salt,
            length: u32::try_from(batch.len()).expect("writes are bounded to a segment"),
            record_count: open.record_count,
            synced_lsn: self.segment.lsn(self.offset),
            first_index: open.first_index,
            last_index,
            term: open.term,
            prev_index: open.first_index.previous(),
            prev_term: open.prev_term,
            prev_lsn: self.last.lsn,
            prev_crc: self.last.crc,
            directory_crc: open.directory,
            hard_state: HardState {
                commit_index: hard_state.commit_index.min(last_index),
                ..hard_state
            },
            body_crc: crc32(self.seed, &batch[BATCH_HEADER..]),
        };
        let encoded = header.encode(self.seed);
        self.bytes.as_mut_slice()[open.start..open.start + BATCH_HEADER].copy_from_slice(&encoded);
        let crc = u32::from_le_bytes(encoded[124..].try_into().expect("four bytes"));
        self.last = BatchId {
            lsn: header.lsn,
            crc,
        };
        self.closed.push(ClosedBatch::new(&header, crc));
    }

    /// Whether an entry of `term` and this many bytes, or none, may be added
    /// to the open batch.
    #[must_use]
    pub fn has_room(&self, term: Option<Term>, bytes: u64, batch_bytes_max: u64) -> bool {
        let Some(open) = &self.open else { return false };
        let used = (self.bytes.len() - open.start) as u64;
        open.entry_count == 0
            || (term.is_none_or(|term| term == open.term) && used + bytes <= batch_bytes_max)
    }

    /// Whether a batch is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether nothing was begun.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Where the write begins in the segment.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Where the write would end in the segment if it were closed now.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + (self.bytes.len() as u64).next_multiple_of(BLOCK)
    }

    /// The bytes to write; nothing may be open.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        assert!(self.open.is_none());
        self.bytes.as_slice()
    }

    /// The memory, for the next write.
    #[must_use]
    pub fn into_memory(self) -> BlockBuffer {
        self.bytes
    }

    /// The batches closed so far, in order.
    #[must_use]
    pub fn closed(&self) -> &[ClosedBatch] {
        &self.closed
    }

    /// The last closed batch.
    #[must_use]
    pub fn last(&self) -> BatchId {
        self.last
    }
}

/// Memory kept from one write to the next, in bytes: what is gathered for one
/// at most, and some more.
const KEPT_BYTES_MAX: usize = 9 << 20;

impl ClosedBatch {
    /// What is kept of a batch with this header and header CRC.
    #[must_use]
    pub fn new(header: &BatchHeader, crc: u32) -> Self {
        Self {
            row: SealRow {
                lsn: header.lsn,
                length: header.length,
                crc,
                first_index: header.first_index,
                last_index: header.last_index,
                term: header.term,
            },
            flags: header.flags,
            prev_term: header.prev_term,
        }
    }
}

/// Orders (term, vote) pairs: a later term wins; in one term a vote wins over
/// none.
#[must_use]
pub fn vote_order(state: &HardState) -> (Term, Option<NodeId>) {
    (state.term, state.vote)
}

/// A record as it lies in a batch.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its header, verified.
    pub header: RecordHeader,
    header_bytes: [u8; RECORD_HEADER],
    seed: u32,
    payload: &'a [u8],
}

impl<'a> Record<'a> {
    /// Its payload; `None` if the payload is not what was written.
    #[must_use]
    pub fn payload(&self) -> Option<&'a [u8]> {
        (crc32(self.seed, self.payload) == self.header.payload_crc).then_some(self.payload)
    }
}

/// The records of a batch's bytes, verified as they are reached.
pub struct Records<'a> {
    batch: &'a [u8],
    seed: u32,
    chain: u32,
    offset: usize,
    left: u32,
    next_index: LogIndex,
    term: Term,
    is_seal: bool,
}

/// The records are not what the batch header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordFault;

impl<'a> Records<'a> {
    /// `batch` is the whole batch, header included; `seed` the segment's.
    #[must_use]
    pub fn new(header: &BatchHeader, seed: u32, batch: &'a [u8]) -> Self {
        Self {
            batch,
            seed,
            chain: seed,
            offset: BATCH_HEADER,
            left: header.record_count,
            next_index: header.first_index,
            term: header.term,
            is_seal: header.has(SEAL),
        }
    }

    fn read(&mut self) -> Option<Record<'a>> {
        let rest = self.batch.get(self.offset..)?;
        let (bytes, rest) = rest.split_first_chunk::<RECORD_HEADER>()?;
        let (header, crc) = RecordHeader::decode(bytes, self.chain)?;
        let payload = rest.get(..header.payload_bytes as usize)?;
        let expected = match self.is_seal {
            true => header.kind == KIND_SEAL_TABLE,
            false => header.index == self.next_index && header.term == self.term,
        };
        if !expected {
            return None;
        }
        self.chain = crc;
        self.offset += usize::try_from(record_bytes(u64::from(header.payload_bytes))).ok()?;
        self.next_index = self.next_index.next();
        Some(Record {
            header,
            header_bytes: *bytes,
            seed: self.seed,
            payload,
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let record = self.read();
        // Nothing after a fault can be trusted to be a record.
        self.left = if record.is_some() { self.left - 1 } else { 0 };
        Some(record.ok_or(RecordFault))
    }
}

/// Whether a batch's body is what its header says. `batch` is the whole batch.
#[must_use]
pub fn is_intact(header: &BatchHeader, seed: u32, batch: &[u8]) -> bool {
    let Some(body) = batch.get(BATCH_HEADER..) else {
        return false;
    };
    let right_size = batch.len() as u64 == u64::from(header.length);
    right_size && crc32(seed, body) == header.body_crc
}

/// The rows of a SEAL batch's table; empty unless `batch` is an intact one.
#[must_use]
pub fn seal_table(header: &BatchHeader, seed: u32, batch: &[u8]) -> Vec<SealRow> {
    if !header.has(SEAL) {
        return Vec::new();
    }
    let record = Records::new(header, seed, batch).next();
    let table = record
        .and_then(Result::ok)
        .and_then(|record| record.payload());
    let (rows, _) = table.unwrap_or_default().as_chunks::<{ SealRow::BYTES }>();
    rows.iter().map(SealRow::decode).collect()
}

/// First and last entry whose payload is not what was written, in a batch that
/// is not intact. `None` if not even its record headers are.
#[must_use]
pub fn unreadable_entries(
    header: &BatchHeader,
    seed: u32,
    batch: &[u8],
) -> Option<RangeInclusive<LogIndex>> {
    // Its record is a table, no entry.
    if header.has(SEAL) {
        return None;
    }
    let mut directory = seed;
    let mut unreadable: Option<RangeInclusive<LogIndex>> = None;
    for record in Records::new(header, seed, batch) {
        let record = record.ok()?;
        directory = crc32(directory, &record.header_bytes);
        if record.payload().is_none() {
            let index = record.header.index;
            let first = unreadable.map_or(index, |range| *range.start());
            unreadable = Some(first..=index);
        }
    }
    (directory == header.directory_crc).then_some(unreadable)?
}
