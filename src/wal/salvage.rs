//! What is still known of a log that is damaged, and writing it anew once the
//! peers have supplied what is lost (D-030).
//!
//! A log is a prefix of what the leader of its last entry's term had, so its
//! last position and term determine all of it (Log Matching). Everything here
//! rests on that: which entries are lost is known as soon as the end is, and
//! an entry of the right position and term is the right entry, whoever gives
//! it.
//!
//! A log can be salvaged if an intact batch header lies behind every damaged
//! place: every header carries the hard state, which only grows, and the end
//! of the log before it. Otherwise a vote or the end may be lost, and only a
//! new life of the directory is safe. The same holds if a damaged log seems to
//! end in a write cut short.
//!
//! Nothing here changes a file of the damaged log. The new one begins with one
//! segment, written, synced and read again before it gets its name: a segment
//! that begins with a whole RESET write makes everything before it worthless.

mod sketch;

mod rewrite;

mod rehearsal;

pub use rehearsal::{Rehearsal, rehearse};

use std::collections::BTreeMap;
use std::path::Path;

use crate::disk::Disk;
use crate::types::{Entry, HardState, LogIndex, Term};

use super::batch::{BatchId, seal_table, vote_order};
use super::error::{Damage, LostRange, WalError};
use super::format::{BLOCK, BatchHeader, CONTINUES, Identity, Lsn, RESET, SEAL, SealRow, TRUNC};
use super::recovery::{Segments, log_segments};
use super::walk::OpenSegment;

/// A position and the term of the entry there.
pub type Position = (LogIndex, Term);

/// What is known of a damaged log, and what has been supplied since.
///
/// Invariants: terms rise with positions; `last` is the greatest of them; an
/// entry counts only where its term is the one known for its position.
#[derive(Clone, Debug)]
pub struct Salvage {
    identity: Identity,
    hard_state: HardState,
    last: Position,
    /// Where the damaged log ends: what this node acknowledged is up to there.
    end_found: Position,
    /// Terms that are certain.
    terms: BTreeMap<LogIndex, Term>,
    /// Every entry that can be read, of whatever past of this log, and those
    /// supplied.
    pool: BTreeMap<(LogIndex, Term), Entry>,
    next_sequence: u64,
    next_lsn: Lsn,
}

/// Entries that are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// First position.
    pub first: LogIndex,
    /// Last position.
    pub last: LogIndex,
    /// A position at or after `last` whose term is known: a log that holds
    /// this entry agrees with the lost one before it.
    pub anchor: Position,
}

/// Why an entry was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsuitable {
    /// Nothing says that it is the one that was here.
    #[error("entry {0} cannot be told from another entry at that position")]
    Undetermined(LogIndex),
    /// Another entry was here.
    #[error("entry {index} is of term {found}, the lost one was of term {known}")]
    OtherTerm {
        /// Its position.
        index: LogIndex,
        /// The term known.
        known: Term,
        /// The term given.
        found: Term,
    },
}

/// Reads what can be read of the log in a folder. Writes nothing; blocks while
/// the whole log is read.
///
/// # Errors
/// [`WalError::Damaged`] if a vote or the end of the log may be lost, or the
/// log contradicts itself; [`WalError::Missing`], [`WalError::Foreign`],
/// [`WalError::Version`]; the disk's.
pub fn salvage(
    disk: &dyn Disk,
    dir: &Path,
    expected: Option<Identity>,
) -> Result<Salvage, WalError> {
    let segments = log_segments(disk, dir, expected)?.segments;
    let found = find_batches(&segments)?;
    // What was never acknowledged may have carried a vote all the same.
    let votes: Vec<HardState> = found.iter().map(|it| it.header.hard_state).collect();
    let found = without_remnants(&segments, found)?;
    let count = count_of_log(&segments, &found)?;
    let newest = segments
        .iter()
        .filter_map(|(_, it)| it.as_ref().ok())
        .next_back();
    let Some(newest) = newest.map(|segment| segment.header) else {
        return Err(unknown_end(segments[0].0));
    };
    let mut salvage = Salvage {
        identity: newest.identity,
        hard_state: HardState::default(),
        last: Position::default(),
        end_found: Position::default(),
        terms: BTreeMap::new(),
        pool: BTreeMap::new(),
        next_sequence: newest.sequence + 1,
        next_lsn: newest.lsn(u64::from(newest.segment_bytes)),
    };
    for (_, segment) in &segments {
        if let Ok(segment) = segment {
            salvage.note_vote(&segment.header.hard_state);
        }
    }
    for vote in &votes {
        salvage.note_vote(vote);
    }
    let mut before = None;
    for batch in &found[..count] {
        salvage.add(batch, before)?;
        before = Some(batch.id);
    }
    salvage.end_found = salvage.last;
    if salvage.hard_state.commit_index > salvage.last.0 {
        let (first, last) = (salvage.last.0.next(), salvage.hard_state.commit_index);
        return Err(WalError::Damaged(Damage {
            segment: newest.sequence,
            offset: 0,
            what: "an end of the log below the commit index",
            lost: Some(LostRange {
                first,
                last,
                first_term: salvage.last.1,
                last_term: salvage.hard_state.term,
            }),
        }));
    }
    salvage.fill_terms();
    if !salvage.is_consistent() {
        return Err(contradiction(newest.sequence));
    }
    Ok(salvage)
}

