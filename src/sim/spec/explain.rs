//! One step of a core, explained as actions of the specification.
//!
//! Raft leaves little open once it is known what a server was told and what it
//! did: so nothing is searched. The inputs are replayed in order, and what is
//! open is read from the effects: whether a message was taken or passed over
//! shows in its answer, whether an election began in the requests that left.

use super::log::{Entry, Value};
use super::mapping;
use super::raft::{Guard, Role, Server, guard};
use super::said::{Asker, Said, What};
use crate::raft::message::{AppendResult, Message};
use crate::raft::{self, Effect, Input, RequestId};
use crate::sim::history::{Life, Step};
use crate::types::{LogIndex, LogWrite, NodeId, Term};

/// A step being explained.
pub(super) struct Explanation<'a> {
    step: &'a Step<'a>,
    /// The life that each message of the inputs came from, in their order.
    senders: &'a [Life],
    write: Option<&'a LogWrite>,
    /// Answers that the inputs allow.
    answers: Vec<(NodeId, Said)>,
    /// Read indexes that a leader told.
    told: Vec<(u64, LogIndex)>,
    /// How many moments that could have started an election did not.
    passed_over: usize,
}

impl<'a> Explanation<'a> {
    pub(super) fn new(step: &'a Step<'a>, senders: &'a [Life], passed_over: usize) -> Self {
        let write = step.effects.iter().find_map(|effect| match effect {
            Effect::Persist { write, .. } => Some(write),
            _ => None,
        });
        Self {
            step,
            senders,
            write,
            answers: Vec::new(),
            told: Vec::new(),
            passed_over,
        }
    }

    /// Replays the step on `server`.
    pub(super) fn replay(&mut self, server: &mut Server) -> Guard {
        let mut senders = self.senders.iter();
        for input in self.step.inputs {
            match input {
                Input::Message { message, .. } => {
                    let from = senders.next().ok_or("a message without a sender")?;
                    self.message(server, *from, message)?;
                }
                Input::Propose { id, payload } => {
                    if let Value::Command(command) = mapping::value(payload) {
                        server.propose(id.0, command);
                    }
                }
                Input::ChangeMembership { id, .. } => self.change(server, *id)?,
                Input::ReadIndex { id } => server.ask(Asker::Own(id.0)),
                _ => {}
            }
            self.elect(server, input)?;
            self.take_requests(server)?;
        }
        self.lead(server)?;
        if matches!(
            self.step.status.role,
            raft::Role::Follower | raft::Role::PreCandidate
        ) {
            server.step_down();
        }
        self.compare(server)?;
        self.carry_out(server)
    }

    fn message(&mut self, server: &mut Server, from: Life, message: &Message) -> Guard {
        let term = message.term();
        let taken = self.answers_vote(from.node, message);
        let names_term = match message {
            Message::VoteRequest { pre, .. } => !pre && taken,
            Message::VoteResponse {
                pre: true,
                granted: true,
                ..
            } => false,
            _ => term <= self.step.status.term,
        };
        if server.memory.term < term && names_term {
            server.observe_term(term)?;
        }
        if server.memory.term != term {
            return Ok(());
        }
        match message {
            Message::VoteRequest {
                pre: false,
                last_index,
                last_term,
                ..
            } => {
                let vote = Said {
                    term,
                    what: What::Vote,
                };
                if sends_what(self.step, from.node, term, &What::Vote) {
                    server.vote(from.node, term, (*last_index, *last_term))?;
                    self.answers.push((from.node, vote));
                }
                Ok(())
            }
            Message::VoteResponse {
                pre: false,
                granted: true,
                ..
            } => {
                server.receive_vote(from, term);
                Ok(())
            }
            _ => self.said_by_or_to_leader(server, from, message),
        }
    }

    fn answers_vote(&self, from: NodeId, message: &Message) -> bool {
        let term = message.term();
        sends(self.step, |to, sent| {
            let answer = matches!(sent, Message::VoteResponse { pre: false, .. });
            answer && to == from && sent.term() == term
        })
    }

