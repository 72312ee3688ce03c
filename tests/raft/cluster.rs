//! A cluster of cores with disks, stores and a network that do nothing until
//! told: transcripts and random walks decide what happens next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use holdfast::raft::message::Message;
use holdfast::raft::{self, Config, Effect, Input, Raft, Recovered, RequestId};
use holdfast::sim::history::{Life, Step};
use holdfast::sim::notation;
use holdfast::types::{
    EntryPayload, Incarnation, LogIndex, LogWrite, Mark, Member, Membership, Millis, NodeId,
    SnapshotMeta,
};

use crate::disk::{LogImage, Snapshot, Store};
use crate::watch::Watch;

/// A message between nodes.
#[derive(Clone, Debug)]
pub struct Packet {
    pub from: NodeId,
    pub to: NodeId,
    /// Lives of sender and receiver when it was sent.
    lives: (u64, u64),
    pub message: Message,
}

/// Work for a store.
#[derive(Clone, Debug)]
enum Work {
    Apply(Vec<holdfast::types::Entry>),
    Restore(SnapshotMeta),
}

/// One node: what survives a crash, and what does not.
#[derive(Debug)]
pub struct Node {
    pub life: u64,
    restarts: u64,
    /// On disk for certain.
    pub disk: LogImage,
    /// With everything handed to the disk.
    pub written: LogImage,
    pub snapshots: Vec<Snapshot>,
    staged: Vec<Snapshot>,
    pub raft: Option<Raft>,
    pending: VecDeque<(Mark, LogWrite)>,
    held: Vec<(Mark, Packet)>,
    work: VecDeque<Work>,
    pub store: Store,
    membership: std::sync::Arc<Membership>,
    pub disk_is_manual: bool,
    pub store_is_manual: bool,
    /// How fast its clock runs, in thousandths of the true time.
    pub clock_permille: u64,
}

/// An answered request.
#[derive(Clone, Debug)]
pub struct Answer {
    pub node: NodeId,
    pub id: RequestId,
    pub effect: Effect,
}

/// See the module.
#[derive(Debug)]
pub struct Cluster {
    pub config: Config,
    /// The true time, which no node knows.
    pub now: Millis,
    /// Entries between two states told to the core; 0: none ever.
    pub checkpoint_interval: u64,
    pub nodes: BTreeMap<NodeId, Node>,
    pub network: Vec<Packet>,
    /// Pairs (from, to) that lose everything.
    pub cut: BTreeSet<(NodeId, NodeId)>,
    /// Snapshot streams under way: from, its life, to, what.
    pub streams: Vec<(NodeId, u64, NodeId, Snapshot)>,
    pub watch: Watch,
    pub answers: Vec<Answer>,
    /// What happened, one line each, since last taken.
    pub trace: Vec<String>,
    requests: u64,
}

