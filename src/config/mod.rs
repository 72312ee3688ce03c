//! HCL or JSON files and the environment to one checked [`Config`].
//!
//! Keys are Vault's and OpenBao's. One that they know and Holdfast does not
//! need is accepted with a warning; one that nobody knows is refused, by file,
//! line and nearest known name, because a setting that silently does nothing
//! is found out in production.

mod address;
mod draft;
mod duration;
mod files;
mod listener;
mod section;
mod storage;
mod syntax;

use std::path::PathBuf;
use std::time::Duration;

pub use address::HostPort;
pub use files::load;
pub use listener::ListenerConfig;
pub use storage::{AutopilotInitial, RetryJoin, StorageConfig};

use crate::http::tls::TlsVersion;

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file or folder that cannot be read.
    #[error("read configuration {}: {reason}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Neither HCL nor JSON.
    #[error("{}:{line}: {reason}", file.display())]
    Syntax {
        /// Which file.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// What was expected.
        reason: String,
    },
    /// One key.
    #[error("{}:{line}: {key:?}{place}: expected {expected}", file.display())]
    Key {
        /// Which file.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// As written.
        key: String,
        /// ` in listener "tcp"`, or empty.
        place: String,
        /// What would be right.
        expected: String,
    },
    /// An environment variable.
    #[error("environment variable {name}: expected {expected}")]
    Variable {
        /// Its name.
        name: String,
        /// What would be right.
        expected: String,
    },
    /// Something is missing, or two settings contradict each other.
    #[error("configuration: {0}")]
    Incomplete(String),
}

/// Levels of `log_level`, by their `tracing` names.
pub const LOG_LEVELS: [&str; 5] = ["trace", "debug", "info", "warn", "error"];

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text.
    #[default]
    Standard,
    /// One JSON object a line.
    Json,
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where state lives.
    pub storage: StorageConfig,
    /// At least one.
    pub listeners: Vec<ListenerConfig>,
    /// URL that clients and other nodes are told to use.
    pub api_addr: String,
    /// `host:port` that other nodes are told to dial.
    pub cluster_addr: HostPort,
    /// Where other nodes are accepted.
    pub cluster_listen: HostPort,
    /// A new cluster's name; generated if not given.
    pub cluster_name: Option<String>,
    /// Memory may be swapped out.
    pub disable_mlock: bool,
    /// One of [`LOG_LEVELS`].
    pub log_level: &'static str,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Serve the cluster page.
    pub ui: bool,
    /// Written at start, removed at the end.
    pub pid_file: Option<PathBuf>,
    /// Lease of tokens and secrets that ask for none.
    pub default_lease_ttl: Duration,
    /// The longest lease.
    pub max_lease_ttl: Duration,
    /// What was accepted and does nothing, for the log.
    pub warnings: Vec<String>,
}

/// A level by any of the names in use.
#[must_use]
pub fn log_level(name: &str) -> Option<&'static str> {
    let name = name.trim().to_ascii_lowercase();
    let name = match name.as_str() {
        "notice" => "info",
        "warning" => "warn",
        "err" => "error",
        other => other,
    };
    LOG_LEVELS.into_iter().find(|level| *level == name)
}

/// `tls_min_version`'s names.
fn tls_version(name: &str) -> Option<TlsVersion> {
    match name {
        "tls12" => Some(TlsVersion::Tls12),
        "tls13" => Some(TlsVersion::Tls13),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
