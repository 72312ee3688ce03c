//! The commands of a transcript. One line is one command; what it answers is
//! everything that happened.
//!
//! Nodes are plain numbers. By default disks and stores work at once and
//! messages stay on the network until delivered.
//!
//! ```text
//! cluster voters=1,2,3 learners=4 joiners=5 [trailing=N] [window=N] [cache=BYTES]
//!         [lease=PERMILLE] [stall=MS] [uncommitted=BYTES] [message=BYTES]
//!         [digests=N]       (every N entries the states are compared)
//!         [invented]        (messages are made up: nobody watches)
//! elect 1                   time out, deliver everything until 1 leads (silent)
//! timeout 1                 let its deadline come and tick it
//! pass 5000                 live that long, delivering everything (silent)
//! advance 50                move the clock; `advance 50 tick` ticks all that are due
//! deliver [1->2] [max=1]    deliver what is on the network now, not what follows
//! drop [1->2]               lose it instead
//! shelve 1->2 / unshelve    take it aside, put it back (a delay)
//! replay                    deliver copies of what is shelved
//! settle                    deliver until nothing is left (silent)
//! settle-nodes 1 2          the same between these only; streams go on
//! disk 1 manual|auto        sync 1 [count]
//! store 1 manual|auto       work 1 [count]
//! propose 1 text            read 1      transfer 1 [2]     unreachable 1 2
//! change 1 add=4 promote=4 demote=2 remove=3 replace=2
//! snapshot 1                stream [fail]
//! crash 1 [survivors=N]     restart 1      wipe 1
//! restart 1 forced voters=1,2 [learners=3]   an operator says who is left
//! isolate 1                 cut 1->2       heal
//! spoil 1                   silently change what its store holds
//! show 2->1 voters=1,3 at=9 a peer shows it this committed membership
//! members 1                 who its active membership names, and as what
//! inject 2->1 heartbeat term=2 commit=9 …   (see `parse_message`)
//! status [1 2]              log 1
//! due 1                     when it wants to be woken
//! peers 1                   what it knows of the others while it leads
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;

use holdfast::raft::message::{AppendResult, Message};
use holdfast::raft::{Config, Input, ReadMode, Role};
use holdfast::sim::notation;
use holdfast::types::{
    Entry, EntryPayload, Incarnation, LogIndex, MembershipChange, Millis, NodeId, SnapshotMeta,
    Term,
};

use crate::cluster::{Cluster, Packet, founding, member};

/// A transcript being played.
#[derive(Debug, Default)]
pub struct Script {
    cluster: Option<Cluster>,
    shelf: Vec<Packet>,
}

struct Words<'a> {
    plain: Vec<&'a str>,
    named: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Self {
        let (mut plain, mut named) = (Vec::new(), BTreeMap::new());
        for word in line.split_whitespace().skip(1) {
            match word.split_once('=') {
                Some((name, value)) => drop(named.insert(name, value)),
                None => plain.push(word),
            }
        }
        Self { plain, named }
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.named
            .get(name)
            .map(|value| value.parse().expect("a number"))
    }

    fn numbers(&self, name: &str) -> Vec<u64> {
        let list = self.named.get(name).copied().unwrap_or_default();
        list.split(',')
            .filter(|n| !n.is_empty())
            .map(|n| n.parse().expect("a number"))
            .collect()
    }

    fn node(&self, position: usize) -> NodeId {
        self.optional_node(position).expect("a node")
    }

    fn optional_node(&self, position: usize) -> Option<NodeId> {
        self.plain
            .get(position)
            .map(|n| NodeId(n.parse().expect("a node number")))
    }

    fn route(&self) -> Option<(NodeId, NodeId)> {
        let route = self.plain.iter().find(|word| word.contains("->"))?;
        let (from, to) = route.split_once("->").expect("an arrow");
        let node = |n: &str| NodeId(n.parse().expect("a node number"));
        Some((node(from), node(to)))
    }

    fn has(&self, word: &str) -> bool {
        self.plain.contains(&word)
    }
}

impl Script {
    /// Plays one command and returns what happened.
    pub fn play(&mut self, line: &str) -> String {
        let words = Words::of(line);
        let command = line.split_whitespace().next().expect("a command");
        if command == "cluster" {
            self.cluster = Some(new_cluster(&words));
            self.cluster().trace.clear();
            self.cluster().watch.is_off = words.has("invented");
            self.cluster().checkpoint_interval = words.number("digests").unwrap_or(0);
            return self.statuses(&words);
        }
        let silent = matches!(
            command,
            "elect" | "settle" | "settle-nodes" | "pass" | "status" | "log" | "members"
        );
        self.run(command, &words);
        let trace = std::mem::take(&mut self.cluster().trace);
        match command {
            "log" => self.log(words.node(0)),
            "members" => self.members(words.node(0)),
            "due" => self.due(words.node(0)),
            "peers" => self.peers(words.node(0)),
            _ if silent => self.statuses(&words),
            _ => trace.iter().map(|line| format!("{line}\n")).collect(),
        }
    }

