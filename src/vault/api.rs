//! What the HTTP layer hands in and gets back. `http` parses and bounds;
//! `vault` authenticates, authorises and decides.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::physical::PhysicalError;

/// What a client wants done with a path. PUT and POST are `Update`; `LIST` and
/// `GET ?list=true` are `List`; `GET ?help=1` is `Help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET.
    Read,
    /// LIST, or GET with `list=true`.
    List,
    /// PUT or POST.
    Update,
    /// DELETE.
    Delete,
    /// PATCH.
    Patch,
    /// GET with `help=1`.
    Help,
}

/// One request to a logical path.
pub struct Request {
    /// What to do.
    pub method: Method,
    /// After `/v1/`, percent-decoded; a `List` path ends in `/`.
    pub path: String,
    /// Query parameters.
    pub query: BTreeMap<String, String>,
    /// The parsed JSON object, if a body was sent.
    pub body: Option<Map<String, Value>>,
    /// From `X-Vault-Token` or `Authorization: Bearer`.
    pub token: Option<Zeroizing<String>>,
    /// It came from another node over the cluster port.
    pub forwarded: bool,
}

/// A logical reply; `http` wraps it in the envelope.
#[derive(Debug, Default, PartialEq)]
pub struct Response {
    /// `data`; with no data, auth and warnings the reply is 204.
    pub data: Option<Map<String, Value>>,
    /// `auth`.
    pub auth: Option<Value>,
    /// `warnings`.
    pub warnings: Vec<String>,
    /// `lease_duration` in seconds (KV version 1 answers 2764800).
    pub lease_duration: u64,
    /// Some `sys` paths repeat `data` at the top level.
    pub copies_data_to_top: bool,
    /// A status other than 200 or 204, for the few paths that have one.
    pub status: Option<u16>,
}

/// Why a request was not served. `http::errors` maps each to a status and
/// texts; nothing here ever holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// 503 `Vault is sealed`.
    #[error("Vault is sealed")]
    Sealed,
    /// 400 `Vault is not initialized` where a real server says so.
    #[error("Vault is not initialized")]
    NotInitialized,
    /// 400.
    #[error("Vault is already initialized")]
    AlreadyInitialized,
    /// 403 `permission denied`.
    #[error("permission denied")]
    PermissionDenied,
    /// 404 with an empty list: nothing there.
    #[error("not found")]
    NotFound,
    /// 404 `no handler for route "…". route entry not found.`
    #[error("no handler for route \"{path}\". route entry not found.")]
    NoRoute {
        /// The path asked for.
        path: String,
    },
    /// 404 `1 error occurred:\n\t* unsupported path\n\n`.
    #[error("unsupported path")]
    UnsupportedPath,
    /// 405 `1 error occurred:\n\t* unsupported operation\n\n`.
    #[error("unsupported operation")]
    UnsupportedOperation,
    /// 400 with this text.
    #[error("{0}")]
    BadRequest(String),
    /// 500 with this text.
    #[error("{0}")]
    Internal(String),
    /// This node is a standby and the request must be answered by the active
    /// node: `http` forwards it.
    #[error("local node not active")]
    Standby,
    /// 500 `local node not active but active cluster node not found`.
    #[error("local node not active but active cluster node not found")]
    NoActiveNode,
    /// Storage said no; the table in `http::errors` knows the statuses.
    #[error(transparent)]
    Physical(#[from] PhysicalError),
}

/// `GET sys/seal-status` and the reply of `sys/unseal`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SealStatus {
    /// Seal type, `shamir`.
    pub kind: String,
    /// A cluster exists (or the join challenge is held).
    pub initialized: bool,
    /// The barrier is closed.
    pub sealed: bool,
    /// Shares needed.
    pub threshold: u8,
    /// Shares there are.
    pub shares: u8,
    /// Shares given.
    pub progress: u8,
    /// Names the unseal attempt; empty before the first share.
    pub nonce: String,
    /// Unsealed only.
    pub cluster_name: Option<String>,
    /// Unsealed only.
    pub cluster_id: Option<String>,
    /// A committed membership excludes this node.
    pub removed_from_cluster: bool,
}

/// `GET sys/health`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// As in [`SealStatus`].
    pub initialized: bool,
    /// As in [`SealStatus`].
    pub sealed: bool,
    /// Not the active node.
    pub standby: bool,
    /// As in [`SealStatus`].
    pub removed: bool,
    /// Unsealed only.
    pub cluster_name: Option<String>,
    /// Unsealed only.
    pub cluster_id: Option<String>,
}

