//! The few API calls the harness makes, and what their answers mean.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::client::{Client, Failure, Reply};
use crate::ledger::Outcome;

/// What `sys/init` hands out.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// As many shares as the threshold asks for.
    pub shares: Vec<String>,
    /// The root token.
    pub root_token: String,
}

/// Limit of administrative calls: a restore or an init may take seconds.
const ADMINISTRATION_LIMIT: Duration = Duration::from_secs(30);

/// A client for administrative calls.
pub fn administrator(address: SocketAddr, token: Option<&str>) -> Client {
    Client::new(address, token, ADMINISTRATION_LIMIT)
}

/// Initialises a cluster with one share.
///
/// # Errors
/// No answer, or a refusal.
pub async fn initialise(address: SocketAddr) -> anyhow::Result<Credentials> {
    let mut client = administrator(address, None);
    let body = json!({"secret_shares": 1, "secret_threshold": 1});
    let answer = call(&mut client, Method::PUT, "/v1/sys/init", Some(body)).await?;
    let shares = answer["keys_base64"].as_array().context("init: no keys")?;
    let token = answer["root_token"].as_str().context("init: no token")?;
    Ok(Credentials {
        shares: shares
            .iter()
            .filter_map(|share| share.as_str().map(str::to_owned))
            .collect(),
        root_token: token.to_owned(),
    })
}

/// Sends the shares to one node; the node may go on joining in the background.
///
/// # Errors
/// No answer, or a refusal.
pub async fn unseal(address: SocketAddr, shares: &[String]) -> anyhow::Result<()> {
    let mut client = administrator(address, None);
    for share in shares {
        let body = json!({ "key": share });
        call(&mut client, Method::PUT, "/v1/sys/unseal", Some(body)).await?;
    }
    Ok(())
}

/// Makes one node ask another for membership.
///
/// # Errors
/// No answer, or a refusal.
pub async fn join(address: SocketAddr, leader: SocketAddr) -> anyhow::Result<()> {
    let mut client = administrator(address, None);
    let body = json!({"leader_api_addr": format!("http://{leader}")});
    let path = "/v1/sys/storage/raft/join";
    let answer = call(&mut client, Method::POST, path, Some(body)).await?;
    if answer["joined"] != Value::Bool(true) {
        bail!("join: {answer}");
    }
    Ok(())
}

