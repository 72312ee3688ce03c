//! A node and its life: opened (sealed), started, stopped, started again.
//!
//! Opening locks the directory, reads the newest snapshot and the log, and
//! applies what is known to be committed, so that a sealed node can read what
//! it needs for unsealing. Consensus runs only between start and stop.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{Mutex as AsyncMutex, Semaphore, watch};

use crate::disk::{Disk, MemoryDisk, RealDisk};
use crate::membership::autopilot::AutopilotConfig;
use crate::peer::{Hello, PeerState, PeerStream, PeerTls, Transport, TransportOptions};
use crate::physical::{JoinGrant, Leadership, PhysicalError};
use crate::snapshot::SnapshotDirectory;
use crate::store::Store;
use crate::types::{ClusterId, Incarnation, LogIndex, Member, Membership, NodeId};
use crate::wal::{Identity, Wal};

use super::board::Board;
use super::error::NodeError;
use super::event::{Event, EventSender};
use super::failure::Failure;
use super::identity::{DirectoryIdentity, node_number};
use super::network::{
    Alone, Connected, Departures, ForwardHandler, ForwardSlot, Greetings, PeerHandler, Peers,
};
use super::options::{NodeOptions, Timings};
use super::raft_thread::Clock;
use super::recovery::{Recovery, recover};
use super::snapshots::Snapshots;
use super::standing::StatusBoard;
use super::stream::Incoming;
use super::threads::{Foundation, Threads};
use super::wal_thread::chain;

/// The raft node. See the module, and `physical::Backend` for what it does.
pub struct RaftNode {
    pub(super) inner: Arc<Inner>,
}

/// What the node's tasks share.
pub(super) struct Inner {
    pub(super) options: NodeOptions,
    pub(super) identity: DirectoryIdentity,
    pub(super) board: Arc<Board>,
    pub(super) failure: Arc<Failure>,
    pub(super) status: Arc<StatusBoard>,
    pub(super) leadership: Arc<watch::Sender<Leadership>>,
    pub(super) readers: Semaphore,
    disk: Arc<dyn Disk>,
    wal_path: PathBuf,
    snapshots: Arc<Snapshots>,
    clock: Clock,
    facts: Mutex<Facts>,
    running: ArcSwapOption<Running>,
    lifecycle: AsyncMutex<Lifecycle>,
    forward: ForwardSlot,
    autopilot: Mutex<AutopilotConfig>,
    _lock: Box<dyn Send + Sync>,
}

/// What is known of the directory.
#[derive(Clone, Copy, Default)]
struct Facts {
    cluster: Option<ClusterId>,
    /// Storage of a cluster is here, in the log or in a snapshot.
    has_storage: bool,
}

/// What callers need while consensus runs.
pub(super) struct Running {
    pub(super) events: EventSender,
    network: Option<Network>,
}

struct Network {
    transport: Arc<Transport>,
    tls: Arc<PeerTls>,
}

/// Who owns store and log.
enum Lifecycle {
    /// Sealed. Without a recovery the log is read again at the next start.
    Stopped {
        store: Box<Store>,
        recovery: Option<Box<Recovery>>,
    },
    /// The threads own them.
    Running(Threads),
    /// Lost in a failure that was reported.
    Broken,
}

