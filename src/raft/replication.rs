//! The leader's side: who gets what, how commits are counted, and when a
//! leader must stop being one.

use std::collections::BTreeMap;

use crate::raft::lease::Lease;
use crate::raft::message::{AppendResult, Message};
use crate::raft::progress::{Departure, Pace, Progress, Window};
use crate::raft::proposal::PendingChange;
use crate::raft::quorum;
use crate::raft::transfer::Transfer;
use crate::raft::{Effect, PeerStatus, Raft, ReadMode, State};
use crate::types::{Checkpoint, Incarnation, LogIndex, Millis, NodeId};

/// What a node needs only while it leads.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub(super) struct Leadership {
    /// Everybody the log is sent to; not this node itself.
    pub(super) peers: BTreeMap<NodeId, Progress>,
    /// The life of each peer's data directory that `peers` speaks of.
    lives: BTreeMap<NodeId, Incarnation>,
    pub(super) since: Millis,
    /// Its first entry: committed, everything before it is.
    pub(super) first_index: LogIndex,
    heartbeat_due: Millis,
    pub(super) change: Option<PendingChange>,
    pub(super) transfer: Option<Transfer>,
    pub(super) lease: Lease,
}

impl Leadership {
    pub(super) fn new(now: Millis, first_index: LogIndex, heartbeat_due: Millis) -> Self {
        Self {
            peers: BTreeMap::new(),
            lives: BTreeMap::new(),
            since: now,
            first_index,
            heartbeat_due,
            change: None,
            transfer: None,
            lease: Lease::default(),
        }
    }

    pub(super) fn next_deadline(&self) -> Millis {
        let transfer = self
            .transfer
            .as_ref()
            .map_or(Millis(u64::MAX), |t| t.deadline);
        self.heartbeat_due.min(transfer)
    }
}

impl Raft {
    /// Whether this node leads and an entry of its own term is committed:
    /// before that it does not know what is (C1, M1).
    pub(super) fn is_ready(&self) -> bool {
        match &self.state {
            State::Leader(lead) => lead.first_index <= self.log.commit(),
            _ => false,
        }
    }

    /// Everything a leader does at the end of a step.
    pub(super) fn lead(&mut self) {
        if !matches!(self.state, State::Leader(_)) {
            return;
        }
        self.count_commits();
        self.leave_joint_membership();
        self.hand_over_when_removed();
        self.replicate_to_all();
        self.tell_commit();
        self.push_transfer();
        self.forget_departed();
    }

    /// Only entries of the own term are committed by counting; older ones
    /// follow with them (E1: thesis figure 3.7).
    fn count_commits(&mut self) {
        let State::Leader(lead) = &self.state else {
            return;
        };
        let membership = &self.memberships.active().membership;
        let reached = |id: NodeId| {
            if id == self.config.id {
                self.log.durable()
            } else {
                lead.peers
                    .get(&id)
                    .map_or(LogIndex(0), |peer| peer.match_index)
            }
        };
        let agreed = quorum::committed(membership, reached);
        if self.log.commit() < agreed && self.log.term_at(agreed) == Some(self.term) {
            let was_settled = self.is_settled();
            self.leader_commit = agreed;
            self.commit_to(agreed);
            if !was_settled && self.is_settled() {
                self.begin_lease();
            }
        }
    }

    /// Whether an entry of this term and the active membership are committed.
    pub(super) fn is_settled(&self) -> bool {
        self.is_ready() && self.memberships.active().index <= self.log.commit()
    }

    /// Rounds that left before all was settled confirm no lease.
    fn begin_lease(&mut self) {
        if let State::Leader(lead) = &mut self.state {
            lead.lease.begin();
        }
    }

    pub(super) fn tick_leader(&mut self) {
        if !self.hears_quorum() {
            self.become_follower(self.term, None);
            return;
        }
        self.hand_over_when_stalled();
        self.expire_transfer();
        let State::Leader(lead) = &mut self.state else {
            return;
        };
        if lead.heartbeat_due <= self.now {
            let interval = self.config.heartbeat_interval.0;
            let missed = (self.now.0 - lead.heartbeat_due.0) / interval;
            lead.heartbeat_due = Millis(lead.heartbeat_due.0 + (missed + 1) * interval);
            if self.config.read_mode != ReadMode::Quorum {
                // Each round may renew the lease.
                self.begin_round();
            }
            self.send_heartbeats();
        }
    }

    /// Whether a quorum of voters answered lately (E17, E18: learners do not
    /// count, and what was heard wears off).
    fn hears_quorum(&self) -> bool {
        let State::Leader(lead) = &self.state else {
            return false;
        };
        let patience = self.config.election_timeout_max;
        if self.now.0 < lead.since.0 + patience.0 {
            return true;
        }
        quorum::agrees(&self.memberships.active().membership, |id| {
            id == self.config.id
                || lead
                    .peers
                    .get(&id)
                    .is_some_and(|peer| peer.heard_within(self.now, patience))
        })
    }

