//! Looking through a whole log without opening it for work: for `wal dump` and
//! `wal verify`, and for whoever repairs.
//!
//! Recovery stops at the first flaw, because nothing behind it may be used. A
//! survey goes on: behind a flaw every block that begins a valid batch is
//! found again by its LSN and salt, so that all flaws are named, each with the
//! entries it costs. Nothing is written. Memory: one batch at a time, and one
//! line for each batch of a segment.

use std::fmt;
use std::path::Path;

use crate::disk::Disk;
use crate::types::{HardState, LogIndex, Term};

use super::batch::{BatchId, Records};
use super::error::{Damage, LostRange, WalError};
use super::format::{BLOCK, BatchHeader, HeaderFault, Identity, RecordHeader, SEAL, SegmentHeader};
use super::recovery::{Verdict, judge_log};
use super::segment::list_segments;
use super::walk::OpenSegment;

/// What opening a log yields: exactly one of these.
#[derive(Debug)]
pub enum Outcome {
    /// It ends where the last write ended.
    Clean,
    /// The last write was never acknowledged and is incomplete: it would be
    /// cut.
    TornTail {
        /// Sequence number of the segment.
        segment: u64,
        /// Byte offset of the cut.
        offset: u64,
        /// First and last entry cut, if the torn write still names them.
        discarded: Option<(LogIndex, LogIndex)>,
    },
    /// Acknowledged bytes are lost: nothing is cut. The first flaw; a survey
    /// lists all.
    Damaged(Damage),
    /// The log of another cluster, node or life of it.
    Foreign {
        /// Sequence number of the segment that says so.
        segment: u64,
        /// Who was to open it.
        expected: Identity,
        /// Whom it belongs to.
        found: Identity,
    },
    /// It could not be judged: no log, a newer format, a failing disk.
    Stopped(WalError),
}

impl From<Result<Verdict, WalError>> for Outcome {
    fn from(result: Result<Verdict, WalError>) -> Self {
        match result {
            Ok(Verdict::Clean) => Self::Clean,
            Ok(Verdict::TornTail {
                segment,
                offset,
                discarded,
            }) => Self::TornTail {
                segment,
                offset,
                discarded,
            },
            Err(WalError::Damaged(damage)) => Self::Damaged(damage),
            Err(WalError::Foreign {
                segment,
                expected,
                found,
            }) => Self::Foreign {
                segment,
                expected,
                found,
            },
            Err(error) => Self::Stopped(error),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clean => write!(f, "clean"),
            Self::TornTail {
                segment,
                offset,
                discarded,
            } => {
                write!(f, "torn tail in segment {segment} at byte {offset}")?;
                match discarded {
                    Some((first, last)) => write!(
                        f,
                        ": entries {first} to {last} were never acknowledged and do not count"
                    ),
                    None => write!(f, ": an unfinished write that was never acknowledged"),
                }
            }
            Self::Damaged(damage) => write!(f, "damaged: {damage}"),
            Self::Foreign {
                segment,
                expected,
                found,
            } => write!(
                f,
                "foreign: segment {segment} belongs to {found}, expected {expected}"
            ),
            Self::Stopped(error) => write!(f, "stopped: {error}"),
        }
    }
}

/// Something met on the way, in order.
#[derive(Debug)]
pub enum Seen<'a> {
    /// A segment begins.
    Segment {
        /// Its header.
        header: &'a SegmentHeader,
        /// Whether both copies of the header are whole.
        is_doubled: bool,
    },
    /// A segment that is missing or without a readable header.
    NoHeader {
        /// Its sequence number.
        sequence: u64,
    },
    /// A batch, whole.
    Batch {
        /// Its offset in the segment.
        offset: u64,
        /// Its header.
        header: &'a BatchHeader,
    },
    /// An entry of the batch seen last.
    Entry {
        /// Position, term, kind and size.
        header: RecordHeader,
        /// Its payload.
        payload: &'a [u8],
    },
    /// A place that begins no batch or holds a broken one.
    Flaw(&'a Damage),
}

/// What a survey found.
#[derive(Debug)]
pub struct Survey {
    /// What opening the log would yield.
    pub outcome: Outcome,
    /// Whose log it is, as far as any segment says.
    pub identity: Option<Identity>,
    /// The newest term and vote, and the greatest commit index, in any batch.
    pub hard_state: HardState,
    /// First and last position seen; `None`: no entries.
    pub entries: Option<(LogIndex, LogIndex)>,
    /// Segment files.
    pub segment_count: u64,
    /// Whole batches.
    pub batch_count: u64,
    /// Every flaw below the end of the log, at most [`FLAWS_MAX`].
    pub flaws: Vec<Damage>,
    /// Segments of which one of the two headers is not readable.
    pub half_headers: Vec<u64>,
}

