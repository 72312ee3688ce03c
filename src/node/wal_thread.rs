//! The thread that owns the log on disk. It takes everything queued, makes it
//! durable with one call, and answers with the last mark: while one sync runs,
//! the next group gathers.
//!
//! A disk that has no room for another log segment is waited for: what is
//! queued keeps, nothing is acknowledged, and the others see a slow disk.
//!
//! Any other error ends the thread and the node (D-004): what a failed sync
//! left behind is unknown, so nothing may be written after it.

use std::sync::Arc;
use std::time::Duration;

use crate::peer::{DurableEnd, OwnDurableEnd};
use crate::sync::queue::{Nothing, Receiver};
use crate::types::{LogIndex, LogWrite, Mark};
use crate::wal::{Wal, WalError};

use super::event::{Event, EventSender};
use super::failure::Failure;
use super::snapshots::Snapshots;

/// What the WAL thread is told.
pub(super) enum WalCommand {
    /// Make durable; answered by `Event::Durable`.
    Write(Mark, LogWrite),
    /// The log up to here is no longer needed.
    Purge(LogIndex),
}

/// Commands carried out together: one durable write for all writes, then one
/// purge.
#[derive(Default)]
pub(super) struct WalGroup {
    writes: Vec<LogWrite>,
    pub last_mark: Option<Mark>,
    purge: Option<LogIndex>,
}

impl WalGroup {
    /// Adds what was queued later.
    fn absorb(&mut self, later: Self) {
        self.writes.extend(later.writes);
        self.last_mark = later.last_mark.or(self.last_mark);
        self.purge = later.purge.or(self.purge);
    }
}

/// Everything the thread owns. It ends when the sending side is dropped.
pub(super) struct WalThread {
    pub wal: Wal,
    pub commands: Receiver<WalCommand>,
    pub events: EventSender,
    pub snapshots: Arc<Snapshots>,
    pub failure: Arc<Failure>,
    /// Begun, and waiting for room on the disk.
    pub stalled: Option<WalGroup>,
    /// Told of every durable write before anybody else is.
    pub durable: Arc<OwnDurableEnd>,
}

impl WalThread {
    pub fn run(mut self) {
        if let Err(reason) = self.serve() {
            self.failure.report(&reason);
            // The core must not go on leading over a dead disk.
            self.events.send(Event::Stop);
        }
    }

    fn serve(&mut self) -> Result<(), String> {
        // Whether the last batch on disk lacks a later promise (wal.md: the one
        // ambiguous batch).
        let mut unmarked = true;
        loop {
            if let Some(group) = self.stalled.take() {
                std::thread::sleep(ROOM_PAUSE);
                unmarked |= self.carry_out(group)?;
                if let Some(mut group) = self.stalled.take() {
                    match self.commands.try_recv() {
                        Ok(command) => group.absorb(self.gather(command)),
                        Err(Nothing::Yet) => {}
                        // Nothing of it was acknowledged.
                        Err(Nothing::Ever) => break,
                    }
                    self.stalled = Some(group);
                    continue;
                }
            }
            let first = if unmarked {
                match self.commands.recv_timeout(IDLE_BEFORE_MARK) {
                    Ok(command) => command,
                    Err(Nothing::Yet) => {
                        unmarked = !self.mark_idle()?;
                        self.wal.replenish();
                        continue;
                    }
                    Err(Nothing::Ever) => break,
                }
            } else {
                match self.commands.recv() {
                    Some(command) => command,
                    None => break,
                }
            };
            let group = self.gather(first);
            unmarked |= self.carry_out(group)?;
        }
        if unmarked {
            self.mark_idle()?;
        }
        Ok(())
    }

    /// Covers the last write by a promise; whether there was room for one.
    fn mark_idle(&mut self) -> Result<bool, String> {
        match self.wal.mark_idle() {
            Ok(()) => Ok(true),
            Err(WalError::NoRoom { .. }) => Ok(false),
            Err(error) => Err(chain(&error)),
        }
    }

    /// `first` and what is queued behind it.
    pub fn gather(&self, first: WalCommand) -> WalGroup {
        let mut group = WalGroup::default();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                WalCommand::Write(mark, write) => {
                    let entries = write.entries.iter();
                    bytes += entries.map(crate::types::Entry::size).sum::<usize>();
                    group.writes.push(write);
                    group.last_mark = Some(mark);
                }
                WalCommand::Purge(through) => group.purge = Some(through),
            }
            if bytes >= GROUP_BYTES_MAX {
                break;
            }
            next = self.commands.try_recv().ok();
        }
        group
    }

    /// Makes a group durable and says so; whether anything was written. What
    /// there is no room for is kept in `stalled`, to be tried again.
    ///
    /// # Errors
    /// The disk failed.
    pub fn carry_out(&mut self, mut group: WalGroup) -> Result<bool, String> {
        for meta in group
            .writes
            .iter()
            .filter_map(|write| write.reset_to.as_ref())
        {
            // Rule 8: the snapshot under its final name, and only then the
            // record that makes the log begin after it.
            self.snapshots.publish_claimed(meta)?;
        }
        if let Some(mark) = group.last_mark {
            match self.wal.append(&group.writes) {
                Ok(()) => {
                    self.note_durable(&group.writes);
                    self.events.send(Event::Durable(mark));
                }
                Err(WalError::NoRoom { done, source }) => {
                    tracing::error!(%source, "the log waits for room on the disk");
                    self.note_durable(&group.writes[..done]);
                    group.writes.drain(..done);
                    self.purge(group.purge.take())?;
                    self.stalled = Some(group);
                    return Ok(done > 0);
                }
                Err(error) => return Err(chain(&error)),
            }
        }
        self.purge(group.purge)?;
        Ok(group.last_mark.is_some())
    }

    /// Before anybody else hears of them.
    fn note_durable(&self, writes: &[LogWrite]) {
        self.durable
            .set(writes.iter().fold(self.durable.now(), end_after));
    }

    fn purge(&mut self, through: Option<LogIndex>) -> Result<(), String> {
        let Some(through) = through else {
            return Ok(());
        };
        match self.wal.purge(through) {
            // The next one purges more.
            Ok(()) | Err(WalError::NoRoom { .. }) => Ok(()),
            Err(error) => Err(chain(&error)),
        }
    }
}

/// The durable end once `write` is durable.
fn end_after(mut end: DurableEnd, write: &LogWrite) -> DurableEnd {
    if let Some(hard_state) = &write.hard_state {
        end.term = hard_state.term;
    }
    if let Some(from) = write.truncate_from {
        end.index = from.previous();
    }
    if let Some(meta) = &write.reset_to {
        end.index = meta.index;
    }
    if let Some(last) = write.entries.last() {
        end.index = last.index;
    }
    end
}

/// An error and its causes on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// How long to wait for room before another try.
const ROOM_PAUSE: Duration = Duration::from_millis(500);
/// After this long without a write the last batch gets its promise.
const IDLE_BEFORE_MARK: Duration = Duration::from_millis(20);
/// Entry bytes made durable by one call, at most (one write always fits).
const GROUP_BYTES_MAX: usize = 16 << 20;
