//! The accepting side: one listener for every service, greetings, and the
//! reading end of raft connections.
//!
//! Strangers get no further than TLS: no frame of theirs is ever parsed. How
//! many handshakes and connections there are at once is bounded, and a
//! handshake that takes too long is cut off.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};

use super::dial::{PeerStream, Refuser, accept_tls};
use super::frame::{self, FrameError, FrameKind, PAYLOAD_BYTES_MAX};
use super::hello::{Goodbye, GreetingError, Hello, Printable, decode_goodbye, send, send_goodbye};
use super::lines::Line;
use super::outgoing::chain;
use super::shared::Shared;
use super::snapshot_receive;
use super::tls::Service;
use crate::codec::{self, CodecError};

/// How long to wait when the system has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many times its ping interval a caller may be silent.
const SILENT_INTERVALS: u32 = 10;

const READ_BUFFER_BYTES: usize = 64 << 10;

/// Accepts until the transport stops.
pub(super) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let tcp = match accepted {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                tracing::warn!(%error, "accept on the cluster port");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&shared.handshakes).try_acquire_owned() else {
            tracing::warn!("too many handshakes on the cluster port, connection refused");
            continue;
        };
        let admission = admit(Arc::clone(&shared), tcp, permit);
        shared.tasks.spawn(admission);
    }
}

/// TLS and greeting, then the service asked for.
async fn admit(shared: Arc<Shared>, tcp: TcpStream, handshake: OwnedSemaphorePermit) {
    let from = tcp.peer_addr().map(|address| address.to_string());
    let from = from.unwrap_or_else(|_| "unknown".to_owned());
    let before = shared.options.witness.picture();
    let greeting = async {
        let (mut stream, service) = accept_tls(&shared, tcp)
            .await
            .map_err(|error| format!("TLS handshake: {error}"))?;
        let hello = shared
            .greet_caller(&mut stream, service, &before)
            .await
            .map_err(|error: GreetingError| chain(&error))?;
        Ok::<_, String>((stream, service, hello))
    };
    let outcome = tokio::select! {
        () = shared.stop.cancelled() => return,
        outcome = timeout(shared.options.timing.handshake, greeting) => outcome,
    };
    let (mut stream, service, hello) = match outcome {
        Ok(Ok(admitted)) => admitted,
        Ok(Err(reason)) => {
            tracing::info!(%from, %reason, "connection on the cluster port refused");
            return;
        }
        Err(_) => {
            tracing::info!(%from, "handshake on the cluster port took too long");
            return;
        }
    };
    let Ok(_connection) = Arc::clone(&shared.connections).try_acquire_owned() else {
        let reason = "too many connections".to_owned();
        send_goodbye(&mut stream, &Goodbye::Unavailable { reason }).await;
        return;
    };
    drop(handshake);
    shared.learn(hello.node, &hello.cluster_address);
    match service {
        Service::Raft => listen_to(&shared, stream, &hello).await,
        Service::Snapshot => snapshot_receive::receive(&shared, stream, &hello).await,
        Service::Forward => {
            let serving = shared.handler.forward(hello, stream);
            tokio::select! {
                () = shared.stop.cancelled() => {}
                () = serving => {}
            }
        }
    }
}

/// Why an inbound raft connection ended.
#[derive(Debug, thiserror::Error)]
enum ListenEnd {
    #[error("read from the peer")]
    Read(#[source] FrameError),
    #[error("decode what the peer sent")]
    Decode(#[source] CodecError),
    #[error("the peer said goodbye: {0}")]
    Goodbye(Goodbye),
    #[error("the peer sent an unexpected {0:?}")]
    Unexpected(FrameKind),
    #[error("the peer was silent for {0:?}")]
    Silent(Duration),
    #[error("answer the peer's ping")]
    Write(#[source] std::io::Error),
}

async fn listen_to(shared: &Shared, stream: PeerStream, hello: &Hello) {
    let line = shared.register_inbound(hello);
    let mut stream = BufReader::with_capacity(READ_BUFFER_BYTES, stream);
    let end = tokio::select! {
        () = line.cut.cancelled() => None,
        end = deliver(shared, &mut stream, hello, &line) => Some(end),
    };
    line.cut.cancel();
    let Some(end) = end else {
        return;
    };
    if let ListenEnd::Goodbye(goodbye) = &end {
        shared.handler.refused(hello.node, goodbye, Refuser::Peer);
    }
    tracing::debug!(peer = %hello.node, name = %Printable::new(&hello.name),
        error = %chain(&end), "connection from peer ended");
    if matches!(end, ListenEnd::Decode(_) | ListenEnd::Unexpected(_)) {
        let reason = chain(&end);
        send_goodbye(&mut stream, &Goodbye::Protocol { reason }).await;
    }
}

/// Hands every message up, answers pings.
async fn deliver(
    shared: &Shared,
    stream: &mut BufReader<PeerStream>,
    hello: &Hello,
    line: &Line,
) -> ListenEnd {
    let timing = &shared.options.timing;
    let patience = (timing.ping_interval * SILENT_INTERVALS).max(timing.liveness);
    loop {
        let frame = match timeout(patience, frame::read(stream, PAYLOAD_BYTES_MAX)).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(error)) => return ListenEnd::Read(error),
            Err(_) => return ListenEnd::Silent(patience),
        };
        line.heard();
        match frame.kind {
            FrameKind::Message => match codec::decode("raft message", &frame.payload) {
                Ok(message) => {
                    shared.options.witness.note(hello, &message);
                    shared
                        .handler
                        .message(hello.node, hello.incarnation, message);
                }
                Err(error) => return ListenEnd::Decode(error),
            },
            FrameKind::Repair => match codec::decode("word about repair", &frame.payload) {
                Ok(message) => shared.handler.repair(hello.node, message),
                Err(error) => return ListenEnd::Decode(error),
            },
            FrameKind::Ping => {
                let answered = timeout(patience, send(stream, FrameKind::Pong, &[])).await;
                match answered {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return ListenEnd::Write(error),
                    Err(_) => return ListenEnd::Silent(patience),
                }
            }
            FrameKind::Goodbye => return ListenEnd::Goodbye(decode_goodbye(&frame.payload)),
            other => return ListenEnd::Unexpected(other),
        }
    }
}
