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

use super::log::{At, Config, Entry, Log, Saved, Value};
use super::said::{Asker, Said, What};
use crate::sim::history::Life;
use crate::types::{LogIndex, NodeId, Term};

/// Whether an action is enabled; if not, what forbids it.
pub(super) type Guard<T = ()> = Result<T, &'static str>;

pub(super) fn guard(holds: bool, otherwise: &'static str) -> Guard {
    if holds { Ok(()) } else { Err(otherwise) }
}

/// Whether a log that ends at `other` is at least as complete (3.6.1).
fn is_complete(own: At, other: At) -> bool {
    (own.1, own.0) <= (other.1, other.0)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Role {
    #[default]
    Follower,
    Candidate,
    Leader,
}

/// What a leader knows, and is remembered to judge what it said last.
#[derive(Clone, Debug, Default)]
pub(super) struct Lead {
    term: Term,
    commit: LogIndex,
    /// Its first entry.
    first: LogIndex,
    /// Known equal and durable there.
    matches: BTreeMap<Life, LogIndex>,
    /// The newest round that each has heard.
    heard: BTreeMap<Life, u64>,
}

#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) id: Life,
    pub(super) memory: Saved,
    pub(super) disk: Saved,
    /// Between them, in order, by name.
    pub(super) writes: VecDeque<(u64, Saved)>,
    pub(super) role: Role,
    votes: BTreeSet<Life>,
    /// How the log ended when it last campaigned, and in which term.
    campaign: (Term, At),
    lead: Lead,
    pub(super) commit: LogIndex,
    pub(super) applied: LogIndex,
    /// Up to here the log equals that of this term's leader.
    verified: LogIndex,
    /// The highest commit index that any leader told.
    told: LogIndex,
    /// The newest round it put into a message.
    round: u64,
    /// Commands that clients asked for.
    requests: BTreeMap<u64, u64>,
    /// Reads under way: the commit index and the round when they were asked.
    reads: BTreeMap<Asker, (LogIndex, u64)>,
    /// What was asked already when it asked the leader, by the name it used.
    asked: BTreeMap<u64, BTreeSet<Asker>>,
}

impl Server {
    // ---- the disk (3.8) ----
    pub(super) fn new(id: Life, disk: Saved) -> Self {
        let mut server = Self {
            id,
            memory: disk.clone(),
            disk,
            writes: VecDeque::new(),
            role: Role::Follower,
            votes: BTreeSet::new(),
            campaign: Default::default(),
            lead: Lead::default(),
            commit: LogIndex(0),
            applied: LogIndex(0),
            verified: LogIndex(0),
            told: LogIndex(0),
            round: 0,
            requests: BTreeMap::new(),
            reads: BTreeMap::new(),
            asked: BTreeMap::new(),
        };
        server.enter_term();
        server
    }

    /// Hands everything to the disk, as one write.
    pub(super) fn save(&mut self, name: u64) {
        self.writes.push_back((name, self.memory.clone()));
    }

    /// One more write reached the disk. Whether there was one, up to `name`.
    pub(super) fn saved(&mut self, name: u64) -> bool {
        if self.writes.front().is_none_or(|(issued, _)| name < *issued) {
            return false;
        }
        let next = self.writes.pop_front();
        next.map(|(_, write)| self.disk = write).is_some()
    }

    /// Starts from what the disk holds. The commit index may be forgotten, but
    /// what it covered stays committed.
    pub(super) fn wake_up(&mut self) {
        let disk = std::mem::take(&mut self.disk);
        let commit = self.commit;
        *self = Self::new(self.id, disk);
        self.commit = commit;
    }

    /// Forgets a committed beginning of the log (5.1).
    pub(super) fn compact(&mut self, through: LogIndex) -> Guard {
        let executed = through <= self.applied.min(self.commit);
        guard(executed, "forgets entries that it did not execute")?;
        self.memory.log.forget(through);
        Ok(())
    }

    // ---- terms and elections (3.4, 3.6) ----

    /// Somebody is in a later term.
    pub(super) fn observe_term(&mut self, term: Term) -> Guard {
        guard(self.memory.term < term, "goes back to an earlier term")?;
        (self.memory.term, self.memory.vote) = (term, None);
        self.step_down();
        self.enter_term();
        Ok(())
    }

