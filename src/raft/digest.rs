//! Replicas that applied the same entries must hold the same state. Each tells
//! the digest of its own at fixed positions; the leader compares them, lets the
//! majority decide who is wrong, and tells everybody what it agreed on.
//!
//! A digest is a fact about a position: it stays true across leaders, restarts
//! and duplicated messages. Only a snapshot that replaces the state voids what
//! this node said of it before. Positions that two replicas do not both
//! remember are not compared; under load that may be all of them, at rest it
//! is none.

use std::collections::{BTreeSet, VecDeque};

use crate::raft::message::CHECKPOINTS_MAX;
use crate::raft::{Divergence, Effect, Mismatch, Raft, State, quorum};
use crate::types::{Checkpoint, LogIndex, NodeId};

/// What this node knows of states.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub(super) struct Digests {
    /// Its own, ascending.
    own: VecDeque<Checkpoint>,
    /// What was said of positions before belongs to a state that was replaced.
    floor: LogIndex,
    /// The newest on which a majority of the voters agrees.
    pub(super) agreed: Option<Checkpoint>,
    pub(super) diverged: Option<Divergence>,
}

impl Digests {
    fn own_at(&self, index: LogIndex) -> Option<u128> {
        let found = self.own.iter().find(|own| own.index == index);
        found.map(|own| own.digest)
    }

    /// What a message carries.
    pub(super) fn newest(&self) -> Vec<Checkpoint> {
        let surplus = self.own.len().saturating_sub(CHECKPOINTS_MAX);
        self.own.iter().skip(surplus).copied().collect()
    }

    /// A snapshot up to `index` replaces the state.
    pub(super) fn replaced(&mut self, index: LogIndex) {
        self.own.clear();
        self.floor = index;
    }

    fn remember(&mut self, checkpoint: Checkpoint) -> bool {
        let newest = self.own.back().map(|own| own.index);
        if checkpoint.index < self.floor || Some(checkpoint.index) <= newest {
            return false;
        }
        self.own.push_back(checkpoint);
        if OWN_MAX < self.own.len() {
            self.own.pop_front();
        }
        true
    }

    fn note_agreed(&mut self, agreed: Checkpoint) {
        if self.agreed.is_none_or(|known| known.index < agreed.index) {
            self.agreed = Some(agreed);
        }
    }
}

impl Raft {
    /// The store reached a position that every replica reports.
    pub(super) fn on_checkpoint(&mut self, checkpoint: Checkpoint) {
        assert!(
            checkpoint.index <= self.log.handed(),
            "a digest at {:?}, handed out {:?}",
            checkpoint.index,
            self.log.handed()
        );
        if self.digests.remember(checkpoint) {
            self.compare_states();
        }
    }

    /// A peer told of its own states; what is older than known is late.
    pub(super) fn on_peer_checkpoints(&mut self, from: NodeId, told: Vec<Checkpoint>) {
        let State::Leader(lead) = &mut self.state else {
            return;
        };
        let Some(peer) = lead.peers.get_mut(&from) else {
            return;
        };
        let newest = |list: &[Checkpoint]| list.last().map(|last| last.index);
        if newest(&peer.checkpoints) < newest(&told) {
            peer.checkpoints = told;
            self.compare_states();
        }
    }

    /// The leader says what a majority agreed on.
    pub(super) fn on_agreed(&mut self, agreed: Option<Checkpoint>) {
        if let Some(agreed) = agreed {
            self.digests.note_agreed(agreed);
            self.compare_with_agreed();
        }
    }

    fn compare_states(&mut self) {
        self.compare_peers();
        self.find_agreement();
        self.compare_with_agreed();
    }

