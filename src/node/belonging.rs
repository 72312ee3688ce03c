//! Whether this directory belongs to the cluster still.
//!
//! The core knows members by number, and a joiner that replays the log reads of
//! its name's former lives: of their removal, too. So a removal counts only
//! when a committed membership has named this very incarnation before.

use std::sync::Arc;

use crate::peer::{MembershipProof, OwnDurableEnd};
use crate::raft::{Recovered, Status};
use crate::types::{EntryPayload, Incarnation, LogIndex, Membership, NodeId};

use super::survivors::Forced;

/// The directory that a node runs on.
#[derive(Clone)]
pub(super) struct OwnDirectory {
    /// Its life.
    pub incarnation: Incarnation,
    /// How far its durable state reaches.
    pub durable: Arc<OwnDurableEnd>,
    /// Writes down that it was removed. Blocks; a node that is out keeps nobody
    /// waiting.
    pub remember_removal: Arc<dyn Fn(LogIndex) -> Result<(), String> + Send + Sync>,
}

/// What this directory knows of its own membership.
pub(super) struct Belonging {
    id: NodeId,
    directory: OwnDirectory,
    /// Position of the newest committed membership that named this directory.
    member_at: Option<LogIndex>,
    /// Position of the newest committed membership that a peer showed, and that
    /// excludes this directory.
    shown_out: Option<LogIndex>,
    /// A membership that an operator forced and that the log does not say yet.
    forced: Option<Forced>,
    /// Once true, always true: a directory never becomes a member again.
    removed: bool,
}

impl Belonging {
    /// From what the disk held.
    pub fn recover(id: NodeId, directory: OwnDirectory, recovered: &Recovered) -> Self {
        let mut belonging = Self {
            id,
            directory,
            member_at: None,
            shown_out: None,
            forced: None,
            removed: false,
        };
        if let Some(meta) = &recovered.snapshot {
            belonging.note(meta.membership_index, &meta.membership);
        }
        for entry in &recovered.entries {
            if recovered.hard_state.commit_index < entry.index {
                break;
            }
            if let EntryPayload::Membership(membership) = &entry.payload {
                belonging.note(entry.index, membership);
            }
        }
        belonging
    }

    /// Forgets what an operator forced as soon as the log says it.
    pub fn await_forced(&mut self, forced: Option<Forced>) {
        self.forced = forced;
    }

    /// Notes a committed membership.
    fn note(&mut self, index: LogIndex, membership: &Membership) {
        if self.is_named_by(membership) {
            self.member_at = self.member_at.max(Some(index));
        }
    }

    /// Follows the core; writes a removal down when it learns of it.
    ///
    /// # Errors
    /// The disk failed.
    pub fn follow(&mut self, status: &Status) -> Result<(), String> {
        let is_said = |forced: &mut Forced| forced.since < status.committed_membership_index;
        if let Some(forced) = self.forced.take_if(is_said) {
            (forced.forget)()?;
        }
        self.note(
            status.committed_membership_index,
            &status.committed_membership,
        );
        let read_out = (status.removed && !self.is_named_by(&status.committed_membership))
            .then_some(status.committed_membership_index);
        let shown_out = self.shown_out;
        let is_out = self.member_at.is_some() && self.member_at < read_out.max(shown_out);
        if self.removed || !is_out {
            return Ok(());
        }
        self.removed = true;
        let index = read_out.max(shown_out).unwrap_or_default();
        tracing::warn!(
            index = index.0,
            "this node was removed from the cluster by a committed membership: empty its \
             data directory and let it join again, or stop it for good"
        );
        (self.directory.remember_removal)(index)
    }

    /// Whether this directory is out, for good.
    pub fn is_removed(&self) -> bool {
        self.removed
    }

    /// Notes a committed membership that a peer showed, and gives it back as it
    /// concerns this directory: another incarnation under this number is another
    /// node. `None` when it proves nothing.
    pub fn concern(&mut self, mut proof: MembershipProof) -> Option<MembershipProof> {
        if self.member_at? >= proof.index || self.is_named_by(&proof.membership) {
            return None;
        }
        self.shown_out = self.shown_out.max(Some(proof.index));
        let membership = Arc::make_mut(&mut proof.membership);
        membership.members.remove(&self.id);
        membership.voters.remove(&self.id);
        membership.voters_outgoing.remove(&self.id);
        membership.learners.remove(&self.id);
        membership.learners_next.remove(&self.id);
        Some(proof)
    }

