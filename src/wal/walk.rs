//! Reading segments from the front: batch by batch while everything is as it
//! was written, and looking behind the first batch that is not.
//!
//! Nothing here writes.

use std::ops::RangeInclusive;
use std::path::Path;

use crate::codec;
use crate::disk::{BlockBuffer, Disk, DiskResult, File};
use crate::types::{Entry, HardState, LogIndex, Term};

use super::batch::{
    BatchId, ClosedBatch, Records, is_intact, seal_table, unreadable_entries, vote_order,
};
use super::format::{
    BATCH_HEADER, BLOCK, BatchHeader, CONTINUES, HeaderFault, Lsn, MARK, RESET, SEAL,
    SEGMENT_HEADER, SealRow, SegmentHeader,
};
use super::index::Index;
use super::segment::segment_name;

/// A segment opened for recovery.
pub(super) struct OpenSegment {
    pub header: SegmentHeader,
    pub file: Box<dyn File>,
}

impl OpenSegment {
    /// Opens a segment and reads its header, or else its header's copy. What
    /// is read afterwards is on the disk, not only in a cache.
    pub fn open(
        disk: &dyn Disk,
        dir: &Path,
        sequence: u64,
    ) -> DiskResult<Result<Self, HeaderFault>> {
        let mut file = disk.open(&dir.join(segment_name(sequence)))?;
        // A process that was killed may have left writes that never were
        // durable; they are about to be believed.
        file.sync()?;
        file.drop_cache()?;
        let length = file.length()?;
        let read = |offset: u64| {
            let mut bytes = [0; SEGMENT_HEADER];
            // Unreadable counts as damaged, never as absent.
            let read = file.read_at(offset, &mut bytes);
            read.map_or(Err(HeaderFault::Damaged), |()| {
                SegmentHeader::decode(&bytes)
            })
        };
        let header = match read(0) {
            Err(HeaderFault::Damaged) => read(length.saturating_sub(BLOCK)),
            result => result,
        };
        Ok(header.and_then(|header| {
            let right_place =
                header.sequence == sequence && u64::from(header.segment_bytes) == length;
            match right_place {
                true => Ok(Self { header, file }),
                false => Err(HeaderFault::Damaged),
            }
        }))
    }

    /// Whether the header and its copy are whole and the same.
    pub fn has_both_headers(&self) -> bool {
        self.has_header(0) && self.has_header(self.header.area_end())
    }

    /// Whether this copy of the header is whole.
    pub fn has_header(&self, copy: u64) -> bool {
        let mut bytes = [0; SEGMENT_HEADER];
        self.file.read_at(copy, &mut bytes).is_ok()
            && SegmentHeader::decode(&bytes) == Ok(self.header)
    }

    /// The first offset behind `offset` at which a valid batch begins.
    pub fn next_batch_after(&self, offset: u64) -> Option<u64> {
        let later = (offset + BLOCK..self.header.area_end()).step_by(BLOCK as usize);
        later.into_iter().find(|&at| self.header_at(at).is_some())
    }

    /// Whether everything from `offset` up to the header's copy is zero, as far
    /// as it can be read at all.
    pub fn is_zero_from(&self, offset: u64) -> bool {
        let mut block = vec![0; BLOCK as usize];
        (offset..self.header.area_end())
            .step_by(BLOCK as usize)
            .all(|at| self.file.read_at(at, &mut block).is_ok() && is_zero(&block))
    }

    /// The batch header at an offset, if one is whole there, and its CRC.
    pub fn header_at(&self, offset: u64) -> Option<(BatchHeader, u32)> {
        let mut bytes = [0; BATCH_HEADER];
        self.file.read_at(offset, &mut bytes).ok()?;
        BatchHeader::decode(&self.header, offset, &bytes)
    }

    /// The entries that cannot be read of a batch whose header is whole.
    pub fn unreadable_entries(
        &self,
        offset: u64,
        header: &BatchHeader,
    ) -> Option<RangeInclusive<LogIndex>> {
        let mut batch = vec![0; header.length as usize];
        self.file.read_at(offset, &mut batch).ok()?;
        unreadable_entries(header, self.header.seed(), &batch)
    }

    /// A whole batch, if its body is what its header says.
    pub fn body_at(&self, offset: u64, header: &BatchHeader) -> Option<Vec<u8>> {
        // The header's length was checked against the file's.
        let mut batch = vec![0; header.length as usize];
        self.file.read_at(offset, &mut batch).ok()?;
        is_intact(header, self.header.seed(), &batch).then_some(batch)
    }

