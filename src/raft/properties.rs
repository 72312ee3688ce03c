//! Random sequences against small models: what the parts of the core keep about
//! their world, held against that world itself.
//!
//! A failing case is printed with its smallest input and stays in
//! `proptest-regressions`, from where it is tried first ever after.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::change::{self, Plan};
use super::durability::Durability;
use super::log::{Log, Position, Unwritten};
use super::memberships::Memberships;
use super::progress::{Pace, Progress, Window};
use super::quorum::agrees;
use crate::types::{
    Entry, EntryPayload, HardState, LogIndex, Mark, Member, Membership, MembershipChange, Millis,
    NodeId, Term,
};

/// What happens (one of a few things), and three choices about it.
type Step = (u8, u64, u64, u64);

fn steps(kinds: u8) -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec((0..kinds, 0u64..64, 0u64..64, 0u64..64), 1..80)
}

/// One of `first..=last`.
fn pick(choice: u64, first: u64, last: u64) -> u64 {
    first + choice % (last - first + 1)
}

// ---- Progress: a leader's view of a follower, beside the follower.

/// On its way to the follower or back, in any order, perhaps twice or never.
#[derive(Clone, Debug)]
enum Letter {
    Append { prev: u64, last: u64 },
    Ack(u64),
    Nack { prev: u64, hint: u64 },
}

/// A leader with a log of terms that does not grow, its view of a follower, and
/// the follower's own log.
#[derive(Debug)]
struct Pair {
    leader: Vec<u64>,
    follower: Vec<u64>,
    progress: Progress,
    letters: Vec<Letter>,
}

const WINDOW: Window = Window {
    messages_max: 3,
    bytes_max: 64,
};

impl Pair {
    fn new(leader: Vec<u64>, follower: Vec<u64>) -> Self {
        let progress = Progress::new(LogIndex(leader.len() as u64));
        Self {
            leader,
            follower,
            progress,
            letters: Vec::new(),
        }
    }

    fn last(&self) -> u64 {
        self.leader.len() as u64
    }

    fn term(log: &[u64], index: u64) -> Option<u64> {
        match index {
            0 => Some(0),
            _ => log.get(index as usize - 1).copied(),
        }
    }

    /// How far the logs really agree.
    fn agreed(&self) -> u64 {
        let pairs = self.leader.iter().zip(&self.follower);
        pairs.take_while(|(left, right)| left == right).count() as u64
    }

    /// As replication does: probes carry one message at a time.
    fn send(&mut self, count: u64) {
        let prev = self.progress.next_index.0 - 1;
        let last = (prev + count).min(self.last());
        match self.progress.pace {
            Pace::Probe { sent_at: None } => {
                self.progress.pace = Pace::Probe {
                    sent_at: Some(Millis(0)),
                };
            }
            Pace::Replicate if prev < last && self.progress.has_room(WINDOW) => {
                self.progress.sent(Millis(0), LogIndex(last), 20);
            }
            _ => return,
        }
        self.letters.push(Letter::Append { prev, last });
    }

    /// Takes a letter out, or leaves it to be delivered again.
    fn deliver(&mut self, choice: u64, again: bool) {
        if self.letters.is_empty() {
            return;
        }
        let at = choice as usize % self.letters.len();
        let letter = match again {
            true => self.letters[at].clone(),
            false => self.letters.swap_remove(at),
        };
        match letter {
            Letter::Append { prev, last } => {
                let answer = self.follow(prev, last);
                self.letters.push(answer);
            }
            Letter::Ack(index) => {
                self.progress.matched(LogIndex(index));
            }
            Letter::Nack { prev, hint } => {
                self.progress.rejected(LogIndex(prev), LogIndex(hint));
            }
        }
    }

    fn follow(&mut self, prev: u64, last: u64) -> Letter {
        if Self::term(&self.follower, prev) != Self::term(&self.leader, prev) {
            let hint = prev.saturating_sub(1).min(self.follower.len() as u64);
            return Letter::Nack { prev, hint };
        }
        for index in prev + 1..=last {
            let term = Self::term(&self.leader, index).expect("it was sent");
            if Self::term(&self.follower, index) != Some(term) {
                self.follower.truncate(index as usize - 1);
                self.follower.push(term);
            }
        }
        Letter::Ack(last)
    }

