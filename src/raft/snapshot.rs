//! Snapshots: when a peer needs one, how one is installed, and when the log
//! before one may go.

use crate::raft::log::Position;
use crate::raft::message::Message;
use crate::raft::progress::{Pace, Progress};
use crate::raft::{Effect, Raft, State};
use crate::types::{LogIndex, Millis, NodeId, SnapshotMeta};

impl Raft {
    /// A leader has staged a snapshot here. Three cases: everything in it is
    /// committed here already (S1), this log holds its last entry and keeps
    /// what follows it (S2), or it replaces the log, conflicting tail and all
    /// (S3, S4). The answer waits until that is durable (S14).
    pub(super) fn install_snapshot(&mut self, from: NodeId, meta: &SnapshotMeta) {
        let match_index = if meta.index <= self.log.commit() {
            self.log.commit()
        } else if self.log.term_at(meta.index) == Some(meta.term) {
            self.leader_commit = self.leader_commit.max(meta.index);
            self.commit_to(meta.index);
            meta.index
        } else {
            self.replace_log(meta);
            meta.index
        };
        let response = Message::InstallSnapshotResponse {
            term: self.term,
            match_index,
        };
        self.outbox.send_after_everything(from, response);
    }

    fn replace_log(&mut self, meta: &SnapshotMeta) {
        self.log.reset(meta);
        self.durability.clip(LogIndex(0));
        // Whatever this log said about members is gone with it (M10).
        self.memberships
            .reset(meta.membership_index, &meta.membership, meta.term);
        self.accepted_term = self.term;
        self.restoring = Some(meta.clone());
        self.digests.replaced(meta.index);
        self.leader_commit = self.leader_commit.max(meta.index);
        self.note_removal();
    }

    /// Takes note of an own snapshot and lets go of what no one needs: at most
    /// up to the snapshot before it (should this one turn out damaged), never
    /// the trailing entries, never what a stream under way continues from.
    pub(super) fn on_snapshot_taken(&mut self, meta: &SnapshotMeta) {
        if meta.index <= self.log.snapshot().index || self.digests.diverged.is_some() {
            return; // An installed one overtook it, or it holds a wrong state.
        }
        assert_eq!(
            self.log.term_at(meta.index),
            Some(meta.term),
            "snapshot of another log"
        );
        self.log.advance_snapshot(Position {
            index: meta.index,
            term: meta.term,
        });
        let trailing = LogIndex(meta.index.0.saturating_sub(self.config.trailing_entries));
        let mut through = self.log.snapshot_before().min(trailing);
        for pinned in self.streams.values() {
            through = through.min(*pinned);
        }
        if let State::Leader(lead) = &self.state {
            let installing = lead.peers.values().filter_map(Progress::installing);
            through = installing.fold(through, LogIndex::min);
        }
        if self.log.purge(through) {
            self.outbox.effect(Effect::Purge { through });
        }
    }

    /// A peer needs entries that are purged here.
    pub(super) fn start_stream(&mut self, to: NodeId) {
        let (snapshot, least) = (self.log.snapshot().index, self.log.base());
        let (now, patience) = (self.now, self.config.election_timeout_max);
        let State::Leader(lead) = &mut self.state else {
            return;
        };
        let Some(peer) = lead.peers.get_mut(&to) else {
            return;
        };
        // Nobody streams to a peer that does not answer; its next heartbeat
        // response brings the leader back here.
        if !peer.heard_within(now, patience) {
            peer.probe(Some(now));
            return;
        }
        peer.pace = Pace::Streaming;
        if let std::collections::btree_map::Entry::Vacant(slot) = self.streams.entry(to) {
            slot.insert(snapshot);
            self.outbox.effect(Effect::StreamSnapshot { to, least });
        }
    }

    pub(super) fn on_snapshot_streamed(&mut self, to: NodeId, delivered: Option<SnapshotMeta>) {
        self.streams.remove(&to);
        let now = self.now;
        let commit = self.log.commit();
        let State::Leader(lead) = &mut self.state else {
            return;
        };
        let Some(peer) = lead
            .peers
            .get_mut(&to)
            .filter(|peer| peer.pace == Pace::Streaming)
        else {
            return;
        };
        match delivered.filter(|meta| meta.index <= commit) {
            Some(meta) => {
                peer.pace = Pace::Installing {
                    meta: meta.clone(),
                    since: now,
                    sent_at: now,
                };
                let install = Message::InstallSnapshot {
                    term: self.term,
                    meta,
                };
                self.outbox.send_now(to, install);
            }
            None => peer.probe(Some(now)),
        }
    }

    /// An install without answer is asked for again; after a while the staged
    /// file is taken for lost and the peer starts over.
    pub(super) fn retry_install(&mut self, to: NodeId) {
        let now = self.now;
        let give_up = Millis(4 * self.config.election_timeout_max.0);
        let State::Leader(lead) = &mut self.state else {
            return;
        };
        let Some(peer) = lead.peers.get_mut(&to) else {
            return;
        };
        if let Pace::Installing {
            meta,
            since,
            sent_at,
        } = &mut peer.pace
        {
            if give_up.0 <= now.0.saturating_sub(since.0) {
                peer.probe(None);
                return;
            }
            *sent_at = now;
            let install = Message::InstallSnapshot {
                term: self.term,
                meta: meta.clone(),
            };
            self.outbox.send_now(to, install);
        }
    }

    pub(super) fn on_install_response(&mut self, from: NodeId, match_index: LogIndex) {
        if self.log.last().index < match_index {
            return;
        }
        if let Some(peer) = self.heard_from(from) {
            peer.matched(match_index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::stage::{Stage, config, membership};
    use crate::raft::{Config, Divergence, Input};
    use crate::types::Term;

    fn taken(stage: &mut Stage, index: u64) -> Vec<Effect> {
        let membership = membership(1, 0).into();
        stage.step(Input::SnapshotTaken(SnapshotMeta {
            index: LogIndex(index),
            term: Term(2),
            membership,
            membership_index: LogIndex(1),
        }))
    }

    fn with_entries() -> Stage {
        let eager = Config {
            trailing_entries: 0,
            ..config()
        };
        let mut stage = Stage::leading(eager, membership(1, 0));
        for text in ["a", "b", "c"] {
            stage.propose(text);
        }
        stage
    }

    #[test]
    fn snapshot_that_a_newer_one_overtook_changes_nothing() {
        let mut stage = with_entries();
        taken(&mut stage, 4);
        assert!(taken(&mut stage, 3).is_empty());
        assert!(taken(&mut stage, 4).is_empty());
        assert_eq!(stage.core.log.snapshot().index, LogIndex(4));
        assert_eq!(stage.core.log.snapshot_before(), LogIndex(0));
    }

    // It was taken of a wrong state: nothing may be forgotten for its sake.
    #[test]
    fn snapshot_of_a_diverged_node_does_not_count() {
        let mut stage = with_entries();
        stage.core.become_follower(stage.core.term, None);
        stage.core.digests.diverged = Some(Divergence {
            index: LogIndex(3),
            own: 1,
            agreed: 2,
        });
        assert!(taken(&mut stage, 4).is_empty());
        assert_eq!(stage.core.log.snapshot().index, LogIndex(0));
    }
}
