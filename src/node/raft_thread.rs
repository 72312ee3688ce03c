//! The thread that owns the core: takes what is queued, steps, carries out,
//! publishes. It never waits for a disk or a peer, so heartbeats keep time
//! whatever those do.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::membership::autopilot::{self, AutopilotConfig, Stability};
use crate::peer::MembershipProof;
use crate::physical::{Leadership, PhysicalError};
use crate::raft::Input;
use crate::sync::queue::{Nothing, Receiver};
use crate::types::{LogIndex, MembershipChange, Millis, NodeId, RepairAsk, RepairMessage};

use super::belonging::Belonging;
use super::changes::{moved_address, objection};
use super::clock::Clock;
use super::driver::Driver;
use super::event::{Change, Event, Proposal, ReadReply};
use super::ports::RuntimePorts;
use super::repair;
use super::standing::{Standing, StatusBoard, leadership_of};

/// Everything the thread owns.
pub(super) struct RaftThread {
    pub driver: Driver,
    pub ports: RuntimePorts,
    pub events: Receiver<Event>,
    pub status: Arc<StatusBoard>,
    pub leadership: Arc<watch::Sender<Leadership>>,
    pub belonging: Belonging,
    pub policy: Policy,
    pub progress: Progress,
}

/// The promotion policy and what it remembers.
pub(super) struct Policy {
    pub config: AutopilotConfig,
    pub memory: Stability,
    pub next_look: Millis,
}

/// What the thread keeps between batches.
#[derive(Default)]
pub(super) struct Progress {
    /// Reads of this batch.
    collecting: Vec<ReadReply>,
    /// Who asked for lost entries since the last look at the members.
    asked: Vec<(NodeId, RepairAsk)>,
    /// Changes of this batch that must not cost the quorum.
    changes: Vec<Change>,
    /// Last position the core was told of.
    applied: LogIndex,
    next_prune: Millis,
    published: Millis,
    standing: Option<Standing>,
    stopping: bool,
}

impl RaftThread {
    pub fn run(mut self, clock: Clock) {
        self.begin(clock.now());
        while !self.progress.stopping && self.ports.failure.error().is_none() {
            let wait = self.deadline().0.saturating_sub(clock.now().0);
            match self.events.recv_timeout(Duration::from_millis(wait)) {
                Ok(event) => self.turn(Some(event), || clock.now()),
                Err(Nothing::Yet) => self.turn(None, || clock.now()),
                Err(Nothing::Ever) => self.progress.stopping = true,
            }
        }
        self.close();
    }

    /// Before the first turn.
    pub fn begin(&mut self, now: Millis) {
        self.progress.applied = self.ports.board.applied();
        self.driver.begin(now, &mut self.ports);
        self.publish(now);
    }

    /// When a turn is due though nothing happens.
    pub fn deadline(&self) -> Millis {
        self.driver.next_deadline().min(self.policy.next_look)
    }

    /// Does everything queued, `first` first, and carries out what follows.
    /// Never waits.
    pub fn turn(&mut self, first: Option<Event>, clock: impl FnOnce() -> Millis) {
        let mut next = first;
        let mut count = 0;
        while let Some(event) = next {
            self.handle(event);
            count += 1;
            if count >= BATCH_EVENTS_MAX || self.progress.stopping {
                break;
            }
            next = self.events.try_recv().ok();
        }
        // Not before everything was taken from the queue: what arrived while
        // this process was stopped must not be judged by the time before. A
        // lease and the patience it counts on would be, otherwise.
        let now = clock();
        self.tell_applied();
        self.begin_reads();
        self.driver.step(now, &mut self.ports);
        self.change_unforced(now);
        // After the messages: a late tick must not depose a leader that spoke.
        if now >= self.driver.next_deadline() {
            self.driver.push(Input::Tick);
            self.driver.step(now, &mut self.ports);
        }
        self.publish(now);
        if now >= self.policy.next_look {
            self.look_after_members(now);
        }
        if now >= self.progress.next_prune {
            self.ports.pending.prune();
            self.progress.next_prune = Millis(now.0 + PRUNE_INTERVAL.0);
        }
    }