impl Cluster {
    /// Nodes 1.. of which `voters` and `learners` founded the cluster; the
    /// `joiners` exist and know nothing.
    pub fn new(config: Config, voters: &[u64], learners: &[u64], joiners: &[u64]) -> Self {
        let membership = founding(voters, learners);
        let mut cluster = Self {
            config,
            now: Millis(1000),
            checkpoint_interval: 0,
            nodes: BTreeMap::new(),
            network: Vec::new(),
            cut: BTreeSet::new(),
            streams: Vec::new(),
            watch: Watch::default(),
            answers: Vec::new(),
            trace: Vec::new(),
            requests: 0,
        };
        for id in voters.iter().chain(learners).chain(joiners) {
            let mut disk = LogImage::default();
            if !joiners.contains(id) {
                disk.write(&raft::bootstrap(membership.clone()));
            }
            cluster.nodes.insert(NodeId(*id), Node::new(disk));
        }
        for id in cluster.ids() {
            cluster.restart(id);
        }
        cluster
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[&id]
    }

    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("a node of this cluster")
    }

    fn life(&self, id: NodeId) -> Life {
        Life {
            node: id,
            incarnation: Incarnation(self.node(id).life),
        }
    }

    pub fn is_up(&self, id: NodeId) -> bool {
        self.node(id).raft.is_some()
    }

    pub fn next_request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId(self.requests)
    }

    /// Starts a node from its disk.
    pub fn restart(&mut self, id: NodeId) {
        self.restart_forced(id, None);
    }

    /// The same, an operator having said who is left: what follows is not
    /// Raft's to explain, and nobody watches any more.
    pub fn restart_forced(&mut self, id: NodeId, forced: Option<Membership>) {
        self.watch.is_off |= forced.is_some();
        let (config, now) = (self.config.clone(), self.local_time(id));
        let node = self.node_mut(id);
        assert!(node.raft.is_none(), "{id:?} runs already");
        node.restarts += 1;
        let seed = config
            .seed
            .wrapping_add(node.restarts * 7919 + node.life * 104_729);
        let incarnation = Incarnation(node.life);
        let config = Config {
            id,
            incarnation,
            seed,
            ..config
        };
        let newest = node.snapshots.last().cloned();
        node.store = newest.unwrap_or_default();
        node.written = node.disk.clone();
        let recovered = Recovered {
            hard_state: node.disk.hard_state,
            snapshot: node.snapshots.last().map(Store::meta),
            entries: node.disk.entries.clone(),
            applied_index: node.store.applied.0,
        };
        let raft = Raft::new(config, recovered.clone(), now);
        let mut raft = raft.unwrap_or_else(|error| panic!("{id:?}: {error}"));
        if let Some(forced) = forced {
            let since = recovered.hard_state.term;
            let forced = raft.force_membership(&forced.into(), since);
            forced.unwrap_or_else(|error| panic!("{id:?}: {error}"));
        }
        let status = raft.status();
        node.raft = Some(raft);
        let life = self.life(id);
        self.watch.tell(|o| o.started(life, &recovered, &status));
        // The store executed nothing yet of what may be committed already.
        self.step(id, Input::Applied(LogIndex(0)));
    }

    /// Stops a node; what is not durable is lost, but for the first
    /// `survivors` pending writes, which happened to make it.
    pub fn crash(&mut self, id: NodeId, survivors: usize, publish_staged: bool) {
        let life = self.life(id);
        self.watch.tell(|o| o.crashed(life));
        let node = self.node_mut(id);
        node.raft = None;
        for _ in 0..survivors.min(node.pending.len()) {
            let (_, write) = node.pending.pop_front().expect("counted");
            node.make_durable(&write);
        }
        // The file is renamed before the log is reset after it.
        let next = node
            .pending
            .front()
            .and_then(|(_, write)| write.reset_to.clone());
        if let Some(meta) = next.filter(|_| publish_staged) {
            node.publish(&meta);
        }
        node.pending.clear();
        node.held.clear();
        node.work.clear();
        node.staged.clear();
        node.membership = std::sync::Arc::default();
        self.streams.retain(|(from, ..)| *from != id);
        while let Some(broken) = self.streams.iter().position(|(_, _, to, _)| *to == id) {
            self.finish_stream(broken, false);
        }
    }

    /// Empties a node's directory: a new life under the old id.
    pub fn wipe(&mut self, id: NodeId) {
        let life = self.node(id).life + 1;
        let node = Node {
            life,
            ..Node::new(LogImage::default())
        };
        self.nodes.insert(id, node);
        self.restart(id);
    }

    /// Feeds one input to a node and carries out what comes back.
    pub fn step(&mut self, id: NodeId, input: Input) {
        self.step_all(id, vec![input]);
    }

    pub fn step_all(&mut self, id: NodeId, inputs: Vec<Input>) {
        let (now, life) = (self.local_time(id), self.life(id));
        let Some(raft) = &mut self.node_mut(id).raft else {
            return;
        };
        let effects = raft.step_all(now, inputs.clone());
        let status = raft.status();
        let step = Step {
            life,
            now,
            inputs: &inputs,
            effects: &effects,
            status: &status,
        };
        self.watch.tell(|o| o.stepped(&step));
        for effect in effects {
            self.trace
                .push(format!("{id:?} {}", notation::effect(&effect)));
            self.carry_out(id, effect);
        }
        if !self.node(id).disk_is_manual {
            self.sync(id, usize::MAX);
        }
        if !self.node(id).store_is_manual {
            self.work(id, usize::MAX);
        }
    }

    fn carry_out(&mut self, id: NodeId, effect: Effect) {
        let answer = |request: RequestId| Answer {
            node: id,
            id: request,
            effect: effect.clone(),
        };
        match &effect {
            Effect::Persist { mark, write } => {
                let node = self.nodes.get_mut(&id).expect("it stepped");
                node.written.write(write);
                node.pending.push_back((*mark, write.clone()));
            }
            Effect::Send { to, message, after } => {
                let packet = self.packet(id, *to, message.clone());
                match after {
                    Some(mark) => self.node_mut(id).held.push((*mark, packet)),
                    None => self.send(packet),
                }
            }
            Effect::SendFromLog {
                to,
                message,
                first,
                last,
                bytes_max,
            } => {
                let found = self.node(id).disk.range(*first, *last, *bytes_max);
                let mut message = message.clone();
                if let Message::AppendEntries { entries, .. } = &mut message {
                    *entries = found;
                }
                self.send(self.packet(id, *to, message));
            }
            Effect::Apply { entries } => {
                self.node_mut(id)
                    .work
                    .push_back(Work::Apply(entries.clone()));
            }
            Effect::RestoreSnapshot(meta) => {
                self.node_mut(id)
                    .work
                    .push_back(Work::Restore(meta.clone()));
            }
            Effect::ReadReady { id: request, .. }
            | Effect::Rejected { id: request, .. }
            | Effect::ProposalAccepted { id: request, .. }
            | Effect::AlreadyDone { id: request }
            | Effect::TransferStarted { id: request, .. } => self.answers.push(answer(*request)),
            Effect::StreamSnapshot { to, .. } => {
                assert!(
                    !self
                        .streams
                        .iter()
                        .any(|(from, _, other, _)| (from, other) == (&id, to)),
                    "two streams at once"
                );
                let newest = self.node(id).snapshots.last().expect("a snapshot").clone();
                self.streams.push((id, self.node(id).life, *to, newest));
            }
            Effect::Purge { through } => {
                let node = self.node_mut(id);
                node.disk.purge(*through);
                node.written.purge(*through);
            }
            Effect::DigestMismatch(_) | Effect::Diverged(_) => {
                assert!(self.watch.is_off, "StateMachine: {id:?} {effect:?}");
            }
            Effect::MembershipActive { membership, .. } => {
                self.node_mut(id).membership = std::sync::Arc::clone(membership);
            }
        }
    }

    fn packet(&self, from: NodeId, to: NodeId, message: Message) -> Packet {
        let life = |id: NodeId| self.nodes.get(&id).map_or(0, |node| node.life);
        Packet {
            from,
            to,
            lives: (life(from), life(to)),
            message,
        }
    }

    fn send(&mut self, packet: Packet) {
        let Packet { from, to, .. } = packet;
        let life = Life {
            node: from,
            incarnation: Incarnation(packet.lives.0),
        };
        self.watch.tell(|o| o.sent(life, to, &packet.message));
        self.network.push(packet);
    }

    /// Hands a packet to its receiver, unless something forbids it.
    pub fn deliver(&mut self, packet: Packet) {
        let Packet {
            from,
            to,
            lives,
            message,
        } = packet;
        let known = self.nodes.get(&to).is_some_and(|node| node.raft.is_some());
        if !known || self.cut.contains(&(from, to)) {
            return;
        }
        // A connection does not outlive whom it was made to. What it brought may
        // have been queued, though, since before its sender was replaced.
        if lives.1 != self.node(to).life {
            return;
        }
        if let Message::InstallSnapshot { meta, .. } = &message {
            let staged = &self.node(to).staged;
            if !staged.iter().any(|snapshot| snapshot.meta() == *meta) {
                return;
            }
        }
        let incarnation = Incarnation(lives.0);
        self.step(
            to,
            Input::Message {
                from,
                incarnation,
                message,
            },
        );
    }

    /// Ends a stream; it succeeds if both ends are there.
    pub fn finish_stream(&mut self, position: usize, succeed: bool) {
        let (from, life, to, snapshot) = self.streams.remove(position);
        if self.node(from).life != life {
            return;
        }
        let reachable = !self.cut.contains(&(from, to)) && self.is_up(to) && succeed;
        let delivered = reachable.then(|| snapshot.meta());
        if reachable {
            self.node_mut(to).staged.push(snapshot);
        }
        self.step(from, Input::SnapshotStreamed { to, delivered });
    }

    /// Completes up to `count` writes of a node and releases what waited.
    pub fn sync(&mut self, id: NodeId, count: usize) {
        let count = count.min(self.node(id).pending.len());
        let mut newest = None;
        let life = self.life(id);
        for _ in 0..count {
            let node = self.node_mut(id);
            let (mark, write) = node.pending.pop_front().expect("counted");
            node.make_durable(&write);
            self.watch.tell(|o| o.durable(life, mark));
            let node = self.node_mut(id);
            newest = Some(mark);
            let held = std::mem::take(&mut node.held);
            let (ready, waiting): (Vec<_>, Vec<_>) = held
                .into_iter()
                .partition(|(after, _)| after.sequence <= mark.sequence);
            node.held = waiting;
            for (_, packet) in ready {
                self.send(packet);
            }
        }
        let Some(mark) = newest else {
            return;
        };
        self.step(id, Input::Durable(mark));
    }

    /// Lets a node's store do up to `count` pieces of work.
    pub fn work(&mut self, id: NodeId, count: usize) {
        let count = count.min(self.node(id).work.len());
        let life = self.life(id);
        let interval = self.checkpoint_interval;
        let is_told = |at: LogIndex| 0 < interval && at.0.is_multiple_of(interval);
        for _ in 0..count {
            let mut reached = Vec::new();
            let node = self.nodes.get_mut(&id).expect("a node of this cluster");
            match node.work.pop_front() {
                Some(Work::Apply(entries)) => {
                    for entry in &entries {
                        node.store.apply(entry);
                        reached.extend(is_told(entry.index).then(|| node.store.checkpoint()));
                        let (at, digest) = (entry.index, node.store.digest);
                        self.watch.tell(|o| o.executed(life, at, at, digest));
                    }
                }
                Some(Work::Restore(meta)) => {
                    let found = node.snapshots.iter().find(|s| s.applied.0 == meta.index);
                    node.store = found.expect("published before the log was reset").clone();
                    assert_eq!(node.store.meta(), meta, "restores something else");
                    reached.extend(is_told(meta.index).then(|| node.store.checkpoint()));
                    let (at, digest) = (meta.index, node.store.digest);
                    self.watch.tell(|o| o.executed(life, at.next(), at, digest));
                }
                None => return,
            }
            let mut inputs = vec![Input::Applied(self.node(id).store.applied.0)];
            inputs.extend(reached.into_iter().map(Input::Checkpoint));
            self.step_all(id, inputs);
        }
    }

    /// Takes a snapshot of what a node's store holds now.
    pub fn take_snapshot(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        let newest = node.snapshots.last().map_or(LogIndex(0), |s| s.applied.0);
        let installing = node
            .pending
            .iter()
            .any(|(_, write)| write.reset_to.is_some());
        if node.raft.is_none() || node.store.applied.0 <= newest || installing {
            return;
        }
        let snapshot = node.store.clone();
        let meta = snapshot.meta();
        node.snapshots.push(snapshot);
        node.keep_two_snapshots();
        self.step(id, Input::SnapshotTaken(meta));
    }

    pub fn propose(&mut self, id: NodeId, text: &str) -> RequestId {
        let request = self.next_request();
        let payload = EntryPayload::Command(text.as_bytes().into());
        self.step(
            id,
            Input::Propose {
                id: request,
                payload,
            },
        );
        request
    }

    pub fn tick(&mut self, id: NodeId) {
        self.step(id, Input::Tick);
    }

    /// What a node's clock shows.
    pub fn local_time(&self, id: NodeId) -> Millis {
        Millis(self.now.0 * self.node(id).clock_permille / 1000)
    }

    /// Whether a node waits for no later time than it is.
    pub fn is_due(&self, id: NodeId) -> bool {
        self.deadline(id) <= self.local_time(id)
    }

    pub fn deadline(&self, id: NodeId) -> Millis {
        let raft = self.node(id).raft.as_ref();
        raft.map_or(Millis(u64::MAX), Raft::next_deadline)
    }

    pub fn status(&self, id: NodeId) -> Option<raft::Status> {
        self.node(id).raft.as_ref().map(Raft::status)
    }

    pub fn leader(&self) -> Option<NodeId> {
        let leads = |id: &NodeId| {
            self.status(*id)
                .filter(|s| s.role == raft::Role::Leader)
                .map(|s| (s.term, *id))
        };
        self.nodes.keys().filter_map(leads).max().map(|(_, id)| id)
    }

    /// Whether messages or snapshots are under way.
    pub fn is_busy(&self) -> bool {
        !self.network.is_empty() || !self.streams.is_empty()
    }
}

