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

use std::error::Error;
use std::sync::{Arc, Weak};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use super::active::SERVING_WITHIN;
use super::seal_state::{SHAMIR, SealConfig};
use super::unseal::bad;
use super::{JoinBody, Vault, VaultError, lock, text_field};
use crate::barrier::{KEYRING_PATH, STORED_ROOT_KEY_PATH, UnsealKey, random_bytes};
use crate::discovery::{JoinStanza, JoinTarget, LeaderClient, Rounds};
use crate::physical::{BoxFuture, JoinGrant, PeerInfo};

/// Path of the first phase, after `/v1/`.
pub(super) const CHALLENGE_PATH: &str = "sys/storage/raft/bootstrap/challenge";
/// Path of the second phase, after `/v1/`.
pub(super) const ANSWER_PATH: &str = "sys/storage/raft/bootstrap/answer";

const NO_CHALLENGE: &str = "failed to join raft cluster: failed to get raft challenge";
const NO_ANSWER: &str = "failed to send answer to raft leader node";

const STORAGE_POLL: Duration = Duration::from_millis(50);
/// Without `retry`, an answer refused this often is given up.
const ANSWERS_MAX: usize = 4;

/// A leader's API, asked without a token.
pub trait LeaderApi: Send + Sync {
    /// `PUT /v1/<path>` with a JSON body; gives back the reply's `data`.
    fn put<'a>(
        &'a self,
        target: &'a JoinStanza,
        path: &'a str,
        body: Value,
    ) -> BoxFuture<'a, Result<Map<String, Value>, LeaderApiError>>;
}

/// Leaders over HTTP.
pub struct HttpLeaderApi;

impl LeaderApi for HttpLeaderApi {
    fn put<'a>(
        &'a self,
        target: &'a JoinStanza,
        path: &'a str,
        body: Value,
    ) -> BoxFuture<'a, Result<Map<String, Value>, LeaderApiError>> {
        Box::pin(async move {
            let target = JoinTarget::new(target).map_err(unreachable_because)?;
            let reply = LeaderClient::new(target)
                .put_json(&format!("/v1/{path}"), &body)
                .await;
            let (status, reply) = reply.map_err(unreachable_because)?;
            match reply.get("data") {
                Some(Value::Object(data)) if status.is_success() => Ok(data.clone()),
                _ => Err(LeaderApiError::Refused {
                    status: status.as_u16(),
                    text: error_texts(&reply),
                }),
            }
        })
    }
}

fn unreachable_because(error: impl Error) -> LeaderApiError {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        reason = format!("{reason}: {cause}");
        source = cause.source();
    }
    LeaderApiError::Unreachable { reason }
}

fn error_texts(reply: &Value) -> String {
    let texts = reply.get("errors").and_then(Value::as_array);
    let texts = texts.into_iter().flatten().filter_map(Value::as_str);
    texts.collect::<Vec<_>>().join("; ")
}

/// Why a leader's API gave nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LeaderApiError {
    /// Name resolution, connection, TLS, time-out.
    #[error("{reason}")]
    Unreachable {
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
    rounds: Rounds,
    from: JoinStanza,
    challenge: Vec<u8>,
    non_voter: bool,
    retry: bool,
}

struct Challenge {
    from: JoinStanza,
    sealed: Vec<u8>,
    seal_config: SealConfig,
}

impl Vault {
    /// `POST sys/storage/raft/join`. Whether the first phase is done: the node
    /// is a member when its shares have been given too. With `retry` it goes
    /// on in the background and the answer is `false`.
    ///
    /// # Errors
    /// `Internal` with every target's reason.
    pub async fn join(self: &Arc<Self>, body: JoinBody) -> Result<bool, VaultError> {
        if self.is_removed() {
            return Err(VaultError::Internal(
                "failed to join raft cluster: this node was removed from its cluster; \
                 restart it with an empty data directory"
                    .to_owned(),
            ));
        }
        if !body.auto_join.is_empty() {
            return bad("auto_join is not supported yet: use leader_api_addr");
        }
        if self.backend.is_member() {
            return Ok(!body.retry);
        }
        let rounds = self.rounds(&[body.stanza()]);
        if body.retry {
            let this = Arc::downgrade(self);
            tokio::spawn(retry_join(this, rounds, body.non_voter));
            return Ok(false);
        }
        self.hold_challenge(&rounds, body.non_voter, false).await?;
        Ok(true)
    }

    /// Joins by any of the `retry_join` stanzas, however long it takes, in the
    /// background.
    pub async fn start_retry_join(self: &Arc<Self>, stanzas: Vec<JoinStanza>, non_voter: bool) {
        let rounds = self.rounds(&stanzas);
        if rounds.targets().is_empty() {
            return;
        }
        let this = Arc::downgrade(self);
        tokio::spawn(retry_join(this, rounds, non_voter));
    }

    async fn hold_challenge(
        &self,
        rounds: &Rounds,
        non_voter: bool,
        retry: bool,
    ) -> Result<(), VaultError> {
        let challenge = self.first_challenge(rounds).await?;
        let _guard = self.lifecycle.lock().await;
        let mut state = lock(&self.seal_state);
        if self.backend.is_member() || state.joining {
            return Ok(());
        }
        tracing::info!(leader = %challenge.from.leader_api_addr, "holding a join challenge");
        state.join = Some(HeldJoin {
            seal_config: challenge.seal_config,
            rounds: rounds.clone(),
            from: challenge.from,
            challenge: challenge.sealed,
            non_voter,
            retry,
        });
        Ok(())
    }

