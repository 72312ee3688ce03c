//! Writing a salvaged log anew.

use std::path::Path;
use std::sync::Arc;

use crate::disk::{Disk, DiskError};
use crate::types::{HardState, LogIndex, Term};
use crate::wal::batch::{WriteBuffer, vote_order};
use crate::wal::error::WalError;
use crate::wal::format::{BLOCK, MARK, SegmentHeader};
use crate::wal::rotate::Spare;
use crate::wal::segment::{SPARE_NAME, segment_name};
use crate::wal::walk::OpenSegment;
use crate::wal::{WalOptions, check_options, salt};

use super::sketch::Sketch;
use super::{Position, Salvage, contradiction};

impl Salvage {
    /// Writes the log anew behind the damaged one, beginning after a snapshot
    /// of this node (0: none). Once its segment has its name, opening the log
    /// finds only the new one, and removes the old. Blocks.
    ///
    /// Panics unless nothing is missing.
    ///
    /// # Errors
    /// As [`Salvage::check`], or the disk's; the damaged log is as it was.
    pub fn rewrite(
        &self,
        disk: &Arc<dyn Disk>,
        dir: &Path,
        snapshot: Position,
        options: &WalOptions,
    ) -> Result<(), WalError> {
        check_options(options);
        assert!(self.missing(snapshot).is_empty());
        self.check(snapshot, options)?;
        let sketch = self.sketch(snapshot);
        let hard_state = sketch.hard_state;
        assert!(hard_state.commit_index <= sketch.last().0);
        let bytes = sketch.bytes(options).max(options.segment_bytes);
        let mut spare = Spare::new(Arc::clone(disk), dir, bytes);
        let (mut file, bytes) = spare.take(bytes)?;
        let header = SegmentHeader {
            identity: self.identity,
            sequence: self.next_sequence,
            salt: salt(options.salt_seed, self.next_sequence, self.next_lsn),
            base_lsn: self.next_lsn,
            segment_bytes: u32::try_from(bytes).expect("the size was checked"),
            hard_state,
            snapshot: (snapshot.0 > LogIndex(0)).then_some(snapshot),
        };
        let mut block = vec![0; BLOCK as usize];
        let encoded = header.encode();
        block[..encoded.len()].copy_from_slice(&encoded);
        file.write_at(0, &block)?;
        file.write_at(header.area_end(), &block)?;
        let write = sketch.encode(header, options.batch_bytes_max);
        file.write_at(BLOCK, write.bytes())?;
        file.sync()?;
        // Its promise covers the write, which is durable now.
        let mut mark = WriteBuffer::new(header, write.end(), write.last());
        mark.begin(MARK, sketch.last().0.next(), sketch.last().1);
        mark.close(0, hard_state);
        file.write_at(mark.offset(), mark.bytes())?;
        file.sync()?;
        file.drop_cache()?;
        let spare_path = dir.join(SPARE_NAME);
        if !sketch.is_in(&OpenSegment { header, file }) {
            let error = std::io::Error::other("what was written does not come back");
            return Err(DiskError::new("verify repaired log in", &spare_path, error).into());
        }
        disk.rename(&spare_path, &dir.join(segment_name(header.sequence)))?;
        disk.sync_dir(dir)?;
        Ok(())
    }

    /// Whether the log can be written anew behind this snapshot, as far as its
    /// entries are here by now.
    ///
    /// # Errors
    /// [`WalError::TooLarge`]; [`WalError::Damaged`] if it contradicts the
    /// snapshot.
    pub fn check(&self, snapshot: Position, options: &WalOptions) -> Result<(), WalError> {
        // Where another entry stands at the snapshot's position the log is
        // given up. It cannot be one that was committed here, and a log that
        // goes on in the snapshot's term holds the snapshot's entry.
        let mut later = self.terms.range(snapshot.0.next()..);
        let is_of_it = later.any(|(_, term)| *term == snapshot.1);
        if !self.continues(snapshot) && (is_of_it || snapshot.0 <= self.hard_state.commit_index) {
            return Err(contradiction(self.next_sequence - 1));
        }
        let bytes = self.sketch(snapshot).bytes(options);
        match bytes <= SEGMENT_BYTES_MAX {
            true => Ok(()),
            false => Err(WalError::TooLarge {
                bytes,
                max: SEGMENT_BYTES_MAX,
            }),
        }
    }

    /// The new log, of the entries that are here.
    pub(super) fn sketch(&self, snapshot: Position) -> Sketch<'_> {
        let entries = match self.continues(snapshot) {
            true => (snapshot.0.0 + 1..=self.last.0.0)
                .filter_map(|index| self.entry(LogIndex(index)))
                .collect(),
            false => Vec::new(),
        };
        Sketch {
            snapshot,
            entries,
            hard_state: self.hard_state_after(snapshot),
        }
    }

    /// The hard state of the new log: never less than that of the old.
    fn hard_state_after(&self, snapshot: Position) -> HardState {
        let mut new = self.hard_state;
        new.commit_index = new.commit_index.max(snapshot.0);
        let last = match self.continues(snapshot) {
            true => self.last,
            false => snapshot,
        };
        let mut term = snapshot.1.max(self.last.1);
        if last.0 < self.end_found.0 {
            // Peers remember a later position acknowledged in this term; an
            // end that goes back is an honest one in a later term only.
            term = term.max(Term(new.term.0 + 1));
        }
        if new.term < term {
            // Nothing was voted in that term: a vote would have raised it.
            new.term = term;
            new.vote = None;
        }
        assert!(vote_order(&self.hard_state) <= vote_order(&new));
        new
    }
}

/// Bytes a segment can have.
const SEGMENT_BYTES_MAX: u64 = u32::MAX as u64 / 2;
