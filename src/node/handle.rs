//! The node's handle: opening a data directory, and what callers share.
//!
//! Opening locks the directory, reads the newest snapshot and the log, and
//! applies what is known to be committed, so that a sealed node can read what
//! it needs for unsealing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Mutex as AsyncMutex, Semaphore, watch};
use tokio::task::AbortHandle;

use crate::disk::{Disk, MemoryDisk, RealDisk};
use crate::membership::autopilot::AutopilotConfig;
use crate::peer::{Hello, OwnDurableEnd, PeerState, PeerStream, PeerTls, Transport};
use crate::physical::{Leadership, PhysicalError};
use crate::snapshot::SnapshotDirectory;
use crate::store::Store;
use crate::types::{ClusterId, LogIndex, NodeId};

use super::board::Board;
use super::clock::Clock;
use super::directory::{LOCK_NAME, SNAPSHOT_FOLDER, WAL_FOLDER};
use super::error::NodeError;
use super::event::EventSender;
use super::failure::Failure;
use super::identity::DirectoryIdentity;
use super::lifecycle::{Lifecycle, refused};
use super::network::{ForwardHandler, ForwardSlot};
use super::options::NodeOptions;
use super::recovery::{Recovery, recover};
use super::repair::RepairProgress;
use super::repair_thread::{RepairBoard, examine, is_damage};
use super::snapshots::Snapshots;
use super::space::Space;
use super::standing::StatusBoard;
use super::upkeep::{ScrubBoard, ScrubStatus};
use super::wal_thread::chain;
use super::witness_file::WitnessFile;
use crate::sync::queue::Sender;

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
    pub(super) disk: Arc<dyn Disk>,
    pub(super) directory: PathBuf,
    pub(super) wal_path: PathBuf,
    pub(super) durable: Arc<OwnDurableEnd>,
    pub(super) witness_file: Arc<WitnessFile>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) clock: Clock,
    pub(super) space: Arc<Space>,
    pub(super) scrub: Arc<ScrubBoard>,
    pub(super) repair: Arc<RepairBoard>,
    facts: Mutex<Facts>,
    pub(super) running: ArcSwapOption<Running>,
    pub(super) lifecycle: AsyncMutex<Lifecycle>,
    pub(super) forward: ForwardSlot,
    pub(super) autopilot: Mutex<AutopilotConfig>,
    _lock: Box<dyn Send + Sync>,
}

/// What is known of the directory.
#[derive(Clone, Copy, Default)]
pub(super) struct Facts {
    pub(super) cluster: Option<ClusterId>,
    /// Storage of a cluster is here, in the log or in a snapshot.
    pub(super) has_storage: bool,
}

impl Facts {
    /// What is to be repaired belongs to a cluster and holds its storage.
    fn of_damaged(cluster: ClusterId) -> Self {
        Self {
            cluster: Some(cluster),
            has_storage: true,
        }
    }

    fn of(recovery: &Recovery) -> Self {
        Self {
            cluster: Some(recovery.cluster),
            has_storage: recovery.has_storage(),
        }
    }
}

/// What callers need while consensus runs.
pub(super) struct Running {
    pub(super) events: EventSender,
    pub(super) network: Option<Network>,
    /// Ends the upkeep when this goes.
    pub(super) _upkeep: Sender<()>,
}

/// The way to the peers.
pub(super) struct Network {
    pub(super) transport: Arc<Transport>,
    pub(super) tls: Arc<PeerTls>,
    /// What `tls` was made from last.
    pub(super) keyring: ArcSwap<Vec<u8>>,
    /// Keeps what is seen of the peers on disk.
    pub(super) keeper: AbortHandle,
}

/// The disk a node lives on, and its data directory there.
fn place(options: &NodeOptions) -> (Arc<dyn Disk>, PathBuf) {
    let disk: Arc<dyn Disk> = match (&options.disk, &options.path) {
        (Some(disk), _) => Arc::clone(disk),
        (None, Some(_)) => Arc::new(RealDisk::new()),
        (None, None) => Arc::new(MemoryDisk::new()),
    };
    let in_memory = || Path::new("/memory").to_owned();
    (disk, options.path.clone().unwrap_or_else(in_memory))
}