    fn said_by_or_to_leader(
        &mut self,
        server: &mut Server,
        from: Life,
        message: &Message,
    ) -> Guard {
        let term = message.term();
        match message {
            Message::AppendEntries { .. }
            | Message::Heartbeat { .. }
            | Message::InstallSnapshot { .. } => {
                return self.leader_says(server, from.node, message);
            }
            Message::AppendResponse {
                result,
                read_context,
                ..
            } => {
                if let AppendResult::Matched { match_index } = result {
                    server.receive_ack(from, term, *match_index);
                }
                server.receive_heard(from, term, *read_context);
            }
            Message::HeartbeatResponse { read_context, .. } => {
                server.receive_heard(from, term, *read_context);
            }
            Message::InstallSnapshotResponse { match_index, .. } => {
                server.receive_ack(from, term, *match_index);
            }
            Message::ReadIndexRequest { context, .. } => {
                server.ask(Asker::Peer(from.node, *context))
            }
            Message::ReadIndexResponse {
                context,
                index: Some(index),
                ..
            } => self.told.push((*context, *index)),
            _ => {}
        }
        Ok(())
    }

    /// A message of a leader was taken if it was answered.
    fn leader_says(&mut self, server: &mut Server, from: NodeId, message: &Message) -> Guard {
        let term = message.term();
        let mut answer = |what| self.answers.push((from, Said { term, what }));
        match message {
            Message::AppendEntries {
                prev_index,
                prev_term,
                entries,
                commit_index,
                read_context,
                ..
            } => {
                let end = LogIndex(prev_index.0 + entries.len() as u64);
                let takes = sends_what(self.step, from, term, &What::Ack(end));
                if !takes && !refuses(self.step, from, *prev_index) {
                    return Ok(());
                }
                server.follow(term, *commit_index)?;
                if takes {
                    let entries = entries.iter().map(mapping::entry);
                    let equal = server.take_entries((*prev_index, *prev_term), entries)?;
                    if let Some(index) = equal {
                        answer(What::Ack(index));
                    }
                }
                answer(What::Heard(*read_context));
            }
            Message::Heartbeat {
                commit_index,
                read_context,
                ..
            } => {
                let heard = What::Heard(*read_context);
                if sends_what(self.step, from, term, &heard) {
                    server.follow(term, *commit_index)?;
                    answer(heard);
                }
            }
            Message::InstallSnapshot { meta, .. } => {
                let answered = |to, sent: &Message| {
                    to == from && matches!(sent, Message::InstallSnapshotResponse { .. })
                };
                if sends(self.step, answered) {
                    server.follow(term, meta.index)?;
                    let config = (meta.membership_index, mapping::config(&meta.membership));
                    answer(What::Ack(
                        server.take_snapshot((meta.index, meta.term), config),
                    ));
                }
            }
            _ => {}
        }
        server.commit_told(self.step.status.commit_index);
        Ok(())
    }

    /// Takes every request that was accepted at the next position: now, or
    /// long after it was asked (a transfer holds it back).
    fn take_requests(&self, server: &mut Server) -> Guard {
        while server.role == Role::Leader {
            let next = (server.memory.log.next(), server.memory.term);
            let accepted = self.step.effects.iter().find_map(|effect| match effect {
                Effect::ProposalAccepted { id, index, term } => {
                    ((*index, *term) == next && server.is_open(id.0)).then_some(id.0)
                }
                _ => None,
            });
            match accepted {
                Some(request) => server.take_request(request)?,
                None => break,
            }
        }
        Ok(())
    }

    fn accepted(&self, request: RequestId) -> Option<(LogIndex, Term)> {
        self.step.effects.iter().find_map(|effect| match effect {
            Effect::ProposalAccepted { id, index, term } if *id == request => Some((*index, *term)),
            _ => None,
        })
    }

