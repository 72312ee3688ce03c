//! The observer that explains a whole run by the specification.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::iter;

use super::explain::{self, Explanation, Heard};
use super::log::{Log, Saved};
use super::mapping;
use super::raft::Server;
use super::said::{Said, What};
use crate::raft::message::Message;
use crate::raft::{Effect, Input, Recovered, Status};
use crate::sim::history::{Life, Observer, Property, Step, Verdict, Violation};
use crate::sim::notation;
use crate::types::{LogIndex, Mark, NodeId, Term};

/// The abstract cluster. See [`crate::sim::spec`].
#[derive(Debug, Default)]
pub struct Refinement {
    servers: BTreeMap<Life, Server>,
    /// Everything that was ever said (messages may be lost, doubled, delayed),
    /// with the term of the entry it acknowledges.
    network: BTreeMap<(Life, NodeId, Said), Term>,
    /// What waits for a disk before it leaves.
    waiting: BTreeMap<(Life, NodeId, Said), Term>,
    /// Whose logs were damaged and repaired since they last started.
    repaired: BTreeSet<Life>,
}

impl Refinement {
    /// What a step is told, up to the first message that nobody sent.
    fn heard(&self, step: &Step<'_>) -> Vec<Heard> {
        let messages = step.inputs.iter().filter_map(|input| match input {
            Input::Message { from, message, .. } => Some((*from, message)),
            _ => None,
        });
        let heard = |(from, message)| {
            let said = mapping::said(message);
            let mut lives = self.servers.keys().rev().filter(|life| life.node == from);
            let from = *lives.find(|life| self.was_sent(**life, step.life.node, &said))?;
            let mut snapshot = Vec::new();
            if let Some(What::Install((_, last))) = said.first().map(|said| &said.what) {
                let log = &self.servers[&from].memory.log;
                let all = (1..=last.0).filter_map(|index| log.get(LogIndex(index)));
                snapshot = all.cloned().collect();
            }
            Some(Heard {
                from,
                said,
                snapshot,
            })
        };
        messages.map_while(heard).collect()
    }

    fn was_sent(&self, from: Life, to: NodeId, said: &[Said]) -> bool {
        let mut said = said.iter().cloned();
        said.all(|said| self.network.contains_key(&(from, to, said)))
    }

    /// What a repair may make of a disk: in place of its log, what another
    /// server committed (D-030). A snapshot of that server could have brought
    /// it about, for what is committed stays. The term may be a later one, if
    /// nothing is voted in it: this server never reached it.
    fn given(&self, server: &Server, recovered: &Recovered) -> Option<Saved> {
        let writes = server.writes.iter().map(|(_, saved)| saved);
        let told: Vec<_> = iter::once(&server.disk)
            .chain(writes)
            .map(|saved| (saved.term, saved.vote))
            .collect();
        self.servers.values().find_map(|giver| {
            let found = mapping::saved(recovered, &giver.memory.log);
            let mut committed = giver.memory.log.clone();
            committed.keep(found.log.len());
            let is_committed = found.log.len() <= giver.commit && found.log == committed;
            let is_new = found.vote.is_none() && told.iter().all(|told| told.0 < found.term);
            let is_kept = is_new || told.contains(&(found.term, found.vote));
            (is_committed && is_kept).then_some(found)
        })
    }

    /// Explains a step. When several moments could have begun an election, each
    /// is tried.
    fn explain(&mut self, step: &Step<'_>, said: &[(NodeId, Said)]) -> Verdict {
        let heard = self.heard(step);
        let Some(server) = self.servers.get_mut(&step.life) else {
            return refuse(step.life, "steps", "it never started".into(), String::new);
        };
        let before = server.clone();
        let mut first = None;
        let triggers = step
            .inputs
            .iter()
            .filter(|input| explain::is_trigger(input));
        for passed_over in 0..triggers.count().max(1) {
            let replayed = Explanation::new(step, &heard, said, passed_over).replay(server);
            let Err(reason) = replayed else {
                return Ok(());
            };
            let reached = std::mem::replace(server, before.clone());
            first.get_or_insert((reason, reached));
        }
        let Some((reason, reached)) = first else {
            return Ok(());
        };
        let known = format!(
            "it was\n{}\n  was told\n{}\n  and by the specification came to\n{}",
            describe(&before),
            lines(step.inputs),
            describe(&reached),
        );
        refuse(step.life, reason, known, || {
            let status = notation::status(step.status);
            format!("did\n{}\n  and is now\n    {status}", lines(step.effects))
        })
    }
}

