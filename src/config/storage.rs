//! `storage "raft" { … }`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

use super::section::{Block, Section};
use super::{ConfigError, HostPort};
use crate::discovery::AutoJoin;
use crate::disk::AppendMode;
use crate::raft::ReadMode;

/// The raft storage's settings.
#[derive(Clone, Debug, Default)]
pub struct StorageConfig {
    /// The data directory; `None` only for `-dev`.
    pub path: Option<PathBuf>,
    /// `None`: drawn at the first start and kept in the data directory.
    pub node_id: Option<String>,
    /// Stretches heartbeat and election times; 0 is the default.
    pub performance_multiplier: u32,
    /// Entries kept in the log after a snapshot.
    pub trailing_logs: Option<u64>,
    /// Entries between snapshots.
    pub snapshot_threshold: Option<u64>,
    /// How the log is appended to.
    pub wal_io: AppendMode,
    /// How reads are confirmed: by a quorum, or by a lease.
    pub read_mode: ReadMode,
    /// Bytes of keys and values that the state may have.
    pub memory_quota_bytes: Option<u64>,
    /// Bytes of log and snapshots read again in a second.
    pub scrub_bytes_per_second: Option<u64>,
    /// Bytes of a snapshot sent to one peer in a second, at most.
    pub snapshot_bytes_per_second: Option<u64>,
    /// Join these when the node is new.
    pub retry_join: Vec<RetryJoin>,
    /// Join as a permanent non-voter.
    pub retry_join_as_non_voter: bool,
    /// Promotion policy of a new cluster.
    pub autopilot: AutopilotInitial,
}

/// Slower than this, a large snapshot would be out of date before it arrived.
const SNAPSHOT_RATE_MIN: u64 = 64 << 10;

/// One place to ask for admission.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RetryJoin {
    /// URL of a member's API; or `auto_join`.
    pub leader_api_addr: String,
    /// Discovery, as go-discover writes it.
    pub auto_join: String,
    /// Scheme of what discovery finds; `https` when empty.
    pub auto_join_scheme: String,
    /// Port of what discovery finds; 8200 when 0.
    pub auto_join_port: u16,
    /// PEM text, or empty.
    pub leader_ca_cert: String,
    /// A file instead of the text.
    pub leader_ca_cert_file: Option<PathBuf>,
    /// PEM text, or empty.
    pub leader_client_cert: String,
    /// A file instead of the text.
    pub leader_client_cert_file: Option<PathBuf>,
    /// PEM text, or empty.
    pub leader_client_key: Zeroizing<String>,
    /// A file instead of the text.
    pub leader_client_key_file: Option<PathBuf>,
    /// Name expected in the leader's certificate.
    pub leader_tls_servername: String,
}

/// Initial values of `sys/storage/raft/autopilot/configuration`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AutopilotInitial {
    /// Remove servers that are dead for long.
    pub cleanup_dead_servers: Option<bool>,
    /// Silence after which a server is unhealthy.
    pub last_contact_threshold: Option<Duration>,
    /// Silence after which a server is dead.
    pub dead_server_last_contact_threshold: Option<Duration>,
    /// Entries a healthy server may lag behind.
    pub max_trailing_logs: Option<u64>,
    /// Voters below which none is removed.
    pub min_quorum: Option<u64>,
    /// Health before promotion.
    pub server_stabilization_time: Option<Duration>,
}