    /// A change of membership was begun if the next entry of this term is one.
    fn change(&self, server: &mut Server, id: RequestId) -> Guard {
        let next = server.memory.log.next();
        match self.written(next, server.memory.term) {
            Some(Value::Config(config)) => server.change(config),
            _ if self.accepted(id) == Some((next, server.memory.term)) => {
                // Undone again within the step: which it was shows nowhere.
                let config = server.memory.log.config().1;
                server.change(config)
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
        if is_trigger(input) && self.campaigns(server, server.memory.term.next()) {
            match self.passed_over.checked_sub(1) {
                Some(left) => self.passed_over = left,
                None => server.time_out()?,
            }
        }
        if server.role == Role::Candidate && self.leads(server) && server.may_lead() {
            server.become_leader()?;
        }
        Ok(())
    }

    fn campaigns(&self, server: &Server, term: Term) -> bool {
        campaigns(self.step, server.id.node, term)
    }

    fn leads(&self, server: &Server) -> bool {
        let (status, term) = (self.step.status, server.memory.term);
        let next = server.memory.log.next();
        (status.role == raft::Role::Leader && status.term == term)
            || self.written(next, term).is_some()
            || self.step.effects.iter().any(|effect| {
                matches!(effect, Effect::ProposalAccepted { term: accepted, .. } if *accepted == term)
            })
    }

    /// What a leader does at the end of a step: counts, then leaves a joint
    /// configuration.
    fn lead(&self, server: &mut Server) -> Guard {
        let commit = self.step.status.commit_index;
        if server.role == Role::Leader
            && self.step.status.role == raft::Role::Leader
            && server.commit < commit
        {
            server.commit_own(commit)?;
        }
        while let Some(value) = self.written(server.memory.log.next(), server.memory.term) {
            match value {
                Value::Config(config) => server.change(config)?,
                Value::Command(_) => return Err("appends what nobody proposed"),
            }
        }
        Ok(())
    }

    /// Whether both ended up in the same state.
    fn compare(&self, server: &Server) -> Guard {
        let status = self.step.status;
        let log = &server.memory.log;
        guard(server.memory.term == status.term, "is in another term")?;
        let role = match status.role {
            raft::Role::Follower | raft::Role::PreCandidate => Role::Follower,
            raft::Role::Candidate => Role::Candidate,
            raft::Role::Leader => Role::Leader,
        };
        guard(server.role == role, "has another role")?;
        let last = (status.last_index, status.last_term);
        guard(log.last() == last, "has another log")?;
        guard(
            server.commit == status.commit_index,
            "knows another commit index",
        )?;
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
                Effect::Send { to, message, .. } => {
                    for said in mapping::said(message) {
                        self.may_say(server, *to, &said)?;
                    }
                    check_entries(server, message)?;
                }
                Effect::Apply { entries } => {
                    for entry in entries {
                        server.execute(entry.index, &mapping::entry(entry))?;
                    }
                }
                Effect::RestoreSnapshot(meta) => server.restore((meta.index, meta.term))?,
                Effect::Purge { through } => server.compact(*through)?,
                Effect::ReadReady { id, index } => {
                    self.read_ready(server, *id, *index)?;
                    server.answered(Asker::Own(id.0));
                }
                Effect::Rejected { id, .. } => server.answered(Asker::Own(id.0)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the core says that its lease runs.
    fn is_leased(&self) -> bool {
        let until = self.step.status.lease_until;
        until.is_some_and(|until| self.step.now < until)
    }

    fn read_ready(&self, server: &mut Server, id: RequestId, index: LogIndex) -> Guard {
        let asker = Asker::Own(id.0);
        let told = self.told.iter().filter(|(_, told)| *told == index);
        let read = told.map(|(context, _)| server.read_as_told(asker, *context));
        match read.reduce(Guard::or) {
            Some(read) => read,
            None => server.confirm(asker, index, self.is_leased()),
        }
    }

    fn may_say(&self, server: &mut Server, to: NodeId, said: &Said) -> Guard {
        let is_answer = self
            .answers
            .iter()
            .any(|(asker, answer)| *asker == to && answer == said);
        match said.what {
            What::Vote | What::Ack(_) | What::Heard(_) if is_answer => Ok(()),
            // "There is a later term", to a leader of the past.
            What::Heard(0) if said.term <= server.memory.term => Ok(()),
            What::Read(context, index) => {
                server.confirm(Asker::Peer(to, context), index, self.is_leased())
            }
            What::AskRead(context) => {
                server.asks_leader(context);
                server.may_say(to, said)
            }
            _ => server.may_say(to, said),
        }
    }
}

/// Whether a step shows a campaign of `node` in `term`.
fn campaigns(step: &Step<'_>, node: NodeId, term: Term) -> bool {
    let role = matches!(step.status.role, raft::Role::Candidate | raft::Role::Leader);
    let shows = |effect: &Effect| match effect {
        Effect::Send { message, .. } => {
            matches!(message, Message::VoteRequest { pre: false, .. }) && message.term() == term
        }
        Effect::Persist { write, .. } => write
            .hard_state
            .is_some_and(|state| (state.term, state.vote) == (term, Some(node))),
        _ => false,
    };
    (role && step.status.term == term) || step.effects.iter().any(shows)
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

/// Whether the effects hold a message for which this is so.
fn sends(step: &Step<'_>, is_it: impl Fn(NodeId, &Message) -> bool) -> bool {
    step.effects.iter().any(|effect| match effect {
        Effect::Send { to, message, .. } => is_it(*to, message),
        _ => false,
    })
}

fn sends_what(step: &Step<'_>, to: NodeId, term: Term, what: &What) -> bool {
    sends(step, |receiver, message| {
        let said = || mapping::said(message);
        receiver == to && message.term() == term && said().iter().any(|said| said.what == *what)
    })
}

fn refuses(step: &Step<'_>, to: NodeId, position: LogIndex) -> bool {
    sends(step, |receiver, message| {
        receiver == to
            && matches!(
                message,
                Message::AppendResponse {
                    result: AppendResult::Rejected { prev_index, .. },
                    ..
                } if *prev_index == position
            )
    })
}

/// A write carries exactly what changed since the last.
fn check_write(server: &Server, write: &LogWrite) -> Guard {
    let (now, before) = (&server.memory, server.writes.back());
    let before = before.map_or(&server.disk, |(_, saved)| saved);
    let vote = write
        .hard_state
        .map_or((before.term, before.vote), |state| (state.term, state.vote));
    guard(vote == (now.term, now.vote), "writes another term or vote")?;
    let commit = write
        .hard_state
        .map_or(LogIndex(0), |state| state.commit_index);
    guard(commit <= server.commit, "writes a commit it does not know")?;
    let first = write
        .entries
        .first()
        .map(|entry| entry.index)
        .or(write.truncate_from);
    let kept = first.unwrap_or(now.log.next()).previous();
    match &write.reset_to {
        Some(meta) => {
            let start = now.log.start == (meta.index, meta.term) && kept == meta.index;
            guard(start, "writes another beginning of its log")?;
        }
        None => {
            let same =
                before.log.term(kept).is_some() && before.log.term(kept) == now.log.term(kept);
            guard(same, "does not write all that changed in its log")?;
            let cuts = (before.log.next().0 > kept.0 + 1).then_some(kept.next());
            guard(
                write.truncate_from == cuts,
                "does not write that it cut its log",
            )?;
        }
    }
    let entries: Vec<Entry> = write.entries.iter().map(mapping::entry).collect();
    guard(
        now.log.after(kept).eq(&entries),
        "writes other entries than its log's newest",
    )
}

/// The entries that a leader sends are those of its log.
pub(super) fn check_entries(server: &Server, message: &Message) -> Guard {
    let Message::AppendEntries { entries, .. } = message else {
        return Ok(());
    };
    let same = |entry: &crate::types::Entry| {
        server.memory.log.get(entry.index) == Some(&mapping::entry(entry))
    };
    guard(
        entries.iter().all(same),
        "sends entries that are not in its log",
    )
}
