//! The cluster and everything around it, driven by one queue of events.

use std::collections::BTreeMap;

use crate::peer::Goodbye;
use crate::types::NodeId;

use super::agenda::{Agenda, Moment};
use super::clients::{Clients, GaveUp};
use super::clock::Clock;
use super::coverage::{Coverage, Mark};
use super::dice::Dice;
use super::history::{History, Observer, Verdict};
use super::network::{Network, Packet};
use super::plan::Plan;
use super::server::Server;
use super::spec::Refinement;
use super::story::Story;
use super::streams::Streams;
use super::troubles::Trouble;

/// Something that will happen.
pub(super) enum Event {
    /// A raft thread gets a turn.
    Wake { seat: usize, run: u64 },
    /// A WAL thread has written.
    WriteEnds { seat: usize, run: u64 },
    /// A WAL thread found nothing to do since that write.
    Idle { seat: usize, run: u64, writes: u64 },
    /// An apply thread gets a turn.
    Apply { seat: usize, run: u64 },
    /// A snapshotter has written.
    SnapshotEnds { seat: usize, run: u64 },
    /// The power fails while something is being written.
    PowerFails { seat: usize, run: u64 },
    /// Members that left are no longer spoken with.
    Forget { seat: usize, run: u64 },
    /// A message arrives.
    Arrive(Box<Packet>),
    /// A sender learns that a peer cannot be reached.
    Notice { seat: usize, run: u64, peer: NodeId },
    /// A peer refuses to speak with a node, and says why.
    Refused {
        seat: usize,
        run: u64,
        peer: NodeId,
        goodbye: Box<Goodbye>,
    },
    /// A snapshot stream goes on.
    Stream(u64),
    /// A failed stream is reported to its sender.
    StreamFailed { seat: usize, run: u64, to: NodeId },
    /// Something planned is done.
    Act(usize),
    /// A fault ends.
    Ends(Trouble),
    /// A process starts.
    Start { seat: usize },
    /// A client loses patience.
    GiveUp(GaveUp),
    /// A node that repairs its log asks again.
    RepairRound { seat: usize, run: u64 },
    /// The operator looks after lost members.
    Care,
}

/// Why a run failed. Two runs fail alike when `kind` is equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The property, or the place of a panic.
    pub kind: String,
    /// What was found, in words.
    pub details: String,
}

/// What most methods give: the first failure ends the run.
pub(super) type Step = Result<(), Failure>;

/// See the module.
pub(super) struct World {
    pub plan: Plan,
    pub now: Moment,
    pub agenda: Agenda<Event>,
    pub servers: Vec<Server>,
    pub seats: BTreeMap<NodeId, usize>,
    pub network: Network,
    pub streams: Streams,
    pub clients: Clients,
    pub history: History,
    pub refinement: Refinement,
    pub coverage: Coverage,
    pub story: Story,
    /// Details of processes and disks that no planned act decides.
    pub dice: Dice,
    pub disk_dice: Dice,
    pub steps: u64,
    pub watched: super::processes::Watched,
    /// Faults are over: nothing planned is done any more.
    pub is_calm: bool,
}

impl World {
    pub fn new(plan: Plan, story: Story) -> Self {
        let mut dice = Dice::new(plan.seed, 3);
        let weather = &plan.options.clock;
        let count = plan.options.servers();
        let mut servers = Vec::new();
        for seat in 0..count {
            let rate = dice.within(weather.rate_min, weather.rate_max);
            let clock = Clock::new(Moment(0), dice.below(100_000), rate);
            let incarnation = crate::types::Incarnation(dice.roll());
            servers.push(Server::new(seat, incarnation, clock));
        }
        let seats = servers.iter().enumerate();
        let seats = seats.map(|(seat, server)| (server.id, seat)).collect();
        Self {
            network: Network::new(plan.seed, count, plan.options.link.clone()),
            clients: Clients::new(&plan.options.load),
            streams: Streams::default(),
            history: History::default(),
            refinement: Refinement::default(),
            coverage: Coverage::default(),
            disk_dice: Dice::new(plan.seed, 4),
            watched: super::processes::Watched::default(),
            now: Moment(0),
            agenda: Agenda::new(),
            steps: 0,
            is_calm: false,
            plan,
            servers,
            seats,
            story,
            dice,
        }
    }