    // All at once; the first good answer wins, the others are dropped.
    async fn first_challenge(&self, rounds: &Rounds) -> Result<Challenge, VaultError> {
        let mut asked = JoinSet::new();
        for target in rounds.targets() {
            let api = Arc::clone(&self.parts.leader_api);
            asked.spawn(challenge(api, target.clone(), self.backend.node_id()));
        }
        let mut reasons = Vec::new();
        while let Some(outcome) = asked.join_next().await {
            match outcome {
                Ok(Ok(challenge)) => return Ok(challenge),
                Ok(Err(reason)) => reasons.push(reason),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        if reasons.is_empty() {
            reasons.push("no address but this node's own".to_owned());
        }
        let error = format!("{NO_CHALLENGE}: {}", reasons.join("; "));
        tracing::warn!("{error}");
        Err(VaultError::Internal(error))
    }

    // Without this node itself: every node may carry the same list.
    fn rounds(&self, stanzas: &[JoinStanza]) -> Rounds {
        Rounds::new(stanzas, &self.options.api_address)
    }

    /// The shares are complete: from here on joining needs nobody. Waits for
    /// it, but not forever.
    pub(super) async fn finish_join(&self, unseal_key: UnsealKey) -> Result<(), VaultError> {
        let held = lock(&self.seal_state).join.clone();
        let Some(held) = held else { return Ok(()) };
        if let Err(error) = unseal_key.open(&held.challenge) {
            return bad(format!("{NO_ANSWER}: error decrypting challenge: {error}"));
        }
        lock(&self.seal_state).joining = true;
        let this = self.this.clone();
        let joining = tokio::spawn(async move {
            let Some(vault) = this.upgrade() else {
                return Ok(());
            };
            let joined = vault.complete_join(&unseal_key, held).await;
            lock(&vault.seal_state).joining = false;
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
        let grant = self.obtain_grant(unseal_key, held).await?;
        self.backend.start_joined(grant).await?;
        if !self.storage_arrives().await {
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
        let mut refused = 0;
        loop {
            let reason = match self.answer(unseal_key, &held).await {
                Ok(grant) => return Ok(grant),
                Err(reason) => reason,
            };
            refused += 1;
            if !held.retry && ANSWERS_MAX <= refused {
                return Err(VaultError::Internal(format!("{NO_ANSWER}: {reason}")));
            }
            tracing::warn!(leader = %held.from.leader_api_addr, %reason, "{NO_ANSWER}");
            tokio::time::sleep(held.rounds.next_pause(random())).await;
            // Another leader has another challenge.
            if let Ok(newer) = self.first_challenge(&held.rounds).await {
                held.from = newer.from;
                held.challenge = newer.sealed;
            }
        }
    }

    async fn answer(&self, unseal_key: &UnsealKey, held: &HeldJoin) -> Result<JoinGrant, String> {
        let answer = unseal_key
            .open(&held.challenge)
            .map_err(|error| format!("error decrypting challenge: {error}"))?;
        let body = json!({
            "answer": BASE64.encode(&answer),
            "cluster_addr": self.options.cluster_address,
            "incarnation": self.backend.incarnation(),
            "non_voter": held.non_voter,
            "server_id": self.backend.node_id(),
        });
        let reply = self.parts.leader_api.put(&held.from, ANSWER_PATH, body);
        let reply = reply.await.map_err(|error| error.to_string())?;
        grant(unseal_key, &reply).ok_or_else(|| "unexpected reply to the answer".to_owned())
    }

    // Not sealed or shut down meanwhile.
    async fn storage_arrives(&self) -> bool {
        while lock(&self.seal_state).joining {
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

impl JoinBody {
    fn stanza(&self) -> JoinStanza {
        JoinStanza {
            leader_api_addr: self.leader_api_addr.clone(),
            leader_ca_cert: self.leader_ca_cert.clone(),
            leader_client_cert: self.leader_client_cert.clone(),
            leader_client_key: self.leader_client_key.clone(),
            leader_tls_servername: self.leader_tls_servername.clone(),
            ..JoinStanza::default()
        }
    }
}

async fn retry_join(vault: Weak<Vault>, mut rounds: Rounds, non_voter: bool) {
    loop {
        {
            let Some(vault) = vault.upgrade() else { return };
            if vault.backend.is_member() || vault.is_removed() {
                return;
            }
            let held = {
                let state = lock(&vault.seal_state);
                state.joining || state.join.is_some()
            };
            // Reasons are in the log already.
            if held || vault.hold_challenge(&rounds, non_voter, true).await.is_ok() {
                rounds.reset();
            }
        }
        tokio::time::sleep(rounds.next_pause(random())).await;
    }
}

async fn challenge(
    api: Arc<dyn LeaderApi>,
    target: JoinStanza,
    server_id: String,
) -> Result<Challenge, String> {
    let address = target.leader_api_addr.clone();
    if address.is_empty() {
        return Err("must provide leader address or auto-join metadata".to_owned());
    }
    let named = |reason: String| format!("{address}: {reason}");
    let body = json!({"server_id": server_id});
    let reply = api.put(&target, CHALLENGE_PATH, body).await;
    let reply = reply.map_err(|error| named(error.to_string()))?;
    let config = reply.get("seal_config").cloned().unwrap_or(Value::Null);
    let config: Option<SealConfig> = serde_json::from_value(config).ok();
    let sealed = BASE64.decode(text_field(&reply, "challenge")).ok();
    let (Some(seal_config), Some(sealed)) = (config, sealed) else {
        return Err(named("unexpected reply to the challenge".to_owned()));
    };
    if seal_config.kind != SHAMIR {
        return Err(named(format!(
            "mismatching seal types between raft leader ({}) and follower ({SHAMIR})",
            seal_config.kind
        )));
    }
    if !seal_config.is_sound() {
        return Err(named("unusable seal configuration".to_owned()));
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

fn random() -> u32 {
    u32::from_ne_bytes(*random_bytes::<4>())
}
