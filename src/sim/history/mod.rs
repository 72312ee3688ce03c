//! What happened in a cluster, told by whatever simulates it, and what must
//! hold in all of it.
//!
//! A simulation reports to [`Observer`]s. They learn only what crosses the
//! border of the core (inputs, effects, status) and what disks and stores did
//! with it, so the production code needs no hooks to be watched.
//!
//! [`History`] is the observer that remembers everything: each property of
//! [`Property`] is checked against all that ever was, on dead nodes and wiped
//! disks too, not against the nodes that happen to live. It rebuilds every log,
//! written and durable, from the writes asked for and the completions told; a
//! restart must find exactly one of those states on the real (simulated) disk.

mod commitment;
mod elections;
mod image;
mod logs;
mod machine;
mod observer;
mod order;
mod promises;
mod quorums;
mod reads;
mod requests;
#[cfg(test)]
mod tests;
mod violation;

use std::collections::BTreeMap;

use crate::raft::message::{AppendResult, Message};
use crate::raft::{Effect, Input, Recovered, Role, Status};
use crate::types::{LogIndex, Mark, Membership, NodeId, Term};
use commitment::Commitment;
use elections::Elections;
use image::{Disk, LogImage};
use logs::Logs;
use machine::Machine;
pub use observer::{Life, Observer, Step};
use reads::Reads;
use requests::Requests;
pub use violation::{Property, Verdict, Violation};

/// What is remembered of one life.
#[derive(Debug, Default)]
struct Node {
    disk: Disk,
    before: Before,
    /// Up to here the leader of `before.term` vouched for its log.
    verified: LogIndex,
    snapshot: LogIndex,
    executed: LogIndex,
    /// What it counted of its peers, in `before.term`.
    matches: BTreeMap<NodeId, LogIndex>,
}

/// What a node was before the step at hand.
#[derive(Clone, Copy, Debug, Default)]
struct Before {
    role: Role,
    term: Term,
    commit: LogIndex,
}

impl Before {
    fn of(status: &Status) -> Self {
        Self {
            role: status.role,
            term: status.term,
            commit: status.commit_index,
        }
    }
}

/// The whole history of a cluster. See the module.
#[derive(Debug, Default)]
pub struct History {
    nodes: BTreeMap<Life, Node>,
    /// What was on the disks of lives that are over, when they ended.
    lost: BTreeMap<Life, LogImage>,
    elections: Elections,
    logs: Logs,
    commitment: Commitment,
    machine: Machine,
    reads: Reads,
    requests: Requests,
}

impl History {
    /// The highest position that any node ever knew to be committed.
    #[must_use]
    pub fn highest_commit(&self) -> LogIndex {
        self.commitment.highest()
    }

    /// What is, or was when it was lost, on the disk of a life.
    fn disk(&self, life: Life) -> Option<&LogImage> {
        let node = self.nodes.get(&life).map(|node| &node.disk.durable);
        node.or_else(|| self.lost.get(&life))
    }

    fn node(&mut self, life: Life) -> &mut Node {
        self.nodes.entry(life).or_default()
    }

    /// Another life under this name: the directory of the last is gone.
    fn end_former_lives(&mut self, life: Life) {
        let is_former = |other: &&Life| other.node == life.node && **other != life;
        let former: Vec<Life> = self.nodes.keys().filter(is_former).copied().collect();
        for life in former {
            if let Some(node) = self.nodes.remove(&life) {
                self.lost.insert(life, node.disk.durable);
            }
        }
    }

    fn note_inputs(&mut self, step: &Step<'_>) {
        for input in step.inputs {
            match input {
                Input::ReadIndex { id } => {
                    let committed = self.commitment.highest();
                    self.reads.asked(step.life, *id, committed);
                }
                Input::Propose { id, payload } => self.requests.proposed(step.life, *id, payload),
                Input::SnapshotTaken(meta) => {
                    let node = self.node(step.life);
                    node.snapshot = node.snapshot.max(meta.index);
                }
                _ => {}
            }
        }
    }

