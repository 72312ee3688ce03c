//! Which learners have earned a vote, and which servers are dead. The leader
//! runs this at intervals; what it returns is proposed like any other
//! membership change, so a wrong guess here can cost availability at most,
//! never safety.
//!
//! Who lives is told by the answers to the leader's own messages. A sealed node
//! takes no part, and gives none.

use std::collections::BTreeMap;

use crate::raft::{PeerStatus, Role, Status};
use crate::types::{Incarnation, LogIndex, MembershipChange, Millis, NodeId, RepairAsk};

pub use super::settings::{AutopilotConfig, AutopilotUpdate, ConfigError};

/// How a member has been doing, as the leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// In contact and caught up at the last look.
    pub healthy: bool,
    /// Since when `healthy` has not changed.
    pub stable_since: Millis,
    /// When it last gave a sign of life; at first, when this leader began to
    /// watch it.
    pub alive_at: Millis,
    /// The life of the data directory this was observed of.
    incarnation: Incarnation,
}

/// A member that has lost entries and asks its peers for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repairing {
    /// When it last asked.
    pub at: Millis,
    /// What it asked for then.
    pub ask: RepairAsk,
}

/// What must be remembered between two looks: since when each member has been
/// as it is. Empty on any node but a ready leader, so a new leader begins to
/// count anew.
#[derive(Clone, Debug, Default)]
pub struct Stability {
    members: BTreeMap<NodeId, Health>,
    repairing: BTreeMap<NodeId, Repairing>,
}

impl Stability {
    /// The verdicts of the last look.
    #[must_use]
    pub fn members(&self) -> &BTreeMap<NodeId, Health> {
        &self.members
    }

    /// Those that asked for lost entries within the last
    /// [`REPAIR_SHOWN_FOR`].
    #[must_use]
    pub fn repairing(&self) -> &BTreeMap<NodeId, Repairing> {
        &self.repairing
    }

    /// A member asked for entries that it lost.
    pub fn note_repair(&mut self, now: Millis, of: NodeId, ask: RepairAsk) {
        self.repairing.insert(of, Repairing { at: now, ask });
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
        self.repairing
            .retain(|_, repair| now.0.saturating_sub(repair.at.0) < REPAIR_SHOWN_FOR.0);
        if status.role != Role::Leader || !status.ready {
            self.members.clear();
            return;
        }
        let known = &status.membership.members;
        self.members.retain(|id, _| known.contains_key(id));
        for (id, member) in known {
            let is_leader = Some(*id) == leader;
            let healthy = is_leader || is_healthy(now, config, status, *id);
            let before = self.members.get(id);
            let before = before.filter(|before| before.incarnation == member.incarnation);
            let sign_of_life = if is_leader {
                Some(now)
            } else {
                self.sign_of_life(now, config, status, *id)
            };
            let watched_since = before.map_or(now, |before| before.alive_at);
            let health = Health {
                healthy,
                stable_since: before
                    .filter(|before| before.healthy == healthy)
                    .map_or(now, |before| before.stable_since),
                alive_at: sign_of_life.map_or(watched_since, |sign| sign.max(watched_since)),
                incarnation: member.incarnation,
            };
            self.members.insert(*id, health);
        }
    }

    /// Whether a member was silent for so long that it counts as dead.
    #[must_use]
    pub fn is_dead(&self, now: Millis, config: &AutopilotConfig, id: NodeId) -> bool {
        let threshold = config.dead_server_last_contact_threshold.as_milliseconds();
        self.members
            .get(&id)
            .is_some_and(|health| threshold <= now.0.saturating_sub(health.alive_at.0))
    }

    /// The newest thing that shows that a member lives. One that is sent a
    /// snapshot may be silent for twice as long: reading it in can keep a slow
    /// machine from everything else.
    fn sign_of_life(
        &self,
        now: Millis,
        config: &AutopilotConfig,
        status: &Status,
        id: NodeId,
    ) -> Option<Millis> {
        let peer = status.peers.get(&id);
        let grace = match peer {
            Some(peer) if peer.snapshot_in_flight => {
                config.dead_server_last_contact_threshold.as_milliseconds()
            }
            _ => 0,
        };
        let answered = peer.and_then(|peer| peer.last_contact);
        let answered = answered.map(|at| Millis(at.0.saturating_add(grace).min(now.0)));
        let asked = self.repairing.get(&id).map(|repair| repair.at);
        answered.max(asked)
    }
}

