//! Elections: pre-vote, vote, and the rules by which a node gives either.
//! Thesis 3.4, 3.6, 4.2.3, 9.6.

use std::collections::BTreeMap;

use crate::raft::log::Position;
use crate::raft::message::{Message, NUMBER_MAX};
use crate::raft::quorum::{self, Tally};
use crate::raft::replication::Leadership;
use crate::raft::{Raft, State};
use crate::types::{EntryPayload, Mark, Millis, NodeId, Term};

/// Who answered, and what: a set, not a count (E8).
pub(super) type Votes = BTreeMap<NodeId, bool>;

impl Raft {
    pub(super) fn on_election_timeout(&mut self) {
        self.reset_election_deadline();
        // A leader that cannot write is none (W13).
        if self.may_campaign() && !self.is_disk_stalled() {
            self.start_pre_vote();
        }
    }

    /// Whether this node has a vote in a membership that may still count. A
    /// learner never campaigns (E12), nor does a node that knows no membership.
    pub(super) fn may_campaign(&self) -> bool {
        self.memberships
            .may_campaign(self.config.id, self.config.incarnation)
            && self.term.0 < NUMBER_MAX
            && self.shown_out <= self.log.commit()
            && self.digests.diverged.is_none()
    }

    pub(super) fn reset_election_deadline(&mut self) {
        let (min, max) = (
            self.config.election_timeout_min,
            self.config.election_timeout_max,
        );
        self.election_deadline = Millis(self.now.0 + self.rng.within(min, max).0);
    }

    /// Asks whether an election would succeed, changing nothing anywhere, so a
    /// node that comes back from isolation deposes nobody.
    fn start_pre_vote(&mut self) {
        // Whoever asks no longer believes in a leader, or two survivors that
        // ask each other would both refuse (E15).
        self.leader = None;
        self.state = State::PreCandidate(Votes::new());
        self.ask_for_votes(self.term.next(), true, false);
        self.count_vote(self.config.id, true);
    }

    /// Campaigns. `transfer`: the leader asked for it.
    pub(super) fn start_election(&mut self, transfer: bool) {
        self.leader = None;
        self.term = self.term.next();
        self.vote = Some(self.config.id);
        self.state = State::Candidate(Votes::new());
        self.reset_election_deadline();
        self.ask_for_votes(self.term, false, transfer);
        // Its own vote counts once it is durable, as everybody's (E2).
    }

    /// The question waits for the term, the vote and the log it speaks of: a
    /// grant may otherwise outlive what it was given for (E11).
    fn ask_for_votes(&mut self, term: Term, pre: bool, transfer: bool) {
        let last = self.log.last();
        let membership = &self.memberships.active().membership;
        for id in membership.voters.union(&membership.voters_outgoing) {
            if *id != self.config.id {
                let request = Message::VoteRequest {
                    term,
                    pre,
                    last_index: last.index,
                    last_term: last.term,
                    transfer,
                };
                self.outbox.send_after_everything(*id, request);
            }
        }
    }

    /// `asked_for`: by the leader itself, which ends its lease with it.
    pub(super) fn on_vote_request(
        &mut self,
        from: NodeId,
        (term, end): (Term, Position),
        pre: bool,
        asked_for: bool,
    ) {
        let leads = matches!(self.state, State::Leader(_));
        if !asked_for && !leads && self.trusts_leader(from) {
            return;
        }
        let free = self.vote == Some(from)
            || (self.vote.is_none() && self.leader.is_none())
            || (pre && self.term < term);
        let granted = free && self.log.is_up_to_date(end);
        if granted && !pre {
            assert_eq!(term, self.term, "vote in another term than the own");
            self.vote = Some(from);
            self.reset_election_deadline();
        }
        let answer = Message::VoteResponse {
            term: if granted { term } else { self.term },
            pre,
            granted,
        };
        self.outbox.send_after_everything(from, answer);
    }

    /// Whether a leader, of whatever term, was heard so recently that an
    /// election would only disturb it; a lease counts on that. A node that just
    /// started may have heard one and have forgotten it. A candidate that is no
    /// member (any more) must wait longer (M12).
    pub(super) fn trusts_leader(&self, candidate: NodeId) -> bool {
        // It steps down by itself when it loses its quorum.
        if matches!(self.state, State::Leader(_)) {
            return true;
        }
        let patience = if self.leader.is_none() || self.memberships.names(candidate) {
            self.config.election_timeout_min
        } else {
            self.config.election_timeout_max
        };
        self.now.0 < self.heard_at.0 + patience.0
    }

    pub(super) fn on_vote_response(&mut self, from: NodeId, term: Term, pre: bool, granted: bool) {
        // A grant counts only for the very question that is open (E9).
        let expected = match self.state {
            State::PreCandidate(_) => pre && (!granted || term == self.term.next()),
            State::Candidate(_) => !pre && term == self.term,
            State::Follower | State::Leader(_) => false,
        };
        if expected {
            self.count_vote(from, granted);
        }
    }

