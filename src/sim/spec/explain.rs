//! One step of a core, explained as actions of the specification.
//!
//! Raft leaves little open once it is known what a server was told and what it
//! did: so nothing is searched. The inputs are replayed in order, and what is
//! open is read from the effects: whether a message was taken or passed over
//! shows in its answer, whether an election began in the requests that left.

use super::log::{At, Entry, Value};
use super::mapping;
use super::raft::{Guard, Role, Server, guard};
use super::said::{Said, What};
use crate::raft::message::Message;
use crate::raft::{self, Effect, Input, RequestId};
use crate::sim::history::{Life, Step};
use crate::types::{LogIndex, LogWrite, NodeId, Term};

/// A message that a step was told.
pub(super) struct Heard {
    pub(super) from: Life,
    pub(super) said: Vec<Said>,
    /// The entries that a snapshot in it stands for.
    pub(super) snapshot: Vec<Entry>,
}

/// A step being explained.
pub(super) struct Explanation<'a> {
    step: &'a Step<'a>,
    /// The messages of the inputs, in their order.
    heard: &'a [Heard],
    /// What the messages of the effects say.
    said: &'a [(NodeId, Said)],
    write: Option<&'a LogWrite>,
    /// Answers that the inputs allow.
    answers: Vec<(NodeId, Said)>,
    /// Read indexes that a leader told.
    told: Vec<(u64, LogIndex)>,
    /// How many moments that could have started an election did not.
    passed_over: usize,
}

impl<'a> Explanation<'a> {
    pub(super) fn new(
        step: &'a Step<'a>,
        heard: &'a [Heard],
        said: &'a [(NodeId, Said)],
        passed_over: usize,
    ) -> Self {
        let write = step.effects.iter().find_map(|effect| match effect {
            Effect::Persist { write, .. } => Some(write),
            _ => None,
        });
        Self {
            step,
            heard,
            said,
            write,
            answers: Vec::new(),
            told: Vec::new(),
            passed_over,
        }
    }

    /// Replays the step on `server`.
    pub(super) fn replay(&mut self, server: &mut Server) -> Guard {
        let mut heard = self.heard.iter();
        for input in self.step.inputs {
            match input {
                Input::Message { .. } => {
                    let heard = heard.next().ok_or("receives what nobody sent")?;
                    for said in &heard.said {
                        self.hear(server, heard, said)?;
                    }
                }
                Input::Propose { id, payload } => {
                    if let Value::Command(command) = mapping::value(payload) {
                        server.requests.insert(id.0, command);
                    }
                }
                Input::ChangeMembership { id, .. } => self.change(server, *id)?,
                Input::ReadIndex { id } => server.ask((server.id.node, id.0)),
                _ => {}
            }
            self.elect(server, input)?;
            self.take_requests(server)?;
        }
        self.lead(server)?;
        self.compare(server)?;
        self.carry_out(server)
    }

    fn hear(&mut self, server: &mut Server, heard: &Heard, said: &Said) -> Guard {
        let (from, term) = (heard.from.node, said.term);
        let names_term = match said.what {
            What::Campaign(_) => self.answers_vote(from, term),
            _ => term <= self.step.status.term,
        };
        if server.memory.term < term && names_term {
            server.observe_term(term)?;
        }
        if server.memory.term != term {
            return Ok(());
        }
        match &said.what {
            What::Campaign(last) => {
                let again = self.allows(from, term, &What::Vote);
                if !again && self.says(from, term, |what| *what == What::Vote) {
                    server.vote(from, *last)?;
                    self.allow(from, term, What::Vote);
                }
            }
            What::Append(prev, entries, (commit, round)) => {
                let end = LogIndex(prev.1.0 + entries.len() as u64);
                let takes = self.says(from, term, |what| *what == What::Ack(end));
                let prev = takes.then_some(*prev);
                self.follow(server, heard, term, (*commit, *round), prev, entries)?;
            }
            What::Beat((commit, round)) => {
                self.follow(server, heard, term, (*commit, *round), None, &[])?;
            }
            What::Install((_, last)) => {
                let takes = |what: &What| matches!(what, What::Ack(index) if last <= index);
                if self.says(from, term, takes) {
                    self.allow(from, term, What::Ack(server.commit.max(*last)));
                    let start = Some(At::default());
                    self.follow(server, heard, term, (*last, 0), start, &heard.snapshot)?;
                }
            }
            What::AskRead(number) => server.ask((from, *number)),
            What::Read(number, index) => self.told.push((*number, *index)),
            _ => server.hear(heard.from, said),
        }
        Ok(())
    }