/// Brings `store` as far as the directory tells, damaged or not.
fn read_directory(
    disk: &Arc<dyn Disk>,
    wal_path: &Path,
    identity: &DirectoryIdentity,
    options: &NodeOptions,
    snapshots: &Snapshots,
    store: &mut Store,
) -> Result<(Option<Recovery>, Facts), NodeError> {
    let error = match recover(disk, wal_path, identity, &options.wal, snapshots, store) {
        Ok(recovery) => {
            let facts = recovery.as_ref().map_or_else(Facts::default, Facts::of);
            return Ok((recovery, facts));
        }
        Err(error) => error,
    };
    if !is_damage(&error) {
        return Err(error);
    }
    tracing::error!(
        error = chain(&error),
        "the data directory is damaged: it is repaired from peers after the unseal"
    );
    let patient = examine(disk, wal_path, identity, &options.wal, snapshots, store)?;
    if store.applied_index() == LogIndex(0) {
        let reason = "nothing is left to unseal from".into();
        return Err(NodeError::Unrepairable(reason));
    }
    Ok((None, Facts::of_damaged(patient.cluster)))
}

impl RaftNode {
    /// Opens a node on its data directory; it stays sealed. Blocks.
    ///
    /// # Errors
    /// See [`NodeError`]; nothing is cut to make it open. A log that can be
    /// repaired from peers opens, and is repaired once the node is started.
    pub fn open(options: NodeOptions) -> Result<Arc<Self>, NodeError> {
        let (disk, directory) = place(&options);
        disk.create_dir_all(&directory)
            .map_err(NodeError::Directory)?;
        let lock = disk
            .lock(&directory.join(LOCK_NAME))
            .map_err(NodeError::Locked)?;
        let identity =
            DirectoryIdentity::open_or_create(disk.as_ref(), &directory, &options.node_id)?;
        let snapshots =
            SnapshotDirectory::open(Arc::clone(&disk), &directory.join(SNAPSHOT_FOLDER))
                .map_err(NodeError::Snapshots)?;
        let snapshots = Arc::new(Snapshots::overlapped(snapshots));
        let wal_path = directory.join(WAL_FOLDER);
        let mut store = Store::new();
        let read = read_directory(
            &disk, &wal_path, &identity, &options, &snapshots, &mut store,
        );
        let (recovery, facts) = read?;
        if let Some(cluster) = facts.cluster {
            snapshots.set_cluster(cluster);
        }
        let witness_file = WitnessFile::open(Arc::clone(&disk), &directory);
        let leadership = Leadership {
            removed: identity.removed_at.is_some(),
            ..Leadership::default()
        };
        let inner = Inner {
            identity,
            board: Arc::new(Board::new(store.view())),
            failure: Arc::new(Failure::new(
                Arc::clone(&options.on_failure),
                Arc::clone(&options.on_refusal),
            )),
            status: Arc::new(StatusBoard::new()),
            leadership: Arc::new(watch::Sender::new(leadership)),
            readers: Semaphore::new(READERS_MAX),
            disk,
            directory,
            wal_path,
            durable: Arc::default(),
            witness_file: Arc::new(witness_file),
            snapshots,
            clock: Clock::start(),
            space: Arc::new(Space::new(
                options.wal.segment_bytes,
                options.memory_bytes_max,
            )),
            scrub: Arc::default(),
            repair: Arc::default(),
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

    /// What reading stored bytes again has come to.
    #[must_use]
    pub fn scrub_status(&self) -> ScrubStatus {
        self.inner.scrub.newest()
    }

    /// How far the repair of a damaged log has come; `None`: none is under
    /// way.
    #[must_use]
    pub fn repair_progress(&self) -> Option<RepairProgress> {
        self.inner.repair.newest()
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
        let replaced = network.tls.replace(keyring);
        replaced.map_err(|error| refused(&error))?;
        network.keyring.store(Arc::new(keyring.to_vec()));
        Ok(())
    }

    fn facts(&self) -> Facts {
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn facts_mut(&self) -> std::sync::MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Confirmed reads waiting at once, at most.
const READERS_MAX: usize = 16_384;
