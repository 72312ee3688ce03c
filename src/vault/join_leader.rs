//! The active node's side of the join protocol: two paths without a token.
//! Who can decrypt the challenge holds the unseal key, and may come in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use super::router::data;
use super::seal_state::SealConfig;
use super::sys_paths::only;
use super::unseal::bad;
use super::{Method, Request, Response, Vault, VaultError, object, text_field};
use crate::membership::challenge::SERVER_ID_BYTES_MAX;
use crate::physical::{JoinRequest, ServerInfo};

/// Longer than any answer in base64.
const ANSWER_TEXT_MAX: usize = 1024;
/// The longest cluster address, in bytes.
const ADDRESS_BYTES_MAX: usize = 512;

impl Vault {
    /// `sys/storage/raft/bootstrap/{challenge,answer}`.
    pub(super) async fn bootstrap_step(
        &self,
        step: &str,
        request: &Request,
    ) -> Result<Response, VaultError> {
        if !matches!(step, "challenge" | "answer") {
            return Err(VaultError::UnsupportedPath);
        }
        only(request, Method::Update)?;
        self.refuse_on_standby(request)?;
        let nothing = Map::new();
        let body = request.body.as_ref().unwrap_or(&nothing);
        match step {
            "challenge" => self.raft_challenge(body).await,
            _ => self.raft_answer(body).await,
        }
    }

    // Nothing is remembered: the answer is derived anew when it comes back.
    async fn raft_challenge(&self, body: &Map<String, Value>) -> Result<Response, VaultError> {
        let server_id = text_field(body, "server_id");
        if server_id.is_empty() {
            return bad("no server id provided");
        }
        if SERVER_ID_BYTES_MAX < server_id.len() {
            return bad("server id exceeds max length");
        }
        let session = self.session().await?;
        let answer = self.challenge_key.answer(server_id);
        let challenge = session.unsealed.unseal_key.seal(answer.as_slice());
        let config = self.seal_config().await;
        let config = config.ok_or_else(|| {
            VaultError::Internal("no usable seal configuration in storage".to_owned())
        })?;
        Ok(data(object(json!({
            "challenge": BASE64.encode(challenge),
            "seal_config": config_json(&config),
        }))))
    }

    async fn raft_answer(&self, body: &Map<String, Value>) -> Result<Response, VaultError> {
        let joiner = self.proven(body)?;
        let session = self.session().await?;
        tracing::info!(
            node_id = joiner.node_id,
            address = joiner.cluster_address,
            "peer joins"
        );
        self.backend.admit(joiner).await?;
        let cluster_id = self.backend.cluster_id().ok_or_else(|| {
            VaultError::Internal("could not find the raft cluster's id".to_owned())
        })?;
        let (_, servers) = self.backend.servers();
        let keys = &session.unsealed;
        let keyring = keys.unseal_key.seal(&keys.peer_keyring);
        Ok(data(object(json!({
            "cluster_id": hex::encode(cluster_id),
            "peers": servers.iter().map(peer_json).collect::<Vec<_>>(),
            "tls_keyring_sealed": BASE64.encode(keyring),
        }))))
    }

    fn proven(&self, body: &Map<String, Value>) -> Result<JoinRequest, VaultError> {
        let server_id = text_field(body, "server_id");
        if server_id.is_empty() {
            return bad("no server_id provided");
        }
        let answer = text_field(body, "answer");
        if answer.is_empty() {
            return bad("no answer provided");
        }
        let cluster_addr = text_field(body, "cluster_addr");
        if cluster_addr.is_empty() {
            return bad("no cluster_addr provided");
        }
        if ANSWER_TEXT_MAX < answer.len() {
            return bad("answer is too long");
        }
        if ADDRESS_BYTES_MAX < cluster_addr.len() || SERVER_ID_BYTES_MAX < server_id.len() {
            return bad("server_id or cluster_addr exceeds max length");
        }
        let Ok(answer) = BASE64.decode(answer) else {
            return bad("could not base64 decode answer");
        };
        if !self.challenge_key.accepts(server_id, &answer) {
            return bad("invalid answer given");
        }
        let Some(incarnation) = body.get("incarnation").and_then(Value::as_u64) else {
            return bad("no incarnation provided: the joiner runs another program");
        };
        Ok(JoinRequest {
            node_id: server_id.to_owned(),
            cluster_address: cluster_addr.to_owned(),
            incarnation,
            non_voter: body.get("non_voter") == Some(&Value::Bool(true)),
        })
    }
}

fn config_json(config: &SealConfig) -> Value {
    serde_json::to_value(config).expect("plain fields always encode")
}

fn peer_json(server: &ServerInfo) -> Value {
    const VOTER: u8 = 0;
    const NON_VOTER: u8 = 1;
    json!({
        "id": server.node_id,
        "address": server.address,
        "suffrage": if server.voter { VOTER } else { NON_VOTER },
    })
}