    fn note_effects(&mut self, step: &Step<'_>) -> Verdict {
        let life = step.life;
        for effect in step.effects {
            match effect {
                Effect::Persist { mark, write } => self.note_write(step, *mark, write)?,
                Effect::Purge { through } => {
                    let node = self.node(life);
                    order::purge(life, *through, node.snapshot)?;
                    node.disk.purge(*through);
                }
                Effect::ReadReady { id, index } => self.reads.ready(life, *id, *index)?,
                Effect::ProposalAccepted { id, .. } => self.requests.accepted(life, *id),
                Effect::Rejected { id, .. } => {
                    self.reads.refused(life, *id);
                    self.requests.refused(life, *id)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn note_write(
        &mut self,
        step: &Step<'_>,
        mark: Mark,
        write: &crate::types::LogWrite,
    ) -> Verdict {
        let life = step.life;
        if let Some(meta) = &write.reset_to {
            self.commitment.covers(life, meta.index, meta.term)?;
        }
        let node = self.nodes.entry(life).or_default();
        let leads = node.before.role == Role::Leader && step.status.role == Role::Leader;
        if leads && node.before.term == step.status.term {
            logs::leader_appends(life, write)?;
        }
        node.disk.issue(life, mark, write)?;
        for pair in node.disk.written.memberships_around(&write.entries) {
            quorums::adjacent(life, pair.0, pair.1)?;
        }
        self.logs.appended(life, &node.disk.written, &write.entries)
    }

    /// A commit index moved.
    fn note_commits(&mut self, step: &Step<'_>) -> Verdict {
        let (life, status) = (step.life, step.status);
        let Some(node) = self.nodes.get(&life) else {
            return Ok(());
        };
        let first = node.before.commit.next();
        let counted = membership_counted(&node.disk.written, step);
        let mut index = first;
        while index <= status.commit_index {
            let log = &self.nodes[&life].disk.written;
            if let Some(held) = self.commitment.agree(life, log, index)? {
                let counted = counted.as_ref();
                commitment::on_enough_disks(life, counted, index, held, |one| self.disk(one))?;
                self.commitment.note(index, held, Some(status.term));
                self.commitment.late(life, &self.logs, index, status.term)?;
                self.requests.committed(life, index, held)?;
            }
            index = index.next();
        }
        Ok(())
    }

    fn check_role(&mut self, step: &Step<'_>) -> Verdict {
        let (life, status) = (step.life, step.status);
        let before = self.node(life).before;
        if status.role == Role::Leader && self.elections.leads(life, status.term)? {
            let log = &self.nodes[&life].disk.written;
            self.commitment.elected(life, status.term, log)?;
        }
        let campaigns = status.role == Role::Candidate
            && (before.role != Role::Candidate || before.term < status.term);
        if campaigns {
            let disks: Vec<(Life, &LogImage)> = self
                .nodes
                .iter()
                .map(|(life, node)| (*life, &node.disk.durable))
                .collect();
            quorums::electable(life, &disks)?;
        }
        Ok(())
    }

    fn check_positions(&mut self, step: &Step<'_>) -> Verdict {
        let (life, status) = (step.life, step.status);
        let Some(mut node) = self.nodes.remove(&life) else {
            return Ok(());
        };
        let verdict = order::positions(life, status, &node.disk.written)
            .and_then(|()| node.note_verified(step))
            .and_then(|()| {
                if node.before.role != Role::Leader || node.before.term != status.term {
                    node.matches.clear();
                }
                let Node { disk, matches, .. } = &mut node;
                order::matches(life, status, &disk.written, matches, |one| self.disk(one))
            });
        self.nodes.insert(life, node);
        verdict
    }
}

impl Node {
    /// VerifiedCommit: what the leader vouched for is what was acknowledged to
    /// it, and everything up to an entry of its own term.
    fn note_verified(&mut self, step: &Step<'_>) -> Verdict {
        let status = step.status;
        let acknowledged = |term: Option<Term>| {
            let indexes = step
                .effects
                .iter()
                .filter_map(|effect| acknowledgement(effect, term));
            indexes.max().unwrap_or_default()
        };
        let vouched = self
            .verified
            .max(acknowledged(None))
            .max(self.before.commit);
        self.verified = if self.before.term == status.term {
            self.verified.max(acknowledged(Some(status.term)))
        } else {
            acknowledged(Some(status.term))
        };
        if status.last_term == status.term {
            self.verified = self.verified.max(status.last_index);
        }
        if status.role == Role::Leader || self.before.role == Role::Leader {
            return Ok(());
        }
        commitment::is_verified(step.life, status, vouched.max(self.verified))
    }
}

fn acknowledgement(effect: &Effect, in_term: Option<Term>) -> Option<LogIndex> {
    let Effect::Send { message, .. } = effect else {
        return None;
    };
    match message {
        Message::AppendResponse {
            term,
            result: AppendResult::Matched { match_index },
            ..
        }
        | Message::InstallSnapshotResponse { term, match_index } => in_term
            .is_none_or(|wanted| wanted == *term)
            .then_some(*match_index),
        _ => None,
    }
}

/// The membership under which a leader counted in this step: a joint one that
/// it leaves once the count is done.
fn membership_counted(log: &LogImage, step: &Step<'_>) -> std::sync::Arc<Membership> {
    let appended = step.effects.iter().any(|effect| match effect {
        Effect::Persist { write, .. } => write
            .entries
            .iter()
            .any(|entry| entry.index == step.status.membership_index),
        _ => false,
    });
    let left = log
        .membership_before_last()
        .filter(|before| appended && before.is_joint() && !step.status.membership.is_joint());
    left.unwrap_or(&step.status.membership).clone()
}

impl Observer for History {
    fn started(&mut self, life: Life, recovered: &Recovered, status: &Status) -> Verdict {
        let Recovered {
            hard_state,
            snapshot,
            entries,
            applied_index,
        } = recovered;
        let found = Disk::found(*hard_state, snapshot.as_ref(), entries);
        let is_known = self.nodes.contains_key(&life);
        self.end_former_lives(life);
        let node = self.nodes.entry(life).or_default();
        if is_known {
            node.disk.restart(life, found, snapshot.as_ref())?;
        } else {
            node.disk = found;
            self.logs.appended(life, &node.disk.written, entries)?;
        }
        if let Some(meta) = snapshot.as_ref().filter(|_| is_known) {
            self.commitment.covers(life, meta.index, meta.term)?;
        }
        node.snapshot = snapshot.as_ref().map_or(LogIndex(0), |meta| meta.index);
        let (base, covered) = (node.disk.durable.base(), node.snapshot);
        Violation::unless(
            base <= covered || !is_known,
            Property::Recovery,
            life,
            || {
                let known = format!("its log begins after {base:?}");
                (known, format!("its snapshot covers {covered:?}"))
            },
        )?;
        node.executed = *applied_index;
        node.before = Before::of(status);
        node.matches.clear();
        node.verified = LogIndex(0);
        if status.last_term == status.term {
            node.verified = status.last_index;
        }
        let highest = self.commitment.highest();
        Violation::unless(
            !is_known || status.commit_index <= highest,
            Property::Recovery,
            life,
            || {
                let known = format!("{highest:?} is the highest commit known");
                (known, format!("it starts with {:?}", status.commit_index))
            },
        )?;
        for index in (highest.0 + 1..=status.commit_index.0).map(LogIndex) {
            // A cluster's first entry is committed by definition.
            if let Some(held) = self.nodes[&life].disk.durable.held(index) {
                self.commitment.note(index, held, None);
            }
        }
        Ok(())
    }

    fn stepped(&mut self, step: &Step<'_>) -> Verdict {
        self.note_inputs(step);
        let held = promises::held_probes(step, &self.node(step.life).disk.written);
        self.note_effects(step)?;
        let log = &self.nodes[&step.life].disk.written;
        promises::refuses_honestly(step, &held, log)?;
        self.check_role(step)?;
        self.note_commits(step)?;
        self.check_positions(step)?;
        self.node(step.life).before = Before::of(step.status);
        Ok(())
    }

    fn sent(&mut self, from: Life, to: NodeId, message: &Message) -> Verdict {
        let Some(node) = self.nodes.get(&from) else {
            return Ok(());
        };
        promises::sent(from, to, message, &node.disk.durable)?;
        self.elections.sent(from, to, message)
    }

    fn durable(&mut self, life: Life, mark: Mark) -> Verdict {
        let node = self.node(life);
        node.disk.complete(life, mark)?;
        // A log that was reset begins after a published snapshot.
        node.snapshot = node.snapshot.max(node.disk.durable.base());
        Ok(())
    }

    fn executed(&mut self, life: Life, first: LogIndex, last: LogIndex, digest: u64) -> Verdict {
        let committed = self.commitment.highest();
        let before = std::mem::replace(&mut self.node(life).executed, last);
        self.machine
            .executed(life, before, (first, last), digest, committed)
    }

    fn crashed(&mut self, life: Life) -> Verdict {
        self.reads.crashed(life);
        self.requests.crashed(life);
        Ok(())
    }
}
