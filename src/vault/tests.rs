//! The vault over the backend in memory, against what a real OpenBao 2.7.2
//! was seen to answer.

mod join;
mod lifecycle;
mod openbao;
mod raft;
mod requests;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::*;
use crate::physical::BoxFuture;
use crate::physical::in_memory::InMemory;

/// A vault and what its operator wrote down.
struct Node {
    vault: Arc<Vault>,
    backend: Arc<InMemory>,
    shares: Vec<Zeroizing<Vec<u8>>>,
    root_token: String,
}

/// Reaches another vault of this process by its API address.
#[derive(Default)]
struct Directory(Mutex<Vec<Weak<Vault>>>);

impl LeaderApi for Directory {
    fn put<'a>(
        &'a self,
        target: &'a JoinTarget,
        path: &'a str,
        body: Value,
    ) -> BoxFuture<'a, Result<Map<String, Value>, LeaderApiError>> {
        Box::pin(async move {
            let vaults: Vec<_> = lock(&self.0).iter().filter_map(Weak::upgrade).collect();
            let vault = vaults
                .into_iter()
                .find(|vault| vault.options.api_address == target.leader_api_addr);
            let Some(vault) = vault else {
                return Err(LeaderApiError::Unreachable {
                    kind: JoinFailure::Tcp,
                    reason: "connection refused".to_owned(),
                });
            };
            let request = request(Method::Update, path, None, Some(object(body)));
            match vault.handle(request).await {
                Ok(response) => Ok(response.data.unwrap_or_default()),
                Err(error) => Err(LeaderApiError::Refused {
                    status: 400,
                    text: error.to_string(),
                }),
            }
        })
    }

    /// Finds what the text names, as `hosts=node1,node2`.
    fn discover<'a>(
        &'a self,
        auto_join: &'a str,
    ) -> BoxFuture<'a, Result<Vec<String>, LeaderApiError>> {
        Box::pin(async move {
            match auto_join.strip_prefix("hosts=") {
                Some(hosts) => Ok(hosts.split(',').map(str::to_owned).collect()),
                None => Err(LeaderApiError::Unreachable {
                    kind: JoinFailure::Target,
                    reason: "discover: no provider".to_owned(),
                }),
            }
        })
    }
}

fn vault_over(backend: &Arc<InMemory>, directory: &Arc<Directory>) -> Arc<Vault> {
    let node_id = backend.node_id();
    let options = VaultOptions {
        api_address: format!("http://{node_id}:8200"),
        cluster_address: format!("{node_id}:8201"),
        ..VaultOptions::default()
    };
    let parts = VaultParts {
        leader_api: Arc::clone(directory) as Arc<dyn LeaderApi>,
        generate_peer_keyring: || b"{\"keys\":[]}".to_vec(),
    };
    let vault = Vault::with_parts(Arc::clone(backend) as Arc<dyn Backend>, options, parts);
    lock(&directory.0).push(Arc::downgrade(&vault));
    vault
}

async fn initialized(shares: u64, threshold: u64) -> Node {
    initialized_in(&Arc::default(), shares, threshold).await
}

async fn initialized_in(directory: &Arc<Directory>, shares: u64, threshold: u64) -> Node {
    let backend = InMemory::new("node1");
    let vault = vault_over(&backend, directory);
    let request = InitRequest {
        secret_shares: shares,
        secret_threshold: threshold,
        unsupported: Vec::new(),
    };
    let response = vault.init(request).await.unwrap();
    Node {
        vault,
        backend,
        shares: response.shares,
        root_token: response.root_token.to_string(),
    }
}

async fn unsealed() -> Node {
    let node = initialized(3, 2).await;
    node.unseal(&node.shares[..2]).await;
    node
}

impl Node {
    async fn unseal(&self, shares: &[Zeroizing<Vec<u8>>]) -> SealStatus {
        unseal(&self.vault, shares).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Response, VaultError> {
        let request = request(method, path, Some(&self.root_token), body.map(object));
        self.vault.handle(request).await
    }

    async fn read(&self, path: &str) -> Result<Map<String, Value>, VaultError> {
        let response = self.call(Method::Read, path, None).await?;
        Ok(response.data.unwrap_or_default())
    }
}

async fn unseal(vault: &Arc<Vault>, shares: &[Zeroizing<Vec<u8>>]) -> SealStatus {
    let mut status = SealStatus::default();
    for share in shares {
        status = vault.unseal(key(&BASE64.encode(share))).await.unwrap();
    }
    status
}

fn key(text: &str) -> UnsealRequest {
    UnsealRequest {
        key: Some(Zeroizing::new(text.to_owned())),
        ..UnsealRequest::default()
    }
}

fn request(
    method: Method,
    path: &str,
    token: Option<&str>,
    body: Option<Map<String, Value>>,
) -> Request {
    Request {
        method,
        path: path.to_owned(),
        query: std::collections::BTreeMap::new(),
        body,
        token: token.map(|token| Zeroizing::new(token.to_owned())),
        forwarded: false,
    }
}

fn text(error: VaultError) -> String {
    error.to_string()
}