    /// A message of a leader was taken if it was answered.
    fn follow(
        &mut self,
        server: &mut Server,
        heard: &Heard,
        term: Term,
        (commit, round): (LogIndex, u64),
        takes_after: Option<At>,
        entries: &[Entry],
    ) -> Guard {
        let from = heard.from.node;
        let hears = self.says(from, term, |what| *what == What::Heard(round));
        if takes_after.is_none() && !hears {
            return Ok(());
        }
        server.follow(commit)?;
        self.allow(from, term, What::Heard(round));
        if let Some(prev) = takes_after
            && let Some(equal) = server.take_entries(prev, entries)?
        {
            self.allow(from, term, What::Ack(equal));
        }
        server.commit_told(self.step.status.commit_index);
        Ok(())
    }

    fn says(&self, to: NodeId, term: Term, is_it: impl Fn(&What) -> bool) -> bool {
        let mut said = self.said.iter();
        said.any(|(receiver, said)| (*receiver, said.term) == (to, term) && is_it(&said.what))
    }

    fn allow(&mut self, to: NodeId, term: Term, what: What) {
        self.answers.push((to, Said { term, what }));
    }

    fn allows(&self, to: NodeId, term: Term, what: &What) -> bool {
        let mut answers = self.answers.iter();
        answers.any(|(asker, said)| *asker == to && said.term == term && said.what == *what)
    }

    fn answers_vote(&self, from: NodeId, term: Term) -> bool {
        self.step.effects.iter().any(|effect| match effect {
            Effect::Send { to, message, .. } => {
                let answer = matches!(message, Message::VoteResponse { pre: false, .. });
                answer && *to == from && message.term() == term
            }
            _ => false,
        })
    }

    /// Takes every request that was accepted at the next position: now, or
    /// long after it was asked (a transfer holds it back).
    fn take_requests(&self, server: &mut Server) -> Guard {
        while server.role == Role::Leader {
            let next = (server.memory.log.len().next(), server.memory.term);
            let accepted = self.accepted().find(|(id, index, term)| {
                (*index, *term) == next && server.requests.contains_key(&id.0)
            });
            match accepted {
                Some((id, ..)) => server.take_request(id.0)?,
                None => break,
            }
        }
        Ok(())
    }

    fn accepted(&self) -> impl Iterator<Item = (RequestId, LogIndex, Term)> {
        self.step.effects.iter().filter_map(|effect| match effect {
            Effect::ProposalAccepted { id, index, term } => Some((*id, *index, *term)),
            _ => None,
        })
    }

    /// A change of membership was begun by who leads, unless it was rejected.
    fn change(&self, server: &mut Server, request: RequestId) -> Guard {
        let rejects =
            |effect: &Effect| matches!(effect, Effect::Rejected { id, .. } if *id == request);
        if server.role != Role::Leader || self.step.effects.iter().any(rejects) {
            return Ok(());
        }
        let (next, term) = (server.memory.log.len().next(), server.memory.term);
        match self.written(next, term) {
            Some(Value::Config(config)) => server.change(config),
            _ if self
                .accepted()
                .any(|accepted| accepted == (request, next, term)) =>
            {
                // Undone again within the step: which it was shows nowhere.
                server.change(server.memory.log.config().1)
            }
            _ => Ok(()),
        }
    }

    /// What this step's write has at `index`, if it is of `term`.
    fn written(&self, index: LogIndex, term: Term) -> Option<Value> {
        let entries = &self.write?.entries;
        let position = index.0.checked_sub(entries.first()?.index.0)?;
        let entry = entries.get(position as usize)?;
        (entry.term == term).then(|| mapping::value(&entry.payload))
    }

    /// Begins and wins elections, where the effects show that it happened.
    fn elect(&mut self, server: &mut Server, input: &Input) -> Guard {
        if is_trigger(input) && self.campaigns(server.id.node, server.memory.term.next()) {
            match self.passed_over.checked_sub(1) {
                Some(left) => self.passed_over = left,
                None => server.time_out()?,
            }
        }
        if self.leads(server) {
            // Perhaps only after the next input.
            let _ = server.become_leader();
        }
        Ok(())
    }

    /// Whether the step shows a campaign in `term`.
    fn campaigns(&self, node: NodeId, term: Term) -> bool {
        let status = self.step.status;
        let role = matches!(status.role, raft::Role::Candidate | raft::Role::Leader);
        let asks =
            |(_, said): &(_, Said)| matches!(said.what, What::Campaign(_)) && said.term == term;
        let votes = |write: &LogWrite| write.hard_state.map(|state| (state.term, state.vote));
        (role && status.term == term)
            || self.said.iter().any(asks)
            || self.write.and_then(votes) == Some((term, Some(node)))
    }

    /// Whether the step shows that this candidate was elected.
    fn leads(&self, server: &Server) -> bool {
        let (status, term) = (self.step.status, server.memory.term);
        let next = server.memory.log.len().next();
        server.role == Role::Candidate
            && ((status.role == raft::Role::Leader && status.term == term)
                || self.written(next, term).is_some()
                || self.accepted().any(|(.., accepted)| accepted == term))
    }

