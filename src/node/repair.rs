//! Repairing a damaged log from the peers (D-030): who is asked for what, and
//! what is believed of the answers. Pure: threads and the simulator carry the
//! messages.
//!
//! A node that repairs has no core. It gives no vote, acknowledges nothing and
//! does not campaign, so it can break no promise; it only asks, answers others
//! that repair, and waits. Its damaged log is untouched until the new one is
//! whole, so that what it once acknowledged is never in fewer places than
//! before.
//!
//! No leader is needed: an entry of the right position and term is the right
//! entry, whoever gives it.

use std::collections::BTreeMap;
use std::fmt;

use crate::raft::Status;
use crate::types::{Entry, LogIndex, NodeId, RepairAnswer, RepairAsk, RepairMessage, Term};
use crate::wal::{Position, Salvage, WalReader};

/// A log that may hold what another lost.
pub(super) trait Held {
    /// Which of these positions hold entries of these terms.
    fn hold(&self, positions: &[Position]) -> Vec<bool>;
    /// The term at a position, if known.
    fn term_at(&self, index: LogIndex) -> Option<Term>;
    /// Entries that can be read from `first` to `last`, `bytes_max` of them
    /// or one.
    fn entries(&self, first: LogIndex, last: LogIndex, bytes_max: usize) -> Vec<Entry>;
    /// First position it may hold.
    fn first(&self) -> LogIndex;
    /// Whether the first entry asked for may be in it, readable or not.
    fn may_have_first(&self, ask: &RepairAsk) -> bool;
}

/// How far the log on a node's disk is what the cluster committed. Beyond, the
/// core may have committed entries while the disk still shows others in their
/// place.
pub(super) fn settled(status: &Status) -> LogIndex {
    status.commit_index.min(status.durable_index)
}

/// What a node answers. `commit_index`: up to there the entries that `held`
/// shows are committed; `snapshot_index`: what its newest durable snapshot
/// covers.
pub(super) fn answer(
    held: &dyn Held,
    ask: RepairAsk,
    commit_index: LogIndex,
    snapshot_index: LogIndex,
) -> RepairMessage {
    let mut entries = Vec::new();
    if ask.first <= ask.last && ask.last <= ask.anchor.0 {
        let first = ask.first.max(held.first());
        entries = held.entries(first, ask.last, ANSWER_BYTES);
    }
    // Looked up after reading, at one moment: the log may be changing.
    let mut positions = vec![ask.anchor];
    positions.extend(entries.iter().map(|entry| (entry.index, entry.term)));
    let holds = held.hold(&positions);
    let is_anchored = holds[0];
    let mut holds = holds.into_iter().skip(1);
    entries.retain(|entry| {
        let is_held = holds.next() == Some(true);
        let is_told = entry.term == ask.anchor.1 || entry.index <= commit_index;
        is_held && (is_anchored || is_told)
    });
    let committed = commit_index.min(ask.anchor.0);
    let term = held.term_at(committed);
    RepairMessage::Answer(RepairAnswer {
        ask,
        is_anchored,
        entries,
        commit_index,
        committed: term.map(|term| (committed, term)),
        log_first: held.first(),
        snapshot_index,
        lacks_first: snapshot_index < ask.first && !held.may_have_first(&ask),
    })
}

/// What a running node answers. A leader sends entries while it writes them: it
/// lacks none that its core has and its disk does not show yet.
pub(super) fn answer_running(
    log: &dyn Held,
    ask: RepairAsk,
    status: &Status,
    snapshot_index: LogIndex,
) -> RepairMessage {
    let mut message = answer(log, ask, settled(status), snapshot_index);
    if let RepairMessage::Answer(told) = &mut message {
        let is_written = ask.first <= status.durable_index || status.last_index < ask.first;
        told.lacks_first &= is_written;
    }
    message
}

impl Held for WalReader {
    fn hold(&self, positions: &[Position]) -> Vec<bool> {
        Self::hold(self, positions)
    }

    fn term_at(&self, index: LogIndex) -> Option<Term> {
        Self::term_at(self, index)
    }

    fn entries(&self, first: LogIndex, last: LogIndex, bytes_max: usize) -> Vec<Entry> {
        // What cannot be read here either is not given.
        Self::entries(self, first, last, bytes_max).unwrap_or_default()
    }

    fn first(&self) -> LogIndex {
        self.bounds().0
    }

    fn may_have_first(&self, ask: &RepairAsk) -> bool {
        let may_be_it = |held: Term| match ask.first_term {
            Some(known) => held == known,
            None => held <= ask.anchor.1,
        };
        ask.first < self.bounds().0
            || self.hold(&[ask.anchor])[0]
            || self.term_at(ask.first).is_some_and(may_be_it)
    }
}

