//! The other members, as the raft thread sees them, and what they say to us.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use crate::peer::{
    Goodbye, Handler, Hello, MembershipProof, PeerStream, Refuser, Service, SinkError,
    SnapshotOffer, SnapshotSink, Transport,
};
use crate::raft::message::Message;
use crate::snapshot::SnapshotInfo;
use crate::types::{Incarnation, LogIndex, Member, Membership, NodeId, RepairMessage};

use super::board::Board;
use super::event::{Event, EventSender};
use super::peers::Peers;
use super::refusals::Refusals;
use super::snapshots::Snapshots;
use super::stream::{Incoming, Outgoing};

/// Called with the stream of a peer that forwards requests.
pub type ForwardHandler = Arc<dyn Fn(Hello, PeerStream) -> BoxFuture<'static, ()> + Send + Sync>;

/// Where the forward handler is put, before or after the node starts.
pub(super) type ForwardSlot = Arc<Mutex<Option<ForwardHandler>>>;

/// What nodes said of themselves, this one included.
#[derive(Clone)]
pub(super) struct Greetings(Arc<Mutex<BTreeMap<NodeId, Addresses>>>);

#[derive(Clone, PartialEq, Eq)]
struct Addresses {
    incarnation: Incarnation,
    api: String,
    cluster: String,
}

impl Greetings {
    /// Begins with this node's own.
    pub fn new(own: &Hello) -> Self {
        let greetings = Self(Arc::default());
        greetings.note(own);
        greetings
    }

    /// Whether anything is new.
    fn note(&self, hello: &Hello) -> bool {
        let addresses = Addresses {
            incarnation: hello.incarnation,
            api: hello.api_address.clone(),
            cluster: hello.cluster_address.clone(),
        };
        let mut known = self.known();
        if known.get(&hello.node) == Some(&addresses)
            || (known.len() >= GREETINGS_MAX && !known.contains_key(&hello.node))
        {
            return false;
        }
        known.insert(hello.node, addresses);
        true
    }

    fn api(&self, id: NodeId) -> Option<String> {
        self.known().get(&id).map(|known| known.api.clone())
    }