    /// The log is known to equal the leader's up to the last entry that was
    /// appended in this very term.
    fn enter_term(&mut self) {
        let (index, term) = self.memory.log.last();
        let own = term == self.memory.term;
        self.verified = if own { index } else { LogIndex(0) };
    }

    /// Gives up waiting, or campaigning, or leading.
    pub(super) fn step_down(&mut self) {
        self.role = Role::Follower;
    }

    /// Campaigns in the next term. It must have a vote in a configuration that
    /// may still count (4.2.2: not only in the newest, which may be undone).
    pub(super) fn time_out(&mut self) -> Guard {
        let mut configs = self.memory.log.live_configs(self.commit).iter();
        let votes = configs.any(|(_, config)| config.votes(self.id));
        guard(votes, "campaigns without a vote")?;
        guard(self.role != Role::Leader, "campaigns while it leads")?;
        self.memory.term = self.memory.term.next();
        self.memory.vote = Some(self.id.node);
        self.role = Role::Candidate;
        self.votes.clear();
        self.campaign = (self.memory.term, self.memory.log.last());
        self.enter_term();
        Ok(())
    }

    /// Votes, once a term, for a log at least as complete as its own.
    pub(super) fn vote(&mut self, candidate: NodeId, term: Term, last: At) -> Guard {
        guard(
            term == self.memory.term,
            "votes in another term than its own",
        )?;
        let free = self.memory.vote.is_none_or(|vote| vote == candidate);
        guard(free, "votes twice in a term")?;
        let complete = is_complete(self.memory.log.last(), last);
        guard(complete, "votes for a log less complete than its own")?;
        self.memory.vote = Some(candidate);
        Ok(())
    }

    pub(super) fn receive_vote(&mut self, voter: Life, term: Term) {
        if self.role == Role::Candidate && term == self.memory.term {
            self.votes.insert(voter);
        }
    }

    /// Whether it could lead: with the votes of a quorum, its own as soon as
    /// its disk holds it.
    pub(super) fn may_lead(&self) -> bool {
        let kept = (self.disk.term, self.disk.vote) == (self.memory.term, Some(self.id.node));
        let granted = |voter| self.votes.contains(&voter) || (voter == self.id && kept);
        self.role == Role::Candidate && self.memory.log.config().1.quorum(granted)
    }

    /// Leads, and appends an entry of its own (6.4).
    pub(super) fn become_leader(&mut self) -> Guard {
        guard(self.may_lead(), "leads without the votes of a quorum")?;
        self.role = Role::Leader;
        self.lead = Lead {
            term: self.memory.term,
            commit: self.commit,
            first: self.memory.log.next(),
            ..Lead::default()
        };
        self.append_own(Value::Command(0))
    }

    // ---- the leader's log (3.5, 3.6.2, 4) ----

    fn append_own(&mut self, value: Value) -> Guard {
        guard(self.role == Role::Leader, "appends without leading")?;
        let term = self.memory.term;
        self.memory.log.append(Entry { term, value });
        self.verified = self.memory.log.last().0;
        Ok(())
    }

    /// A client asks for a command.
    pub(super) fn propose(&mut self, request: u64, command: u64) {
        self.requests.insert(request, command);
    }

    pub(super) fn is_open(&self, request: u64) -> bool {
        self.requests.contains_key(&request)
    }

    /// Appends what a client asked for, once; whenever it leads.
    pub(super) fn take_request(&mut self, request: u64) -> Guard {
        let command = self.requests.remove(&request);
        self.append_own(Value::Command(
            command.ok_or("appends what nobody proposed")?,
        ))
    }

    /// Changes the configuration: one at a time, only from a committed one, and
    /// only after an entry of this term is committed (4.1; Ongaro 2015).
    pub(super) fn change(&mut self, config: Arc<Config>) -> Guard {
        let (index, current) = self.memory.log.config();
        guard(index <= self.commit, "changes an uncommitted configuration")?;
        let ready = self.lead.first <= self.commit;
        guard(ready, "changes voters before a commit in its term")?;
        guard(current.may_become(&config), "takes a step too far")?;
        self.append_own(Value::Config(config))
    }

    pub(super) fn receive_ack(&mut self, from: Life, term: Term, index: LogIndex) {
        if self.role == Role::Leader && term == self.memory.term {
            let known = self.lead.matches.entry(from).or_default();
            *known = index.max(*known);
        }
    }