fn refuse(
    life: Life,
    reason: &'static str,
    known: String,
    found: impl FnOnce() -> String,
) -> Verdict {
    Violation::unless(false, Property::Refinement, life, || {
        let known = format!("the specification forbids that it {reason}: {known}");
        (known, found())
    })
}

impl Observer for Refinement {
    fn started(&mut self, life: Life, recovered: &Recovered, status: &Status) -> Verdict {
        let mut disk = Some(mapping::saved(recovered, &Log::default()));
        let (mut committed, mut known) = (status.commit_index, String::new());
        if let Some(server) = self.servers.get(&life) {
            disk = found(server, recovered);
            (committed, known) = (server.commit, format!("it was\n{}", describe(server)));
            if disk.is_none() && self.repaired.contains(&life) {
                disk = self.given(server, recovered);
                committed = committed.max(disk.as_ref().map_or(committed, |it| it.log.len()));
            }
        }
        self.repaired.remove(&life);
        let wakes = || format!("wakes up with {recovered:?}, {:?}", status.commit_index);
        let Some(disk) = disk else {
            return refuse(life, "wakes up in another state", known, wakes);
        };
        if committed < status.commit_index {
            return refuse(life, "wakes up with a later commit", known, wakes);
        }
        let woken = (status.term, (status.last_term, status.last_index));
        if woken != (disk.term, disk.log.last()) {
            return refuse(life, "makes something else of its disk", known, wakes);
        }
        let mut server = Server::new(life, disk);
        (server.commit, server.applied) = (status.commit_index, recovered.applied_index);
        self.servers.insert(life, server);
        Ok(())
    }

    fn stepped(&mut self, step: &Step<'_>) -> Verdict {
        let mut said = Vec::new();
        for effect in step.effects {
            if let Effect::Send { to, message, .. } = effect {
                said.extend(mapping::said(message).into_iter().map(|said| (*to, said)));
            }
        }
        self.explain(step, &said)?;
        let log = self
            .servers
            .get(&step.life)
            .map(|server| &server.memory.log);
        for (to, said) in said {
            let term = match (&said.what, log) {
                (What::Ack(index), Some(log)) => log.get(*index).map(|entry| entry.term),
                _ => None,
            };
            self.waiting
                .insert((step.life, to, said), term.unwrap_or_default());
        }
        Ok(())
    }

    fn sent(&mut self, from: Life, to: NodeId, message: &Message) -> Verdict {
        let Some(server) = self.servers.get_mut(&from) else {
            return Ok(());
        };
        for said in mapping::said(message) {
            let key = (from, to, said);
            let waited = self.waiting.remove(&key);
            let prepared = waited.or_else(|| self.network.get(&key).copied());
            let allowed = match prepared {
                Some(_) => Ok(()),
                // Filled from the log on its disk: judged as it leaves.
                None => server.may_say(to, &key.2),
            };
            let term = prepared.unwrap_or_default();
            let leaves = allowed.and_then(|()| server.may_leave(to, &key.2, term));
            if let Err(reason) = leaves {
                let known = format!("it is\n{}", describe(server));
                return refuse(from, reason, known, || {
                    format!("this leaves for {to:?}\n    {message:?}")
                });
            }
            self.network.insert(key, term);
        }
        Ok(())
    }

    fn durable(&mut self, life: Life, mark: Mark) -> Verdict {
        if let Some(server) = self.servers.get_mut(&life) {
            server.saved(mark.sequence.0);
        }
        Ok(())
    }

    fn executed(&mut self, _: Life, _: LogIndex, _: LogIndex, _: u64) -> Verdict {
        Ok(())
    }

    fn crashed(&mut self, life: Life) -> Verdict {
        self.waiting.retain(|(from, ..), _| *from != life);
        Ok(())
    }

