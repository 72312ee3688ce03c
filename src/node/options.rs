//! What a node is told when it is opened.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::disk::Disk;
use crate::membership::autopilot::AutopilotConfig;
use crate::raft::ReadMode;
use crate::types::Millis;
use crate::wal::WalOptions;

use super::failure::{FailureHook, exit_on_failure, exit_on_refusal};

/// Everything a node needs to know from its configuration.
#[derive(Clone)]
pub struct NodeOptions {
    /// The data directory; `None` keeps everything in memory.
    pub path: Option<PathBuf>,
    /// The file system; `None`: the real one, or memory without a path.
    pub disk: Option<Arc<dyn Disk>>,
    /// The configured `node_id`.
    pub node_id: String,
    /// Where to accept peers.
    pub cluster_listen: SocketAddr,
    /// What peers are told to dial, `host:port`.
    pub cluster_address: String,
    /// What clients are told to dial (URL).
    pub api_address: String,
    /// Election and heartbeat times.
    pub timings: Timings,
    /// When to write a snapshot.
    pub snapshot: SnapshotThresholds,
    /// Entries kept in the log before the newest snapshot, for followers that
    /// were briefly away.
    pub trailing_entries: u64,
    /// How the leader confirms reads. Every member must have the same
    /// election times for a lease, which trusts clocks (see `raft::lease`).
    pub read_mode: ReadMode,
    /// Entries between two comparisons of this replica's state with the
    /// others'; must be the same on all of them to compare anything.
    pub checkpoint_interval: u64,
    /// Promotion policy until another is set.
    pub autopilot: AutopilotConfig,
    /// The log's own options.
    pub wal: WalOptions,
    /// Bytes of keys and values that the state may have, as far as this node
    /// proposes; `None`: no limit.
    pub memory_bytes_max: Option<u64>,
    /// How stored bytes are read again.
    pub scrub: ScrubOptions,
    /// Called once when the disk has failed. The default ends the process.
    pub on_failure: FailureHook,
    /// Called once when peers refuse this process its identity. The default
    /// ends the process.
    pub on_refusal: FailureHook,
    /// Limit of each snapshot stream to a peer; `None` for none.
    pub snapshot_bytes_per_second: Option<u64>,
}

impl NodeOptions {
    /// Defaults for a node of this name and these addresses, in memory.
    #[must_use]
    pub fn new(
        node_id: impl Into<String>,
        cluster_listen: SocketAddr,
        cluster_address: impl Into<String>,
        api_address: impl Into<String>,
    ) -> Self {
        Self {
            path: None,
            disk: None,
            node_id: node_id.into(),
            cluster_listen,
            cluster_address: cluster_address.into(),
            api_address: api_address.into(),
            timings: Timings::default(),
            snapshot: SnapshotThresholds::default(),
            trailing_entries: TRAILING_ENTRIES,
            read_mode: ReadMode::default(),
            checkpoint_interval: CHECKPOINT_INTERVAL,
            autopilot: AutopilotConfig::default(),
            wal: WalOptions::default(),
            memory_bytes_max: None,
            scrub: ScrubOptions::default(),
            on_failure: exit_on_failure(),
            on_refusal: exit_on_refusal(),
            snapshot_bytes_per_second: None,
        }
    }
}

/// How closed log segments and snapshots are read again in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubOptions {
    /// Bytes read in a second; 0: none.
    pub bytes_per_second: u64,
    /// Time before the first round, and between two.
    pub pause: Duration,
}

impl Default for ScrubOptions {
    /// A gigabyte in four minutes, every hour.
    fn default() -> Self {
        Self {
            bytes_per_second: 4 << 20,
            pause: Duration::from_secs(3600),
        }
    }
}

/// Election and heartbeat times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// How often a leader speaks to an idle peer.
    pub heartbeat: Millis,
    /// Shortest election timeout.
    pub election_min: Millis,
    /// Longest election timeout (exclusive).
    pub election_max: Millis,
}

impl Default for Timings {
    /// A killed leader is replaced in about a second: heartbeats every 100 ms,
    /// elections after 500 to 1000 ms of silence. Heartbeats wait for no disk,
    /// so a slow sync does not look like a death.
    fn default() -> Self {
        Self {
            heartbeat: Millis(100),
            election_min: Millis(500),
            election_max: Millis(1000),
        }
    }
}

impl Timings {
    /// For a node that is its own quorum: nobody to wait for.
    pub(super) fn alone() -> Self {
        Self {
            heartbeat: Millis(50),
            election_min: Millis(100),
            election_max: Millis(200),
        }
    }

    /// The default times stretched by a configured `performance_multiplier`;
    /// 0 means unset, as OpenBao has it.
    #[must_use]
    pub fn stretched(performance_multiplier: u32) -> Self {
        let factor = u64::from(performance_multiplier.max(1));
        let base = Self::default();
        Self {
            heartbeat: Millis(base.heartbeat.0 * factor),
            election_min: Millis(base.election_min.0 * factor),
            election_max: Millis(base.election_max.0 * factor),
        }
    }
}

/// A snapshot is written when either is reached since the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotThresholds {
    /// Entries applied.
    pub entries: u64,
    /// Entry bytes applied.
    pub bytes: u64,
}

impl Default for SnapshotThresholds {
    fn default() -> Self {
        Self {
            entries: 8192,
            bytes: 64 << 20,
        }
    }
}

/// As long as what snapshots are taken for.
const TRAILING_ENTRIES: u64 = 8192;
/// Some hundred comparisons a second under the heaviest load; the digest of a
/// state costs microseconds.
const CHECKPOINT_INTERVAL: u64 = 256;