    fn cluster(&mut self) -> &mut Cluster {
        self.cluster.as_mut().expect("`cluster` comes first")
    }

    fn run(&mut self, command: &str, words: &Words<'_>) {
        match command {
            "status" | "log" | "members" | "due" | "peers" => {}
            "elect" => self.elect(words.node(0)),
            "settle" => self.settle(),
            "settle-nodes" => self.settle_between(words.node(0), words.node(1)),
            "pass" => self.pass(words.plain[0].parse().expect("milliseconds")),
            "timeout" => self.timeout(words.node(0)),
            "advance" => self.advance(words),
            "deliver" | "drop" | "shelve" => self.network(command, words),
            "unshelve" => {
                let shelf = std::mem::take(&mut self.shelf);
                self.cluster().network.extend(shelf);
            }
            "replay" => {
                for packet in self.shelf.clone() {
                    self.cluster().deliver(packet);
                }
            }
            "inject" => {
                let (from, to) = words.route().expect("a route");
                let message = parse_message(words);
                self.cluster().watch.invented();
                let life = self.cluster().nodes.get(&from).map_or(0, |node| node.life);
                let incarnation = Incarnation(life);
                let input = Input::Message {
                    from,
                    incarnation,
                    message,
                };
                self.cluster().step(to, input);
            }
            // What nobody committed, or not there.
            "show" if words.number("at").is_some() => {
                let (_, to) = words.route().expect("a route");
                let (voters, learners) = (words.numbers("voters"), words.numbers("learners"));
                let input = Input::CommittedMembership {
                    index: LogIndex(words.number("at").expect("a position")),
                    membership: founding(&voters, &learners).into(),
                };
                self.cluster().step(to, input);
            }
            _ => self.run_on_node(command, words),
        }
    }

    fn run_on_node(&mut self, command: &str, words: &Words<'_>) {
        let cluster = self.cluster.as_mut().expect("`cluster` comes first");
        let manual = words.has("manual");
        let count = words
            .plain
            .get(1)
            .and_then(|n| n.parse().ok())
            .unwrap_or(usize::MAX);
        match command {
            "disk" => cluster.node_mut(words.node(0)).disk_is_manual = manual,
            "store" => cluster.node_mut(words.node(0)).store_is_manual = manual,
            "sync" => cluster.sync(words.node(0), count),
            "work" => cluster.work(words.node(0), count),
            "propose" => drop(cluster.propose(words.node(0), words.plain[1])),
            "read" => {
                let id = cluster.next_request();
                cluster.step(words.node(0), Input::ReadIndex { id });
            }
            "transfer" => {
                let (id, target) = (cluster.next_request(), words.optional_node(1));
                cluster.step(words.node(0), Input::TransferLeadership { id, target });
            }
            "show" => {
                let (from, to) = words.route().expect("a route");
                let status = cluster.status(from).expect("it is up");
                let input = Input::CommittedMembership {
                    index: status.committed_membership_index,
                    membership: status.committed_membership,
                };
                cluster.step(to, input);
            }
            "unreachable" => cluster.step(words.node(0), Input::Unreachable(words.node(1))),
            "change" => {
                let (id, changes) = (cluster.next_request(), changes(words));
                cluster.step(words.node(0), Input::ChangeMembership { id, changes });
            }
            "spoil" => cluster.node_mut(words.node(0)).store.digest ^= 1,
            "snapshot" => cluster.take_snapshot(words.node(0)),
            "stream" if cluster.streams.is_empty() => cluster.trace.push("no stream".to_owned()),
            "stream" => cluster.finish_stream(0, !words.has("fail")),
            "crash" => {
                let survivors = words.number("survivors").unwrap_or(0) as usize;
                cluster.crash(words.node(0), survivors, words.has("published"));
            }
            "restart" if words.has("forced") => {
                let (voters, learners) = (words.numbers("voters"), words.numbers("learners"));
                let forced = founding(&voters, &learners);
                cluster.restart_forced(words.node(0), Some(forced));
            }
            "restart" => cluster.restart(words.node(0)),
            "wipe" => cluster.wipe(words.node(0)),
            "isolate" => {
                let alone = words.node(0);
                for other in cluster.ids() {
                    cluster.cut.extend([(alone, other), (other, alone)]);
                }
            }
            "cut" => cluster.cut.extend(words.route()),
            "heal" => cluster.cut.clear(),
            _ => panic!("unknown command `{command}`"),
        }
    }