    fn lose(&mut self) {
        self.letters.pop();
        if matches!(self.progress.pace, Pace::Probe { .. } | Pace::Replicate) {
            self.progress.probe(None);
        }
    }

    fn stream_snapshot(&mut self, installed: u64) {
        if !matches!(self.progress.pace, Pace::Probe { .. }) {
            return;
        }
        self.progress.probe(None);
        self.progress.pace = Pace::Streaming;
        // It arrives whole: the follower's log continues from it, unless it
        // holds as much.
        if self.agreed() < installed {
            self.follower = self.leader[..installed as usize].to_vec();
        }
        self.letters.push(Letter::Ack(installed));
    }
}

proptest! {
    // Whatever is lost, late or twice: the leader never believes more than is
    // true, forgets nothing it knew, and in the end brings the follower up.
    #[test]
    fn progress_never_believes_more_than_the_follower_holds(
        leader in proptest::collection::vec(0u64..2, 1..12),
        shared in 0usize..12,
        own in proptest::collection::vec(0u64..2, 0..12),
        steps in steps(5),
    ) {
        // Equal terms at equal positions mean equal logs before them: the
        // leader's terms are odd here, and what only the follower has is even.
        let ascending = |increments: Vec<u64>, first: u64| -> Vec<u64> {
            let terms = increments.into_iter().scan(first, |term, more| {
                *term += 2 * more;
                Some(*term)
            });
            terms.collect()
        };
        let leader = ascending(leader, 1);
        let mut follower = leader[..shared.min(leader.len())].to_vec();
        let after = follower.last().map_or(2, |term| term + 1);
        follower.extend(ascending(own, after));
        let mut pair = Pair::new(leader, follower);
        for (kind, choice, more, _) in steps {
            let (known, installed) = (pair.progress.match_index, pair.progress.match_index.0);
            match kind {
                0 => pair.send(1 + more % 3),
                1 => pair.deliver(choice, false),
                2 => pair.deliver(choice, true),
                3 => pair.lose(),
                _ => pair.stream_snapshot(pick(choice, installed, pair.last())),
            }
            let progress = &pair.progress;
            prop_assert!(known <= progress.match_index, "rewound: {:?}", pair);
            prop_assert!(progress.match_index < progress.next_index, "{:?}", pair);
            prop_assert!(progress.next_index.0 <= pair.last() + 1, "{:?}", pair);
            prop_assert!(progress.match_index.0 <= pair.agreed(), "{:?}", pair);
        }
        // From now on nothing is lost.
        pair.letters.clear();
        pair.progress.probe(None);
        for _ in 0..8 * (pair.last() + 2) {
            pair.send(2);
            pair.deliver(0, false);
        }
        prop_assert_eq!(pair.progress.match_index.0, pair.last(), "{:?}", pair);
    }
}

// ---- Log and durability marks, beside the disk.

/// A log, its writes on their way, and what is really on the disk.
struct Writer {
    log: Log,
    marks: Durability,
    /// The log as it should be, by entry.
    model: Vec<Entry>,
    on_their_way: Vec<(Mark, Unwritten)>,
    disk: Vec<Entry>,
    next_payload: u8,
}

impl Writer {
    fn new() -> Self {
        Self {
            log: Log::recover(None, Vec::new(), 200).expect("nothing contradicts itself"),
            marks: Durability::new(HardState::default()),
            model: Vec::new(),
            on_their_way: Vec::new(),
            disk: Vec::new(),
            next_payload: 0,
        }
    }

