//! Leases under everything that could break them: clocks that differ by as much
//! as the bound allows, messages that take far longer than a lease, transfers,
//! restarts, partitions around whoever leads. Disks and stores are quick, so
//! that leaders follow each other at once; all that matters is who reads when.
//!
//! After every millisecond each node that believes it leads is asked to read.
//! The observers know what was committed anywhere by then.
//!
//! `HOLDFAST_SEED=7 cargo test --test raft leases` replays one seed,
//! `HOLDFAST_SEEDS=2000` tries many.

use std::panic::{AssertUnwindSafe, catch_unwind};

use holdfast::raft::message::Message;
use holdfast::raft::{Config, Effect, Input, ReadMode, Role};
use holdfast::types::{Millis, NodeId};

use crate::cluster::{Cluster, Packet};
use crate::random::Dice;

const SEEDS_DEFAULT: u64 = 60;
const DURATION: Millis = Millis(3000);
const DRIFT_PERMILLE: u32 = 100;

struct Story {
    dice: Dice,
    cluster: Cluster,
    /// Messages under way, and when they arrive.
    flying: Vec<(Millis, Packet)>,
    isolated: Option<(NodeId, Millis)>,
}

/// What the stories came by; a test of leases without leases tests nothing.
#[derive(Debug, Default)]
struct Seen {
    /// Reads answered in the very step that asked.
    by_lease: u64,
    /// Moments at which two nodes believed that they led.
    rivals: u64,
}

impl Story {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_97F4_A7C1));
        let config = Config {
            id: NodeId(0),
            incarnation: holdfast::types::Incarnation(0),
            election_timeout_min: Millis(100),
            election_timeout_max: Millis(130),
            heartbeat_interval: Millis(10),
            inflight_messages_max: 8,
            inflight_bytes_max: 1 << 20,
            message_bytes_max: 1 << 16,
            uncommitted_bytes_max: 1 << 20,
            cache_bytes_max: 1 << 20,
            trailing_entries: 1000,
            read_mode: ReadMode::Lease {
                drift_permille: DRIFT_PERMILLE,
            },
            disk_stall_timeout: Millis(400),
            seed,
        };
        let voters = dice.pick(&[&[1, 2, 3][..], &[1, 2, 3], &[1, 2, 3, 4, 5]]);
        let mut cluster = Cluster::new(config, voters, &[], &[]);
        for id in cluster.ids() {
            let drift = dice.pick(&[0, 0, u64::from(DRIFT_PERMILLE)]);
            cluster.node_mut(id).clock_permille = 1000 + drift;
        }
        Self {
            dice,
            cluster,
            flying: Vec::new(),
            isolated: None,
        }
    }

    fn play(&mut self) -> Seen {
        let mut seen = Seen::default();
        let end = Millis(self.cluster.now.0 + DURATION.0);
        while self.cluster.now < end {
            self.cluster.now = Millis(self.cluster.now.0 + 1);
            for id in self.cluster.ids() {
                if self.cluster.is_due(id) {
                    self.cluster.tick(id);
                }
            }
            self.carry_messages();
            self.disturb();
            self.ask(&mut seen);
            self.cluster.answers.clear();
            self.cluster.trace.clear();
        }
        seen
    }

    fn carry_messages(&mut self) {
        let now = self.cluster.now;
        for packet in std::mem::take(&mut self.cluster.network) {
            let delay = match packet.message {
                // What an old leader asked for may be asked much later.
                Message::TimeoutNow { .. } => self.dice.pick(&[1, 150, 250]),
                _ if self.dice.percent(2) => self.dice.below(300),
                _ => 1 + self.dice.below(4),
            };
            self.flying.push((Millis(now.0 + delay), packet));
        }
        let (arrived, flying) = std::mem::take(&mut self.flying)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.flying = flying;
        let arrived: Vec<(Millis, Packet)> = arrived;
        for (_, packet) in arrived {
            self.cluster.deliver(packet);
        }
    }

    fn disturb(&mut self) {
        let leader = self.cluster.leader();
        match self.isolated {
            Some((_, until)) if until <= self.cluster.now => {
                self.cluster.cut.clear();
                self.isolated = None;
            }
            None if self.dice.percent(1) => self.isolate(leader),
            _ => {}
        }
        match (self.dice.below(200), leader) {
            (0, Some(leader)) => {
                let id = self.cluster.next_request();
                let target = None;
                let input = Input::TransferLeadership { id, target };
                self.cluster.step(leader, input);
                if self.dice.percent(50) {
                    self.isolate(Some(leader));
                }
            }
            (1, _) => {
                let ids = self.cluster.ids();
                let id = self.dice.pick(&ids);
                self.cluster.crash(id, usize::MAX, false);
                self.cluster.restart(id);
            }
            _ => {}
        }
    }

    /// Cuts off a leader, in both directions or so that it only hears.
    fn isolate(&mut self, leader: Option<NodeId>) {
        let Some(alone) = leader else {
            return;
        };
        let hears = self.dice.percent(30);
        for other in self.cluster.ids() {
            self.cluster.cut.insert((alone, other));
            if !hears {
                self.cluster.cut.insert((other, alone));
            }
        }
        let until = Millis(self.cluster.now.0 + 50 + self.dice.below(300));
        self.isolated = Some((alone, until));
    }

    fn ask(&mut self, seen: &mut Seen) {
        let leads = |id: &NodeId| {
            let status = self.cluster.status(*id);
            status.is_some_and(|status| status.role == Role::Leader)
        };
        let leaders: Vec<NodeId> = self.cluster.ids().into_iter().filter(leads).collect();
        seen.rivals += u64::from(1 < leaders.len());
        if let Some(newest) = self.cluster.leader() {
            self.cluster.propose(newest, "x");
        }
        for id in leaders {
            self.cluster.answers.clear();
            let request = self.cluster.next_request();
            self.cluster.step(id, Input::ReadIndex { id: request });
            let is_it =
                |effect: &Effect| matches!(effect, Effect::ReadReady { id, .. } if *id == request);
            let at_once = self
                .cluster
                .answers
                .iter()
                .any(|answer| is_it(&answer.effect));
            seen.by_lease += u64::from(at_once);
        }
    }
}

#[test]
fn leases_never_read_what_is_stale() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|n| n.parse::<u64>().expect("a number"))
    };
    let first = number("HOLDFAST_SEED");
    let count = first.map_or(number("HOLDFAST_SEEDS").unwrap_or(SEEDS_DEFAULT), |_| 1);
    let first = first.unwrap_or(0);
    let mut total = Seen::default();
    for seed in first..first + count {
        match catch_unwind(AssertUnwindSafe(|| Story::new(seed).play())) {
            Ok(seen) => {
                total.by_lease += seen.by_lease;
                total.rivals += seen.rivals;
            }
            Err(_) => panic!(
                "seed {seed} fails; replay: HOLDFAST_SEED={seed} cargo test --test raft leases"
            ),
        }
    }
    eprintln!("{count} seeds: {total:?}");
    assert!(
        count < total.by_lease && count < total.rivals,
        "the stories go nowhere: {total:?}"
    );
}