/// A batch whose header is whole.
struct Found {
    segment: u64,
    header: BatchHeader,
    id: BatchId,
    /// Those that can be read.
    entries: Vec<Entry>,
    is_intact: bool,
    /// Where something unreadable begins right before it.
    gap: Option<Gap>,
}

struct Gap {
    segment: u64,
    lsn: Lsn,
    /// Lines of a SEAL table about batches in it.
    rows: Vec<SealRow>,
    /// Whether the first batch of a segment is in it.
    begins_segment: bool,
}

/// Every whole batch header, in order, each with the gap before it.
fn find_batches(segments: &Segments) -> Result<Vec<Found>, WalError> {
    let mut all: Vec<Found> = Vec::new();
    let mut gap: Option<Gap> = None;
    for (sequence, segment) in segments {
        let Ok(segment) = segment else {
            let lsn = all.last().map_or(Lsn(0), |found| end_of(&found.header));
            gap.get_or_insert(Gap {
                segment: *sequence,
                lsn,
                rows: Vec::new(),
                begins_segment: true,
            });
            continue;
        };
        find_in_segment(segment, &mut all, &mut gap);
    }
    Ok(all)
}

fn find_in_segment(segment: &OpenSegment, all: &mut Vec<Found>, gap: &mut Option<Gap>) {
    let first = all.len();
    let mut offset = BLOCK;
    let mut table = Vec::new();
    while offset < segment.header.area_end() {
        let Some((header, crc)) = segment.header_at(offset) else {
            let begins = Gap {
                segment: segment.header.sequence,
                lsn: segment.header.lsn(offset),
                rows: Vec::new(),
                begins_segment: offset == BLOCK,
            };
            match segment.next_batch_after(offset) {
                Some(next) => {
                    gap.get_or_insert(begins);
                    offset = next;
                }
                None => {
                    gap.get_or_insert(begins);
                    break;
                }
            }
            continue;
        };
        let body = segment.body_at(offset, &header);
        if let Some(body) = &body {
            table = seal_table(&header, segment.header.seed(), body);
        }
        all.push(Found {
            segment: segment.header.sequence,
            id: BatchId {
                lsn: header.lsn,
                crc,
            },
            entries: segment.readable_entries(offset, &header),
            is_intact: body.is_some(),
            gap: gap.take(),
            header,
        });
        if header.has(SEAL) {
            break;
        }
        offset += u64::from(header.length);
    }
    for found in &mut all[first..] {
        let end = found.header.lsn;
        if let Some(gap) = &mut found.gap {
            let rows = table
                .iter()
                .filter(|row| gap.lsn <= row.lsn && row.lsn < end);
            gap.rows = rows.copied().collect();
        }
    }
}

/// Leaves out what lies behind the end of a segment that was cut there: whole
/// batches of a write that was torn before them. Its SEAL, which said so, may
/// be lost; then the first batch of the next segment says where it was. Before
/// a SEAL every batch is of the log.
fn without_remnants(segments: &Segments, found: Vec<Found>) -> Result<Vec<Found>, WalError> {
    let mut kept: Vec<Found> = Vec::new();
    let mut rest = found.into_iter().peekable();
    for (sequence, segment) in segments {
        let Ok(segment) = segment else { continue };
        let mut own: Vec<Found> = Vec::new();
        while let Some(found) = rest.next_if(|it| it.segment == *sequence) {
            own.push(found);
        }
        let is_sealed = own.last().is_some_and(|it| it.header.has(SEAL));
        let Some(next) = rest.peek_mut().filter(|_| !is_sealed) else {
            kept.extend(own);
            continue;
        };
        let begins = segment.header.lsn(0);
        let ends = segment.header.lsn(segment.header.area_end());
        let seal = next.header.prev_lsn;
        let end = match begins < seal && seal < ends {
            true => own.partition_point(|it| it.header.lsn < seal),
            false => {
                let end = provable(&own);
                // A log that begins anew leaves all of it behind.
                if end < own.len() && !next.header.has(RESET) {
                    return Err(unknown_end(*sequence));
                }
                end
            }
        };
        // What cannot be read reaches from before them to the next segment.
        if let Some(first) = own.drain(end..).next() {
            let lsn = first.header.lsn;
            next.gap = first.gap.or(Some(Gap {
                segment: *sequence,
                lsn,
                rows: Vec::new(),
                begins_segment: lsn == segment.header.lsn(BLOCK),
            }));
        }
        kept.extend(own);
    }
    Ok(kept)
}

