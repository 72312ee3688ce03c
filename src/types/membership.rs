//! Who takes part, and with which say.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bincode::{Decode, Encode};

use super::{Incarnation, NodeId};

/// A cluster membership, as one log entry carries it.
///
/// `voters_outgoing` is empty except in a joint membership, where a decision
/// needs a majority of `voters` *and* a majority of `voters_outgoing`.
///
/// Invariants: `voters` and `learners` are disjoint; `learners_next` is a
/// subset of `voters_outgoing`; every id in any set is a key of `members`, and
/// every key of `members` is in some set.
#[derive(Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub struct Membership {
    /// Voters of the (incoming) configuration.
    pub voters: BTreeSet<NodeId>,
    /// Voters of the configuration being left; empty when not joint.
    pub voters_outgoing: BTreeSet<NodeId>,
    /// Members that receive the log and do not vote.
    pub learners: BTreeSet<NodeId>,
    /// Outgoing voters that become learners when the joint membership is left.
    pub learners_next: BTreeSet<NodeId>,
    /// What is known of each member.
    pub members: BTreeMap<NodeId, Member>,
}

/// What the membership records of one member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub struct Member {
    /// The configured `node_id`.
    pub name: String,
    /// Cluster address, `host:port`.
    pub address: String,
    /// The life of the data directory that joined.
    pub incarnation: Incarnation,
    /// A permanent non-voter: never promoted by policy.
    pub non_voter: bool,
}

/// One wish about the membership; several are applied together, through a
/// joint membership when they change more than one voter.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum MembershipChange {
    /// Adds a learner. With the id of a present learner or voter and another
    /// incarnation: replaces it (it comes in as a learner). Same incarnation
    /// and address: nothing to do.
    AddLearner {
        /// The new member's id.
        id: NodeId,
        /// Its record.
        member: Member,
    },
    /// Makes a learner a voter.
    Promote(NodeId),
    /// Makes a voter a learner; `non_voter` is set so that policy keeps it so.
    Demote(NodeId),
    /// Takes a member out.
    Remove(NodeId),
    /// Records a member's new address.
    SetAddress {
        /// Whose.
        id: NodeId,
        /// New cluster address, `host:port`.
        address: String,
    },
}

impl Membership {
    /// Whether a change is half done: two majorities are needed.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    /// Whether `id` votes in either half.
    #[must_use]
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.voters_outgoing.contains(&id)
    }

    /// Approximate size in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.members
            .values()
            .map(|member| 64 + member.name.len() + member.address.len())
            .sum()
    }
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "voters{:?}", self.voters)?;
        if self.is_joint() {
            write!(f, "&&{:?}", self.voters_outgoing)?;
        }
        if !self.learners.is_empty() {
            write!(f, " learners{:?}", self.learners)?;
        }
        if !self.learners_next.is_empty() {
            write!(f, " next{:?}", self.learners_next)?;
        }
        Ok(())
    }
}
