//! `sys/storage/raft/…` behind a token: who takes part, and who answers for
//! which path.

use serde_json::{Value, json};

use super::member_paths::refuse_dr_operation_token;
use super::router::data;
use super::storage::Session;
use super::sys_paths::only;
use super::{Method, Request, Response, Vault, VaultError, object};
use crate::physical::MemberWish;

/// What only the active node can answer, reads included: it alone knows how
/// the others are doing, and it alone restores.
pub(super) const ACTIVE_ONLY: [&str; 2] =
    ["sys/storage/raft/autopilot/", "sys/storage/raft/restore/"];

impl Vault {
    /// `None` asks for another try.
    pub(super) async fn raft_path(
        &self,
        session: &Session,
        path: &str,
        request: &Request,
    ) -> Result<Option<Response>, VaultError> {
        if let Some(rest) = path.strip_prefix("autopilot/") {
            return self.autopilot_path(session, rest, request).await;
        }
        let wish = match path {
            "configuration" => {
                if request.method == Method::Update {
                    refuse_dr_operation_token(request)?;
                }
                only(request, Method::Read)?;
                return self.configuration().await.map(Some);
            }
            // What `http` does not stream.
            "snapshot" | "snapshot-force" => return Err(VaultError::UnsupportedOperation),
            "restore/status" => {
                only(request, Method::Read)?;
                return Ok(Some(data(self.restore_status())));
            }
            "transfer-leader" => return self.transfer_leader(request).await.map(Some),
            "remove-peer" => MemberWish::Remove,
            "promote" => MemberWish::Promote,
            "demote" => MemberWish::Demote,
            _ => return Err(VaultError::UnsupportedPath),
        };
        refuse_dr_operation_token(request)?;
        self.change_member(wish, request).await.map(Some)
    }

    async fn configuration(&self) -> Result<Response, VaultError> {
        let (index, servers) = self.backend.committed_servers().await?;
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
        Ok(data(object(config)))
    }
}
