//! All nodes, the network and the history, by numbers; and what comes of
//! something happening to one of them.

use crate::raft::message::Message;
use crate::raft::{RequestId, Role};
use crate::types::{LogIndex, NodeId, Term};

use super::bounds::{Bounds, Used};
use super::canonical::{Origin, Tree};
use super::fingerprint::{Hash, Numbering, Table, mix, numberings};
use super::history::{History, check_logs_match};
use super::interned::Interned;
use super::local::{Event, Local, Output, Stimulus};
use super::violation::Violation;
use super::witness::Witnesses;

/// A state of the search: numbers of interned values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) locals: Vec<u32>,
    pub(super) history: u32,
    pub(super) used: Used,
    /// What is on its way, as a set: another copy of what is there already
    /// counts as lost. Nothing is ever dropped: what is never delivered is.
    pub(super) network: Vec<u32>,
}

/// Something on its way.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Parcel {
    pub(super) from: NodeId,
    pub(super) content: Output,
}

impl Parcel {
    pub(super) fn to(&self) -> NodeId {
        match &self.content {
            Output::Message { to, .. } | Output::Snapshot { to, .. } => *to,
        }
    }

    fn tree(&self) -> Tree {
        let (kind, content) = match &self.content {
            Output::Message { message, .. } => (0, Origin::NONE.tree(message)),
            Output::Snapshot { meta, .. } => (1, Origin::NONE.tree(meta)),
        };
        let ends = [Tree::Node(self.from.0), Tree::Node(self.to().0)];
        Tree::List([vec![Tree::Number(kind), content], ends.to_vec()].concat())
    }
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Something happens to a node.
    Local {
        node: usize,
        stimulus: u32,
        prompt: bool,
    },
    /// A parcel arrives; `keep`: and once more later.
    Deliver {
        parcel: u32,
        keep: bool,
        prompt: bool,
    },
    /// A snapshot stream breaks.
    Break { parcel: u32 },
    /// A node asks the others and some grant a pre-vote.
    Campaign { node: usize },
    /// A node and these others elect it.
    Elect { node: usize, electors: u32 },
}

/// What a node does when something happens to it, looked up by both.
struct Reaction {
    next: u32,
    outputs: Vec<u32>,
    events: Vec<Event>,
    violation: Option<Violation>,
}

/// See the module.
pub(super) struct World {
    pub(super) bounds: Bounds,
    ids: Vec<NodeId>,
    numberings: Vec<Numbering>,
    locals: Interned<Local>,
    parcels: Interned<Parcel>,
    histories: Interned<History>,
    reactions: Vec<Reaction>,
    reaction_of: Table,
    /// What can happen to a node by itself.
    menu: Vec<Stimulus>,
    /// What was seen at all.
    pub(super) witnesses: Witnesses,
}

/// A step that is being taken.
pub(super) struct Step {
    pub(super) state: State,
    /// The history, once it differs from the state's.
    history: Option<History>,
}

/// Codes of stimuli that are about a parcel; smaller ones are in the menu.
pub(super) const PARCEL: u32 = 1 << 24;
pub(super) const STAGED: u32 = 2 << 24;
pub(super) const STREAMED: u32 = 3 << 24;
pub(super) const BROKEN: u32 = 4 << 24;
/// The first of the menu.
pub(super) const TIMEOUT: u32 = 0;

impl State {
    /// Appends the state's numbers.
    pub(super) fn pack(&self, words: &mut Vec<u32>) {
        words.extend(&self.locals);
        words.extend([self.history, self.used.0 as u32, (self.used.0 >> 32) as u32]);
        words.extend(&self.network);
    }

    /// The state whose numbers these are.
    pub(super) fn unpack(words: &[u32], nodes: usize) -> Self {
        let (locals, rest) = words.split_at(nodes);
        Self {
            locals: locals.to_vec(),
            history: rest[0],
            used: Used(u64::from(rest[1]) | (u64::from(rest[2]) << 32)),
            network: rest[3..].to_vec(),
        }
    }
}

impl Step {
    /// The beginning of a step that leaves so much used.
    pub(super) fn of(state: &State, used: Used) -> Self {
        Self {
            state: State {
                used,
                ..state.clone()
            },
            history: None,
        }
    }
}