impl Held for Salvage {
    fn hold(&self, positions: &[Position]) -> Vec<bool> {
        let held = |(index, term): &Position| Self::term_at(self, *index) == Some(*term);
        positions.iter().map(held).collect()
    }

    fn term_at(&self, index: LogIndex) -> Option<Term> {
        Self::term_at(self, index)
    }

    fn entries(&self, first: LogIndex, last: LogIndex, bytes_max: usize) -> Vec<Entry> {
        let last = last.min(self.last().0);
        let mut bytes = 0;
        let held = (first.0..=last.0).filter_map(|index| self.entry(LogIndex(index)));
        held.take_while(|entry| {
            let is_first = bytes == 0;
            bytes += entry.size();
            is_first || bytes <= bytes_max
        })
        .cloned()
        .collect()
    }

    fn first(&self) -> LogIndex {
        LogIndex(1)
    }

    fn may_have_first(&self, _ask: &RepairAsk) -> bool {
        // It may have been here, and be lost.
        true
    }
}

/// How far a repair has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepairProgress {
    /// Entries that were lost when it began, or that are since.
    pub lost: u64,
    /// Entries that are still missing.
    pub missing: u64,
    /// Entries taken from peers.
    pub fetched: u64,
    /// The first position that is missing.
    pub first_missing: Option<LogIndex>,
    /// Nothing was learnt for so many rounds of asking everybody.
    pub idle_rounds: u64,
}

impl fmt::Display for RepairProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            lost,
            missing,
            fetched,
            first_missing,
            ..
        } = self;
        write!(
            f,
            "{missing} of {lost} lost entries missing, {fetched} fetched"
        )?;
        match first_missing {
            Some(first) => write!(f, ", the first is {first}"),
            None => Ok(()),
        }
    }
}

/// A repair under way.
#[derive(Debug)]
pub(super) struct Repair {
    salvage: Salvage,
    /// What the newest readable snapshot of this node covers.
    snapshot: Position,
    /// Whom to ask, and what each was asked last.
    peers: BTreeMap<NodeId, Asked>,
    progress: RepairProgress,
    /// Something was learnt since the last round.
    has_moved: bool,
    /// The peers are all that is left of the cluster.
    is_forced: bool,
}

/// An entry that nobody who is left has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nowhere {
    /// It was not known to be committed: the log ends before it now.
    Cut(LogIndex),
    /// It was committed: this node cannot be whole again.
    Committed(LogIndex),
}

#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    /// Counts questions, so that all gaps get their turn.
    turn: u64,
    /// Position that its newest snapshot covers, as it said.
    snapshot_index: LogIndex,
    /// The first missing position, when it was last asked for it, if it has
    /// nothing there.
    lacks: Option<LogIndex>,
}

/// Words for peers.
pub(super) type Words = Vec<(NodeId, RepairMessage)>;

impl Repair {
    /// Begins; `peers` are the other members, as far as they are known.
    pub fn new(salvage: Salvage, snapshot: Position, peers: impl Iterator<Item = NodeId>) -> Self {
        let mut repair = Self {
            salvage,
            snapshot,
            peers: peers.map(|id| (id, Asked::default())).collect(),
            progress: RepairProgress::default(),
            has_moved: true,
            is_forced: false,
        };
        repair.count();
        repair
    }

    /// An operator says that these are all that is left of the cluster: nobody
    /// else is asked.
    pub fn only_among(&mut self, survivors: impl Iterator<Item = NodeId>) {
        self.peers = survivors.map(|id| (id, Asked::default())).collect();
        self.is_forced = true;
    }

    /// Looks whether all that are left have said that they have nothing for
    /// the first position that is missing. Then no copy exists, and no leader
    /// among them counts on this node's: a leader holds what it was told of.
    pub fn settle_lost(&mut self) -> Option<Nowhere> {
        let first = self.progress.first_missing?;
        let mut peers = self.peers.values();
        if !self.is_forced || !peers.all(|asked| asked.lacks == Some(first)) {
            return None;
        }
        if first <= self.salvage.hard_state().commit_index {
            return Some(Nowhere::Committed(first));
        }
        self.salvage.end_before(first, self.snapshot);
        self.has_moved = true;
        self.count();
        Some(Nowhere::Cut(first))
    }

    /// Whether nothing is missing.
    pub fn is_whole(&self) -> bool {
        self.salvage.missing(self.snapshot).is_empty()
    }

    /// What is known of the log.
    pub fn salvage(&self) -> &Salvage {
        &self.salvage
    }

    /// What the log will begin after.
    pub fn snapshot(&self) -> Position {
        self.snapshot
    }

    /// How far it has come.
    pub fn progress(&self) -> RepairProgress {
        self.progress
    }

    /// A newer snapshot is durable here: what it covers is no longer missing.
    pub fn use_snapshot(&mut self, snapshot: Position) {
        if self.snapshot.0 < snapshot.0 {
            self.snapshot = snapshot;
            self.has_moved = true;
            self.count();
        }
    }

