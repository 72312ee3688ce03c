//! After the faults: what must happen within a bounded time once enough of the
//! cluster is healed.

use std::collections::BTreeSet;

use crate::raft::{Role, Status};
use crate::types::{Membership, NodeId};

use super::coverage::Mark;
use super::dice::Dice;
use super::plan::Finale;
use super::processes::Ending;
use super::server::{ELECTION_MAX, Presence};
use super::world::{Event, Failure, Step, World};

impl World {
    /// Ends the rough part and demands what must hold in calm weather.
    pub fn calm_down(&mut self) -> Step {
        self.is_calm = true;
        let mut dice = Dice::new(self.plan.seed, 5);
        match self.plan.finale {
            // Drawn here, so that plans stay what they were.
            Finale::HealAll if dice.percent(40) => self.damage_a_majority(&mut dice)?,
            Finale::HealAll => {}
            Finale::HealCore => self.heal_core(&mut dice)?,
            Finale::Bridge => self.serve_across_a_bridge(&mut dice)?,
            Finale::StalledLeader => self.stall_the_leader()?,
            Finale::Copy => self.start_a_copy(&mut dice)?,
            Finale::Rollback => self.roll_back(&mut dice)?,
        }
        self.heal()?;
        self.await_convergence()?;
        self.serve_everywhere()?;
        self.stay_quiet()
    }

    /// Everything works again, and everybody starts.
    pub fn heal(&mut self) -> Step {
        self.story.tell(self.now, || "all is healed".into());
        self.network.heal();
        for seat in 0..self.servers.len() {
            let now = self.now;
            let server = &mut self.servers[seat];
            server.disk.forgive();
            server.ambush = None;
            if let Some(node) = &server.node {
                node.live_on();
            }
            if server.presence == Presence::Held {
                server.presence = Presence::Down;
            }
            server.clock.set_rate(now, super::clock::TRUE_RATE);
            self.end_stall(seat);
            self.wake_up(seat);
            self.start(seat)?;
            self.request_turn(seat);
        }
        Ok(())
    }

    /// L1: a majority works, the rest stays broken.
    fn heal_core(&mut self, dice: &mut Dice) -> Step {
        self.heal()?;
        let core = self.choose_core(dice);
        let outside = (0..self.servers.len()).filter(|seat| !core.contains(seat));
        for seat in outside.collect::<Vec<_>>() {
            self.crash(seat, Ending::AnyDisk)?;
            if self.servers[seat].presence == Presence::Down {
                self.servers[seat].presence = Presence::Held;
            }
        }
        self.story.tell(self.now, || {
            let names = core.iter().map(|seat| self.servers[*seat].name.as_str());
            format!("only {:?} are healed", names.collect::<Vec<_>>())
        });
        self.await_service("L1: a quorum is healed and does not serve")?;
        self.hit(Mark::CoreServed);
        Ok(())
    }

    /// As few servers as make a majority of every membership known.
    fn choose_core(&self, dice: &mut Dice) -> BTreeSet<usize> {
        let mut core: BTreeSet<usize> = (0..self.servers.len())
            .filter(|seat| self.servers[*seat].presence != Presence::Lost)
            .collect();
        for _ in 0..3 * self.servers.len() {
            let seat = dice.index(self.servers.len());
            let removed = core.remove(&seat);
            if removed && !self.is_quorum(&core) {
                core.insert(seat);
            }
        }
        core
    }

    fn is_quorum(&self, core: &BTreeSet<usize>) -> bool {
        let outside = (0..self.servers.len()).filter(|seat| !core.contains(seat));
        let mut missing = self.lost();
        missing.extend(outside.map(|seat| self.servers[seat].id));
        self.survive_all(&missing)
    }

    /// L3: the leader's disk takes forever, and writes must move.
    fn stall_the_leader(&mut self) -> Step {
        self.heal()?;
        self.await_convergence()?;
        let Some(leader) = self.leader() else {
            return Ok(());
        };
        let voters = self.servers[leader].membership.voters.len();
        if voters < 3 {
            // Without this disk there is no majority.
            return Ok(());
        }
        self.servers[leader].stalled_until = self.now.plus_milliseconds(STALL_MILLISECONDS);
        self.story.tell(self.now, || {
            format!("the disk of {} stalls for long", self.servers[leader].name)
        });
        self.await_service("L3: writes do not move from a leader whose disk stalls")?;
        self.hit(Mark::StallMoved);
        Ok(())
    }

