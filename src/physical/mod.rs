//! Where storage entries live, as the layers above see it: the raft node, or
//! later a database. Also the raft lifecycle that `vault` steers: a sealed
//! node takes no part in consensus (D-010).
//!
//! What it must never do: look into a value. Above it is the barrier, below it
//! ciphertext.

pub mod in_memory;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;

use crate::membership::{AutopilotConfig, ClusterHealth, Forecast};
use crate::types::{Outcome, Pair, StoredValue, Transaction};

/// A boxed future, so that the traits stay object safe.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The longest key accepted, in bytes.
pub const KEY_BYTES_MAX: usize = 32 << 10;
/// The largest value accepted, in bytes (ciphertext).
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// The largest transaction accepted, in bytes (encoded).
pub const TRANSACTION_BYTES_MAX: usize = 8 << 20;

/// Why storage did not do as asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PhysicalError {
    /// This node is not the one that accepts writes; ask the active node.
    #[error("node is not the leader")]
    NotLeader,
    /// No leader, or no quorum: certainly not done.
    #[error("{reason}")]
    Unavailable {
        /// What was missing.
        reason: String,
    },
    /// Too much in flight: certainly not done, try again.
    #[error("too many requests in flight: try again")]
    Busy,
    /// It may or may not take effect: leadership was lost or time ran out
    /// after it was handed over.
    #[error("outcome unknown: {reason}")]
    OutcomeUnknown {
        /// What happened.
        reason: String,
    },
    /// Over a limit: certainly not done.
    #[error("put failed due to value being too large; got {bytes} bytes, max: {max} bytes")]
    ValueTooLarge {
        /// Size given.
        bytes: usize,
        /// Limit.
        max: usize,
    },
    /// Over a limit: certainly not done.
    #[error("put failed due to key being too large; got {bytes} bytes, max: {max} bytes")]
    KeyTooLarge {
        /// Size given.
        bytes: usize,
        /// Limit.
        max: usize,
    },
    /// The disk is nearly full: certainly not done. What shrinks the state is
    /// still accepted.
    #[error(
        "storage is nearly full: {free} bytes are free on disk, writes are accepted again from {needed}; \
         deletes are still accepted"
    )]
    DiskFull {
        /// Bytes free, when last measured.
        free: u64,
        /// Bytes that have to be free.
        needed: u64,
    },
    /// The state would exceed its quota of memory: certainly not done. What
    /// does not grow it is still accepted.
    #[error("storage quota exceeded: {bytes} bytes of keys and values, max: {max} bytes")]
    MemoryFull {
        /// Bytes there would be.
        bytes: u64,
        /// The quota.
        max: u64,
    },
    /// Raft is not running here (sealed, or not initialised).
    #[error("raft storage is not initialized")]
    NotRunning,
    /// The disk failed; the node is stopping.
    #[error("storage failed: {reason}")]
    Failed {
        /// The disk's words.
        reason: String,
    },
    /// A request about the membership that cannot be met.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// A membership change that would leave too few voters in contact:
    /// certainly not made. It can be forced.
    #[error("{reason}")]
    CostsQuorum {
        /// The numbers.
        reason: String,
    },
    /// A request about a server that is no member.
    #[error("server {node_id} not found in raft configuration")]
    UnknownServer {
        /// The name given.
        node_id: String,
    },
}

/// What is to become of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberWish {
    /// It goes.
    Remove,
    /// It votes.
    Promote,
    /// It does not vote, and is not promoted by policy.
    Demote,
}

/// A consistent picture of all entries at one applied index.
pub trait Reader: Send + Sync {
    /// The value at `key`. Equal reads of one `Reader` give equal answers.
    ///
    /// # Errors
    /// Only of a remote store.
    fn value<'a>(
        &'a self,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<StoredValue>, PhysicalError>>;

    /// Names directly below `prefix` (which ends in `/` or is empty), sorted;
    /// a name with more below it ends in `/`.
    ///
    /// # Errors
    /// Only of a remote store.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<String>, PhysicalError>>;

    /// Counts restores: another value means that everything cached above must
    /// be read anew, keyring included.
    fn restore_epoch(&self) -> u64;

    /// The applied index of this picture.
    fn applied_index(&self) -> u64;
}

