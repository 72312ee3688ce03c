//! Random walks of whole clusters: everything that may go wrong with messages,
//! clocks, disks, processes and operators does, by one seed; afterwards all is
//! healed and the cluster must be well within a bounded time.
//!
//! `HOLDFAST_SEED=7 cargo test --test raft random` replays one seed,
//! `HOLDFAST_SEEDS=20000` tries many, `HOLDFAST_TRACE=1` tells what happened.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use holdfast::raft::{Config, Effect, Input, ReadMode, Rejection, RequestId, Role};
use holdfast::sim::notation;
use holdfast::types::{EntryPayload, LogIndex, MembershipChange, Millis, NodeId};

use crate::cluster::{Cluster, member};

const SEEDS_DEFAULT: u64 = 300;
const STEPS: u64 = 2500;

/// A seeded stream of choices.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound.max(1)
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }
}

/// How rough a walk is; drawn once a seed.
struct Weather {
    loss: u64,
    duplication: u64,
    reordering: u64,
    faults: u64,
    churn: u64,
}

struct Walk {
    dice: Dice,
    cluster: Cluster,
    weather: Weather,
    open: BTreeSet<(NodeId, RequestId)>,
    /// Nodes whose disks hang.
    stalled: BTreeSet<NodeId>,
    proposals: u64,
}

/// By how much clocks differ at most when leases are trusted.
const DRIFT_PERMILLE: u64 = 100;

