//! One node: a production core with its disk and its store. What it does when
//! something happens to it is a function of this alone, so the search asks only
//! once.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::raft::message::{AppendResult, Message};
use crate::raft::{Config, Effect, Input, Raft, ReadMode, RequestId, Role};
use crate::types::{
    Entry, EntryPayload, HardState, LogIndex, LogWrite, Mark, MembershipChange, Millis, NodeId,
    Sequence, SnapshotMeta, Term,
};

use super::bounds::Bounds;
use super::canonical::{Origin, Tree};
use super::disk::{Disk, Store};
use super::violation::{Violation, violation};

/// What can happen to a node.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Stimulus {
    Deliver {
        from: NodeId,
        message: Message,
    },
    /// The bytes of a snapshot arrived.
    Stage(SnapshotMeta),
    /// A stream to a peer ended.
    Streamed {
        to: NodeId,
        delivered: Option<SnapshotMeta>,
    },
    /// Nothing was heard for longer than every patience.
    Timeout,
    /// A leader's next heartbeat is due.
    Heartbeat,
    /// It is, and what has no answer yet is late.
    Wait,
    Propose(u64),
    Read(RequestId),
    Change(Vec<MembershipChange>),
    Transfer(NodeId),
    TakeSnapshot,
    /// The oldest pending write, or all of them, became durable.
    Sync {
        all: bool,
    },
    /// Stops and starts again; of the pending writes the first few survive. A
    /// received snapshot may have been published before its write was lost.
    Crash {
        survivors: usize,
        published: bool,
    },
}

/// What leaves a node.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Output {
    Message { to: NodeId, message: Message },
    Snapshot { to: NodeId, meta: SnapshotMeta },
}

/// What the rest of the world must know of a step.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Leads(Term),
    Granted { term: Term, to: NodeId },
    Appended,
    Truncated,
    Committed(Entry),
    Applied(Entry),
    Restored(SnapshotMeta),
    ReadReady { id: RequestId, index: LogIndex },
    ReadRefused(RequestId),
    Crashed,
    LostWrites,
    Transferred,
    Removed,
}

/// What a step came to.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) next: Local,
    pub(super) outputs: Vec<Output>,
    pub(super) events: Vec<Event>,
}

#[derive(Clone, Debug, serde::Serialize)]
struct Held {
    after: Mark,
    to: NodeId,
    message: Message,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Local {
    pub(super) id: NodeId,
    pub(super) raft: Raft,
    now: Millis,
    issued: Sequence,
    /// How often it started: forwarded reads are named differently each time.
    life: u64,
    pub(super) disk: Disk,
    /// The disk as it will be when all pending writes are durable.
    pub(super) written: Disk,
    pub(super) pending: VecDeque<(Mark, LogWrite)>,
    held: Vec<Held>,
    pub(super) store: Store,
    staged: Option<SnapshotMeta>,
}

const HEARTBEAT: Millis = Millis(10);
const ELECTION_TIMEOUT: Millis = Millis(1000);
/// Longer than any patience of a follower.
const JUMP: Millis = Millis(1100);
/// A slow disk is slow as long as the search likes.
const NEVER: Millis = Millis(1 << 40);

impl Local {
    /// A node that starts from its disk.
    pub(super) fn start(id: NodeId, disk: Disk, bounds: &Bounds) -> Result<Outcome, Violation> {
        let recovered = disk.recovered();
        let store = Store::restored(disk.snapshots.last());
        let now = Millis(100_000);
        let raft = Raft::new(config(id, 0, bounds), recovered, now);
        let local = Self {
            id,
            raft: raft.map_err(|error| violation("Recovery", id, error))?,
            now,
            issued: Sequence(0),
            life: 0,
            written: disk.clone(),
            disk,
            pending: VecDeque::new(),
            held: Vec::new(),
            store,
            staged: None,
        };
        let mut run = Run::of(local, true);
        run.step(Input::Applied(LogIndex(0)))?;
        run.finish()
    }

    /// The canonical form; see there.
    pub(super) fn tree(&self) -> Tree {
        let origin = Origin {
            now: self.now,
            issued: self.issued,
            jump: JUMP,
        };
        Tree::List(vec![
            Tree::Node(self.id.0),
            origin.tree(&self.raft),
            Tree::Number(self.life),
            origin.tree(&self.disk),
            origin.tree(&self.pending),
            Tree::Set(self.held.iter().map(|held| origin.tree(held)).collect()),
            origin.tree(&self.store),
            origin.tree(&self.staged),
        ])
    }

