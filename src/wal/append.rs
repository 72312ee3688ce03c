//! Appending: many log writes, as few batches, one durable write.

use std::sync::Arc;

use crate::codec::encode_payload;
use crate::types::{HardState, LogIndex, LogWrite, Term};

use super::batch::{WriteBuffer, vote_order};
use super::error::{Stop, WalError};
use super::format::{
    BATCH_HEADER, BLOCK, CONTINUES, MARK, RESET, SEAL, SegmentHeader, TRUNC, record_bytes,
    seal_bytes,
};
use super::rotate::activate;
use super::segment::Tail;
use super::{Wal, salt};

/// Bytes gathered for one durable write; a single log write may exceed it.
const WRITE_BYTES_MAX: u64 = 8 << 20;

/// A log write with its payloads encoded and its room in a segment known.
struct Prepared<'a> {
    /// Which of the writes given it is.
    position: usize,
    write: &'a LogWrite,
    payloads: Vec<(u8, Arc<[u8]>)>,
    need: Need,
}

/// Room a write takes at most.
#[derive(Clone, Copy)]
struct Need {
    bytes: u64,
    batches: u64,
    /// The first entries may join an open batch that has no room for the rest:
    /// then it takes one batch more.
    may_be_parted: bool,
}

/// One batch without entries, and the one that repeats a vote which a torn
/// write told (after opening).
const NEED_OF_MARK: Need = Need {
    bytes: 2 * BLOCK,
    batches: 2,
    may_be_parted: false,
};

impl Need {
    /// When the first entries join an open batch.
    fn parted(self) -> Self {
        let more = u64::from(self.may_be_parted);
        Self {
            bytes: self.bytes + more * (BATCH_HEADER as u64 + BLOCK),
            batches: self.batches + more,
            ..self
        }
    }
}

impl Wal {
    pub(super) fn append_writes(&mut self, writes: &[LogWrite]) -> Result<(), WalError> {
        let prepared: Vec<Prepared> = writes
            .iter()
            .enumerate()
            .filter(|(_, write)| **write != LogWrite::default())
            .map(|(position, write)| self.prepare(position, write))
            .collect::<Result<_, _>>()?;
        let result = self.append_prepared(&prepared);
        self.latch(result)
    }

    /// Writes a promise that covers everything before it.
    pub(super) fn write_mark(&mut self) -> Result<(), Stop> {
        let mut buffer = self.tail.begin_write();
        if !self.fits(&buffer, NEED_OF_MARK) {
            self.rotate(NEED_OF_MARK)?;
            buffer = self.tail.begin_write();
        }
        buffer.begin(MARK, self.last.0.next(), self.last.1);
        buffer.close(0, self.hard_state);
        self.flush(buffer)?;
        self.is_promised = true;
        Ok(())
    }

    /// Writes the hard state as it is.
    pub(super) fn write_hard_state(&mut self) -> Result<(), Stop> {
        let write = LogWrite {
            hard_state: Some(self.hard_state),
            ..LogWrite::default()
        };
        let prepared = Prepared {
            position: 0,
            write: &write,
            payloads: Vec::new(),
            need: need(&write, &[], self.options.batch_bytes_max),
        };
        self.vote_is_new = true;
        self.append_prepared(&[prepared])
    }

    /// Closes the tail and goes on in a new segment, with room for `need`.
    /// Without room for that nothing is begun.
    fn rotate(&mut self, need: Need) -> Result<(), Stop> {
        let least = 2 * BLOCK + need.bytes + seal_bytes(need.batches + 1);
        let (file, bytes) = self.spare.take(least.next_multiple_of(BLOCK))?;
        let old = &self.tail.header;
        let sequence = old.sequence + 1;
        let base_lsn = old.lsn(u64::from(old.segment_bytes));
        let header = SegmentHeader {
            identity: self.identity,
            sequence,
            salt: salt(self.options.salt_seed, sequence, base_lsn),
            base_lsn,
            segment_bytes: u32::try_from(bytes).expect("segment sizes were checked"),
            hard_state: self.hard_state,
            snapshot: self.snapshot,
        };
        let append = self.options.append;
        let (io, segment) = activate(&self.disk, &self.dir, file, header, append)?;

        let mut buffer = self.tail.begin_write();
        buffer.begin(SEAL, self.last.0.next(), self.last.1);
        buffer.push_seal_table(&self.tail.rows);
        buffer.close(0, self.hard_state);
        self.tail.write(&buffer)?;
        self.tail.segment.close();
        self.closed.push_back((sequence - 1, self.tail_last_index));

        let memory = buffer.into_memory();
        self.tail = Tail {
            io,
            header,
            offset: BLOCK,
            last: self.tail.last,
            rows: Vec::new(),
            segment,
            memory,
        };
        self.tail_last_index = LogIndex(0);
        self.is_promised = true;
        Ok(())
    }

