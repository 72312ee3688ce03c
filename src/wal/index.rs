//! Where each log position lies on disk: one extent a batch, not an entry.

use std::collections::VecDeque;

use crate::types::{LogIndex, Term};

use super::batch::ClosedBatch;
use super::format::{RESET, TRUNC};

/// The part of a batch that is still the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// First live position in it.
    pub first: LogIndex,
    /// Last live position in it (a later TRUNC may have cut the batch).
    pub last: LogIndex,
    /// Term of its entries.
    pub term: Term,
    /// Sequence number of the segment.
    pub segment: u64,
    /// Offset of the batch in it.
    pub offset: u64,
    /// Length of the batch.
    pub length: u32,
    /// CRC of the batch's header.
    pub crc: u32,
}

/// The shape of the log: what it begins after and its extents.
///
/// Invariant: extents are consecutive; the first follows `base`.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    base: (LogIndex, Term),
    extents: VecDeque<Extent>,
}

impl Index {
    /// An empty log that begins after this position.
    pub fn starting_after(base: (LogIndex, Term)) -> Self {
        Self {
            base,
            extents: VecDeque::new(),
        }
    }

    /// The position before the first entry, and its term.
    pub fn base(&self) -> (LogIndex, Term) {
        self.base
    }

    /// The last position and its term; the base if there are no entries.
    pub fn last(&self) -> (LogIndex, Term) {
        match self.extents.back() {
            Some(extent) => (extent.last, extent.term),
            None => self.base,
        }
    }

    /// Term of the entry at a position from the base to the end.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        self.position(index).map(|at| self.extents[at].term)
    }

    /// The extents from the one that holds `first` on; empty: not in the log.
    pub fn extents_from(&self, first: LogIndex) -> impl Iterator<Item = &Extent> {
        let start = self.position(first).unwrap_or(self.extents.len());
        self.extents.range(start..)
    }

    /// Whether a batch continues this log as its own fields say.
    pub fn accepts(&self, batch: &ClosedBatch) -> bool {
        let prev_index = batch.row.first_index.previous();
        let (last_index, last_term) = self.last();
        let follows = if batch.flags & RESET != 0 {
            true
        } else if batch.flags & TRUNC == 0 {
            prev_index == last_index && batch.prev_term == last_term
        } else {
            // Below the base: the positions in between were purged.
            prev_index <= last_index
                && (prev_index < self.base.0 || self.term_at(prev_index) == Some(batch.prev_term))
        };
        let is_empty = batch.row.last_index < batch.row.first_index;
        follows && (is_empty || batch.row.term >= batch.prev_term)
    }

    /// Adds a batch that lies in a segment at an offset; [`Self::accepts`] it.
    pub fn add(&mut self, batch: &ClosedBatch, segment: u64, offset: u64) {
        assert!(self.accepts(batch));
        let row = &batch.row;
        let base = (row.first_index.previous(), batch.prev_term);
        if batch.flags & RESET != 0 {
            *self = Self::starting_after(base);
        } else if batch.flags & TRUNC != 0 {
            self.truncate(row.first_index);
            if self.extents.is_empty() {
                self.base = base;
            }
        }
        if row.first_index <= row.last_index {
            self.extents.push_back(Extent {
                first: row.first_index,
                last: row.last_index,
                term: row.term,
                segment,
                offset,
                length: row.length,
                crc: row.crc,
            });
        }
    }

    /// Forgets every extent in segments before `segment`.
    pub fn drop_before(&mut self, segment: u64) {
        while let Some(extent) = self.extents.front()
            && extent.segment < segment
        {
            self.base = (extent.last, extent.term);
            self.extents.pop_front();
        }
    }

    fn truncate(&mut self, first: LogIndex) {
        while let Some(extent) = self.extents.back_mut() {
            if extent.first < first {
                extent.last = extent.last.min(first.previous());
                return;
            }
            self.extents.pop_back();
        }
    }

    fn position(&self, index: LogIndex) -> Option<usize> {
        let at = self.extents.partition_point(|extent| extent.last < index);
        let extent = self.extents.get(at)?;
        (extent.first <= index).then_some(at)
    }
}