/// How many of a segment's batches were certainly not behind its end: up to
/// the first one behind a gap that is not the first of its write, unless it
/// was durable when a later one was written.
fn provable(own: &[Found]) -> usize {
    let promise = own.iter().map(|it| it.header.synced_lsn).max();
    let doubtful = |it: &Found| {
        let is_first = it.header.lsn == it.header.synced_lsn;
        it.gap.is_some() && !is_first && promise.is_none_or(|promise| promise <= it.header.lsn)
    };
    own.iter().position(doubtful).unwrap_or(own.len())
}

/// How many of the batches are the log: it goes on behind a gap only if
/// something says that what was lost there was durable.
fn count_of_log(segments: &Segments, found: &[Found]) -> Result<usize, WalError> {
    let mut count = found.len();
    for (position, batch) in found.iter().enumerate() {
        let gap = batch.gap.as_ref().map(|gap| (gap.segment, gap.lsn));
        let broken = (!batch.is_intact).then_some((batch.segment, batch.header.lsn));
        let Some((segment, lsn)) = gap.or(broken) else {
            continue;
        };
        let later = &found[position..];
        let promise = later.iter().map(|batch| batch.header.synced_lsn).max();
        let is_continued = later.iter().any(|batch| batch.segment > segment);
        if !is_continued && promise.is_none_or(|promise| promise <= lsn) {
            count = position;
            break;
        }
    }
    // Of a write that is not complete nothing counts.
    while count > 0 && found[count - 1].header.has(CONTINUES) {
        count -= 1;
    }
    let Some(last) = found[..count].last() else {
        return Err(unknown_end(segments[0].0));
    };
    // A write cut short may end a log. With damage before it, it may as well be
    // more damage, to something acknowledged: then nobody can tell.
    let is_damaged = found[..count]
        .iter()
        .any(|batch| batch.gap.is_some() || !batch.is_intact);
    if is_damaged && (count < found.len() || !ends_in_zeros(segments, last)) {
        return Err(unknown_end(last.segment));
    }
    // Behind the last batch: nothing, or one segment that was never begun.
    let later: Vec<_> = segments
        .iter()
        .filter(|(sequence, _)| *sequence > last.segment)
        .collect();
    let is_sealed = last.header.has(SEAL);
    let ends_here = match later[..] {
        [] => !is_sealed,
        [(_, Ok(next))] => {
            found[count..].iter().all(|it| it.segment <= last.segment) && {
                is_sealed || next.is_zero_from(BLOCK)
            }
        }
        _ => false,
    };
    match ends_here {
        true => Ok(count),
        false => Err(unknown_end(last.segment + 1)),
    }
}

/// Whether nothing was ever written behind the last batch of a segment.
fn ends_in_zeros(segments: &Segments, last: &Found) -> bool {
    let segment = segments.iter().find(|(it, _)| *it == last.segment);
    let Some((_, Ok(segment))) = segment else {
        return false;
    };
    let end = end_of(&last.header).0 - segment.header.base_lsn.0;
    last.header.has(SEAL) || segment.is_zero_from(end)
}

impl Salvage {
    /// Takes in the next batch of the log.
    fn add(&mut self, batch: &Found, before: Option<BatchId>) -> Result<(), WalError> {
        let header = &batch.header;
        let follows = BatchId {
            lsn: header.prev_lsn,
            crc: header.prev_crc,
        };
        let is_chained = before == Some(follows);
        if let Some(gap) = &batch.gap {
            self.add_rows(gap);
        }
        let prev = (header.prev_index, header.prev_term);
        let continues = header.has(RESET | TRUNC) || self.last == prev;
        if is_chained && !continues {
            return Err(contradiction(batch.segment));
        }
        if header.has(RESET) {
            self.terms.clear();
        }
        self.agree_with(prev);
        // Only now: it says nothing about entries read before the gap.
        let commit = header.hard_state.commit_index;
        self.hard_state.commit_index = self.hard_state.commit_index.max(commit);
        self.append(header.first_index, header.last_index, header.term);
        for entry in &batch.entries {
            let key = (entry.index, entry.term);
            self.pool.insert(key, entry.clone());
        }
        Ok(())
    }

