//! The consensus core: it decides and performs nothing. No clock, no thread,
//! no I/O; the only randomness is a seeded stream for election timeouts.
//!
//! # The caller's manual
//!
//! One owner calls [`Raft::step`] (or [`Raft::step_all`] with whatever has
//! queued up: one write and one message per peer then carry it all) and carries
//! out the returned effects **in their order**:
//!
//! * `Persist{mark, write}`: make the write durable, atomically, in order; then
//!   step `Durable(mark)`. Reporting only the last mark of a group is enough.
//!   A failed write ends the process: there is no input to report it.
//! * `Send{to, message, after}`: not before `after` is durable. Messages may be
//!   lost, doubled, delayed and overtaken; never altered, and never delivered
//!   under another incarnation than that of the directory that sent them.
//! * `SendFromLog`: as `Send`, filled from the log on disk.
//! * `Apply{entries}` and `RestoreSnapshot(meta)`: to the store, in order; then
//!   step `Applied(index)`.
//! * `StreamSnapshot{to, least}`: send the newest snapshot file, if it covers
//!   that much, then step `SnapshotStreamed`, always, also when it failed. Pass an `InstallSnapshot`
//!   message to the core only when that snapshot is staged here; the write with
//!   `reset_to` must publish it first.
//! * When [`Raft::next_deadline`] has come, step `Tick`. Handle queued messages
//!   before a tick that is late, or a busy node deposes its leader.
//!
//! A request (`Propose`, `ChangeMembership`, `ReadIndex`, `TransferLeadership`)
//! is answered exactly once. `ProposalAccepted` says where the entry is, not
//! that it will stay: the outcome is known when that index is applied.
//!
//! # What it must never do
//!
//! Panic on anything a peer sends (implausible messages are dropped); vote,
//! acknowledge or campaign before what it says is durable; count a write that
//! was asked for before the log changed under it; truncate what is committed.
//!
//! # Sources
//!
//! Ongaro, *Consensus: Bridging Theory and Practice* (2014): 3 (core), 4.1
//! (membership active when appended), 4.2.3 and 9.6 (pre-vote, stickiness), 4.3
//! (joint consensus), 5 (snapshots), 6.4 (reads), 10.2.1 (the leader's disk
//! write beside replication). The numbers of mistakes named in comments (E11,
//! R17 …) are those of the catalogue in DESIGN.md.

mod api;
mod change;
mod digest;
mod durability;
mod election;
mod follower;
mod held;
mod invariants;
mod lease;
mod log;
mod memberships;
pub mod message;
mod output;
mod progress;
mod proposal;
mod quorum;
mod read;
mod recovery;
mod refusal;
mod replication;
mod rng;
mod snapshot;
mod transfer;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod stage;

use std::collections::BTreeMap;

pub use api::*;
pub use recovery::bootstrap;
pub use refusal::{ChangeError, RecoverError, Rejection, TargetError};

use crate::types::{
    HardState, Incarnation, LogIndex, Membership, Millis, NodeId, SnapshotMeta, Term,
};
use digest::Digests;
use durability::Durability;
use election::Votes;
use held::Held;
use log::Log;
use memberships::{Memberships, Placed};
use message::Message;
use output::Outbox;
use read::Reads;
use replication::Leadership;
use rng::SplitMix64;

/// One node's part in the consensus. See the module for how to drive it.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub struct Raft {
    #[cfg_attr(feature = "sim", serde(skip))]
    config: Config,
    now: Millis,
    #[cfg_attr(feature = "sim", serde(skip))]
    rng: SplitMix64,
    term: Term,
    vote: Option<NodeId>,
    state: State,
    /// Of the current term, as far as known; this node itself when it leads.
    leader: Option<NodeId>,
    heard_at: Millis,
    election_deadline: Millis,
    log: Log,
    /// The log is known to be a prefix of this term's leader's.
    accepted_term: Term,
    /// The newest commit index a leader told.
    leader_commit: LogIndex,
    memberships: Memberships,
    /// The active membership last announced.
    announced: Option<Placed>,
    /// The log was reset to this; the store follows once that is durable.
    restoring: Option<SnapshotMeta>,
    was_member: bool,
    removed: bool,
    /// The newest committed membership that a peer showed this node, and that
    /// does not name it; 0 without one.
    shown_out: LogIndex,
    digests: Digests,
    held: Held,
    durability: Durability,
    /// Peers a snapshot is being streamed to, and the position its log
    /// continues from: kept until the stream ends, whoever leads.
    streams: BTreeMap<NodeId, LogIndex>,
    reads: Reads,
    #[cfg_attr(feature = "sim", serde(skip))]
    outbox: Outbox,
}

