//! What others may know of the core: its status, and who leads.

use std::sync::Arc;

use crate::membership::autopilot::Stability;
use crate::physical::{Leadership, PeerInfo, ServerInfo};
use crate::raft::{Role, Status};
use crate::sync::ArcSwap;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::types::{LogIndex, Membership, Millis, NodeId, Term};

use super::driver::Driver;
use super::peers::Peers;

/// The part of a status whose change is published at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    role: Role,
    term: Term,
    leader: Option<NodeId>,
    ready: bool,
    removed: bool,
    membership_index: LogIndex,
    committed_membership_index: LogIndex,
}

impl Standing {
    pub fn of(driver: &Driver) -> Self {
        let status = driver.status();
        Self {
            role: status.role,
            term: status.term,
            leader: status.leader,
            ready: status.ready,
            removed: status.removed,
            membership_index: status.membership_index,
            committed_membership_index: status.committed_membership_index,
        }
    }
}

/// The newest published status.
pub(super) struct StatusBoard {
    newest: ArcSwap<Status>,
    at: AtomicU64,
    /// What the policy remembers of the members; empty unless this node leads.
    members: ArcSwap<Stability>,
}

impl StatusBoard {
    pub fn new() -> Self {
        Self {
            newest: ArcSwap::from_pointee(Status::default()),
            at: AtomicU64::new(0),
            members: ArcSwap::from_pointee(Stability::default()),
        }
    }

    pub fn publish(&self, status: Arc<Status>, now: Millis) {
        self.newest.store(status);
        self.at.store(now.0, Ordering::Release);
    }

    /// The core no longer runs: what it knew of others is void.
    pub fn stopped(&self) {
        let mut status = Status::clone(&self.newest.load());
        status.role = Role::Follower;
        status.leader = None;
        status.ready = false;
        status.peers.clear();
        self.newest.store(Arc::new(status));
        self.members.store(Arc::default());
    }

    /// After a look at the members.
    pub fn publish_members(&self, memory: &Stability) {
        self.members.store(Arc::new(memory.clone()));
    }

    /// What the last look came to.
    pub fn members(&self) -> Arc<Stability> {
        self.members.load_full()
    }

    /// The newest status and when it was published.
    pub fn newest(&self) -> (Arc<Status>, Millis) {
        let at = Millis(self.at.load(Ordering::Acquire));
        (self.newest.load_full(), at)
    }
}

/// Who leads, with names and addresses.
pub(super) fn leadership_of(status: &Status, removed: bool, peers: &dyn Peers) -> Leadership {
    let leader = status.leader.and_then(|id| {
        let member = status.membership.members.get(&id)?;
        Some(PeerInfo {
            node_id: member.name.clone(),
            cluster_address: member.address.clone(),
            api_address: peers.api_address(id).unwrap_or_default(),
        })
    });
    Leadership {
        is_leader: status.role == Role::Leader && status.ready,
        term: status.term.0,
        leader,
        removed,
    }
}

/// A membership as the API shows it, by name.
pub(super) fn servers_of(membership: &Membership, leader: Option<NodeId>) -> Vec<ServerInfo> {
    let mut servers: Vec<ServerInfo> = membership
        .members
        .iter()
        .map(|(id, member)| ServerInfo {
            node_id: member.name.clone(),
            address: member.address.clone(),
            leader: leader == Some(*id),
            voter: membership.is_voter(*id),
            non_voter: member.non_voter,
        })
        .collect();
    servers.sort_by(|left, right| left.node_id.cmp(&right.node_id));
    servers
}
