//! A joiner's side of the join protocol.
//!
//! 1. Every target is asked for a challenge at once; the first good one is
//!    held. It brings the leader's seal configuration, so that this node asks
//!    for the right number of shares.
//! 2. Unseal shares gather. At the threshold they decrypt the challenge.
//! 3. The answer admits this node and brings peers and the peer keyring; raft
//!    starts, storage arrives, and it opens with the key already at hand.
//!
//! The challenge is only asked for again when its answer was refused (the
//! leader changed): never while shares are missing.

use std::sync::{Arc, Weak};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::active::SERVING_WITHIN;
use super::join_status::{JoinFailure, Search, printable, shown};
use super::seal_state::{SHAMIR, SealConfig};
use super::unseal::bad;
use super::{AutoJoinTarget, JoinBody, JoinTarget, Vault, VaultError, lock, text_field};
use crate::barrier::{BarrierError, KEYRING_PATH, STORED_ROOT_KEY_PATH, UnsealKey, random_bytes};
use crate::membership::challenge::ANSWER_BYTES;
use crate::physical::{BoxFuture, JoinGrant, PeerInfo};

/// Path of the first phase, after `/v1/`.
pub(super) const CHALLENGE_PATH: &str = "sys/storage/raft/bootstrap/challenge";
/// Path of the second phase, after `/v1/`.
pub(super) const ANSWER_PATH: &str = "sys/storage/raft/bootstrap/answer";

const NO_CHALLENGE: &str = "failed to join raft cluster: failed to get raft challenge";
const NO_ANSWER: &str = "failed to send answer to raft leader node";

const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
const STORAGE_POLL: Duration = Duration::from_millis(50);
/// Without `retry`, an answer refused this often is given up.
const ANSWERS_MAX: usize = 4;
/// Hosts of one discovery that are asked, at most.
const HOSTS_MAX: usize = 16;
/// The longest address, name or discovery text of a request, in bytes.
const TEXT_BYTES_MAX: usize = 2 << 10;
/// The longest certificate or key of a request, in bytes.
const PEM_BYTES_MAX: usize = 64 << 10;

/// A leader's API, asked without a token.
pub trait LeaderApi: Send + Sync {
    /// `PUT /v1/<path>` with a JSON body; gives back the reply's `data`.
    fn put<'a>(
        &'a self,
        target: &'a JoinTarget,
        path: &'a str,
        body: Value,
    ) -> BoxFuture<'a, Result<Map<String, Value>, LeaderApiError>>;

    /// Hosts that an `auto_join` text finds.
    fn discover<'a>(
        &'a self,
        auto_join: &'a str,
    ) -> BoxFuture<'a, Result<Vec<String>, LeaderApiError>>;
}

/// Why a leader's API gave nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LeaderApiError {
    /// Name resolution, connection, TLS, time-out.
    #[error("{reason}")]
    Unreachable {
        /// Which step failed.
        kind: JoinFailure,
        /// What failed, and where.
        reason: String,
    },
    /// It answered with an error.
    #[error("status {status}: {text}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its words.
        text: String,
    },
}

/// A challenge waiting for shares.
#[derive(Clone)]
pub(super) struct HeldJoin {
    pub(super) seal_config: SealConfig,
    targets: Arc<[JoinTarget]>,
    from: JoinTarget,
    challenge: Vec<u8>,
    pub(super) non_voter: bool,
    retry: bool,
    /// Tells this one from those held before and after.
    identity: Arc<()>,
}

/// Kind and words.
type Failure = (JoinFailure, String);

/// What a task of a round of asking came to.
enum Step {
    Found(Result<Vec<JoinTarget>, Failure>),
    /// Of this address, as it may be shown.
    Asked(String, Result<Box<Challenge>, Failure>),
}

struct Challenge {
    from: JoinTarget,
    sealed: Vec<u8>,
    seal_config: SealConfig,
}