impl Walk {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x1234_5678_9ABC_DEF1));
        let has_leases = dice.percent(50);
        let config = Config {
            id: NodeId(0),
            incarnation: holdfast::types::Incarnation(0),
            election_timeout_min: Millis(100),
            election_timeout_max: Millis(200),
            heartbeat_interval: Millis(20),
            inflight_messages_max: dice.pick(&[1, 2, 8]),
            inflight_bytes_max: dice.pick(&[100, 1000]),
            message_bytes_max: dice.pick(&[1, 100, 400]),
            uncommitted_bytes_max: 2000,
            cache_bytes_max: dice.pick(&[0, 300, 100_000]),
            trailing_entries: dice.pick(&[0, 3, 20]),
            read_mode: if has_leases {
                ReadMode::Lease {
                    drift_permille: DRIFT_PERMILLE as u32,
                }
            } else {
                ReadMode::Quorum
            },
            disk_stall_timeout: Millis(400),
            seed,
        };
        let voters = dice.pick(&[1, 2, 3, 3, 3, 4, 5]);
        let ids: Vec<u64> = (1..=6).collect();
        let learner_count = usize::from(dice.percent(30));
        let (founders, joiners) = ids.split_at(voters + learner_count);
        let (voters, learners) = founders.split_at(voters);
        let mut cluster = Cluster::new(config, voters, learners, joiners);
        cluster.checkpoint_interval = dice.pick(&[0, 1, 4, 16]);
        for id in cluster.ids() {
            // Before anything but the start happened: its clock jumps ahead.
            let drift = dice.below(DRIFT_PERMILLE + 1);
            cluster.node_mut(id).clock_permille = 1000 + drift;
            cluster.node_mut(id).disk_is_manual = true;
            cluster.node_mut(id).store_is_manual = true;
        }
        let weather = Weather {
            loss: dice.pick(&[0, 5, 20]),
            duplication: dice.pick(&[0, 3, 15]),
            reordering: dice.pick(&[0, 20, 100]),
            faults: dice.pick(&[2, 8, 20]),
            churn: dice.pick(&[0, 5, 25]),
        };
        Self {
            dice,
            cluster,
            weather,
            open: BTreeSet::new(),
            stalled: BTreeSet::new(),
            proposals: 0,
        }
    }

    fn rough(&mut self) {
        for _ in 0..STEPS {
            match self.dice.below(1000) {
                0..450 => self.deliver(),
                450..650 => self.pass_time(),
                650..800 => self.sync(),
                800..870 => self.work(),
                870..950 => self.ask(),
                _ => {
                    if self.dice.percent(self.weather.faults * 4) {
                        self.fault();
                    } else if self.dice.percent(self.weather.churn * 4) {
                        self.change();
                    }
                }
            }
            self.tempt();
            self.collect_answers();
        }
    }

    /// A leader that does not know yet of its successor is asked to read just
    /// when that has committed something: the moment that leases get wrong.
    fn tempt(&mut self) {
        let Some(newest) = self.cluster.leader() else {
            return;
        };
        let leads = |id: &NodeId| {
            let status = self.cluster.status(*id);
            *id != newest && status.is_some_and(|status| status.role == Role::Leader)
        };
        let Some(old) = self.cluster.ids().into_iter().find(leads) else {
            return;
        };
        let request = self.cluster.next_request();
        if self.dice.percent(50) {
            self.open.insert((old, request));
            self.cluster.step(old, Input::ReadIndex { id: request });
        } else if self.dice.percent(20) {
            self.open.insert((newest, request));
            let payload = EntryPayload::Command(b"new".as_slice().into());
            let input = Input::Propose {
                id: request,
                payload,
            };
            self.cluster.step(newest, input);
        }
    }

    fn node(&mut self) -> NodeId {
        let ids = self.cluster.ids();
        self.dice.pick(&ids)
    }

    fn deliver(&mut self) {
        let count = self.cluster.network.len() as u64;
        if count == 0 {
            return;
        }
        let late = self.dice.percent(self.weather.reordering);
        let position = if late {
            self.dice.below(count) as usize
        } else {
            0
        };
        let packet = if self.dice.percent(self.weather.duplication) {
            self.cluster.network[position].clone()
        } else {
            self.cluster.network.remove(position)
        };
        if !self.dice.percent(self.weather.loss) {
            self.cluster.deliver(packet);
        }
        // A network holds only so much; the oldest is lost.
        while self.cluster.network.len() > 200 {
            self.cluster.network.remove(0);
        }
    }

    fn pass_time(&mut self) {
        let step = self.dice.pick(&[1, 3, 3, 10]);
        self.cluster.now = Millis(self.cluster.now.0 + step);
        for id in self.cluster.ids() {
            if self.cluster.is_due(id) && self.dice.percent(80) {
                self.cluster.tick(id);
            }
        }
    }

    fn sync(&mut self) {
        let id = self.node();
        let count = self.dice.pick(&[1, 2, usize::MAX]);
        if !self.stalled.contains(&id) {
            self.cluster.sync(id, count);
        }
    }

    fn work(&mut self) {
        let id = self.node();
        self.cluster.work(id, 1);
        if self.dice.percent(15) {
            self.cluster.take_snapshot(id);
        }
    }

    fn target(&mut self) -> NodeId {
        match self.cluster.leader() {
            Some(leader) if self.dice.percent(85) => leader,
            _ => self.node(),
        }
    }

    fn ask(&mut self) {
        let id = self.target();
        if !self.cluster.is_up(id) {
            return;
        }
        let mut inputs = Vec::new();
        for _ in 0..self.dice.pick(&[1, 1, 4]) {
            let request = self.cluster.next_request();
            self.open.insert((id, request));
            if self.dice.percent(60) {
                self.proposals += 1;
                let text = format!(
                    "{:0width$}",
                    self.proposals,
                    width = 1 + self.dice.below(60) as usize
                );
                let payload = EntryPayload::Command(text.as_bytes().into());
                inputs.push(Input::Propose {
                    id: request,
                    payload,
                });
            } else {
                inputs.push(Input::ReadIndex { id: request });
            }
        }
        self.cluster.step_all(id, inputs);
        if self.dice.percent(25) {
            let reader = self.node();
            if self.cluster.is_up(reader) {
                let request = self.cluster.next_request();
                self.open.insert((reader, request));
                self.cluster.step(reader, Input::ReadIndex { id: request });
            }
        }
    }

    fn change(&mut self) {
        let id = self.target();
        if !self.cluster.is_up(id) {
            return;
        }
        let request = self.cluster.next_request();
        self.open.insert((id, request));
        if self.dice.percent(25) {
            let target = self.dice.percent(50).then(|| self.node());
            self.cluster.step(
                id,
                Input::TransferLeadership {
                    id: request,
                    target,
                },
            );
            return;
        }
        let count = self.dice.pick(&[1, 1, 2, 3]);
        let changes = (0..count).map(|_| self.one_change()).collect();
        self.cluster.step(
            id,
            Input::ChangeMembership {
                id: request,
                changes,
            },
        );
    }

    fn one_change(&mut self) -> MembershipChange {
        let id = self.node();
        match self.dice.below(10) {
            0..3 => {
                let life = self.cluster.node(id).life;
                MembershipChange::AddLearner {
                    id,
                    member: member(life),
                }
            }
            3..7 => MembershipChange::Promote(id),
            7 => MembershipChange::Demote(id),
            8 => MembershipChange::SetAddress {
                id,
                address: format!("a{}:1", self.proposals),
            },
            _ => MembershipChange::Remove(id),
        }
    }

    fn fault(&mut self) {
        let id = self.node();
        match self.dice.below(14) {
            0..4 if self.cluster.is_up(id) => {
                let survivors = self.dice.below(4) as usize;
                let published = self.dice.percent(50);
                self.cluster.crash(id, survivors, published);
                self.open.retain(|(node, _)| *node != id);
            }
            0..7 if !self.cluster.is_up(id) => self.cluster.restart(id),
            4 => self.partition(),
            5 | 6 => {
                let other = self.node();
                self.cluster.cut.insert((id, other));
            }
            7..9 => self.cluster.cut.clear(),
            9 => {
                let other = self.node();
                self.cluster.step(id, Input::Unreachable(other));
            }
            10 if !self.cluster.streams.is_empty() => {
                let count = self.cluster.streams.len() as u64;
                let position = self.dice.below(count) as usize;
                let succeed = self.dice.percent(80);
                self.cluster.finish_stream(position, succeed);
            }
            11 => self.replace(id),
            12 => drop(self.stalled.insert(id)),
            13 => self.stalled.clear(),
            _ => {}
        }
    }

    fn partition(&mut self) {
        let ids = self.cluster.ids();
        let side: Vec<bool> = ids.iter().map(|_| self.dice.percent(50)).collect();
        for (a, left) in ids.iter().zip(&side) {
            for (b, right) in ids.iter().zip(&side) {
                if left != right {
                    self.cluster.cut.insert((*a, *b));
                }
            }
        }
    }

    /// A node that a committed membership put out may come back empty, under
    /// its old id.
    fn replace(&mut self, id: NodeId) {
        let told = self.cluster.status(id).is_some_and(|status| status.removed);
        if told {
            self.cluster.crash(id, 0, false);
            self.cluster.wipe(id);
            self.cluster.node_mut(id).disk_is_manual = true;
            self.cluster.node_mut(id).store_is_manual = true;
            self.open.retain(|(node, _)| *node != id);
        }
    }

    fn collect_answers(&mut self) {
        for answer in std::mem::take(&mut self.cluster.answers) {
            let known = self.open.remove(&(answer.node, answer.id));
            assert!(known, "answered twice or unasked: {answer:?}");
        }
        if std::env::var_os("HOLDFAST_TRACE").is_some() {
            for line in std::mem::take(&mut self.cluster.trace) {
                eprintln!("{} {line}", self.cluster.now.0);
            }
        } else {
            self.cluster.trace.clear();
        }
    }

    /// Heals everything and demands a cluster that works.
    fn calm(&mut self) {
        self.cluster.cut.clear();
        self.stalled.clear();
        for id in self.cluster.ids() {
            self.cluster.node_mut(id).disk_is_manual = false;
            self.cluster.node_mut(id).store_is_manual = false;
            if !self.cluster.is_up(id) {
                self.cluster.restart(id);
            }
            self.cluster.sync(id, usize::MAX);
            self.cluster.work(id, usize::MAX);
        }
        let mut done = None;
        for round in 0..400 {
            self.run_for(10);
            if round >= 100 && self.is_well() {
                done = Some(round);
                break;
            }
        }
        assert!(
            done.is_some(),
            "Liveness: after healing\n{}",
            self.describe()
        );
        let leader = self.cluster.leader().expect("well");
        let term = self.cluster.status(leader).expect("well").term;
        self.serve(leader);
        let after = self.cluster.status(leader).expect("well").term;
        assert_eq!(term, after, "Liveness: terms grow in calm weather");
        assert!(self.open.is_empty(), "never answered: {:?}", self.open);
    }

    fn run_for(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds {
            self.cluster.now = Millis(self.cluster.now.0 + 1);
            for id in self.cluster.ids() {
                if self.cluster.is_due(id) {
                    self.cluster.tick(id);
                }
            }
            for packet in std::mem::take(&mut self.cluster.network) {
                self.cluster.deliver(packet);
            }
            if !self.cluster.streams.is_empty() {
                self.cluster.finish_stream(0, true);
            }
            self.collect_answers();
        }
    }

    /// One leader, no change half done, all members equal and applied.
    fn is_well(&self) -> bool {
        let Some(leader) = self.cluster.leader() else {
            return false;
        };
        let status = self.cluster.status(leader).expect("it is up");
        let last = status.last_index;
        let members: Vec<NodeId> = status.membership.members.keys().copied().collect();
        let same = |id: &NodeId| {
            let node = self.cluster.node(*id);
            let other = self.cluster.status(*id).expect("all are up");
            let replaced = status.membership.members[id].incarnation.0 != node.life;
            replaced || (other.applied_index == last && other.leader == Some(leader))
        };
        status.ready
            && !status.membership.is_joint()
            && status.membership.is_voter(leader)
            && status.commit_index == last
            && members.iter().all(same)
    }

    /// A write is committed and applied, a read answered on every member.
    fn serve(&mut self, leader: NodeId) {
        let request = self.cluster.next_request();
        self.open.insert((leader, request));
        let payload = EntryPayload::Command(b"fresh".as_slice().into());
        self.cluster.step(
            leader,
            Input::Propose {
                id: request,
                payload,
            },
        );
        let accepted = self.cluster.answers.last().cloned();
        let Some(Effect::ProposalAccepted { index, .. }) = accepted.map(|a| a.effect) else {
            panic!("Liveness: a calm leader refuses a write");
        };
        self.collect_answers();
        self.run_for(100);
        let status = self.cluster.status(leader).expect("it is up");
        for (id, member) in &status.membership.members {
            if member.incarnation.0 != self.cluster.node(*id).life {
                continue;
            }
            let applied = self.cluster.node(*id).store.applied.0;
            assert!(
                index <= applied,
                "Liveness: {id:?} applied {applied:?}, not {index:?}"
            );
            let request = self.cluster.next_request();
            self.open.insert((*id, request));
            self.cluster.step(*id, Input::ReadIndex { id: request });
        }
        for _ in 0..40 {
            for packet in std::mem::take(&mut self.cluster.network) {
                self.cluster.deliver(packet);
            }
            for answer in &self.cluster.answers {
                let refused = matches!(
                    answer.effect,
                    Effect::Rejected {
                        reason: Rejection::Unconfirmed,
                        ..
                    }
                );
                assert!(!refused, "Liveness: a calm read is refused");
            }
            self.collect_answers();
        }
    }

    fn describe(&self) -> String {
        let line = |id: NodeId| {
            let status = self.cluster.status(id);
            let text = status.map_or("down".to_owned(), |s| notation::status(&s));
            format!("{id:?} life {} {text}\n", self.cluster.node(id).life)
        };
        self.cluster.ids().into_iter().map(line).collect()
    }
}

