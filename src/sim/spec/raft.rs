//! Raft, as the thesis tells it: what a server may do, and what it may say.
//!
//! One method for each thing that a server may do: an action, with a guard,
//! which is all there is to the protocol's safety, and an effect. *When* to act
//! (timeouts, what to send to whom, pre-votes, leases, retries) is left open.
//!
//! Written from Ongaro, *Consensus: Bridging Theory and Practice*, and from
//! nothing else; it shares no code with the core that it judges. One thing is
//! said more exactly than there: `memory` is what a server acts upon, `disk`
//! what it wakes up with, and a promise may leave only once the disk holds it
//! (3.8). A leader may speak of entries that its own disk lacks (10.2.1).
//!
//! A server is one life of a data directory: who was wiped is somebody else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::log::{At, Config, Entry, Saved, Value};
use super::said::{Asker, Said, Told, What};
use crate::sim::history::Life;
use crate::types::{LogIndex, NodeId, Term};

/// Whether an action is enabled; if not, what forbids it.
pub(super) type Guard<T = ()> = Result<T, &'static str>;

pub(super) fn guard(holds: bool, otherwise: &'static str) -> Guard {
    if holds { Ok(()) } else { Err(otherwise) }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Role {
    #[default]
    Follower,
    Candidate,
    Leader,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Server {
    pub(super) id: Life,
    pub(super) memory: Saved,
    pub(super) disk: Saved,
    /// Between them, in order, by number.
    pub(super) writes: VecDeque<(u64, Saved)>,
    pub(super) role: Role,
    pub(super) commit: LogIndex,
    pub(super) applied: LogIndex,
    votes: BTreeSet<Life>,
    /// In which term it last campaigned, and how its log ended then.
    campaign: (Term, At),
    /// In which term it last led, and its first entry then.
    led: (Term, LogIndex),
    /// As a leader: of each, up to where its log is known to be equal and
    /// durable, and the newest round that it heard.
    peers: BTreeMap<Life, (LogIndex, u64)>,
    /// As a follower: up to where its log equals the leader's.
    verified: LogIndex,
    /// The highest commit index that any leader told.
    told: LogIndex,
    /// Commands that clients asked for, by number.
    pub(super) requests: BTreeMap<u64, u64>,
    /// Reads under way, and what was when they were asked: the commit index,
    /// the newest round, the newest question to a leader.
    pub(super) reads: BTreeMap<Asker, (LogIndex, u64, u64)>,
    round: u64,
    question: u64,
}

impl Server {
    // ---- the disk (3.8) ----
    /// Starts from what the disk holds.
    pub(super) fn new(id: Life, disk: Saved) -> Self {
        let (term, index) = disk.log.last();
        // An entry of its very term can only be that of the leader.
        let own = term == disk.term;
        let verified = if own { index } else { LogIndex(0) };
        let memory = disk.clone();
        Self {
            id,
            memory,
            disk,
            verified,
            ..Self::default()
        }
    }

    /// Hands everything to the disk, as one write.
    pub(super) fn save(&mut self, number: u64) {
        self.writes.push_back((number, self.memory.clone()));
    }

    /// Every write up to `number` reached the disk.
    pub(super) fn saved(&mut self, number: u64) {
        while let Some((_, write)) = self.writes.front().filter(|(own, _)| *own <= number) {
            self.disk = write.clone();
            self.writes.pop_front();
        }
    }

    // ---- terms and elections (3.4, 3.6) ----
    /// Somebody is in a later term.
    pub(super) fn observe_term(&mut self, term: Term) -> Guard {
        guard(self.memory.term < term, "goes back to an earlier term")?;
        (self.memory.term, self.memory.vote) = (term, None);
        (self.role, self.verified) = (Role::Follower, LogIndex(0));
        Ok(())
    }

    /// Campaigns in the next term. It must have had a vote, in some
    /// configuration: the newest may be undone (4.2.2).
    pub(super) fn time_out(&mut self) -> Guard {
        let mut configs = self.memory.log.configs.iter().map(|(_, config)| config);
        let voter = configs.any(|one| one.voters.union(&one.outgoing).any(|id| *id == self.id));
        guard(voter, "campaigns without a vote")?;
        guard(self.role != Role::Leader, "campaigns while it leads")?;
        self.observe_term(self.memory.term.next())?;
        self.memory.vote = Some(self.id.node);
        self.role = Role::Candidate;
        self.votes.clear();
        self.campaign = (self.memory.term, self.memory.log.last());
        Ok(())
    }

    /// Votes, once a term, for a log at least as complete as its own.
    pub(super) fn vote(&mut self, candidate: NodeId, last: At) -> Guard {
        let free = self.memory.vote.is_none_or(|vote| vote == candidate);
        guard(free, "votes twice in a term")?;
        let complete = self.memory.log.last() <= last;
        guard(complete, "votes for a log less complete than its own")?;
        self.memory.vote = Some(candidate);
        Ok(())
    }

    /// Hears something that changes only what it knows of the other.
    pub(super) fn hear(&mut self, from: Life, said: &Said) {
        let peer = self.peers.entry(from).or_default();
        match said.what {
            _ if said.term != self.memory.term => {}
            What::Ack(index) => peer.0 = peer.0.max(index),
            What::Heard(round) => peer.1 = peer.1.max(round),
            What::Vote => self.votes.extend([from]),
            _ => {}
        }
    }

    /// Leads with the votes of a quorum, its own as soon as its disk holds it,
    /// and appends an entry of its own (6.4).
    pub(super) fn become_leader(&mut self) -> Guard {
        let own = (self.disk.term, self.disk.vote) == (self.memory.term, Some(self.id.node));
        let granted = |voter| self.votes.contains(&voter) || (voter == self.id && own);
        let elected = self.memory.log.config().1.quorum(granted);
        let leads = self.role == Role::Candidate && elected;
        guard(leads, "leads without the votes of a quorum")?;
        self.role = Role::Leader;
        self.led = (self.memory.term, self.memory.log.len().next());
        self.peers.clear();
        self.append(Value::Command(0))
    }

    // ---- the leader's log (3.5, 3.6.2, 4) ----
    fn append(&mut self, value: Value) -> Guard {
        guard(self.role == Role::Leader, "appends without leading")?;
        let term = self.memory.term;
        self.memory.log.append(Entry { term, value });
        Ok(())
    }

    /// Appends what a client asked for, once.
    pub(super) fn take_request(&mut self, number: u64) -> Guard {
        let command = self.requests.remove(&number);
        let command = command.ok_or("appends what nobody proposed")?;
        self.append(Value::Command(command))
    }

    /// Changes the configuration: one at a time, only from a committed one, and
    /// only after an entry of this term is committed (4.1; Ongaro 2015).
    pub(super) fn change(&mut self, next: Arc<Config>) -> Guard {
        let (index, current) = self.memory.log.config();
        guard(index <= self.commit, "changes an uncommitted configuration")?;
        let ready = self.led.1 <= self.commit;
        guard(ready, "changes voters before a commit in its term")?;
        guard(current.may_become(&next), "takes a step too far")?;
        self.append(Value::Config(next))
    }

    /// Commits an entry of its own term that a quorum has on disk, and with it
    /// everything before (3.6.2).
    pub(super) fn commit_own(&mut self, index: LogIndex) -> Guard {
        guard(self.role == Role::Leader, "counts commits without leading")?;
        let at = (self.memory.term, index);
        guard(self.memory.log.has(at), "commits an entry of another term")?;
        let holds = |server: Life| match self.peers.get(&server) {
            _ if server == self.id => self.disk.log.has(at),
            peer => peer.is_some_and(|(matched, _)| index <= *matched),
        };
        let quorum = self.memory.log.config().1.quorum(holds);
        guard(quorum, "commits what no quorum has on disk")?;
        self.commit = index;
        Ok(())
    }

    // ---- the follower's log (3.5, 5) ----
    /// Hears the leader of its term.
    pub(super) fn follow(&mut self, commit: LogIndex) -> Guard {
        let follows = self.role != Role::Leader;
        guard(follows, "follows another in a term it leads")?;
        (self.role, self.told) = (Role::Follower, self.told.max(commit));
        Ok(())
    }

    /// Takes entries that continue its log; a snapshot stands for all from the
    /// first on (5). Returns up to where the logs are equal then; `None` when
    /// the entry before them is another here.
    pub(super) fn take_entries(&mut self, prev: At, entries: &[Entry]) -> Guard<Option<LogIndex>> {
        let log = &mut self.memory.log;
        if !log.has(prev) {
            return Ok(None);
        }
        let mut index = prev.1;
        for entry in entries {
            index = index.next();
            if log.has((entry.term, index)) {
                continue;
            }
            if index <= log.len() {
                guard(self.commit < index, "drops committed entries")?;
                log.keep(index.previous());
            }
            log.append(entry.clone());
        }
        self.verified = self.verified.max(index);
        Ok(Some(index))
    }

    /// Believes in a commit as far as a leader told it, and as far as the log
    /// is known to equal the leader's.
    pub(super) fn commit_told(&mut self, at_most: LogIndex) {
        let known = self.told.min(self.verified).min(at_most);
        self.commit = self.commit.max(known);
    }

    /// Executes one committed entry after the other, as its disk holds them.
    pub(super) fn execute(&mut self, index: LogIndex, entry: &Entry) -> Guard {
        guard(index == self.applied.next(), "executes out of order")?;
        guard(index <= self.commit, "executes what is not committed")?;
        let held = self.disk.log.get(index) == Some(entry);
        guard(held, "executes what its disk does not hold")?;
        self.applied = index;
        Ok(())
    }

    // ---- reads (6.4) ----
    pub(super) fn ask(&mut self, asker: Asker) {
        let now = (self.commit, self.round, self.question);
        self.reads.entry(asker).or_insert(now);
    }

    /// The leader let it read: whatever was asked before it asked the leader.
    pub(super) fn read_as_told(&self, asker: Asker, question: u64) -> Guard {
        let asked = self.reads.get(&asker);
        let before = asked.is_some_and(|(_, _, newest)| *newest < question);
        guard(before, "reads by an answer to an earlier question")
    }

    /// Lets somebody read at `index`: everything committed when it was asked,
    /// by a leader that knows what is committed, and that a quorum took for the
    /// leader in a round begun since. A lease stands for such a round (6.4.1);
    /// whether clocks permit it cannot be told here.
    pub(super) fn confirm(&self, asker: Asker, index: LogIndex, leased: bool) -> Guard {
        guard(self.role == Role::Leader, "confirms a read without leading")?;
        let asked = self.reads.get(&asker).copied();
        let (committed, round, _) = asked.ok_or("confirms a read that was not asked")?;
        let current = committed.max(self.led.1) <= index && index <= self.commit;
        guard(current, "confirms a read of another state")?;
        let heard = |server| self.peers.get(&server).is_some_and(|peer| round < peer.1);
        let config = self.memory.log.config().1;
        let quorum = leased || config.quorum(|server| server == self.id || heard(server));
        guard(quorum, "confirms a read before a quorum confirmed it")
    }

    // ---- what may be said ----
    /// Whether it may say this without having been asked.
    pub(super) fn may_say(&mut self, to: NodeId, said: &Said) -> Guard {
        let (leads, log) = (self.led.0 == said.term, &self.memory.log);
        let lives = self.peers.iter().filter(|(life, _)| life.node == to);
        let matched = lives.map(|(_, peer)| peer.0).max().unwrap_or_default();
        match &said.what {
            What::Campaign(last) => {
                let same = self.campaign == (said.term, *last);
                guard(same, "campaigns with another log")
            }
            What::Append(prev, entries, told) => {
                let leads = leads && self.role == Role::Leader;
                guard(leads, "sends entries without leading")?;
                let mut own = (prev.1.0 + 1..).zip(entries);
                let own = own.all(|(index, entry)| log.get(LogIndex(index)) == Some(entry));
                let own = own && log.has(*prev);
                guard(own, "sends entries that are not in its log")?;
                self.tell(*told, self.commit)
            }
            What::Beat(told) => {
                guard(leads, "speaks as a leader that it is not")?;
                self.tell(*told, matched.min(self.commit))
            }
            What::Install(last) => {
                let committed = leads && last.1 <= self.commit && log.has(*last);
                guard(committed, "sends a snapshot of what is not committed")
            }
            What::TimeoutNow => {
                let complete = self.role != Role::Leader || matched == log.len();
                guard(leads && complete, "hands over to an incomplete log")
            }
            What::AskRead(number) => {
                self.question = self.question.max(*number);
                Ok(())
            }
            What::Heard(0) | What::No => Ok(()),
            // The rest only as an answer.
            _ => Err("says what nothing that it heard allows"),
        }
    }

    fn tell(&mut self, (commit, round): Told, known: LogIndex) -> Guard {
        self.round = self.round.max(round);
        guard(commit <= known, "tells of a commit beyond what is known")
    }

    /// Whether the disk holds what is promised (3.8). `entry` is the term of
    /// the entry that is acknowledged. Promises of earlier terms were kept
    /// until they were void.
    pub(super) fn may_leave(&self, to: NodeId, said: &Said, entry: Term) -> Guard {
        let Saved { term, vote, log } = &self.disk;
        guard(said.term <= *term, "names a term that its disk lacks")?;
        let held = match said.what {
            _ if said.term < *term => true,
            What::Vote => *vote == Some(to),
            What::Campaign(last) => *vote == Some(self.id.node) && last <= log.last(),
            What::Ack(index) => log.has((entry, index)),
            _ => true,
        };
        guard(held, "promises what its disk does not hold")
    }
}
