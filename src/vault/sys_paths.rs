//! The `sys/` paths that are not about one subject of their own.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::active::as_url;
use super::mounts::MountTable;
use super::router::{data, data_twice};
use super::storage::Session;
use super::{Method, Request, Response, Vault, VaultError, object, rfc3339};
use crate::physical::ServerInfo;

impl Vault {
    /// `sys/internal/ui/mounts` answers a stranger with nothing to see.
    pub(super) fn without_token(&self, request: &Request) -> Result<Option<Response>, VaultError> {
        let listing = request.path.trim_end_matches('/') == "sys/internal/ui/mounts";
        if listing && request.token.is_none() && request.method == Method::Read {
            return Ok(Some(data(object(json!({"auth": {}, "secret": {}})))));
        }
        Ok(None)
    }

    /// `sys/…`; `None` asks for another try.
    pub(super) async fn sys_path(
        &self,
        session: &Session,
        path: &str,
        request: &Request,
    ) -> Result<Option<Response>, VaultError> {
        if let Some(rest) = path.strip_prefix("storage/raft/") {
            return self.raft_path(session, rest, request).await;
        }
        if path.trim_end_matches('/') == "mounts" {
            only(request, Method::Read)?;
            return self.list_mounts(session).await.map(Some);
        }
        if let Some(mount) = path.strip_prefix("mounts/") {
            return self.mount_path(session, mount, request).await;
        }
        if let Some(asked) = path.strip_prefix("internal/ui/mounts") {
            only(request, Method::Read)?;
            return ui_mounts(session, asked.trim_start_matches('/'))
                .await
                .map(Some);
        }
        let response = match path {
            "auth" => {
                only(request, Method::Read)?;
                list_auths(session).await?
            }
            "key-status" => {
                only(request, Method::Read)?;
                key_status(session)
            }
            "ha-status" => {
                only(request, Method::Read)?;
                self.ha_status()
            }
            "internal/ui/resultant-acl" => {
                only(request, Method::Read)?;
                data(object(json!({"root": true})))
            }
            _ => return Err(VaultError::UnsupportedPath),
        };
        Ok(Some(response))
    }

    // API addresses are known of this node and of the active one.
    fn ha_status(&self) -> Response {
        let leadership = self.backend.leadership().borrow().clone();
        let leader = leadership.leader.unwrap_or_default();
        let status = self.backend.status();
        let own = self.backend.node_id();
        let node = |server: &ServerInfo| {
            let api_address = if server.node_id == own {
                self.options.api_address.as_str()
            } else if server.node_id == leader.node_id {
                leader.api_address.as_str()
            } else {
                ""
            };
            let contact = status.peers.get(&server.node_id);
            let contact = contact.and_then(|(_, milliseconds)| *milliseconds);
            let last_echo = contact
                .and_then(|ms| SystemTime::now().checked_sub(Duration::from_millis(ms)))
                .filter(|_| !server.leader)
                .map(rfc3339);
            json!({
                "hostname": server.node_id,
                "api_address": api_address,
                "cluster_address": as_url(&server.address),
                "active_node": server.leader,
                "last_echo": last_echo,
                "version": self.options.version,
                "upgrade_version": self.options.version,
            })
        };
        let (_, servers) = self.backend.servers();
        let nodes: Vec<Value> = servers.iter().map(node).collect();
        data_twice(object(json!({"nodes": nodes})))
    }
}

/// Refuses any other method on a path that exists.
pub(super) fn only(request: &Request, method: Method) -> Result<(), VaultError> {
    if request.method == method {
        Ok(())
    } else {
        Err(VaultError::UnsupportedOperation)
    }
}

fn key_status(session: &Session) -> Response {
    let barrier = &session.unsealed.barrier;
    data_twice(object(json!({
        "term": barrier.keyring().active_term(),
        "install_time": barrier.keyring().active_install_time(),
        "encryptions": barrier.encryptions(),
    })))
}

async fn list_auths(session: &Session) -> Result<Response, VaultError> {
    let table = MountTable::read(session).await?;
    let mounts = table.auths().map(|mount| {
        let info = Value::Object(mount.entry.info());
        (mount.entry.path().to_owned(), info)
    });
    Ok(data_twice(mounts.collect()))
}

// What the CLI asks before every KV command.
async fn ui_mounts(session: &Session, path: &str) -> Result<Response, VaultError> {
    let table = MountTable::read(session).await?;
    if path.is_empty() {
        let listing = |mounts: Vec<_>| Value::Object(mounts.into_iter().collect());
        let info = |mount: &super::mounts::StoredMount| {
            (
                mount.entry.path().to_owned(),
                Value::Object(mount.entry.info()),
            )
        };
        let auth = table.auths().map(|mount| info(mount)).collect();
        let secret = table
            .secrets()
            .filter(|mount| mount.entry.kind() != "system" && mount.entry.kind() != "identity")
            .map(|mount| info(mount))
            .collect();
        return Ok(data(object(
            json!({"auth": listing(auth), "secret": listing(secret)}),
        )));
    }
    let (mount, _) = table.route(path).ok_or(VaultError::PermissionDenied)?;
    let mut info = mount.entry.info();
    info.insert("path".to_owned(), json!(mount.entry.path()));
    Ok(data(info))
}
