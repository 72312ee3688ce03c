//! The observer that explains a whole run by the specification.

use std::collections::BTreeMap;

use super::explain::{self, Explanation};
use super::log::Saved;
use super::mapping;
use super::raft::{Guard, Server};
use super::said::{Said, What};
use crate::raft::message::Message;
use crate::raft::{Effect, Input, Recovered, Status};
use crate::sim::history::{Life, Observer, Property, Step, Verdict, Violation};
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
}

impl Refinement {
    /// Who sent what a step receives.
    fn senders(&self, step: &Step<'_>) -> Result<Vec<Life>, Box<Violation>> {
        let mut senders = Vec::new();
        for input in step.inputs {
            let Input::Message { from, message } = input else {
                continue;
            };
            let said = mapping::said(message);
            let lives = self.servers.keys().rev().filter(|life| life.node == *from);
            let sender = lives.copied().find(|life| {
                let was_sent = |one: &Said| {
                    self.network
                        .contains_key(&(*life, step.life.node, one.clone()))
                };
                said.iter().all(was_sent)
            });
            let Some(sender) = sender else {
                refuse(step.life, "receives what nobody sent", || {
                    (
                        "the network never held it".to_owned(),
                        format!("from {from:?}: {message:?}"),
                    )
                })?;
                break;
            };
            senders.push(sender);
        }
        Ok(senders)
    }

    /// Explains a step. When several moments could have begun an election, each
    /// is tried.
    fn explain(&mut self, step: &Step<'_>, senders: &[Life]) -> Verdict {
        let Some(server) = self.servers.get_mut(&step.life) else {
            return refuse(step.life, "steps", || {
                ("it never started".to_owned(), String::new())
            });
        };
        let triggers = step
            .inputs
            .iter()
            .filter(|input| explain::is_trigger(input))
            .count();
        if triggers < 2 {
            let replayed = Explanation::new(step, senders, 0).replay(server);
            return verdict(replayed, step, server);
        }
        let before = server.clone();
        let mut first = None;
        for passed_over in 0..=triggers {
            let replayed = Explanation::new(step, senders, passed_over).replay(server);
            if replayed.is_ok() {
                return Ok(());
            }
            first.get_or_insert(verdict(replayed, step, server));
            *server = before.clone();
        }
        first.unwrap_or(Ok(()))
    }
}

fn refuse(life: Life, reason: &'static str, sides: impl FnOnce() -> (String, String)) -> Verdict {
    Violation::unless(false, Property::Refinement, life, || {
        let (known, found) = sides();
        (
            format!("the specification forbids that it {reason}: {known}"),
            found,
        )
    })
}

fn verdict(explained: Guard, step: &Step<'_>, server: &Server) -> Verdict {
    let Err(reason) = explained else {
        return Ok(());
    };
    refuse(step.life, reason, || {
        let Step {
            inputs,
            effects,
            status,
            ..
        } = step;
        (
            describe(server),
            format!("{status:?}\n  after {inputs:?}\n  with {effects:?}"),
        )
    })
}

impl Observer for Refinement {
    fn started(&mut self, life: Life, recovered: &Recovered, status: &Status) -> Verdict {
        let found = mapping::saved(recovered);
        let is_known = self.servers.contains_key(&life);
        let server = self
            .servers
            .entry(life)
            .or_insert_with(|| Server::new(life, found.clone()));
        if is_known {
            while !equal(&server.disk, &found) {
                if !server.saved(u64::MAX) {
                    return refuse(life, "wakes up in another state", || {
                        (describe(server), format!("{recovered:?}"))
                    });
                }
            }
        }
        server.wake_up();
        let committed = std::mem::take(&mut server.commit);
        if let Some(meta) = &recovered.snapshot {
            let config = (meta.membership_index, mapping::config(&meta.membership));
            server.take_snapshot((meta.index, meta.term), config);
        }
        let known = !is_known || status.commit_index <= committed.max(server.commit);
        (server.commit, server.applied) = (status.commit_index, recovered.applied_index);
        Violation::unless(known, Property::Refinement, life, || {
            let found = format!("it wakes up with commit {:?}", status.commit_index);
            (format!("{committed:?} was committed"), found)
        })
    }

    fn stepped(&mut self, step: &Step<'_>) -> Verdict {
        let senders = self.senders(step)?;
        self.explain(step, &senders)?;
        let Some(server) = self.servers.get(&step.life) else {
            return Ok(());
        };
        for effect in step.effects {
            let Effect::Send { to, message, .. } = effect else {
                continue;
            };
            for said in mapping::said(message) {
                let index_term = match said.what {
                    What::Ack(index) => server.memory.log.term(index),
                    _ => None,
                };
                let key = (step.life, *to, said);
                self.waiting.insert(key, index_term.unwrap_or_default());
            }
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
            let allowed = if prepared.is_some() {
                Ok(())
            } else {
                // Filled from the log on its disk: judged as it leaves.
                let own = server.may_say(to, &key.2);
                own.and_then(|()| explain::check_entries(server, message))
            };
            let index_term = prepared.unwrap_or_default();
            let leaves = server.may_leave(to, &key.2, index_term);
            if let Err(reason) = allowed.and(leaves) {
                return refuse(from, reason, || {
                    (describe(server), format!("{message:?} leaves for {to:?}"))
                });
            }
            self.network.insert(key, index_term);
        }
        Ok(())
    }

    fn durable(&mut self, life: Life, mark: Mark) -> Verdict {
        if let Some(server) = self.servers.get_mut(&life) {
            while server.saved(mark.sequence.0) {}
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
}

/// Whether a disk holds what was found on it; what is forgotten may still be
/// there.
fn equal(disk: &Saved, found: &Saved) -> bool {
    let from = disk.log.start.0.max(found.log.start.0);
    (disk.term, disk.vote, disk.log.last()) == (found.term, found.vote, found.log.last())
        && disk.log.after(from).eq(found.log.after(from))
}

/// A server in one line.
fn describe(server: &Server) -> String {
    let Saved { term, vote, log } = &server.memory;
    let (index, config) = log.config();
    let disk = (server.disk.term, server.disk.vote, server.disk.log.last());
    format!(
        "{:?} in {term:?}, vote {vote:?}, log to {:?}, commit {:?}, disk {disk:?}, {config:?} at {index:?}",
        server.role,
        log.last(),
        server.commit,
    )
}
