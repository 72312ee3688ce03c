//! The life of processes: starting, the turns of their threads, ending.

use crate::node::manual::{Happening, ManualNode, create_directory};
use crate::node::{IdentityError, NodeError};
use crate::raft::{Effect, Input, Role, Status};
use crate::types::{Membership, MembershipChange, NodeId, Term};
use crate::wal::WalError;

use super::coverage::Mark;
use super::dice::Dice;
use super::history::Step as CoreStep;
use super::network::Letter;
use super::operator::Wishes;
use super::server::{Ambush, Presence, Server};
use super::tale;
use super::world::{Event, Failure, Step, World};

/// What the world remembers of cores from step to step.
#[derive(Default)]
pub(super) struct Watched {
    /// The newest leader and its term.
    newest: Option<(Term, usize)>,
    /// Who entered the joint membership that is under way.
    joint_by: Option<usize>,
    pub wishes: Wishes,
}

impl Watched {
    pub fn leader(&self, servers: &[Server]) -> Option<usize> {
        let (term, seat) = self.newest?;
        let status = servers[seat].node.as_ref()?.status();
        (status.role == Role::Leader && status.term == term).then_some(seat)
    }
}

impl World {
    /// Makes the directories of the founders and starts them.
    pub fn found(&mut self) -> Step {
        let voters = self.plan.options.voters;
        let founders = voters + self.plan.options.learners;
        let ids: Vec<NodeId> = self.servers.iter().map(|server| server.id).collect();
        let membership = Membership {
            voters: ids[..voters].iter().copied().collect(),
            learners: ids[voters..founders].iter().copied().collect(),
            members: self.servers[..founders]
                .iter()
                .map(|server| (server.id, server.member()))
                .collect(),
            ..Membership::default()
        };
        for seat in 0..self.servers.len() {
            let first = (seat < founders).then(|| membership.clone());
            self.create(seat, first)?;
            self.start(seat)?;
        }
        Ok(())
    }

    /// Makes an empty data directory.
    pub fn create(&mut self, seat: usize, founder: Option<Membership>) -> Step {
        let salt = self.dice.roll();
        let members: Vec<NodeId> = self.seats.keys().copied().collect();
        let server = &mut self.servers[seat];
        let options = server.options(&self.plan.options.node, salt);
        server.book = super::server::Book::new(&server.name, server.id, server.incarnation);
        server.book.learned.extend(members);
        create_directory(
            &options,
            super::server::CLUSTER,
            server.incarnation,
            founder,
        )
        .map_err(|error| Failure {
            kind: "Create".into(),
            details: format!("{}: {error:?}", server.name),
        })
    }

    /// Starts a process on what its disk holds.
    pub fn start(&mut self, seat: usize) -> Step {
        let salt = self.dice.roll();
        let server = &mut self.servers[seat];
        if server.is_running() || server.presence != Presence::Down {
            return Ok(());
        }
        server.run += 1;
        let options = server.options(&self.plan.options.node, salt);
        let now = server.clock.read(self.now);
        match ManualNode::open(&options, now) {
            Ok((mut node, recovered)) => {
                let life = server.life();
                let status = node.status();
                let torn = node.cut_a_torn_tail();
                let sets_aside = node.set_a_snapshot_aside();
                node.begin(now);
                server.node = Some(node);
                server.presence = Presence::Up;
                server.apply_is_due = false;
                server.wake_at = None;
                server.is_marked = false;
                server.met.clear();
                server.shunned.clear();
                self.story.tell(self.now, || {
                    format!(
                        "{} starts: {}",
                        self.servers[seat].name,
                        tale::status(&status)
                    )
                });
                if torn {
                    self.hit(Mark::TornTail);
                }
                if sets_aside {
                    self.hit(Mark::SnapshotSetAside);
                }
                if recovered.snapshot.is_some() && self.servers[seat].run > 1 {
                    self.hit(Mark::RestartedWithSnapshot);
                }
                self.check(seat, |history| history.started(life, &recovered, &status))?;
                let run = self.servers[seat].run;
                let idle = self.now.plus(IDLE_BEFORE_MARK);
                self.agenda.add(
                    idle,
                    Event::Idle {
                        seat,
                        run,
                        writes: 0,
                    },
                );
                self.servers[seat].writes = 0;
                self.settle(seat)
            }
            Err(error) => self.refused_to_start(seat, &error),
        }
    }