impl Vault {
    /// `POST sys/storage/raft/join`. Whether the first phase is done: the node
    /// is a member when its shares have been given too. With `retry` it goes
    /// on in the background and the answer is `false`.
    ///
    /// # Errors
    /// `BadRequest` for a field over its limit, and when the challenge of
    /// another leader is held; `Internal` with every target's reason.
    pub async fn join(self: &Arc<Self>, body: JoinBody) -> Result<bool, VaultError> {
        if self.is_removed() {
            return Err(VaultError::Internal(
                "failed to join raft cluster: this node was removed from its cluster; \
                 restart it with an empty data directory"
                    .to_owned(),
            ));
        }
        let target = match body.target() {
            Ok(target) => target,
            Err(reason) => return bad(reason),
        };
        if body.leader_client_cert.is_empty() != body.leader_client_key.is_empty() {
            return bad("invalid certificate parameters");
        }
        if self.backend.is_member() {
            return Ok(true);
        }
        let targets = vec![target];
        if body.retry {
            let task = self.spawn_retry_join(targets, body.non_voter);
            // Anybody may ask: one such task at a time, the newest.
            let earlier = lock(&self.join_trace).requested.replace(task);
            if let Some(earlier) = earlier {
                earlier.abort();
            }
            return Ok(false);
        }
        lock(&self.join_trace).non_voter = body.non_voter;
        self.hold_challenge(targets.into(), body.non_voter, false)
            .await?;
        Ok(true)
    }

    /// Joins by any of `targets`, however long it takes, in the background.
    pub async fn start_retry_join(self: &Arc<Self>, targets: Vec<JoinTarget>, non_voter: bool) {
        if !targets.is_empty() {
            self.spawn_retry_join(targets, non_voter);
        }
    }

    fn spawn_retry_join(
        self: &Arc<Self>,
        targets: Vec<JoinTarget>,
        non_voter: bool,
    ) -> tokio::task::AbortHandle {
        {
            let mut trace = lock(&self.join_trace);
            (trace.retrying, trace.non_voter) = (true, non_voter);
        }
        let this = Arc::downgrade(self);
        tokio::spawn(retry_join(this, targets.into(), non_voter)).abort_handle()
    }

    async fn hold_challenge(
        &self,
        targets: Arc<[JoinTarget]>,
        non_voter: bool,
        retry: bool,
    ) -> Result<(), VaultError> {
        let challenge = self.first_challenge(&targets).await?;
        let _guard = self.lifecycle.lock().await;
        let mut state = lock(&self.seal_state);
        if self.backend.is_member() || state.joining {
            return Ok(());
        }
        if let Some(held) = &state.join
            && held.from != challenge.from
            && held.targets != targets
        {
            // Anybody may ask this node to join: whoever did first is not
            // pushed aside by somebody else.
            let leader = shown(&held.from.leader_api_addr);
            return bad(format!(
                "failed to join raft cluster: this node holds a challenge of {leader} already: \
                 give it the unseal keys, or restart it to join another"
            ));
        }
        tracing::info!(
            leader = shown(&challenge.from.leader_api_addr),
            "holding a join challenge"
        );
        state.join = Some(HeldJoin {
            seal_config: challenge.seal_config,
            targets,
            from: challenge.from,
            challenge: challenge.sealed,
            non_voter,
            retry,
            identity: Arc::default(),
        });
        Ok(())
    }

    // All at once; the first good answer wins, the others are dropped.
    async fn first_challenge(&self, targets: &[JoinTarget]) -> Result<Challenge, VaultError> {
        let search = Search::begin(&self.join_trace);
        let found = self.ask_all(targets).await;
        drop(search);
        let mut reasons = match found {
            Ok(challenge) => return Ok(challenge),
            Err(reasons) => reasons,
        };
        if reasons.is_empty() {
            reasons.push("no address but this node's own".to_owned());
        }
        let error = format!("{NO_CHALLENGE}: {}", reasons.join("; "));
        tracing::warn!("{error}");
        Err(VaultError::Internal(error))
    }