    /// Commits an entry of its own term that a quorum has on disk, and with it
    /// everything before (3.6.2).
    pub(super) fn commit_own(&mut self, index: LogIndex) -> Guard {
        guard(self.role == Role::Leader, "counts commits without leading")?;
        let at = (index, self.memory.term);
        let own_term = self.memory.log.term(index) == Some(at.1);
        guard(own_term, "commits an entry of another term by counting")?;
        let own = self.disk.log.has(at);
        let holds = |server: Life| match self.lead.matches.get(&server) {
            Some(known) if server != self.id => index <= *known,
            _ => server == self.id && own,
        };
        let quorum = self.memory.log.config().1.quorum(holds);
        guard(quorum, "commits what no quorum has on disk")?;
        (self.commit, self.lead.commit) = (index, index);
        Ok(())
    }

    // ---- the follower's log (3.5, 5) ----

    /// Hears the leader of its term.
    pub(super) fn follow(&mut self, term: Term, commit: LogIndex) -> Guard {
        guard(term == self.memory.term, "follows a leader of another term")?;
        guard(
            self.role != Role::Leader,
            "follows another in a term it leads",
        )?;
        self.told = self.told.max(commit);
        self.step_down();
        Ok(())
    }

    /// Takes entries that continue its log. Returns up to where the logs are
    /// equal then; `None` when the entry before them is another here.
    pub(super) fn take_entries(
        &mut self,
        prev: At,
        entries: impl IntoIterator<Item = Entry>,
    ) -> Guard<Option<LogIndex>> {
        let log = &mut self.memory.log;
        if !log.has(prev) {
            return Ok(None);
        }
        let mut index = prev.0;
        for entry in entries {
            index = index.next();
            if index < log.next() {
                if log.has((index, entry.term)) {
                    continue;
                }
                guard(self.commit < index, "drops committed entries")?;
                log.cut(index);
            }
            log.append(entry);
        }
        self.verified = self.verified.max(index);
        Ok(Some(index))
    }

    /// Takes a snapshot, of which all is committed, in place of its log, unless
    /// the log has it all. Returns up to where the logs are equal then.
    pub(super) fn take_snapshot(&mut self, last: At, config: (LogIndex, Arc<Config>)) -> LogIndex {
        if last.0 <= self.commit {
            return self.commit;
        }
        if self.memory.log.term(last.0) != Some(last.1) {
            self.memory.log = Log::starting_at(last, config);
        }
        self.verified = self.verified.max(last.0);
        (self.commit, self.told) = (last.0, self.told.max(last.0));
        last.0
    }

    /// Believes in a commit as far as a leader told it, and as far as the log
    /// is known to equal the leader's.
    pub(super) fn commit_told(&mut self, at_most: LogIndex) {
        let known = self.told.min(self.verified).min(at_most);
        self.commit = self.commit.max(known);
    }

    /// Executes one committed entry after the other, from its disk.
    pub(super) fn execute(&mut self, index: LogIndex, entry: &Entry) -> Guard {
        guard(index == self.applied.next(), "executes out of order")?;
        guard(index <= self.commit, "executes what is not committed")?;
        let held = self.disk.log.get(index) == Some(entry);
        guard(held, "executes what its disk does not hold")?;
        self.applied = index;
        Ok(())
    }

    /// Takes its newest snapshot for what it executed.
    pub(super) fn restore(&mut self, last: At) -> Guard {
        guard(last.0 <= self.commit, "restores what is not committed")?;
        let held = self.disk.log.has(last);
        guard(held, "restores what its disk does not hold")?;
        self.applied = self.applied.max(last.0);
        Ok(())
    }

    // ---- reads (6.4) ----

    pub(super) fn ask(&mut self, asker: Asker) {
        self.reads.entry(asker).or_insert((self.commit, self.round));
    }

    pub(super) fn answered(&mut self, asker: Asker) {
        self.reads.remove(&asker);
    }

    /// Asks the leader, under this name, for all that was asked of itself.
    pub(super) fn asks_leader(&mut self, name: u64) {
        let own = self
            .reads
            .keys()
            .filter(|asker| matches!(asker, Asker::Own(_)));
        self.asked
            .entry(name)
            .or_insert_with(|| own.copied().collect());
    }

    /// The leader let it read: whatever was asked before it asked the leader.
    pub(super) fn read_as_told(&self, asker: Asker, name: u64) -> Guard {
        let asked = self.asked.get(&name);
        let before = asked.is_some_and(|asked| asked.contains(&asker));
        guard(before, "reads by an answer to an earlier question")
    }

