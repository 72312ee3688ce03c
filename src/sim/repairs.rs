//! Servers whose log is damaged: a process without a core that asks its peers.

use std::path::{Path, PathBuf};

use crate::disk::{BLOCK_BYTES, Disk, MemoryDisk};
use crate::node::NodeError;
use crate::node::manual::{Happening, ManualRepair};
use crate::types::RepairMessage;

use super::coverage::Mark;
use super::dice::Dice;
use super::processes::Ending;
use super::server::Presence;
use super::world::{Event, Failure, Step, World};

impl World {
    /// A process found its directory damaged, and stays to repair it if that
    /// can be done.
    pub fn begin_repair(&mut self, seat: usize, error: &NodeError) -> Step {
        let salt = self.dice.roll();
        let server = &mut self.servers[seat];
        let options = server.options(&self.plan.options.node, salt);
        let opened = match ManualRepair::is_for(error) {
            true => ManualRepair::open(&options),
            false => Err(NodeError::Unrepairable(format!("{error:?}"))),
        };
        match opened {
            Ok(repair) => {
                server.repair = Some(repair);
                server.presence = Presence::Repairing;
                let run = server.run;
                let name = server.name.clone();
                self.story
                    .tell(self.now, || format!("{name} repairs its log"));
                self.agenda.add(self.now, Event::RepairRound { seat, run });
            }
            Err(NodeError::Unrepairable(reason)) => {
                server.presence = Presence::Lost;
                let name = server.name.clone();
                self.story
                    .tell(self.now, || format!("{name} is beyond repair: {reason}"));
            }
            Err(error) if server.is_faulty || server.disk.is_off() => {
                let name = server.name.clone();
                self.story.tell(self.now, || {
                    format!("{name} cannot be looked at: {error:?}")
                });
                let later = self.now.plus_milliseconds(1000);
                self.agenda.add(later, Event::Start { seat });
            }
            Err(error) => {
                return Err(Failure {
                    kind: "RepairNotBegun".into(),
                    details: format!("{}: {error:?}", server.name),
                });
            }
        }
        Ok(())
    }

    /// L7: all servers end, the logs of most of them decay, and one whole copy
    /// is enough for all to serve again.
    pub fn damage_a_majority(&mut self, dice: &mut Dice) -> Step {
        self.heal()?;
        self.await_convergence()?;
        let Some(status) = self.status_of_leader() else {
            return Ok(());
        };
        let voters = status.membership.voters.iter();
        let mut seats: Vec<usize> = voters
            .filter_map(|id| self.seats.get(id).copied())
            .collect();
        let whole = seats.remove(dice.index(seats.len()));
        let unfit = |seat: &usize| self.servers[*seat].is_rotten || !self.servers[*seat].is_marked;
        if seats.is_empty() || seats.iter().chain([&whole]).any(unfit) {
            return Ok(());
        }
        for seat in 0..self.servers.len() {
            self.crash(seat, Ending::KeptDisk)?;
        }
        let loses_snapshots = dice.percent(30);
        for seat in seats {
            self.damage(seat, loses_snapshots, dice);
        }
        self.heal()?;
        self.await_convergence()?;
        self.hit(Mark::MajorityRepaired);
        Ok(())
    }

    fn damage(&mut self, seat: usize, loses_snapshots: bool, dice: &mut Dice) {
        let server = &mut self.servers[seat];
        let blocks = batch_blocks(&server.disk);
        if blocks.is_empty() {
            return;
        }
        server.is_rotten = true;
        for _ in 0..dice.within(1, 4) {
            let (path, offset) = &blocks[dice.index(blocks.len())];
            let at = offset + dice.below(BLOCK_BYTES as u64);
            let bytes = match dice.below(3) {
                0 => vec![0xA5; 1 + dice.index(100)],
                1 => vec![0; 600],
                _ => vec![dice.below(256) as u8],
            };
            let room = usize::try_from(offset + BLOCK_BYTES as u64 - at).unwrap_or(1);
            let bytes = &bytes[..bytes.len().min(room)];
            let _ = server.disk.overwrite(path, at, bytes);
            let name = server.name.clone();
            self.story.tell(self.now, || {
                format!("{name}: {} rots at {at}", path.display())
            });
        }
        if !loses_snapshots {
            return;
        }
        let folder = Path::new("/data/snapshots");
        for name in server.disk.list(folder).unwrap_or_default() {
            let _ = server.disk.overwrite(&folder.join(name), 5000, &[0xA5; 64]);
        }
    }

    /// Everybody is asked again.
    pub fn repair_round(&mut self, seat: usize) -> Step {
        let server = &mut self.servers[seat];
        let Some(repair) = &mut server.repair else {
            return Ok(());
        };
        let (run, before) = (server.run, repair.progress());
        let result = repair.round();
        let missing = repair.progress().missing;
        let next = self.now.plus_milliseconds(ROUND_MILLISECONDS);
        self.agenda.add(next, Event::RepairRound { seat, run });
        if missing < before.missing {
            self.hit(Mark::RepairSnapshot);
        }
        match result {
            Ok(()) => self.repair_turn(seat),
            Err(reason) => self.repair_failed(seat, &reason),
        }
    }

