//! The transport: what a node holds to speak with its peers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::net::TcpSocket;
use tokio::runtime::Handle;

use super::address::{AddressError, check_advertised};
use super::dial::{DialError, PeerStream, Refuser};
use super::hello::{DurableEnd, Goodbye, Hello, MembershipProof};
use super::incoming;
use super::queue::Letter;
use super::shared::Shared;
use super::snapshot::{SinkError, SnapshotOffer, SnapshotSink, SnapshotSource};
use super::snapshot_send::{self, SnapshotSendError};
use super::tls::{PeerTls, Service, TlsError};
use super::witness::Witness;
use crate::raft::message::Message;
use crate::types::{Incarnation, LogIndex, Member, NodeId, RepairMessage};

/// What a node does with what its peers say. Methods are called on the
/// transport's runtime and must not block, except where they say so.
pub trait Handler: Send + Sync + 'static {
    /// A message of an authenticated, accepted peer, and the incarnation it
    /// greeted with. Two connections of one peer may overlap for a moment, so
    /// order is likely, not certain.
    fn message(&self, from: NodeId, incarnation: Incarnation, message: Message);

    /// A peer speaks of lost entries: its own, or this node's.
    fn repair(&self, _from: NodeId, _message: RepairMessage) {}

    /// A connection to a peer was lost or could not be made; said again after
    /// each attempt.
    fn unreachable(&self, _peer: NodeId) {}

    /// A peer refuses to speak with this node, or this node with it, for this
    /// reason; said again after each attempt.
    fn refused(&self, _peer: NodeId, _goodbye: &Goodbye, _refuser: Refuser) {}

    /// Further conditions for accepting a caller, after cluster, membership
    /// and incarnation have been judged.
    ///
    /// # Errors
    /// The goodbye to answer with.
    fn accept(&self, _hello: &Hello, _service: Service) -> Result<(), Goodbye> {
        Ok(())
    }

    /// Where an offered snapshot goes; may block. To resume a stream that was
    /// cut, return a sink that already holds part of the same snapshot.
    ///
    /// # Errors
    /// The reason to refuse with.
    fn snapshot(
        &self,
        _from: NodeId,
        _offer: &SnapshotOffer,
    ) -> Result<Box<dyn SnapshotSink>, SinkError> {
        Err(SinkError("snapshots are not taken here".to_owned()))
    }

    /// Serves a peer that forwards requests; the connection lasts as long as
    /// the future, which is dropped when the transport stops.
    fn forward(&self, _hello: Hello, _stream: PeerStream) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// How long things may take.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Name resolution and TCP connection.
    pub connect: Duration,
    /// TLS and greeting.
    pub handshake: Duration,
    /// Between pings on an outgoing connection.
    pub ping_interval: Duration,
    /// Without an answer to a ping, or without taking a byte: gone.
    pub liveness: Duration,
    /// First pause between attempts.
    pub backoff_min: Duration,
    /// Longest pause between attempts.
    pub backoff_max: Duration,
    /// First pause after a refusal that will stand.
    pub refused_min: Duration,
    /// Longest pause after refusals that stand.
    pub refused_max: Duration,
    /// Without progress of a snapshot stream: gone.
    pub snapshot_patience: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            handshake: Duration::from_secs(10),
            ping_interval: Duration::from_secs(1),
            liveness: Duration::from_secs(5),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            refused_min: Duration::from_secs(1),
            refused_max: Duration::from_secs(30),
            snapshot_patience: Duration::from_secs(30),
        }
    }
}