    /// What comes of a stimulus. `prompt`: what it writes is durable at once.
    pub(super) fn react(
        &self,
        stimulus: &Stimulus,
        prompt: bool,
        bounds: &Bounds,
    ) -> Result<Outcome, Violation> {
        let mut run = Run::of(self.clone(), prompt && self.pending.is_empty());
        match stimulus {
            Stimulus::Deliver { from, message } => run.deliver(*from, message.clone())?,
            Stimulus::Stage(meta) => run.local.staged = Some(meta.clone()),
            Stimulus::Streamed { to, delivered } => run.step(Input::SnapshotStreamed {
                to: *to,
                delivered: delivered.clone(),
            })?,
            Stimulus::Timeout => {
                run.advance(JUMP);
                run.step(Input::Tick)?;
            }
            Stimulus::Heartbeat => {
                run.advance(HEARTBEAT);
                run.step(Input::Tick)?;
            }
            Stimulus::Wait => {
                run.advance(ELECTION_TIMEOUT);
                run.step(Input::Tick)?;
            }
            Stimulus::Propose(number) => run.step(Input::Propose {
                id: RequestId(0),
                payload: EntryPayload::Command([*number as u8].into()),
            })?,
            Stimulus::Read(id) => run.step(Input::ReadIndex { id: *id })?,
            Stimulus::Change(changes) => run.step(Input::ChangeMembership {
                id: RequestId(0),
                changes: changes.clone(),
            })?,
            Stimulus::Transfer(target) => run.step(Input::TransferLeadership {
                id: RequestId(0),
                target: Some(*target),
            })?,
            Stimulus::TakeSnapshot => run.take_snapshot()?,
            Stimulus::Sync { all } => run.sync(*all)?,
            Stimulus::Crash {
                survivors,
                published,
            } => run.crash(*survivors, *published, bounds)?,
        }
        run.finish()
    }
}

fn config(id: NodeId, life: u64, bounds: &Bounds) -> Config {
    let plenty = 1 << 20;
    // The core draws from `seed ^ id`: every node draws the same, and another
    // number in each life.
    let seed = (if bounds.reads == 0 { 1 } else { life + 1 }) ^ id.0;
    Config {
        id,
        incarnation: crate::types::Incarnation(0),
        election_timeout_min: ELECTION_TIMEOUT,
        election_timeout_max: Millis(ELECTION_TIMEOUT.0 + 1),
        heartbeat_interval: HEARTBEAT,
        inflight_messages_max: usize::from(bounds.inflight_messages.max(1)),
        inflight_bytes_max: plenty,
        message_bytes_max: if bounds.one_entry_a_message {
            1
        } else {
            plenty
        },
        uncommitted_bytes_max: plenty,
        cache_bytes_max: if bounds.evicts { 0 } else { plenty },
        trailing_entries: 0,
        read_mode: ReadMode::Quorum,
        disk_stall_timeout: NEVER,
        seed,
    }
}

/// A step under way: inputs until nothing follows from them at once.
struct Run {
    local: Local,
    prompt: bool,
    outputs: Vec<Output>,
    events: Vec<Event>,
}

impl Run {
    fn of(local: Local, prompt: bool) -> Self {
        Self {
            local,
            prompt,
            outputs: Vec::new(),
            events: Vec::new(),
        }
    }

    fn finish(self) -> Result<Outcome, Violation> {
        Ok(Outcome {
            next: self.local,
            outputs: self.outputs,
            events: self.events,
        })
    }

    fn advance(&mut self, by: Millis) {
        self.local.now = Millis(self.local.now.0 + by.0);
    }

    fn deliver(&mut self, from: NodeId, message: Message) -> Result<(), Violation> {
        match &message {
            // A vote request is ignored while a leader is trusted, which is as
            // good as lost: it matters only when patience has run out.
            Message::VoteRequest { .. } if self.local.raft.role() != Role::Leader => {
                self.advance(JUMP);
            }
            Message::InstallSnapshot { meta, .. } if self.local.staged.as_ref() != Some(meta) => {
                return Ok(());
            }
            _ => {}
        }
        self.step(Input::Message {
            from,
            incarnation: crate::types::Incarnation(0),
            message,
        })
    }

    fn step(&mut self, input: Input) -> Result<(), Violation> {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let effects = self.step_once(input)?;
            for effect in effects {
                inputs.extend(self.carry_out(effect)?);
            }
            if self.prompt && inputs.is_empty() {
                while let Some(done) = self.complete_oldest()? {
                    inputs.clear();
                    inputs.push_back(done);
                }
            }
        }
        Ok(())
    }

