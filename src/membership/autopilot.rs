//! Which learners have earned a vote. The leader runs this at intervals; what
//! it returns is proposed like any other membership change, so a wrong guess
//! here can cost availability at most, never safety.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::membership::GoDuration;
use crate::raft::{Role, Status};
use crate::types::{Incarnation, MembershipChange, Millis, NodeId};

/// What an operator may tune, under the names of the HTTP API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AutopilotConfig {
    /// Remove servers that have been gone for
    /// `dead_server_last_contact_threshold`.
    pub cleanup_dead_servers: bool,
    /// How long a server must be silent to count as dead.
    pub dead_server_last_contact_threshold: GoDuration,
    /// How long a healthy server may be silent.
    pub last_contact_threshold: GoDuration,
    /// How many entries a healthy server may lag behind the leader.
    pub max_trailing_logs: u64,
    /// Cleanup never leaves fewer voters than this; 0 means unset.
    pub min_quorum: u64,
    /// How long a learner must be healthy before it is promoted.
    pub server_stabilization_time: GoDuration,
}

impl Default for AutopilotConfig {
    fn default() -> Self {
        Self {
            cleanup_dead_servers: false,
            dead_server_last_contact_threshold: GoDuration::from_seconds(24 * 3600),
            last_contact_threshold: GoDuration::from_seconds(10),
            max_trailing_logs: 1000,
            min_quorum: 0,
            server_stabilization_time: GoDuration::from_seconds(10),
        }
    }
}

/// A configuration that contradicts itself, in OpenBao's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Cleanup without a floor could remove a majority.
    #[error(
        "min_quorum must be set when cleanup_dead_servers is set and it should at least be 3; cleanup_dead_servers: true, min_quorum: {0:#x}"
    )]
    QuorumFloorMissing(u64),
    /// A minute is the least that tells a restart from a death.
    #[error(
        "dead_server_last_contact_threshold should not be set to less than 1m; received: {seconds}"
    )]
    DeadThresholdTooShort {
        /// What was asked for, in seconds.
        seconds: i64,
    },
}

impl AutopilotConfig {
    /// Checks what a person configured.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.cleanup_dead_servers && self.min_quorum < 3 {
            return Err(ConfigError::QuorumFloorMissing(self.min_quorum));
        }
        if self.dead_server_last_contact_threshold < GoDuration::from_seconds(60) {
            return Err(ConfigError::DeadThresholdTooShort {
                seconds: self.dead_server_last_contact_threshold.nanoseconds / 1_000_000_000,
            });
        }
        Ok(())
    }
}

/// How a member has been doing, as the leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// In contact and caught up at the last look.
    pub healthy: bool,
    /// Since when `healthy` has not changed.
    pub stable_since: Millis,
    /// The life of the data directory this was observed of.
    incarnation: Incarnation,
}

/// What must be remembered between two looks: since when each member has been
/// as it is. Empty on any node but a ready leader, so a new leader begins to
/// count anew.
#[derive(Clone, Debug, Default)]
pub struct Stability {
    members: BTreeMap<NodeId, Health>,
}

impl Stability {
    /// The verdicts of the last look.
    #[must_use]
    pub fn members(&self) -> &BTreeMap<NodeId, Health> {
        &self.members
    }

    /// How many voters may fail before the quorum is lost: healthy voters
    /// beyond a majority of all voters.
    #[must_use]
    pub fn failure_tolerance(&self, status: &Status) -> usize {
        let voters = &status.membership.voters;
        let healthy = voters
            .iter()
            .filter(|id| self.members.get(id).is_some_and(|health| health.healthy))
            .count();
        healthy.saturating_sub(voters.len() / 2 + 1)
    }

    /// Takes a look: judges every member and notes when its health changed.
    /// `leader` is this node, healthy by definition.
    pub fn observe(
        &mut self,
        now: Millis,
        config: &AutopilotConfig,
        status: &Status,
        leader: Option<NodeId>,
    ) {
        if status.role != Role::Leader || !status.ready {
            self.members.clear();
            return;
        }
        let known = &status.membership.members;
        self.members.retain(|id, _| known.contains_key(id));
        for (id, member) in known {
            let healthy = Some(*id) == leader || is_healthy(now, config, status, *id);
            let unchanged = self.members.get(id).is_some_and(|before| {
                before.healthy == healthy && before.incarnation == member.incarnation
            });
            if !unchanged {
                let fresh = Health {
                    healthy,
                    stable_since: now,
                    incarnation: member.incarnation,
                };
                self.members.insert(*id, fresh);
            }
        }
    }
}

