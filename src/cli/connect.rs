//! Joints between modules that do not know each other: the raft node dials for
//! http, and a leader's API is asked on behalf of the vault.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::discovery::{self, AutoJoin, ClientError, JoinStanza, LeaderClient};
use crate::http::forward::{Dial, Stream};
use crate::node::RaftNode;
use crate::physical::{Backend, BoxFuture};
use crate::vault::{JoinFailure, JoinTarget, LeaderApi, LeaderApiError};

/// Dials the leader over the cluster port.
pub struct NodeDial(pub Arc<RaftNode>);

impl Dial for NodeDial {
    fn active(&self) -> Option<String> {
        let leadership = self.0.leadership();
        let leadership = leadership.borrow();
        if leadership.is_leader {
            return None;
        }
        let leader = leadership.leader.as_ref()?;
        // A leader that comes back in another term is another one: what ran
        // over the old connection may have been lost.
        Some(format!("{} of term {}", leader.node_id, leadership.term))
    }

    fn dial(&self) -> BoxFuture<'_, std::io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let (stream, _) = self.0.dial_forward().await.map_err(std::io::Error::other)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

/// Asks a leader's API with the discovery module's client.
pub struct DiscoveredLeader;

impl LeaderApi for DiscoveredLeader {
    fn put<'a>(
        &'a self,
        target: &'a JoinTarget,
        path: &'a str,
        body: Value,
    ) -> BoxFuture<'a, Result<Map<String, Value>, LeaderApiError>> {
        Box::pin(async move {
            let unreachable =
                |kind: JoinFailure, reason: String| LeaderApiError::Unreachable { kind, reason };
            let stanza = JoinStanza {
                leader_api_addr: target.leader_api_addr.clone(),
                leader_tls_servername: target.leader_tls_servername.clone(),
                leader_ca_cert: target.leader_ca_cert.clone(),
                leader_client_cert: target.leader_client_cert.clone(),
                leader_client_key: target.leader_client_key.clone(),
                ..JoinStanza::default()
            };
            let target = discovery::JoinTarget::new(&stanza)
                .map_err(|error| unreachable(JoinFailure::Target, error.to_string()))?;
            let client = LeaderClient::new(target);
            let answered = client.put_json(&format!("/v1/{path}"), &body).await;
            let (status, answer) =
                answered.map_err(|error| unreachable(kind_of(&error), chain(&error)))?;
            if !status.is_success() {
                return Err(LeaderApiError::Refused {
                    status: status.as_u16(),
                    text: error_text(&answer),
                });
            }
            match answer.get("data") {
                Some(Value::Object(data)) => Ok(data.clone()),
                _ => {
                    let reason = format!("{path}: an answer without data");
                    Err(unreachable(JoinFailure::Protocol, reason))
                }
            }
        })
    }

    fn discover<'a>(
        &'a self,
        auto_join: &'a str,
    ) -> BoxFuture<'a, Result<Vec<String>, LeaderApiError>> {
        Box::pin(discovered(auto_join))
    }
}

/// Which step failed.
fn kind_of(error: &ClientError) -> JoinFailure {
    match error {
        ClientError::TlsSetup { .. } => JoinFailure::Target,
        ClientError::Resolve { .. } => JoinFailure::Dns,
        ClientError::Connect { .. } => JoinFailure::Tcp,
        ClientError::Tls { source, .. } if is_about_names(source) => JoinFailure::TlsName,
        ClientError::Tls { .. } => JoinFailure::Tls,
        ClientError::TimedOut { .. } => JoinFailure::TimedOut,
        ClientError::Status { .. } => JoinFailure::Refused,
        ClientError::Http { .. }
        | ClientError::Body { .. }
        | ClientError::Redirect { .. }
        | ClientError::Shape { .. }
        | ClientError::Keyring { .. } => JoinFailure::Protocol,
    }
}

/// Whether a certificate was refused for its name alone.
fn is_about_names(error: &std::io::Error) -> bool {
    use rustls::{CertificateError as Cause, Error};
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    matches!(
        inner,
        Some(Error::InvalidCertificate(
            Cause::NotValidForName | Cause::NotValidForNameContext { .. }
        ))
    )
}

/// Where an `auto_join` text leads.
async fn discovered(text: &str) -> Result<Vec<String>, LeaderApiError> {
    let failed = |kind: JoinFailure, reason: String| LeaderApiError::Unreachable {
        kind,
        reason: format!("failed to fetch addresses via auto-join: {reason}"),
    };
    let wanted =
        AutoJoin::parse(text).map_err(|error| failed(JoinFailure::Target, error.to_string()))?;
    let provider = wanted.provider();
    wanted.hosts().await.map_err(|error| {
        let kind = match error.kind() {
            std::io::ErrorKind::TimedOut => JoinFailure::TimedOut,
            _ => JoinFailure::Dns,
        };
        failed(kind, format!("discover-{provider}: {error}"))
    })
}

fn error_text(answer: &Value) -> String {
    let texts = answer.get("errors").and_then(Value::as_array);
    let texts = texts.into_iter().flatten().filter_map(Value::as_str);
    let text = texts.collect::<Vec<_>>().join("; ");
    text.chars().take(1000).collect()
}

fn chain(error: &ClientError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