/// Mounts a KV v1 engine at `mount`; one that is there already is kept.
///
/// # Errors
/// No answer, or another refusal.
pub async fn mount_kv(address: SocketAddr, token: &str, mount: &str) -> anyhow::Result<()> {
    let mut client = administrator(address, Some(token));
    let body = json!({"type": "kv", "options": {"version": "1"}});
    let path = format!("/v1/sys/mounts/{mount}");
    match call(&mut client, Method::POST, &path, Some(body)).await {
        Err(error) if error.to_string().contains("path is already in use") => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Health as `sys/health` codes it: 200 active, 429 standby, 503 sealed,
/// 501 uninitialised; `None` without an answer.
pub async fn health(address: SocketAddr) -> Option<u16> {
    let mut client = Client::new(address, None, Duration::from_secs(2));
    let reply = client.send(Method::GET, "/v1/sys/health", None).await;
    reply.ok().map(|reply| reply.status)
}

/// Whether `sys/seal-status` says that the node was removed from its cluster.
///
/// # Errors
/// No answer.
pub async fn is_removed(address: SocketAddr) -> anyhow::Result<bool> {
    let mut client = administrator(address, None);
    let answer = call(&mut client, Method::GET, "/v1/sys/seal-status", None).await?;
    Ok(answer["removed_from_cluster"] == Value::Bool(true))
}

/// Removes a node by name, through the active one.
///
/// # Errors
/// No answer, or a refusal.
pub async fn remove_peer(address: SocketAddr, token: &str, name: &str) -> anyhow::Result<()> {
    let mut client = administrator(address, Some(token));
    let path = "/v1/sys/storage/raft/remove-peer";
    let body = json!({ "server_id": name });
    call(&mut client, Method::POST, path, Some(body)).await?;
    Ok(())
}

/// Commit and applied index that a node reports of itself.
///
/// # Errors
/// No answer, or a sealed node.
pub async fn raft_indexes(address: SocketAddr) -> anyhow::Result<(u64, u64)> {
    let mut client = Client::new(address, None, Duration::from_secs(5));
    let answer = call(&mut client, Method::GET, "/v1/sys/leader", None).await?;
    let index = |field: &str| answer[field].as_u64().unwrap_or_default();
    Ok((index("raft_committed_index"), index("raft_applied_index")))
}

/// Names of the voters in the configuration a node reports.
///
/// # Errors
/// No answer, or a refusal.
pub async fn voters(address: SocketAddr, token: &str) -> anyhow::Result<Vec<String>> {
    let mut client = administrator(address, Some(token));
    let path = "/v1/sys/storage/raft/configuration";
    let answer = call(&mut client, Method::GET, path, None).await?;
    let servers = answer["data"]["config"]["servers"].as_array();
    let voters = servers.context("configuration: no servers")?.iter();
    Ok(voters
        .filter(|server| server["voter"] == Value::Bool(true))
        .filter_map(|server| server["node_id"].as_str().map(str::to_owned))
        .collect())
}

/// Writes `value` under a KV v1 path.
pub async fn write(client: &mut Client, path: &str, value: &str) -> Outcome {
    let body = Bytes::from(json!({ "value": value }).to_string());
    let reply = client.send(Method::PUT, path, Some(body)).await;
    write_outcome(reply)
}

/// Reads a KV v1 path; `Ok(None)` is the server's word that nothing is there.
///
/// # Errors
/// Anything else than the value or its absence.
pub async fn read(client: &mut Client, path: &str) -> anyhow::Result<Option<String>> {
    let reply = client.send(Method::GET, path, None).await?;
    match reply.status {
        200 => {
            let body: Value = serde_json::from_slice(&reply.body).context("read: not JSON")?;
            let value = body["data"]["value"].as_str().context("read: no value")?;
            Ok(Some(value.to_owned()))
        }
        404 => Ok(None),
        _ => bail!("read {path}: {}", describe(&reply)),
    }
}

/// A refusal by the request's own fault (4xx) had no effect. Every 5xx may
/// have been committed, or may still be: OpenBao's "leadership lost while
/// committing log" is an error of a write that is often there afterwards.
fn write_outcome(reply: Result<Reply, Failure>) -> Outcome {
    match reply {
        Ok(reply) if (200..300).contains(&reply.status) => Outcome::Ok,
        Ok(reply) if (300..500).contains(&reply.status) => Outcome::Fail(describe(&reply)),
        Ok(reply) => Outcome::Info(describe(&reply)),
        Err(Failure::NotSent(reason)) => Outcome::Fail(reason),
        Err(Failure::Unknown(reason)) => Outcome::Info(reason),
    }
}

async fn call(
    client: &mut Client,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> anyhow::Result<Value> {
    let body = body.map(|body| Bytes::from(body.to_string()));
    let reply = client.send(method, path, body).await?;
    if !(200..300).contains(&reply.status) {
        bail!("{path} at {}: {}", client.address(), describe(&reply));
    }
    if reply.body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&reply.body).with_context(|| format!("{path}: not JSON"))
}

fn describe(reply: &Reply) -> String {
    let body = String::from_utf8_lossy(&reply.body);
    let body: String = body.trim().chars().take(200).collect();
    format!("status {} {body}", reply.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome_of(status: u16) -> Outcome {
        let body = Bytes::new();
        write_outcome(Ok(Reply { status, body }))
    }

    #[test]
    fn success_is_acknowledged_and_client_errors_are_refusals() {
        assert_eq!(outcome_of(204), Outcome::Ok);
        assert_eq!(outcome_of(200), Outcome::Ok);
        assert!(matches!(outcome_of(400), Outcome::Fail(_)));
        assert!(matches!(outcome_of(307), Outcome::Fail(_)));
    }

    #[test]
    fn server_errors_and_silence_are_unknown() {
        assert!(matches!(outcome_of(500), Outcome::Info(_)));
        assert!(matches!(outcome_of(503), Outcome::Info(_)));
        let silence = write_outcome(Err(Failure::Unknown("timeout".into())));
        assert!(matches!(silence, Outcome::Info(_)));
    }

    #[test]
    fn what_was_never_sent_is_refused() {
        let refused = write_outcome(Err(Failure::NotSent("refused".into())));
        assert!(matches!(refused, Outcome::Fail(_)));
    }
}