    async fn ask_all(&self, targets: &[JoinTarget]) -> Result<Challenge, Vec<String>> {
        let mut asked = JoinSet::new();
        let mut reasons = Vec::new();
        for target in targets {
            self.ask(&mut asked, target.clone());
        }
        while let Some(outcome) = asked.join_next().await {
            match outcome {
                Ok(Step::Found(found)) => {
                    let failure = found.as_ref().err().cloned();
                    reasons.extend(failure.iter().map(|(_, reason)| reason.clone()));
                    lock(&self.join_trace).note("auto_join", failure);
                    for target in found.unwrap_or_default() {
                        self.ask(&mut asked, target);
                    }
                }
                Ok(Step::Asked(address, Ok(challenge))) => {
                    lock(&self.join_trace).note(&address, None);
                    return Ok(*challenge);
                }
                Ok(Step::Asked(address, Err(failure))) => {
                    lock(&self.join_trace).note(&address, Some(failure.clone()));
                    reasons.push(match address.is_empty() {
                        true => failure.1,
                        false => format!("{address}: {}", failure.1),
                    });
                }
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(reasons)
    }

    // In a task of its own: a slow target delays no other.
    fn ask(&self, asked: &mut JoinSet<Step>, target: JoinTarget) {
        if self.is_self(&target) {
            return;
        }
        let api = Arc::clone(&self.parts.leader_api);
        if target.auto_join.is_some() {
            asked.spawn(async move { Step::Found(found(api, target).await.map_err(told)) });
        } else {
            let node_id = self.backend.node_id();
            asked.spawn(async move {
                let address = shown(&target.leader_api_addr);
                let challenge = challenge(api, target, node_id).await;
                Step::Asked(address, challenge.map(Box::new).map_err(told))
            });
        }
    }

    fn is_self(&self, target: &JoinTarget) -> bool {
        let own = self.options.api_address.trim_end_matches('/');
        !own.is_empty() && target.leader_api_addr.trim_end_matches('/') == own
    }

    /// The shares are complete: from here on joining needs nobody. Waits for
    /// it, but not forever.
    pub(super) async fn finish_join(&self, unseal_key: UnsealKey) -> Result<(), VaultError> {
        let held = lock(&self.seal_state).join.clone();
        let Some(held) = held else { return Ok(()) };
        match open_challenge(&unseal_key, &held.challenge) {
            Ok(_) => {}
            Err(Unanswered::Unreadable(error)) => {
                return bad(format!("{NO_ANSWER}: error decrypting challenge: {error}"));
            }
            Err(Unanswered::Impostor) => {
                let mut state = lock(&self.seal_state);
                if state.join.as_ref().is_some_and(|join| join.is(&held)) {
                    state.join = None;
                }
                let leader = shown(&held.from.leader_api_addr);
                return bad(format!("{NO_ANSWER}: {leader}: {NO_CHALLENGE_THIS}"));
            }
        }
        {
            let mut state = lock(&self.seal_state);
            (state.joining, state.join) = (true, Some(held.clone()));
        }
        let this = self.this.clone();
        let joining = tokio::spawn(async move {
            let Some(vault) = this.upgrade() else {
                return Ok(());
            };
            let joined = vault.complete_join(&unseal_key, held.clone()).await;
            vault.end_join(&held);
            if let Err(error) = &joined {
                tracing::warn!(%error, "join raft cluster");
            }
            joined
        });
        match tokio::time::timeout(SERVING_WITHIN, joining).await {
            Ok(Ok(joined)) => joined,
            Ok(Err(error)) => Err(VaultError::Internal(error.to_string())),
            // It goes on; the status tells.
            Err(_) => Ok(()),
        }
    }

    async fn complete_join(
        &self,
        unseal_key: &UnsealKey,
        held: HeldJoin,
    ) -> Result<(), VaultError> {
        let grant = self.obtain_grant(unseal_key, held.clone()).await?;
        {
            let _guard = self.lifecycle.lock().await;
            if !self.is_joining(&held) {
                return given_up();
            }
            self.backend.start_joined(grant).await?;
        }
        if !self.storage_arrives(&held).await {
            return Ok(());
        }
        let _guard = self.lifecycle.lock().await;
        self.open_joined(unseal_key.clone()).await?;
        lock(&self.seal_state).join = None;
        tracing::info!("joined the raft cluster");
        Ok(())
    }

    async fn obtain_grant(
        &self,
        unseal_key: &UnsealKey,
        mut held: HeldJoin,
    ) -> Result<JoinGrant, VaultError> {
        let mut backoff = Backoff::default();
        let mut refused = 0;
        loop {
            if !self.is_joining(&held) {
                return given_up();
            }
            let reason = match self.answer(unseal_key, &held).await {
                Ok(grant) => return Ok(grant),
                Err(reason) => reason,
            };
            refused += 1;
            if !held.retry && ANSWERS_MAX <= refused {
                return Err(VaultError::Internal(format!("{NO_ANSWER}: {reason}")));
            }
            tracing::warn!(leader = shown(&held.from.leader_api_addr), %reason, "{NO_ANSWER}");
            tokio::time::sleep(backoff.next()).await;
            // Another leader has another challenge.
            if let Ok(newer) = self.first_challenge(&held.targets).await {
                held.from = newer.from;
                held.challenge = newer.sealed;
            }
        }
    }

    async fn answer(&self, unseal_key: &UnsealKey, held: &HeldJoin) -> Result<JoinGrant, String> {
        let answer = match open_challenge(unseal_key, &held.challenge) {
            Ok(answer) => answer,
            Err(Unanswered::Unreadable(error)) => {
                return Err(format!("error decrypting challenge: {error}"));
            }
            Err(Unanswered::Impostor) => return Err(NO_CHALLENGE_THIS.to_owned()),
        };
        let body = json!({
            "answer": BASE64.encode(&answer),
            "cluster_addr": self.options.cluster_address,
            "incarnation": self.backend.incarnation(),
            "non_voter": held.non_voter,
            "server_id": self.backend.node_id(),
        });
        let reply = self.parts.leader_api.put(&held.from, ANSWER_PATH, body);
        let granted = match reply.await {
            Ok(reply) => grant(unseal_key, &reply).ok_or_else(|| {
                let text = "unexpected reply to the answer".to_owned();
                (JoinFailure::Protocol, text)
            }),
            Err(error) => Err(told((JoinFailure::of(&error), error.to_string()))),
        };
        let failure = granted.as_ref().err().cloned();
        lock(&self.join_trace).note(&shown(&held.from.leader_api_addr), failure);
        granted.map_err(|(_, reason)| reason)
    }

    // Not sealed or shut down meanwhile.
    async fn storage_arrives(&self, held: &HeldJoin) -> bool {
        while self.is_joining(held) {
            let local = self.backend.local();
            let there = local.value(KEYRING_PATH).await.is_ok_and(|v| v.is_some())
                && local
                    .value(STORED_ROOT_KEY_PATH)
                    .await
                    .is_ok_and(|v| v.is_some());
            if there {
                return true;
            }
            tokio::time::sleep(STORAGE_POLL).await;
        }
        false
    }
}

impl Vault {
    // Not sealed, shut down, or begun anew.
    fn is_joining(&self, held: &HeldJoin) -> bool {
        let state = lock(&self.seal_state);
        state.joining && state.join.as_ref().is_some_and(|join| join.is(held))
    }

    // A join begun since goes on.
    fn end_join(&self, held: &HeldJoin) {
        let mut state = lock(&self.seal_state);
        if state.join.as_ref().is_none_or(|join| join.is(held)) {
            state.joining = false;
        }
    }

    /// Stops answering a leader that gives nothing. The challenge stays held,
    /// the unseal key is forgotten. A node that takes part by now goes on.
    pub(super) async fn give_up_answering(&self) {
        let _guard = self.lifecycle.lock().await;
        let mut state = lock(&self.seal_state);
        if state.joining && self.backend.cluster_id().is_none() {
            (state.joining, state.progress) = (false, None);
            // What is under way must not take a later join for its own.
            if let Some(join) = &mut state.join {
                join.identity = Arc::default();
            }
        }
    }
}

impl HeldJoin {
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.identity, &other.identity)
    }
}