    /// Names each peer that differs once, until it agrees again.
    fn compare_peers(&mut self) {
        let State::Leader(lead) = &mut self.state else {
            return;
        };
        for (id, peer) in &mut lead.peers {
            let newest = peer.checkpoints.iter().rev();
            let common = newest.map(|told| (*told, self.digests.own_at(told.index)));
            let Some((told, own)) = common.filter_map(|(told, own)| Some((told, own?))).next()
            else {
                continue;
            };
            if told.digest == own {
                peer.mismatch = None;
            } else if peer.mismatch.is_none() {
                let mismatch = Mismatch {
                    peer: *id,
                    index: told.index,
                    own,
                    theirs: told.digest,
                };
                peer.mismatch = Some(mismatch);
                self.outbox.effect(Effect::DigestMismatch(mismatch));
            }
        }
    }

    /// The newest position at which a majority of the voters (of each half of
    /// a joint membership) told the same digest.
    fn find_agreement(&mut self) {
        let State::Leader(lead) = &self.state else {
            return;
        };
        let told = lead.peers.values().flat_map(|peer| &peer.checkpoints);
        let known = self.digests.agreed.map(|agreed| agreed.index);
        let candidates: BTreeSet<Checkpoint> = told
            .chain(&self.digests.own)
            .filter(|candidate| known < Some(candidate.index))
            .copied()
            .collect();
        let says = |id: NodeId, candidate: &Checkpoint| {
            if id == self.config.id {
                self.digests.own.contains(candidate)
            } else {
                let peer = lead.peers.get(&id);
                peer.is_some_and(|peer| peer.checkpoints.contains(candidate))
            }
        };
        let membership = &self.memberships.active().membership;
        let agreed = candidates
            .iter()
            .rfind(|candidate| quorum::agrees(membership, |id| says(id, candidate)));
        if let Some(agreed) = agreed {
            self.digests.note_agreed(*agreed);
        }
    }

    fn compare_with_agreed(&mut self) {
        let Some(agreed) = self.digests.agreed else {
            return;
        };
        match self.digests.own_at(agreed.index) {
            Some(own) if own != agreed.digest => self.diverge(Divergence {
                index: agreed.index,
                own,
                agreed: agreed.digest,
            }),
            _ => {}
        }
    }

    /// Never goes on as if nothing had happened: what is in the store is wrong,
    /// only what is in the log may be right.
    fn diverge(&mut self, divergence: Divergence) {
        if self.digests.diverged.is_some() {
            return;
        }
        self.digests.diverged = Some(divergence);
        self.outbox.effect(Effect::Diverged(divergence));
        self.become_follower(self.term, None);
        self.refuse_all_reads();
    }
}

/// Own states remembered: at one in 256 entries, the last 16,384 entries.
const OWN_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn state(index: u64, digest: u128) -> Checkpoint {
        Checkpoint {
            index: LogIndex(index),
            digest,
        }
    }

    #[test]
    fn newest_states_are_remembered_in_order() {
        let mut digests = Digests::default();
        for index in 1..=OWN_MAX as u64 {
            assert!(digests.remember(state(index, 1)));
        }
        assert_eq!(digests.own_at(LogIndex(1)), Some(1));
        assert!(!digests.remember(state(64, 2)), "known");
        assert!(!digests.remember(state(63, 2)), "late");
        assert!(digests.remember(state(65, 1)));
        assert_eq!(digests.own.len(), OWN_MAX);
        assert_eq!(digests.own_at(LogIndex(1)), None);
    }

    // The store may still report what it reached before a snapshot took its
    // place; of the snapshot's own position only the new state can be told.
    #[test]
    fn states_before_the_snapshot_that_replaced_them_are_not_believed() {
        let mut digests = Digests::default();
        digests.remember(state(4, 1));
        digests.replaced(LogIndex(8));
        assert_eq!(digests.own_at(LogIndex(4)), None);
        assert!(!digests.remember(state(6, 1)));
        assert!(digests.remember(state(8, 2)));
        assert!(digests.remember(state(10, 2)));
    }

    #[test]
    fn first_agreement_on_a_position_stays() {
        let mut digests = Digests::default();
        for told in [state(4, 1), state(4, 2), state(2, 2)] {
            digests.note_agreed(told);
            assert_eq!(digests.agreed, Some(state(4, 1)));
        }
        digests.note_agreed(state(6, 2));
        assert_eq!(digests.agreed, Some(state(6, 2)));
    }
}