/// Looks at the members and names the learner to promote: one not marked
/// `non_voter` that has been in contact and caught up for
/// `server_stabilization_time` without a break, and answered just now: a vote
/// given to a server that is gone can cost the quorum. Of several the one with
/// the longest log: the core is the likeliest to find it caught up, and one
/// that it refuses holds up no other. `None` on any node but a ready leader,
/// and while a membership change is half done.
pub fn promotion(
    now: Millis,
    config: &AutopilotConfig,
    status: &Status,
    memory: &mut Stability,
) -> Option<MembershipChange> {
    memory.observe(now, config, status, status.leader);
    if memory.members.is_empty() || status.membership.is_joint() {
        return None;
    }
    let stabilization = config.server_stabilization_time.as_milliseconds();
    let matched = |id: &NodeId| {
        let peer = status.peers.get(id);
        peer.map_or(LogIndex(0), |peer| peer.match_index)
    };
    let earned = |id: &NodeId| {
        let member = status.membership.members.get(id);
        let health = memory.members.get(id);
        member.is_some_and(|member| !member.non_voter)
            && LogIndex(0) < matched(id)
            && status.peers.get(id).is_some_and(|peer| is_here(now, peer))
            && health.is_some_and(|health| {
                health.healthy && now.0.saturating_sub(health.stable_since.0) >= stabilization
            })
    };
    let learners = status.membership.learners.iter();
    let next = learners
        .filter(|id| earned(id))
        .max_by_key(|id| matched(id));
    next.map(|id| MembershipChange::Promote(*id))
}

/// The dead server to remove next, after the look that [`promotion`] takes:
/// non-voters first, then voters as long as `min_quorum` of them stay. One at a
/// time: each removal must be committed before the next is thought of. `None`
/// unless cleanup is configured.
#[must_use]
pub fn removal(
    now: Millis,
    config: &AutopilotConfig,
    status: &Status,
    memory: &Stability,
) -> Option<MembershipChange> {
    let membership = &status.membership;
    if !config.cleanup_dead_servers || memory.members.is_empty() || membership.is_joint() {
        return None;
    }
    let dead = |id: &&NodeId| Some(**id) != status.leader && memory.is_dead(now, config, **id);
    let is_voter_to_spare = config.min_quorum < membership.voters.len() as u64;
    let voters = membership.voters.iter().filter(|_| is_voter_to_spare);
    let next = membership.learners.iter().chain(voters).find(dead)?;
    Some(MembershipChange::Remove(*next))
}

