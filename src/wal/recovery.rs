//! What a log means after a crash, and what is done about it.
//!
//! Reading stops at the first block `p` that begins no valid batch. Every batch
//! header carries a promise: everything below its synced LSN was durable before
//! it was written. If the greatest promise anywhere behind `p` is past `p`, then
//! `p` was durable. The decision table is in `verdict.rs`.
//!
//! A torn segment is never appended to: a SEAL batch is written at `p`, over
//! what was torn, and the log goes on in a new segment. Bytes behind a SEAL are
//! never read again. Cutting so is idempotent, whenever it is interrupted.
//!
//! The log begins with the newest segment that begins with a whole RESET write:
//! older ones are not looked into, and removed.
//!
//! Damage leaves every file untouched. Only the last acknowledged batch can be
//! damaged and taken for torn, until a later promise covers it: hence MARK.

use std::panic::resume_unwind;
use std::path::Path;
use std::thread::{self, ScopedJoinHandle};

use crate::disk::Disk;
use crate::types::{LogIndex, Term};

use super::batch::ClosedBatch;
use super::error::{Damage, LostRange, WalError};
use super::format::{
    BLOCK, HeaderFault, Identity, Lsn, SealRow, SegmentHeader, VERSION, seal_bytes,
};
use super::segment::list_segments;
use super::verdict::{Decision, End, Finding, Log, Next, decide};
use super::walk::{Batches, Keep, OpenSegment, Remains, SegmentEnd, Walk};

/// How the log was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It ends where the last write ended.
    Clean,
    /// The last write was never acknowledged and is incomplete: it was cut.
    TornTail {
        /// Sequence number of the segment.
        segment: u64,
        /// Byte offset of the cut.
        offset: u64,
        /// The entries cut, if the torn write still names them.
        discarded: Option<(LogIndex, LogIndex)>,
    },
}

/// Everything recovery found out, before it changes anything.
pub(super) struct Recovered {
    pub walk: Walk,
    pub verdict: Verdict,
    /// Headers of all segments that count, ascending; the last one's file.
    pub headers: Vec<SegmentHeader>,
    pub tail: OpenSegment,
    pub tail_offset: u64,
    /// An empty segment after the tail, prepared and never begun.
    pub unused: Option<u64>,
    /// Segments before the beginning, oldest first.
    pub worthless: Vec<u64>,
}

/// The segments that are the log, and those before its beginning.
pub(super) struct LogSegments {
    pub segments: Segments,
    pub worthless: Vec<u64>,
}

/// Opens every segment of a log and finds where it begins.
///
/// # Errors
/// No log, a foreign or newer one, or the disk's.
pub(super) fn log_segments(
    disk: &dyn Disk,
    dir: &Path,
    expected: Option<Identity>,
) -> Result<LogSegments, WalError> {
    let mut segments = open_segments(disk, dir)?;
    check_identity(&segments, expected)?;
    let begins = |(_, segment): &(u64, Result<OpenSegment, HeaderFault>)| {
        segment.as_ref().is_ok_and(OpenSegment::is_beginning)
    };
    let first = segments.iter().rposition(begins).unwrap_or(0);
    let before: Vec<u64> = segments.drain(..first).map(|(it, _)| it).collect();
    let present = list_segments(disk, dir)?;
    Ok(LogSegments {
        segments,
        worthless: present
            .into_iter()
            .filter(|it| before.contains(it))
            .collect(),
    })
}

/// Reads the log in a folder and judges it. Writes nothing.
///
/// # Errors
/// No log, a foreign or newer one, a damaged one, or the disk's.
pub(super) fn recover(
    disk: &dyn Disk,
    dir: &Path,
    expected: Option<Identity>,
) -> Result<Recovered, WalError> {
    read_log(disk, dir, expected, Keep::Entries)
}

/// Only the judgement: in memory for one batch, however long the log.
///
/// # Errors
/// See [`recover`].
pub(super) fn judge_log(
    disk: &dyn Disk,
    dir: &Path,
    expected: Option<Identity>,
) -> Result<Verdict, WalError> {
    read_log(disk, dir, expected, Keep::Shape).map(|recovered| recovered.verdict)
}

fn read_log(
    disk: &dyn Disk,
    dir: &Path,
    expected: Option<Identity>,
    keep: Keep,
) -> Result<Recovered, WalError> {
    let LogSegments {
        mut segments,
        worthless,
    } = log_segments(disk, dir, expected)?;
    let Some(Ok(oldest)) = segments.first().map(|(_, segment)| segment) else {
        return Err(damage_of_header(&segments, 0, None));
    };
    let mut walk = Walk::new(&oldest.header, keep);
    let mut headers: Vec<SegmentHeader> = Vec::new();
    let (position, offset) = read_segments(&segments, &mut walk, &mut headers)?;
    let verdict = judge(&segments, position, offset, &mut walk)?;
    let unused = segments.get(position + 1).map(|(sequence, _)| *sequence);
    let (_, Ok(tail)) = segments.swap_remove(position) else {
        unreachable!("this segment was just read");
    };
    Ok(Recovered {
        walk,
        verdict,
        headers,
        tail,
        tail_offset: offset,
        unused,
        worthless,
    })
}

