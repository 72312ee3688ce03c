//! What a request means: init, unseal, who is active, mounts, tokens, KV.
//! `http` parses; this decides; `barrier` encrypts; `physical` keeps.
//!
//! The life of a [`Vault`]:
//!
//! ```text
//! uninitialised ──init──► sealed ──shares──► unsealed: standby ◄──► active
//!       │                   ▲  ▲                          │
//!       └──join: challenge──┘  └── seal, foreign restore ─┘
//! ```
//!
//! A sealed node takes no part in raft (D-010): unsealing starts the backend,
//! sealing stops it. Active is whoever leads.
//!
//! Invariants: key material is held only inside `seal_state::Unsealed` and
//! the shares given so far; every answer to a client is computed from one
//! confirmed picture of storage, whose keyring was checked against the one
//! held. What it must never do: trust the clock for order, or log a secret.

mod active;
mod api;
mod autopilot_paths;
mod fields;
mod init;
mod join;
mod join_leader;
mod join_status;
mod kv1;
mod member_paths;
mod mount_paths;
mod mounts;
mod raft_paths;
mod restore_status;
mod router;
mod seal_state;
mod snapshots;
mod storage;
mod sys_paths;
mod tokens;
mod unseal;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use serde_json::{Map, Value};

use crate::barrier;
use crate::membership::timestamp::Timestamp;
use crate::membership::{AutopilotConfig, ChallengeKey};
use crate::physical::Backend;
use active::ActiveState;
use join_status::JoinTrace;
use restore_status::RestoreTrace;
use seal_state::{SealState, Unsealed};

pub use api::*;
pub use join::{LeaderApi, LeaderApiError};
pub use join_status::JoinFailure;
pub use snapshots::{PreparedSnapshot, SnapshotSource};

/// The OpenBao version whose API is answered: clients gate features on it.
pub const COMPATIBLE_VERSION: &str = "2.7.2";

/// What a vault is told about its node.
#[derive(Clone, Debug, Default)]
pub struct VaultOptions {
    /// Reported version; [`COMPATIBLE_VERSION`] when empty.
    pub version: String,
    /// Reported storage type; `raft` when empty.
    pub storage_type: String,
    /// Name of a cluster initialised here; random when absent.
    pub cluster_name: Option<String>,
    /// URL of this node's API, for redirects and status.
    pub api_address: String,
    /// `host:port` under which peers reach this node.
    pub cluster_address: String,
}

/// What a vault needs from outside and a test replaces.
pub struct VaultParts {
    /// Talks to a leader's API on behalf of a joiner.
    pub leader_api: Arc<dyn LeaderApi>,
    /// Makes the peer TLS keyring of a new cluster (`core/raft/tls` JSON).
    pub generate_peer_keyring: fn() -> Vec<u8>,
}

/// One node's vault.
pub struct Vault {
    backend: Arc<dyn Backend>,
    options: VaultOptions,
    parts: VaultParts,
    this: Weak<Self>,
    // Taken by whatever seals, unseals, initialises or joins; never by reads.
    lifecycle: tokio::sync::Mutex<()>,
    seal_state: Mutex<SealState>,
    unsealed: ArcSwapOption<Unsealed>,
    active_state: Mutex<ActiveState>,
    challenge_key: ChallengeKey,
    join_trace: Mutex<JoinTrace>,
    restore_trace: Mutex<RestoreTrace>,
    // Held while the stored policy is read and put in force.
    autopilot_turn: tokio::sync::Mutex<()>,
    // The configuration file's policy, until storage holds one.
    autopilot_initial: AutopilotConfig,
}

impl Vault {
    /// A sealed vault over `backend`; watches leadership and restores from a
    /// task on the current tokio runtime for as long as it lives.
    #[must_use]
    pub fn with_parts(
        backend: Arc<dyn Backend>,
        options: VaultOptions,
        parts: VaultParts,
    ) -> Arc<Self> {
        let autopilot_initial = backend.autopilot();
        let vault = Arc::new_cyclic(|this| Self {
            autopilot_initial,
            backend,
            options: options.completed(),
            parts,
            this: Weak::clone(this),
            lifecycle: tokio::sync::Mutex::default(),
            seal_state: Mutex::default(),
            unsealed: ArcSwapOption::empty(),
            active_state: Mutex::default(),
            challenge_key: ChallengeKey::new(*barrier::random_bytes()),
            join_trace: Mutex::default(),
            restore_trace: Mutex::default(),
            autopilot_turn: tokio::sync::Mutex::default(),
        });
        tokio::spawn(active::watch(
            Arc::downgrade(&vault),
            vault.backend.leadership(),
        ));
        vault
    }

    /// What it was told about its node.
    #[must_use]
    pub fn options(&self) -> &VaultOptions {
        &self.options
    }
}

impl VaultOptions {
    fn completed(mut self) -> Self {
        if self.version.is_empty() {
            COMPATIBLE_VERSION.clone_into(&mut self.version);
        }
        if self.storage_type.is_empty() {
            "raft".clone_into(&mut self.storage_type);
        }
        self
    }
}

// State behind these locks is replaced, never left half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A point in time as Go writes it.
fn rfc3339(time: SystemTime) -> String {
    let since_epoch = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let timestamp = Timestamp {
        seconds: i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX),
        nanoseconds: since_epoch.subsec_nanos(),
    };
    timestamp.to_string()
}

fn random_text<const N: usize>() -> String {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    // The largest multiple of 62 in a byte: beyond it letters would be uneven.
    const EVEN_MAX: u8 = 248;
    let mut text = String::with_capacity(N);
    while text.len() < N {
        for &byte in barrier::random_bytes::<64>().iter() {
            if byte < EVEN_MAX && text.len() < N {
                text.push(char::from(ALPHABET[usize::from(byte % 62)]));
            }
        }
    }
    text
}

fn uuid() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// The fields of a JSON object written in place.
fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => unreachable!("not an object: {}", kind(&other)),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn text_field<'a>(body: &'a Map<String, Value>, name: &str) -> &'a str {
    body.get(name).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests;
