//! How far a search goes. Everything in it is exhaustive within these.

use std::sync::Arc;

use crate::raft;
use crate::types::{
    Entry, EntryPayload, HardState, LogIndex, Membership, MembershipChange, NodeId, Term,
};

use super::disk::Disk;

/// How elections are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Elections {
    /// Every question and every answer travels by itself.
    Stepwise,
    /// Pre-votes are asked and answered in one step, votes travel. Pre-votes
    /// change nothing where they are asked, so only the moments between them
    /// are left out.
    PreVoteAtOnce,
    /// A node and just enough others elect it in one step. For presets about
    /// what leaders do.
    AtOnce,
}

/// What the membership is asked to become, for every choice of voters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Each learner becomes a voter.
    Promote,
    /// A voter leaves.
    Remove,
    /// A learner becomes a voter and a voter leaves, jointly.
    Replace,
    /// A voter becomes a learner.
    Demote,
    /// All learners become voters and all voters leave, jointly.
    Move,
}

/// One node's log at the start, beyond what every founder has: the durable
/// term, and the entries after the first.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Durable term.
    pub term: u64,
    /// Terms of the entries from index 2 on, with what they are.
    pub entries: Vec<(u64, PreparedEntry)>,
}

/// What an entry of a prepared log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreparedEntry {
    /// A leader's first.
    Noop,
    /// A command.
    Command,
    /// The learners become voters.
    Promotion,
}

/// See the module. Counts hold over one whole path.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Founding voters, from 1.
    pub voters: u64,
    /// Founding learners, numbered after the voters.
    pub learners: u64,
    /// Nobody campaigns for a term beyond this. Founders are in term 1.
    pub term_max: u64,
    /// Commands proposed.
    pub proposals: u8,
    /// Crashes; each node starts again at once.
    pub crashes: u8,
    /// How often a write is not durable at once, but any time later or never.
    pub slow_writes: u8,
    /// Messages that are delivered once more.
    pub duplicates: u8,
    /// Heartbeats that were due.
    pub heartbeats: u8,
    /// Leaders that wait for answers as long as an election timeout, and send
    /// again what has none. Not beside `heartbeats`: a leader's clock would
    /// move by steps that rounding cannot tell apart.
    pub waits: u8,
    /// Leaders that step down because nobody answered for long.
    pub abdications: u8,
    /// Reads asked for, on any node.
    pub reads: u8,
    /// Transfers of leadership, to any voter.
    pub transfers: u8,
    /// Snapshots taken.
    pub snapshots: u8,
    /// Membership changes asked for.
    pub changes: u8,
    /// Which ones.
    pub wishes: Vec<Wish>,
    /// Steps of a path; for what is too wide to be searched to its end.
    pub depth_max: u32,
    /// How elections are told.
    pub elections: Elections,
    /// An answer reaches whoever asked in the step of the question.
    pub round_trips: bool,
    /// Appends carry one entry each: there are more moments between them.
    pub one_entry_a_message: bool,
    /// Entries are no longer in memory once they are executed.
    pub evicts: bool,
    /// Appends on their way to one peer.
    pub inflight_messages: u8,
    /// Of states that differ only in who is who, one is searched.
    pub symmetry: bool,
    /// Logs that the nodes start with, from node 1; empty: all alike.
    pub prepared: Vec<Prepared>,
}

impl Bounds {
    /// A small cluster in which nothing happens but one election.
    #[must_use]
    pub fn new(voters: u64, learners: u64) -> Self {
        Self {
            voters,
            learners,
            term_max: 2,
            proposals: 0,
            crashes: 0,
            slow_writes: 0,
            duplicates: 0,
            heartbeats: 0,
            waits: 0,
            abdications: 0,
            reads: 0,
            transfers: 0,
            snapshots: 0,
            changes: 0,
            wishes: Vec::new(),
            depth_max: DEPTH_MAX,
            elections: Elections::PreVoteAtOnce,
            round_trips: false,
            one_entry_a_message: false,
            evicts: false,
            inflight_messages: 2,
            symmetry: true,
            prepared: Vec::new(),
        }
    }

    /// Sets a bound by its name.
    ///
    /// # Errors
    /// A sentence, when no number has that name.
    pub fn set(&mut self, name: &str, number: u8) -> Result<(), String> {
        let count = match name {
            "term_max" => {
                self.term_max = u64::from(number);
                return Ok(());
            }
            "proposals" => &mut self.proposals,
            "crashes" => &mut self.crashes,
            "slow_writes" => &mut self.slow_writes,
            "duplicates" => &mut self.duplicates,
            "heartbeats" => &mut self.heartbeats,
            "waits" => &mut self.waits,
            "abdications" => &mut self.abdications,
            "reads" => &mut self.reads,
            "transfers" => &mut self.transfers,
            "snapshots" => &mut self.snapshots,
            "changes" => &mut self.changes,
            "inflight_messages" => &mut self.inflight_messages,
            _ => return Err(format!("there is no bound {name}")),
        };
        *count = number;
        Ok(())
    }