    fn refused_to_start(&mut self, seat: usize, error: &NodeError) -> Step {
        let server = &mut self.servers[seat];
        let name = server.name.clone();
        self.story
            .tell(self.now, || format!("{name} does not start: {error:?}"));
        let environment = matches!(
            error,
            NodeError::Log(WalError::Disk(_) | WalError::Poisoned(_))
                | NodeError::Directory(_)
                | NodeError::Identity(IdentityError::Disk(_))
                | NodeError::Snapshots(crate::snapshot::SnapshotError::Disk(_))
        );
        if environment && (server.is_faulty || server.disk.is_off()) {
            let later = self.now.plus_milliseconds(1000);
            self.agenda.add(later, Event::Start { seat });
            return Ok(());
        }
        if !server.is_rotten {
            return Err(Failure {
                kind: "RefusedToStart".into(),
                details: format!("{name} refuses a disk that nobody damaged: {error:?}"),
            });
        }
        self.hit(Mark::DamageDetected);
        self.begin_repair(seat, error)
    }

    /// The raft thread gets its turn soon.
    pub fn request_turn(&mut self, seat: usize) {
        let delay = self.dice.below(self.plan.options.clock.wake_max);
        let at = self.now.plus(delay);
        self.wake_by(seat, at);
    }

    fn wake_by(&mut self, seat: usize, at: super::agenda::Moment) {
        let server = &mut self.servers[seat];
        if server.node.is_none() || server.wake_at.is_some_and(|planned| planned <= at) {
            return;
        }
        server.wake_at = Some(at);
        let run = server.run;
        self.agenda.add(at, Event::Wake { seat, run });
    }

    /// A turn of the raft thread.
    pub fn wake(&mut self, seat: usize) -> Step {
        let server = &mut self.servers[seat];
        // Only the earliest of the wakes asked for counts; a pause may have
        // made it late.
        if server.wake_at.is_none_or(|planned| self.now < planned) {
            return Ok(());
        }
        server.wake_at = None;
        let now = server.clock.read(self.now);
        if let Some(node) = &mut server.node {
            node.raft_turn(now);
        }
        self.settle(seat)
    }

    /// Carries out whatever a turn of some thread led to.
    pub fn settle(&mut self, seat: usize) -> Step {
        let Some(node) = &self.servers[seat].node else {
            return Ok(());
        };
        for happening in node.take_happenings() {
            self.note(seat, happening)?;
        }
        let Some(node) = &self.servers[seat].node else {
            return Ok(());
        };
        if node.is_dead() {
            self.hit(Mark::CrashBetweenEffects);
            self.restart_later(seat);
            return self.crash(seat, Ending::AnyDisk);
        }
        if self.servers[seat].disk.is_off() {
            self.hit(Mark::PowerCut);
            self.restart_later(seat);
            return self.crash(seat, Ending::AnyDisk);
        }
        if let Some(reason) = node.failure() {
            return if node.is_refused() {
                self.identity_refused(seat, &reason)
            } else {
                self.storage_failed(seat, &reason)
            };
        }
        self.poll(seat);
        self.plan_turns(seat);
        Ok(())
    }

    fn storage_failed(&mut self, seat: usize, reason: &str) -> Step {
        let server = &self.servers[seat];
        let name = server.name.clone();
        self.story
            .tell(self.now, || format!("{name} stops: {reason}"));
        if !server.is_faulty && !server.is_rotten {
            return Err(Failure {
                kind: "StorageFailed".into(),
                details: format!("{name} stops without a fault of its disk: {reason}"),
            });
        }
        self.hit(Mark::DiskError);
        self.restart_later(seat);
        self.crash(seat, Ending::AnyDisk)
    }

