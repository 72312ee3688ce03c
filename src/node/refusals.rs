//! What a node does when a peer refuses to speak with it, or it with a peer.
//!
//! | the peer says of this node | this node |
//! |---|---|
//! | its process is a copy, or its directory an older state | stops for good |
//! | not a member, or its incarnation replaced, with the committed membership | passes it to the core, and is removed |
//! | anything else | asks again, more and more slowly |
//!
//! A peer is authenticated before its word counts; what this node can check of
//! it, it checks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::peer::{Goodbye, OwnDurableEnd, Refuser};
use crate::types::NodeId;

use super::event::{Event, EventSender};
use super::failure::Failure;
use super::identity::DirectoryIdentity;

/// Handles refusals, of either side.
pub(super) struct Refusals {
    identity: DirectoryIdentity,
    durable: Arc<OwnDurableEnd>,
    failure: Arc<Failure>,
    events: EventSender,
    /// The last words about each peer: said once, not at every attempt.
    logged: Mutex<BTreeMap<NodeId, String>>,
}

/// Peers whose last words are remembered, at most.
const LOGGED_MAX: usize = 256;

impl Refusals {
    pub fn new(
        identity: DirectoryIdentity,
        durable: Arc<OwnDurableEnd>,
        failure: Arc<Failure>,
        events: EventSender,
    ) -> Self {
        Self {
            identity,
            durable,
            failure,
            events,
            logged: Mutex::default(),
        }
    }

    /// Takes notice of a refusal.
    pub fn handle(&self, peer: NodeId, goodbye: &Goodbye, refuser: Refuser) {
        self.log(peer, goodbye, refuser);
        if refuser == Refuser::This {
            return;
        }
        if self.ends_this_process(goodbye) {
            self.failure.refuse(&format!("peer {peer} says: {goodbye}"));
            self.events.send(Event::Stop);
        } else if let Some(proof) = goodbye.proof() {
            self.events.send(Event::Excluded(proof.clone()));
        }
    }

    /// Whether it is true, as far as this node can tell, that it must not speak
    /// for its name.
    fn ends_this_process(&self, goodbye: &Goodbye) -> bool {
        match goodbye {
            Goodbye::Copied {
                incarnation,
                refused,
                other,
                ..
            } => {
                let own = &self.identity;
                *incarnation == own.incarnation && *refused == own.run && *other != own.run
            }
            Goodbye::RolledBack { acknowledged, .. } => self.durable.now() < *acknowledged,
            _ => false,
        }
    }

    fn log(&self, peer: NodeId, goodbye: &Goodbye, refuser: Refuser) {
        let text = goodbye.to_string();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.get(&peer) == Some(&text) {
            return;
        }
        match (refuser, goodbye.is_lasting()) {
            (_, false) => tracing::debug!(%peer, reason = text, "no conversation with a peer"),
            (Refuser::This, true) => tracing::warn!(%peer, reason = text, "peer refused"),
            (Refuser::Peer, true) => {
                tracing::warn!(%peer, reason = text, "refused by a peer");
            }
        }
        if logged.len() < LOGGED_MAX || logged.contains_key(&peer) {
            logged.insert(peer, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::peer::{DurableEnd, Run};
    use crate::types::{Incarnation, LogIndex, Term};

    fn end(term: u64, index: u64) -> DurableEnd {
        DurableEnd {
            term: Term(term),
            index: LogIndex(index),
        }
    }

    /// Whether the node stops when a peer says this.
    fn stops(goodbye: &Goodbye, refuser: Refuser) -> bool {
        let stopped = Arc::new(AtomicBool::new(false));
        let on_refusal = Arc::clone(&stopped);
        let failure = Failure::new(
            Arc::new(|reason| panic!("{reason}")),
            Arc::new(move |_| on_refusal.store(true, Ordering::Relaxed)),
        );
        let identity = DirectoryIdentity {
            name: "n2".to_owned(),
            id: NodeId(2),
            incarnation: Incarnation(20),
            run: Run { number: 5, id: 50 },
            removed_at: None,
        };
        let durable = Arc::new(OwnDurableEnd::default());
        durable.set(end(3, 40));
        let (events, _receiver) = EventSender::new();
        let refusals = Refusals::new(identity, durable, Arc::new(failure), events);
        refusals.handle(NodeId(1), goodbye, refuser);
        stopped.load(Ordering::Relaxed)
    }

    #[test]
    fn node_stops_only_for_what_is_true_of_it() {
        let copied = |incarnation, refused, other| Goodbye::Copied {
            name: "n2".to_owned(),
            incarnation: Incarnation(incarnation),
            refused: Run {
                number: refused,
                id: 10 * refused,
            },
            other: Run {
                number: other,
                id: 10 * other,
            },
            answers: true,
        };
        let rolled_back = |acknowledged| Goodbye::RolledBack {
            name: "n2".to_owned(),
            acknowledged,
            found: end(1, 1),
        };
        for (goodbye, expected) in [
            (copied(20, 5, 6), true),
            (copied(21, 5, 6), false),
            (copied(20, 4, 6), false),
            (copied(20, 5, 5), false),
            (rolled_back(end(3, 41)), true),
            (rolled_back(end(4, 0)), true),
            (rolled_back(end(3, 40)), false),
            (Goodbye::WrongCluster, false),
            (Goodbye::NotMember { proof: None }, false),
        ] {
            assert_eq!(stops(&goodbye, Refuser::Peer), expected, "{goodbye}");
            assert!(!stops(&goodbye, Refuser::This), "{goodbye}");
        }
    }
}