/// What a walk reached, to see that walks go anywhere at all.
#[derive(Debug, Default)]
struct Reached {
    commits: u64,
    terms: u64,
    snapshots: u64,
    leaders: u64,
}

fn walk(seed: u64) -> Reached {
    let mut walk = Walk::new(seed);
    walk.rough();
    walk.calm();
    let status = |id| walk.cluster.status(id).expect("all are up");
    let statuses: Vec<_> = walk.cluster.ids().into_iter().map(status).collect();
    Reached {
        commits: statuses
            .iter()
            .map(|s| s.commit_index)
            .max()
            .unwrap_or(LogIndex(0))
            .0,
        terms: statuses.iter().map(|s| s.term.0).max().unwrap_or(0),
        snapshots: walk
            .cluster
            .nodes
            .values()
            .filter(|n| !n.snapshots.is_empty())
            .count() as u64,
        leaders: statuses.iter().filter(|s| s.role == Role::Leader).count() as u64,
    }
}

#[test]
fn random_walks_stay_safe_and_recover() {
    if let Ok(seed) = std::env::var("HOLDFAST_SEED") {
        eprintln!("{:?}", walk(seed.parse().expect("a seed")));
        return;
    }
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|n| n.parse().expect("a number"))
    };
    let count = number("HOLDFAST_SEEDS").unwrap_or(SEEDS_DEFAULT);
    let first = number("HOLDFAST_FIRST_SEED").unwrap_or(0);
    let mut total = Reached::default();
    for seed in first..first + count {
        match catch_unwind(AssertUnwindSafe(|| walk(seed))) {
            Ok(reached) => {
                total.commits += reached.commits;
                total.terms += reached.terms;
                total.snapshots += reached.snapshots;
                total.leaders += reached.leaders;
            }
            Err(_) => panic!(
                "seed {seed} fails; replay: HOLDFAST_SEED={seed} cargo test --test raft random"
            ),
        }
    }
    eprintln!("{count} seeds: {total:?}");
    assert!(
        count < total.commits && count < total.terms,
        "the walks go nowhere: {total:?}"
    );
}