/// Whether a peer answered just now: a few heartbeats of the slowest
/// configuration ago at most.
#[must_use]
pub fn is_here(now: Millis, peer: &PeerStatus) -> bool {
    let silence = |contact: Millis| now.0.saturating_sub(contact.0);
    peer.last_contact
        .is_some_and(|contact| silence(contact) < HERE_WITHIN.0)
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

/// Heartbeats leave every 100 ms to 1 s, as configured.
pub const HERE_WITHIN: Millis = Millis(2500);
/// A node that repairs its log asks five times a second.
pub const REPAIR_SHOWN_FOR: Millis = Millis(5000);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::membership::GoDuration;
    use crate::types::{Member, Membership, Term};

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
            let change = promotion(Millis(now), &config, &at(now), &mut memory);
            assert!(change.is_none() || change == Some(MembershipChange::Promote(LEARNER)));
            change.is_some()
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

    // The core refuses a learner that it knows nothing of, however short the
    // log is.
    #[test]
    fn learner_that_has_confirmed_nothing_is_not_promoted() {
        let at = |now| Status {
            last_index: LogIndex(20),
            ..leading(now, 0)
        };
        assert_eq!(promoted_at(60, at), None);
    }

    // The core may refuse one of two: together neither would be promoted.
    #[test]
    fn learners_are_promoted_one_by_one_the_longest_log_first() {
        let mut status = leading(10_000, 4500);
        let longest = PeerStatus {
            match_index: LogIndex(4501),
            ..status.peers[&LEARNER]
        };
        status.peers.insert(NodeId(3), longest);
        edit(&mut status, |m| {
            m.learners.insert(NodeId(3));
            m.members.insert(NodeId(3), Member::default());
        });
        let config = AutopilotConfig::default();
        let mut memory = Stability::default();
        promotion(Millis(0), &config, &status, &mut memory);
        let first = promotion(Millis(10_000), &config, &status, &mut memory);
        assert_eq!(first, Some(MembershipChange::Promote(NodeId(3))));
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
            promotion(Millis(now), &config, &at(now), &mut memory).is_some()
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
        promotion(Millis(0), &config, &leading(0, 5000), &mut memory);
        assert_eq!(memory.members().len(), 2);
        let mut follower = leading(1, 5000);
        follower.role = Role::Follower;
        assert!(promotion(Millis(1), &config, &follower, &mut memory).is_none());
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

    // Healthy by a threshold of minutes, gone all the same.
    #[test]
    fn learner_not_heard_of_just_now_is_not_promoted() {
        let config = AutopilotConfig {
            last_contact_threshold: GoDuration::from_seconds(60),
            ..AutopilotConfig::default()
        };
        let mut memory = Stability::default();
        let promoted_at_silence = |memory: &Stability, silence: u64| {
            let status = leading(30_000 - silence, 5000);
            let mut memory = memory.clone();
            promotion(Millis(30_000), &config, &status, &mut memory)
                .iter()
                .count()
        };
        assert_eq!(promoted_at_silence(&memory, 0), 0, "first seen");
        promotion(Millis(0), &config, &leading(0, 5000), &mut memory);
        assert_eq!(promoted_at_silence(&memory, 2_499), 1);
        assert_eq!(promoted_at_silence(&memory, 2_500), 0);
        assert_eq!(promoted_at_silence(&memory, 10_000), 0);
    }

    fn cleaning() -> AutopilotConfig {
        AutopilotConfig {
            cleanup_dead_servers: true,
            dead_server_last_contact_threshold: GoDuration::from_seconds(60),
            min_quorum: 3,
            ..AutopilotConfig::default()
        }
    }

    /// A leader and voters 2..=count, all heard of at `contact`.
    fn voters(count: u64, contact: u64) -> Status {
        let mut status = leading(contact, 5000);
        let peer = status.peers[&LEARNER];
        for id in 2..=count {
            status.peers.insert(NodeId(id), peer);
            edit(&mut status, |m| {
                m.learners.clear();
                m.voters.insert(NodeId(id));
                m.members.entry(NodeId(id)).or_default();
            });
        }
        status
    }

    fn silent(status: &mut Status, id: u64, since: u64) {
        let peer = status.peers.entry(NodeId(id)).or_default();
        peer.last_contact = Some(Millis(since));
    }

    /// Whom a leader that has watched since 0 removes at this time.
    fn removed(config: &AutopilotConfig, status: &Status, now: u64) -> Option<u64> {
        let mut memory = Stability::default();
        memory.observe(Millis(0), config, status, Some(LEADER));
        memory.observe(Millis(now), config, status, Some(LEADER));
        match removal(Millis(now), config, status, &memory) {
            None => None,
            Some(MembershipChange::Remove(id)) => Some(id.0),
            Some(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn dead_voter_is_removed_once_it_was_silent_for_the_threshold() {
        let mut status = voters(4, 70_000);
        silent(&mut status, 3, 10_000);
        assert_eq!(removed(&cleaning(), &status, 69_999), None);
        assert_eq!(removed(&cleaning(), &status, 70_000), Some(3));
        let off = AutopilotConfig::default();
        assert_eq!(removed(&off, &status, 70_000_000), None, "not configured");
    }

    #[test]
    fn cleanup_never_leaves_fewer_voters_than_the_floor() {
        let mut status = voters(3, 100_000);
        silent(&mut status, 3, 0);
        assert_eq!(removed(&cleaning(), &status, 100_000), None);
        // A non-voter is nobody's quorum.
        edit(&mut status, |m| {
            m.learners.insert(NodeId(9));
            m.members.entry(NodeId(9)).or_default();
        });
        assert_eq!(removed(&cleaning(), &status, 100_000), Some(9));
    }

    #[test]
    fn dead_servers_go_one_by_one_non_voters_first() {
        let mut status = voters(6, 100_000);
        silent(&mut status, 3, 0);
        silent(&mut status, 4, 0);
        edit(&mut status, |m| {
            m.voters.remove(&NodeId(4));
            m.learners.insert(NodeId(4));
        });
        assert_eq!(removed(&cleaning(), &status, 100_000), Some(4));
        edit(&mut status, |m| {
            m.learners.remove(&NodeId(4));
            m.members.remove(&NodeId(4));
        });
        assert_eq!(removed(&cleaning(), &status, 100_000), Some(3));
        edit(&mut status, |m| m.voters_outgoing = [LEADER].into());
        assert_eq!(removed(&cleaning(), &status, 100_000), None, "joint");
    }

    // A new leader has heard of nobody: it must not take that for silence.
    #[test]
    fn server_never_heard_of_is_dead_only_after_the_threshold_of_watching() {
        let mut status = voters(4, 100_000);
        status.peers.remove(&NodeId(2));
        let config = cleaning();
        let mut memory = Stability::default();
        memory.observe(Millis(50_000), &config, &status, Some(LEADER));
        assert!(!memory.is_dead(Millis(109_999), &config, NodeId(2)));
        assert!(memory.is_dead(Millis(110_000), &config, NodeId(2)));
        assert!(
            !memory.is_dead(Millis(110_000), &config, NodeId(9)),
            "unknown"
        );
    }

    #[test]
    fn server_that_is_sent_a_snapshot_may_be_silent_twice_as_long() {
        let mut status = voters(4, 100_000);
        silent(&mut status, 2, 0);
        status
            .peers
            .entry(NodeId(2))
            .or_default()
            .snapshot_in_flight = true;
        assert_eq!(removed(&cleaning(), &status, 119_999), None);
        assert_eq!(removed(&cleaning(), &status, 120_000), Some(2));
    }

    #[test]
    fn server_that_asks_for_lost_entries_lives() {
        let mut status = voters(4, 100_000);
        silent(&mut status, 2, 0);
        let config = cleaning();
        let ask = RepairAsk {
            first: LogIndex(5),
            last: LogIndex(9),
            anchor: (LogIndex(10), Term(1)),
            first_term: None,
        };
        let mut memory = Stability::default();
        memory.note_repair(Millis(59_000), NodeId(2), ask);
        memory.observe(Millis(60_000), &config, &status, Some(LEADER));
        assert_eq!(memory.repairing()[&NodeId(2)].ask, ask);
        assert!(!memory.is_dead(Millis(60_000), &config, NodeId(2)));
        memory.observe(Millis(64_000), &config, &status, Some(LEADER));
        assert!(memory.repairing().is_empty(), "asks no more");
        assert!(memory.is_dead(Millis(120_000), &config, NodeId(2)));
    }

    #[test]
    fn new_life_of_a_dead_servers_directory_is_watched_anew() {
        let mut status = voters(4, 100_000);
        silent(&mut status, 2, 0);
        let config = cleaning();
        let mut memory = Stability::default();
        memory.observe(Millis(0), &config, &status, Some(LEADER));
        edit(&mut status, |m| {
            m.members.entry(NodeId(2)).or_default().incarnation = Incarnation(9);
        });
        status.peers.remove(&NodeId(2));
        memory.observe(Millis(100_000), &config, &status, Some(LEADER));
        assert!(!memory.is_dead(Millis(100_000), &config, NodeId(2)));
    }
}