/// More flaws than this are not listed.
pub const FLAWS_MAX: usize = 1000;

/// Looks through the log in a folder, showing what it meets to `see`.
///
/// `expected`: whose log it should be; `None`: anybody's. Blocks while the log
/// is read twice.
///
/// # Errors
/// The disk's, on opening or listing. Unreadable blocks are flaws.
pub fn survey(
    disk: &dyn Disk,
    dir: &Path,
    expected: Option<Identity>,
    see: &mut dyn FnMut(&Seen<'_>),
) -> Result<Survey, WalError> {
    let outcome = Outcome::from(judge_log(disk, dir, expected));
    let mut surveyor = Surveyor {
        survey: Survey {
            outcome,
            identity: None,
            hard_state: HardState::default(),
            entries: None,
            segment_count: 0,
            batch_count: 0,
            flaws: Vec::new(),
            half_headers: Vec::new(),
        },
        see,
        last: None,
        end: (LogIndex(0), Term(0)),
        pending: None,
    };
    if matches!(
        surveyor.survey.outcome,
        Outcome::Stopped(WalError::Missing(_))
    ) {
        return Ok(surveyor.survey);
    }
    let mut next = None;
    let begins_at = beginning(disk, dir)?;
    for sequence in list_segments(disk, dir)?
        .into_iter()
        .filter(|it| *it >= begins_at)
    {
        for missing in next.unwrap_or(sequence)..sequence.min(next.unwrap_or(sequence) + GAP_MAX) {
            surveyor.no_header(missing);
        }
        match OpenSegment::open(disk, dir, sequence)? {
            Ok(segment) => surveyor.segment(&segment),
            Err(HeaderFault::Damaged | HeaderFault::Version(_)) => surveyor.no_header(sequence),
        }
        next = Some(sequence + 1);
    }
    surveyor.finish();
    Ok(surveyor.survey)
}

/// The segment the log begins with, if one says so.
fn beginning(disk: &dyn Disk, dir: &Path) -> Result<u64, WalError> {
    for sequence in list_segments(disk, dir)?.into_iter().rev() {
        let segment = OpenSegment::open(disk, dir, sequence)?;
        if segment.is_ok_and(|segment| segment.is_beginning()) {
            return Ok(sequence);
        }
    }
    Ok(0)
}

/// Whose log the folder holds, by its oldest readable segment.
///
/// # Errors
/// The disk's, on opening or listing.
pub fn owner(disk: &dyn Disk, dir: &Path) -> Result<Option<Identity>, WalError> {
    for sequence in list_segments(disk, dir)? {
        if let Ok(segment) = OpenSegment::open(disk, dir, sequence)? {
            return Ok(Some(segment.header.identity));
        }
    }
    Ok(None)
}

/// Missing segments listed one by one, at most.
const GAP_MAX: u64 = 100;

struct Surveyor<'a> {
    survey: Survey,
    see: &'a mut dyn FnMut(&Seen<'_>),
    /// The last batch seen.
    last: Option<BatchId>,
    /// The last position of the log so far.
    end: (LogIndex, Term),
    /// A flaw whose extent the next batch will tell.
    pending: Option<Damage>,
}

