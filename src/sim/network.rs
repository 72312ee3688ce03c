//! The network: links with delays and losses, partitions of every shape.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::peer::{Goodbye, Hello};
use crate::raft::message::Message;
use crate::types::{NodeId, RepairMessage};

use super::agenda::Moment;
use super::coverage::Mark;
use super::dice::Dice;
use super::options::LinkWeather;
use super::server::Server;
use super::tale;
use super::world::{Event, Failure, Step, World};

/// What nodes send each other.
#[derive(Clone)]
pub(super) enum Letter {
    /// Of the consensus core.
    Core(Message),
    /// Of lost entries.
    Repair(RepairMessage),
}

/// A message on its way.
pub(super) struct Packet {
    from: usize,
    /// The process that sent it.
    from_run: u64,
    to: usize,
    /// The life it was meant for: a connection does not outlive it.
    to_life: crate::sim::history::Life,
    hello: Arc<Hello>,
    message: Letter,
}

/// One process does not believe that another is what it says.
pub(super) struct Doubt {
    by: usize,
    of: usize,
    goodbye: Goodbye,
}

/// All links, by sender and receiver.
pub(super) struct Network {
    weather: LinkWeather,
    count: usize,
    links: Vec<Link>,
    /// Off while everything is healed.
    pub is_rough: bool,
}

struct Link {
    dice: Dice,
    /// Faults that cut it now; it works at 0.
    cuts: u32,
    /// Faults that slow it now.
    slowed: u32,
    /// When the last message arrives: none overtakes it on an orderly link.
    last_arrival: Moment,
}

/// How a message travels.
struct Travel {
    at: Moment,
    again: Option<Moment>,
    overtakes: bool,
}

impl Network {
    pub fn new(seed: u64, count: usize, weather: LinkWeather) -> Self {
        let links = (0..count * count).map(|number| Link {
            dice: Dice::new(seed, 10_000 + number as u64),
            cuts: 0,
            slowed: 0,
            last_arrival: Moment(0),
        });
        Self {
            weather,
            count,
            links: links.collect(),
            is_rough: true,
        }
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from * self.count + to]
    }

    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.links[from * self.count + to].cuts > 0
    }

    pub fn cut(&mut self, from: usize, to: usize) {
        self.link(from, to).cuts += 1;
    }

    pub fn mend(&mut self, from: usize, to: usize) {
        let link = self.link(from, to);
        link.cuts = link.cuts.saturating_sub(1);
    }

    pub fn slow(&mut self, from: usize, to: usize) {
        self.link(from, to).slowed += 1;
    }

    pub fn hasten(&mut self, from: usize, to: usize) {
        let link = self.link(from, to);
        link.slowed = link.slowed.saturating_sub(1);
    }

    /// Everything works again.
    pub fn heal(&mut self) {
        for link in &mut self.links {
            link.cuts = 0;
            link.slowed = 0;
        }
        self.is_rough = false;
    }

    /// An ordinary delay on a link, in microseconds.
    pub fn delay(&mut self, from: usize, to: usize) -> u64 {
        let (min, max) = (self.weather.delay_min, self.weather.delay_max);
        let link = self.link(from, to);
        let slow = if link.slowed > 0 { SLOW } else { 0 };
        link.dice.within(min, max) + slow
    }

    /// When a message sent now arrives, if it does.
    fn travel(&mut self, now: Moment, from: usize, to: usize) -> Option<Travel> {
        let delay = self.delay(from, to);
        let weather = self.weather.clone();
        let is_rough = self.is_rough;
        let link = self.link(from, to);
        let dice = &mut link.dice;
        if is_rough && dice.permille(weather.loss) {
            return None;
        }
        let mut at = now.plus(delay);
        if is_rough && dice.permille(weather.straggle) {
            at = at.plus(dice.below(weather.straggle_max));
        }
        let again = is_rough && dice.permille(weather.duplication);
        let again = again.then(|| at.plus(dice.below(weather.straggle_max)));
        let overtakes = at < link.last_arrival;
        if overtakes && !(weather.reorders && is_rough) {
            at = link.last_arrival;
        }
        link.last_arrival = link.last_arrival.max(at);
        Some(Travel {
            at,
            again,
            overtakes: overtakes && weather.reorders && is_rough,
        })
    }
}