impl StorageConfig {
    pub(super) fn read(
        top: &Section<'_>,
        block: &Block<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, ConfigError> {
        if block.label != "raft" {
            let expected = "\"raft\", the only storage there is";
            return Err(top.error(block.line, &format!("storage {}", block.label), expected));
        }
        let mut section = top.nested("storage \"raft\"", block);
        let multiplier = section.integer("performance_multiplier", 0, 10)?;
        let mut storage = Self {
            path: section.text("path")?.map(PathBuf::from),
            node_id: section.parsed(
                "node_id",
                "a name of 1 to 128 printable characters",
                node_id,
            )?,
            performance_multiplier: u32::try_from(multiplier.unwrap_or(0)).unwrap_or(0),
            trailing_logs: section.integer("trailing_logs", 1, 1 << 40)?,
            snapshot_threshold: section.integer("snapshot_threshold", 1, 1 << 40)?,
            wal_io: section
                .parsed("wal_io", "\"direct\", \"cached\" or \"mmap\"", append_mode)?
                .unwrap_or_default(),
            read_mode: read_mode(&mut section, block)?,
            memory_quota_bytes: section.integer("memory_quota_bytes", 1, 1 << 50)?,
            scrub_bytes_per_second: section.integer("scrub_bytes_per_second", 0, 1 << 40)?,
            snapshot_bytes_per_second: section.integer(
                "snapshot_bytes_per_second",
                SNAPSHOT_RATE_MIN,
                1 << 40,
            )?,
            retry_join_as_non_voter: section.boolean("retry_join_as_non_voter")?.unwrap_or(false),
            ..Self::default()
        };
        for join in section.blocks("retry_join")? {
            storage.retry_join.push(RetryJoin::read(&section, &join)?);
        }
        for autopilot in section.blocks("autopilot")? {
            storage.autopilot = AutopilotInitial::read(&section, &autopilot)?;
        }
        section.duration("snapshot_interval")?;
        section.duration("autopilot_reconcile_interval")?;
        section.duration("autopilot_update_interval")?;
        section.integer("max_entry_size", 1, 1 << 30)?;
        section.integer("max_transaction_size", 1, 1 << 30)?;
        for key in section.ignored(IGNORED) {
            warnings.push(format!("storage \"raft\": {key} has no effect"));
        }
        section.finish()?;
        Ok(storage)
    }
}

/// Bounds of what real servers bound elsewhere, and switches of theirs.
const IGNORED: &[&str] = &[
    "snapshot_interval",
    "max_entry_size",
    "max_transaction_size",
    "max_mount_and_namespace_table_entry_size",
    "autopilot_reconcile_interval",
    "autopilot_update_interval",
    "autopilot_upgrade_version",
    "autopilot_redundancy_zone",
    "raft_wal",
    "raft_log_verifier_enabled",
    "raft_log_verification_interval",
    "apply_delay",
    "snapshot_delay",
    "max_parallel",
];

/// `read_mode = "lease"` with `clock_drift_permille`: by how much one member's
/// clock may run faster than another's.
fn read_mode(section: &mut Section<'_>, block: &Block<'_>) -> Result<ReadMode, ConfigError> {
    let known = |text: &str| match text {
        "quorum" => Some(false),
        "lease" => Some(true),
        _ => None,
    };
    let is_lease = section.parsed("read_mode", "\"quorum\" or \"lease\"", known)?;
    let drift = section.integer("clock_drift_permille", 0, 1000)?;
    match (is_lease, drift) {
        (Some(true), drift) => Ok(ReadMode::Lease {
            drift_permille: drift
                .and_then(|drift| u32::try_from(drift).ok())
                .unwrap_or(DRIFT_PERMILLE),
        }),
        (_, None) => Ok(ReadMode::Quorum),
        (_, Some(_)) => {
            let expected = "read_mode = \"lease\" beside it: a quorum trusts no clock";
            Err(section.error(block.line, "clock_drift_permille", expected))
        }
    }
}

/// One tenth: two hundred times what quartz does.
const DRIFT_PERMILLE: u32 = 100;

fn append_mode(text: &str) -> Option<AppendMode> {
    match text {
        "direct" => Some(AppendMode::Direct),
        "cached" => Some(AppendMode::Cached),
        "mmap" => Some(AppendMode::Mapped),
        _ => None,
    }
}

pub(super) fn node_id(text: &str) -> Option<String> {
    let fine = |character: char| !character.is_control() && !character.is_whitespace();
    ((1..=128).contains(&text.len()) && text.chars().all(fine)).then(|| text.to_owned())
}

fn scheme(text: &str) -> Option<String> {
    matches!(text, "http" | "https").then(|| text.to_owned())
}

impl fmt::Debug for RetryJoin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "retry_join {}", self.leader_api_addr)
    }
}

impl RetryJoin {
    fn read(storage: &Section<'_>, block: &Block<'_>) -> Result<Self, ConfigError> {
        let mut section = storage.nested("retry_join", block);
        let address = |text: &str| {
            let url = text.starts_with("http://") || text.starts_with("https://");
            (url && HostPort::parse_url(text, 8200).is_some()).then(|| text.to_owned())
        };
        let expected = "a URL such as \"https://10.0.0.1:8200\"";
        let file = |value: Option<String>| value.map(PathBuf::from);
        let join = Self {
            leader_api_addr: section
                .parsed("leader_api_addr", expected, address)?
                .unwrap_or_default(),
            auto_join: section.text("auto_join")?.unwrap_or_default(),
            auto_join_scheme: section
                .parsed("auto_join_scheme", "\"http\" or \"https\"", scheme)?
                .unwrap_or_default(),
            auto_join_port: section
                .integer("auto_join_port", 1, 65_535)?
                .and_then(|port| u16::try_from(port).ok())
                .unwrap_or(0),
            leader_ca_cert: section.text("leader_ca_cert")?.unwrap_or_default(),
            leader_ca_cert_file: file(section.text("leader_ca_cert_file")?),
            leader_client_cert: section.text("leader_client_cert")?.unwrap_or_default(),
            leader_client_cert_file: file(section.text("leader_client_cert_file")?),
            leader_client_key: section
                .text("leader_client_key")?
                .unwrap_or_default()
                .into(),
            leader_client_key_file: file(section.text("leader_client_key_file")?),
            leader_tls_servername: section.text("leader_tls_servername")?.unwrap_or_default(),
        };
        section.finish()?;
        if join.leader_api_addr.is_empty() == join.auto_join.is_empty() {
            let expected = "either leader_api_addr or auto_join";
            return Err(storage.error(block.line, "retry_join", expected));
        }
        // Better refused at the start than looked for in the log.
        if !join.auto_join.is_empty()
            && let Err(error) = AutoJoin::parse(&join.auto_join)
        {
            let expected = format!("another text: {error}");
            return Err(storage.error(block.line, "auto_join", &expected));
        }
        Ok(join)
    }
}

impl AutopilotInitial {
    fn read(storage: &Section<'_>, block: &Block<'_>) -> Result<Self, ConfigError> {
        let mut section = storage.nested("autopilot", block);
        let autopilot = Self {
            cleanup_dead_servers: section.boolean("cleanup_dead_servers")?,
            last_contact_threshold: section.duration("last_contact_threshold")?,
            dead_server_last_contact_threshold: section
                .duration("dead_server_last_contact_threshold")?,
            max_trailing_logs: section.integer("max_trailing_logs", 1, 1 << 40)?,
            min_quorum: section.integer("min_quorum", 0, 1000)?,
            server_stabilization_time: section.duration("server_stabilization_time")?,
        };
        section.finish()?;
        Ok(autopilot)
    }
}