const NO_CHALLENGE_THIS: &str =
    "what it sent is sealed with this cluster's key and is no challenge";

/// Why a challenge is not answered.
enum Unanswered {
    /// Other shares than the leader's, or damaged.
    Unreadable(BarrierError),
    /// Something else that the unseal key protects.
    Impostor,
}

/// What answers a challenge. Stored root keys, key rings and checksums are
/// sealed with the same key: only what has an answer's length goes out (D-020).
fn open_challenge(unseal_key: &UnsealKey, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unanswered> {
    let answer = unseal_key.open(sealed).map_err(Unanswered::Unreadable)?;
    if answer.len() == ANSWER_BYTES {
        Ok(answer)
    } else {
        Err(Unanswered::Impostor)
    }
}

fn given_up<T>() -> Result<T, VaultError> {
    Err(VaultError::Internal(format!("{NO_ANSWER}: given up")))
}

// A stranger's words, as they may stand in a log and a reply.
fn told((kind, reason): Failure) -> Failure {
    (kind, printable(&reason))
}

/// Members that discovery finds: asked anew in each round.
async fn found(api: Arc<dyn LeaderApi>, target: JoinTarget) -> Result<Vec<JoinTarget>, Failure> {
    let Some(auto_join) = &target.auto_join else {
        return Ok(vec![target]);
    };
    if !target.leader_api_addr.is_empty() {
        let reason = "cannot provide both leader address and auto-join metadata";
        return Err((JoinFailure::Target, reason.to_owned()));
    }
    let hosts = api.discover(&auto_join.text).await;
    let hosts = hosts.map_err(|error| (JoinFailure::of(&error), error.to_string()))?;
    let hosts = hosts.iter().take(HOSTS_MAX);
    let targets = hosts.map(|host| JoinTarget {
        leader_api_addr: auto_join.url(host),
        auto_join: None,
        ..target.clone()
    });
    Ok(targets.collect())
}

impl JoinBody {
    fn check_lengths(&self) -> Result<(), String> {
        for (field, text, max) in [
            ("leader_api_addr", &self.leader_api_addr, TEXT_BYTES_MAX),
            (
                "leader_tls_servername",
                &self.leader_tls_servername,
                TEXT_BYTES_MAX,
            ),
            ("auto_join", &self.auto_join, TEXT_BYTES_MAX),
            ("auto_join_scheme", &self.auto_join_scheme, TEXT_BYTES_MAX),
            ("leader_ca_cert", &self.leader_ca_cert, PEM_BYTES_MAX),
            (
                "leader_client_cert",
                &self.leader_client_cert,
                PEM_BYTES_MAX,
            ),
            ("leader_client_key", &*self.leader_client_key, PEM_BYTES_MAX),
        ] {
            if max < text.len() {
                return Err(format!("{field} exceeds {max} bytes"));
            }
        }
        Ok(())
    }

    fn target(&self) -> Result<JoinTarget, String> {
        self.check_lengths()?;
        let (scheme, port) = (self.auto_join_scheme.as_str(), self.auto_join_port);
        let auto_join = AutoJoinTarget::new(self.auto_join.clone(), scheme, port)?;
        Ok(JoinTarget {
            auto_join: Some(auto_join).filter(|auto_join| !auto_join.text.is_empty()),
            leader_api_addr: self.leader_api_addr.clone(),
            leader_ca_cert: self.leader_ca_cert.clone(),
            leader_client_cert: self.leader_client_cert.clone(),
            leader_client_key: self.leader_client_key.clone(),
            leader_tls_servername: self.leader_tls_servername.clone(),
        })
    }
}

async fn retry_join(vault: Weak<Vault>, targets: Arc<[JoinTarget]>, non_voter: bool) {
    let mut backoff = Backoff::default();
    loop {
        {
            let Some(vault) = vault.upgrade() else { return };
            if vault.backend.is_member() || vault.is_removed() {
                lock(&vault.join_trace).retrying = false;
                return;
            }
            let held = {
                let state = lock(&vault.seal_state);
                state.joining || state.join.is_some()
            };
            // Reasons are in the log already.
            if held
                || vault
                    .hold_challenge(Arc::clone(&targets), non_voter, true)
                    .await
                    .is_ok()
            {
                backoff = Backoff::default();
            }
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

async fn challenge(
    api: Arc<dyn LeaderApi>,
    target: JoinTarget,
    server_id: String,
) -> Result<Challenge, (JoinFailure, String)> {
    let failed = |kind: JoinFailure, reason: &str| (kind, reason.to_owned());
    if target.leader_api_addr.is_empty() {
        let reason = "must provide leader address or auto-join metadata";
        return Err(failed(JoinFailure::Target, reason));
    }
    let body = json!({"server_id": server_id});
    let reply = api.put(&target, CHALLENGE_PATH, body).await;
    let reply = reply.map_err(|error| (JoinFailure::of(&error), error.to_string()))?;
    let config = reply.get("seal_config").cloned().unwrap_or(Value::Null);
    let config: Option<SealConfig> = serde_json::from_value(config).ok();
    let sealed = BASE64.decode(text_field(&reply, "challenge")).ok();
    let (Some(seal_config), Some(sealed)) = (config, sealed) else {
        let reason = "unexpected reply to the challenge";
        return Err(failed(JoinFailure::Protocol, reason));
    };
    if seal_config.kind != SHAMIR {
        let reason = format!(
            "mismatching seal types between raft leader ({}) and follower ({SHAMIR})",
            seal_config.kind
        );
        return Err((JoinFailure::WrongSeal, reason));
    }
    if !seal_config.is_sound() {
        return Err(failed(
            JoinFailure::WrongSeal,
            "unusable seal configuration",
        ));
    }
    Ok(Challenge {
        from: target,
        sealed,
        seal_config,
    })
}

// The keyring comes sealed: whoever listens to the API learns nothing (D-010).
fn grant(unseal_key: &UnsealKey, reply: &Map<String, Value>) -> Option<JoinGrant> {
    let id = hex::decode(text_field(reply, "cluster_id")).ok()?;
    let sealed = BASE64
        .decode(text_field(reply, "tls_keyring_sealed"))
        .ok()?;
    let tls_keyring = unseal_key.open(&sealed).ok()?.to_vec();
    let peer = |peer: &Value| {
        let fields = peer.as_object()?;
        Some(PeerInfo {
            node_id: text_field(fields, "id").to_owned(),
            cluster_address: text_field(fields, "address").to_owned(),
            api_address: text_field(fields, "api_address").to_owned(),
        })
    };
    let peers: Option<Vec<PeerInfo>> = reply.get("peers")?.as_array()?.iter().map(peer).collect();
    Some(JoinGrant {
        cluster_id: id.try_into().ok()?,
        peers: peers?,
        tls_keyring,
    })
}

/// Waits that double, each off by up to a quarter so that nodes started
/// together do not ask together.
struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(BACKOFF_MIN)
    }
}

impl Backoff {
    fn next(&mut self) -> Duration {
        let wait = self.0;
        self.0 = BACKOFF_MAX.min(wait * 2);
        let random: Zeroizing<[u8; 1]> = random_bytes();
        // 768..=1278 thousand-and-twenty-fourths.
        wait * (768 + u32::from(random[0]) * 2) / 1024
    }
}