    /// L2: two halves of the network meet at one server only.
    fn serve_across_a_bridge(&mut self, dice: &mut Dice) -> Step {
        self.heal()?;
        self.await_convergence()?;
        let bridge = dice.index(self.servers.len());
        let voters = self
            .status_of_leader()
            .map(|status| status.membership.voters.clone());
        let is_voter = voters.is_some_and(|voters| voters.contains(&self.servers[bridge].id));
        if !is_voter {
            // Without a voter that reaches both sides neither need have a
            // majority.
            return Ok(());
        }
        let links = self.bridge_links(bridge);
        self.cut_for(links, BRIDGE_MILLISECONDS);
        self.story.tell(self.now, || {
            format!("{} alone reaches all", self.servers[bridge].name)
        });
        self.await_service("L2: no leader serves across a bridge")?;
        self.hit(Mark::BridgeServed);
        Ok(())
    }

    /// Waits until somebody acknowledges a fresh write.
    pub fn await_service(&mut self, complaint: &str) -> Step {
        let end = self
            .now
            .plus_milliseconds(SERVICE_ELECTIONS * ELECTION_MAX.0);
        let mut tried = Vec::new();
        while self.now < end {
            let next = self.now.plus_milliseconds(200);
            self.run_until(next)?;
            if tried.iter().any(|operation| self.was_done(*operation)) {
                return Ok(());
            }
            if let Some(leader) = self.leader() {
                tried.extend(self.fresh_write(leader, 0));
            }
        }
        Err(self.complain(complaint))
    }

    pub fn await_convergence(&mut self) -> Step {
        let end = self
            .now
            .plus_milliseconds(CONVERGENCE_ELECTIONS * ELECTION_MAX.0);
        let mut since = None;
        while self.now < end {
            let next = self.now.plus_milliseconds(200);
            self.run_until(next)?;
            let standing = self.status_of_leader().map(|status| status.term);
            if self.unfinished().is_some() || standing != since.map(|(_, term)| term) {
                since = standing.map(|term| (self.now, term));
                continue;
            }
            // What was under way when all was healed has had its time.
            if since.is_some_and(|(at, _)| at.plus_milliseconds(ELECTION_MAX.0) <= self.now) {
                self.hit(Mark::Converged);
                return Ok(());
            }
        }
        let mut failure = self.complain("L0: all is healed and the cluster does not converge");
        let reason = self.unfinished();
        let reason = reason.unwrap_or_else(|| "leadership does not last".to_owned());
        failure.details.push_str(&format!("\n    {reason}"));
        Err(failure)
    }

    pub fn status_of_leader(&self) -> Option<Status> {
        let leader = self.leader()?;
        self.servers[leader].node.as_ref().map(|node| node.status())
    }

    /// What still keeps the cluster from one leader, no change half done, all
    /// members equal and applied, every learner that may be promoted promoted.
    fn unfinished(&self) -> Option<String> {
        let Some(status) = self.status_of_leader() else {
            return Some("nobody leads".to_owned());
        };
        let Membership {
            members, learners, ..
        } = &*status.membership;
        let laggard = || {
            let mut ids = members.keys();
            ids.find_map(|id| self.lacks(*id, &status))
        };
        let learner = || {
            let waits = |id: &&NodeId| !members[*id].non_voter;
            let id = learners.iter().find(waits)?;
            Some(format!("{} is not promoted", self.name(*id)))
        };
        if !status.ready || status.commit_index != status.last_index {
            return Some("the leader has not committed its log".to_owned());
        }
        if status.membership.is_joint() {
            return Some("a membership change is half done".to_owned());
        }
        laggard().or_else(learner)
    }