impl World {
    pub(super) fn new(bounds: &Bounds) -> Self {
        let numberings = numberings(&bounds.classes());
        let count = numberings.len();
        Self {
            ids: bounds.ids(),
            locals: Interned::new(count),
            parcels: Interned::new(count),
            histories: Interned::new(count),
            numberings,
            reactions: Vec::new(),
            reaction_of: Table::new(),
            menu: menu(bounds),
            bounds: bounds.clone(),
            witnesses: Witnesses::default(),
        }
    }

    /// The state in which every node has just started.
    pub(super) fn initial(&mut self) -> Result<State, Violation> {
        let mut history = History::default();
        let mut started = Vec::new();
        for id in self.ids.clone() {
            let disk = self.bounds.disk(id);
            if history.commit_index() == LogIndex(0) {
                history.found(&disk.entries[0]);
            }
            started.push(Local::start(id, disk, &self.bounds)?.next);
        }
        let locals = started
            .into_iter()
            .map(|local| self.intern_local(local))
            .collect();
        let state = State {
            locals,
            history: self.intern_history(history),
            used: Used::default(),
            network: Vec::new(),
        };
        Ok(self.settled(&state, Step::of(&state, state.used)))
    }

    /// The least hash of the state over all numberings of alike nodes.
    pub(super) fn fingerprint(&self, state: &State) -> u64 {
        let mut least = Hash::MAX;
        for numbering in 0..self.numberings.len() {
            let mut sum: Hash = mix(7, state.used.0);
            for local in &state.locals {
                sum = sum.wrapping_add(self.locals.hashes(*local)[numbering]);
            }
            for parcel in &state.network {
                sum = sum.wrapping_add(self.parcels.hashes(*parcel)[numbering]);
            }
            sum = sum.wrapping_add(self.histories.hashes(state.history)[numbering]);
            least = least.min(mix(sum, 0));
        }
        least as u64
    }

    pub(super) fn local(&self, state: &State, node: usize) -> &Local {
        self.locals.value(state.locals[node])
    }

    pub(super) fn parcel(&self, parcel: u32) -> &Parcel {
        self.parcels.value(parcel)
    }

    pub(super) fn stimulus(&self, code: u32) -> &Stimulus {
        &self.menu[code as usize]
    }

    /// How many nodes there are.
    pub(super) fn node_count(&self) -> usize {
        self.ids.len()
    }

    /// How many things can happen to a node by itself.
    pub(super) fn menu_count(&self) -> u32 {
        self.menu.len() as u32
    }

    /// How many numberings of the nodes are alike.
    pub(super) fn numberings(&self) -> usize {
        self.numberings.len()
    }

    /// A rough sum of what is interned.
    pub(super) fn memory_bytes(&self) -> usize {
        const LOCAL: usize = 4096;
        const PARCEL: usize = 512;
        const HISTORY: usize = 512;
        const REACTION: usize = 256;
        let (locals, parcels, histories) = (
            self.locals.count(),
            self.parcels.count(),
            self.histories.count(),
        );
        let hashes = (locals + parcels + histories) * self.numberings.len() * size_of::<Hash>();
        let values = locals * LOCAL + parcels * PARCEL + histories * HISTORY;
        hashes + values + self.reactions.len() * REACTION + self.reaction_of.bytes()
    }

    pub(super) fn id(&self, node: usize) -> NodeId {
        self.ids[node]
    }

