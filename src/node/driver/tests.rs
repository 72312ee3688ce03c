//! Three drivers over a network and disks made of vectors: deterministic, so
//! a failure repeats.

use std::collections::VecDeque;

use super::*;
use crate::raft::{Config, ReadMode, Recovered, Role, bootstrap};
use crate::types::{EntryPayload, Member};

/// One node's world. Writes become durable when the test says so.
#[derive(Default)]
struct World {
    writes: VecDeque<(Mark, LogWrite)>,
    log: Vec<Entry>,
    sent: Vec<(NodeId, Message)>,
    applied: Vec<Entry>,
    accepted: Vec<(RequestId, LogIndex)>,
    reads: Vec<(RequestId, LogIndex)>,
    rejected: Vec<(RequestId, Rejection)>,
    members: Option<Arc<Membership>>,
}

impl Log for World {
    fn submit(&mut self, mark: Mark, write: LogWrite) {
        self.writes.push_back((mark, write));
    }

    fn purge(&mut self, _through: LogIndex) {}
}

impl LogReader for World {
    fn read(&mut self, first: LogIndex, last: LogIndex, _bytes_max: usize) -> Option<Vec<Entry>> {
        let wanted = |entry: &&Entry| first <= entry.index && entry.index <= last;
        Some(self.log.iter().filter(wanted).cloned().collect())
    }
}

impl Network for World {
    fn send(&mut self, to: NodeId, message: Message) {
        self.sent.push((to, message));
    }

    fn stream_snapshot(&mut self, _to: NodeId, _least: LogIndex) {}

    fn set_members(&mut self, _index: LogIndex, membership: Arc<Membership>) {
        self.members = Some(membership);
    }
}

impl Machine for World {
    fn apply(&mut self, entries: Vec<Entry>) {
        self.applied.extend(entries);
    }

    fn restore_snapshot(&mut self, _meta: SnapshotMeta) {}

    fn mismatched(&mut self, mismatch: Mismatch) {
        panic!("{mismatch}");
    }

    fn diverged(&mut self, divergence: Divergence) {
        panic!("{divergence}");
    }
}

impl Requests for World {
    fn accepted(&mut self, id: RequestId, index: LogIndex, _term: Term) {
        self.accepted.push((id, index));
    }

    fn already_done(&mut self, _id: RequestId) {}

    fn rejected(&mut self, id: RequestId, reason: Rejection) {
        self.rejected.push((id, reason));
    }

    fn read_ready(&mut self, id: RequestId, index: LogIndex) {
        self.reads.push((id, index));
    }

    fn transfer_started(&mut self, _id: RequestId, _target: NodeId) {}
}

const IDS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

struct Trio {
    now: Millis,
    nodes: Vec<(Driver, World)>,
}

impl Trio {
    fn new() -> Self {
        let founders = Membership {
            voters: IDS.into(),
            members: IDS.map(|id| (id, Member::default())).into(),
            ..Membership::default()
        };
        let first = bootstrap(founders);
        let nodes = IDS.map(|id| {
            let config = Config {
                id,
                incarnation: crate::types::Incarnation(0),
                election_timeout_min: Millis(500),
                election_timeout_max: Millis(1000),
                heartbeat_interval: Millis(100),
                inflight_messages_max: 8,
                inflight_bytes_max: 1 << 20,
                message_bytes_max: 1 << 16,
                uncommitted_bytes_max: 1 << 20,
                cache_bytes_max: 1 << 20,
                trailing_entries: 10,
                read_mode: ReadMode::Quorum,
                disk_stall_timeout: Millis(2000),
                seed: 7,
            };
            let recovered = Recovered {
                hard_state: first.hard_state.unwrap_or_default(),
                entries: first.entries.clone(),
                ..Recovered::default()
            };
            let raft = Raft::new(config, recovered, Millis(0)).unwrap();
            let mut world = World {
                log: first.entries.clone(),
                ..World::default()
            };
            let mut driver = Driver::new(raft);
            driver.begin(Millis(0), &mut world);
            (driver, world)
        });
        Self {
            now: Millis(0),
            nodes: nodes.into(),
        }
    }

    fn step(&mut self, node: usize, input: Input) {
        let (driver, world) = &mut self.nodes[node];
        driver.push(input);
        driver.step(self.now, world);
    }

    /// Makes everything written so far durable.
    fn sync(&mut self, node: usize) {
        let (_, world) = &mut self.nodes[node];
        let mut last = None;
        while let Some((mark, write)) = world.writes.pop_front() {
            if let Some(from) = write.truncate_from {
                world.log.retain(|entry| entry.index < from);
            }
            world.log.extend(write.entries);
            last = Some(mark);
        }
        if let Some(mark) = last {
            self.step(node, Input::Durable(mark));
        }
    }

    /// Delivers every message sent so far; how many there were.
    fn deliver(&mut self) -> usize {
        let mut count = 0;
        for (place, from) in IDS.into_iter().enumerate() {
            for (to, message) in std::mem::take(&mut self.nodes[place].1.sent) {
                let to = IDS.iter().position(|id| *id == to).unwrap();
                let incarnation = crate::types::Incarnation(0);
                self.step(
                    to,
                    Input::Message {
                        from,
                        incarnation,
                        message,
                    },
                );
                count += 1;
            }
        }
        count
    }

    /// Lets messages and disks run until nothing moves.
    fn settle(&mut self) {
        loop {
            let delivered = self.deliver();
            for node in 0..self.nodes.len() {
                self.sync(node);
            }
            if delivered == 0 && self.nodes.iter().all(|(_, world)| world.sent.is_empty()) {
                return;
            }
        }
    }