    /// The entries that can be read of a batch whose header is whole. A record
    /// has checksums of its own, so an unreadable body does not condemn all.
    pub fn readable_entries(&self, offset: u64, header: &BatchHeader) -> Vec<Entry> {
        let mut batch = vec![0; header.length as usize];
        if header.has(SEAL) || self.file.read_at(offset, &mut batch).is_err() {
            return Vec::new();
        }
        let mut entries = Vec::new();
        for record in Records::new(header, self.header.seed(), &batch).flatten() {
            let payload = record
                .payload()
                .and_then(|payload| codec::decode_payload(record.header.kind, payload).ok());
            if let Some(payload) = payload {
                entries.push(Entry {
                    index: record.header.index,
                    term: record.header.term,
                    payload,
                });
            }
        }
        entries
    }

    /// Whether the segment begins with a whole RESET write: nothing before it
    /// counts.
    pub fn is_beginning(&self) -> bool {
        let mut offset = BLOCK;
        let mut chain = None;
        while let Some((header, crc)) = self.header_at(offset) {
            let previous = BatchId {
                lsn: header.prev_lsn,
                crc: header.prev_crc,
            };
            let begins = offset != BLOCK || header.has(RESET);
            let is_chained = chain.is_none_or(|chain| chain == previous);
            if !begins || !is_chained || self.body_at(offset, &header).is_none() {
                return false;
            }
            if !header.has(CONTINUES) {
                return true;
            }
            chain = Some(BatchId {
                lsn: header.lsn,
                crc,
            });
            offset += u64::from(header.length);
        }
        false
    }
}

/// Where reading a segment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SegmentEnd {
    /// With its SEAL batch.
    Sealed,
    /// Before a block that begins no batch of this log.
    Broken {
        /// Its offset.
        offset: u64,
    },
}

/// A batch that cannot be part of this log although its checksums hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contradiction {
    pub offset: u64,
    pub what: &'static str,
}

/// What to remember of what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// Entries too.
    Entries,
    /// Only where they are.
    Shape,
}

/// What was read so far.
pub(super) struct Walk {
    keep: Keep,
    pub index: Index,
    pub entries: Vec<Entry>,
    /// Of the batches read.
    pub hard_state: HardState,
    /// Greatest (term, vote) in any header, read or only seen.
    pub highest: HardState,
    pub snapshot: Option<(LogIndex, Term)>,
    /// The last batch that counts; `None` before the first.
    pub last: Option<BatchId>,
    /// Whether that was a MARK.
    pub ends_with_mark: bool,
    /// Batches that count in the segment being read.
    pub rows: Vec<SealRow>,
    /// Greatest index in each segment read, by sequence number.
    pub last_indexes: Vec<(u64, LogIndex)>,
    /// Batches of a write whose end was not reached yet.
    staged: Vec<Staged>,
}

struct Staged {
    header: BatchHeader,
    crc: u32,
    offset: u64,
    entries: Vec<Entry>,
}

/// What lies in a segment from its front on, batch by batch: each is whole,
/// whether or not it continues the one before.
pub(super) struct Batches {
    batches: Vec<Batch>,
}

struct Batch {
    header: BatchHeader,
    crc: u32,
    offset: u64,
    /// Or why it cannot be part of any log.
    entries: Result<Vec<Entry>, &'static str>,
}

impl Batches {
    /// Reads a segment up to its SEAL batch or the first block that begins no
    /// whole batch. Most of the work of reading a log, and it needs no other
    /// segment.
    pub fn of(segment: &OpenSegment, keep: Keep) -> Self {
        let mut ahead = Ahead::default();
        let mut batches = Vec::new();
        let mut offset = BLOCK;
        while let Some((header, crc)) = ahead.header_at(segment, offset) {
            let Some(mut entries) = ahead.entries_at(segment, offset, &header) else {
                break;
            };
            if keep == Keep::Shape {
                entries = entries.map(|_| Vec::new());
            }
            let is_last = header.has(SEAL) || entries.is_err();
            batches.push(Batch {
                header,
                crc,
                offset,
                entries,
            });
            if is_last {
                break;
            }
            offset += u64::from(header.length);
        }
        Self { batches }
    }
}

/// Reads a segment in large pieces past the page cache, which would only cost
/// time: everything is read once. Where a piece cannot be read, each batch is
/// read alone, so that one bad block costs no other.
#[derive(Default)]
struct Ahead {
    blocks: BlockBuffer,
    /// Where they are in the segment.
    offset: u64,
    /// End of a piece that could not be read.
    unreadable_until: u64,
}