    /// Somebody starts the process again.
    pub fn restart_later(&mut self, seat: usize) {
        let at = self.now.plus_milliseconds(self.disk_dice.within(10, 5000));
        self.agenda.add(at, Event::Start { seat });
    }

    fn plan_turns(&mut self, seat: usize) {
        let server = &mut self.servers[seat];
        let run = server.run;
        let Some(node) = &mut server.node else {
            return;
        };
        let deadline = server.clock.when(self.now, node.deadline());
        let writes = node.begin_write();
        if writes {
            let ends = self.write_time(seat);
            self.agenda.add(ends, Event::WriteEnds { seat, run });
            self.spring(seat, Ambush::Write, ends);
        }
        if self.servers[seat].apply_is_due {
            self.servers[seat].apply_is_due = false;
            let delay = self.disk_dice.below(self.plan.options.clock.wake_max);
            let at = self.now.plus(delay);
            self.agenda.add(at, Event::Apply { seat, run });
        }
        let lateness = self.dice.below(self.plan.options.clock.lateness_max + 1);
        if deadline.0 != u64::MAX {
            self.wake_by(seat, deadline.plus(lateness));
        }
    }

    /// If somebody waits for a write to begin, the power fails during it.
    fn spring(&mut self, seat: usize, ambush: Ambush, ends: super::agenda::Moment) {
        let server = &mut self.servers[seat];
        if server.ambush == Some(ambush) {
            server.ambush = None;
            let left = ends.0.saturating_sub(self.now.0);
            let at = self.now.plus(self.disk_dice.below(left));
            let run = server.run;
            self.agenda.add(at, Event::PowerFails { seat, run });
        }
    }

    pub fn power_fails(&mut self, seat: usize) -> Step {
        if self.is_calm {
            return Ok(());
        }
        self.hit(Mark::PowerCut);
        self.restart_later(seat);
        self.crash(seat, Ending::AnyDisk)
    }

    fn write_time(&mut self, seat: usize) -> super::agenda::Moment {
        let disk = &self.plan.options.disk;
        let dice = &mut self.disk_dice;
        let mut time = dice.within(disk.write_min, disk.write_max);
        if self.network.is_rough && dice.permille(disk.hiccup) {
            time *= dice.within(2, 100);
        }
        self.now.max(self.servers[seat].stalled_until).plus(time)
    }

    pub fn write_ends(&mut self, seat: usize) -> Step {
        let server = &mut self.servers[seat];
        if self.now < server.stalled_until {
            let (at, run) = (server.stalled_until, server.run);
            self.agenda.add(at, Event::WriteEnds { seat, run });
            return Ok(());
        }
        let life = server.life();
        let Some(node) = &mut server.node else {
            return Ok(());
        };
        if let Ok(Some(mark)) = node.finish_write() {
            server.is_marked = false;
            server.writes += 1;
            let (run, writes) = (server.run, server.writes);
            self.check(seat, |history| history.durable(life, mark))?;
            let idle = self.now.plus(IDLE_BEFORE_MARK);
            self.agenda.add(idle, Event::Idle { seat, run, writes });
            self.request_turn(seat);
        }
        self.settle(seat)
    }

    pub fn idle(&mut self, seat: usize, writes: u64) -> Step {
        let server = &mut self.servers[seat];
        let Some(node) = &mut server.node else {
            return Ok(());
        };
        if server.writes != writes || node.is_writing() || self.now < server.stalled_until {
            return Ok(());
        }
        // A failure latches, and is found when things settle.
        if node.mark_idle().is_ok() {
            server.is_marked = true;
        }
        self.settle(seat)
    }