    fn append(&mut self, count: u64, term_more: u64) {
        let last = self.model.last();
        let term = last.map_or(1, |entry| entry.term.0) + term_more;
        for _ in 0..count {
            // No two entries are equal: what was replaced is recognised.
            self.next_payload = self.next_payload.wrapping_add(1);
            let entry = Entry {
                index: LogIndex(self.model.len() as u64 + 1),
                term: Term(term),
                payload: EntryPayload::Command(Arc::from([self.next_payload])),
            };
            self.log.append([entry.clone()]);
            self.model.push(entry);
        }
    }

    fn truncate(&mut self, choice: u64) {
        let (commit, last) = (self.log.commit().0, self.model.len() as u64);
        if commit < last {
            let from = pick(choice, commit + 1, last);
            self.log.truncate(LogIndex(from));
            self.marks.clip(LogIndex(from - 1));
            self.model.truncate(from as usize - 1);
        }
    }

    fn write(&mut self) {
        if self.log.has_unwritten() {
            let write = self.log.take_unwritten();
            let hard_state = HardState::default();
            let last = self.log.last().index;
            let mark = self.marks.issue(Millis(0), hard_state, last);
            self.on_their_way.push((mark, write));
        }
    }

    /// The disk carries out so many writes and names the last of them.
    fn complete(&mut self, choice: u64) {
        if self.on_their_way.is_empty() {
            return;
        }
        let count = pick(choice, 1, self.on_their_way.len() as u64) as usize;
        let mut newest = None;
        for (mark, write) in self.on_their_way.drain(..count) {
            if let Some(from) = write.truncate_from {
                self.disk.truncate(from.0 as usize - 1);
            }
            self.disk.extend(write.entries);
            newest = Some(mark);
        }
        let done = self.marks.complete(newest.expect("at least one"));
        self.log
            .advance_durable(done.expect("it was on its way").last);
    }

    fn hand_out(&mut self, bytes_max: u64) {
        let handed = self.log.handed().0 as usize;
        let entries = self.log.hand_out(bytes_max as usize);
        assert_eq!(entries, self.model[handed..handed + entries.len()]);
    }

    fn snapshot(&mut self, choice: u64) {
        let (snapshot, applied) = (self.log.snapshot().index.0, self.log.applied().0);
        if snapshot < applied {
            let index = pick(choice, snapshot + 1, applied);
            let term = self.model[index as usize - 1].term;
            self.log.advance_snapshot(Position {
                index: LogIndex(index),
                term,
            });
        }
    }

    fn check(&self) {
        let log = &self.log;
        assert_eq!(log.last().index.0, self.model.len() as u64);
        let durable = log.durable().0 as usize;
        assert!(self.disk.len() >= durable);
        assert_eq!(self.disk[..durable], self.model[..durable]);
        assert!(log.base() <= log.snapshot().index);
        assert!(log.snapshot().index <= log.applied());
        assert!(log.applied() <= log.handed());
        assert!(log.handed() <= log.commit().min(log.durable()));
        for entry in &self.model {
            let known = log.base() <= entry.index;
            assert_eq!(log.term_at(entry.index), known.then_some(entry.term));
        }
        assert_eq!(log.term_at(log.last().index.next()), None);
    }
}

proptest! {
    // What counts as durable is on the disk, as the very entry that is in the
    // log now, whatever was cut and rewritten while writes were on their way.
    #[test]
    fn durable_entries_are_on_the_disk_as_they_are_in_the_log(steps in steps(9)) {
        let mut writer = Writer::new();
        for (kind, choice, more, last) in steps {
            match kind {
                0 => writer.append(1 + more % 4, last % 2),
                1 => writer.truncate(choice),
                2 => writer.write(),
                3 => writer.complete(choice),
                4 => {
                    let (commit, last) = (writer.log.commit().0, writer.model.len() as u64);
                    writer.log.commit_to(LogIndex(pick(choice, commit, last)));
                }
                5 => writer.hand_out(1 + more * 4),
                6 => {
                    let (applied, handed) = (writer.log.applied().0, writer.log.handed().0);
                    writer.log.advance_applied(LogIndex(pick(choice, applied, handed)));
                }
                7 => writer.snapshot(choice),
                _ => {
                    let (base, snapshot) = (writer.log.base().0, writer.log.snapshot().index.0);
                    writer.log.purge(LogIndex(pick(choice, base, snapshot)));
                }
            }
            writer.check();
        }
    }
}