/// Parameters of a transport.
#[derive(Clone, Debug)]
pub struct TransportOptions {
    /// Where to listen; port 0 for any.
    pub listen: SocketAddr,
    /// Messages waiting for one peer, at most.
    pub queue_messages_max: usize,
    /// Bytes waiting for one peer, at most; one message always fits.
    pub queue_bytes_max: usize,
    /// Connections being made to this node at once, at most.
    pub handshakes_max: usize,
    /// Connections standing at once, at most.
    pub connections_max: usize,
    /// Limit of each snapshot stream sent; `None` for none.
    pub snapshot_bytes_per_second: Option<u64>,
    /// How long things may take.
    pub timing: Timing,
    /// What is remembered of the peers.
    pub witness: Arc<Witness>,
    /// How far this node's own durable state reaches.
    pub durable: Arc<OwnDurableEnd>,
}

/// This node's durable end, as whoever writes the log last made it.
#[derive(Debug, Default)]
pub struct OwnDurableEnd(Mutex<DurableEnd>);

impl OwnDurableEnd {
    /// Must be told before any message says the same.
    pub fn set(&self, end: DurableEnd) {
        *self.lock() = end;
    }

    /// As last set.
    #[must_use]
    pub fn now(&self) -> DurableEnd {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, DurableEnd> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TransportOptions {
    /// The usual parameters.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            queue_messages_max: 4096,
            queue_bytes_max: 64 << 20,
            handshakes_max: 128,
            connections_max: 512,
            snapshot_bytes_per_second: None,
            timing: Timing::default(),
            witness: Arc::default(),
            durable: Arc::default(),
        }
    }
}

/// How it goes with one peer, as its caller sees it.
#[derive(Clone, Debug, Default)]
pub struct PeerState {
    /// A greeted connection to it stands.
    pub connected: bool,
    /// The last ping's round trip.
    pub round_trip: Option<Duration>,
    /// Why the last attempt or connection failed.
    pub last_error: Option<String>,
    /// Messages written to it.
    pub messages_sent: u64,
    /// Messages dropped: queue full, or no connection.
    pub messages_dropped: u64,
    /// Bytes waiting now, approximately.
    pub queued_bytes: usize,
    /// How far the snapshot that is being sent to it has come.
    pub snapshot: Option<SnapshotProgress>,
}

/// How far a snapshot on its way has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotProgress {
    /// Bytes that the receiver says it holds.
    pub held: u64,
    /// Length of the snapshot.
    pub bytes: u64,
}

/// A transport that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The address to advertise is of no use to peers.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The cluster port cannot be listened on.
    #[error("listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Speaks with the peers: owns the listener on the cluster port and one
/// outgoing connection to every peer known. Dropping it stops everything, as
/// [`Transport::shutdown`] does but without waiting.
pub struct Transport {
    pub(super) shared: Arc<Shared>,
    local_address: SocketAddr,
}