impl RaftNode {
    /// Opens a node on its data directory; it stays sealed. Blocks.
    ///
    /// # Errors
    /// See [`NodeError`]; nothing is cut or repaired to make it open.
    pub fn open(options: NodeOptions) -> Result<Arc<Self>, NodeError> {
        let disk: Arc<dyn Disk> = match (&options.disk, &options.path) {
            (Some(disk), _) => Arc::clone(disk),
            (None, Some(_)) => Arc::new(RealDisk::new()),
            (None, None) => Arc::new(MemoryDisk::new()),
        };
        let directory = options
            .path
            .clone()
            .unwrap_or_else(|| Path::new("/memory").to_owned());
        disk.create_dir_all(&directory)
            .map_err(NodeError::Directory)?;
        let lock = disk
            .lock(&directory.join(LOCK_NAME))
            .map_err(NodeError::Locked)?;
        let identity =
            DirectoryIdentity::open_or_create(disk.as_ref(), &directory, &options.node_id)?;
        let snapshots = SnapshotDirectory::open(Arc::clone(&disk), &directory.join("snapshots"))
            .map_err(NodeError::Snapshots)?;
        let snapshots = Arc::new(Snapshots::new(snapshots));
        let wal_path = directory.join("wal");
        let mut store = Store::new();
        let recovery = recover(
            &disk,
            &wal_path,
            &identity,
            &options.wal,
            &snapshots,
            &mut store,
        )?;
        let facts = recovery.as_ref().map_or_else(Facts::default, |recovery| {
            snapshots.set_cluster(recovery.cluster);
            Facts {
                cluster: Some(recovery.cluster),
                has_storage: recovery.has_storage(),
            }
        });
        let inner = Inner {
            identity,
            board: Arc::new(Board::new(store.view())),
            failure: Arc::new(Failure::new(Arc::clone(&options.on_failure))),
            status: Arc::new(StatusBoard::new()),
            leadership: Arc::new(watch::Sender::new(Leadership::default())),
            readers: Semaphore::new(READERS_MAX),
            disk,
            wal_path,
            snapshots,
            clock: Clock::start(),
            facts: Mutex::new(facts),
            running: ArcSwapOption::empty(),
            lifecycle: AsyncMutex::new(Lifecycle::Stopped {
                store: Box::new(store),
                recovery: recovery.map(Box::new),
            }),
            forward: ForwardSlot::default(),
            autopilot: Mutex::new(options.autopilot.clone()),
            options,
            _lock: lock,
        };
        Ok(Arc::new(Self {
            inner: Arc::new(inner),
        }))
    }

    /// Who serves peers that forward requests to this node.
    pub fn set_forward_handler(&self, handler: ForwardHandler) {
        let mut slot = self
            .inner
            .forward
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *slot = Some(handler);
    }

    /// A new connection to the leader, for forwarding requests.
    ///
    /// # Errors
    /// `NotRunning`; `Unavailable` when no other node leads or it cannot be
    /// reached.
    pub async fn dial_forward(&self) -> Result<(PeerStream, Hello), PhysicalError> {
        let running = self.inner.running()?;
        let unavailable = |reason: String| PhysicalError::Unavailable { reason };
        let (status, _) = self.inner.status.newest();
        let leader = status
            .leader
            .filter(|leader| *leader != self.inner.identity.id)
            .ok_or_else(|| unavailable("no other node leads".into()))?;
        let network = running
            .network
            .as_ref()
            .ok_or_else(|| unavailable("this node runs alone".into()))?;
        network
            .transport
            .dial_forward(leader)
            .await
            .map_err(|error| unavailable(chain(&error)))
    }

    /// Uses another promotion policy from now on.
    pub fn set_autopilot(&self, config: AutopilotConfig) {
        let mut current = self
            .inner
            .autopilot
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *current = config.clone();
        drop(current);
        if let Some(running) = &*self.inner.running.load() {
            running.events.send(Event::Autopilot(config));
        }
    }

    /// Where peers are accepted, while running with a network.
    #[must_use]
    pub fn cluster_listener(&self) -> Option<SocketAddr> {
        let running = self.inner.running.load_full()?;
        Some(running.network.as_ref()?.transport.local_address())
    }

    /// How it goes with the connections to peers.
    #[must_use]
    pub fn peer_states(&self) -> std::collections::BTreeMap<NodeId, PeerState> {
        let running = self.inner.running.load_full();
        let network = running.as_ref().and_then(|r| r.network.as_ref());
        network.map_or_else(Default::default, |network| network.transport.peer_states())
    }

    /// The core's status as last published.
    #[must_use]
    pub fn raft_status(&self) -> Arc<crate::raft::Status> {
        self.inner.status.newest().0
    }
}

impl Inner {
    /// What callers need, while consensus runs.
    pub(super) fn running(&self) -> Result<Arc<Running>, PhysicalError> {
        if let Some(error) = self.failure.error() {
            return Err(error);
        }
        self.running.load_full().ok_or(PhysicalError::NotRunning)
    }