    /// The log ended so, or was cut to end so, at this point of its history.
    fn agree_with(&mut self, prev: Position) {
        self.terms.split_off(&prev.0.next());
        if self.terms.get(&prev.0) != Some(&prev.1) {
            self.forget_doubtful(prev);
            if prev.0 > LogIndex(0) {
                self.terms.insert(prev.0, prev.1);
            }
        }
        self.last = prev;
    }

    /// What remains certain below an entry that was not known before: what was
    /// committed, and what is of its own term, for both stood in the log of
    /// that term's leader. Other entries may have been replaced by lost ones.
    fn forget_doubtful(&mut self, (index, term): Position) {
        let commit = self.hard_state.commit_index;
        self.terms
            .retain(|&at, &mut of| at < index && (at <= commit || of == term));
    }

    fn append(&mut self, first: LogIndex, last: LogIndex, term: Term) {
        for index in first.0..=last.0 {
            self.terms.insert(LogIndex(index), term);
            self.last = (LogIndex(index), term);
        }
    }

    /// Batches that are lost but named by their segment's table.
    fn add_rows(&mut self, gap: &Gap) {
        let mut end = gap.lsn;
        // The first batch of a segment may have been a reset, of which nothing
        // tells: then nothing before it is certain.
        let mut is_told = !gap.begins_segment;
        for row in &gap.rows {
            is_told &= row.lsn == end;
            end = Lsn(row.lsn.0 + u64::from(row.length));
            if row.first_index > row.last_index {
                continue;
            }
            self.terms.split_off(&row.first_index);
            if !is_told || self.last.0.next() < row.first_index {
                self.forget_doubtful((row.first_index, row.term));
            }
            self.append(row.first_index, row.last_index, row.term);
            is_told = true;
        }
    }

    /// Between two entries of one term all are of that term.
    fn fill_terms(&mut self) {
        let known: Vec<_> = self.terms.iter().map(|(at, of)| (*at, *of)).collect();
        for pair in known.windows(2) {
            if pair[0].1 == pair[1].1 {
                for index in pair[0].0.0 + 1..pair[1].0.0 {
                    self.terms.insert(LogIndex(index), pair[0].1);
                }
            }
        }
    }

    fn note_vote(&mut self, state: &HardState) {
        if vote_order(state) > vote_order(&self.hard_state) {
            self.hard_state = HardState {
                commit_index: self.hard_state.commit_index,
                ..*state
            };
        }
    }

    fn is_consistent(&self) -> bool {
        let last = self.terms.last_key_value();
        self.terms.values().is_sorted()
            && last.map_or(Position::default(), |(at, of)| (*at, *of)) == self.last
            && self.hard_state.commit_index <= self.last.0
    }

    /// Whose log it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The newest term and vote ever written, and the greatest commit index.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// The end of the log.
    #[must_use]
    pub fn last(&self) -> Position {
        self.last
    }

