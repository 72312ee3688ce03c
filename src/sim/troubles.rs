//! Carrying out what was planned: faults and what ends them.

use std::path::{Path, PathBuf};

use crate::disk::{BLOCK_BYTES, Disk};

use super::coverage::Mark;
use super::dice::Dice;
use super::plan::Act;
use super::processes::Ending;
use super::server::{Ambush, Presence};
use super::world::{Event, Step, World};

/// A fault that lasts; ending it undoes exactly what it did.
pub(super) enum Trouble {
    /// These links are cut.
    Cut(Vec<(usize, usize)>),
    /// The links of this server are slow.
    Slow(usize),
    /// The disk of this server is full.
    Full(usize),
    /// This server stands still.
    Pause(usize),
}

impl World {
    /// Does what was planned as number `number`.
    pub fn act(&mut self, number: usize) -> Step {
        if self.is_calm {
            return Ok(());
        }
        let planned = self.plan.acts[number].clone();
        let mut dice = planned.dice;
        let dice = &mut dice;
        match planned.act {
            Act::Request => self.request(dice),
            Act::Crash => return self.end_process(dice),
            Act::PowerCut => self.cut_power(dice),
            Act::Pause => self.pause(dice),
            Act::Partition => self.part(dice),
            Act::Bridge => self.bridge(dice),
            Act::OneWay => self.one_way(dice),
            Act::Deaf => self.deafen(dice),
            Act::Slow => self.slow_down(dice),
            Act::Stall => self.stall(dice),
            Act::DiskError => self.fail_disk(dice),
            Act::DiskFull => self.fill_disk(dice),
            Act::Rot => return self.rot(dice),
            Act::Wipe => return self.wipe(dice),
            Act::ClockRate => self.change_clock(dice),
            Act::ClockJump => self.jump_clock(dice),
            Act::CutStream => self.cut_some_stream(dice),
            Act::Membership => self.wish_membership(dice),
            Act::Transfer => self.wish_transfer(dice),
        }
        Ok(())
    }

    /// Any server, the leader half of the time.
    pub fn victim(&self, dice: &mut Dice) -> usize {
        let anybody = dice.index(self.servers.len());
        let leader = self.leader();
        leader.filter(|_| dice.percent(50)).unwrap_or(anybody)
    }

    fn end_process(&mut self, dice: &mut Dice) -> Step {
        let seat = self.victim(dice);
        if self.servers[seat].node.is_none() {
            return Ok(());
        }
        if dice.percent(70)
            && let Some(node) = &self.servers[seat].node
        {
            // The next step with effects is not carried out to its end.
            let effects = u32::try_from(1 + dice.below(6)).unwrap_or(1);
            node.die_after(effects);
            self.tell_of(seat, || format!("lives for {effects} more effects"));
            return Ok(());
        }
        let kept = dice.percent(50);
        self.tell_of(seat, || "ends".into());
        let ending = if kept {
            Ending::KeptDisk
        } else {
            Ending::AnyDisk
        };
        self.restart_later(seat);
        self.crash(seat, ending)
    }

    fn cut_power(&mut self, dice: &mut Dice) {
        let seat = self.victim(dice);
        let server = &mut self.servers[seat];
        if server.node.is_none() {
            return;
        }
        let ambush = dice.pick(&[None, Some(Ambush::Write), Some(Ambush::Snapshot)]);
        server.ambush = ambush;
        let mut calls = 0;
        if ambush.is_none() {
            calls = dice.below(12);
            server.disk.power_off_at(server.disk.calls() + calls);
            server.is_faulty = true;
        }
        self.tell_of(seat, || match ambush {
            None => format!("will lose power after {calls} disk calls"),
            Some(Ambush::Write) => "will lose power in its next log write".into(),
            Some(Ambush::Snapshot) => "will lose power in its next snapshot".into(),
        });
    }

    fn fail_disk(&mut self, dice: &mut Dice) {
        let seat = self.victim(dice);
        let server = &mut self.servers[seat];
        let calls = dice.below(12);
        server.disk.fail_at(server.disk.calls() + calls);
        server.is_faulty = true;
        self.tell_of(seat, || {
            format!("has a disk that fails after {calls} calls")
        });
    }

    fn fill_disk(&mut self, dice: &mut Dice) {
        let seat = self.victim(dice);
        let server = &mut self.servers[seat];
        server.disk.set_full(true);
        server.is_faulty = true;
        let ends = self.now.plus_milliseconds(dice.within(500, 5000));
        self.tell_of(seat, || format!("has a full disk until {ends:?}"));
        self.agenda.add(ends, Event::Ends(Trouble::Full(seat)));
        self.hit(Mark::DiskFull);
    }