impl World {
    /// A node sends a message.
    pub fn post(&mut self, from: usize, to: NodeId, message: Letter) {
        let Some(&seat) = self.seats.get(&to) else {
            return;
        };
        let sender = &self.servers[from];
        if !sender.book.can_call(to) {
            return;
        }
        let hello = Arc::clone(&sender.book.hello);
        if self.network.is_cut(from, seat) {
            self.lose(from, seat);
            return;
        }
        let Some(travel) = self.network.travel(self.now, from, seat) else {
            self.hit(Mark::LostMessage);
            self.lose(from, seat);
            return;
        };
        if travel.overtakes {
            self.hit(Mark::OvertakenMessage);
        }
        let from_run = self.servers[from].run;
        let packet = |message| {
            Event::Arrive(Box::new(Packet {
                from,
                from_run,
                to: seat,
                to_life: self.servers[seat].life(),
                hello: Arc::clone(&hello),
                message,
            }))
        };
        if let Some(again) = travel.again {
            self.agenda.add(again, packet(message.clone()));
            self.coverage.hit(Mark::DoubledMessage);
        }
        self.agenda.add(travel.at, packet(message));
    }

    /// A message did not get through; its sender may learn so.
    fn lose(&mut self, from: usize, to: usize) {
        let notices = self.network.weather.notices;
        let dice = &mut self.network.link(from, to).dice;
        if dice.permille(notices) {
            let at = self.now.plus(dice.within(1000, 100_000));
            let (run, peer) = (self.servers[from].run, self.servers[to].id);
            let seat = from;
            self.agenda.add(at, Event::Notice { seat, run, peer });
        }
    }

    pub fn arrive(&mut self, packet: Box<Packet>) -> Step {
        let (from, to) = (packet.from, packet.to);
        let receiver = &self.servers[to];
        if receiver.life() != packet.to_life {
            return Ok(());
        }
        if self.now < receiver.paused_until && receiver.is_running() {
            self.servers[to].deferred.push(Event::Arrive(packet));
            return Ok(());
        }
        let hears = match &packet.message {
            Letter::Core(_) => receiver.node.is_some(),
            Letter::Repair(_) => receiver.is_running(),
        };
        if self.network.is_cut(from, to) || !hears {
            self.lose(from, to);
            return Ok(());
        }
        if let Err(goodbye) = self.greet(from, to, &packet.hello) {
            self.hit(Mark::HelloRefused);
            self.lose(from, to);
            self.say_goodbye(from, to, &packet.hello, goodbye);
            return Ok(());
        }
        if self.servers[to].shunned.contains(&(from, packet.from_run)) {
            self.lose(from, to);
            return Ok(());
        }
        if let Err(doubt) = self.meet(from, packet.from_run, to) {
            self.lose(from, to);
            return self.turn_away(doubt);
        }
        let sender = self.servers[from].id;
        self.story.tell(self.now, || {
            let (from, to) = (&self.servers[from].name, &self.servers[to].name);
            format!("  {from} → {to}: {}", tale::letter(&packet.message))
        });
        let receiver = &self.servers[to];
        match (packet.message, &receiver.node, &receiver.repair) {
            (Letter::Core(message), Some(node), _) => {
                node.witness().note(&packet.hello, &message);
                node.deliver(sender, packet.hello.incarnation, message);
            }
            (Letter::Repair(message), Some(node), _) => node.deliver_repair(sender, message),
            (Letter::Repair(message), None, Some(repair)) => {
                repair.deliver(sender, message);
                return self.repair_turn(to);
            }
            (_, None, _) => {}
        }
        self.request_turn(to);
        Ok(())
    }

    /// Whether both sides speak with each other. The greeting is that of the
    /// connection a message came by; it outlives the process that sent it.
    ///
    /// # Errors
    /// The goodbye of the receiver, if it is the one that refuses.
    pub fn greet(&self, from: usize, to: usize, hello: &Hello) -> Result<(), Option<Goodbye>> {
        let (sender, receiver) = (&self.servers[from], &self.servers[to]);
        receiver.book.judge(hello).map_err(Some)?;
        if sender.incarnation == hello.incarnation {
            let answer = sender.book.judge(&receiver.book.hello);
            answer.map_err(|_| None)?;
        }
        Ok(())
    }