impl Transport {
    /// Listens on the cluster port and serves it on `runtime`. `own` is what
    /// this node says of itself. Does not block.
    ///
    /// # Errors
    /// The advertised address is unspecified or malformed, or the port cannot
    /// be listened on.
    pub fn start(
        runtime: &Handle,
        options: TransportOptions,
        own: Hello,
        tls: Arc<PeerTls>,
        handler: Arc<dyn Handler>,
    ) -> Result<Self, TransportError> {
        if check_advertised(&own.cluster_address)? {
            tracing::warn!(address = %own.cluster_address,
                "the cluster address is a loopback address: peers on other machines cannot use it");
        }
        let address = options.listen;
        let listen_error = |source| TransportError::Listen { address, source };
        let _entered = runtime.enter();
        let listener = listen(address).map_err(listen_error)?;
        let local_address = listener.local_addr().map_err(listen_error)?;
        let shared = Shared::new(runtime, options, own, tls, handler);
        let serving = incoming::serve(Arc::clone(&shared), listener);
        shared.tasks.spawn(serving);
        Ok(Self {
            shared,
            local_address,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// Queues a message for a peer. Cheap, never blocks, callable from any
    /// thread; a message for an unknown peer or a full queue is dropped and
    /// counted.
    pub fn send(&self, to: NodeId, message: Message) {
        self.post(to, Letter::Core(message));
    }

    /// As [`Transport::send`], of lost entries.
    pub fn send_repair(&self, to: NodeId, message: RepairMessage) {
        self.post(to, Letter::Repair(message));
    }

    fn post(&self, to: NodeId, letter: Letter) {
        match self.shared.peers.load().get(&to) {
            Some(peer) => peer.push(letter),
            None => self.shared.count_unroutable(),
        }
    }

    /// Takes the active membership and its log position: whom to call, where,
    /// and whom to listen to. Connections from those it excludes are ended.
    pub fn set_members(&self, index: LogIndex, members: BTreeMap<NodeId, Member>) {
        self.shared.set_members(index, members);
    }

    /// Takes the newest membership known to be committed: the proof that goes
    /// with refusals.
    pub fn set_committed(&self, proof: MembershipProof) {
        self.shared.set_committed(proof);
    }

    /// Notes where a peer is that no membership names yet (from a join
    /// answer), and calls it.
    pub fn learn(&self, peer: NodeId, address: &str) {
        self.shared.learn(peer, address);
    }

    /// Changes what this node says of itself, from the next greeting on.
    pub fn set_own(&self, own: Hello) {
        self.shared.set_own(own);
    }

    /// Uses another keyring from the next handshake on; connections that stand
    /// stay.
    ///
    /// # Errors
    /// The keyring cannot be used; the present one stays.
    pub fn replace_keyring(&self, json: &[u8]) -> Result<(), TlsError> {
        self.shared.tls.replace(json)
    }

    /// Forgets the keyring and ends every raft connection: the node is sealed.
    pub fn clear_keyring(&self) {
        self.shared.tls.clear();
        self.shared.disconnect();
    }

    /// How it goes with each peer.
    #[must_use]
    pub fn peer_states(&self) -> BTreeMap<NodeId, PeerState> {
        let peers = self.shared.peers.load();
        peers.iter().map(|(id, peer)| (*id, peer.state())).collect()
    }

    /// Messages dropped because their addressee was not known.
    #[must_use]
    pub fn unroutable_count(&self) -> u64 {
        self.shared.unroutable.load(Ordering::Relaxed)
    }

    /// Ends every raft connection, so that the next ones use the present
    /// keyring and greeting.
    pub fn disconnect(&self) {
        self.shared.disconnect();
    }

    /// A new authenticated connection to `peer` for forwarding requests, and
    /// what the peer says of itself.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial_forward(&self, peer: NodeId) -> Result<(PeerStream, Hello), DialError> {
        self.shared.dial(peer, Service::Forward).await
    }

    /// Streams a snapshot to `peer`; returns once the peer has verified and
    /// staged it. A stream that is cut is resumed while it makes progress.
    ///
    /// # Errors
    /// See [`SnapshotSendError`].
    pub async fn send_snapshot(
        &self,
        peer: NodeId,
        source: Arc<dyn SnapshotSource>,
    ) -> Result<(), SnapshotSendError> {
        snapshot_send::send(&self.shared, peer, source).await
    }

    /// As [`Transport::send_snapshot`], callable from any thread: `done` is
    /// called with the outcome, unless the transport stops before.
    pub fn send_snapshot_in_background(
        &self,
        peer: NodeId,
        source: Arc<dyn SnapshotSource>,
        done: impl FnOnce(Result<(), SnapshotSendError>) + Send + 'static,
    ) {
        let shared = Arc::clone(&self.shared);
        self.shared.spawn(async move {
            tokio::select! {
                () = shared.stop.cancelled() => {}
                outcome = snapshot_send::send(&shared, peer, source) => done(outcome),
            }
        });
    }

    /// Stops listening and calling, ends every connection and waits until all
    /// is over; the port can then be used again at once.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Transport on {}", self.local_address)
    }
}

/// A listener whose port can be taken again at once after a stop.
fn listen(address: SocketAddr) -> std::io::Result<tokio::net::TcpListener> {
    const BACKLOG: u32 = 1024;
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