/// Walks the segments up to the one that does not end with a SEAL batch: which
/// it is, and where it ends.
fn read_segments(
    segments: &Segments,
    walk: &mut Walk,
    headers: &mut Vec<SegmentHeader>,
) -> Result<(usize, u64), WalError> {
    thread::scope(|scope| {
        // Two segments are read at a time: one here, the next beside.
        let mut beside: Option<ScopedJoinHandle<'_, Batches>> = None;
        for position in 0..segments.len() {
            let (sequence, Ok(segment)) = &segments[position] else {
                return Err(damage_of_header(segments, position, Some(walk)));
            };
            check_place(headers.last(), &segment.header)?;
            headers.push(segment.header);
            let keep = walk.keep();
            let batches = match beside.take() {
                Some(reader) => reader.join().unwrap_or_else(|panic| resume_unwind(panic)),
                None => {
                    if let Some((_, Ok(next))) = segments.get(position + 1) {
                        let reader = thread::Builder::new().name("wal-recovery".into());
                        let read = move || Batches::of(next, keep);
                        // Without a thread it is read in its turn.
                        beside = reader.spawn_scoped(scope, read).ok();
                    }
                    Batches::of(segment, keep)
                }
            };
            let end = walk.accept(&segment.header, batches);
            let end = end.map_err(|contradiction| {
                damage(*sequence, contradiction.offset, contradiction.what, None)
            })?;
            match end {
                SegmentEnd::Sealed => check_successor(segments, position, *sequence)?,
                SegmentEnd::Broken { offset } => return Ok((position, offset)),
            }
        }
        unreachable!("the last segment is not sealed with a successor")
    })
}

pub(super) type Segments = Vec<(u64, Result<OpenSegment, HeaderFault>)>;

