//! What a path remembers beyond the nodes themselves, as far as a property
//! still depends on it, and the properties (raft.md names them as DESIGN.md
//! does).

use std::collections::BTreeMap;

use crate::raft::RequestId;
use crate::types::{Entry, LogIndex, Membership, NodeId, Term};

use super::local::Local;
use super::violation::{Violation, violation};

/// An entry that was committed.
#[derive(Clone, Debug, serde::Serialize)]
struct Committed {
    entry: Entry,
    /// Term of the leader or follower that committed it first.
    within: Term,
}

/// See the module.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(super) struct History {
    leaders: BTreeMap<Term, NodeId>,
    /// The newest grant of each node: the term and to whom.
    grants: BTreeMap<NodeId, (Term, NodeId)>,
    /// From index 1.
    committed: Vec<Committed>,
    /// Reads asked for: by whom, and what was committed then.
    reads: BTreeMap<u64, (NodeId, LogIndex)>,
}

impl History {
    /// Forgets what nothing can contradict any more. A node acts only in terms
    /// from its durable one on (TermMonotone is checked where disks are
    /// written), so no node acts in a term below the least durable one.
    pub(super) fn forget(&mut self, durable_term: impl Fn(NodeId) -> Term, least: Term) {
        self.leaders.retain(|term, _| least <= *term);
        self.grants
            .retain(|node, (term, _)| durable_term(*node) <= *term);
        for committed in &mut self.committed {
            if committed.within <= least {
                committed.within = Term(0);
            }
        }
    }

    /// How far anything is committed.
    pub(super) fn commit_index(&self) -> LogIndex {
        LogIndex(self.committed.len() as u64)
    }

    /// The first entry is committed by definition.
    pub(super) fn found(&mut self, first: &Entry) {
        self.committed.push(Committed {
            entry: first.clone(),
            within: first.term,
        });
    }

    /// ElectionSafety and LeaderCompleteness.
    pub(super) fn leads(&mut self, node: &Local, term: Term) -> Result<(), Violation> {
        let leader = *self.leaders.entry(term).or_insert(node.id);
        if leader != node.id {
            let text = format!("leads in {term:?}, in which {leader:?} led");
            return Err(violation("ElectionSafety", node.id, text));
        }
        let earlier = self
            .committed
            .iter()
            .filter(|committed| committed.within < term);
        for Committed { entry, within } in earlier {
            let log = &node.written;
            if log.base.0 < entry.index && log.entry(entry.index) != Some(entry) {
                let text = format!(
                    "leads in {term:?} with {:?} where {entry:?} was committed in {within:?}",
                    log.entry(entry.index)
                );
                return Err(violation("LeaderCompleteness", node.id, text));
            }
        }
        Ok(())
    }

    /// VoteOnce, across crashes.
    pub(super) fn granted(
        &mut self,
        node: NodeId,
        term: Term,
        to: NodeId,
    ) -> Result<(), Violation> {
        let (newest, candidate) = *self.grants.entry(node).or_insert((term, to));
        if term < newest || (term == newest && candidate != to) {
            let text = format!("votes for {to:?} in {term:?} after {candidate:?} in {newest:?}");
            return Err(violation("VoteOnce", node, text));
        }
        self.grants.insert(node, (term, to));
        Ok(())
    }

    /// CommittedImmutable and CommittedDurable. Returns whether that is news.
    pub(super) fn committed<'a>(
        &mut self,
        node: &Local,
        entry: &Entry,
        local: impl Fn(NodeId) -> Option<&'a Local>,
    ) -> Result<bool, Violation> {
        let position = entry.index.0 as usize - 1;
        if let Some(known) = self.committed.get(position) {
            if known.entry != *entry {
                let text = format!("commits {entry:?} where {:?} was committed", known.entry);
                return Err(violation("CommittedImmutable", node.id, text));
            }
            return Ok(false);
        }
        let status = node.raft.status();
        check_quorum_holds(node.id, &status.membership, entry, local)?;
        self.committed.push(Committed {
            entry: entry.clone(),
            within: status.term,
        });
        Ok(true)
    }

    /// StateMachine: only what was committed is executed.
    pub(super) fn applied(
        &self,
        node: NodeId,
        index: LogIndex,
        term: Term,
    ) -> Result<(), Violation> {
        let known = self.committed.get(index.0 as usize - 1);
        match known.map(|known| &known.entry) {
            Some(entry) if entry.term == term => Ok(()),
            other => {
                let text = format!("executes {term:?}/{index:?} where {other:?} is committed");
                Err(violation("StateMachine", node, text))
            }
        }
    }

    pub(super) fn read_asked(&mut self, node: NodeId, id: RequestId) {
        self.reads.insert(id.0, (node, self.commit_index()));
    }

    /// ReadValid.
    pub(super) fn read_ready(
        &mut self,
        node: NodeId,
        id: RequestId,
        index: LogIndex,
    ) -> Result<(), Violation> {
        match self.reads.remove(&id.0) {
            Some((_, floor)) if floor <= index => Ok(()),
            Some((_, floor)) => {
                let text = format!("reads at {index:?} when {floor:?} was committed before");
                Err(violation("ReadValid", node, text))
            }
            None => Err(violation("ReadValid", node, "answers what nobody asks")),
        }
    }

    pub(super) fn read_refused(&mut self, id: RequestId) {
        self.reads.remove(&id.0);
    }

    pub(super) fn crashed(&mut self, node: NodeId) {
        self.reads.retain(|_, (asker, _)| *asker != node);
    }
}

/// At the moment of commit a majority of each half of the membership has the
/// entry on its disk.
fn check_quorum_holds<'a>(
    node: NodeId,
    membership: &Membership,
    entry: &Entry,
    local: impl Fn(NodeId) -> Option<&'a Local>,
) -> Result<(), Violation> {
    let holds = |id: &&NodeId| {
        local(**id).is_some_and(|local| {
            entry.index <= local.disk.base.0 || local.disk.term_at(entry.index) == Some(entry.term)
        })
    };
    for half in [&membership.voters, &membership.voters_outgoing] {
        let count = half.iter().filter(holds).count();
        if !half.is_empty() && 2 * count <= half.len() {
            let text = format!("commits {entry:?}, which {count} of {half:?} have on disk");
            return Err(violation("CommittedDurable", node, text));
        }
    }
    Ok(())
}

/// LogMatching: where two logs hold an entry of the same index and term, they
/// are equal up to there.
pub(super) fn check_logs_match(one: &Local, other: &Local) -> Result<(), Violation> {
    let (a, b) = (&one.written, &other.written);
    let common = a.last().0.min(b.last().0);
    let start = a.base.0.max(b.base.0);
    let agrees_at = (start.0 + 1..=common.0)
        .rev()
        .map(LogIndex)
        .find(|index| a.term_at(*index) == b.term_at(*index));
    let Some(end) = agrees_at else {
        return Ok(());
    };
    let differs = (start.0 + 1..=end.0)
        .map(LogIndex)
        .find(|index| a.entry(*index) != b.entry(*index));
    match differs {
        None => Ok(()),
        Some(index) => {
            let text = format!(
                "holds {:?} where {:?} holds {:?}, and both agree at {end:?}",
                a.entry(index),
                other.id,
                b.entry(index)
            );
            Err(violation("LogMatching", one.id, text))
        }
    }
}