/// Reads and writes.
pub trait Physical: Send + Sync + 'static {
    /// A picture that contains every write acknowledged before the call, on
    /// any node.
    ///
    /// # Errors
    /// `Unavailable` without a leader or quorum; `NotRunning` when sealed.
    fn confirmed(&self) -> BoxFuture<'_, Result<Arc<dyn Reader>, PhysicalError>>;

    /// What this node holds now, sealed or not; perhaps behind.
    fn local(&self) -> Arc<dyn Reader>;

    /// Applies a transaction, on the active node only. Keys and values are
    /// bounded ([`KEY_BYTES_MAX`], [`VALUE_BYTES_MAX`]).
    ///
    /// # Errors
    /// See [`PhysicalError`]; only `OutcomeUnknown` leaves doubt.
    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<Outcome, PhysicalError>>;
}

/// A cluster member, as other nodes and operators name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerInfo {
    /// The configured `node_id`.
    pub node_id: String,
    /// Cluster address `host:port`.
    pub cluster_address: String,
    /// API address (URL), when the node has told us; else empty.
    pub api_address: String,
}

/// Who leads, from this node's point of view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// This node leads and has committed an entry of its own term: it may
    /// become active.
    pub is_leader: bool,
    /// The raft term.
    pub term: u64,
    /// The leader, if known.
    pub leader: Option<PeerInfo>,
    /// A committed membership says that this node is no member.
    pub removed: bool,
}

/// A row of `sys/storage/raft/configuration`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// The configured `node_id`.
    pub node_id: String,
    /// Cluster address `host:port`.
    pub address: String,
    /// It leads.
    pub leader: bool,
    /// It votes.
    pub voter: bool,
    /// Permanent non-voter.
    pub non_voter: bool,
}

/// What a joiner is given by the active node.
#[derive(Clone, Debug)]
pub struct JoinGrant {
    /// The cluster.
    pub cluster_id: [u8; 16],
    /// Present members (names and cluster addresses).
    pub peers: Vec<PeerInfo>,
    /// The peer TLS keyring, JSON as `core/raft/tls` holds it.
    pub tls_keyring: Vec<u8>,
}

/// A joiner, as the active node admits it.
#[derive(Clone, Debug)]
pub struct JoinRequest {
    /// The configured `node_id`.
    pub node_id: String,
    /// Cluster address `host:port`.
    pub cluster_address: String,
    /// The life of its data directory.
    pub incarnation: u64,
    /// Wants to stay a non-voter.
    pub non_voter: bool,
}

/// Entries of an archive being restored, in key order; produced off the async
/// threads and bounded in memory.
pub type RestoreEntries =
    Box<dyn Iterator<Item = Result<(String, Vec<u8>), PhysicalError>> + Send + 'static>;

/// A picture for an archive: metadata and all entries in key order.
pub struct ArchiveSource {
    /// Last applied index and its term.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// Servers for `meta.json`.
    pub servers: Vec<ServerInfo>,
    /// Position of that membership.
    pub membership_index: u64,
    /// Entries; cheap to clone and to walk more than once.
    pub entries: Arc<dyn Fn() -> EntryIterator + Send + Sync>,
}

/// Keys and values in key order.
pub type EntryIterator = Box<dyn Iterator<Item = Pair> + Send>;

/// Statistics for status pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftStatus {
    /// Committed.
    pub commit_index: u64,
    /// Applied here.
    pub applied_index: u64,
    /// The raft term.
    pub term: u64,
    /// Per-peer details by `node_id`: (match index, milliseconds since last
    /// contact); leader only.
    pub peers: BTreeMap<String, (u64, Option<u64>)>,
    /// A damaged log is being repaired from peers.
    pub repair: Option<RepairStatus>,
}

/// How far the repair of a damaged log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepairStatus {
    /// Entries that were lost.
    pub lost: u64,
    /// Entries that are still missing.
    pub missing: u64,
    /// Entries taken from peers.
    pub fetched: u64,
}

/// The raft node that `vault` steers.
pub trait Backend: Physical {
    /// Whether the data directory belongs to a cluster (bootstrapped, or
    /// joined with storage received).
    fn is_member(&self) -> bool;

    /// This node's `node_id`.
    fn node_id(&self) -> String;

    /// The life of this data directory (created on first use).
    fn incarnation(&self) -> u64;

    /// `sys/init`: creates the cluster with this node as its only voter and
    /// runs it without a network until `stop`; leads when it returns.
    ///
    /// # Errors
    /// `Refused` when already a member; `Failed` of the disk.
    fn bootstrap(&self, cluster_id: [u8; 16]) -> BoxFuture<'_, Result<(), PhysicalError>>;

