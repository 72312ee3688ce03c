//! From a request to a reply: paths to resources, and the one place that
//! decides what happens when this node is not the one to answer.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hyper::{Method, Request, StatusCode};
use tokio::time::Instant;

use super::body::{Body, empty};
use super::errors::Spelling;
use super::forward::{ForwardError, Forwarder};
use super::path::{Target, target};
use super::reply::{self, NOT_DONE, Reply, add_common_headers};
use super::request::{Arrival, BufferedCall, Call, flag, namespace};
use super::service::VaultService;
use super::{errors, health, init, leader, logical, raft, seal, snapshot};
use crate::physical::PhysicalError;
use crate::vault::VaultError;

/// What status replies say of this server.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The version whose behaviour clients may expect.
    pub version: String,
    /// Holdfast's own version.
    pub holdfast_version: String,
    /// RFC 3339.
    pub build_date: String,
    /// `raft`.
    pub storage_type: String,
}

/// Routes requests to resources.
pub struct Router {
    pub(super) vault: Arc<dyn VaultService>,
    pub(super) forwarder: Arc<dyn Forwarder>,
    pub(super) identity: Identity,
    hold_time_max: Duration,
}

impl Router {
    /// `hold_time_max` bounds how long a request that was certainly not
    /// executed is held back and tried again while the cluster elects.
    pub fn new(
        vault: Arc<dyn VaultService>,
        forwarder: Arc<dyn Forwarder>,
        identity: Identity,
        hold_time_max: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            vault,
            forwarder,
            identity,
            hold_time_max,
        })
    }

    /// Answers one request; never fails.
    pub async fn route(&self, request: Request<Body>, arrival: &Arrival) -> Reply {
        let head_only = request.method() == Method::HEAD;
        let mut reply = self.dispatch(request, arrival).await;
        if head_only {
            *reply.body_mut() = empty();
        }
        if !arrival.forwarded {
            // Between nodes only.
            reply.headers_mut().remove(NOT_DONE);
        }
        add_common_headers(&mut reply);
        reply
    }

    async fn dispatch(&self, request: Request<Body>, arrival: &Arrival) -> Reply {
        match target(request.uri().path()) {
            Target::Api(path) => self.api(Call::new(request, path), arrival).await,
            Target::Redirect(path) => {
                let location = match request.uri().query() {
                    Some(query) => format!("{path}?{query}"),
                    None => path,
                };
                let page = matches!(*request.method(), Method::GET | Method::HEAD);
                reply::redirect(&location, page)
            }
            Target::Unprintable => {
                let mut reply = Reply::new(empty());
                *reply.status_mut() = StatusCode::BAD_REQUEST;
                reply
            }
            Target::Malformed(reason) => {
                reply::errors(StatusCode::BAD_REQUEST, &[reason.to_owned()])
            }
            Target::Unknown => reply::errors(StatusCode::NOT_FOUND, &[]),
        }
    }

    async fn api(&self, call: Call, arrival: &Arrival) -> Reply {
        if namespace(&call.headers).is_some()
            && let Some(refusal) = refuse_namespace(&call.path)
        {
            return refusal;
        }
        match call.path.as_str() {
            "sys/health" => health::serve(self, call).await,
            "sys/seal-status" => seal::status(self, call).await,
            "sys/leader" => leader::serve(self, call).await,
            "sys/init" => init::serve(self, call, arrival).await,
            "sys/unseal" => seal::unseal(self, call, arrival).await,
            "sys/seal" => seal::seal(self, call, arrival).await,
            "sys/step-down" => seal::step_down(self, call, arrival).await,
            "sys/storage/raft/join" => raft::join(self, call, arrival).await,
            "sys/storage/raft/bootstrap" => raft::bootstrap(self, call).await,
            "sys/storage/raft/join/status" => raft::join_status(self, call).await,
            "sys/storage/raft/snapshot" => snapshot::serve(self, call, arrival, false).await,
            "sys/storage/raft/snapshot-force" => snapshot::serve(self, call, arrival, true).await,
            _ => logical::serve(self, call, arrival).await,
        }
    }

    /// Makes `attempt` until it is answered here or by the active node, or
    /// time is up. Only what certainly was not executed is tried again.
    pub(super) async fn answer<F>(
        &self,
        call: &BufferedCall,
        arrival: &Arrival,
        spelling: Spelling,
        mut attempt: impl FnMut() -> F,
    ) -> Reply
    where
        F: Future<Output = Result<Reply, VaultError>>,
    {
        let deadline = Instant::now() + self.hold_time_max;
        let mut pause = RETRY_PAUSE_MIN;
        loop {
            let error = match attempt().await {
                Ok(reply) => return reply,
                Err(error) => error,
            };
            let Some(doer) = other_doer(&error) else {
                return errors::reply(&error, spelling);
            };
            if arrival.forwarded {
                return not_done(errors::reply(&error, spelling));
            }
            if doer == Doer::ActiveNode {
                if flag(&call.headers, "x-vault-no-request-forwarding") {
                    return self.redirect_to_active(&call.uri).await;
                }
                if let Some(reply) = self.forward(call).await {
                    return reply;
                }
            }
            if Instant::now() + pause >= deadline {
                return errors::reply(&error, spelling);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }

    /// The active node's reply; `None` if it was certainly not executed.
    async fn forward(&self, call: &BufferedCall) -> Option<Reply> {
        let request = match call.to_forward() {
            Ok(request) => request,
            Err(error) => {
                return Some(reply::errors(StatusCode::BAD_REQUEST, &[error.to_string()]));
            }
        };
        match self.forwarder.forward(request).await {
            Ok(reply) if reply.headers().contains_key(NOT_DONE) => None,
            Ok(reply) => Some(reply),
            Err(ForwardError::NotSent { reason }) => {
                tracing::debug!(%reason, "request not forwarded");
                None
            }
            Err(ForwardError::Lost { .. }) if is_read(&call.method) => None,
            Err(error) => Some(reply::errors(
                StatusCode::INTERNAL_SERVER_ERROR,
                &[error.to_string()],
            )),
        }
    }

    /// Waits, no longer than requests are held, until the active node can be
    /// reached: before a body that cannot be sent twice.
    pub(super) async fn connect_to_active(&self) -> Result<(), ForwardError> {
        let deadline = Instant::now() + self.hold_time_max;
        loop {
            match self.forwarder.connect().await {
                Err(_) if Instant::now() < deadline => {
                    tokio::time::sleep(RETRY_PAUSE_MAX).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// 307 to the same path at the active node's API address.
    pub(super) async fn redirect_to_active(&self, uri: &hyper::Uri) -> Reply {
        let address = match self.vault.leader().await {
            Ok(leader) => leader.leader_address,
            Err(error) => return errors::reply(&error, Spelling::Bare),
        };
        if address.is_empty() {
            return errors::reply(&VaultError::NoActiveNode, Spelling::Bare);
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        reply::redirect(&format!("{}{path}", address.trim_end_matches('/')), false)
    }
}

/// Runs a vault request to its end even if the client goes away: a reply that
/// nobody reads is cheaper than a change done by half.
pub(super) async fn to_its_end<T: Send + 'static>(
    request: impl Future<Output = Result<T, VaultError>> + Send + 'static,
) -> Result<T, VaultError> {
    match tokio::spawn(request).await {
        Ok(outcome) => outcome,
        Err(_) => Err(VaultError::Internal("request handler stopped".into())),
    }
}

/// Marks a forwarded request's reply: not executed, try elsewhere.
pub(super) fn not_done(mut reply: Reply) -> Reply {
    let value = hyper::header::HeaderValue::from_static("true");
    reply.headers_mut().insert(NOT_DONE, value);
    reply
}

/// 405 with no texts.
pub(super) fn wrong_method() -> Reply {
    reply::errors(StatusCode::METHOD_NOT_ALLOWED, &[])
}

const RETRY_PAUSE_MIN: Duration = Duration::from_millis(25);
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Doer {
    ActiveNode,
    /// This node, a little later.
    Later,
}

/// Who may still execute what certainly was not executed here.
fn other_doer(error: &VaultError) -> Option<Doer> {
    match error {
        VaultError::Standby
        | VaultError::NoActiveNode
        | VaultError::Physical(PhysicalError::NotLeader) => Some(Doer::ActiveNode),
        VaultError::Physical(PhysicalError::Unavailable { .. }) => Some(Doer::Later),
        _ => None,
    }
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD) || method.as_str() == "LIST"
}

/// There is only the root namespace. `None`: the path does not care.
fn refuse_namespace(path: &str) -> Option<Reply> {
    const ROOT_ONLY: [&str; 5] = [
        "sys/health",
        "sys/init",
        "sys/unseal",
        "sys/seal",
        "sys/step-down",
    ];
    match path {
        "sys/seal-status" | "sys/leader" => None,
        _ if ROOT_ONLY.contains(&path) || path.starts_with("sys/storage/") => Some(reply::errors(
            StatusCode::BAD_REQUEST,
            &["operation unavailable in namespaces".into()],
        )),
        _ => Some(reply::errors(
            StatusCode::NOT_FOUND,
            &["namespace not found".into()],
        )),
    }
}