    /// A moment has passed: everybody is asked again, for another gap each.
    pub fn round(&mut self) -> Words {
        match std::mem::take(&mut self.has_moved) {
            true => self.progress.idle_rounds = 0,
            false => self.progress.idle_rounds += 1,
        }
        let ids: Vec<NodeId> = self.peers.keys().copied().collect();
        let mut words: Words = ids.iter().filter_map(|id| self.ask(*id, None)).collect();
        if self.progress.idle_rounds % SNAPSHOT_ROUNDS == SNAPSHOT_ROUNDS - 1 {
            words.extend(self.ask_for_snapshot());
        }
        words
    }

    /// A peer says something; the answer, if any. `commit_index` of this node
    /// is that of its damaged log.
    pub fn handle(&mut self, from: NodeId, message: RepairMessage) -> Words {
        match message {
            RepairMessage::Ask(ask) => {
                let commit_index = self.salvage.hard_state().commit_index;
                let told = answer(&self.salvage, ask, commit_index, self.snapshot.0);
                vec![(from, told)]
            }
            RepairMessage::Answer(answer) => self.learn(from, answer),
            // The caller streams.
            RepairMessage::AskSnapshot => Words::new(),
        }
    }

    fn learn(&mut self, from: NodeId, answer: RepairAnswer) -> Words {
        let first_missing = self.progress.first_missing;
        let Some(asked) = self.peers.get_mut(&from) else {
            return Words::new();
        };
        asked.snapshot_index = answer.snapshot_index;
        // Other gaps are asked for in turn: they say nothing about this one.
        if first_missing == Some(answer.ask.first) {
            asked.lacks = answer.lacks_first.then_some(answer.ask.first);
        }
        let anchor = answer.is_anchored.then_some(answer.ask.anchor);
        let (before, fetched) = (self.progress, self.progress.fetched);
        let superseded = answer.committed.is_some_and(|committed| {
            answer.commit_index >= committed.0 && self.salvage.supersede(committed)
        });
        if let Some(anchor) = anchor
            && self.snapshot.0 <= answer.commit_index
        {
            self.salvage.confirm(self.snapshot, anchor);
        }
        let last = answer.entries.last().map(|entry| entry.index);
        for entry in answer.entries {
            if self.salvage.entry(entry.index).is_some() {
                continue;
            }
            let supplied = match entry.index <= answer.commit_index {
                true => self.salvage.supply_committed(entry, anchor),
                false => self.salvage.supply(entry, anchor),
            };
            self.progress.fetched += u64::from(supplied.is_ok());
        }
        self.count();
        let is_learnt =
            superseded || fetched < self.progress.fetched || self.progress.missing < before.missing;
        if !is_learnt {
            // Its turn comes with the next round.
            return Words::new();
        }
        self.has_moved = true;
        self.ask(from, last).into_iter().collect()
    }

    /// Asks for the next gap after a position, or for another one each time.
    fn ask(&mut self, of: NodeId, after: Option<LogIndex>) -> Option<(NodeId, RepairMessage)> {
        let missing = self.salvage.missing(self.snapshot);
        let asked = self.peers.get_mut(&of)?;
        let next = after.and_then(|after| missing.iter().find(|it| after < it.last));
        let wanted = match next {
            Some(next) => next,
            None => {
                let turn = usize::try_from(asked.turn).unwrap_or(0);
                asked.turn += 1;
                missing.get(turn % missing.len().max(1))?
            }
        };
        let ask = RepairAsk {
            first: wanted.first,
            last: wanted.last,
            anchor: wanted.anchor,
            first_term: self.salvage.term_at(wanted.first),
        };
        Some((of, RepairMessage::Ask(ask)))
    }

    /// Whoever has the newest snapshot, if it covers something missing.
    fn ask_for_snapshot(&self) -> Option<(NodeId, RepairMessage)> {
        let first = self.progress.first_missing?;
        let newest = self
            .peers
            .iter()
            .max_by_key(|(_, asked)| asked.snapshot_index);
        let (id, asked) = newest?;
        (first <= asked.snapshot_index).then_some((*id, RepairMessage::AskSnapshot))
    }

    fn count(&mut self) {
        let missing = self.salvage.missing(self.snapshot);
        let count = missing.iter().map(|it| it.last.0 + 1 - it.first.0).sum();
        self.progress.missing = count;
        self.progress.lost = self.progress.lost.max(count + self.progress.fetched);
        self.progress.first_missing = missing.first().map(|it| it.first);
    }
}

/// Entry bytes of one answer, about.
const ANSWER_BYTES: usize = 1 << 20;
/// After so many rounds without progress a snapshot is asked for.
const SNAPSHOT_ROUNDS: u64 = 5;

#[cfg(test)]
mod tests;