    fn repaired(&mut self, life: Life) -> Verdict {
        self.repaired.insert(life);
        Ok(())
    }
}

/// What was on its disk, and perhaps some first ones of the writes under way,
/// if that is what was found. Of a write that was cut short the term and vote
/// may be found although its entries are not; or the snapshot that it begins
/// with, in whose term nothing was voted then.
fn found(server: &Server, recovered: &Recovered) -> Option<Saved> {
    let writes = server.writes.iter().map(|(_, saved)| saved);
    let states: Vec<&Saved> = iter::once(&server.disk).chain(writes).collect();
    let snapshot = recovered.snapshot.as_ref().map(mapping::at);
    (0..states.len()).find_map(|position| {
        let found = mapping::saved(recovered, &states[position].log);
        let choice = (found.term, found.vote);
        let last = found.log.last();
        let (first, raised) = match snapshot == Some(last) {
            true => (0, choice == (last.0, None)),
            false => (position, false),
        };
        let mut told = states[first..].iter().map(|state| (state.term, state.vote));
        let chosen = raised || told.any(|told| told == choice);
        (chosen && found.log == states[position].log).then_some(found)
    })
}

/// A server as the specification has it.
fn describe(server: &Server) -> String {
    let Saved { term, vote, log } = &server.memory;
    let ends = |log: &Log| {
        let (term, index) = log.last();
        format!("{term:?}/{index:?}")
    };
    let (index, config) = log.config();
    let under_way = server.writes.iter().map(|(number, saved)| {
        let end = ends(&saved.log);
        format!(
            ", write {number}: {:?}, vote {:?}, log to {end}",
            saved.term, saved.vote
        )
    });
    let disk = &server.disk;
    format!(
        "    {:?} in {term:?}, vote {vote:?}, log to {}, committed {:?}, executed {:?}\n    \
         on disk: {:?}, vote {:?}, log to {}{}\n    \
         configuration at {index:?}: {:?}, outgoing {:?}",
        server.role,
        ends(log),
        server.commit,
        server.applied,
        disk.term,
        disk.vote,
        ends(&disk.log),
        under_way.collect::<String>(),
        config.voters,
        config.outgoing,
    )
}

fn lines(items: &[impl Debug]) -> String {
    let items: Vec<String> = items.iter().map(|item| format!("    {item:?}")).collect();
    items.join("\n")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::raft::Role;
    use crate::types::{Entry, EntryPayload, HardState, Membership, Millis};

    #[test]
    fn step_that_nothing_explains_shows_both_states_and_itself() {
        let node = NodeId(1);
        let life = Life {
            node,
            ..Life::default()
        };
        let membership = Membership {
            voters: [node].into(),
            ..Membership::default()
        };
        let (term, index) = (Term(1), LogIndex(1));
        let payload = EntryPayload::Membership(Arc::new(membership));
        let recovered = Recovered {
            hard_state: HardState {
                term,
                ..HardState::default()
            },
            entries: vec![Entry {
                index,
                term,
                payload,
            }],
            ..Recovered::default()
        };
        let mut status = Status {
            term,
            commit_index: index,
            last_index: index,
            last_term: term,
            ..Status::default()
        };
        let mut refinement = Refinement::default();
        let started = refinement.started(life, &recovered, &status);
        started.expect("a first start");
        // It leads although its vote for itself is on no disk.
        (status.role, status.term) = (Role::Leader, Term(2));
        let step = Step {
            life,
            now: Millis(5),
            inputs: &[Input::Tick],
            effects: &[Effect::Purge { through: index }],
            status: &status,
        };
        let violation = refinement.stepped(&step).expect_err("nobody elected it");
        let told = violation.to_string();
        for part in [
            "forbids that it leads without the votes of a quorum: it was",
            "    Follower in t1, vote None, log to t1/i1, committed i1, executed i0",
            "  was told\n    Tick",
            "    Candidate in t2, vote Some(n1), log to t1/i1",
            "    on disk: t1, vote None, log to t1/i1",
            "did\n    Purge { through: i1 }",
            "  and is now\n    Leader term=2",
        ] {
            assert!(told.contains(part), "{part:?} is not in\n{told}");
        }
    }
}
