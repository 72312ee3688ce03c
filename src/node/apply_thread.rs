//! The thread that owns the store: executes committed entries in order,
//! publishes a picture after each group, answers those who wait for an index,
//! and hands pictures to the snapshotter.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::store::{Store, View};
use crate::sync::queue::{Receiver, Sender};
use crate::types::{Entry, LogIndex, Outcome, SnapshotMeta};

use super::board::Board;
use super::event::{DueWaiters, Event, EventSender, ProposalReply, ReadReply};
use super::failure::Failure;
use super::options::SnapshotThresholds;
use super::snapshots::Snapshots;
use super::wal_thread::chain;

/// What the apply thread is told.
pub(super) enum ApplyCommand {
    /// Execute; then answer these.
    Apply {
        entries: Vec<Entry>,
        waiters: DueWaiters,
    },
    /// Replace the state by a durable snapshot's.
    Restore(SnapshotMeta),
    /// Answer when this index is applied.
    Read {
        index: LogIndex,
        replies: Vec<ReadReply>,
    },
    /// Take a snapshot, due or not.
    TakeSnapshot,
    /// The snapshotter is free again.
    SnapshotEnded,
    /// The raft thread has ended: nothing follows.
    Stop,
}

/// Everything the thread owns; it gives the store back when it ends.
pub(super) struct ApplyThread {
    pub store: Store,
    pub board: Arc<Board>,
    pub commands: Receiver<ApplyCommand>,
    pub snapshotter: Sender<View>,
    pub snapshots: Arc<Snapshots>,
    pub thresholds: SnapshotThresholds,
    pub failure: Arc<Failure>,
    pub events: EventSender,
    /// Entries between two comparisons with the other replicas.
    pub checkpoint_interval: u64,
    pub state: ApplyState,
}

/// What the thread keeps between groups.
#[derive(Default)]
pub(super) struct ApplyState {
    /// End of the newest durable snapshot, or of the last one begun: a failed
    /// one is tried again only after as many entries.
    snapshot_index: LogIndex,
    /// Entry bytes applied since the last snapshot was begun.
    bytes_since: u64,
    snapshotting: bool,
    /// A snapshot is asked for, due or not.
    is_wanted: bool,
    stopping: bool,
    reads: BTreeMap<LogIndex, Vec<ReadReply>>,
    /// Answers due once the picture is published.
    answers: Vec<(ProposalReply, Outcome)>,
}

impl ApplyState {
    /// After the newest snapshot on disk.
    pub fn after(snapshot_index: LogIndex) -> Self {
        Self {
            snapshot_index,
            ..Self::default()
        }
    }

    /// A node cut off from the leader never reaches the index: those who gave
    /// up must not pile up.
    fn forget_abandoned(&mut self) {
        if self.reads.len() < ABANDONED_MAX {
            return;
        }
        self.reads.retain(|_, replies| {
            replies.retain(|reply| !reply.is_closed());
            !replies.is_empty()
        });
    }
}

impl ApplyThread {
    pub fn run(mut self) -> Store {
        while !self.state.stopping {
            let Some(first) = self.commands.recv() else {
                break;
            };
            if let Err(reason) = self.turn(first, GROUP_COMMANDS_MAX) {
                self.failure.report(&reason);
                // The core must not go on committing what nobody applies.
                self.events.send(Event::Stop);
                break;
            }
        }
        self.store
    }

    /// Carries out `first` and what is queued behind it, `commands_max` in
    /// all, and answers.
    ///
    /// # Errors
    /// A snapshot that the log begins after cannot be loaded.
    pub fn turn(&mut self, first: ApplyCommand, commands_max: usize) -> Result<(), String> {
        let mut next = Some(first);
        let mut count = 0;
        while let Some(command) = next {
            self.handle(command)?;
            count += 1;
            next = (count < commands_max)
                .then(|| self.commands.try_recv().ok())
                .flatten();
        }
        self.publish();
        self.answer();
        self.begin_snapshot();
        Ok(())
    }