    /// One call of the core, and what shows from outside.
    fn step_once(&mut self, input: Input) -> Result<Vec<Effect>, Violation> {
        let (id, now) = (self.local.id, self.local.now);
        let raft = &mut self.local.raft;
        let before = raft.status();
        let stepped = catch_unwind(AssertUnwindSafe(|| raft.step(now, input)));
        let effects = stepped.map_err(|panic| {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("a panic without words");
            violation("CoreAssertion", id, text)
        })?;
        let after = raft.status();
        let leads_anew = (before.role, before.term) != (after.role, after.term);
        if after.role == Role::Leader && leads_anew {
            self.events.push(Event::Leads(after.term));
        }
        if after.removed && !before.removed {
            self.events.push(Event::Removed);
        }
        for effect in &effects {
            if let Effect::Persist { mark, write } = effect {
                self.note_write(*mark, write)?;
            }
        }
        for index in before.commit_index.0 + 1..=after.commit_index.0 {
            if let Some(entry) = self.local.written.entry(LogIndex(index)) {
                self.events.push(Event::Committed(entry.clone()));
            }
        }
        Ok(effects)
    }

    fn note_write(&mut self, mark: Mark, write: &LogWrite) -> Result<(), Violation> {
        let local = &mut self.local;
        local.issued = mark.sequence;
        let written = local.written.write(write);
        written.map_err(|error| violation("VoteMonotone", local.id, error))?;
        local.pending.push_back((mark, write.clone()));
        if write.truncate_from.is_some() {
            self.events.push(Event::Truncated);
        }
        if !write.entries.is_empty() {
            self.events.push(Event::Appended);
        }
        Ok(())
    }

    /// Does what the core wants; returns what it is then told.
    fn carry_out(&mut self, effect: Effect) -> Result<Option<Input>, Violation> {
        match effect {
            Effect::Send { to, message, after } => {
                let pending =
                    |mark: &Mark| self.local.pending.iter().any(|(other, _)| other == mark);
                match after.filter(pending) {
                    Some(after) => self.local.held.push(Held { after, to, message }),
                    None => self.send(to, message)?,
                }
            }
            Effect::SendFromLog {
                to,
                mut message,
                first,
                last,
                ..
            } => {
                let found =
                    (first.0..=last.0).map_while(|index| self.local.disk.entry(LogIndex(index)));
                let found: Vec<Entry> = found.cloned().collect();
                if let Message::AppendEntries { entries, .. } = &mut message {
                    *entries = found;
                }
                self.send(to, message)?;
            }
            Effect::Apply { entries } => return self.apply(entries).map(Some),
            Effect::RestoreSnapshot(meta) => {
                self.local.store = Store::restored(Some(&meta));
                let index = meta.index;
                self.events.push(Event::Restored(meta));
                return Ok(Some(Input::Applied(index)));
            }
            Effect::StreamSnapshot { to, .. } => {
                if let Some(meta) = self.local.disk.snapshots.last().cloned() {
                    self.outputs.push(Output::Snapshot { to, meta });
                }
            }
            Effect::Purge { through } => {
                self.local.disk.purge(through);
                self.local.written.purge(through);
            }
            Effect::ReadReady { id, index } => self.events.push(Event::ReadReady { id, index }),
            Effect::Rejected { id, .. } if id != RequestId(0) => {
                self.events.push(Event::ReadRefused(id));
            }
            Effect::TransferStarted { .. } => self.events.push(Event::Transferred),
            Effect::Persist { .. }
            | Effect::Rejected { .. }
            | Effect::ProposalAccepted { .. }
            | Effect::AlreadyDone { .. }
            | Effect::MembershipActive { .. }
            | Effect::DigestMismatch(_)
            | Effect::Diverged(_) => {}
        }
        Ok(None)
    }

    fn apply(&mut self, entries: Vec<Entry>) -> Result<Input, Violation> {
        let local = &mut self.local;
        for entry in entries {
            if entry.index != local.store.applied.0.next() {
                let text = format!("executes {entry:?} after {:?}", local.store.applied);
                return Err(violation("StateMachine", local.id, text));
            }
            if local.disk.term_at(entry.index) != Some(entry.term) {
                let text = format!("executes {entry:?}, which its disk lacks");
                return Err(violation("AppliedDurable", local.id, text));
            }
            local.store.apply(&entry);
            self.events.push(Event::Applied(entry));
        }
        Ok(Input::Applied(local.store.applied.0))
    }

    fn send(&mut self, to: NodeId, message: Message) -> Result<(), Violation> {
        check_sent(&self.local, to, &message)?;
        if let Message::VoteResponse {
            term,
            pre: false,
            granted: true,
        } = message
        {
            self.events.push(Event::Granted { term, to });
        }
        self.outputs.push(Output::Message { to, message });
        Ok(())
    }