impl Surveyor<'_> {
    fn segment(&mut self, segment: &OpenSegment) {
        let header = &segment.header;
        let is_doubled = segment.has_both_headers();
        (self.see)(&Seen::Segment { header, is_doubled });
        self.survey.segment_count += 1;
        self.survey.identity.get_or_insert(header.identity);
        if !is_doubled {
            self.survey.half_headers.push(header.sequence);
        }
        let mut offset = BLOCK;
        while offset < header.area_end() {
            match segment.header_at(offset) {
                Some((batch, crc)) => {
                    let is_whole = self.batch(segment, offset, &batch, crc);
                    if is_whole && batch.has(SEAL) {
                        return;
                    }
                    offset += u64::from(batch.length);
                }
                None => {
                    let next = segment.next_batch_after(offset);
                    if next.is_some() || !segment.is_zero_from(offset) {
                        self.flaw(header.sequence, offset, "no valid batch", None);
                    }
                    match next {
                        Some(next) => offset = next,
                        None => return,
                    }
                }
            }
        }
    }

    /// Takes in a batch whose header is whole; whether its body is, too.
    fn batch(
        &mut self,
        segment: &OpenSegment,
        offset: u64,
        header: &BatchHeader,
        crc: u32,
    ) -> bool {
        let previous = BatchId {
            lsn: header.prev_lsn,
            crc: header.prev_crc,
        };
        let is_next = self.last.is_none_or(|last| last == previous);
        self.settle(header, is_next, segment.header.sequence, offset);
        self.last = Some(BatchId {
            lsn: header.lsn,
            crc,
        });
        self.note(header);
        let Some(body) = segment.body_at(offset, header) else {
            let range = segment.unreadable_entries(offset, header);
            let range = range.unwrap_or(header.first_index..=header.last_index);
            let lost = (range.start() <= range.end()).then(|| LostRange {
                first: *range.start(),
                last: *range.end(),
                first_term: header.term,
                last_term: header.term,
            });
            self.flaw(segment.header.sequence, offset, "an unreadable batch", lost);
            self.resolve();
            return false;
        };
        (self.see)(&Seen::Batch { offset, header });
        self.survey.batch_count += 1;
        if !header.has(SEAL) {
            for record in Records::new(header, segment.header.seed(), &body).flatten() {
                if let Some(payload) = record.payload() {
                    let header = record.header;
                    (self.see)(&Seen::Entry { header, payload });
                }
            }
        }
        true
    }

    /// What the batch that follows a flaw says was there; or, if nothing was
    /// flawed, that it does not follow.
    fn settle(&mut self, header: &BatchHeader, is_next: bool, segment: u64, offset: u64) {
        if self.pending.is_some() {
            let first = self.end.0.next();
            if let Some(flaw) = &mut self.pending
                && flaw.lost.is_none()
                && first <= header.prev_index
            {
                flaw.lost = Some(LostRange {
                    first,
                    last: header.prev_index,
                    first_term: self.end.1,
                    last_term: header.prev_term,
                });
            }
            self.resolve();
        } else if !is_next {
            let what = "a batch that does not follow the one before";
            self.flaw(segment, offset, what, None);
            self.resolve();
        }
    }

    fn note(&mut self, header: &BatchHeader) {
        let state = &mut self.survey.hard_state;
        let commit_index = state.commit_index.max(header.hard_state.commit_index);
        if super::batch::vote_order(&header.hard_state) > super::batch::vote_order(state) {
            *state = header.hard_state;
        }
        state.commit_index = commit_index;
        self.end = (header.prev_index, header.prev_term);
        if header.first_index <= header.last_index {
            self.end = (header.last_index, header.term);
            let entries = &mut self.survey.entries;
            let first = entries.map_or(header.first_index, |(first, _)| {
                first.min(header.first_index)
            });
            *entries = Some((first, header.last_index));
        }
    }

    fn no_header(&mut self, sequence: u64) {
        self.survey.segment_count += 1;
        (self.see)(&Seen::NoHeader { sequence });
        let what = "a missing or unreadable segment header";
        self.flaw(sequence, 0, what, None);
    }

    /// A flaw begins; one that goes on is one flaw.
    fn flaw(&mut self, segment: u64, offset: u64, what: &'static str, lost: Option<LostRange>) {
        if self.pending.is_none() {
            self.pending = Some(Damage {
                segment,
                offset,
                what,
                lost,
            });
        }
    }

    fn resolve(&mut self) {
        if let Some(flaw) = self.pending.take()
            && self.survey.flaws.len() < FLAWS_MAX
        {
            (self.see)(&Seen::Flaw(&flaw));
            self.survey.flaws.push(flaw);
        }
    }

    /// A flaw that nothing follows is the end of the log, torn or damaged: as
    /// recovery judged.
    fn finish(&mut self) {
        match (&self.survey.outcome, &mut self.pending) {
            (Outcome::Damaged(first), Some(flaw)) => {
                if (first.segment, first.offset) == (flaw.segment, flaw.offset) {
                    flaw.lost = first.lost;
                }
                self.resolve();
            }
            (Outcome::Damaged(first), None) if self.survey.flaws.is_empty() => {
                self.pending = Some(first.clone());
                self.resolve();
            }
            _ => self.pending = None,
        }
        // What is cut was never acknowledged: it is no loss.
        if let Outcome::TornTail {
            segment, offset, ..
        } = self.survey.outcome
        {
            let flaws = &mut self.survey.flaws;
            flaws.retain(|flaw| (flaw.segment, flaw.offset) < (segment, offset));
        }
    }
}