    fn count_vote(&mut self, from: NodeId, granted: bool) {
        if let State::PreCandidate(votes) | State::Candidate(votes) = &mut self.state {
            votes.entry(from).or_insert(granted);
        }
        self.decide_election();
    }

    fn decide_election(&mut self) {
        let membership = &self.memberships.active().membership;
        let (votes, pre) = match &self.state {
            State::PreCandidate(votes) => (votes, true),
            State::Candidate(votes) => (votes, false),
            State::Follower | State::Leader(_) => return,
        };
        // Nobody knows what the lost quorum had committed: under a forced
        // membership only the most complete log of all may lead.
        let tally = match self.memberships.unwritten_force() {
            Some(forced) => quorum::unanimity(forced, votes),
            None => quorum::tally(membership, votes),
        };
        match (tally, pre) {
            (Tally::Won, true) => self.start_election(false),
            (Tally::Won, false) if self.is_candidacy_durable() => self.become_leader(),
            (Tally::Won | Tally::Open, _) => {}
            (Tally::Lost, _) => self.become_follower(self.term, None),
        }
    }

    /// One write names the term and the own vote, and no entry of the log was
    /// asked for after it.
    fn is_candidacy_durable(&self) -> bool {
        self.durability.durable().term == self.term
    }

    pub(super) fn on_durable(&mut self, mark: Mark) {
        let Some(done) = self.durability.complete(mark) else {
            return;
        };
        // A write asked for in an older term never vouches for the log of this
        // one, even where it was not cut: the write that followed will.
        if done.accepted_term == self.term {
            self.log.advance_durable(done.last);
        }
        if matches!(self.state, State::Candidate(_)) && self.is_candidacy_durable() {
            self.count_vote(self.config.id, true);
        }
    }

    pub(super) fn on_timeout_now(&mut self, from: NodeId) {
        let told_by_leader = self.leader == Some(from);
        let can_lead = self.may_campaign() && !self.is_disk_stalled();
        if told_by_leader && can_lead && matches!(self.state, State::Follower) {
            self.start_election(true);
        }
    }

    fn become_leader(&mut self) {
        assert_eq!(
            self.log.durable(),
            self.log.last().index,
            "leads with a log in flight"
        );
        let first_index = self.log.last().index.next();
        self.leader = Some(self.config.id);
        self.accepted_term = self.term;
        let heartbeat_due = Millis(self.now.0 + self.config.heartbeat_interval.0);
        self.state = State::Leader(Box::new(Leadership::new(
            self.now,
            first_index,
            heartbeat_due,
        )));
        self.sync_peers();
        self.adopt_forwarded_reads();
        // First of all: whatever else this leader commits, nobody reads without
        // reading under which membership.
        let forced = self.memberships.unwritten_force().cloned();
        self.append_own(forced.map_or(EntryPayload::Noop, EntryPayload::Membership));
        self.append_held();
    }

    /// Follows, in this term or a later one. The vote of a term lasts as long
    /// as the term (E4). A term seen does not put off an own election: only a
    /// leader or a granted vote does.
    pub(super) fn become_follower(&mut self, term: Term, leader: Option<NodeId>) {
        assert!(
            self.term <= term,
            "the term goes back from {:?} to {term:?}",
            self.term
        );
        if self.term < term {
            self.term = term;
            self.vote = None;
            self.leader = None;
        }
        let before = std::mem::replace(&mut self.state, State::Follower);
        if let State::Leader(lead) = before {
            self.leader = None;
            self.reset_election_deadline();
            self.abdicate(*lead);
        }
        if leader.is_some() {
            self.leader = leader;
            self.heard_at = self.now;
            self.reset_election_deadline();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Role;
    use crate::raft::stage::{Stage, config, membership};
    use crate::types::LogIndex;

    fn granted(pre: bool) -> Message {
        Message::VoteResponse {
            term: Term(2),
            pre,
            granted: true,
        }
    }

    // Node 2 lost its directory. Its new life may be met before this node knows
    // a membership that names it; the former one may have voted in this term.
    #[test]
    fn grant_of_another_life_does_not_count() {
        let mut stage = Stage::new(config(), membership(3, 0));
        stage.now = stage.core.next_deadline();
        stage.step(crate::raft::Input::Tick);
        stage.hear_in_life(NodeId(2), 1, granted(true));
        assert_eq!(stage.core.role(), Role::PreCandidate);
        stage.hear(NodeId(2), granted(true));
        stage.hear_in_life(NodeId(2), 1, granted(false));
        assert_eq!(stage.core.role(), Role::Candidate);
        stage.hear(NodeId(3), granted(false));
        assert_eq!(stage.core.role(), Role::Leader);
    }

    // A node that was away does not know yet in which life the leader is.
    #[test]
    fn leader_in_another_life_is_followed() {
        let mut stage = Stage::new(config(), membership(3, 0));
        let heartbeat = Message::Heartbeat {
            term: Term(2),
            commit_index: LogIndex(0),
            read_context: 0,
            agreed: None,
        };
        stage.hear_in_life(NodeId(2), 1, heartbeat);
        assert_eq!(stage.core.status().leader, Some(NodeId(2)));
    }
}