    pub fn apply(&mut self, seat: usize) -> Step {
        let server = &mut self.servers[seat];
        let life = server.life();
        let Some(node) = &mut server.node else {
            return Ok(());
        };
        let executed = node.apply_turn();
        let snapshots = node.begin_snapshot();
        let run = server.run;
        if let Ok(Some(executed)) = executed {
            server.apply_is_due = true;
            let (first, last) = (executed.first, executed.last);
            if first <= last {
                let digest = tale::digest(&executed.view);
                self.check(seat, |history| history.executed(life, first, last, digest))?;
            } else if executed.is_restored {
                let digest = tale::digest(&executed.view);
                self.hit(Mark::SnapshotRestored);
                self.check(seat, |history| history.executed(life, first, last, digest))?;
            }
        }
        if snapshots {
            let time = self.disk_dice.below(self.plan.options.disk.snapshot_max);
            let at = self.now.max(self.servers[seat].stalled_until).plus(time);
            self.agenda.add(at, Event::SnapshotEnds { seat, run });
            self.spring(seat, Ambush::Snapshot, at);
        }
        self.settle(seat)
    }

    /// What its disk was busy with takes no longer than usual now.
    pub fn end_stall(&mut self, seat: usize) {
        self.servers[seat].stalled_until = self.now;
        let at = self.write_time(seat);
        let server = &self.servers[seat];
        let run = server.run;
        let Some(node) = &server.node else {
            return;
        };
        if node.is_writing() {
            self.agenda.add(at, Event::WriteEnds { seat, run });
        }
        if node.is_snapshotting() {
            self.agenda.add(at, Event::SnapshotEnds { seat, run });
        }
    }

    pub fn snapshot_ends(&mut self, seat: usize) -> Step {
        if let Some(node) = &mut self.servers[seat].node
            && node.is_snapshotting()
        {
            let before = node.snapshot_files().first().map(|file| file.0.index);
            node.finish_snapshot();
            let after = node.snapshot_files().first().map(|file| file.0.index);
            let written = before != after;
            self.hit(if written {
                Mark::SnapshotTaken
            } else {
                Mark::SnapshotGivenUp
            });
            self.servers[seat].apply_is_due = true;
            self.request_turn(seat);
        }
        self.settle(seat)
    }

    pub fn note(&mut self, seat: usize, happening: Happening) -> Step {
        let life = self.servers[seat].life();
        match happening {
            Happening::Stepped {
                now,
                inputs,
                effects,
                status,
            } => {
                let step = CoreStep {
                    life,
                    now,
                    inputs: &inputs,
                    effects: &effects,
                    status: &status,
                };
                if !self.servers[seat].is_impostor {
                    self.note_marks(seat, &inputs, &effects, &status);
                }
                if self.story.is_told() {
                    self.tell_step(seat, &inputs, &effects, &status);
                }
                self.check(seat, |history| history.stepped(&step))
            }
            Happening::Sent { to, message } => {
                self.check(seat, |history| history.sent(life, to, &message))?;
                self.post(seat, to, Letter::Core(message));
                Ok(())
            }
            Happening::SpokeOfRepair { to, message } => {
                self.post(seat, to, Letter::Repair(message));
                Ok(())
            }
            Happening::StreamWanted { to, least } => {
                self.begin_stream(seat, to, least);
                Ok(())
            }
            Happening::Committed(proof) => {
                let spoken_with = self.spoken_with(seat);
                let server = &mut self.servers[seat];
                if let Some(node) = &server.node {
                    let members = &proof.membership.members;
                    let keep = |id| members.contains_key(&id) || spoken_with.contains(&id);
                    node.witness().retain(keep);
                }
                server.book.committed = Some(proof);
                Ok(())
            }
            Happening::Members { index, members } => {
                let server = &mut self.servers[seat];
                if server.book.change(index, members) {
                    let run = server.run;
                    let later = self.now.plus_milliseconds(FAREWELL);
                    self.agenda.add(later, Event::Forget { seat, run });
                }
                Ok(())
            }
        }
    }

    /// Tells of a step that did something, or left the node another.
    fn tell_step(&mut self, seat: usize, inputs: &[Input], effects: &[Effect], status: &Status) {
        let (text, state) = (tale::step(self, inputs, effects), tale::status(status));
        let server = &mut self.servers[seat];
        if text.is_empty() && server.told == state {
            return;
        }
        let name = &server.name;
        self.story
            .tell(self.now, || format!("{name} [{state}] {text}"));
        server.told = state;
    }