    pub(super) fn receive_heard(&mut self, from: Life, term: Term, round: u64) {
        if self.role == Role::Leader && term == self.memory.term {
            let known = self.lead.heard.entry(from).or_default();
            *known = round.max(*known);
        }
    }

    /// Lets somebody read at `index`: everything committed when it was asked,
    /// by a leader that knows what is committed, and that a quorum took for the
    /// leader in a round begun since. A lease stands for such a round (6.4.1);
    /// whether clocks permit it cannot be told here.
    pub(super) fn confirm(&self, asker: Asker, index: LogIndex, leased: bool) -> Guard {
        guard(self.role == Role::Leader, "confirms a read without leading")?;
        let asked = self.reads.get(&asker).copied();
        let (committed, round) = asked.ok_or("confirms a read that was not asked")?;
        let complete = committed <= index && self.lead.first <= index;
        guard(complete, "confirms a read of an earlier state")?;
        guard(index <= self.commit, "confirms a read of the future")?;
        let heard = |server: Life| {
            server == self.id
                || self
                    .lead
                    .heard
                    .get(&server)
                    .is_some_and(|heard| round < *heard)
        };
        let quorum = leased || self.memory.log.config().1.quorum(heard);
        guard(quorum, "confirms a read before a quorum confirmed it")
    }

    // ---- what may be said ----

    /// Whether the disk holds what is promised (3.8). `entry` is the term of
    /// the entry that is acknowledged.
    pub(super) fn may_leave(&self, to: NodeId, said: &Said, entry: Term) -> Guard {
        let Saved { term, vote, log } = &self.disk;
        if matches!(said.what, What::Speculation(_)) {
            return Ok(());
        }
        guard(
            said.term <= *term,
            "names a term that its disk does not hold",
        )?;
        if said.term < *term {
            // Its promises of earlier terms were kept until they were void.
            return Ok(());
        }
        let held = match said.what {
            What::Vote => *vote == Some(to),
            What::Campaign(last) => *vote == Some(self.id.node) && is_complete(last, log.last()),
            // Acknowledged again after memory forgot it: committed then, and
            // so the same everywhere; it is enough that the disk goes as far.
            What::Ack(index) if entry == Term(0) => index <= log.last().0,
            What::Ack(index) => log.has((index, entry)),
            _ => true,
        };
        guard(held, "promises what its disk does not hold")
    }

    /// Whether it may say this without having been asked.
    pub(super) fn may_say(&mut self, to: NodeId, said: &Said) -> Guard {
        let (known, log) = (said.term <= self.memory.term, &self.memory.log);
        let leads = self.lead.term == said.term;
        let lives = self.lead.matches.iter().filter(|(life, _)| life.node == to);
        let matched = lives.map(|(_, index)| *index).max().unwrap_or_default();
        match said.what {
            What::Campaign(last) => guard(
                self.campaign == (said.term, last),
                "campaigns with another log",
            ),
            What::Append(prev, _, told) => {
                guard(
                    leads && self.role == Role::Leader,
                    "sends entries without leading",
                )?;
                guard(
                    told.commit <= self.lead.commit,
                    "tells of a commit it does not know",
                )?;
                guard(log.has(prev), "sends entries after one it does not have")?;
                self.round = self.round.max(told.round);
                Ok(())
            }
            What::Beat(told) => {
                guard(leads, "speaks as a leader that it is not")?;
                let known = told.commit <= matched.min(self.lead.commit);
                guard(known, "tells of a commit that the other may not hold")?;
                self.round = self.round.max(told.round);
                Ok(())
            }
            What::Install(last) => {
                let committed = leads && last.0 <= self.lead.commit && log.has(last);
                guard(committed, "sends a snapshot of what is not committed")
            }
            What::TimeoutNow => {
                let complete = self.role != Role::Leader || matched == log.last().0;
                guard(
                    leads && complete,
                    "hands over to a log that is not complete",
                )
            }
            What::Speculation(_) | What::Other(_) | What::AskRead(_) => {
                let known = known || matches!(said.what, What::Speculation(_));
                guard(known, "names a term that it is not in")
            }
            What::Vote | What::Ack(_) | What::Heard(_) | What::Read(..) => {
                Err("says what nothing that it was told allows")
            }
        }
    }
}