    /// What happens at the end of a step: a leader counts, then leaves a joint
    /// configuration; who waits for an election follows.
    fn lead(&self, server: &mut Server) -> Guard {
        let status = self.step.status;
        if self.leads(server) {
            server.become_leader()?;
        }
        match status.role {
            raft::Role::Leader if server.commit < status.commit_index => {
                server.commit_own(status.commit_index)?;
            }
            raft::Role::Follower | raft::Role::PreCandidate => server.role = Role::Follower,
            _ => {}
        }
        while let Some(value) = self.written(server.memory.log.len().next(), server.memory.term) {
            match value {
                Value::Config(config) => server.change(config)?,
                Value::Command(_) => return Err("appends what nobody proposed"),
            }
        }
        Ok(())
    }

    /// Whether both ended up in the same state.
    fn compare(&self, server: &Server) -> Guard {
        let (status, log) = (self.step.status, &server.memory.log);
        guard(server.memory.term == status.term, "is in another term")?;
        let role = match status.role {
            raft::Role::Follower | raft::Role::PreCandidate => Role::Follower,
            raft::Role::Candidate => Role::Candidate,
            raft::Role::Leader => Role::Leader,
        };
        guard(server.role == role, "has another role")?;
        let last = (status.last_term, status.last_index);
        guard(log.last() == last, "has another log")?;
        let commit = server.commit == status.commit_index;
        guard(commit, "knows another commit index")?;
        let acts = log.config().0 == status.membership_index;
        guard(acts, "acts upon another configuration")
    }

    fn carry_out(&mut self, server: &mut Server) -> Guard {
        for effect in self.step.effects {
            match effect {
                Effect::Persist { mark, write } => {
                    check_write(server, write)?;
                    server.save(mark.sequence.0);
                }
                Effect::Apply { entries } => {
                    for entry in entries {
                        server.execute(entry.index, &mapping::entry(entry))?;
                    }
                }
                // It stands for the entries that are executed with it.
                Effect::RestoreSnapshot(meta) => {
                    let held = server.disk.log.has(mapping::at(meta));
                    guard(held, "restores what its disk does not hold")?;
                    while server.applied < meta.index {
                        let next = server.applied.next();
                        let entry = server.disk.log.get(next).cloned();
                        server.execute(next, &entry.ok_or("restores nothing")?)?;
                    }
                }
                Effect::Purge { through } => {
                    let executed = *through <= server.applied;
                    guard(executed, "forgets entries that it did not execute")?;
                }
                Effect::ReadReady { id, index } => self.read_ready(server, *id, *index)?,
                Effect::Rejected { id, .. } => {
                    server.requests.remove(&id.0);
                    server.reads.remove(&(server.id.node, id.0));
                }
                _ => {}
            }
        }
        let mut said = self.said.iter();
        said.try_for_each(|(to, said)| self.may_say(server, *to, said))
    }

    /// Whether the core says that its lease runs.
    fn is_leased(&self) -> bool {
        let until = self.step.status.lease_until;
        until.is_some_and(|until| self.step.now < until)
    }

    fn read_ready(&self, server: &mut Server, id: RequestId, index: LogIndex) -> Guard {
        let asker = (server.id.node, id.0);
        let told = self.told.iter().filter(|(_, told)| *told == index);
        let read = told.map(|(number, _)| server.read_as_told(asker, *number));
        let confirmed = || server.confirm(asker, index, self.is_leased());
        read.reduce(Guard::or).unwrap_or_else(confirmed)?;
        server.reads.remove(&asker);
        Ok(())
    }

    fn may_say(&self, server: &mut Server, to: NodeId, said: &Said) -> Guard {
        guard(
            said.term <= server.memory.term,
            "names a term that it is not in",
        )?;
        match said.what {
            _ if self.allows(to, said.term, &said.what) => Ok(()),
            What::Read(number, index) => server.confirm((to, number), index, self.is_leased()),
            _ => server.may_say(to, said),
        }
    }
}

/// Whether an election may begin with this input.
pub(super) fn is_trigger(input: &Input) -> bool {
    match input {
        Input::Tick => true,
        Input::Message { message, .. } => matches!(
            message,
            Message::TimeoutNow { .. }
                | Message::VoteResponse {
                    pre: true,
                    granted: true,
                    ..
                }
        ),
        _ => false,
    }
}

/// A write carries exactly what changed since the last.
fn check_write(server: &Server, write: &LogWrite) -> Guard {
    let (now, before) = (&server.memory, server.writes.back());
    let before = before.map_or(&server.disk, |(_, saved)| saved);
    let written = mapping::written(before, write, &now.log);
    let written = written.ok_or("writes what does not continue its log")?;
    let promised = (written.term, written.vote) == (now.term, now.vote);
    guard(promised, "writes another term or vote")?;
    guard(written.log == now.log, "writes another log than its own")?;
    let commit = write.hard_state.map(|state| state.commit_index);
    let known = commit.unwrap_or_default() <= server.commit;
    guard(known, "writes a commit it does not know")
}
