//! Requests handed from a standby to the active node: HTTP/2 over the
//! mutually authenticated cluster connection that `dial` gives.
//!
//! A request is forwarded once: the receiving node marks it and never passes
//! it on. What matters to the sender is whether a request that failed was
//! certainly not executed; only then may it be tried again elsewhere.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;

use super::body::Body;
use super::request::Arrival;
use super::router::Router;
use crate::physical::BoxFuture;

/// Why a request got no answer from the active node.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// Certainly not executed: it never left.
    #[error("forward to the active node: {reason}")]
    NotSent {
        /// What was missing.
        reason: String,
    },
    /// Perhaps executed: the connection was lost after it left.
    #[error("forward to the active node: connection lost, outcome unknown: {reason}")]
    Lost {
        /// What happened.
        reason: String,
    },
}

/// Hands requests to the active node.
pub trait Forwarder: Send + Sync + 'static {
    /// Connects, if that is needed, so that a request whose body cannot be
    /// sent twice is begun only when there is somebody to take it.
    ///
    /// # Errors
    /// `NotSent`.
    fn connect(&self) -> BoxFuture<'_, Result<(), ForwardError>>;

    /// Sends one request; returns when the head of the reply is there.
    ///
    /// # Errors
    /// See [`ForwardError`].
    fn forward(
        &self,
        request: Request<Body>,
    ) -> BoxFuture<'_, Result<Response<Body>, ForwardError>>;
}

/// An authenticated byte stream to another node.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// Where the active node is and how to reach it.
pub trait Dial: Send + Sync + 'static {
    /// Names the active node; another name means another connection. `None`:
    /// nobody, or this node itself.
    fn active(&self) -> Option<String>;

    /// Connects to it.
    fn dial(&self) -> BoxFuture<'_, std::io::Result<Box<dyn Stream>>>;
}

/// Keeps one connection to the active node.
pub struct Client<D> {
    dial: D,
    connection: Mutex<Option<Connection>>,
}

struct Connection {
    active: String,
    sender: SendRequest<Body>,
}

const DIAL_TIME_MAX: Duration = Duration::from_secs(2);
/// A silent peer is given up after the sum of these two.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_TIME_MAX: Duration = Duration::from_secs(3);
const WINDOW_BYTES: u32 = 1 << 20;
const STREAMS_MAX: u32 = 4096;

impl<D: Dial> Client<D> {
    /// Connects on first use.
    pub fn new(dial: D) -> Self {
        Self {
            dial,
            connection: Mutex::new(None),
        }
    }

    async fn sender(&self) -> Result<SendRequest<Body>, ForwardError> {
        let not_sent = |reason: String| ForwardError::NotSent { reason };
        let active = self
            .dial
            .active()
            .ok_or_else(|| not_sent("no active node is known".into()))?;
        let mut connection = self.connection.lock().await;
        if let Some(present) = connection.as_ref()
            && present.active == active
            && !present.sender.is_closed()
        {
            return Ok(present.sender.clone());
        }
        *connection = None;
        let stream = tokio::time::timeout(DIAL_TIME_MAX, self.dial.dial())
            .await
            .map_err(|_| not_sent(format!("dial {active}: timed out")))?
            .map_err(|error| not_sent(format!("dial {active}: {error}")))?;
        let (sender, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIME_MAX)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES * 4)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| not_sent(format!("greet {active}: {error}")))?;
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "forwarding connection ended");
            }
        });
        *connection = Some(Connection {
            active,
            sender: sender.clone(),
        });
        Ok(sender)
    }
}

impl<D: Dial> Forwarder for Client<D> {
    fn connect(&self) -> BoxFuture<'_, Result<(), ForwardError>> {
        Box::pin(async move { self.sender().await.map(drop) })
    }

    fn forward(
        &self,
        request: Request<Body>,
    ) -> BoxFuture<'_, Result<Response<Body>, ForwardError>> {
        Box::pin(async move {
            let mut sender = self.sender().await?;
            sender
                .ready()
                .await
                .map_err(|error| ForwardError::NotSent {
                    reason: error.to_string(),
                })?;
            match sender.try_send_request(request).await {
                Ok(response) => Ok(received(response)),
                Err(mut error) => {
                    let returned = error.take_message().is_some();
                    let reason = error.into_error().to_string();
                    Err(if returned {
                        ForwardError::NotSent { reason }
                    } else {
                        ForwardError::Lost { reason }
                    })
                }
            }
        })
    }
}

fn received(response: Response<Incoming>) -> Response<Body> {
    let (parts, body) = response.into_parts();
    let mut reply = Response::new(body.map_err(Into::into).boxed_unsync());
    *reply.status_mut() = parts.status;
    *reply.headers_mut() = end_to_end(&parts.headers);
    reply
}

/// The request as it travels: same method, path, query and headers.
///
/// # Errors
/// A path that is no URI, which a received path cannot be.
pub fn request(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
) -> Result<Request<Body>, hyper::http::Error> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder()
        .method(method.clone())
        .uri(format!("https://active{path}"))
        .body(body)?;
    *request.headers_mut() = end_to_end(headers);
    Ok(request)
}

/// Headers without those that belong to one connection.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    const HOP: [HeaderName; 8] = [
        CONNECTION,
        TRANSFER_ENCODING,
        TE,
        TRAILER,
        UPGRADE,
        HOST,
        EXPECT,
        CONTENT_LENGTH,
    ];
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let hop = HOP.contains(name) || matches!(name.as_str(), "keep-alive" | "proxy-connection");
        if !hop {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

/// Answers what other nodes forward over `stream`, until they close it.
pub async fn serve(stream: impl Stream, router: Arc<Router>, arrival: Arrival) {
    let arrival = Arc::new(arrival);
    let service = service_fn(move |request: Request<Incoming>| {
        let router = Arc::clone(&router);
        let arrival = Arc::clone(&arrival);
        async move {
            let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            Ok::<_, Infallible>(router.route(request, &arrival).await)
        }
    });
    let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIME_MAX)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES * 4)
        .max_concurrent_streams(STREAMS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "forwarded requests ended");
    }
}