    fn handle(&mut self, command: ApplyCommand) -> Result<(), String> {
        match command {
            ApplyCommand::Apply { entries, waiters } => self.apply(&entries, waiters),
            ApplyCommand::Restore(meta) => self.restore(&meta)?,
            ApplyCommand::Read { index, replies } => {
                self.state.reads.entry(index).or_default().extend(replies);
                self.state.forget_abandoned();
            }
            ApplyCommand::TakeSnapshot => self.state.is_wanted = true,
            ApplyCommand::SnapshotEnded => self.state.snapshotting = false,
            ApplyCommand::Stop => self.state.stopping = true,
        }
        Ok(())
    }

    fn apply(&mut self, entries: &[Entry], waiters: DueWaiters) {
        let mut waiters = waiters.into_iter().peekable();
        for entry in entries {
            // After a restart the core may hand over what the store already
            // holds.
            if entry.index <= self.store.applied_index() {
                continue;
            }
            let outcome = self.store.apply(entry).unwrap_or(Outcome::Applied);
            self.state.bytes_since += entry.size() as u64;
            self.tell_checkpoint();
            while let Some((_, reply)) = waiters.next_if(|(index, _)| *index == entry.index) {
                self.state.answers.push((reply, outcome.clone()));
            }
        }
    }

    /// At positions that every replica shares the core is told what the state
    /// amounts to.
    fn tell_checkpoint(&self) {
        if self
            .store
            .applied_index()
            .0
            .is_multiple_of(self.checkpoint_interval)
        {
            self.events.send(Event::Checkpoint(self.store.checkpoint()));
        }
    }

    fn restore(&mut self, meta: &SnapshotMeta) -> Result<(), String> {
        if meta.index <= self.store.applied_index() {
            return Ok(());
        }
        let former = self
            .snapshots
            .load_into(&mut self.store, meta)
            .map_err(|error| chain(&error))?;
        let count = former.view().len();
        drop_aside(former, count);
        self.tell_checkpoint();
        self.state.snapshot_index = self.state.snapshot_index.max(meta.index);
        self.state.bytes_since = 0;
        Ok(())
    }

    fn publish(&mut self) {
        if self.board.applied() == self.store.applied_index() {
            return;
        }
        let view = Arc::new(self.store.view());
        let epoch = view.restore_epoch();
        let old = self.board.publish(view);
        if old.restore_epoch() != epoch {
            let count = old.len();
            drop_aside(old, count);
        }
    }

    fn answer(&mut self) {
        for (reply, outcome) in self.state.answers.drain(..) {
            reply.finish(Ok(outcome));
        }
        let applied = self.store.applied_index();
        while let Some(first) = self.state.reads.first_entry() {
            if *first.key() > applied {
                break;
            }
            for reply in first.remove() {
                let _ = reply.send(Ok(self.board.newest()));
            }
        }
    }

    /// Hands a picture to the snapshotter when enough has changed.
    fn begin_snapshot(&mut self) {
        let applied = self.store.applied_index();
        let entries = applied.0.saturating_sub(self.state.snapshot_index.0);
        let due = entries >= self.thresholds.entries
            || (entries > 0 && self.state.bytes_since >= self.thresholds.bytes)
            || (self.state.is_wanted && applied > LogIndex(0));
        if !due || self.state.snapshotting || self.state.stopping {
            return;
        }
        if self.snapshotter.send(self.store.view()).is_ok() {
            self.state.snapshotting = true;
            self.state.is_wanted = false;
            self.state.snapshot_index = applied;
            self.state.bytes_since = 0;
        }
    }
}

/// Frees something of that many entries where nobody waits.
pub(super) fn drop_aside<T: Send + 'static>(large: T, entry_count: usize) {
    if entry_count < ASIDE_ENTRIES_MIN {
        return;
    }
    // Without a thread it is freed here: slower, not wrong.
    let _ = std::thread::Builder::new()
        .name("reaper".into())
        .spawn(move || drop(large));
}

/// Freeing fewer entries costs less than a thread.
const ASIDE_ENTRIES_MIN: usize = 1024;
/// Commands carried out before a picture is published, at most.
const GROUP_COMMANDS_MAX: usize = 256;
/// Indices waited for before abandoned waiters are looked for.
const ABANDONED_MAX: usize = 256;

#[cfg(test)]
mod tests;