    fn pause(&mut self, dice: &mut Dice) {
        let seat = self.victim(dice);
        let ends = self.now.plus_milliseconds(dice.within(50, 4000));
        if self.leader() == Some(seat) {
            self.hit(Mark::LeaderPaused);
        }
        self.servers[seat].paused_until = ends;
        self.tell_of(seat, || format!("stands still until {ends:?}"));
        self.agenda.add(ends, Event::Ends(Trouble::Pause(seat)));
        self.hit(Mark::Paused);
    }

    fn stall(&mut self, dice: &mut Dice) {
        let seat = self.victim(dice);
        let ends = self.now.plus_milliseconds(dice.within(100, 8000));
        if self.leader() == Some(seat) {
            self.hit(Mark::LeaderStalled);
        }
        self.servers[seat].stalled_until = ends;
        self.tell_of(seat, || format!("has a disk that stalls until {ends:?}"));
        self.hit(Mark::Stalled);
    }

    /// Says what befalls a server.
    fn tell_of(&mut self, seat: usize, what: impl FnOnce() -> String) {
        let name = &self.servers[seat].name;
        self.story.tell(self.now, || format!("* {name} {}", what()));
    }

    /// Cuts links for a while.
    pub fn cut_for(&mut self, links: Vec<(usize, usize)>, milliseconds: u64) {
        for (from, to) in &links {
            self.network.cut(*from, *to);
        }
        let ends = self.now.plus_milliseconds(milliseconds);
        self.story.tell(self.now, || {
            let name = |seat: usize| self.servers[seat].name.as_str();
            let cut = links
                .iter()
                .map(|(from, to)| format!("{}→{}", name(*from), name(*to)));
            let cut = cut.collect::<Vec<_>>().join(" ");
            format!("* until {ends:?} nothing passes {cut}")
        });
        self.agenda.add(ends, Event::Ends(Trouble::Cut(links)));
    }

    fn part(&mut self, dice: &mut Dice) {
        let sides: Vec<bool> = self.servers.iter().map(|_| dice.percent(50)).collect();
        let links = pairs(sides.len()).filter(|(a, b)| sides[*a] != sides[*b]);
        let links: Vec<(usize, usize)> = links.collect();
        if let Some(leader) = self.leader() {
            let with_it = sides.iter().filter(|side| **side == sides[leader]).count();
            if 2 * with_it < sides.len() {
                self.hit(Mark::LeaderIsolated);
            }
        }
        self.hit(Mark::Partitioned);
        self.cut_for(links, dice.within(100, 8000));
    }

    fn bridge(&mut self, dice: &mut Dice) {
        let bridge = self.victim(dice);
        let links = self.bridge_links(bridge);
        self.hit(Mark::Bridged);
        self.cut_for(links, dice.within(500, 8000));
    }

    /// What to cut so that two halves meet only at one server.
    pub fn bridge_links(&self, bridge: usize) -> Vec<(usize, usize)> {
        let count = self.servers.len();
        let side = |seat: usize| 2 * ((seat + count - bridge) % count) > count;
        pairs(count)
            .filter(|(a, b)| *a != bridge && *b != bridge && side(*a) != side(*b))
            .collect()
    }

    fn one_way(&mut self, dice: &mut Dice) {
        let from = self.victim(dice);
        let to = dice.index(self.servers.len());
        self.hit(Mark::OneWay);
        self.cut_for(vec![(from, to)], dice.within(200, 8000));
    }

    fn deafen(&mut self, dice: &mut Dice) {
        let seat = self.victim(dice);
        if self.leader() == Some(seat) {
            self.hit(Mark::DeafLeader);
        }
        let links = (0..self.servers.len()).map(|other| (other, seat)).collect();
        self.cut_for(links, dice.within(500, 6000));
    }

    fn slow_down(&mut self, dice: &mut Dice) {
        let seat = self.victim(dice);
        for other in 0..self.servers.len() {
            self.network.slow(seat, other);
            self.network.slow(other, seat);
        }
        self.hit(Mark::Slowed);
        let ends = self.now.plus_milliseconds(dice.within(500, 8000));
        self.tell_of(seat, || format!("has slow links until {ends:?}"));
        self.agenda.add(ends, Event::Ends(Trouble::Slow(seat)));
    }