    /// What tells a member from the leader whose `status` this is.
    fn lacks(&self, id: NodeId, status: &Status) -> Option<String> {
        let server = &self.servers[*self.seats.get(&id)?];
        let what = match &server.node {
            None => "is down".to_owned(),
            _ if server.incarnation != status.membership.members[&id].incarnation => {
                "is a member in a former life".to_owned()
            }
            Some(node) => {
                let (own, applied) = (node.status(), node.view().applied_index());
                let is_leader = own.leader == Some(id);
                if applied != status.last_index {
                    format!("has executed {applied:?} of {:?}", status.last_index)
                } else if own.leader != status.leader || (own.role == Role::Leader) != is_leader {
                    "follows another leader".to_owned()
                } else {
                    return None;
                }
            }
        };
        Some(format!("{} {what}", server.name))
    }

    /// A fresh write is acknowledged, and every key read on every member.
    fn serve_everywhere(&mut self) -> Step {
        let Some(status) = self.status_of_leader() else {
            return Err(self.complain("L0: the leader is lost in calm weather"));
        };
        self.await_service("L0: a calm cluster takes no write")?;
        let mut asked = Vec::new();
        for id in status.membership.members.keys() {
            let seat = self.seats[id];
            for key in 0..self.plan.options.load.keys {
                asked.push(self.sure_read(seat, key));
            }
        }
        self.run_until(self.now.plus_milliseconds(SERVICE_MILLISECONDS))?;
        let done = |operation: &Option<usize>| operation.is_some_and(|known| self.was_done(known));
        if asked.iter().all(done) {
            return Ok(());
        }
        Err(self.complain("L0: a calm cluster does not serve reads"))
    }

    /// L4 to L6: nothing happens, and little is done.
    fn stay_quiet(&mut self) -> Step {
        let term = self.status_of_leader().map(|status| status.term);
        let streamed = self.coverage.count(Mark::SnapshotStreamed);
        let steps = self.steps;
        self.run_until(self.now.plus_milliseconds(QUIET_SECONDS * 1000))?;
        let after = self.status_of_leader().map(|status| status.term);
        if term != after {
            return Err(self.complain("L6: terms grow in calm weather"));
        }
        if self.coverage.count(Mark::SnapshotStreamed) > streamed {
            return Err(self.complain("L6: snapshots are sent to members that lack nothing"));
        }
        let members = self.servers.len() as u64;
        if self.steps - steps > QUIET_SECONDS * members * members * 200 {
            return Err(self.complain("L5: a quiet cluster is busy"));
        }
        self.hit(Mark::Quiet);
        Ok(())
    }

    pub fn complain(&self, complaint: &str) -> Failure {
        let mut details = complaint.to_owned();
        for server in &self.servers {
            let state = match &server.node {
                Some(node) => format!(
                    "{}, {}",
                    super::tale::status(&node.status()),
                    self.members_of(&server.membership)
                ),
                None => format!("{:?}", server.presence),
            };
            details.push_str(&format!("\n    {} {state}", server.name));
        }
        Failure {
            kind: complaint.to_owned(),
            details,
        }
    }

    fn members_of(&self, known: &Membership) -> String {
        let names = |ids: &BTreeSet<NodeId>| {
            let names = ids.iter().map(|id| self.name(*id));
            names.collect::<Vec<_>>().join(" ")
        };
        let (voters, outgoing) = (names(&known.voters), names(&known.voters_outgoing));
        format!(
            "voters {voters} & {outgoing}, learners {}",
            names(&known.learners)
        )
    }

    /// The operator's rounds begin.
    pub fn begin_care(&mut self) {
        self.agenda
            .add(self.now.plus_milliseconds(1000), Event::Care);
    }
}

/// A quorum must serve within so many election timeouts.
pub(super) const SERVICE_ELECTIONS: u64 = 20;
/// And all must be equal, lost members replaced and promoted, within so many.
const CONVERGENCE_ELECTIONS: u64 = 60;
/// A calm cluster answers within this time.
const SERVICE_MILLISECONDS: u64 = 1500;
const BRIDGE_MILLISECONDS: u64 = 30_000;
const STALL_MILLISECONDS: u64 = 60_000;
const QUIET_SECONDS: u64 = 10;