/// Looks at the members and names the learners to promote: those not marked
/// `non_voter` that have been in contact and caught up for
/// `server_stabilization_time` without a break. Empty on any node but a ready
/// leader, and while a membership change is half done.
pub fn promotions(
    now: Millis,
    config: &AutopilotConfig,
    status: &Status,
    memory: &mut Stability,
) -> Vec<MembershipChange> {
    memory.observe(now, config, status, status.leader);
    if memory.members.is_empty() || status.membership.is_joint() {
        return Vec::new();
    }
    let stabilization = config.server_stabilization_time.as_milliseconds();
    let earned = |id: &NodeId| {
        let member = status.membership.members.get(id);
        let health = memory.members.get(id);
        member.is_some_and(|member| !member.non_voter)
            && health.is_some_and(|health| {
                health.healthy && now.0.saturating_sub(health.stable_since.0) >= stabilization
            })
    };
    status
        .membership
        .learners
        .iter()
        .filter(|id| earned(id))
        .map(|id| MembershipChange::Promote(*id))
        .collect()
}

fn is_healthy(now: Millis, config: &AutopilotConfig, status: &Status, id: NodeId) -> bool {
    let Some(peer) = status.peers.get(&id) else {
        return false;
    };
    let Some(last_contact) = peer.last_contact else {
        return false;
    };
    let silence = now.0.saturating_sub(last_contact.0);
    let lag = status.last_index.0.saturating_sub(peer.match_index.0);
    silence < config.last_contact_threshold.as_milliseconds()
        && lag <= config.max_trailing_logs
        && !peer.snapshot_in_flight
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::raft::PeerStatus;
    use crate::types::{LogIndex, Member, Membership, Term};

    const LEADER: NodeId = NodeId(1);
    const LEARNER: NodeId = NodeId(2);

    fn leading(now: u64, match_index: u64) -> Status {
        let member = |incarnation| Member {
            incarnation: Incarnation(incarnation),
            ..Member::default()
        };
        let membership = Membership {
            voters: [LEADER].into(),
            learners: [LEARNER].into(),
            members: [(LEADER, member(1)), (LEARNER, member(2))].into(),
            ..Membership::default()
        };
        let peer = PeerStatus {
            match_index: LogIndex(match_index),
            last_contact: Some(Millis(now)),
            ..PeerStatus::default()
        };
        Status {
            role: Role::Leader,
            leader: Some(LEADER),
            ready: true,
            term: Term(3),
            last_index: LogIndex(5000),
            membership: Arc::new(membership),
            peers: [(LEARNER, peer)].into(),
            ..Status::default()
        }
    }

    fn edit(status: &mut Status, change: impl FnOnce(&mut Membership)) {
        change(Arc::make_mut(&mut status.membership));
    }

    /// Runs looks one second apart and says at which the learner was promoted.
    fn promoted_at(seconds: u64, mut at: impl FnMut(u64) -> Status) -> Option<u64> {
        let config = AutopilotConfig::default();
        let mut memory = Stability::default();
        (0..=seconds).find(|second| {
            let now = second * 1000;
            let changes = promotions(Millis(now), &config, &at(now), &mut memory);
            assert!(changes.is_empty() || changes == [MembershipChange::Promote(LEARNER)]);
            !changes.is_empty()
        })
    }

    #[test]
    fn learner_caught_up_for_ten_seconds_is_promoted() {
        assert_eq!(promoted_at(60, |now| leading(now, 4000)), Some(10));
    }

    #[test]
    fn learner_that_lags_is_not_promoted() {
        assert_eq!(promoted_at(60, |now| leading(now, 3999)), None);
    }

    #[test]
    fn break_in_contact_starts_the_wait_again() {
        let silent = |now: u64| (5_000..20_000).contains(&now);
        let at = |now| leading(if silent(now) { 4_000 } else { now }, 5000);
        // Last heard at 4 s; unhealthy from 14 s; healthy again from 20 s.
        let config = AutopilotConfig {
            server_stabilization_time: GoDuration::from_seconds(15),
            ..AutopilotConfig::default()
        };
        let mut memory = Stability::default();
        let promoted = (0..60).find(|second| {
            let now = second * 1000;
            !promotions(Millis(now), &config, &at(now), &mut memory).is_empty()
        });
        assert_eq!(promoted, Some(35));
    }

    #[test]
    fn learner_never_heard_of_is_not_promoted() {
        let at = |now| {
            let mut status = leading(now, 5000);
            status.peers.clear();
            status
        };
        assert_eq!(promoted_at(60, at), None);
    }

    #[test]
    fn learner_receiving_a_snapshot_is_not_promoted() {
        let at = |now| {
            let mut status = leading(now, 5000);
            status.peers.entry(LEARNER).or_default().snapshot_in_flight = true;
            status
        };
        assert_eq!(promoted_at(60, at), None);
    }

    #[test]
    fn permanent_non_voter_is_not_promoted() {
        let at = |now| {
            let mut status = leading(now, 5000);
            edit(&mut status, |m| {
                m.members.entry(LEARNER).or_default().non_voter = true;
            });
            status
        };
        assert_eq!(promoted_at(60, at), None);
    }

    #[test]
    fn nothing_is_promoted_while_joint() {
        let at = |now| {
            let mut status = leading(now, 5000);
            edit(&mut status, |m| m.voters_outgoing = [LEADER].into());
            status
        };
        assert_eq!(promoted_at(60, at), None);
    }

    #[test]
    fn new_life_of_the_directory_starts_the_wait_again() {
        let at = |now| {
            let mut status = leading(now, 5000);
            if now >= 5_000 {
                edit(&mut status, |m| {
                    m.members.entry(LEARNER).or_default().incarnation = Incarnation(9);
                });
            }
            status
        };
        assert_eq!(promoted_at(60, at), Some(15));
    }

    #[test]
    fn losing_leadership_forgets_everything() {
        let config = AutopilotConfig::default();
        let mut memory = Stability::default();
        promotions(Millis(0), &config, &leading(0, 5000), &mut memory);
        assert_eq!(memory.members().len(), 2);
        let mut follower = leading(1, 5000);
        follower.role = Role::Follower;
        assert!(promotions(Millis(1), &config, &follower, &mut memory).is_empty());
        assert!(memory.members().is_empty());
    }

    #[test]
    fn failure_tolerance_counts_healthy_voters_beyond_a_majority() {
        let mut status = leading(0, 5000);
        edit(&mut status, |m| {
            m.learners.clear();
            m.voters = [LEADER, LEARNER, NodeId(3)].into();
            m.members.insert(NodeId(3), Member::default());
        });
        status.peers.insert(NodeId(3), status.peers[&LEARNER]);
        let mut memory = Stability::default();
        let config = AutopilotConfig::default();
        memory.observe(Millis(0), &config, &status, Some(LEADER));
        assert_eq!(memory.failure_tolerance(&status), 1);
        status.peers.remove(&NodeId(3));
        memory.observe(Millis(0), &config, &status, Some(LEADER));
        assert_eq!(memory.failure_tolerance(&status), 0);
    }

    #[test]
    fn defaults_serialise_as_the_api_shows_them() {
        let json = serde_json::to_value(AutopilotConfig::default()).expect("serialises");
        let expected = serde_json::json!({
            "cleanup_dead_servers": false,
            "dead_server_last_contact_threshold": "24h0m0s",
            "last_contact_threshold": "10s",
            "max_trailing_logs": 1000,
            "min_quorum": 0,
            "server_stabilization_time": "10s",
        });
        assert_eq!(json, expected);
        let back: AutopilotConfig = serde_json::from_value(json).expect("parses");
        assert_eq!(back, AutopilotConfig::default());
    }

    #[test]
    fn contradictory_configuration_is_refused_in_openbaos_words() {
        let mut config = AutopilotConfig {
            cleanup_dead_servers: true,
            ..AutopilotConfig::default()
        };
        assert_eq!(
            config.validate().expect_err("no floor").to_string(),
            "min_quorum must be set when cleanup_dead_servers is set and it should at least be 3; cleanup_dead_servers: true, min_quorum: 0x0"
        );
        config.min_quorum = 3;
        assert_eq!(config.validate(), Ok(()));
        config.dead_server_last_contact_threshold = GoDuration::from_seconds(30);
        assert_eq!(
            config.validate().expect_err("too short").to_string(),
            "dead_server_last_contact_threshold should not be set to less than 1m; received: 30"
        );
    }
}