    /// The oldest pending write is durable; what waited for it leaves.
    fn complete_oldest(&mut self) -> Result<Option<Input>, Violation> {
        let Some((mark, write)) = self.local.pending.pop_front() else {
            return Ok(None);
        };
        let written = self.local.disk.write(&write);
        written.map_err(|error| violation("VoteMonotone", self.local.id, error))?;
        let held = std::mem::take(&mut self.local.held);
        let (ready, waiting) = held
            .into_iter()
            .partition(|held| held.after.sequence <= mark.sequence);
        self.local.held = waiting;
        let ready: Vec<Held> = ready;
        for Held { to, message, .. } in ready {
            self.send(to, message)?;
        }
        Ok(Some(Input::Durable(mark)))
    }

    fn sync(&mut self, all: bool) -> Result<(), Violation> {
        let mut newest = None;
        while let Some(done) = self.complete_oldest()? {
            newest = Some(done);
            if !all {
                break;
            }
        }
        // Only a disk that lags is not prompt; the rest follows at once.
        self.prompt = all;
        newest.map_or(Ok(()), |done| self.step(done))
    }

    fn take_snapshot(&mut self) -> Result<(), Violation> {
        let meta = self.local.store.meta();
        let newest = self.local.disk.snapshots.last();
        let is_newer = newest.map_or(LogIndex(0), |meta| meta.index) < meta.index;
        let installing = self
            .local
            .pending
            .iter()
            .any(|(_, write)| write.reset_to.is_some());
        if !is_newer || installing {
            return Ok(());
        }
        self.local.disk.publish(&meta);
        self.local.written.publish(&meta);
        self.step(Input::SnapshotTaken(meta))
    }

    fn crash(
        &mut self,
        survivors: usize,
        published: bool,
        bounds: &Bounds,
    ) -> Result<(), Violation> {
        let local = &mut self.local;
        self.events.push(Event::Crashed);
        for _ in 0..survivors {
            let Some((_, write)) = local.pending.pop_front() else {
                break;
            };
            let written = local.disk.write(&write);
            written.map_err(|error| violation("VoteMonotone", local.id, error))?;
        }
        if let Some((_, write)) = local.pending.front() {
            self.events.push(Event::LostWrites);
            if let Some(meta) = write.reset_to.as_ref().filter(|_| published) {
                local.disk.publish(meta);
            }
        }
        let life = local.life + u64::from(0 < bounds.reads);
        let raft = Raft::new(
            config(local.id, life, bounds),
            local.disk.recovered(),
            local.now,
        );
        *local = Local {
            id: local.id,
            raft: raft.map_err(|error| violation("Recovery", local.id, error))?,
            now: local.now,
            issued: Sequence(0),
            life,
            disk: local.disk.clone(),
            written: local.disk.clone(),
            pending: VecDeque::new(),
            held: Vec::new(),
            store: Store::restored(local.disk.snapshots.last()),
            staged: None,
        };
        self.prompt = true;
        self.step(Input::Applied(LogIndex(0)))
    }
}

/// What a message says of its sender's disk must be so when it leaves.
fn check_sent(local: &Local, to: NodeId, message: &Message) -> Result<(), Violation> {
    let disk = &local.disk;
    let HardState {
        term: durable,
        vote,
        ..
    } = disk.hard_state;
    let term = message.term();
    let wrong = |property, text: &str| {
        let text = format!(
            "sends {message:?} to {to:?}: {text} ({:?})",
            disk.hard_state
        );
        Err(violation(property, local.id, text))
    };
    let speculative = matches!(
        message,
        Message::VoteRequest { pre: true, .. } | Message::VoteResponse { pre: true, .. }
    );
    if !speculative && durable < term {
        return wrong("TermDurable", "the term is not durable");
    }
    let holds = |index: LogIndex| index <= disk.last().0;
    match message {
        Message::VoteResponse {
            pre: false,
            granted: true,
            ..
        } if durable == term && vote != Some(to) => wrong("VoteDurable", "the vote is not durable"),
        // A pre-vote too: nobody shall be asked in the name of entries that
        // may still vanish.
        Message::VoteRequest { last_index, .. } if !holds(*last_index) => {
            wrong("CandidacyDurable", "it advertises what is not durable")
        }
        // In a later term the tail may be cut again, whatever was true before.
        Message::AppendResponse {
            result: AppendResult::Matched { match_index },
            ..
        }
        | Message::InstallSnapshotResponse { match_index, .. }
            if durable == term && !holds(*match_index) =>
        {
            wrong("AckDurable", "the entries are not durable")
        }
        _ => Ok(()),
    }
}