    /// Whether the oldest write has been waiting for the disk for too long.
    pub(super) fn is_disk_stalled(&self) -> bool {
        let patience = self.config.disk_stall_timeout.0;
        self.durability
            .waiting_since()
            .is_some_and(|since| patience <= self.now.0.saturating_sub(since.0))
    }

    /// Whether somebody else could lead at all.
    pub(super) fn has_other_voters(&self) -> bool {
        let membership = &self.memberships.active().membership;
        let mut voters = membership.voters.union(&membership.voters_outgoing);
        voters.any(|id| *id != self.config.id)
    }

    /// A stalled leader falls silent: its followers shall not wait for it while
    /// it looks for an heir.
    pub(super) fn send_heartbeats(&mut self) {
        if self.is_disk_stalled() && self.has_other_voters() {
            return;
        }
        let (term, agreed) = (self.term, self.digests.agreed);
        let (commit, context) = (self.log.commit(), self.reads.context());
        let State::Leader(lead) = &mut self.state else {
            return;
        };
        for (id, peer) in &mut lead.peers {
            // Never more than the peer is known to hold (R4).
            let commit_index = commit.min(peer.match_index);
            peer.commit_sent = peer.commit_sent.max(commit_index);
            let beat = Message::Heartbeat {
                term,
                commit_index,
                read_context: context,
                agreed,
            };
            self.outbox.send_now(*id, beat);
        }
    }

    /// Tells peers of a commit that no append of this step carried.
    fn tell_commit(&mut self) {
        let agreed = self.digests.agreed;
        let State::Leader(lead) = &mut self.state else {
            return;
        };
        let commit = self.log.commit();
        for (id, peer) in &mut lead.peers {
            let commit_index = commit.min(peer.match_index);
            if peer.commit_sent < commit_index {
                peer.commit_sent = commit_index;
                let read_context = self.reads.context();
                let beat = Message::Heartbeat {
                    term: self.term,
                    commit_index,
                    read_context,
                    agreed,
                };
                self.outbox.send_now(*id, beat);
            }
        }
    }

    /// Notes that a peer spoke in this term.
    pub(super) fn heard_from(&mut self, from: NodeId) -> Option<&mut Progress> {
        let State::Leader(lead) = &mut self.state else {
            return None;
        };
        let peer = lead.peers.get_mut(&from)?;
        peer.last_contact = Some(self.now);
        Some(peer)
    }

    pub(super) fn on_append_response(
        &mut self,
        from: NodeId,
        result: AppendResult,
        read_context: u64,
    ) {
        let last = self.log.last().index;
        let hint = match result {
            AppendResult::Matched { .. } => LogIndex(0),
            AppendResult::Rejected {
                hint_index,
                hint_term,
                ..
            } => self.log.last_at_most(hint_index, hint_term).index,
        };
        let Some(peer) = self.heard_from(from) else {
            return;
        };
        peer.acked_context = peer.acked_context.max(read_context);
        match result {
            AppendResult::Matched { match_index } if match_index <= last => {
                peer.matched(match_index);
            }
            AppendResult::Rejected { prev_index, .. } => {
                peer.rejected(prev_index, hint);
            }
            AppendResult::Matched { .. } => {}
        }
    }

    /// A peer that answers heartbeats but not what was sent to it did not get
    /// it (R11, R12).
    pub(super) fn on_heartbeat_response(
        &mut self,
        from: NodeId,
        read_context: u64,
        promised: Millis,
        checkpoints: Vec<Checkpoint>,
    ) {
        let (now, patience) = (self.now, self.config.election_timeout_min);
        let Some(peer) = self.heard_from(from) else {
            return;
        };
        peer.acked_context = peer.acked_context.max(read_context);
        peer.patience = promised;
        self.on_peer_checkpoints(from, checkpoints);
        let Some(peer) = self.heard_from(from) else {
            return; // Its state made this node stop leading.
        };
        if !peer.is_overdue(now, patience) {
            return;
        }
        match peer.pace {
            // Where the probe got to stays: to begin again at the last certain
            // match would send a whole log for one lost message.
            Pace::Probe { .. } => peer.pace = Pace::Probe { sent_at: None },
            Pace::Replicate => peer.probe(None),
            Pace::Installing { .. } => self.retry_install(from),
            Pace::Streaming => {}
        }
    }

    pub(super) fn on_unreachable(&mut self, peer: NodeId) {
        let now = self.now;
        if let State::Leader(lead) = &mut self.state
            && let Some(peer) = lead.peers.get_mut(&peer)
            && peer.pace == Pace::Replicate
        {
            peer.probe(Some(now));
        }
    }

    fn replicate_to_all(&mut self) {
        let State::Leader(lead) = &self.state else {
            return;
        };
        let peers: Vec<NodeId> = lead.peers.keys().copied().collect();
        for peer in peers {
            while self.replicate_to(peer) {}
        }
    }