impl Ahead {
    fn header_at(&mut self, segment: &OpenSegment, offset: u64) -> Option<(BatchHeader, u32)> {
        match self.bytes(segment, offset, BATCH_HEADER) {
            Some(bytes) => {
                let header = bytes.first_chunk().expect("as many as asked for");
                BatchHeader::decode(&segment.header, offset, header)
            }
            None => segment.header_at(offset),
        }
    }

    /// `None` if the body is not what its header says.
    fn entries_at(
        &mut self,
        segment: &OpenSegment,
        offset: u64,
        header: &BatchHeader,
    ) -> Option<Result<Vec<Entry>, &'static str>> {
        let seed = segment.header.seed();
        match self.bytes(segment, offset, header.length as usize) {
            Some(batch) => {
                is_intact(header, seed, batch).then(|| decode_entries(header, seed, batch))
            }
            None => {
                let batch = segment.body_at(offset, header)?;
                Some(decode_entries(header, seed, &batch))
            }
        }
    }

    /// `None` if they cannot be read in one piece with what follows.
    fn bytes(&mut self, segment: &OpenSegment, offset: u64, length: usize) -> Option<&[u8]> {
        let end = offset + length as u64;
        let is_here = self.offset <= offset && end <= self.offset + self.blocks.len() as u64;
        if !is_here {
            if offset < self.unreadable_until {
                // Somewhere in it is a bad block: each more reading of it all
                // may take the device seconds.
                return None;
            }
            let left = segment.header.area_end().saturating_sub(offset);
            let piece = length.next_multiple_of(BLOCK as usize).max(AHEAD_BYTES);
            let piece = usize::try_from(left).map_or(piece, |left| piece.min(left));
            self.blocks.resize(piece);
            let read = segment.file.read_blocks(offset, self.blocks.as_mut_slice());
            if piece < length || read.is_err() {
                self.blocks.resize(0);
                self.unreadable_until = offset + piece as u64;
                return None;
            }
            self.offset = offset;
        }
        let start = usize::try_from(offset - self.offset).ok()?;
        Some(&self.blocks.as_slice()[start..start + length])
    }
}

/// A piece of a segment read at once.
const AHEAD_BYTES: usize = 4 << 20;

impl Walk {
    /// Before the oldest segment there is.
    pub fn new(oldest: &SegmentHeader, keep: Keep) -> Self {
        Self {
            keep,
            index: Index::default(),
            entries: Vec::new(),
            hard_state: HardState::default(),
            highest: oldest.hard_state,
            snapshot: oldest.snapshot,
            // Only of the first of all segments is it known what came before.
            last: (oldest.sequence == 1).then(BatchId::default),
            ends_with_mark: false,
            rows: Vec::new(),
            last_indexes: Vec::new(),
            staged: Vec::new(),
        }
    }

    /// What to remember.
    pub fn keep(&self) -> Keep {
        self.keep
    }

    /// Goes on with a segment, up to its end or the first block that breaks it.
    /// A write that is not complete by then does not count: it is where the
    /// segment breaks.
    pub fn accept(
        &mut self,
        segment: &SegmentHeader,
        read: Batches,
    ) -> Result<SegmentEnd, Contradiction> {
        self.rows.clear();
        self.last_indexes.push((segment.sequence, LogIndex(0)));
        self.note_vote(&segment.hard_state);
        let mut chain = self.last;
        let mut end = BLOCK;
        for batch in read.batches {
            let Batch {
                header,
                crc,
                offset,
                entries,
            } = batch;
            let previous = BatchId {
                lsn: header.prev_lsn,
                crc: header.prev_crc,
            };
            if chain.is_some_and(|chain| chain != previous) {
                break;
            }
            let entries = entries.map_err(|what| Contradiction { offset, what })?;
            self.note_vote(&header.hard_state);
            self.staged.push(Staged {
                header,
                crc,
                offset,
                entries,
            });
            if !header.has(CONTINUES) {
                self.accept_staged(segment.sequence)?;
            }
            if header.has(SEAL) {
                return Ok(SegmentEnd::Sealed);
            }
            chain = Some(BatchId {
                lsn: header.lsn,
                crc,
            });
            end = offset + u64::from(header.length);
        }
        let incomplete = self.staged.first().map(|staged| staged.offset);
        self.staged.clear();
        Ok(SegmentEnd::Broken {
            offset: incomplete.unwrap_or(end),
        })
    }

