//! Reading closed segments again while the log is in use: decay is found while
//! other copies of the entries are still good, not at the next restart.

use std::io;
use std::sync::Arc;

use crate::disk::DiskError;

use super::error::{Damage, LostRange, WalError};
use super::format::{BLOCK, BatchHeader, SEAL};
use super::reader::{Shared, WalReader};
use super::walk::OpenSegment;

/// Walks the closed segments from the oldest to the newest, then again.
pub struct WalScrub {
    shared: Arc<Shared>,
    /// The last segment looked at.
    sequence: u64,
    open: Option<Open>,
}

struct Open {
    segment: OpenSegment,
    offset: u64,
}

/// What one step found.
#[derive(Debug)]
pub enum Scrubbed {
    /// All is as it was written, up to here.
    Sound,
    /// This is not. Scrubbing goes on behind it.
    Flaw(Damage),
    /// The newest closed segment was reached; the next step begins a new round.
    End,
}

impl WalScrub {
    /// Begins before the oldest segment.
    #[must_use]
    pub fn new(reader: &WalReader) -> Self {
        Self {
            shared: reader.shared(),
            sequence: 0,
            open: None,
        }
    }

    /// Reads about `bytes` bytes more from the disk, past the cache; also how
    /// many it were. Blocks.
    ///
    /// # Errors
    /// The disk's, on opening a segment. What cannot be read is a flaw.
    pub fn step(&mut self, bytes: u64) -> Result<(Scrubbed, u64), WalError> {
        let mut read = 0;
        while read < bytes {
            let Some(open) = &mut self.open else {
                match self.next_segment()? {
                    Ok(open) => self.open = open,
                    Err(flaw) => return Ok((Scrubbed::Flaw(flaw), read)),
                }
                if self.open.is_none() {
                    return Ok((Scrubbed::End, read));
                }
                continue;
            };
            let before = open.offset;
            let flaw = open.check_batch();
            read += open.offset.saturating_sub(before);
            if open.offset >= open.segment.header.area_end() {
                self.open = None;
            }
            if let Some(flaw) = flaw {
                return Ok((Scrubbed::Flaw(flaw), read));
            }
        }
        Ok((Scrubbed::Sound, read))
    }

    /// The next closed segment; `None` after the newest, and a new round
    /// begins.
    fn next_segment(&mut self) -> Result<Result<Option<Open>, Damage>, WalError> {
        loop {
            let next = {
                let published = self.shared.published();
                let mut later = published.segments.range(self.sequence + 1..);
                let closed = later.find(|(_, segment)| segment.is_closed());
                closed.map(|(&sequence, segment)| (sequence, Arc::clone(segment)))
            };
            let Some((sequence, segment)) = next else {
                self.sequence = 0;
                return Ok(Ok(None));
            };
            self.sequence = sequence;
            match segment.reopen() {
                // Purged since.
                Err(error) if is_removed(&error) => {}
                Err(error) => return Err(error.into()),
                Ok(Err(_)) => {
                    return Ok(Err(Damage {
                        segment: sequence,
                        offset: 0,
                        what: "an unreadable segment header",
                        lost: None,
                    }));
                }
                Ok(Ok(segment)) => {
                    let offset = BLOCK;
                    return Ok(Ok(Some(Open { segment, offset })));
                }
            }
        }
    }
}

impl Open {
    /// Checks the batch at the offset and goes past it.
    fn check_batch(&mut self) -> Option<Damage> {
        let (at, end) = (self.offset, self.segment.header.area_end());
        let Some((header, _)) = self.segment.header_at(at) else {
            let next = self.segment.next_batch_after(at);
            let after = next.and_then(|next| self.segment.header_at(next));
            self.offset = next.unwrap_or(end);
            // A closed segment ends with its SEAL batch.
            return Some(self.flaw(at, "no valid batch", after.and_then(|(it, _)| before(&it))));
        };
        self.offset = match header.has(SEAL) {
            true => end,
            false => at + u64::from(header.length),
        };
        if self.segment.body_at(at, &header).is_none() {
            let range = self.segment.unreadable_entries(at, &header);
            let range = range.unwrap_or(header.first_index..=header.last_index);
            let lost = (range.start() <= range.end()).then(|| LostRange {
                first: *range.start(),
                last: *range.end(),
                first_term: header.term,
                last_term: header.term,
            });
            return Some(self.flaw(at, "an unreadable batch", lost));
        }
        None
    }

    fn flaw(&self, offset: u64, what: &'static str, lost: Option<LostRange>) -> Damage {
        Damage {
            segment: self.segment.header.sequence,
            offset,
            what,
            lost,
        }
    }
}

/// What a batch says of the one before it: at least its last entry.
fn before(header: &BatchHeader) -> Option<LostRange> {
    (header.prev_index.0 > 0).then_some(LostRange {
        first: header.prev_index,
        last: header.prev_index,
        first_term: header.prev_term,
        last_term: header.prev_term,
    })
}

fn is_removed(error: &DiskError) -> bool {
    error.source.kind() == io::ErrorKind::NotFound
}