    pub(super) fn ids(&self) -> Vec<NodeId> {
        (1..=self.voters + self.learners).map(NodeId).collect()
    }

    /// Nodes that may exchange their numbers.
    pub(super) fn classes(&self) -> Vec<Vec<u64>> {
        if !self.symmetry {
            return Vec::new();
        }
        let learners = self.voters + 1..=self.voters + self.learners;
        vec![(1..=self.voters).collect(), learners.collect()]
    }

    fn membership(&self) -> Membership {
        Membership {
            voters: (1..=self.voters).map(NodeId).collect(),
            learners: (self.voters + 1..=self.voters + self.learners)
                .map(NodeId)
                .collect(),
            members: self
                .ids()
                .into_iter()
                .map(|id| (id, crate::types::Member::default()))
                .collect(),
            ..Membership::default()
        }
    }

    /// The disk a node starts from.
    pub(super) fn disk(&self, id: NodeId) -> Disk {
        let founding = self.membership();
        let first = raft::bootstrap(founding.clone());
        let mut disk = Disk {
            hard_state: first.hard_state.unwrap_or_default(),
            entries: first.entries,
            ..Disk::default()
        };
        let Some(prepared) = self.prepared.get(id.0 as usize - 1) else {
            return disk;
        };
        for (position, (term, what)) in prepared.entries.iter().enumerate() {
            let payload = match what {
                PreparedEntry::Noop => EntryPayload::Noop,
                PreparedEntry::Command => EntryPayload::Command([0xFF].into()),
                PreparedEntry::Promotion => {
                    let mut promoted = founding.clone();
                    let learners = std::mem::take(&mut promoted.learners);
                    promoted.voters.extend(learners);
                    EntryPayload::Membership(Arc::new(promoted))
                }
            };
            disk.entries.push(Entry {
                index: LogIndex(position as u64 + 2),
                term: Term(*term),
                payload,
            });
        }
        disk.hard_state = HardState {
            term: Term(prepared.term),
            ..disk.hard_state
        };
        disk
    }

    /// The changes that the wishes stand for.
    pub(super) fn changes_offered(&self) -> Vec<Vec<MembershipChange>> {
        use MembershipChange::{Demote, Promote, Remove};
        let voters = || (1..=self.voters).map(NodeId);
        let learners = || (self.voters + 1..=self.voters + self.learners).map(NodeId);
        let mut offered = Vec::new();
        for wish in &self.wishes {
            match wish {
                Wish::Promote => offered.extend(learners().map(|id| vec![Promote(id)])),
                Wish::Remove => offered.extend(voters().map(|id| vec![Remove(id)])),
                Wish::Demote => offered.extend(voters().map(|id| vec![Demote(id)])),
                Wish::Move => {
                    let arrive = learners().map(Promote);
                    offered.push(arrive.chain(voters().map(Remove)).collect());
                }
                Wish::Replace => {
                    for learner in learners() {
                        offered.extend(voters().map(|id| vec![Promote(learner), Remove(id)]));
                    }
                }
            }
        }
        offered
    }
}

/// No search of ours came to paths so long.
const DEPTH_MAX: u32 = 1000;

/// How much of the countable bounds a path has used, packed into a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used(pub(super) u64);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Countable {
    Proposal,
    Crash,
    SlowWrite,
    Duplicate,
    Heartbeat,
    Wait,
    Abdication,
    Read,
    Transfer,
    Snapshot,
    Change,
}

impl Used {
    pub(super) fn count(self, what: Countable) -> u8 {
        (self.0 >> (4 * what as u32)) as u8 & 15
    }

    /// One more, unless that is beyond the bound.
    pub(super) fn one_more(self, what: Countable, bounds: &Bounds) -> Option<Self> {
        let max = match what {
            Countable::Proposal => bounds.proposals,
            Countable::Crash => bounds.crashes,
            Countable::SlowWrite => bounds.slow_writes,
            Countable::Duplicate => bounds.duplicates,
            Countable::Heartbeat => bounds.heartbeats,
            Countable::Wait => bounds.waits,
            Countable::Abdication => bounds.abdications,
            Countable::Read => bounds.reads,
            Countable::Transfer => bounds.transfers,
            Countable::Snapshot => bounds.snapshots,
            Countable::Change => bounds.changes,
        };
        (self.count(what) < max.min(15)).then(|| Self(self.0 + (1 << (4 * what as u32))))
    }
}
