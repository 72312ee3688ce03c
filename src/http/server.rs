//! Listeners: accept, TLS, HTTP/1.1 or HTTP/2 by what TLS agreed on, limits,
//! and an end that lets requests finish.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::patience::{Activity, Impatient, Patience};
use super::request::Arrival;
use super::router::Router;
use super::tls::ReloadableTls;

/// Bounds of one listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The largest body, in bytes; snapshots are exempt.
    pub body_bytes_max: usize,
    /// A request's head must arrive within this; TLS handshakes too.
    pub head_time_max: Duration,
    /// A whole body must arrive within this; of a snapshot each piece.
    pub body_time_max: Duration,
    /// A connection may be idle for this long.
    pub idle_time_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 32 << 20,
            head_time_max: Duration::from_secs(10),
            body_time_max: Duration::from_secs(30),
            idle_time_max: Duration::from_secs(300),
        }
    }
}

/// A bound address and how to talk on it.
pub struct Listener {
    tcp: TcpListener,
    tls: Option<Arc<ReloadableTls>>,
    limits: Limits,
}

impl Listener {
    /// Binds.
    ///
    /// # Errors
    /// The address is taken, or not of this machine.
    pub async fn bind(
        address: SocketAddr,
        tls: Option<Arc<ReloadableTls>>,
        limits: Limits,
    ) -> std::io::Result<Self> {
        let tcp = TcpListener::bind(address).await?;
        Ok(Self { tcp, tls, limits })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Of the system.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// Serves until `stop`, then finishes the requests that have begun, for at
/// most `drain_time_max`.
pub async fn serve(
    listener: Listener,
    router: Arc<Router>,
    stop: CancellationToken,
    drain_time_max: Duration,
) {
    let connections = TaskTracker::new();
    let endpoint = Arc::new(Endpoint {
        router,
        tls: listener.tls,
        limits: listener.limits,
        stop: stop.clone(),
    });
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.tcp.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(Arc::clone(&endpoint).connection(stream));
            }
            Err(error) => {
                // Out of descriptors, most likely: accepting at once again
                // would only burn the processor.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener.tcp);
    connections.close();
    if tokio::time::timeout(drain_time_max, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(connections = connections.len(), "connections cut off");
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const HEADERS_MAX: usize = 200;
const HEADER_LIST_BYTES_MAX: u32 = 256 << 10;
const STREAMS_MAX: u32 = 250;
const PING_INTERVAL: Duration = Duration::from_secs(30);

struct Endpoint {
    router: Arc<Router>,
    tls: Option<Arc<ReloadableTls>>,
    limits: Limits,
    stop: CancellationToken,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

impl Endpoint {
    async fn connection(self: Arc<Self>, stream: TcpStream) {
        // Replies are small and whole: waiting to fill packets only delays.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            return self.serve(stream, Protocol::Http1).await;
        };
        let acceptor = tokio_rustls::TlsAcceptor::from(tls.current());
        let handshake = tokio::time::timeout(self.limits.head_time_max, acceptor.accept(stream));
        match handshake.await {
            Err(_) => tracing::debug!("TLS handshake timed out"),
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
            Ok(Ok(stream)) => {
                let protocol = match stream.get_ref().1.alpn_protocol() {
                    Some(b"h2") => Protocol::Http2,
                    _ => Protocol::Http1,
                };
                self.serve(stream, protocol).await;
            }
        }
    }

    async fn serve<S>(&self, stream: S, protocol: Protocol)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let activity = Arc::new(Activity::default());
        let head = match protocol {
            Protocol::Http1 => self.limits.head_time_max,
            // HTTP/2 interleaves heads with other frames; a head alone
            // cannot be timed, an unused connection can.
            Protocol::Http2 => self.limits.idle_time_max,
        };
        let patience = Patience {
            idle: self.limits.idle_time_max,
            head,
        };
        let stream = Impatient::new(stream, Arc::clone(&activity), patience);
        let router = Arc::clone(&self.router);
        let arrival = Arc::new(Arrival {
            forwarded: false,
            body_bytes_max: self.limits.body_bytes_max,
            body_time_max: self.limits.body_time_max,
        });
        let service = service_fn(move |request: Request<Incoming>| {
            let router = Arc::clone(&router);
            let arrival = Arc::clone(&arrival);
            let in_flight = activity.begin();
            async move {
                let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
                let reply = router.route(request, &arrival).await;
                // The guard lives as long as the reply's body.
                let reply: Response<_> = reply.map(|body| Guarded { body, in_flight });
                Ok::<_, Infallible>(reply)
            }
        });
        let builder = builder(protocol);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.as_mut().await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended");
        }
    }
}

fn builder(protocol: Protocol) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().max_headers(HEADERS_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_concurrent_streams(STREAMS_MAX);
    match protocol {
        Protocol::Http1 => builder.http1_only(),
        Protocol::Http2 => builder.http2_only(),
    }
}

use guarded::Guarded;

mod guarded {
    //! A reply body that keeps its connection busy until it is sent.

    use std::pin::Pin;
    use std::task::{Context, Poll};

    use bytes::Bytes;
    use hyper::body::{Body as HttpBody, Frame, SizeHint};

    use crate::http::body::{Body, BodyError};
    use crate::http::patience::InFlight;

    pub(super) struct Guarded {
        pub(super) body: Body,
        #[allow(dead_code, reason = "held for its drop")]
        pub(super) in_flight: InFlight,
    }

    impl HttpBody for Guarded {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            Pin::new(&mut self.body).poll_frame(context)
        }

        fn is_end_stream(&self) -> bool {
            self.body.is_end_stream()
        }

        fn size_hint(&self) -> SizeHint {
            self.body.size_hint()
        }
    }
}