    fn network(&mut self, command: &str, words: &Words<'_>) {
        let route = words.route();
        let max = words.number("max").unwrap_or(u64::MAX);
        let cluster = self.cluster.as_mut().expect("`cluster` comes first");
        let (mut taken, mut kept) = (Vec::new(), Vec::new());
        for packet in std::mem::take(&mut cluster.network) {
            let fits = route.is_none_or(|route| route == (packet.from, packet.to));
            if fits && (taken.len() as u64) < max {
                taken.push(packet)
            } else {
                kept.push(packet)
            }
        }
        cluster.network = kept;
        match command {
            "deliver" => taken.into_iter().for_each(|packet| cluster.deliver(packet)),
            "shelve" => self.shelf.extend(taken),
            _ => {}
        }
    }

    fn timeout(&mut self, id: NodeId) {
        let cluster = self.cluster();
        let deadline = cluster.deadline(id);
        assert_ne!(deadline, Millis(u64::MAX), "{id:?} waits for nothing");
        cluster.now = cluster.now.max(deadline);
        cluster.tick(id);
    }

    fn advance(&mut self, words: &Words<'_>) {
        let step: u64 = words.plain[0].parse().expect("milliseconds");
        let cluster = self.cluster();
        cluster.now = Millis(cluster.now.0 + step);
        if words.has("tick") {
            for id in cluster.ids() {
                if cluster.is_due(id) {
                    cluster.tick(id);
                }
            }
        }
    }

    fn pass(&mut self, milliseconds: u64) {
        let end = self.cluster().now.0 + milliseconds;
        while self.cluster().now.0 < end {
            let cluster = self.cluster();
            cluster.now = Millis(cluster.now.0 + 10);
            for id in cluster.ids() {
                if cluster.is_due(id) {
                    cluster.tick(id);
                }
            }
            self.settle();
        }
    }

    fn elect(&mut self, id: NodeId) {
        for _ in 0..10 {
            self.timeout(id);
            self.settle();
            let status = self.cluster().status(id).expect("it is up");
            if status.role == Role::Leader && status.ready {
                return;
            }
        }
        panic!("{id:?} does not win");
    }

    fn settle(&mut self) {
        let cluster = self.cluster();
        for _ in 0..10_000 {
            if !cluster.is_busy() {
                return;
            }
            for packet in std::mem::take(&mut cluster.network) {
                cluster.deliver(packet);
            }
            if !cluster.streams.is_empty() {
                cluster.finish_stream(0, true);
            }
        }
        panic!("it never settles");
    }

    fn settle_between(&mut self, a: NodeId, b: NodeId) {
        let cluster = self.cluster();
        let inside = |packet: &Packet| [a, b].contains(&packet.from) && [a, b].contains(&packet.to);
        while let Some(position) = cluster.network.iter().position(inside) {
            let packet = cluster.network.remove(position);
            cluster.deliver(packet);
        }
    }

    fn statuses(&mut self, words: &Words<'_>) -> String {
        let chosen: Vec<NodeId> = words
            .plain
            .iter()
            .filter_map(|n| n.parse().ok())
            .map(NodeId)
            .filter(|id| {
                self.cluster
                    .as_ref()
                    .is_some_and(|c| c.nodes.contains_key(id))
            })
            .collect();
        let cluster = self.cluster();
        let mut text = String::new();
        for id in cluster.ids() {
            if chosen.is_empty() || chosen.contains(&id) {
                let line = cluster
                    .status(id)
                    .map_or("down".to_owned(), |s| notation::status(&s));
                writeln!(text, "{id:?} {line}").expect("into memory");
            }
        }
        text
    }

    fn members(&mut self, id: NodeId) -> String {
        let membership = self.cluster().status(id).expect("it is up").membership;
        let mut text = String::new();
        for (member, known) in &membership.members {
            let role = if membership.is_voter(*member) {
                "voter"
            } else {
                "learner"
            };
            let mark = if known.non_voter { " for good" } else { "" };
            writeln!(text, "{member:?} {role}{mark}").expect("into memory");
        }
        text
    }

    fn due(&mut self, id: NodeId) -> String {
        let (now, due) = (self.cluster().now, self.cluster().deadline(id));
        if due == Millis(u64::MAX) {
            return format!("{id:?} waits for nothing\n");
        }
        format!("{id:?} in {} ms\n", due.0.saturating_sub(now.0))
    }

    fn peers(&mut self, id: NodeId) -> String {
        let mut text = String::new();
        for (peer, known) in self.cluster().status(id).expect("it is up").peers {
            let (matched, next) = (known.match_index, known.next_index);
            let heard = known.last_contact.map_or(0, |at| at.0);
            let stream = if known.snapshot_in_flight {
                " takes a snapshot"
            } else {
                ""
            };
            let line = format!("{peer:?} match={matched} next={next} heard-at={heard}{stream}");
            writeln!(text, "{line}").expect("into memory");
        }
        text
    }

