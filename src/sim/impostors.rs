//! Directories that are not what they seem: a copy that starts beside its
//! original, and an older state of a directory in its place. Each must be
//! refused by its peers, end for good, and harm nothing.
//!
//! Both come when all is calm. What the identity of a directory promises is
//! that a peer sees through an impostor when they meet; in foul weather an
//! impostor may meet first whoever cannot know, which no protocol without a
//! memory outside of the directory can prevent. For the same reason the leader
//! is not rolled back: it acknowledges its own writes to nobody.

use crate::types::NodeId;

use super::coverage::Mark;
use super::dice::Dice;
use super::processes::Ending;
use super::server::{ELECTION_MAX, Presence};
use super::world::{Failure, Step, World};

impl World {
    /// A copy of a member's directory starts on the host of a server that is
    /// no member. Of a cluster's only member: there is nobody to see through it.
    pub fn start_a_copy(&mut self, dice: &mut Dice) -> Step {
        self.heal()?;
        self.await_convergence()?;
        let has_peers = self
            .status_of_leader()
            .is_some_and(|status| 1 < status.membership.members.len());
        // A decayed copy may not even open, or have forgotten whom it knew.
        let will_do = |seat: usize| has_peers && !self.servers[seat].is_rotten;
        let Some(original) = self.some_member(dice, will_do) else {
            return Ok(());
        };
        let Some(host) = self.stranger() else {
            return Ok(());
        };
        self.acquaint()?;
        self.crash(host, Ending::KeptDisk)?;
        let copied = &self.servers[original];
        let (name, id, incarnation) = (copied.name.clone(), copied.id, copied.incarnation);
        let (disk, book) = (
            copied.disk.crash_seeded(dice.roll()),
            copied.book.learned.clone(),
        );
        let server = &mut self.servers[host];
        let own = (server.name.clone(), server.id);
        server.book = super::server::Book::new(&name, id, incarnation);
        server.book.learned = book;
        (server.name, server.id, server.incarnation) = (name, id, incarnation);
        server.disk = disk;
        server.is_rotten = false;
        server.is_impostor = true;
        self.story.tell(self.now, || {
            format!(
                "a copy of {} starts on the host of {}",
                self.servers[host].name, own.0
            )
        });
        self.hit(Mark::Copied);
        self.start(host)?;
        let ended = self.await_refusal(host);
        let server = &mut self.servers[host];
        (server.name, server.id) = own;
        ended?;
        self.hit(Mark::CopyRefused);
        if self.servers[original].node.is_none() {
            return Err(self.complain("a copy was refused and its original ended"));
        }
        self.await_service("a cluster does not serve after a copy was refused")
    }

    /// A member that follows acknowledges more, and then gets an older state of
    /// its directory.
    pub fn roll_back(&mut self, dice: &mut Dice) -> Step {
        self.heal()?;
        self.await_convergence()?;
        let leader = self.leader();
        let is_fit = |seat: usize| self.may_lose(seat) && !self.servers[seat].is_rotten;
        let follows = |seat: usize| Some(seat) != leader && is_fit(seat);
        let Some(seat) = self.some_member(dice, follows) else {
            return Ok(());
        };
        self.acquaint()?;
        let older = self.servers[seat].disk.crash_seeded(dice.roll());
        self.await_service("a calm cluster takes no write")?;
        // The member has it, too.
        self.await_convergence()?;
        self.crash(seat, Ending::KeptDisk)?;
        let server = &mut self.servers[seat];
        server.disk = older;
        server.is_impostor = true;
        let name = server.name.clone();
        self.story.tell(self.now, || {
            format!("the directory of {name} is an older state of itself")
        });
        self.hit(Mark::RolledBack);
        self.start(seat)?;
        self.await_refusal(seat)?;
        self.hit(Mark::RollbackRefused);
        self.await_service("a cluster does not serve after a member was rolled back")
    }

    /// Some member that will do, up and in the life that joined.
    fn some_member(&self, dice: &mut Dice, will_do: impl Fn(usize) -> bool) -> Option<usize> {
        let status = self.status_of_leader()?;
        let members = status.membership.members.keys();
        let seats = members.filter_map(|id| self.seats.get(id).copied());
        let seats: Vec<usize> = seats.filter(|seat| will_do(*seat)).collect();
        (!seats.is_empty()).then(|| dice.pick(&seats))
    }

    /// A server that runs and is no member.
    fn stranger(&self) -> Option<usize> {
        let status = self.status_of_leader()?;
        let members = &status.membership.members;
        self.servers
            .iter()
            .position(|server| server.node.is_some() && !members.contains_key(&server.id))
    }

    /// The impostor calls those it knows, as every process does when it starts,
    /// and ends within a bounded time.
    fn await_refusal(&mut self, seat: usize) -> Step {
        let end = self
            .now
            .plus_milliseconds(REFUSAL_ELECTIONS * ELECTION_MAX.0);
        let known: Vec<NodeId> = self.servers[seat].book.members.keys().copied().collect();
        for id in known {
            self.call(seat, id)?;
        }
        while self.now < end {
            let next = self.now.plus_milliseconds(100);
            self.run_until(next)?;
            if self.servers[seat].node.is_none() {
                return Ok(());
            }
        }
        Err(self.complain("nobody refuses an impostor"))
    }

    /// Everybody has greeted everybody, as transports do that keep a connection
    /// to each member.
    fn acquaint(&mut self) -> Step {
        for seat in 0..self.servers.len() {
            let members = self.servers[seat].book.members.keys();
            for id in members.copied().collect::<Vec<_>>() {
                self.call(seat, id)?;
            }
        }
        Ok(())
    }

    /// A process greets another without a message to deliver.
    fn call(&mut self, seat: usize, id: NodeId) -> Step {
        let Some(to) = self.seats.get(&id).copied().filter(|to| *to != seat) else {
            return Ok(());
        };
        let run = self.servers[seat].run;
        if self.servers[to].node.is_none() || self.servers[to].id == self.servers[seat].id {
            return Ok(());
        }
        match self.meet(seat, run, to) {
            Ok(()) => Ok(()),
            Err(doubt) => self.turn_away(doubt),
        }
    }

    /// A peer refused a process its identity: it ends with exit code 4.
    pub fn identity_refused(&mut self, seat: usize, reason: &str) -> Step {
        let name = self.servers[seat].name.clone();
        self.story
            .tell(self.now, || format!("{name} ends for good: {reason}"));
        if !self.servers[seat].is_impostor {
            return Err(Failure {
                kind: "HonestRefused".into(),
                details: format!("{name} is what it says, and ends: {reason}"),
            });
        }
        self.crash(seat, Ending::KeptDisk)?;
        self.servers[seat].presence = Presence::Lost;
        Ok(())
    }
}

/// An impostor is refused within so many election timeouts.
const REFUSAL_ELECTIONS: u64 = 5;