/// `GET sys/leader` (unsealed).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LeaderStatus {
    /// This node is active.
    pub is_self: bool,
    /// Since when this node is active.
    pub active_time: Option<SystemTime>,
    /// The active node's API address; empty when unknown.
    pub leader_address: String,
    /// The active node's cluster address as a URL (`https://host:port`).
    pub leader_cluster_address: String,
    /// Raft positions of this node.
    pub raft_committed_index: u64,
    /// Raft positions of this node.
    pub raft_applied_index: u64,
}

/// `PUT sys/init`.
#[derive(Clone, Debug, Default)]
pub struct InitRequest {
    /// 1–255.
    pub secret_shares: u64,
    /// 2..=shares, or 1 with one share.
    pub secret_threshold: u64,
    /// Fields a Shamir seal refuses when set: stored_shares, pgp_keys,
    /// recovery_*; by name.
    pub unsupported: Vec<String>,
}

/// The reply of `sys/init`.
pub struct InitResponse {
    /// The unseal key shares, raw.
    pub shares: Vec<Zeroizing<Vec<u8>>>,
    /// The root token.
    pub root_token: Zeroizing<String>,
}

/// `PUT sys/unseal`.
#[derive(Default)]
pub struct UnsealRequest {
    /// Hex or base64 text of a share.
    pub key: Option<Zeroizing<String>>,
    /// Forget the shares given so far.
    pub reset: bool,
    /// Seal migration; refused.
    pub migrate: bool,
}

/// `POST sys/storage/raft/join`.
#[derive(Clone, Default)]
pub struct JoinBody {
    /// URL of a member's API.
    pub leader_api_addr: String,
    /// PEM text.
    pub leader_ca_cert: String,
    /// PEM text.
    pub leader_client_cert: String,
    /// PEM text.
    pub leader_client_key: Zeroizing<String>,
    /// Name expected in the leader's certificate.
    pub leader_tls_servername: String,
    /// Answer at once and go on in the background.
    pub retry: bool,
    /// Come in as a permanent non-voter.
    pub non_voter: bool,
    /// Discovery instead of an address.
    pub auto_join: String,
    /// Scheme of what discovery finds; `https` when empty.
    pub auto_join_scheme: String,
    /// Port of what discovery finds; 8200 when 0.
    pub auto_join_port: u16,
}

/// A member's API, as a joiner reaches it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct JoinTarget {
    /// URL of a member's API.
    pub leader_api_addr: String,
    /// PEM text.
    pub leader_ca_cert: String,
    /// PEM text.
    pub leader_client_cert: String,
    /// PEM text.
    pub leader_client_key: Zeroizing<String>,
    /// Name expected in the leader's certificate.
    pub leader_tls_servername: String,
    /// Discovery instead of an address.
    pub auto_join: Option<AutoJoinTarget>,
}

/// Members that discovery finds, anew in each round.
#[derive(Clone, PartialEq, Eq)]
pub struct AutoJoinTarget {
    /// What to ask whom, as go-discover writes it. May hold secrets.
    pub text: String,
    /// `http` or `https`.
    pub scheme: String,
    /// Port of their API.
    pub port: u16,
}

impl AutoJoinTarget {
    /// With the documented defaults for an empty scheme and port 0.
    ///
    /// # Errors
    /// Another scheme, in a real server's words.
    pub fn new(text: String, scheme: &str, port: u16) -> Result<Self, String> {
        let scheme = match scheme {
            "" | "https" => "https",
            "http" => "http",
            other => {
                return Err(format!(
                    "invalid scheme \"{other}\"; must either be http or https"
                ));
            }
        };
        Ok(Self {
            text,
            scheme: scheme.to_owned(),
            port: if port == 0 { 8200 } else { port },
        })
    }

    /// The API address of a host.
    #[must_use]
    pub fn url(&self, host: &str) -> String {
        let Self { scheme, port, .. } = self;
        if host.contains(':') {
            format!("{scheme}://[{host}]:{port}")
        } else {
            format!("{scheme}://{host}:{port}")
        }
    }
}

impl std::fmt::Debug for JoinTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&super::join_status::shown(&self.leader_api_addr))
    }
}