    /// Unseal: takes part, with these peer keys (JSON as `core/raft/tls`).
    ///
    /// # Errors
    /// A keyring that does not parse, an address that cannot be bound, disk.
    fn start(&self, tls_keyring: Vec<u8>) -> BoxFuture<'_, Result<(), PhysicalError>>;

    /// First start of a joiner: an empty log in the granted cluster.
    ///
    /// # Errors
    /// As `start`; `Refused` when the directory belongs to a cluster already.
    fn start_joined(&self, grant: JoinGrant) -> BoxFuture<'_, Result<(), PhysicalError>>;

    /// Uses a new peer keyring from now on.
    ///
    /// # Errors
    /// A keyring that does not parse.
    fn set_tls_keyring(&self, tls_keyring: Vec<u8>) -> Result<(), PhysicalError>;

    /// Seal: takes no part any longer. What it holds stays readable by `local`.
    fn stop(&self) -> BoxFuture<'_, ()>;

    /// Who leads; changes are published.
    fn leadership(&self) -> watch::Receiver<Leadership>;

    /// The active membership as this node knows it, and its log index.
    fn servers(&self) -> (u64, Vec<ServerInfo>);

    /// Positions and peers.
    fn status(&self) -> RaftStatus;

    /// The cluster's identity, when it has one.
    fn cluster_id(&self) -> Option<[u8; 16]>;

    /// Active node: admits a joiner as a learner; returns when committed.
    ///
    /// # Errors
    /// `Refused` naming the clash; `NotLeader`; `Unavailable`.
    fn admit(&self, joiner: JoinRequest) -> BoxFuture<'_, Result<(), PhysicalError>>;

    /// Active node: removes a member by `node_id`; unknown is fine. Removing
    /// the leader hands leadership over first. Only with `force` at the cost of
    /// the quorum, as of the moment of the change.
    ///
    /// # Errors
    /// `NotLeader`, `Unavailable`, `Refused`, `CostsQuorum`.
    fn remove(&self, node_id: String, force: bool) -> BoxFuture<'_, Result<(), PhysicalError>>;

    /// Active node: gives a member a vote, or takes it; returns when committed.
    /// What is so already is fine. Demoting the leader hands leadership over
    /// first; whoever leads then is to be asked again. `force` as in `remove`.
    ///
    /// # Errors
    /// `NotLeader`, `Unavailable`, `Refused`, `CostsQuorum`, `UnknownServer`.
    fn change_vote(
        &self,
        node_id: String,
        votes: bool,
        force: bool,
    ) -> BoxFuture<'_, Result<(), PhysicalError>>;

    /// Active node: what fulfilling `wish` would do to the quorum.
    ///
    /// # Errors
    /// `NotLeader`, `UnknownServer`.
    fn forecast(&self, node_id: &str, wish: MemberWish) -> Result<Forecast, PhysicalError>;

    /// Active node: hands leadership to another voter; returns when done or
    /// when none can take it.
    ///
    /// # Errors
    /// `NotLeader`, `Refused`.
    fn step_down(&self) -> BoxFuture<'_, Result<(), PhysicalError>>;

    /// Active node: hands leadership to this voter; the leader itself has it.
    ///
    /// # Errors
    /// As [`Self::step_down`]; `UnknownServer`; `Unavailable` when it did not
    /// take over in time.
    fn hand_over(&self, node_id: String) -> BoxFuture<'_, Result<(), PhysicalError>>;

    /// The committed membership and its log index, confirmed as a read is.
    ///
    /// # Errors
    /// As [`Physical::confirmed`].
    fn committed_servers(&self) -> BoxFuture<'_, Result<(u64, Vec<ServerInfo>), PhysicalError>>;

    /// The membership policy in force here.
    fn autopilot(&self) -> AutopilotConfig;

    /// Uses another membership policy from now on.
    fn set_autopilot(&self, config: AutopilotConfig);

    /// Active node: how the members are doing.
    ///
    /// # Errors
    /// `NotLeader`, `NotRunning`.
    fn cluster_health(&self) -> Result<ClusterHealth, PhysicalError>;

    /// A picture for an archive, confirmed as a read is.
    ///
    /// # Errors
    /// As [`Physical::confirmed`].
    fn archive_source(&self) -> BoxFuture<'_, Result<ArchiveSource, PhysicalError>>;

    /// Active node: replaces the whole state through the log; returns when
    /// applied here.
    ///
    /// # Errors
    /// `OutcomeUnknown` or `Refused`; the old state stays when refused.
    fn restore(&self, entries: RestoreEntries) -> BoxFuture<'_, Result<(), PhysicalError>>;
}