    fn accept_staged(&mut self, sequence: u64) -> Result<(), Contradiction> {
        for staged in std::mem::take(&mut self.staged) {
            let Staged { header, offset, .. } = staged;
            let batch = ClosedBatch::new(&header, staged.crc);
            if self.last.is_none() {
                self.index = Index::starting_after((header.prev_index, header.prev_term));
            }
            if !self.index.accepts(&batch) {
                let what = "a batch that does not continue the log";
                return Err(Contradiction { offset, what });
            }
            self.index.add(&batch, sequence, offset);
            if header.has(RESET) {
                let snapshot = (header.prev_index, header.prev_term);
                self.snapshot = (snapshot.0 > LogIndex(0)).then_some(snapshot);
                self.entries.clear();
            }
            let keep = self
                .entries
                .partition_point(|entry| entry.index < header.first_index);
            self.entries.truncate(keep);
            self.entries.extend(staged.entries);
            let commit_index = self
                .hard_state
                .commit_index
                .max(header.hard_state.commit_index);
            self.hard_state = HardState {
                commit_index,
                ..header.hard_state
            };
            self.last = Some(BatchId {
                lsn: header.lsn,
                crc: staged.crc,
            });
            self.ends_with_mark = header.has(MARK);
            self.rows.push(batch.row);
            if let Some((_, last_index)) = self.last_indexes.last_mut() {
                *last_index = (*last_index).max(header.last_index);
            }
        }
        Ok(())
    }

    /// Takes a vote into account wherever it was found: adopting one that was
    /// never acknowledged is safe, forgetting one that was is not.
    pub fn note_vote(&mut self, state: &HardState) {
        if vote_order(state) > vote_order(&self.highest) {
            self.highest = *state;
        }
    }
}

fn decode_entries(
    header: &BatchHeader,
    seed: u32,
    batch: &[u8],
) -> Result<Vec<Entry>, &'static str> {
    if header.has(SEAL) {
        return Ok(Vec::new());
    }
    let mut entries = Vec::new();
    for record in Records::new(header, seed, batch) {
        // The body's checksum holds: this was written so.
        let record = record.map_err(|_| "a malformed record")?;
        let payload = record.payload().ok_or("a malformed record")?;
        let payload = codec::decode_payload(record.header.kind, payload)
            .map_err(|_| "an entry that does not decode")?;
        entries.push(Entry {
            index: record.header.index,
            term: record.header.term,
            payload,
        });
    }
    Ok(entries)
}

/// What lies behind the place where reading ended.
#[derive(Debug)]
pub(super) struct Remains {
    /// Greatest promise of any batch header from there on.
    pub promise: Lsn,
    /// Whether everything from there to the end of its segment is zero.
    pub is_zero: bool,
    /// The batch header at that very place, if it is whole.
    pub broken: Option<BatchHeader>,
    /// The entries of that batch that cannot be read, if it says which.
    pub unreadable: Option<RangeInclusive<LogIndex>>,
    /// The first whole batch header behind it.
    pub successor: Option<BatchHeader>,
    /// Lines of a SEAL table that tell of batches from there on.
    pub rows: Vec<SealRow>,
}

impl Remains {
    /// Looks at every block boundary of a segment from `offset` on; `see` is
    /// shown every whole batch header found.
    pub fn scan(segment: &OpenSegment, offset: u64, mut see: impl FnMut(&BatchHeader)) -> Self {
        let mut remains = Self {
            promise: Lsn(0),
            is_zero: true,
            broken: None,
            unreadable: None,
            successor: None,
            rows: Vec::new(),
        };
        let mut block = vec![0; BLOCK as usize];
        for at in (offset..segment.header.area_end()).step_by(BLOCK as usize) {
            if segment.file.read_at(at, &mut block).is_err() {
                remains.is_zero = false;
                continue;
            }
            if is_zero(&block) {
                continue;
            }
            remains.is_zero = false;
            let header = block
                .first_chunk()
                .expect("a block is longer than a header");
            let Some((header, _)) = BatchHeader::decode(&segment.header, at, header) else {
                continue;
            };
            see(&header);
            remains.promise = remains.promise.max(header.synced_lsn);
            if at == offset {
                remains.broken = Some(header);
                remains.unreadable = segment.unreadable_entries(at, &header);
            } else {
                remains.successor.get_or_insert(header);
            }
            if let Some(batch) = segment.body_at(at, &header) {
                let rows = seal_table(&header, segment.header.seed(), &batch);
                let unread = rows
                    .into_iter()
                    .filter(|row| row.lsn >= segment.header.lsn(offset));
                remains.rows.extend(unread);
            }
        }
        remains
    }

    /// Adds what a later segment says; `true` if it holds anything at all.
    pub fn add_later(&mut self, segment: &OpenSegment, see: impl FnMut(&BatchHeader)) -> bool {
        let later = Self::scan(segment, BLOCK, see);
        self.promise = self.promise.max(later.promise);
        let first = later.broken.or(later.successor);
        self.successor = self.successor.or(first);
        !later.is_zero
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests;
