//! One HTTP exchange with a leader: name, TCP, TLS, request, bounded answer;
//! each step with its own error and a limit on its time.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, LOCATION, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::ClientError;
use super::target::{JoinTarget, Origin};
use super::{body, tls};

/// Name resolution, TCP and TLS.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A whole exchange. Adding a server may wait for a commit.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// Status, where it redirects to, body.
pub(super) type Exchanged = (StatusCode, Option<String>, Vec<u8>);

/// Sends one PUT with a JSON body over a connection of its own.
pub(super) async fn exchange(
    target: &JoinTarget,
    path: &str,
    body: &Value,
) -> Result<Exchanged, ClientError> {
    let origin = &target.origin;
    let timed_out = |stage: &'static str, limit: Duration| ClientError::TimedOut {
        origin: origin.clone(),
        stage,
        limit,
    };
    let connecting = async {
        let tcp = connect(origin).await?;
        if !origin.secure {
            return Ok(Connection::Plain(tcp));
        }
        let (config, name) = tls::configure(target).map_err(|source| ClientError::TlsSetup {
            origin: origin.clone(),
            source,
        })?;
        tokio_rustls::TlsConnector::from(config)
            .connect(name, tcp)
            .await
            .map(|stream| Connection::Tls(Box::new(stream)))
            .map_err(|source| ClientError::Tls {
                origin: origin.clone(),
                source,
            })
    };
    let connection = timeout(CONNECT_LIMIT, connecting)
        .await
        .map_err(|_| timed_out("connecting", CONNECT_LIMIT))??;
    let requesting = async {
        match connection {
            Connection::Plain(stream) => request(stream, origin, path, body).await,
            Connection::Tls(stream) => request(stream, origin, path, body).await,
        }
    };
    timeout(REQUEST_LIMIT, requesting)
        .await
        .map_err(|_| timed_out("waiting for the answer", REQUEST_LIMIT))?
}

enum Connection {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

async fn connect(origin: &Origin) -> Result<TcpStream, ClientError> {
    let resolve_error = |source| ClientError::Resolve {
        origin: origin.clone(),
        source,
    };
    let resolved: Vec<_> = tokio::net::lookup_host((origin.host.as_str(), origin.port))
        .await
        .map_err(resolve_error)?
        .collect();
    let mut last = resolve_error(io::Error::other("the name has no addresses"));
    for address in resolved {
        match TcpStream::connect(address).await {
            Ok(tcp) => return Ok(tcp),
            Err(source) => {
                last = ClientError::Connect {
                    origin: origin.clone(),
                    source,
                };
            }
        }
    }
    Err(last)
}

async fn request<S>(
    stream: S,
    origin: &Origin,
    path: &str,
    body: &Value,
) -> Result<Exchanged, ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let http_error = |source| ClientError::Http {
        origin: origin.clone(),
        source,
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(http_error)?;
    let driver = tokio::spawn(connection);
    let request = Request::builder()
        .method(Method::PUT)
        .uri(path)
        .header(HOST, origin.authority())
        .header(ACCEPT, "application/json")
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, concat!("holdfast/", env!("CARGO_PKG_VERSION")))
        .header("X-Vault-Request", "true")
        .body(Full::new(Bytes::from(body.to_string())))
        .map_err(|_| ClientError::Shape {
            origin: origin.clone(),
            what: "path of the request",
        })?;
    let response = sender.send_request(request).await.map_err(http_error)?;
    let (status, location) = (response.status(), redirect_of(&response));
    let bytes = body::read(response.into_body()).await;
    driver.abort();
    let bytes = bytes.map_err(|source| ClientError::Body {
        origin: origin.clone(),
        source,
    })?;
    Ok((status, location, bytes))
}

/// Where a redirect that keeps the method points.
fn redirect_of(response: &Response<Incoming>) -> Option<String> {
    let redirects = matches!(
        response.status(),
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
    );
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    redirects.then(|| location.to_owned())
}