    /// Sends one append if there is reason and room. Returns whether another
    /// may follow.
    fn replicate_to(&mut self, to: NodeId) -> bool {
        let (base, last) = (self.log.base(), self.log.last().index);
        let window = Window {
            messages_max: self.config.inflight_messages_max,
            bytes_max: self.config.inflight_bytes_max,
        };
        let State::Leader(lead) = &mut self.state else {
            return false;
        };
        let Some(peer) = lead.peers.get_mut(&to) else {
            return false;
        };
        let wanted = match peer.pace {
            Pace::Probe { sent_at } => sent_at.is_none(),
            Pace::Replicate => peer.next_index <= last && peer.has_room(window),
            Pace::Streaming | Pace::Installing { .. } => false,
        };
        if !wanted {
            return false;
        }
        if peer.next_index <= base {
            self.start_stream(to);
            return false;
        }
        self.send_append(to)
    }

    fn send_append(&mut self, to: NodeId) -> bool {
        let State::Leader(lead) = &mut self.state else {
            return false;
        };
        let peer = lead.peers.get_mut(&to).expect("looked up by the caller");
        let last = self.log.last().index;
        let first = peer.next_index;
        let prev_index = first.previous();
        let bytes_max = self.config.message_bytes_max;
        let cached = if first <= last {
            self.log.cached_range(first, last, bytes_max)
        } else {
            Some(Vec::new())
        };
        let probing = peer.pace != Pace::Replicate;
        let from_disk = cached.is_none() && !probing;
        let entries = cached.unwrap_or_default();
        let bytes = entries.iter().map(crate::types::Entry::size).sum();
        let end = LogIndex(prev_index.0 + entries.len() as u64);
        let message = Message::AppendEntries {
            term: self.term,
            prev_index,
            prev_term: self.log.term_at(prev_index).expect("between base and last"),
            entries,
            commit_index: self.log.commit(),
            read_context: self.reads.context(),
        };
        peer.commit_sent = peer.commit_sent.max(self.log.commit().min(end));
        if from_disk {
            peer.disk_read_at = Some(self.now);
            // Evicted entries are applied, so the disk has them for certain.
            let last = self.log.applied();
            self.outbox.effect(Effect::SendFromLog {
                to,
                message,
                first,
                last,
                bytes_max,
            });
            return false;
        }
        if probing {
            peer.pace = Pace::Probe {
                sent_at: Some(self.now),
            };
        } else {
            peer.sent(self.now, end, bytes);
        }
        self.outbox.send_now(to, message);
        !probing
    }

    /// Keeps one progress per member, afresh for one that was replaced (M14);
    /// members that left are told before they are forgotten (M13).
    pub(super) fn sync_peers(&mut self) {
        let placed = self.memberships.active().clone();
        let own = self.config.id;
        let (now, last) = (self.now, self.log.last().index);
        let patience = 4 * self.config.election_timeout_max.0;
        let State::Leader(lead) = &mut self.state else {
            return;
        };
        let Leadership { peers, lives, .. } = lead.as_mut();
        for (id, member) in placed
            .membership
            .members
            .iter()
            .filter(|(id, _)| **id != own)
        {
            if lives.insert(*id, member.incarnation) != Some(member.incarnation) {
                peers.insert(*id, Progress::new(last));
            }
            let peer = peers.entry(*id).or_insert_with(|| Progress::new(last));
            peer.departure = None;
        }
        for (id, peer) in peers.iter_mut() {
            if !placed.membership.members.contains_key(id) && peer.departure.is_none() {
                let deadline = Millis(now.0 + patience);
                peer.departure = Some(Departure {
                    index: placed.index,
                    deadline,
                    told_in: None,
                });
            }
        }
    }

    /// Lets go of peers that left and know it, or do not answer.
    fn forget_departed(&mut self) {
        let (now, commit) = (self.now, self.log.commit());
        let agreed = self.digests.agreed;
        let context = &mut self.reads;
        let State::Leader(lead) = &mut self.state else {
            return;
        };
        let Leadership { peers, lives, .. } = lead.as_mut();
        peers.retain(|id, peer| {
            let Some(departure) = &mut peer.departure else {
                return true;
            };
            let knows = departure
                .told_in
                .is_some_and(|told| told <= peer.acked_context);
            if knows || departure.deadline <= now {
                lives.remove(id);
                return false;
            }
            let index = departure.index;
            if departure.told_in.is_none() && index <= commit && index <= peer.match_index {
                // From the next message on, whatever comes back has seen it.
                departure.told_in = Some(context.next_context());
                let read_context = context.context();
                let beat = Message::Heartbeat {
                    term: self.term,
                    commit_index: commit.min(peer.match_index),
                    read_context,
                    agreed,
                };
                self.outbox.send_now(*id, beat);
            }
            true
        });
    }

    pub(super) fn peer_statuses(&self) -> BTreeMap<NodeId, PeerStatus> {
        let State::Leader(lead) = &self.state else {
            return BTreeMap::new();
        };
        let status = |peer: &Progress| PeerStatus {
            match_index: peer.match_index,
            next_index: peer.next_index,
            last_contact: peer.last_contact,
            snapshot_in_flight: peer.in_snapshot(),
            mismatch: peer.mismatch,
        };
        let present = lead
            .peers
            .iter()
            .filter(|(_, peer)| peer.departure.is_none());
        present.map(|(id, peer)| (*id, status(peer))).collect()
    }
}