    /// The queue of a node that leads.
    pub(super) fn leading(&self) -> Result<EventSender, PhysicalError> {
        let running = self.running()?;
        if self.leadership.borrow().is_leader {
            Ok(running.events.clone())
        } else {
            Err(PhysicalError::NotLeader)
        }
    }

    /// Why an answer never came.
    pub(super) fn stopped(&self) -> PhysicalError {
        self.failure.error().unwrap_or(PhysicalError::NotRunning)
    }

    pub(super) fn is_member(&self) -> bool {
        self.facts().has_storage || self.board.applied().0 > 0
    }

    pub(super) fn cluster(&self) -> Option<ClusterId> {
        self.facts().cluster
    }

    pub(super) fn set_tls_keyring(&self, keyring: &[u8]) -> Result<(), PhysicalError> {
        let running = self.running()?;
        let Some(network) = &running.network else {
            // A node alone has no peers; `start` brings the keyring anew.
            return Ok(());
        };
        network
            .tls
            .replace(keyring)
            .map_err(|error| refused(&error))
    }

    pub(super) async fn bootstrap(&self, cluster: [u8; 16]) -> Result<(), PhysicalError> {
        let mut lifecycle = self.lifecycle.lock().await;
        if self.cluster().is_some() {
            return Err(PhysicalError::Refused {
                reason: "this node belongs to a cluster already".into(),
            });
        }
        self.create_log(ClusterId(cluster), Some(self.alone()))
            .await?;
        let (store, _) = take_stopped(&mut lifecycle)?;
        let recovery = self.recover(store, &mut lifecycle).await?;
        let greetings = Greetings::new(&self.hello(ClusterId(cluster)));
        let (events, receiver) = EventSender::new();
        let foundation = self.foundation(
            Timings::alone(),
            Arc::new(Alone { greetings }),
            (events.clone(), receiver),
        );
        self.run(&mut lifecycle, foundation, recovery, events, None)?;
        let mut leadership = self.leadership.subscribe();
        let leads = leadership.wait_for(|leadership| leadership.is_leader);
        match tokio::time::timeout(BOOTSTRAP_WAIT, leads).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(self.failure.error().unwrap_or(PhysicalError::Unavailable {
                reason: "the first leader was not elected in time".into(),
            })),
        }
    }

    pub(super) async fn start(&self, keyring: Vec<u8>) -> Result<(), PhysicalError> {
        let mut lifecycle = self.lifecycle.lock().await;
        let running = self.running.load_full();
        if running.is_some_and(|running| running.network.is_some()) {
            return self.set_tls_keyring(&keyring);
        }
        self.stop_threads(&mut lifecycle).await;
        if self.cluster().is_none() {
            return Err(PhysicalError::NotRunning);
        }
        self.start_network(&mut lifecycle, &keyring, &[]).await
    }

    pub(super) async fn start_joined(&self, grant: JoinGrant) -> Result<(), PhysicalError> {
        let mut lifecycle = self.lifecycle.lock().await;
        let granted = ClusterId(grant.cluster_id);
        let refused = |reason: &str| {
            Err(PhysicalError::Refused {
                reason: reason.into(),
            })
        };
        if self.is_member() || self.running.load().is_some() {
            return refused("this node belongs to a cluster already");
        }
        match self.cluster() {
            // A join that was interrupted before anything arrived.
            Some(cluster) if cluster == granted => {}
            Some(_) => {
                return refused(
                    "the data directory was prepared for another cluster: use an empty one",
                );
            }
            None => self.create_log(granted, None).await?,
        }
        let peers: Vec<(NodeId, String)> = grant
            .peers
            .iter()
            .map(|peer| (node_number(&peer.node_id), peer.cluster_address.clone()))
            .collect();
        self.start_network(&mut lifecycle, &grant.tls_keyring, &peers)
            .await
    }

    pub(super) async fn stop(&self) {
        let mut lifecycle = self.lifecycle.lock().await;
        self.stop_threads(&mut lifecycle).await;
    }

    /// Opens the cluster port and runs; stays stopped when that fails.
    async fn start_network(
        &self,
        lifecycle: &mut Lifecycle,
        keyring: &[u8],
        peers: &[(NodeId, String)],
    ) -> Result<(), PhysicalError> {
        let tls = Arc::new(PeerTls::new(keyring).map_err(|error| refused(&error))?);
        let (store, recovery) = take_stopped(lifecycle)?;
        let recovery = match recovery {
            Some(recovery) => (store, recovery),
            None => self.recover(store, lifecycle).await?,
        };
        let own = self.hello(recovery.1.cluster);
        let greetings = Greetings::new(&own);
        let (events, receiver) = EventSender::new();
        let handler = PeerHandler {
            events: events.clone(),
            snapshots: Arc::clone(&self.snapshots),
            board: Arc::clone(&self.board),
            greetings: greetings.clone(),
            forward: Arc::clone(&self.forward),
            incoming: Incoming::default(),
        };
        let transport = Transport::start(
            &tokio::runtime::Handle::current(),
            TransportOptions::new(self.options.cluster_listen),
            own,
            Arc::clone(&tls),
            Arc::new(handler),
        );
        let transport = match transport {
            Ok(transport) => Arc::new(transport),
            Err(error) => {
                let (store, recovery) = recovery;
                *lifecycle = Lifecycle::Stopped {
                    store,
                    recovery: Some(recovery),
                };
                return Err(refused(&error));
            }
        };
        for (peer, address) in peers {
            transport.learn(*peer, address);
        }
        let connected = Connected {
            transport: Arc::clone(&transport),
            events: events.clone(),
            snapshots: Arc::clone(&self.snapshots),
            greetings,
            runtime: tokio::runtime::Handle::current(),
            departures: Departures::default(),
        };
        let foundation = self.foundation(
            self.options.timings,
            Arc::new(connected),
            (events.clone(), receiver),
        );
        let network = Network { transport, tls };
        self.run(lifecycle, foundation, recovery, events, Some(network))
    }

    fn foundation(
        &self,
        timings: Timings,
        peers: Arc<dyn Peers>,
        queue: (EventSender, std::sync::mpsc::Receiver<Event>),
    ) -> Foundation {
        Foundation {
            id: self.identity.id,
            timings,
            thresholds: self.options.snapshot,
            trailing_entries: self.options.trailing_entries,
            autopilot: self
                .autopilot
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            clock: self.clock,
            board: Arc::clone(&self.board),
            snapshots: Arc::clone(&self.snapshots),
            failure: Arc::clone(&self.failure),
            status: Arc::clone(&self.status),
            leadership: Arc::clone(&self.leadership),
            peers,
            queue,
        }
    }

    fn run(
        &self,
        lifecycle: &mut Lifecycle,
        foundation: Foundation,
        (store, recovery): (Box<Store>, Box<Recovery>),
        events: EventSender,
        network: Option<Network>,
    ) -> Result<(), PhysicalError> {
        match Threads::spawn(foundation, *store, *recovery) {
            Ok(threads) => {
                *lifecycle = Lifecycle::Running(threads);
                self.running
                    .store(Some(Arc::new(Running { events, network })));
                Ok(())
            }
            Err(reason) => {
                self.failure.report(&reason);
                Err(PhysicalError::Failed { reason })
            }
        }
    }

    async fn stop_threads(&self, lifecycle: &mut Lifecycle) {
        let threads = match std::mem::replace(lifecycle, Lifecycle::Broken) {
            Lifecycle::Running(threads) => threads,
            other => {
                *lifecycle = other;
                return;
            }
        };
        let running = self.running.swap(None);
        if let Some(running) = &running {
            // The core first: its last word is that it no longer leads.
            running.events.send(Event::Stop);
            if let Some(network) = &running.network {
                network.transport.shutdown().await;
            }
        }
        drop(running);
        let store = tokio::task::spawn_blocking(move || threads.join()).await;
        match store {
            Ok(Some(store)) => {
                *lifecycle = Lifecycle::Stopped {
                    store: Box::new(store),
                    recovery: None,
                };
            }
            _ => self.failure.report("a thread of the node ended in a panic"),
        }
    }

    /// Makes a log for a cluster, with the first membership if this node
    /// founds it.
    async fn create_log(
        &self,
        cluster: ClusterId,
        founder: Option<Membership>,
    ) -> Result<(), PhysicalError> {
        let identity = Identity {
            cluster,
            node: self.identity.id,
            incarnation: self.identity.incarnation,
        };
        let (disk, path, options) = (
            Arc::clone(&self.disk),
            self.wal_path.clone(),
            self.options.wal,
        );
        let founded = founder.is_some();
        let created = tokio::task::spawn_blocking(move || {
            let mut wal = Wal::create(disk, &path, identity, options)?;
            if let Some(membership) = founder {
                wal.append(&[crate::raft::bootstrap(membership)])?;
            }
            wal.mark_idle()
        });
        let created = created.await.map_err(|error| failed(&error))?;
        created.map_err(|error| failed(&error))?;
        *self.facts_mut() = Facts {
            cluster: Some(cluster),
            has_storage: founded,
        };
        self.snapshots.set_cluster(cluster);
        Ok(())
    }

    /// Reads the log again; on failure the node is broken, and says why.
    async fn recover(
        &self,
        mut store: Box<Store>,
        lifecycle: &mut Lifecycle,
    ) -> Result<(Box<Store>, Box<Recovery>), PhysicalError> {
        *lifecycle = Lifecycle::Broken;
        let (disk, path, identity, options, snapshots) = (
            Arc::clone(&self.disk),
            self.wal_path.clone(),
            self.identity.clone(),
            self.options.wal,
            Arc::clone(&self.snapshots),
        );
        let recovered = tokio::task::spawn_blocking(move || {
            let recovery = recover(&disk, &path, &identity, &options, &snapshots, &mut store);
            recovery.map(|recovery| (store, recovery))
        });
        let recovered = recovered.await.map_err(|error| failed(&error))?;
        match recovered {
            Ok((store, Some(recovery))) => {
                self.board.publish(Arc::new(store.view()));
                Ok((store, Box::new(recovery)))
            }
            Ok((store, None)) => {
                *lifecycle = Lifecycle::Stopped {
                    store,
                    recovery: None,
                };
                Err(PhysicalError::NotRunning)
            }
            Err(error) => {
                let reason = chain(&error);
                self.failure.report(&reason);
                Err(PhysicalError::Failed { reason })
            }
        }
    }

    fn hello(&self, cluster: ClusterId) -> Hello {
        Hello {
            cluster,
            node: self.identity.id,
            name: self.identity.name.clone(),
            incarnation: self.identity.incarnation,
            api_address: self.options.api_address.clone(),
            cluster_address: self.options.cluster_address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            membership_index: LogIndex(0),
        }
    }

    /// The membership of a cluster of one.
    fn alone(&self) -> Membership {
        let member = Member {
            name: self.identity.name.clone(),
            address: self.options.cluster_address.clone(),
            incarnation: Incarnation(self.identity.incarnation.0),
            non_voter: false,
        };
        Membership {
            voters: [self.identity.id].into(),
            members: [(self.identity.id, member)].into(),
            ..Membership::default()
        }
    }

    fn facts(&self) -> Facts {
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn facts_mut(&self) -> std::sync::MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type StoppedParts = (Box<Store>, Option<Box<Recovery>>);

fn take_stopped(lifecycle: &mut Lifecycle) -> Result<StoppedParts, PhysicalError> {
    match std::mem::replace(lifecycle, Lifecycle::Broken) {
        Lifecycle::Stopped { store, recovery } => Ok((store, recovery)),
        other => {
            *lifecycle = other;
            Err(PhysicalError::Failed {
                reason: "the node cannot be started in this state".into(),
            })
        }
    }
}

fn refused(error: &dyn std::error::Error) -> PhysicalError {
    PhysicalError::Refused {
        reason: chain(error),
    }
}

fn failed(error: &dyn std::error::Error) -> PhysicalError {
    PhysicalError::Failed {
        reason: chain(error),
    }
}

const LOCK_NAME: &str = "holdfast.lock";
/// Confirmed reads waiting at once, at most.
const READERS_MAX: usize = 16_384;
/// For a node alone to elect itself.
const BOOTSTRAP_WAIT: Duration = Duration::from_secs(10);