    /// Of this life only: another one's address is another node's by now.
    fn cluster(&self, id: NodeId, life: Incarnation) -> Option<String> {
        let known = self.known();
        let known = known.get(&id).filter(|known| known.incarnation == life);
        known.map(|known| known.cluster.clone())
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<NodeId, Addresses>> {
        // Every change is one insertion: a panic elsewhere left it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A node alone, as `sys/init` runs it.
pub(super) struct Alone {
    pub greetings: Greetings,
}

impl Peers for Alone {
    fn send(&self, _to: NodeId, _message: Message) {}

    fn send_repair(&self, _to: NodeId, _message: RepairMessage) {}

    fn stream_snapshot(&self, _to: NodeId, _least: LogIndex) {}

    fn set_members(&self, _index: LogIndex, _membership: &Membership) {}

    fn set_committed(&self, _index: LogIndex, _membership: &Arc<Membership>) {}

    fn api_address(&self, id: NodeId) -> Option<String> {
        self.greetings.api(id)
    }

    fn cluster_address(&self, _id: NodeId, _life: Incarnation) -> Option<String> {
        // Nobody listens yet: what the bootstrap recorded stays.
        None
    }
}

/// The transport and what is needed to feed it.
pub(super) struct Connected {
    pub transport: Arc<Transport>,
    pub events: EventSender,
    pub snapshots: Arc<Snapshots>,
    pub greetings: Greetings,
    pub runtime: tokio::runtime::Handle,
    pub departures: Departures,
}

/// Members that left a moment ago. The core still has to tell them that their
/// leaving is committed, so their connections outlive their membership.
#[derive(Clone, Default)]
pub(super) struct Departures(Arc<Mutex<Departed>>);

#[derive(Default)]
struct Departed {
    index: LogIndex,
    members: BTreeMap<NodeId, Member>,
    left: BTreeMap<NodeId, (Member, Instant)>,
}

impl Departures {
    /// Takes a new membership; whether anybody left.
    fn change(&self, index: LogIndex, members: &BTreeMap<NodeId, Member>) -> bool {
        let mut departed = self.departed();
        let before = std::mem::replace(&mut departed.members, members.clone());
        departed.index = index;
        let now = Instant::now();
        for (id, member) in before {
            if !members.contains_key(&id) {
                departed.left.insert(id, (member, now));
            }
        }
        departed.left.retain(|id, _| !members.contains_key(id));
        !departed.left.is_empty()
    }

    /// Tells the transport who is to be spoken with now.
    fn announce(&self, transport: &Transport) {
        let mut departed = self.departed();
        departed
            .left
            .retain(|_, (_, since)| since.elapsed() < FAREWELL);
        let mut members = departed.members.clone();
        let left = departed.left.iter();
        members.extend(left.map(|(id, (member, _))| (*id, member.clone())));
        // Under the lock: announcements keep the order of memberships.
        transport.set_members(departed.index, members);
    }

    fn departed(&self) -> MutexGuard<'_, Departed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peers for Connected {
    fn send(&self, to: NodeId, message: Message) {
        self.transport.send(to, message);
    }

    fn send_repair(&self, to: NodeId, message: RepairMessage) {
        self.transport.send_repair(to, message);
    }

    fn stream_snapshot(&self, to: NodeId, least: LogIndex) {
        let events = self.events.clone();
        let Some(info) = self.snapshots.newest_covering(least) else {
            events.send(Event::TakeSnapshot);
            events.send(Event::SnapshotStreamed {
                to,
                delivered: None,
            });
            return;
        };
        let snapshots = Arc::clone(&self.snapshots);
        let meta = info.meta.clone();
        let directory = self.snapshots.directory().clone();
        let source = Arc::new(Outgoing::new(directory, info.clone()));
        self.transport
            .send_snapshot_in_background(to, source, move |outcome| match outcome {
                Ok(()) => {
                    events.send(Event::SnapshotStreamed {
                        to,
                        delivered: Some(meta),
                    });
                }
                Err(error) => {
                    tracing::warn!(%to, %error, "snapshot stream failed");
                    // The core may ask again at once: not in a hot loop.
                    tokio::spawn(async move {
                        tokio::time::sleep(STREAM_RETRY_PAUSE).await;
                        if error.casts_doubt_on_the_file() && is_set_aside(snapshots, info).await {
                            events.send(Event::TakeSnapshot);
                        }
                        events.send(Event::SnapshotStreamed {
                            to,
                            delivered: None,
                        });
                    });
                }
            });
    }

    fn set_members(&self, index: LogIndex, membership: &Membership) {
        let farewell = self.departures.change(index, &membership.members);
        self.departures.announce(&self.transport);
        if farewell {
            let (departures, transport) =
                (self.departures.clone(), Arc::downgrade(&self.transport));
            self.runtime.spawn(async move {
                tokio::time::sleep(FAREWELL).await;
                if let Some(transport) = transport.upgrade() {
                    departures.announce(&transport);
                }
            });
        }
    }

    fn set_committed(&self, index: LogIndex, membership: &Arc<Membership>) {
        if !membership.members.is_empty() {
            self.transport.set_committed(MembershipProof {
                index,
                membership: Arc::clone(membership),
            });
        }
    }

    fn api_address(&self, id: NodeId) -> Option<String> {
        self.greetings.api(id)
    }

    fn cluster_address(&self, id: NodeId, life: Incarnation) -> Option<String> {
        self.greetings.cluster(id, life)
    }
}

/// Whether a snapshot that a peer could not stage turns out to be damaged
/// here.
async fn is_set_aside(snapshots: Arc<Snapshots>, info: SnapshotInfo) -> bool {
    let looked = tokio::task::spawn_blocking(move || snapshots.set_aside_if_damaged(&info.meta));
    match looked.await {
        Ok(Ok(is_set_aside)) => is_set_aside,
        Ok(Err(error)) => {
            tracing::warn!(%error, "cannot read a snapshot that a peer did not take");
            false
        }
        // The runtime is shutting down.
        Err(_) => false,
    }
}

/// What the transport calls.
pub(super) struct PeerHandler {
    pub events: EventSender,
    pub snapshots: Arc<Snapshots>,
    pub board: Arc<Board>,
    pub greetings: Greetings,
    pub forward: ForwardSlot,
    pub incoming: Incoming,
    pub refusals: Refusals,
}

impl Handler for PeerHandler {
    fn message(&self, from: NodeId, incarnation: Incarnation, message: Message) {
        self.events.deliver(from, incarnation, message);
    }

    fn repair(&self, from: NodeId, message: RepairMessage) {
        self.events.deliver_repair(from, message);
    }

    fn unreachable(&self, peer: NodeId) {
        self.events.send(Event::Unreachable(peer));
    }

    fn refused(&self, peer: NodeId, goodbye: &Goodbye, refuser: Refuser) {
        self.refusals.handle(peer, goodbye, refuser);
    }

    fn accept(&self, hello: &Hello, _service: Service) -> Result<(), Goodbye> {
        if self.greetings.note(hello) {
            self.events.send(Event::PeersChanged);
        }
        Ok(())
    }

    fn snapshot(
        &self,
        _from: NodeId,
        offer: &SnapshotOffer,
    ) -> Result<Box<dyn SnapshotSink>, SinkError> {
        let applied = self.board.applied();
        if offer.meta.index <= applied {
            return Err(SinkError(format!(
                "the snapshot ends at {}, this node has applied {applied}",
                offer.meta.index
            )));
        }
        self.incoming.begin(&self.snapshots, offer)
    }

    fn forward(&self, hello: Hello, stream: PeerStream) -> BoxFuture<'static, ()> {
        let handler = self
            .forward
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match handler {
            Some(handler) => handler(hello, stream),
            None => Box::pin(std::future::ready(())),
        }
    }
}

/// Nodes whose greetings are remembered, at most.
const GREETINGS_MAX: usize = 256;
/// Before a failed snapshot stream is reported.
const STREAM_RETRY_PAUSE: Duration = Duration::from_millis(500);
/// A member that left is spoken with for this long.
const FAREWELL: Duration = Duration::from_secs(5);