    /// Closes a torn tail where it is broken; the log goes on in a new segment.
    pub(super) fn abandon_tail(&mut self) -> Result<(), Stop> {
        self.rotate(NEED_OF_MARK)?;
        self.write_mark()
    }

    fn append_prepared(&mut self, writes: &[Prepared<'_>]) -> Result<(), Stop> {
        let mut buffer = self.tail.begin_write();
        for prepared in writes {
            let tail_is_empty = self.tail.offset == BLOCK && buffer.is_empty();
            let starts_segment = prepared.write.reset_to.is_some() && !tail_is_empty;
            let rotates = starts_segment || !self.fits(&buffer, prepared.need);
            if rotates || buffer.end() - buffer.offset() >= WRITE_BYTES_MAX {
                self.flush(buffer)?;
                if rotates {
                    let rotated = self.rotate(prepared.need);
                    rotated.map_err(|stop| stop.after(prepared.position))?;
                }
                buffer = self.tail.begin_write();
            }
            if buffer.is_open() && !self.fits(&buffer, prepared.need.parted()) {
                buffer.close(0, self.hard_state);
            }
            self.add(&mut buffer, prepared);
        }
        self.flush(buffer)
    }

    fn add(&mut self, buffer: &mut WriteBuffer, prepared: &Prepared<'_>) {
        let write = prepared.write;
        let cuts = write.truncate_from.filter(|&from| from <= self.last.0);
        let first_term = write.entries.first().map(|entry| entry.term);
        let first_bytes = prepared.payloads.first().map_or(0, payload_record_bytes);
        let batch_bytes_max = self.options.batch_bytes_max;
        let joins = cuts.is_none() && buffer.has_room(first_term, first_bytes, batch_bytes_max);
        if !joins {
            buffer.close(0, self.hard_state);
        }
        let committed = self.hard_state.commit_index;
        if let Some(hard_state) = write.hard_state {
            self.change_hard_state(hard_state);
        }
        if let Some(snapshot) = &write.reset_to {
            assert!(snapshot.index > LogIndex(0));
            assert!(snapshot.index >= committed);
            self.last = (snapshot.index, snapshot.term);
            self.snapshot = Some(self.last);
            buffer.begin(RESET, self.last.0.next(), self.last.1);
        } else if let Some(from) = cuts {
            assert!(from > committed);
            let prev_index = from.previous();
            self.last = (prev_index, self.term_at(buffer, prev_index));
            buffer.begin(TRUNC, from, self.last.1);
        } else if !buffer.is_open() {
            buffer.begin(0, self.last.0.next(), self.last.1);
        }
        for (entry, payload) in write.entries.iter().zip(&prepared.payloads) {
            assert!(entry.index == self.last.0.next());
            assert!(entry.term >= self.last.1);
            let bytes = payload_record_bytes(payload);
            if !buffer.has_room(Some(entry.term), bytes, batch_bytes_max) {
                buffer.close(CONTINUES, self.hard_state);
                buffer.begin(0, entry.index, self.last.1);
            }
            buffer.push_entry(entry.index, entry.term, payload.0, &payload.1);
            self.last = (entry.index, entry.term);
        }
    }

    fn change_hard_state(&mut self, new: HardState) {
        let old = self.hard_state;
        assert!(new.term >= old.term);
        assert!(new.term > old.term || old.vote.is_none() || old.vote == new.vote);
        self.vote_is_new |= vote_order(&new) != vote_order(&old);
        self.hard_state = HardState {
            commit_index: new.commit_index.max(old.commit_index),
            ..new
        };
    }

    /// Term of an entry of the log as it will be after `buffer` is written.
    fn term_at(&self, buffer: &WriteBuffer, index: LogIndex) -> Term {
        for batch in buffer.closed().iter().rev() {
            if (batch.row.first_index..=batch.row.last_index).contains(&index) {
                return batch.row.term;
            }
            if index == batch.row.first_index.previous() {
                return batch.prev_term;
            }
        }
        let term = self.shared.published().index.term_at(index);
        term.expect("a log is cut only behind an entry it has")
    }

    /// Makes a write durable and shows it to readers.
    fn flush(&mut self, mut buffer: WriteBuffer) -> Result<(), Stop> {
        buffer.close(0, self.hard_state);
        if buffer.is_empty() {
            self.tail.memory = buffer.into_memory();
            return Ok(());
        }
        if std::mem::take(&mut self.vote_is_new) {
            // A vote stands in two blocks at least: losing one of them to
            // decay must not make this node vote twice.
            buffer.begin(0, self.last.0.next(), self.last.1);
            buffer.close(0, self.hard_state);
        }
        self.tail.write(&buffer)?;
        self.is_promised = false;
        let last_indexes = buffer.closed().iter().map(|batch| batch.row.last_index);
        self.tail_last_index = last_indexes.fold(self.tail_last_index, LogIndex::max);
        let mut published = self.shared.published();
        published.add(&self.tail.segment, buffer.closed());
        drop(published);
        let written_bytes = buffer.bytes().len() as u64;
        self.tail.memory = buffer.into_memory();
        if self.options.prepare_in_background {
            let area_end = self.tail.header.area_end();
            self.spare
                .keep_pace(written_bytes, self.tail.offset, area_end);
        }
        Ok(())
    }

    /// Whether a write fits behind `buffer` and leaves room for the SEAL batch.
    fn fits(&self, buffer: &WriteBuffer, need: Need) -> bool {
        let batch_count = (self.tail.rows.len() + buffer.closed().len()) as u64;
        // One more for the batch that may be open.
        let seal = seal_bytes(batch_count + 1 + need.batches);
        buffer.end() + need.bytes + seal <= self.tail.header.area_end()
    }

    fn prepare<'a>(&self, position: usize, write: &'a LogWrite) -> Result<Prepared<'a>, WalError> {
        let payloads: Vec<_> = write
            .entries
            .iter()
            .map(|entry| encode_payload(&entry.payload))
            .collect();
        let need = need(write, &payloads, self.options.batch_bytes_max);
        let segment_bytes_max = u64::from(u32::MAX) / 2;
        let bytes = 2 * BLOCK + need.bytes + seal_bytes(need.batches + 1);
        if bytes > segment_bytes_max {
            return Err(WalError::TooLarge {
                bytes,
                max: segment_bytes_max,
            });
        }
        Ok(Prepared {
            position,
            write,
            payloads,
            need,
        })
    }
}

fn payload_record_bytes(payload: &(u8, Arc<[u8]>)) -> u64 {
    record_bytes(payload.1.len() as u64)
}

fn need(write: &LogWrite, payloads: &[(u8, Arc<[u8]>)], batch_bytes_max: u64) -> Need {
    let records: u64 = payloads.iter().map(payload_record_bytes).sum();
    let term_changes = write
        .entries
        .windows(2)
        .filter(|pair| pair[0].term != pair[1].term)
        .count() as u64;
    // Two neighbouring batches of one term together exceed the maximum.
    let splits = match BATCH_HEADER as u64 + records <= batch_bytes_max {
        true => 0,
        false => 2 * records / batch_bytes_max + 1,
    };
    let batches = 1 + term_changes + splits;
    let padded = match batches {
        1 => (BATCH_HEADER as u64 + records).next_multiple_of(BLOCK),
        _ => records + batches * (BATCH_HEADER as u64 + BLOCK),
    };
    // The batch that repeats a new vote.
    Need {
        bytes: padded + BLOCK,
        batches: batches + 1,
        may_be_parted: write.entries.len() > 1,
    }
}