/// Every segment from the oldest to the newest; a missing one in between
/// counts as damaged.
fn open_segments(disk: &dyn Disk, dir: &Path) -> Result<Segments, WalError> {
    let present = match disk.list(dir) {
        Ok(_) => list_segments(disk, dir)?,
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    if present.is_empty() {
        return Err(WalError::Missing(dir.to_path_buf()));
    }
    // Names may have been seen that are not durable yet.
    disk.sync_dir(dir)?;
    let mut segments = Segments::new();
    for sequence in present {
        if let Some((previous, _)) = segments.last()
            && previous + 1 < sequence
        {
            segments.push((previous + 1, Err(HeaderFault::Damaged)));
        }
        segments.push((sequence, OpenSegment::open(disk, dir, sequence)?));
    }
    Ok(segments)
}

fn check_identity(segments: &Segments, expected: Option<Identity>) -> Result<(), WalError> {
    let mut expected = expected;
    for (sequence, segment) in segments {
        match segment {
            Ok(segment) => {
                let found = segment.header.identity;
                let expected = *expected.get_or_insert(found);
                if found != expected {
                    return Err(WalError::Foreign {
                        segment: *sequence,
                        expected,
                        found,
                    });
                }
            }
            Err(HeaderFault::Version(found)) => {
                return Err(WalError::Version {
                    segment: *sequence,
                    found: *found,
                    known: VERSION,
                });
            }
            Err(HeaderFault::Damaged) => {}
        }
    }
    Ok(())
}

fn check_place(previous: Option<&SegmentHeader>, header: &SegmentHeader) -> Result<(), WalError> {
    match previous {
        Some(previous) if previous.lsn(u64::from(previous.segment_bytes)) != header.base_lsn => {
            let what = "a segment that does not follow the one before";
            Err(damage(header.sequence, 0, what, None))
        }
        _ => Ok(()),
    }
}

/// A segment that was closed must have one after it.
fn check_successor(segments: &Segments, position: usize, sequence: u64) -> Result<(), WalError> {
    let finding = Finding {
        end: End::Sealed,
        next: match position + 1 < segments.len() {
            true => Next::Used,
            false => Next::None,
        },
        is_promised: true,
        is_zero: false,
        log: Log::Whole,
    };
    match decide(&finding) {
        Decision::Damaged(what) => Err(damage(sequence + 1, 0, what, None)),
        _ => Ok(()),
    }
}

/// Judges the segment that is broken at `offset`.
fn judge(
    segments: &Segments,
    position: usize,
    offset: u64,
    walk: &mut Walk,
) -> Result<Verdict, WalError> {
    let (sequence, Ok(segment)) = &segments[position] else {
        unreachable!("only a readable segment is judged");
    };
    let mut remains = Remains::scan(segment, offset, |header| walk.note_vote(&header.hard_state));
    let next = look_behind(&segments[position + 1..], &mut remains, walk);
    let log = log_up_to(walk, &segment.header, offset);
    let finding = Finding {
        end: End::Broken,
        next,
        is_promised: remains.promise > segment.header.lsn(offset),
        is_zero: remains.is_zero,
        log,
    };
    match decide(&finding) {
        Decision::Clean => Ok(Verdict::Clean),
        Decision::Torn => Ok(Verdict::TornTail {
            segment: *sequence,
            offset,
            discarded: remains
                .broken
                .filter(|header| header.first_index <= header.last_index)
                .map(|header| (header.first_index, header.last_index)),
        }),
        Decision::Damaged(what) => {
            let named = lost_range(walk.index.last(), &remains);
            let lost = match log {
                Log::Short => named.or_else(|| Some(lost_commits(walk))),
                _ => named,
            };
            Err(damage(*sequence, offset, what, lost))
        }
        Decision::ReadOn => unreachable!("only a closed segment is left behind"),
    }
}

/// What the segments after a broken one are, and what they say about it.
fn look_behind(
    later: &[(u64, Result<OpenSegment, HeaderFault>)],
    remains: &mut Remains,
    walk: &mut Walk,
) -> Next {
    let mut next = match later.len() {
        0 => Next::None,
        1 => Next::Empty,
        _ => Next::Used,
    };
    for (_, segment) in later {
        let Ok(segment) = segment else {
            next = Next::Unreadable;
            continue;
        };
        walk.note_vote(&segment.header.hard_state);
        let holds = remains.add_later(segment, |header| walk.note_vote(&header.hard_state));
        if holds && next == Next::Empty {
            next = Next::Used;
        }
    }
    next
}

/// What acknowledged entries the broken batch and those after it held: by its
/// own record headers or header, by the SEAL table, or by what its successor
/// says came before.
fn lost_range(end: (LogIndex, Term), remains: &Remains) -> Option<LostRange> {
    let successor_lsn = remains.successor.map_or(Lsn(u64::MAX), |header| header.lsn);
    if let (Some(range), Some(header)) = (&remains.unreadable, remains.broken) {
        return Some(LostRange {
            first: *range.start(),
            last: *range.end(),
            first_term: header.term,
            last_term: header.term,
        });
    }
    let own = remains
        .broken
        .map(|header| ClosedBatch::new(&header, 0).row);
    let named = remains.rows.iter().filter(|row| row.lsn < successor_lsn);
    let rows: Vec<&SealRow> = own
        .iter()
        .chain(named)
        .filter(|row| row.first_index <= row.last_index)
        .collect();
    if let (Some(first), Some(last)) = (
        rows.iter().min_by_key(|row| row.first_index),
        rows.iter().max_by_key(|row| row.last_index),
    ) {
        return Some(LostRange {
            first: first.first_index,
            last: last.last_index,
            first_term: first.term,
            last_term: last.term,
        });
    }
    let successor = remains.successor?;
    let first = end.0.next();
    (first <= successor.prev_index).then_some(LostRange {
        first,
        last: successor.prev_index,
        first_term: end.1,
        last_term: successor.prev_term,
    })
}

/// What the log is if it ends at `offset` of the segment read last.
fn log_up_to(walk: &Walk, tail: &SegmentHeader, offset: u64) -> Log {
    let batch_count = walk.rows.len() as u64;
    if walk.hard_state.commit_index > walk.index.last().0 {
        Log::Short
    } else if offset + seal_bytes(batch_count) > tail.area_end() {
        Log::NoRoom
    } else if walk.last.is_none() {
        // A prefix is dropped only once what remains says where it begins.
        Log::Headless
    } else {
        Log::Whole
    }
}

/// The entries that the commit index says there were.
fn lost_commits(walk: &Walk) -> LostRange {
    let (last_index, last_term) = walk.index.last();
    LostRange {
        first: last_index.next(),
        last: walk.hard_state.commit_index,
        first_term: last_term,
        last_term: walk.hard_state.term,
    }
}

fn damage_of_header(segments: &Segments, position: usize, walk: Option<&Walk>) -> WalError {
    let successor = segments[position + 1..].iter().find_map(|(_, later)| {
        let later = later.as_ref().ok()?;
        let remains = Remains::scan(later, BLOCK, |_| {});
        remains.broken.or(remains.successor)
    });
    let remains = Remains {
        promise: Lsn(0),
        is_zero: false,
        broken: None,
        unreadable: None,
        successor,
        rows: Vec::new(),
    };
    let end = walk.map_or_else(Default::default, |walk| walk.index.last());
    let what = "a missing or unreadable segment header";
    damage(segments[position].0, 0, what, lost_range(end, &remains))
}

fn damage(segment: u64, offset: u64, what: &'static str, lost: Option<LostRange>) -> WalError {
    WalError::Damaged(Damage {
        segment,
        offset,
        what,
        lost,
    })
}
