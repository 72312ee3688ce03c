//! The whole history of a cluster, and what must hold in it. Consulted after
//! every step; a violation panics with the name of the property.

use std::collections::BTreeMap;

use holdfast::raft::message::{AppendResult, Message};
use holdfast::raft::{RequestId, Role, Status};
use holdfast::types::{Entry, LogIndex, Membership, NodeId, Term};

use crate::disk::{LogImage, Store, hash};

/// See the module.
#[derive(Debug, Default)]
pub struct Checker {
    /// The story invents messages: nothing follows from them for the cluster.
    pub is_off: bool,
    leaders: BTreeMap<Term, NodeId>,
    grants: BTreeMap<(NodeId, u64, Term), NodeId>,
    /// Of every entry ever in any log: its hash and the term before it.
    entries: BTreeMap<(LogIndex, Term), (u64, Term)>,
    committed: BTreeMap<LogIndex, (Term, u64)>,
    /// How far the leader of each term got with committing.
    committed_in: BTreeMap<Term, LogIndex>,
    digests: BTreeMap<LogIndex, u64>,
    commit_seen: BTreeMap<(NodeId, u64), LogIndex>,
    reads: BTreeMap<(NodeId, RequestId), LogIndex>,
}

impl Checker {
    pub fn highest_commit(&self) -> LogIndex {
        self.committed
            .last_key_value()
            .map_or(LogIndex(0), |(index, _)| *index)
    }

    /// LogMatching: index and term name an entry and the one before it, so by
    /// induction the whole prefix.
    pub fn appended(&mut self, log: &LogImage, entries: &[Entry]) {
        if self.is_off {
            return;
        }
        for entry in entries {
            let before = entry.index.previous();
            let term_before = log
                .entry(before)
                .map_or(log.base.1, |previous| previous.term);
            let found = (hash(entry), term_before);
            let known = self
                .entries
                .entry((entry.index, entry.term))
                .or_insert(found);
            assert_eq!(*known, found, "LogMatching at {entry:?}");
        }
    }

    /// A message leaves `from`, whose disk holds `disk`.
    pub fn sent(&mut self, from: (NodeId, u64), to: NodeId, message: &Message, disk: &LogImage) {
        let speculative = matches!(
            message,
            Message::VoteRequest { pre: true, .. } | Message::VoteResponse { pre: true, .. }
        );
        let term = message.term();
        assert!(
            speculative || term <= disk.hard_state.term,
            "TermDurable: {message:?} while {:?} is durable",
            disk.hard_state
        );
        match message {
            Message::VoteResponse {
                pre: false,
                granted: true,
                ..
            } => {
                let candidate = *self.grants.entry((from.0, from.1, term)).or_insert(to);
                assert_eq!(candidate, to, "VoteOnce: {:?} in {term:?}", from.0);
                assert!(
                    term < disk.hard_state.term || disk.hard_state.vote == Some(to),
                    "VoteDurable: {:?} grants {term:?}",
                    from.0
                );
            }
            Message::VoteRequest {
                pre: false,
                last_index,
                ..
            } => {
                assert!(
                    *last_index <= disk.last().0,
                    "E11: advertises what is not durable"
                );
            }
            // In a later term the tail may be cut again, whatever was true before.
            _ if term < disk.hard_state.term => {}
            Message::AppendResponse {
                result: AppendResult::Matched { match_index },
                ..
            } => {
                assert!(*match_index <= disk.last().0, "AckDurable: {message:?}");
            }
            Message::InstallSnapshotResponse { match_index, .. } => {
                assert!(*match_index <= disk.last().0, "AckDurable: {message:?}");
            }
            _ => {}
        }
    }

    /// After a step of `id`. `log` is all it has written, `durable` gives every
    /// node's disk.
    pub fn stepped<'a>(
        &mut self,
        id: (NodeId, u64),
        status: &Status,
        log: &LogImage,
        durable: impl Fn(NodeId) -> Option<&'a LogImage>,
    ) {
        if self.is_off {
            return;
        }
        if status.role == Role::Leader {
            let is_new = !self.leaders.contains_key(&status.term);
            let leader = *self.leaders.entry(status.term).or_insert(id.0);
            assert_eq!(leader, id.0, "ElectionSafety in {:?}", status.term);
            if is_new {
                self.check_completeness(id.0, status.term, log);
            }
        }
        let seen = self
            .commit_seen
            .insert(id, status.commit_index)
            .unwrap_or_default();
        for index in seen.0 + 1..=status.commit_index.0 {
            let index = LogIndex(index);
            let Some(entry) = log.entry(index) else {
                continue;
            };
            let found = (entry.term, hash(entry));
            if let Some(known) = self.committed.get(&index) {
                assert_eq!(
                    *known, found,
                    "CommittedImmutable at {index:?} on {:?}",
                    id.0
                );
            } else {
                assert_quorum_holds(&status.membership, entry, &durable);
                self.committed.insert(index, found);
                self.committed_in.insert(status.term, index);
            }
        }
    }

    /// Of a snapshot taken over or a restart, what is below is not re-examined.
    pub fn forget(&mut self, id: (NodeId, u64)) {
        self.commit_seen.remove(&id);
    }

    /// A new leader holds whatever leaders of earlier terms committed.
    fn check_completeness(&self, id: NodeId, term: Term, log: &LogImage) {
        let earlier = self
            .committed_in
            .range(..term)
            .map(|(_, index)| *index)
            .max();
        let Some(index) = earlier.filter(|index| log.base.0 < *index) else {
            return;
        };
        let held = log.entry(index).map(|entry| entry.term);
        let committed = self.committed.get(&index).map(|known| known.0);
        assert_eq!(
            held, committed,
            "LeaderCompleteness: {id:?} in {term:?} at {index:?}"
        );
    }

    pub fn applied(&mut self, id: NodeId, store: &Store) {
        if self.is_off {
            return;
        }
        let (index, term) = store.applied;
        let committed = self.committed.get(&index).map(|known| known.0);
        assert_eq!(
            committed,
            Some(term),
            "{id:?} applied what nobody committed"
        );
        let digest = *self.digests.entry(index).or_insert(store.digest);
        assert_eq!(digest, store.digest, "StateMachine: {id:?} at {index:?}");
    }

    pub fn read_asked(&mut self, id: NodeId, request: RequestId) {
        self.reads.insert((id, request), self.highest_commit());
    }

    pub fn read_ready(&mut self, id: NodeId, request: RequestId, index: LogIndex) {
        let floor = self
            .reads
            .remove(&(id, request))
            .expect("answered once, and only if asked");
        assert!(
            floor <= index,
            "ReadValid: {id:?} reads {index:?}, {floor:?} was committed"
        );
    }

    pub fn read_refused(&mut self, id: NodeId, request: RequestId) {
        self.reads.remove(&(id, request));
    }
}

/// CommittedDurable: at the moment of commit, a majority of each half of the
/// membership has the entry on disk.
fn assert_quorum_holds<'a>(
    membership: &Membership,
    entry: &Entry,
    durable: &impl Fn(NodeId) -> Option<&'a LogImage>,
) {
    let holds = |id: &NodeId| {
        durable(*id).is_some_and(|disk| {
            entry.index <= disk.base.0
                || disk
                    .entry(entry.index)
                    .is_some_and(|held| held.term == entry.term)
        })
    };
    for half in [&membership.voters, &membership.voters_outgoing] {
        let count = half.iter().filter(|id| holds(id)).count();
        assert!(
            half.is_empty() || half.len() < 2 * count,
            "CommittedDurable: {entry:?} is on {count} of {half:?}"
        );
    }
}