    /// How many different nodes, parcels and reactions there were.
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        (
            self.locals.count(),
            self.parcels.count(),
            self.reactions.len(),
        )
    }

    /// Lets something happen to a node. Returns what it sends.
    pub(super) fn happen(
        &mut self,
        step: &mut Step,
        node: usize,
        code: u32,
        prompt: bool,
    ) -> Result<Vec<u32>, Violation> {
        let reaction = self.reaction(step.state.locals[node], code, prompt);
        let Reaction {
            next,
            outputs,
            events,
            violation,
            ..
        } = &self.reactions[reaction as usize];
        if let Some(violation) = violation {
            return Err(violation.clone());
        }
        let outputs = outputs.clone();
        step.state.locals[node] = *next;
        let asks = match self.menu.get(code as usize) {
            Some(Stimulus::Read(id)) => Some(*id),
            _ => None,
        };
        if !events.is_empty() || asks.is_some() {
            let events = events.clone();
            self.note(step, node, asks, &events)?;
        }
        Ok(outputs)
    }

    /// Looks up or finds out what a node does.
    fn reaction(&mut self, local: u32, code: u32, prompt: bool) -> u32 {
        let key = key(local, code, prompt);
        if let Some(found) = self.reaction_of.find(key) {
            return found;
        }
        let stimulus = self.stimulus_of(code);
        let before = self.locals.value(local);
        let came = before.react(&stimulus, prompt, &self.bounds);
        let id = before.id;
        let reaction = match came {
            Ok(outcome) => {
                let outputs = outcome.outputs.into_iter().map(|content| {
                    let parcel = Parcel { from: id, content };
                    let tree = parcel.tree();
                    self.parcels.number(parcel, &tree, &self.numberings)
                });
                let outputs: Vec<u32> = outputs.collect();
                Reaction {
                    outputs,
                    next: self.intern_local(outcome.next),
                    events: outcome.events,
                    violation: None,
                }
            }
            Err(violation) => Reaction {
                next: local,
                outputs: Vec::new(),
                events: Vec::new(),
                violation: Some(violation),
            },
        };
        let number = self.reactions.len() as u32;
        self.reactions.push(reaction);
        self.reaction_of.insert(key, number);
        number
    }

    fn stimulus_of(&self, code: u32) -> Stimulus {
        if code < PARCEL {
            return self.menu[code as usize].clone();
        }
        let parcel = self.parcel(code & (PARCEL - 1));
        let (kind, from) = (code & !(PARCEL - 1), parcel.from);
        match (kind, &parcel.content) {
            (PARCEL, Output::Message { message, .. }) => Stimulus::Deliver {
                from,
                message: message.clone(),
            },
            (STAGED, Output::Snapshot { meta, .. }) => Stimulus::Stage(meta.clone()),
            (_, Output::Snapshot { to, meta }) => Stimulus::Streamed {
                to: *to,
                delivered: (kind == STREAMED).then(|| meta.clone()),
            },
            (_, Output::Message { .. }) => unreachable!("codes are made from contents"),
        }
    }

    /// What a step means for the history.
    fn note(
        &mut self,
        step: &mut Step,
        node: usize,
        asks: Option<RequestId>,
        events: &[Event],
    ) -> Result<(), Violation> {
        let mut history = step
            .history
            .take()
            .unwrap_or_else(|| self.histories.value(step.state.history).clone());
        let id = self.ids[node];
        if let Some(request) = asks {
            history.read_asked(id, request);
        }
        let local = |id: NodeId| {
            let index = self.ids.iter().position(|other| *other == id)?;
            Some(self.locals.value(step.state.locals[index]))
        };
        let own = self.locals.value(step.state.locals[node]);
        for event in events {
            let mut seen = Witnesses::default();
            match event {
                Event::Leads(term) => history.leads(own, *term)?,
                Event::Granted { term, to } => history.granted(id, *term, *to)?,
                Event::Appended => {
                    for other in self.ids.iter().filter(|other| **other != id) {
                        local(*other).map_or(Ok(()), |other| check_logs_match(own, other))?;
                    }
                }
                Event::Committed(entry) => {
                    if history.committed(own, entry, local)? {
                        seen.commit(entry, own);
                    }
                }
                Event::Applied(entry) => history.applied(id, entry.index, entry.term)?,
                Event::Restored(meta) => history.applied(id, meta.index, meta.term)?,
                Event::ReadReady { id: request, index } => {
                    history.read_ready(id, *request, *index)?;
                    seen.read(own);
                }
                Event::ReadRefused(request) => history.read_refused(*request),
                Event::Crashed => {
                    history.crashed(id);
                    let parcels = &self.parcels;
                    step.state.network.retain(|parcel| {
                        let parcel = parcels.value(*parcel);
                        let stream = matches!(parcel.content, Output::Snapshot { .. });
                        !(stream && parcel.from == id)
                    });
                }
                Event::Truncated | Event::LostWrites | Event::Transferred | Event::Removed => {}
            }
            seen.event(event);
            self.witnesses.add(&seen);
        }
        step.history = Some(history);
        Ok(())
    }

    /// What a node says goes on its way.
    pub(super) fn post(&self, step: &mut Step, outputs: Vec<u32>) {
        for parcel in outputs {
            if let Err(place) = step.state.network.binary_search(&parcel) {
                step.state.network.insert(place, parcel);
            }
        }
    }

    /// The state a step ends in, without what cannot matter any more.
    pub(super) fn settled(&mut self, before: &State, step: Step) -> State {
        let Step { mut state, history } = step;
        let network = std::mem::take(&mut state.network);
        let alive = network
            .into_iter()
            .filter(|parcel| !self.is_dead(&state, *parcel));
        let network = alive.collect();
        state.network = network;
        let durable = |state: &State| -> Vec<Term> {
            let disks = state.locals.iter().map(|local| self.locals.value(*local));
            disks.map(|local| local.disk.hard_state.term).collect()
        };
        let terms = durable(&state);
        if history.is_none() && terms == durable(before) {
            return state;
        }
        let least = terms.iter().copied().min().unwrap_or_default();
        let mut history = history.unwrap_or_else(|| self.histories.value(state.history).clone());
        history.forget(|id| terms[id.0 as usize - 1], least);
        state.history = self.intern_history(history);
        state
    }

    /// Whether a parcel can never have an effect again; see the module `model`.
    fn is_dead(&mut self, state: &State, parcel: u32) -> bool {
        let Parcel {
            from,
            content: Output::Message { to, message },
        } = self.parcel(parcel)
        else {
            return false;
        };
        let receiver = self.index_of(*to);
        let durable = |id: NodeId| self.local(state, self.index_of(id)).disk.hard_state.term;
        let (term, here, there) = (message.term(), durable(*to), durable(*from));
        let candidate = self.local(state, receiver).raft.role() == Role::Candidate;
        let is_over = match message {
            Message::VoteResponse {
                pre: true,
                granted: true,
                ..
            } => term <= here,
            Message::VoteResponse { pre: false, .. } => term < here || (term == here && !candidate),
            Message::VoteResponse { .. }
            | Message::AppendResponse { .. }
            | Message::HeartbeatResponse { .. }
            | Message::InstallSnapshotResponse { .. }
            | Message::ReadIndexResponse { .. }
            | Message::ReadIndexRequest { .. }
            | Message::TimeoutNow { .. } => term < here,
            // A bound, not a law: whoever asked could still learn a newer term
            // from the refusal.
            Message::VoteRequest { pre: true, .. } => term <= here.min(there),
            Message::VoteRequest { .. }
            | Message::AppendEntries { .. }
            | Message::Heartbeat { .. }
            | Message::InstallSnapshot { .. } => term < here.min(there),
        };
        let is_question = matches!(
            message,
            Message::VoteRequest { .. }
                | Message::AppendEntries { .. }
                | Message::Heartbeat { .. }
                | Message::InstallSnapshot { .. }
        );
        is_over && (is_question || self.has_no_effect(state, receiver, parcel))
    }

    fn has_no_effect(&mut self, state: &State, receiver: usize, parcel: u32) -> bool {
        let local = state.locals[receiver];
        let reaction = self.reaction(local, PARCEL + parcel, true);
        let reaction = &self.reactions[reaction as usize];
        reaction.next == local && reaction.outputs.is_empty() && reaction.violation.is_none()
    }

    pub(super) fn index_of(&self, id: NodeId) -> usize {
        id.0 as usize - 1
    }

    fn intern_local(&mut self, local: Local) -> u32 {
        let tree = local.tree();
        self.locals.number(local, &tree, &self.numberings)
    }

    fn intern_history(&mut self, history: History) -> u32 {
        let tree = Origin::NONE.tree(&history);
        self.histories.number(history, &tree, &self.numberings)
    }
}

/// By what a reaction is looked up.
fn key(local: u32, code: u32, prompt: bool) -> u64 {
    ((u64::from(local) << 33) | (u64::from(code) << 1) | u64::from(prompt)) + 1
}

/// What can happen to a node by itself.
fn menu(bounds: &Bounds) -> Vec<Stimulus> {
    let mut menu = vec![
        Stimulus::Timeout,
        Stimulus::Heartbeat,
        Stimulus::Wait,
        Stimulus::TakeSnapshot,
        Stimulus::Sync { all: true },
        Stimulus::Sync { all: false },
    ];
    menu.extend((1..=u64::from(bounds.proposals)).map(Stimulus::Propose));
    menu.extend((1..=u64::from(bounds.reads)).map(|id| Stimulus::Read(RequestId(id))));
    menu.extend(bounds.changes_offered().into_iter().map(Stimulus::Change));
    if 0 < bounds.transfers {
        menu.extend((1..=bounds.voters).map(NodeId).map(Stimulus::Transfer));
    }
    for survivors in 0..=usize::from(bounds.slow_writes) + 1 {
        menu.extend([false, true].map(|published| Stimulus::Crash {
            survivors,
            published,
        }));
    }
    menu
}

#[cfg(test)]
mod tests;
