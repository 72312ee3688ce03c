//! Reading entries back: for followers that lag behind the leader's memory.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError};

use crate::codec;
use crate::disk::DiskError;
use crate::sync::{Mutex, MutexGuard};
use crate::types::{Entry, LogIndex, Term};

use super::batch::{BatchId, ClosedBatch, Records};
use super::error::{Damage, LostRange, WalError};
use super::format::{BATCH_HEADER, BatchHeader};
use super::index::{Extent, Index};
use super::segment::{BatchBytes, SegmentFile};

/// Reads the durable log from any thread; clones share everything. It sees a
/// position from the moment its append returned.
#[derive(Clone)]
pub struct WalReader {
    shared: Arc<Shared>,
}

/// What the writer publishes to readers.
pub(super) struct Shared {
    published: Mutex<Published>,
}

/// The durable log: its shape and its files.
pub(super) struct Published {
    pub index: Index,
    pub segments: BTreeMap<u64, Arc<SegmentFile>>,
}

impl Shared {
    pub fn new(index: Index, segments: BTreeMap<u64, Arc<SegmentFile>>) -> Arc<Self> {
        let published = Mutex::new(Published { index, segments });
        Arc::new(Self { published })
    }

    pub fn published(&self) -> MutexGuard<'_, Published> {
        // Writers change it in single steps: it is whole at every panic.
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Published {
    /// Adds durable batches of a segment.
    pub fn add(&mut self, segment: &Arc<SegmentFile>, batches: &[ClosedBatch]) {
        let header = segment.header();
        let known = self.segments.entry(header.sequence);
        known.or_insert_with(|| Arc::clone(segment));
        for batch in batches {
            let offset = batch.row.lsn.0 - header.base_lsn.0;
            self.index.add(batch, header.sequence, offset);
        }
    }
}

/// What one read takes from the index: everything else happens unlocked.
type Plan = Vec<(Extent, Arc<SegmentFile>)>;

impl WalReader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// What the writer publishes.
    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// The entries from `first` to `last` (inclusive; cut to the end of the
    /// log), as many as fit in `bytes_max` by [`Entry::size`] and at least one.
    /// Blocks on the disk; every entry's checksum is verified.
    ///
    /// # Errors
    /// [`WalError::Gone`] if `first` was purged or is past the end,
    /// [`WalError::Damaged`] naming what cannot be read.
    pub fn entries(
        &self,
        first: LogIndex,
        last: LogIndex,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, WalError> {
        let plan = self.plan(first, last, bytes_max)?;
        let mut entries = Vec::new();
        let mut bytes = 0;
        for (extent, segment) in plan {
            let batch = match segment.batch(extent.offset, extent.length) {
                // Purged since the plan was made.
                Err(error) if is_removed(&error) => return Err(self.gone(first)),
                result => result?,
            };
            let wanted = first.max(extent.first)..=last.min(extent.last);
            for entry in decode(&extent, &segment, &batch, wanted)? {
                bytes += entry.size();
                if !entries.is_empty() && bytes > bytes_max {
                    return Ok(entries);
                }
                entries.push(entry);
            }
        }
        assert!(!entries.is_empty());
        Ok(entries)
    }

    /// First and last position in the log; the last before the first: none.
    #[must_use]
    pub fn bounds(&self) -> (LogIndex, LogIndex) {
        let published = self.shared.published();
        let index = &published.index;
        (index.base().0.next(), index.last().0)
    }

    /// Which of these positions hold entries of these terms, all looked up at
    /// one moment.
    #[must_use]
    pub fn hold(&self, positions: &[(LogIndex, Term)]) -> Vec<bool> {
        let published = self.shared.published();
        let held =
            |(index, term): &(LogIndex, Term)| published.index.term_at(*index) == Some(*term);
        positions.iter().map(held).collect()
    }

    /// The term at a position from the one before the first on.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.shared.published().index.term_at(index)
    }

    fn plan(&self, first: LogIndex, last: LogIndex, bytes_max: usize) -> Result<Plan, WalError> {
        let published = self.shared.published();
        let mut plan = Plan::new();
        let mut bytes = 0;
        for extent in published.index.extents_from(first) {
            if extent.first > last || (bytes > bytes_max && !plan.is_empty()) {
                break;
            }
            // The first batch may give only its last entry.
            bytes += if plan.is_empty() {
                0
            } else {
                extent.length as usize
            };
            let segment = &published.segments[&extent.segment];
            plan.push((*extent, Arc::clone(segment)));
        }
        drop(published);
        if plan.is_empty() || last < first {
            return Err(self.gone(first));
        }
        Ok(plan)
    }

    fn gone(&self, wanted: LogIndex) -> WalError {
        let published = self.shared.published();
        WalError::Gone {
            wanted,
            first: published.index.base().0.next(),
            last: published.index.last().0,
        }
    }
}

fn is_removed(error: &DiskError) -> bool {
    error.source.kind() == io::ErrorKind::NotFound
}

fn decode(
    extent: &Extent,
    segment: &SegmentFile,
    batch: &BatchBytes,
    wanted: std::ops::RangeInclusive<LogIndex>,
) -> Result<Vec<Entry>, WalError> {
    let damaged = |first: LogIndex, what| {
        WalError::Damaged(Damage {
            segment: extent.segment,
            offset: extent.offset,
            what,
            lost: Some(LostRange {
                first,
                last: extent.last,
                first_term: extent.term,
                last_term: extent.term,
            }),
        })
    };
    let header = batch
        .first_chunk::<BATCH_HEADER>()
        .and_then(|bytes| BatchHeader::decode(segment.header(), extent.offset, bytes));
    let expected = BatchId {
        lsn: segment.header().lsn(extent.offset),
        crc: extent.crc,
    };
    let header = match header {
        Some((header, crc))
            if (BatchId {
                lsn: header.lsn,
                crc,
            }) == expected =>
        {
            header
        }
        _ => {
            return Err(damaged(
                extent.first,
                "another batch header than was written",
            ));
        }
    };
    let mut entries = Vec::new();
    let mut next = header.first_index;
    for record in Records::new(&header, segment.header().seed(), batch) {
        let record = record.map_err(|_| damaged(next, "an unreadable record header"))?;
        let index = record.header.index;
        next = index.next();
        if index > *wanted.end() {
            break;
        }
        if index < *wanted.start() {
            continue;
        }
        let payload = record
            .payload()
            .ok_or_else(|| damaged(index, "an entry with a wrong checksum"))?;
        let payload = codec::decode_payload(record.header.kind, payload)
            .map_err(|_| damaged(index, "an entry that does not decode"))?;
        entries.push(Entry {
            index,
            term: record.header.term,
            payload,
        });
    }
    Ok(entries)
}