/// What a node is, with what it needs only then.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
enum State {
    Follower,
    PreCandidate(Votes),
    Candidate(Votes),
    Leader(Box<Leadership>),
}

impl Raft {
    /// Handles one input at `now` and returns what is to be done, in order.
    ///
    /// # Panics
    /// When the caller breaks the manual: a completion that was never asked
    /// for, an index applied that was never handed out.
    pub fn step(&mut self, now: Millis, input: Input) -> Vec<Effect> {
        self.step_all(now, [input])
    }

    /// Handles several inputs at once; what they append goes into one write and
    /// one message per peer.
    ///
    /// # Panics
    /// As [`Raft::step`].
    pub fn step_all(
        &mut self,
        now: Millis,
        inputs: impl IntoIterator<Item = Input>,
    ) -> Vec<Effect> {
        self.now = self.now.max(now);
        let before = invariants::Before::of(self);
        for input in inputs {
            self.handle(input);
        }
        self.lead();
        self.refuse_held();
        self.pump_reads();
        let effects = self.collect_effects();
        invariants::check(self, &before);
        effects
    }

    /// When the next `Tick` is due. In the far future when nothing is awaited.
    #[must_use]
    pub fn next_deadline(&self) -> Millis {
        let role = match &self.state {
            State::Leader(lead) => lead.next_deadline(),
            _ if self.may_campaign() => self.election_deadline,
            _ => Millis(u64::MAX),
        };
        role.min(self.reads.next_deadline(&self.config))
            .min(self.held.next_deadline())
    }

    /// A copy of what an observer may know.
    #[must_use]
    pub fn status(&self) -> Status {
        let last = self.log.last();
        let (active, committed) = (self.memberships.active(), self.memberships.committed());
        Status {
            role: self.role(),
            term: self.term,
            leader: self.leader,
            ready: self.is_ready(),
            commit_index: self.log.commit(),
            applied_index: self.log.applied(),
            durable_index: self.log.durable(),
            last_index: last.index,
            last_term: last.term,
            membership: std::sync::Arc::clone(&active.membership),
            membership_index: active.index,
            committed_membership: std::sync::Arc::clone(&committed.membership),
            committed_membership_index: committed.index,
            removed: self.removed,
            diverged: self.digests.diverged,
            agreed: self.digests.agreed,
            disk_stalled: self.is_disk_stalled(),
            lease_until: self.lease_until(),
            held_count: self.held.count(),
            peers: self.peer_statuses(),
        }
    }