// ---- Memberships under leaders that come and go, beside the log they are in.

fn founded() -> Membership {
    let voters: BTreeSet<NodeId> = (1..=3).map(NodeId).collect();
    Membership {
        members: (1..=5).map(|id| (NodeId(id), Member::default())).collect(),
        learners: (4..=5).map(NodeId).collect(),
        voters,
        ..Membership::default()
    }
}

fn batch(choice: u64, more: u64) -> Vec<MembershipChange> {
    let change = |choice: u64| {
        let id = NodeId(1 + choice % 5);
        match choice / 5 % 2 {
            0 => MembershipChange::Promote(id),
            _ => MembershipChange::Demote(id),
        }
    };
    let all = [change(choice), change(choice / 7), change(more)];
    all[..1 + more as usize % 3].to_vec()
}

fn placed(index: usize, membership: Option<&Membership>) -> Entry {
    let payload = membership.map_or(EntryPayload::Noop, |membership| {
        EntryPayload::Membership(Arc::new(membership.clone()))
    });
    Entry {
        index: LogIndex(index as u64),
        term: Term(1),
        payload,
    }
}

/// The last membership among the first `end` entries.
fn newest(log: &[Option<Membership>], end: usize) -> (usize, &Membership) {
    let found = log[..end].iter().enumerate().rev();
    let mut found = found.filter_map(|(at, placed)| Some((at, placed.as_ref()?)));
    found.next().expect("the founding one is first")
}

proptest! {
    // Leaders enter and leave joint memberships, lose what they appended and
    // are followed by others that finish it or go elsewhere. The core's notion
    // of the active and the committed one is what the log says, and no two
    // memberships that follow each other let disjoint sets of voters decide.
    #[test]
    fn memberships_follow_the_log_and_their_quorums_meet(steps in steps(5), votes in 0u64..64) {
        let mut log = vec![Some(founded())];
        let mut commit = 0;
        let mut memberships = Memberships::new(LogIndex(0), Arc::new(founded()));
        for (kind, choice, more, _) in steps {
            let (at, active) = newest(&log, log.len());
            let (is_settled, active) = (at <= commit, active.clone());
            let next = match kind {
                0 | 1 if is_settled && !active.is_joint() => {
                    match change::plan(&active, &batch(choice, more)) {
                        Ok(Plan::Simple(next) | Plan::Joint(next)) => Some(next),
                        Ok(Plan::Nothing) | Err(_) => None,
                    }
                }
                2 if is_settled && active.is_joint() => Some(change::leave(&active)),
                3 => {
                    commit = pick(choice, commit as u64, log.len() as u64 - 1) as usize;
                    memberships.commit(LogIndex(commit as u64));
                    continue;
                }
                4 if commit + 1 < log.len() => {
                    let from = pick(choice, commit as u64 + 1, log.len() as u64 - 1);
                    log.truncate(from as usize);
                    memberships.truncate(LogIndex(from));
                    None
                }
                _ => None,
            };
            if let Some(next) = &next {
                prop_assert!(change::is_consistent(next), "{:?}", next);
                let yes = |id: NodeId| votes & (1 << id.0) != 0;
                let disjoint = agrees(&active, yes) && agrees(next, |id| !yes(id));
                prop_assert!(!disjoint, "{:?} then {:?}", active, next);
            }
            memberships.append(&[placed(log.len(), next.as_ref())]);
            log.push(next);
            let (at, active) = newest(&log, log.len());
            prop_assert_eq!(memberships.active().index.0 as usize, at);
            prop_assert_eq!(&*memberships.active().membership, active);
            let (at, committed) = newest(&log, commit + 1);
            prop_assert_eq!(memberships.committed().index.0 as usize, at);
            prop_assert_eq!(&*memberships.committed().membership, committed);
        }
    }
}
