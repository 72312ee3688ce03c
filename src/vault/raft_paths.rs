//! `sys/storage/raft/…` behind a token.

use serde_json::{Value, json};

use super::router::data;
use super::storage::Session;
use super::sys_paths::only;
use super::unseal::bad;
use super::{Method, Request, Response, Vault, VaultError, object, text_field};

impl Vault {
    pub(super) async fn raft_path(
        &self,
        _session: &Session,
        path: &str,
        request: &Request,
    ) -> Result<Response, VaultError> {
        match path {
            "configuration" => {
                only(request, Method::Read)?;
                Ok(self.configuration())
            }
            "remove-peer" => {
                only(request, Method::Update)?;
                self.remove_peer(request).await
            }
            _ => Err(VaultError::UnsupportedPath),
        }
    }

    fn configuration(&self) -> Response {
        let (index, servers) = self.backend.servers();
        let servers: Vec<Value> = servers
            .iter()
            .map(|server| {
                json!({
                    "node_id": server.node_id,
                    "address": server.address,
                    "leader": server.leader,
                    "protocol_version": "3",
                    "voter": server.voter,
                })
            })
            .collect();
        let config = json!({"config": {"servers": servers, "index": index}});
        data(object(config))
    }

    // An unknown id is nothing to complain about: it is gone, as asked.
    async fn remove_peer(&self, request: &Request) -> Result<Response, VaultError> {
        let body = request.body.as_ref();
        let node_id = body.map(|body| text_field(body, "server_id"));
        let node_id = node_id.unwrap_or_default();
        if node_id.is_empty() {
            return bad("no server id provided");
        }
        self.backend.remove(node_id.to_owned()).await?;
        tracing::info!(node_id, "peer removed");
        Ok(Response::default())
    }
}
