//! What a search came across. Bounds in which nothing interesting happens
//! prove nothing, so each preset names what it must have seen.

use crate::raft::Role;
use crate::types::{Entry, EntryPayload};

use super::local::{Event, Local};

/// Something that should happen somewhere in a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Witness {
    /// A node leads.
    Leader,
    /// A node leads in term 3 or later, after another did before.
    LaterLeader,
    /// A command is committed.
    CommandCommitted,
    /// An entry of an earlier term is committed under a later leader.
    OlderTermCommitted,
    /// A log's tail is replaced by another leader's.
    TailReplaced,
    /// A crash takes writes with it.
    WritesLost,
    /// A joint membership is committed.
    JointCommitted,
    /// A membership that follows a joint one is committed.
    JointLeft,
    /// A former learner's vote is committed.
    LearnerPromoted,
    /// A node learns that it was removed.
    NodeRemoved,
    /// Leadership is being handed over.
    TransferStarted,
    /// A read is confirmed on the leader.
    LeaderRead,
    /// A read is confirmed on a follower.
    FollowerRead,
    /// A read is confirmed on a learner.
    LearnerRead,
    /// A snapshot replaces a log.
    SnapshotInstalled,
}

impl Witness {
    const ALL: [Self; 15] = [
        Self::Leader,
        Self::LaterLeader,
        Self::CommandCommitted,
        Self::OlderTermCommitted,
        Self::TailReplaced,
        Self::WritesLost,
        Self::JointCommitted,
        Self::JointLeft,
        Self::LearnerPromoted,
        Self::NodeRemoved,
        Self::TransferStarted,
        Self::LeaderRead,
        Self::FollowerRead,
        Self::LearnerRead,
        Self::SnapshotInstalled,
    ];
}

/// How many steps of a search showed each.
#[derive(Clone, Debug, Default)]
pub struct Witnesses {
    counts: [u64; Witness::ALL.len()],
}

impl Witnesses {
    /// How many steps showed it.
    #[must_use]
    pub fn count(&self, witness: Witness) -> u64 {
        self.counts[witness as usize]
    }

    /// Everything that was seen, with its count.
    pub fn seen(&self) -> impl Iterator<Item = (Witness, u64)> + '_ {
        let all = Witness::ALL.into_iter().zip(self.counts);
        all.filter(|(_, count)| 0 < *count)
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
    }

    fn note(&mut self, witness: Witness) {
        self.counts[witness as usize] += 1;
    }

    pub(super) fn event(&mut self, event: &Event) {
        match event {
            Event::Leads(term) => {
                self.note(Witness::Leader);
                if 2 < term.0 {
                    self.note(Witness::LaterLeader);
                }
            }
            Event::Truncated => self.note(Witness::TailReplaced),
            Event::LostWrites => self.note(Witness::WritesLost),
            Event::Restored(_) => self.note(Witness::SnapshotInstalled),
            Event::Transferred => self.note(Witness::TransferStarted),
            Event::Removed => self.note(Witness::NodeRemoved),
            _ => {}
        }
    }

    /// An entry is committed for the first time, by this node.
    pub(super) fn commit(&mut self, entry: &Entry, by: &Local) {
        if entry.term < by.written.hard_state.term {
            self.note(Witness::OlderTermCommitted);
        }
        match &entry.payload {
            EntryPayload::Noop => {}
            EntryPayload::Command(_) => self.note(Witness::CommandCommitted),
            EntryPayload::Membership(now) => {
                let earlier = by.written.entries.iter().rev();
                let before = earlier
                    .filter(|other| other.index < entry.index)
                    .find_map(|other| match &other.payload {
                        EntryPayload::Membership(membership) => Some(membership),
                        _ => None,
                    });
                if now.is_joint() {
                    self.note(Witness::JointCommitted);
                } else if before.is_some_and(|before| before.is_joint()) {
                    self.note(Witness::JointLeft);
                }
                let was_learner = |id| {
                    let founding = &by.written.entries.first();
                    matches!(
                        founding.map(|first| &first.payload),
                        Some(EntryPayload::Membership(first)) if first.learners.contains(id)
                    )
                };
                if now.voters.iter().any(was_learner) {
                    self.note(Witness::LearnerPromoted);
                }
            }
        }
    }

    /// A read is confirmed on this node.
    pub(super) fn read(&mut self, on: &Local) {
        let status = on.raft.status();
        self.note(if status.role == Role::Leader {
            Witness::LeaderRead
        } else if status.membership.is_voter(on.id) {
            Witness::FollowerRead
        } else {
            Witness::LearnerRead
        });
    }
}