    fn handle(&mut self, event: Event) {
        let input = match event {
            Event::Propose(Proposal { payload, reply }) => Input::Propose {
                id: self.ports.pending.add_proposal(reply),
                payload,
            },
            Event::Read(reply) => {
                self.progress.collecting.push(reply);
                return;
            }
            Event::Change(change) => {
                self.change(change);
                return;
            }
            Event::Transfer { target, reply } => Input::TransferLeadership {
                id: self.ports.pending.add_transfer(reply),
                target,
            },
            Event::Message {
                from,
                incarnation,
                message,
                ..
            } => {
                if !self.ports.acceptable(&message) {
                    return;
                }
                Input::Message {
                    from,
                    incarnation,
                    message,
                }
            }
            Event::Repair { from, message, .. } => {
                self.help(from, message);
                return;
            }
            Event::Durable(mark) => Input::Durable(mark),
            Event::SnapshotTaken(meta) => Input::SnapshotTaken(meta),
            Event::SnapshotStreamed { to, delivered } => Input::SnapshotStreamed { to, delivered },
            Event::Unreachable(peer) => Input::Unreachable(peer),
            Event::Checkpoint(checkpoint) => Input::Checkpoint(checkpoint),
            Event::TakeSnapshot => {
                self.ports.take_snapshot();
                return;
            }
            Event::PeersChanged => {
                self.progress.standing = None;
                return;
            }
            Event::Excluded(proof) => match self.belonging.concern(proof) {
                Some(MembershipProof { index, membership }) => {
                    // Published even if the core knew it already.
                    self.progress.standing = None;
                    Input::CommittedMembership { index, membership }
                }
                None => return,
            },
            Event::Autopilot(config) => {
                self.policy.config = config;
                return;
            }
            Event::Stop => {
                self.progress.stopping = true;
                return;
            }
        };
        self.driver.push(input);
    }

    /// Gives a peer that lost entries what this node holds of them (D-030).
    fn help(&mut self, peer: NodeId, message: RepairMessage) {
        let peers = &self.ports.peers;
        match message {
            RepairMessage::Ask(ask) => {
                self.progress.asked.push((peer, ask));
                let status = self.driver.status();
                let newest = self.ports.snapshots.newest_first();
                let snapshot_index = newest.first().map_or(LogIndex(0), |info| info.meta.index);
                let told = repair::answer_running(&self.ports.log, ask, &status, snapshot_index);
                peers.send_repair(peer, told);
            }
            RepairMessage::AskSnapshot => peers.stream_snapshot(peer, LogIndex(0)),
            // This node has lost nothing, or not any more.
            RepairMessage::Answer(_) => {}
        }
    }

    /// The apply thread wakes nobody: the core hears of its progress whenever
    /// it steps, at the latest with the next heartbeat.
    fn tell_applied(&mut self) {
        let applied = self.ports.board.applied();
        if applied > self.progress.applied {
            self.progress.applied = applied;
            self.driver.push(Input::Applied(applied));
        }
    }

    /// One request to the core serves all reads of a batch.
    fn begin_reads(&mut self) {
        if self.progress.collecting.is_empty() {
            return;
        }
        let replies = std::mem::take(&mut self.progress.collecting);
        let id = self.ports.pending.add_round(replies);
        self.driver.push(Input::ReadIndex { id });
    }

    fn change(&mut self, change: Change) {
        if !change.is_forced {
            self.progress.changes.push(change);
            return;
        }
        let id = self.ports.pending.add_proposal(change.reply);
        let changes = change.changes;
        self.driver.push(Input::ChangeMembership { id, changes });
    }

    /// Each is judged by the very state that the core makes it from: what was
    /// foretold to the caller may be about an older membership.
    fn change_unforced(&mut self, now: Millis) {
        for mut change in std::mem::take(&mut self.progress.changes) {
            if let Some(reason) = objection(now, &self.driver.status(), &change.changes) {
                change
                    .reply
                    .finish(Err(PhysicalError::CostsQuorum { reason }));
                continue;
            }
            change.is_forced = true;
            self.change(change);
            self.driver.step(now, &mut self.ports);
        }
    }