    /// A fault ends, unless everything was healed before.
    pub fn end(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Cut(links) => {
                for (from, to) in links {
                    self.network.mend(from, to);
                }
            }
            Trouble::Slow(seat) => {
                for other in 0..self.servers.len() {
                    self.network.hasten(seat, other);
                    self.network.hasten(other, seat);
                }
            }
            Trouble::Full(seat) => self.servers[seat].disk.set_full(false),
            // A later pause may go on.
            Trouble::Pause(seat) if self.servers[seat].paused_until <= self.now => {
                self.wake_up(seat);
            }
            Trouble::Pause(_) => {}
        }
    }

    fn change_clock(&mut self, dice: &mut Dice) {
        let seat = self.victim(dice);
        let weather = &self.plan.options.clock;
        let rate = dice.within(weather.rate_min, weather.rate_max);
        self.servers[seat].clock.set_rate(self.now, rate);
        self.tell_of(seat, || format!("has a clock with {rate} µs a second"));
        self.request_turn(seat);
        self.hit(Mark::ClockRate);
    }

    fn jump_clock(&mut self, dice: &mut Dice) {
        let seat = self.victim(dice);
        let jump = dice.within(1, 3000);
        self.servers[seat].clock.jump(jump);
        self.tell_of(seat, || format!("has a clock that jumps by {jump} ms"));
        self.request_turn(seat);
        self.hit(Mark::ClockJump);
    }

    fn cut_some_stream(&mut self, dice: &mut Dice) {
        let chunks = dice.below(6);
        self.streams.cut_after(chunks);
        self.story.tell(self.now, || {
            format!("* the snapshot stream that moves {chunks} chunks from now breaks")
        });
    }

    fn wipe(&mut self, dice: &mut Dice) -> Step {
        let seat = self.victim(dice);
        if !self.may_lose(seat) {
            return Ok(());
        }
        self.tell_of(seat, || "loses its directory".into());
        self.crash(seat, Ending::AnyDisk)?;
        self.servers[seat].presence = Presence::Lost;
        self.hit(Mark::Wiped);
        Ok(())
    }

    /// A durable block of a server that runs or not is changed behind its back.
    fn rot(&mut self, dice: &mut Dice) -> Step {
        let seat = self.victim(dice);
        let server = &self.servers[seat];
        if !self.may_lose(seat) || !server.is_marked || server.disk.is_off() {
            return Ok(());
        }
        let folder = if dice.percent(60) { "wal" } else { "snapshots" };
        let Some((path, blocks)) = some_file(&server.disk, folder, dice) else {
            return Ok(());
        };
        let offset = dice.below(blocks) * BLOCK_BYTES as u64;
        let bytes = if dice.percent(50) {
            self.hit(Mark::Rotten);
            let bit = 1 << dice.below(8);
            let at = offset + dice.below(BLOCK_BYTES as u64);
            let Some(byte) = read(&self.servers[seat].disk, &path, at, 1) else {
                return Ok(());
            };
            (at, vec![byte[0] ^ bit])
        } else {
            self.hit(Mark::Misdirected);
            let other = dice.below(blocks) * BLOCK_BYTES as u64;
            let Some(block) = read(&self.servers[seat].disk, &path, other, BLOCK_BYTES) else {
                return Ok(());
            };
            (offset, block)
        };
        let server = &mut self.servers[seat];
        server.is_rotten = true;
        let _ = server.disk.overwrite(&path, bytes.0, &bytes.1);
        let name = server.name.clone();
        self.story.tell(self.now, || {
            format!("* {name}: {} rots at {}", path.display(), bytes.0)
        });
        Ok(())
    }
}

/// Every ordered pair of different servers.
fn pairs(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).flat_map(move |a| (0..count).filter(move |b| *b != a).map(move |b| (a, b)))
}

/// Some file in a folder of the data directory, and its whole blocks.
fn some_file(disk: &impl Disk, folder: &str, dice: &mut Dice) -> Option<(PathBuf, u64)> {
    let folder = Path::new("/data").join(folder);
    let names = disk.list(&folder).ok()?;
    let names: Vec<&String> = names
        .iter()
        .filter(|name| !name.ends_with(".tmp"))
        .collect();
    if names.is_empty() {
        return None;
    }
    let path = folder.join(dice.pick(&names));
    let blocks = disk.open(&path).ok()?.length().ok()? / BLOCK_BYTES as u64;
    (blocks > 0).then_some((path, blocks))
}

fn read(disk: &impl Disk, path: &Path, offset: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    disk.open(path).ok()?.read_at(offset, &mut bytes).ok()?;
    Some(bytes)
}