    fn is_named_by(&self, membership: &Membership) -> bool {
        let own = membership.members.get(&self.id);
        own.is_some_and(|member| member.incarnation == self.directory.incarnation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Entry, HardState, Member, Term};

    fn membership(members: &[(u64, u64)]) -> Membership {
        let member = |incarnation: &u64| Member {
            incarnation: Incarnation(*incarnation),
            ..Member::default()
        };
        Membership {
            voters: members.iter().map(|(id, _)| NodeId(*id)).collect(),
            members: members
                .iter()
                .map(|(id, incarnation)| (NodeId(*id), member(incarnation)))
                .collect(),
            ..Membership::default()
        }
    }

    fn recovered(commit: u64, entries: &[(u64, &[(u64, u64)])]) -> Recovered {
        let entry = |(index, members): &(u64, &[(u64, u64)])| Entry {
            index: LogIndex(*index),
            term: Term(1),
            payload: EntryPayload::Membership(Arc::new(membership(members))),
        };
        Recovered {
            hard_state: HardState {
                commit_index: LogIndex(commit),
                ..HardState::default()
            },
            entries: entries.iter().map(entry).collect(),
            ..Recovered::default()
        }
    }

    fn belonging(recovered: &Recovered) -> Belonging {
        let directory = OwnDirectory {
            incarnation: Incarnation(20),
            durable: Arc::default(),
            remember_removal: Arc::new(|_| Ok(())),
        };
        Belonging::recover(NodeId(2), directory, recovered)
    }

    fn status(index: u64, members: &[(u64, u64)]) -> Status {
        Status {
            committed_membership_index: LogIndex(index),
            committed_membership: Arc::new(membership(members)),
            removed: !members.iter().any(|(id, _)| *id == 2),
            ..Status::default()
        }
    }

    fn is_removed(belonging: &mut Belonging, status: &Status) -> bool {
        belonging.follow(status).unwrap();
        belonging.is_removed()
    }

    fn proof(index: u64, members: &[(u64, u64)]) -> MembershipProof {
        MembershipProof {
            index: LogIndex(index),
            membership: Arc::new(membership(members)),
        }
    }

    #[test]
    fn removal_of_a_former_life_is_not_ones_own() {
        let mut joiner = belonging(&recovered(0, &[]));
        assert!(!is_removed(&mut joiner, &status(3, &[(1, 10), (2, 19)])));
        assert!(!is_removed(&mut joiner, &status(5, &[(1, 10)])));
        assert_eq!(joiner.concern(proof(5, &[(1, 10)])), None);
        assert!(!is_removed(&mut joiner, &status(7, &[(1, 10), (2, 20)])));
        // A peer that lags behind the join proves nothing.
        assert_eq!(joiner.concern(proof(5, &[(1, 10)])), None);
        assert!(!is_removed(&mut joiner, &status(7, &[(1, 10), (2, 20)])));
        assert!(joiner.concern(proof(9, &[(1, 10)])).is_some());
        assert!(is_removed(&mut joiner, &status(9, &[(1, 10)])));
    }

    #[test]
    fn only_committed_memberships_make_a_member() {
        let log: &[(u64, &[(u64, u64)])] = &[(3, &[(1, 10)]), (7, &[(1, 10), (2, 20)])];
        let mut early = belonging(&recovered(5, log));
        assert!(!is_removed(&mut early, &status(3, &[(1, 10)])));
        let mut member = belonging(&recovered(7, log));
        assert!(is_removed(&mut member, &status(9, &[(1, 10)])));
    }

    #[test]
    fn replaced_directory_is_out_for_the_core() {
        let log: &[(u64, &[(u64, u64)])] = &[(3, &[(1, 10), (2, 20)])];
        let mut former = belonging(&recovered(3, log));
        let seen = former.concern(proof(8, &[(1, 10), (2, 21)])).unwrap();
        assert_eq!(*seen.membership, membership(&[(1, 10)]));
        assert_eq!(former.concern(proof(8, &[(1, 10), (2, 20)])), None);
    }
}