    /// To whom a connection stands.
    pub fn spoken_with(&self, seat: usize) -> BTreeSet<NodeId> {
        let own = &self.servers[seat];
        let speaks = |(other, server): &(usize, &Server)| {
            let met = |one: &Server, seat, run| one.met.contains(&(seat, run));
            server.node.is_some() && (met(own, *other, server.run) || met(server, seat, own.run))
        };
        let others = self.servers.iter().enumerate().filter(speaks);
        others.map(|(_, server)| server.id).collect()
    }

    /// Those that left are spoken with no longer: who comes back greets again.
    pub fn hang_up_on_departed(&mut self, seat: usize) {
        for id in self.servers[seat].book.forget_departed() {
            let Some(&other) = self.seats.get(&id) else {
                continue;
            };
            self.servers[seat].met.retain(|(from, _)| *from != other);
            self.servers[other].met.retain(|(from, _)| *from != seat);
        }
    }

    /// Two processes that meet for the first time look at each other's runs,
    /// and whether either lost what it acknowledged. What a process sent that
    /// is gone by now came by a connection of its own.
    ///
    /// # Errors
    /// Who refuses whom, and why.
    pub fn meet(&mut self, from: usize, run: u64, to: usize) -> Result<(), Doubt> {
        let (sender, receiver) = (&self.servers[from], &self.servers[to]);
        let is_known = receiver.met.contains(&(from, run));
        let (Some(caller), Some(called)) = (&sender.node, &receiver.node) else {
            return Ok(());
        };
        if is_known || sender.run != run {
            return Ok(());
        }
        let answers = |asker: usize, node: NodeId, run| {
            let is_it = |(seat, server): &(usize, &Server)| {
                let process = server.node.as_ref().filter(|_| server.is_awake(self.now));
                server.id == node
                    && process.is_some_and(|process| process.run() == run)
                    && !self.network.is_cut(*seat, asker)
                    && !self.network.is_cut(asker, *seat)
            };
            self.servers.iter().enumerate().any(|one| is_it(&one))
        };
        let greeted = called
            .witness()
            .greet(&sender.hello(), |older| answers(to, sender.id, older));
        let doubt = |by, of| move |goodbye| Doubt { by, of, goodbye };
        greeted.map_err(doubt(to, from))?;
        let answered = caller
            .witness()
            .greet(&receiver.hello(), |older| answers(from, receiver.id, older));
        answered.map_err(doubt(from, to))?;
        self.servers[to].met.insert((from, run));
        Ok(())
    }

    /// The refused one hears why, and believes what is proved.
    fn say_goodbye(&mut self, from: usize, to: usize, hello: &Hello, goodbye: Option<Goodbye>) {
        let Some(goodbye) = goodbye else {
            return;
        };
        if self.servers[from].incarnation == hello.incarnation {
            self.tell_goodbye(to, from, goodbye);
        }
    }

    /// A process doubts that another is what it says, and tells it so. Among
    /// honest ones that must not happen.
    ///
    /// # Errors
    /// Neither of the two is an impostor.
    pub fn turn_away(&mut self, doubt: Doubt) -> Step {
        let Doubt { by, of, goodbye } = doubt;
        let (refuser, refused) = (&self.servers[by], &self.servers[of]);
        let text = format!("{} refuses {}: {goodbye}", refuser.name, refused.name);
        if !refuser.is_impostor && !refused.is_impostor {
            return Err(Failure {
                kind: "HonestRefused".into(),
                details: text,
            });
        }
        self.story.tell(self.now, || text);
        let (refuser, refused) = (self.servers[by].run, self.servers[of].run);
        self.servers[by].shunned.insert((of, refused));
        self.servers[of].shunned.insert((by, refuser));
        self.tell_goodbye(by, of, goodbye);
        Ok(())
    }

    fn tell_goodbye(&mut self, to: usize, from: usize, goodbye: Goodbye) {
        if self.network.is_cut(to, from) {
            return;
        }
        let (seat, run, peer) = (from, self.servers[from].run, self.servers[to].id);
        let at = self.now.plus(self.network.delay(to, from));
        let goodbye = Box::new(goodbye);
        self.agenda.add(
            at,
            Event::Refused {
                seat,
                run,
                peer,
                goodbye,
            },
        );
    }
}

/// What a slow link adds, in microseconds.
const SLOW: u64 = 300_000;