    /// The term at a position, if it is known.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.terms.get(&index).copied()
    }

    /// The entry at a position, if it is known and here.
    #[must_use]
    pub fn entry(&self, index: LogIndex) -> Option<&Entry> {
        self.pool.get(&(index, self.term_at(index)?))
    }

    /// Whether the log goes on from a snapshot: `false` if it is shorter, or
    /// another entry stands at the snapshot's position. Then all of it is
    /// covered or was never committed.
    #[must_use]
    pub fn continues(&self, snapshot: Position) -> bool {
        let known = self.term_at(snapshot.0);
        snapshot.0 == LogIndex(0)
            || snapshot.0 <= self.last.0 && known.is_none_or(|term| term == snapshot.1)
    }

    /// What is needed behind a snapshot of this node (0: none), in order.
    #[must_use]
    pub fn missing(&self, snapshot: Position) -> Vec<Wanted> {
        let mut all: Vec<Wanted> = Vec::new();
        if !self.continues(snapshot) {
            return all;
        }
        // Where another entry may have stood at its position, it is asked for.
        let is_anchored =
            snapshot.0 <= self.hard_state.commit_index || self.term_at(snapshot.0).is_some();
        let first = snapshot.0.0 + u64::from(is_anchored);
        for index in (first..=self.last.0.0).map(LogIndex) {
            if self.entry(index).is_some() {
                continue;
            }
            let known = self.terms.range(index..).next();
            let anchor = known
                .map(|(at, of)| (*at, *of))
                .expect("the last term is known");
            match all.last_mut() {
                Some(wanted) if wanted.last.next() == index && wanted.anchor.1 == anchor.1 => {
                    wanted.last = index;
                    wanted.anchor = anchor;
                }
                _ => all.push(Wanted {
                    first: index,
                    last: index,
                    anchor,
                }),
            }
        }
        all
    }

    /// Takes an entry of a peer. `anchor`: a position after it that the peer's
    /// log holds with this term.
    ///
    /// # Errors
    /// It is not, or not certainly, what was lost; nothing changed.
    pub fn supply(&mut self, entry: Entry, anchor: Option<Position>) -> Result<(), Unsuitable> {
        let index = entry.index;
        match self.term_at(index) {
            Some(known) if known == entry.term => {}
            Some(known) => {
                return Err(Unsuitable::OtherTerm {
                    index,
                    known,
                    found: entry.term,
                });
            }
            None => {
                let holds = |anchor: &Position| {
                    index <= anchor.0 && self.term_at(anchor.0) == Some(anchor.1)
                };
                let below = self.terms.range(..index).next_back();
                let above = self.terms.range(index..).next();
                let fits = below.is_none_or(|(_, of)| *of <= entry.term)
                    && above.is_some_and(|(_, of)| entry.term <= *of);
                if !fits || !anchor.as_ref().is_some_and(holds) {
                    return Err(Unsuitable::Undetermined(index));
                }
                self.terms.insert(index, entry.term);
            }
        }
        self.pool.insert((index, entry.term), entry);
        Ok(())
    }

    /// The same of an entry that the peer knows to be committed: where this log
    /// knew the position to be committed, too, it was the same one.
    ///
    /// # Errors
    /// As [`Salvage::supply`].
    pub fn supply_committed(
        &mut self,
        entry: Entry,
        anchor: Option<Position>,
    ) -> Result<(), Unsuitable> {
        let (index, term) = (entry.index, entry.term);
        if index <= self.hard_state.commit_index && self.term_at(index).is_none() {
            let below = self.terms.range(..index).next_back();
            let above = self.terms.range(index..).next();
            let fits =
                below.is_none_or(|(_, of)| *of <= term) && above.is_some_and(|(_, of)| term <= *of);
            if fits {
                self.terms.insert(index, term);
            }
        }
        self.supply(entry, anchor)
    }

    /// A peer that committed the snapshot's position holds the anchor of what
    /// was wanted from there on: so the lost log went on from the snapshot.
    pub fn confirm(&mut self, snapshot: Position, anchor: Position) {
        let holds = self.term_at(anchor.0) == Some(anchor.1);
        if holds && snapshot.0 <= anchor.0 && self.term_at(snapshot.0).is_none() {
            self.terms.insert(snapshot.0, snapshot.1);
            assert!(self.is_consistent());
        }
    }

    /// The cluster committed another entry than the one known here at this
    /// position: this log was abandoned from there or earlier. It now ends
    /// with that entry; what it shares with the committed log is wanted or
    /// found again. `false`: that is not so.
    pub fn supersede(&mut self, committed: Position) -> bool {
        let known = self.term_at(committed.0);
        let commit = self.hard_state.commit_index;
        if known.is_none_or(|term| term == committed.1) || committed.0 <= commit {
            return false;
        }
        self.terms.retain(|&at, _| at <= commit);
        self.terms.insert(committed.0, committed.1);
        self.last = committed;
        self.fill_terms();
        assert!(self.is_consistent());
        true
    }

    /// Gives up what this log holds from a missing position on: nobody has the
    /// entry there any more. What a snapshot of this node covers stays.
    ///
    /// Panics if the entry was committed.
    pub fn end_before(&mut self, first: LogIndex, snapshot: Position) {
        assert!(self.hard_state.commit_index < first);
        self.terms.split_off(&first);
        if first <= snapshot.0 {
            self.terms.clear();
        }
        if snapshot.0 > LogIndex(0) {
            self.terms.insert(snapshot.0, snapshot.1);
        }
        let last = self.terms.last_key_value();
        self.last = last.map_or(Position::default(), |(at, of)| (*at, *of));
        assert!(self.is_consistent());
    }
}

fn end_of(header: &BatchHeader) -> Lsn {
    Lsn(header.lsn.0 + u64::from(header.length))
}

fn contradiction(segment: u64) -> WalError {
    WalError::Damaged(Damage {
        segment,
        offset: 0,
        what: "a batch that does not continue the log",
        lost: None,
    })
}

fn unknown_end(segment: u64) -> WalError {
    WalError::Damaged(Damage {
        segment,
        offset: 0,
        what: "nothing readable behind the damage, so that votes and the end of the log may be lost,",
        lost: None,
    })
}