    /// Lets everything happen that is due by `end`.
    pub fn run_until(&mut self, end: Moment) -> Step {
        while let Some((at, event)) = self.agenda.next_until(end) {
            self.now = at;
            self.steps += 1;
            self.happen(event)?;
        }
        self.now = end;
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Step {
        // A process that stands still does nothing; its time comes later.
        if let Some((seat, run)) = event.process() {
            let server = &self.servers[seat];
            if !server.is_running() || server.run != run {
                return Ok(());
            }
            if self.now < server.paused_until {
                self.servers[seat].deferred.push(event);
                return Ok(());
            }
        }
        match event {
            Event::Wake { seat, .. } => self.wake(seat),
            Event::WriteEnds { seat, .. } => self.write_ends(seat),
            Event::Idle { seat, writes, .. } => self.idle(seat, writes),
            Event::Apply { seat, .. } => self.apply(seat),
            Event::SnapshotEnds { seat, .. } => self.snapshot_ends(seat),
            Event::PowerFails { seat, .. } => self.power_fails(seat),
            Event::Forget { seat, .. } => {
                self.hang_up_on_departed(seat);
                Ok(())
            }
            Event::Arrive(packet) => self.arrive(packet),
            Event::Notice { seat, peer, .. } => {
                if let Some(node) = &self.servers[seat].node {
                    node.unreachable(peer);
                }
                self.request_turn(seat);
                Ok(())
            }
            Event::Refused {
                seat,
                peer,
                goodbye,
                ..
            } => {
                let server = &self.servers[seat];
                if let Some(repair) = &server.repair {
                    repair.refused(peer, &goodbye);
                    return self.repair_turn(seat);
                }
                if let Some(node) = &server.node {
                    node.refused(peer, &goodbye);
                }
                self.request_turn(seat);
                Ok(())
            }
            Event::Stream(number) => self.stream_goes_on(number),
            Event::StreamFailed { seat, to, .. } => {
                if let Some(node) = &self.servers[seat].node {
                    node.streamed(to, None);
                }
                self.request_turn(seat);
                Ok(())
            }
            Event::Act(number) => self.act(number),
            Event::Ends(trouble) => {
                self.end(trouble);
                Ok(())
            }
            Event::Start { seat } => self.start(seat),
            Event::GiveUp(gave_up) => {
                self.give_up(gave_up);
                Ok(())
            }
            Event::RepairRound { seat, .. } => self.repair_round(seat),
            Event::Care => self.care(),
        }
    }

    /// A process that stood still, if it still does, goes on.
    pub fn wake_up(&mut self, seat: usize) {
        let server = &mut self.servers[seat];
        server.paused_until = self.now;
        for event in std::mem::take(&mut server.deferred) {
            self.agenda.add(self.now, event);
        }
    }

    /// The server that leads, as far as it knows itself, in the newest term.
    pub fn leader(&self) -> Option<usize> {
        self.watched.leader(&self.servers)
    }

    pub fn hit(&mut self, mark: Mark) {
        self.coverage.hit(mark);
    }

    /// Tells every observer of what the server did; the first that finds a
    /// violation ends the run. Impostors are judged by what others make of them.
    pub fn check(&mut self, seat: usize, tell: impl Fn(&mut dyn Observer) -> Verdict) -> Step {
        if self.servers[seat].is_impostor {
            return Ok(());
        }
        let observers: [&mut dyn Observer; 2] = [&mut self.history, &mut self.refinement];
        let verdict = {
            let mut verdicts = observers.into_iter().map(tell);
            verdicts.find(Verdict::is_err).unwrap_or(Ok(()))
        };
        verdict.map_err(|violation| Failure {
            kind: format!("{:?}", violation.property),
            details: super::tale::named(self, &violation.to_string()),
        })
    }

    /// Names a server in a story.
    pub fn name(&self, id: NodeId) -> String {
        let seat = self.seats.get(&id);
        seat.map_or_else(
            || format!("{id:?}"),
            |seat| self.servers[*seat].name.clone(),
        )
    }
}

impl Event {
    /// The process it is meant for.
    fn process(&self) -> Option<(usize, u64)> {
        match self {
            Self::Wake { seat, run }
            | Self::WriteEnds { seat, run }
            | Self::Idle { seat, run, .. }
            | Self::Apply { seat, run }
            | Self::SnapshotEnds { seat, run }
            | Self::Forget { seat, run }
            | Self::PowerFails { seat, run }
            | Self::RepairRound { seat, run }
            | Self::Notice { seat, run, .. }
            | Self::Refused { seat, run, .. }
            | Self::StreamFailed { seat, run, .. } => Some((*seat, *run)),
            _ => None,
        }
    }
}