impl Node {
    fn new(disk: LogImage) -> Self {
        Self {
            life: 1,
            restarts: 0,
            written: disk.clone(),
            disk,
            snapshots: Vec::new(),
            staged: Vec::new(),
            raft: None,
            pending: VecDeque::new(),
            held: Vec::new(),
            work: VecDeque::new(),
            store: Store::default(),
            membership: std::sync::Arc::default(),
            disk_is_manual: false,
            store_is_manual: false,
            clock_permille: 1000,
        }
    }

    fn make_durable(&mut self, write: &LogWrite) {
        if let Some(meta) = &write.reset_to {
            self.publish(meta);
        }
        self.disk.write(write);
    }

    fn publish(&mut self, meta: &SnapshotMeta) {
        // After a crash in between the file is under its name already.
        if let Some(snapshot) = self.staged.iter().find(|s| s.meta() == *meta) {
            self.snapshots.push(snapshot.clone());
        }
        self.keep_two_snapshots();
    }

    fn keep_two_snapshots(&mut self) {
        let surplus = self.snapshots.len().saturating_sub(2);
        self.snapshots.drain(..surplus);
    }
}

/// A membership of these nodes, all in their first life.
pub fn founding(voters: &[u64], learners: &[u64]) -> Membership {
    let all = voters.iter().chain(learners);
    Membership {
        voters: voters.iter().copied().map(NodeId).collect(),
        learners: learners.iter().copied().map(NodeId).collect(),
        members: all.map(|id| (NodeId(*id), member(1))).collect(),
        ..Membership::default()
    }
}

/// A member in this life.
pub fn member(life: u64) -> Member {
    Member {
        incarnation: Incarnation(life),
        ..Member::default()
    }
}
