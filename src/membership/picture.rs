//! How the members are doing, in one picture: what `autopilot/state` shows.

use crate::raft::Status;
use crate::types::{LogIndex, Millis, NodeId, RepairAsk, Term};

use super::autopilot::{AutopilotConfig, Stability};

/// All members, as their leader sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterHealth {
    /// Every member is healthy.
    pub healthy: bool,
    /// Voters that may fail before the quorum is lost.
    pub failure_tolerance: usize,
    /// Who leads, by `node_id`.
    pub leader: String,
    /// By `node_id`.
    pub servers: Vec<ServerHealth>,
}

/// One member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerHealth {
    /// The configured `node_id`.
    pub node_id: String,
    /// Cluster address, `host:port`.
    pub address: String,
    /// Silent for so long that cleanup removes it.
    pub is_dead: bool,
    /// For how long it has been silent.
    pub last_contact: Millis,
    /// Term of the last entry known to be there; 0: never heard of.
    pub last_term: Term,
    /// The last entry known to be there.
    pub last_index: LogIndex,
    /// In contact and caught up.
    pub healthy: bool,
    /// For how long `healthy` has been as it is.
    pub stable_for: Millis,
    /// It leads.
    pub is_leader: bool,
    /// It votes.
    pub is_voter: bool,
    /// It is not to vote.
    pub is_permanent_non_voter: bool,
    /// A snapshot is on its way to it.
    pub receives_snapshot: bool,
    /// What it lost and asks its peers for.
    pub repair: Option<RepairAsk>,
}

/// The picture at `now`, drawn by the leader; `memory` is of its last look.
#[must_use]
pub fn picture(
    now: Millis,
    config: &AutopilotConfig,
    leader: NodeId,
    status: &Status,
    memory: &Stability,
) -> ClusterHealth {
    // A leader that has not looked yet sees everybody for the first time.
    let mut memory = memory.clone();
    memory.observe(now, config, status, Some(leader));
    let membership = &status.membership;
    let server = |id: &NodeId| {
        let member = membership.members.get(id).cloned().unwrap_or_default();
        let peer = status.peers.get(id).copied().unwrap_or_default();
        let health = memory.members().get(id);
        let since = |at: Millis| Millis(now.0.saturating_sub(at.0));
        let is_leader = *id == leader;
        let is_heard_of = is_leader || peer.last_contact.is_some();
        ServerHealth {
            node_id: member.name,
            address: member.address,
            is_dead: config.cleanup_dead_servers && memory.is_dead(now, config, *id),
            last_contact: match peer.last_contact {
                _ if is_leader => Millis(0),
                Some(contact) => since(contact),
                None => health.map_or(Millis(0), |health| since(health.alive_at)),
            },
            last_term: if is_heard_of {
                status.last_term
            } else {
                Term(0)
            },
            last_index: if is_leader {
                status.last_index
            } else {
                peer.match_index
            },
            healthy: health.is_some_and(|health| health.healthy),
            stable_for: health.map_or(Millis(0), |health| since(health.stable_since)),
            is_leader,
            is_voter: membership.is_voter(*id),
            is_permanent_non_voter: member.non_voter,
            receives_snapshot: peer.snapshot_in_flight,
            repair: memory.repairing().get(id).map(|repair| repair.ask),
        }
    };
    let mut servers: Vec<ServerHealth> = membership.members.keys().map(server).collect();
    servers.sort_by(|left, right| left.node_id.cmp(&right.node_id));
    let leads = servers.iter().find(|server| server.is_leader);
    ClusterHealth {
        healthy: servers.iter().all(|server| server.healthy),
        failure_tolerance: memory.failure_tolerance(status),
        leader: leads.map_or_else(String::new, |server| server.node_id.clone()),
        servers,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::raft::{PeerStatus, Role};
    use crate::types::{Member, Membership};

    fn status(now: u64) -> Status {
        let member = |name: &str| Member {
            name: name.into(),
            address: format!("{name}:8201"),
            ..Member::default()
        };
        let membership = Membership {
            voters: [NodeId(1), NodeId(2)].into(),
            learners: [NodeId(3)].into(),
            members: [
                (NodeId(1), member("b")),
                (NodeId(2), member("a")),
                (NodeId(3), member("c")),
            ]
            .into(),
            ..Membership::default()
        };
        let peer = PeerStatus {
            match_index: LogIndex(40),
            last_contact: Some(Millis(now - 700)),
            ..PeerStatus::default()
        };
        Status {
            role: Role::Leader,
            leader: Some(NodeId(1)),
            ready: true,
            last_index: LogIndex(42),
            last_term: Term(3),
            membership: Arc::new(membership),
            peers: [(NodeId(2), peer)].into(),
            ..Status::default()
        }
    }

    #[test]
    fn members_are_shown_by_name_with_silence_and_lag() {
        let config = AutopilotConfig::default();
        let mut memory = Stability::default();
        memory.observe(Millis(10_000), &config, &status(10_000), Some(NodeId(1)));
        let shown = picture(Millis(13_000), &config, NodeId(1), &status(13_000), &memory);
        let names: Vec<_> = shown.servers.iter().map(|s| s.node_id.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!((shown.leader.as_str(), shown.failure_tolerance), ("b", 0));
        let [follower, leader, stranger] = &shown.servers[..] else {
            panic!("{shown:?}")
        };
        assert!(leader.is_leader && leader.healthy && leader.is_voter);
        assert_eq!(leader.last_contact, Millis(0));
        assert_eq!(
            (leader.last_index, leader.last_term),
            (LogIndex(42), Term(3))
        );
        assert_eq!(follower.last_contact, Millis(700));
        assert_eq!(follower.last_index, LogIndex(40));
        assert_eq!(follower.stable_for, Millis(3000));
        assert!(follower.healthy);
        // Never heard of: silent for as long as it has been watched.
        assert!(!stranger.healthy && !stranger.is_voter && !shown.healthy);
        assert_eq!(stranger.last_contact, Millis(3000));
        assert_eq!(
            (stranger.last_index, stranger.last_term),
            (LogIndex(0), Term(0))
        );
    }

    #[test]
    fn dead_is_what_cleanup_would_remove() {
        let config = AutopilotConfig {
            cleanup_dead_servers: true,
            min_quorum: 3,
            ..AutopilotConfig::default()
        };
        let day = Millis(24 * 3_600_000);
        let mut memory = Stability::default();
        memory.observe(Millis(0), &config, &status(1000), Some(NodeId(1)));
        let shown = picture(day, &config, NodeId(1), &status(day.0), &memory);
        let dead: Vec<_> = shown.servers.iter().map(|s| s.is_dead).collect();
        assert_eq!(dead, [false, false, true]);
        let off = AutopilotConfig::default();
        let shown = picture(day, &off, NodeId(1), &status(day.0), &memory);
        assert!(shown.servers.iter().all(|server| !server.is_dead));
    }
}