    /// This node's role.
    #[must_use]
    pub fn role(&self) -> Role {
        match self.state {
            State::Follower => Role::Follower,
            State::PreCandidate(_) => Role::PreCandidate,
            State::Candidate(_) => Role::Candidate,
            State::Leader(_) => Role::Leader,
        }
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::Tick => self.tick(),
            Input::Message {
                from,
                incarnation,
                message,
            } => {
                if self.may_count(from, incarnation, &message) {
                    self.on_message(from, message);
                }
            }
            Input::Propose { id, payload } => self.propose(id, payload),
            Input::ChangeMembership { id, changes } => self.change_membership(id, &changes),
            Input::ReadIndex { id } => self.read_index(id),
            Input::TransferLeadership { id, target } => self.transfer_leadership(id, target),
            Input::Durable(mark) => self.on_durable(mark),
            Input::Applied(index) => self.log.advance_applied(index),
            Input::SnapshotTaken(meta) => self.on_snapshot_taken(&meta),
            Input::SnapshotStreamed { to, delivered } => self.on_snapshot_streamed(to, delivered),
            Input::Unreachable(peer) => self.on_unreachable(peer),
            Input::Checkpoint(checkpoint) => self.on_checkpoint(checkpoint),
            Input::CommittedMembership { index, membership } => {
                self.on_committed_membership(index, &membership);
            }
        }
    }

    fn tick(&mut self) {
        self.expire_reads();
        if matches!(self.state, State::Leader(_)) {
            self.tick_leader();
        } else if self.election_deadline <= self.now {
            self.on_election_timeout();
        }
    }

    /// A vote and a match belong to a directory, not to a name. The transport
    /// refuses a directory that the membership does not name, but what it said
    /// may have been queued here before, and a directory that is newer than
    /// this membership may speak. Neither answers for the one that is named
    /// (M14, R8). What needs no counting is heard: a leader in a newer life
    /// must reach those that were away.
    fn may_count(&self, from: NodeId, incarnation: Incarnation, message: &Message) -> bool {
        !message.is_counted() || !self.memberships.names_another_life(from, incarnation)
    }

    fn on_message(&mut self, from: NodeId, message: Message) {
        if from == self.config.id || !message.is_plausible() {
            return;
        }
        if message.term() < self.term {
            self.on_stale_message(from, &message);
            return;
        }
        if self.term < message.term() && !self.observe_term(from, &message) {
            return;
        }
        match message {
            Message::VoteRequest {
                term,
                pre,
                last_index,
                last_term,
                transfer,
            } => {
                let end = log::Position {
                    index: last_index,
                    term: last_term,
                };
                self.on_vote_request(from, (term, end), pre, transfer);
            }
            Message::VoteResponse { term, pre, granted } => {
                self.on_vote_response(from, term, pre, granted);
            }
            Message::AppendEntries { .. }
            | Message::Heartbeat { .. }
            | Message::InstallSnapshot { .. } => self.on_leader_message(from, message),
            Message::AppendResponse {
                result,
                read_context,
                ..
            } => {
                self.on_append_response(from, result, read_context);
            }
            Message::HeartbeatResponse {
                read_context,
                patience,
                checkpoints,
                ..
            } => {
                self.on_heartbeat_response(from, read_context, patience, checkpoints);
            }
            Message::InstallSnapshotResponse { match_index, .. } => {
                self.on_install_response(from, match_index);
            }
            Message::TimeoutNow { .. } => self.on_timeout_now(from),
            Message::ReadIndexRequest { context, .. } => self.on_read_request(from, context),
            Message::ReadIndexResponse { context, index, .. } => {
                self.on_read_response(context, index);
            }
        }
    }

    /// A message names a later term. Returns whether to go on with it.
    fn observe_term(&mut self, from: NodeId, message: &Message) -> bool {
        match message {
            Message::VoteRequest { pre, transfer, .. } => {
                if !transfer && self.trusts_leader(from) {
                    return false;
                }
                if !pre {
                    self.become_follower(message.term(), None);
                }
            }
            // A grant names the term asked for, which nobody is in yet.
            Message::VoteResponse {
                pre: true,
                granted: true,
                ..
            } => {}
            _ => self.become_follower(message.term(), None),
        }
        true
    }

    /// The sender is behind: it is told so where silence would leave it stuck.
    fn on_stale_message(&mut self, from: NodeId, message: &Message) {
        let term = self.term;
        match message {
            Message::VoteRequest { pre, .. } => {
                let refusal = Message::VoteResponse {
                    term,
                    pre: *pre,
                    granted: false,
                };
                self.outbox.send_after_everything(from, refusal);
            }
            Message::AppendEntries { .. }
            | Message::Heartbeat { .. }
            | Message::InstallSnapshot { .. } => {
                let newer = self.heartbeat_response(0);
                self.outbox.send_after_hard_state(from, newer);
            }
            _ => {}
        }
    }

    fn hard_state(&self) -> HardState {
        HardState {
            term: self.term,
            vote: self.vote,
            commit_index: self.log.commit(),
        }
    }

    /// Moves the commit index and what follows from it.
    fn commit_to(&mut self, index: LogIndex) {
        if self.log.commit_to(index) {
            self.memberships.commit(index);
        }
        self.note_removal();
    }

    /// Only a committed membership can tell a node that it is out; while this
    /// node still catches up on history, it may merely read of a former life.
    fn note_removal(&mut self) {
        let placed = self.memberships.committed();
        let committed = &placed.membership;
        if committed.members.contains_key(&self.config.id) {
            self.was_member = true;
            self.removed = placed.index < self.shown_out;
        } else if !committed.members.is_empty() && self.leader_commit <= self.log.commit() {
            self.removed = self.was_member;
        }
    }

    /// A member shows what is committed. Newer than all this node knows to be
    /// committed, it can only be history that this node missed; that it is out
    /// is believed, so that it stops asking for votes, and nothing else of it:
    /// should it be let in again, its log will say so at a later position.
    fn on_committed_membership(&mut self, index: LogIndex, membership: &Membership) {
        let names_this = membership.members.contains_key(&self.config.id);
        let is_news =
            self.log.commit().max(self.shown_out) < index && index.0 <= message::NUMBER_MAX;
        let is_sound = change::is_consistent(membership) && !membership.voters.is_empty();
        if names_this || !is_news || !is_sound || !self.was_member {
            return;
        }
        self.shown_out = index;
        self.removed = true;
        self.become_follower(self.term, None);
    }
}