    fn note_marks(&mut self, seat: usize, inputs: &[Input], effects: &[Effect], status: &Status) {
        if status.role == Role::Leader && self.watched.newest.is_none_or(|new| new.0 < status.term)
        {
            self.watched.newest = Some((status.term, seat));
            self.hit(Mark::Elected);
            self.note_transfer(seat);
        }
        if self.servers[seat].membership != status.membership {
            self.servers[seat].membership = std::sync::Arc::clone(&status.membership);
        }
        if status.removed {
            self.hit(Mark::Removed);
        }
        let promotes = |input: &Input| match input {
            Input::ChangeMembership { changes, .. } => {
                matches!(changes[..], [MembershipChange::Promote(_), ..])
            }
            _ => false,
        };
        if self.watched.wishes.is_idle() && inputs.iter().any(promotes) {
            self.hit(Mark::AutopilotPromoted);
        }
        for effect in effects {
            self.note_effect(seat, effect, status);
        }
    }

    fn note_effect(&mut self, seat: usize, effect: &Effect, status: &Status) {
        {
            match effect {
                Effect::Apply { .. } | Effect::RestoreSnapshot(_) | Effect::ReadReady { .. } => {
                    self.servers[seat].apply_is_due = true;
                }
                Effect::SendFromLog { .. } => self.hit(Mark::ReadFromLog),
                Effect::Purge { .. } => self.hit(Mark::LogPurged),
                Effect::Persist { write, .. } if write.truncate_from.is_some() => {
                    self.hit(Mark::LogTruncated);
                }
                Effect::MembershipActive { membership, .. } if status.role == Role::Leader => {
                    if membership.is_joint() {
                        self.watched.joint_by.get_or_insert(seat);
                        self.hit(Mark::JointEntered);
                    } else if let Some(by) = self.watched.joint_by.take()
                        && by != seat
                    {
                        self.hit(Mark::JointLeftByOther);
                    }
                }
                _ => {}
            }
        }
    }

    /// A process ends, and what its disk held unsynced may be lost.
    pub fn crash(&mut self, seat: usize, ending: Ending) -> Step {
        let life = self.servers[seat].life();
        let leads = self.leader() == Some(seat);
        if self.servers[seat].repair.is_some() {
            self.end_of_repair(seat);
            return Ok(());
        }
        let Some(mut node) = self.servers[seat].node.take() else {
            return Ok(());
        };
        let mut dice = Dice::new(self.disk_dice.roll(), 0);
        let server = &mut self.servers[seat];
        let disk = server.disk.clone();
        if node.is_writing() && !disk.is_off() {
            // The write is somewhere between its first call and its last.
            disk.power_off_at(disk.calls() + dice.below(3));
            let _ = node.finish_write();
            self.coverage.hit(Mark::PowerCutInWrite);
            if leads {
                self.coverage.hit(Mark::LeaderCrashedBeforeAck);
            }
        }
        if node.is_snapshotting() && !disk.is_off() {
            disk.power_off_at(disk.calls() + dice.below(6));
            node.finish_snapshot();
            self.coverage.hit(Mark::PowerCutInSnapshot);
        }
        let survivor = match ending {
            Ending::AnyDisk => disk.crash_seeded(dice.roll()),
            Ending::KeptDisk => disk.duplicate(),
        };
        server.is_marked &= !node.is_unmarked();
        server.disk = survivor;
        server.presence = Presence::Down;
        server.wake_at = None;
        server.is_faulty = false;
        server.ambush = None;
        server.stalled_until = self.now;
        self.wake_up(seat);
        self.streams.end_of_process(seat);
        self.drop_process(seat, node);
        let name = self.servers[seat].name.clone();
        self.story.tell(self.now, || format!("{name} is gone"));
        self.check(seat, |history| history.crashed(life))
    }
}

/// What becomes of writes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The machine lost power: each is kept, lost or torn.
    AnyDisk,
    /// Only the process ended: the system writes them.
    KeptDisk,
}

/// As the WAL thread of a real node waits, in microseconds.
const IDLE_BEFORE_MARK: u64 = 20_000;
/// As the transport of a real node speaks with those that left.
const FAREWELL: u64 = 5000;