    /// Handles what peers said, and what follows from it.
    pub fn repair_turn(&mut self, seat: usize) -> Step {
        let has_leader = self.leader().is_some();
        let Some(repair) = &mut self.servers[seat].repair else {
            return Ok(());
        };
        let before = repair.progress().fetched;
        let turned = repair.turn();
        let fetched = before < repair.progress().fetched;
        let happenings = repair.take_happenings();
        let failure = repair.failure();
        let is_whole = repair.is_whole();
        for happening in happenings {
            if gives_entries(&happening) {
                self.hit(Mark::RepairFromPatient);
            }
            self.note(seat, happening)?;
        }
        if fetched {
            self.hit(Mark::RepairFetched);
            if !has_leader {
                self.hit(Mark::RepairLeaderless);
            }
        }
        if let Err(reason) = turned {
            // Removed meanwhile: an operator empties the directory.
            let name = self.servers[seat].name.clone();
            self.story.tell(self.now, || format!("{name}: {reason}"));
            self.end_of_repair(seat);
            self.servers[seat].presence = Presence::Lost;
            return Ok(());
        }
        if let Some(reason) = failure {
            return self.repair_failed(seat, &reason);
        }
        if is_whole {
            return self.finish_repair(seat);
        }
        Ok(())
    }

    fn finish_repair(&mut self, seat: usize) -> Step {
        let life = self.servers[seat].life();
        self.check(seat, |observer| observer.repaired(life))?;
        let cuts = self.disk_dice.percent(20);
        let calls = self.disk_dice.below(60);
        let server = &mut self.servers[seat];
        let Some(repair) = &server.repair else {
            return Ok(());
        };
        if cuts {
            server.disk.power_off_at(server.disk.calls() + calls);
        }
        let (finished, fetched) = (repair.finish(), repair.progress().fetched);
        match finished {
            Err(reason) => self.repair_failed(seat, &reason),
            Ok(()) => {
                let name = server.name.clone();
                self.story
                    .tell(self.now, || format!("{name} is whole again"));
                if fetched == 0 {
                    self.hit(Mark::RepairLocal);
                }
                if cuts {
                    // The power fails now, if it has not.
                    self.hit(Mark::RepairCrashed);
                    self.end_of_repair(seat);
                } else {
                    self.servers[seat].repair = None;
                    self.servers[seat].presence = Presence::Down;
                    self.streams.end_of_process(seat);
                }
                self.servers[seat].is_rotten = false;
                self.start(seat)
            }
        }
    }

    fn repair_failed(&mut self, seat: usize, reason: &str) -> Step {
        let server = &self.servers[seat];
        let name = server.name.clone();
        self.story
            .tell(self.now, || format!("{name} stops repairing: {reason}"));
        if !server.is_faulty && !server.disk.is_off() {
            return Err(Failure {
                kind: "RepairFailed".into(),
                details: format!("{name} fails without a fault of its disk: {reason}"),
            });
        }
        self.hit(Mark::RepairCrashed);
        self.end_of_repair(seat);
        self.restart_later(seat);
        Ok(())
    }

    /// The process of a repair ends, and what its disk held unsynced may be
    /// lost.
    pub fn end_of_repair(&mut self, seat: usize) {
        let seed = self.disk_dice.roll();
        let server = &mut self.servers[seat];
        server.repair = None;
        server.disk = server.disk.crash_seeded(seed);
        server.presence = Presence::Down;
        server.is_faulty = false;
        server.paused_until = self.now;
        server.stalled_until = self.now;
        self.streams.end_of_process(seat);
    }
}

fn gives_entries(happening: &Happening) -> bool {
    match happening {
        Happening::SpokeOfRepair {
            message: RepairMessage::Answer(answer),
            ..
        } => !answer.entries.is_empty(),
        _ => false,
    }
}

/// Blocks of a log that may decay together and leave it repairable: batches
/// below the last one, which promises that they were durable.
fn batch_blocks(disk: &MemoryDisk) -> Vec<(PathBuf, u64)> {
    let folder = Path::new("/data/wal");
    let mut all = Vec::new();
    let mut last_batch = 0;
    let names = disk.list(folder).unwrap_or_default();
    for name in names.iter().filter(|name| name.ends_with(".wal")) {
        let path = folder.join(name);
        let Ok(file) = disk.open(&path) else { continue };
        let blocks = file.length().unwrap_or(0) / BLOCK_BYTES as u64;
        // The first and the last are headers.
        for block in 1..blocks.saturating_sub(1) {
            let mut bytes = [0; BLOCK_BYTES];
            if file
                .read_at(block * BLOCK_BYTES as u64, &mut bytes)
                .is_err()
            {
                continue;
            }
            if bytes.starts_with(b"HFB1") {
                last_batch = all.len();
            }
            if bytes.iter().any(|byte| *byte != 0) {
                all.push((path.clone(), block * BLOCK_BYTES as u64));
            }
        }
    }
    all.truncate(last_batch);
    all
}

/// As the thread of a real node waits.
const ROUND_MILLISECONDS: u64 = 200;