    fn publish(&mut self, now: Millis) {
        // Building a status copies a line per peer: not for every batch.
        let standing = Standing::of(&self.driver);
        let changed = self.progress.standing != Some(standing);
        if !changed && now.0.saturating_sub(self.progress.published.0) < STATUS_INTERVAL.0 {
            return;
        }
        let status = Arc::new(self.driver.status());
        if changed {
            let committed = &status.committed_membership;
            let peers = self.ports.peers.as_ref();
            peers.set_committed(status.committed_membership_index, committed);
            if let Err(reason) = self.belonging.follow(&status) {
                self.ports.failure.report(&reason);
            }
            let leadership = leadership_of(&status, self.belonging.is_removed(), peers);
            self.leadership.send_if_modified(|current| {
                let differs = *current != leadership;
                if differs {
                    *current = leadership;
                }
                differs
            });
        }
        self.status.publish(status, now);
        self.progress.standing = Some(standing);
        self.progress.published = now;
    }

    /// Promotes who has earned it, records addresses that moved, removes who is
    /// dead.
    fn look_after_members(&mut self, now: Millis) {
        let Policy {
            config,
            memory,
            next_look,
        } = &mut self.policy;
        *next_look = Millis(now.0 + LOOK_INTERVAL.0);
        for (from, ask) in self.progress.asked.drain(..) {
            memory.note_repair(now, from, ask);
        }
        let status = self.driver.status();
        let promotion = autopilot::promotion(now, config, &status, memory);
        self.status.publish_members(memory);
        let removal = autopilot::removal(now, config, &status, memory);
        let peers = self.ports.peers.as_ref();
        let greeted = |id, life| peers.cluster_address(id, life);
        let moved = moved_address(now, &status, greeted);
        // What the core refuses must not be in the way of the others.
        for change in [promotion, moved, removal].into_iter().flatten() {
            if self.is_made(now, change) {
                return;
            }
        }
    }

    /// Proposes on nobody's behalf; whether the core made it its membership.
    fn is_made(&mut self, now: Millis, change: MembershipChange) -> bool {
        if matches!(change, MembershipChange::Remove(_)) {
            tracing::warn!(?change, "autopilot removes a dead server");
        }
        let before = self.driver.status().membership_index;
        let id = self.ports.pending.add_unattended();
        let changes = vec![change];
        self.driver.push(Input::ChangeMembership { id, changes });
        self.driver.step(now, &mut self.ports);
        self.driver.status().membership_index != before
    }

    /// Answers everybody who still waits.
    fn close(mut self) {
        let failed = self.ports.failure.error();
        let error = failed.unwrap_or(PhysicalError::NotRunning);
        for reply in std::mem::take(&mut self.progress.collecting) {
            let _ = reply.send(Err(error.clone()));
        }
        // In one step: who comes later is refused at once.
        for event in self.events.close() {
            match event {
                Event::Propose(Proposal { reply, .. }) | Event::Change(Change { reply, .. }) => {
                    reply.finish(Err(error.clone()));
                }
                Event::Read(reply) => {
                    let _ = reply.send(Err(error.clone()));
                }
                _ => {}
            }
        }
        self.ports.pending.close(&error);
        let term = self.driver.status().term.0;
        self.leadership.send_modify(|leadership| {
            leadership.is_leader = false;
            leadership.leader = None;
            leadership.term = term;
        });
        self.status.stopped();
    }
}

/// Events handled before their effects are carried out, at most.
const BATCH_EVENTS_MAX: usize = 512;
/// How old a published status may be while nothing important changes.
const STATUS_INTERVAL: Millis = Millis(50);
/// How often the leader looks at the members.
const LOOK_INTERVAL: Millis = Millis(250);
/// How often abandoned waiters are forgotten.
const PRUNE_INTERVAL: Millis = Millis(1000);