    fn log(&mut self, id: NodeId) -> String {
        let image = &self.cluster().node(id).written;
        let mut text = format!("after {}/{}\n", image.base.1, image.base.0);
        for entry in &image.entries {
            writeln!(text, "{}", notation::entry(entry)).expect("into memory");
        }
        text
    }
}

fn new_cluster(words: &Words<'_>) -> Cluster {
    let config = Config {
        id: NodeId(0),
        incarnation: holdfast::types::Incarnation(0),
        election_timeout_min: Millis(1000),
        election_timeout_max: Millis(2000),
        heartbeat_interval: Millis(100),
        inflight_messages_max: words.number("window").unwrap_or(8) as usize,
        inflight_bytes_max: 1 << 20,
        message_bytes_max: words.number("message").unwrap_or(1 << 16) as usize,
        uncommitted_bytes_max: words.number("uncommitted").unwrap_or(1 << 20) as usize,
        cache_bytes_max: words.number("cache").unwrap_or(1 << 20) as usize,
        trailing_entries: words.number("trailing").unwrap_or(1000),
        read_mode: match words.number("lease") {
            Some(drift) => ReadMode::Lease {
                drift_permille: drift as u32,
            },
            None => ReadMode::Quorum,
        },
        disk_stall_timeout: Millis(words.number("stall").unwrap_or(4000)),
        seed: 1,
    };
    let lists = ["voters", "learners", "joiners"].map(|name| words.numbers(name));
    Cluster::new(config, &lists[0], &lists[1], &lists[2])
}

fn changes(words: &Words<'_>) -> Vec<MembershipChange> {
    let mut changes = Vec::new();
    for (name, life) in [("add", 1), ("replace", 2)] {
        for id in words.numbers(name).into_iter().map(NodeId) {
            changes.push(MembershipChange::AddLearner {
                id,
                member: member(life),
            });
        }
    }
    let all = |name: &str, change: fn(NodeId) -> MembershipChange| {
        words
            .numbers(name)
            .into_iter()
            .map(NodeId)
            .map(change)
            .collect::<Vec<_>>()
    };
    changes.extend(all("promote", MembershipChange::Promote));
    changes.extend(all("demote", MembershipChange::Demote));
    changes.extend(all("remove", MembershipChange::Remove));
    changes
}

/// `inject FROM->TO KIND term=… …`: a message nobody sent, or sent long ago.
fn parse_message(words: &Words<'_>) -> Message {
    let kind = words
        .plain
        .iter()
        .find(|word| !word.contains("->"))
        .expect("a kind");
    let number = |name: &str| words.number(name).unwrap_or(0);
    let index = |name: &str| LogIndex(number(name));
    let term = Term(number("term"));
    let granted = words.has("granted");
    let read_context = number("context");
    match *kind {
        "pre-vote-response" => Message::VoteResponse {
            term,
            pre: true,
            granted,
        },
        "vote-response" => Message::VoteResponse {
            term,
            pre: false,
            granted,
        },
        "pre-vote-request" | "vote-request" => Message::VoteRequest {
            term,
            pre: *kind == "pre-vote-request",
            last_index: index("last"),
            last_term: Term(number("last-term")),
            transfer: false,
        },
        "heartbeat" => Message::Heartbeat {
            term,
            commit_index: index("commit"),
            read_context,
            agreed: None,
        },
        "heartbeat-response" => Message::HeartbeatResponse {
            term,
            read_context,
            patience: Millis(number("patience")),
            checkpoints: Vec::new(),
        },
        "match" => Message::AppendResponse {
            term,
            result: AppendResult::Matched {
                match_index: index("index"),
            },
            read_context,
        },
        "reject" => Message::AppendResponse {
            term,
            result: AppendResult::Rejected {
                prev_index: index("prev"),
                hint_index: index("hint"),
                hint_term: Term(number("hint-term")),
            },
            read_context,
        },
        "append" => Message::AppendEntries {
            term,
            prev_index: index("prev"),
            prev_term: Term(number("prev-term")),
            entries: words
                .numbers("entries")
                .into_iter()
                .map(|at| Entry {
                    index: LogIndex(at),
                    term: Term(words.number("entry-term").unwrap_or(term.0)),
                    payload: EntryPayload::Noop,
                })
                .collect(),
            commit_index: index("commit"),
            read_context,
        },
        "install" => Message::InstallSnapshot {
            term,
            meta: SnapshotMeta {
                index: index("index"),
                term: Term(number("snapshot-term")),
                ..SnapshotMeta::default()
            },
        },
        "timeout-now" => Message::TimeoutNow { term },
        "read-request" => Message::ReadIndexRequest {
            term,
            context: read_context,
        },
        "read-response" => Message::ReadIndexResponse {
            term,
            context: read_context,
            index: Some(index("index")),
        },
        _ => panic!("unknown message `{kind}`"),
    }
}