    /// Runs time until somebody leads.
    fn elect(&mut self) -> usize {
        for _ in 0..100 {
            let leading = |(driver, _): &(Driver, World)| {
                let status = driver.status();
                status.role == Role::Leader && status.ready
            };
            if let Some(leader) = self.nodes.iter().position(leading) {
                return leader;
            }
            self.now = Millis(self.now.0 + 50);
            for node in 0..self.nodes.len() {
                if self.nodes[node].0.next_deadline() <= self.now {
                    self.step(node, Input::Tick);
                }
            }
            self.settle();
        }
        panic!("nobody leads after 5 s");
    }

    fn propose(&mut self, node: usize, id: u64) {
        self.step(node, proposal(id));
    }
}

fn proposal(id: u64) -> Input {
    Input::Propose {
        id: RequestId(id),
        payload: EntryPayload::Command(id.to_le_bytes().as_slice().into()),
    }
}

#[test]
fn vote_leaves_only_when_it_is_durable() {
    let mut trio = Trio::new();
    trio.now = Millis(2000);
    trio.step(0, Input::Tick);
    // Pre-votes change nothing and need no disk.
    trio.deliver();
    trio.deliver();
    let asks = |world: &World| {
        let ask = |message: &Message| matches!(message, Message::VoteRequest { pre: false, .. });
        world
            .sent
            .iter()
            .filter(|(_, message)| ask(message))
            .count()
    };
    assert_eq!(trio.nodes[0].1.writes.len(), 1, "the candidate's own vote");
    assert_eq!(asks(&trio.nodes[0].1), 0, "not before it is durable");
    trio.sync(0);
    assert_eq!(asks(&trio.nodes[0].1), 2);
    trio.deliver();
    assert!(trio.nodes[1].1.sent.is_empty(), "the grant waits too");
    trio.sync(1);
    assert!(matches!(
        trio.nodes[1].1.sent[..],
        [(_, Message::VoteResponse { granted: true, .. })]
    ));
}

// One sync covers several writes and only its last mark comes back: what waited
// for an earlier one leaves too (R18).
#[test]
fn newest_completion_releases_what_waited_for_earlier_ones() {
    let mut trio = Trio::new();
    let leader = trio.elect();
    let follower = (leader + 1) % 3;
    trio.propose(leader, 1);
    trio.deliver();
    trio.propose(leader, 2);
    trio.deliver();
    assert_eq!(trio.nodes[follower].1.writes.len(), 2);
    assert_eq!(trio.nodes[follower].1.sent.len(), 0, "both wait");
    trio.sync(follower);
    assert_eq!(trio.nodes[follower].1.sent.len(), 2);
}

#[test]
fn leader_replicates_while_it_writes_and_followers_acknowledge_after_writing() {
    let mut trio = Trio::new();
    let leader = trio.elect();
    trio.propose(leader, 1);
    let (_, world) = &trio.nodes[leader];
    assert_eq!(world.accepted.len(), 1);
    assert_eq!(world.writes.len(), 1);
    assert_eq!(world.sent.len(), 2, "sent before the leader's own sync");
    trio.deliver();
    for follower in (0..3).filter(|node| *node != leader) {
        let (_, world) = &trio.nodes[follower];
        assert_eq!((world.writes.len(), world.sent.len()), (1, 0));
    }
    // Both followers' disks make the majority; the leader's own lags.
    for follower in (0..3).filter(|node| *node != leader) {
        trio.sync(follower);
    }
    trio.deliver();
    let applied = trio.nodes[leader].1.applied.len();
    trio.sync(leader);
    assert_eq!(
        trio.nodes[leader].1.applied.len(),
        applied + 1,
        "applied once it is durable here too"
    );
}

#[test]
fn batch_of_proposals_is_one_write_and_one_message_per_peer() {
    let mut trio = Trio::new();
    let leader = trio.elect();
    trio.settle();
    let (driver, world) = &mut trio.nodes[leader];
    for id in 1..=100 {
        driver.push(proposal(id));
    }
    driver.step(trio.now, world);
    assert_eq!(world.accepted.len(), 100);
    assert_eq!(world.writes.len(), 1);
    assert_eq!(world.sent.len(), 2);
    trio.settle();
    for (_, world) in &trio.nodes[leader..=leader] {
        let commands = |entry: &&Entry| matches!(entry.payload, EntryPayload::Command(_));
        assert_eq!(world.applied.iter().filter(commands).count(), 100);
    }
}

#[test]
fn read_on_a_follower_names_an_index_that_covers_earlier_writes() {
    let mut trio = Trio::new();
    let leader = trio.elect();
    trio.propose(leader, 1);
    trio.settle();
    let written = trio.nodes[leader].1.accepted[0].1;
    let follower = (leader + 1) % 3;
    trio.step(follower, Input::ReadIndex { id: RequestId(9) });
    for _ in 0..20 {
        trio.settle();
        trio.now = Millis(trio.now.0 + 100);
        trio.step(leader, Input::Tick);
    }
    let (_, world) = &trio.nodes[follower];
    assert!(world.rejected.is_empty(), "{:?}", world.rejected);
    assert!(matches!(world.reads[..], [(RequestId(9), index)] if written <= index));
}

#[test]
fn proposal_to_a_follower_is_rejected() {
    let mut trio = Trio::new();
    let leader = trio.elect();
    trio.propose((leader + 1) % 3, 1);
    let (_, world) = &trio.nodes[(leader + 1) % 3];
    let leads = Some(IDS[leader]);
    assert_eq!(
        world.rejected,
        [(RequestId(1), Rejection::NotLeader { leader: leads })]
    );
}
