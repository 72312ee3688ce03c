//! Archives of the whole state, out and in, streamed with bounded memory.
//!
//! Out: blocking code writes into a short queue that the connection drains.
//! Length and digest are told before the first byte, and a failure breaks the
//! body off, so that no client takes half an archive for a whole one. In: a
//! standby passes the body through, the active node spools it to a file before
//! the vault looks at it. The answer comes when the state is replaced
//! (`wait=true`, the only way there is); `dry_run=true` replaces nothing.

use std::io::{self, Write};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::StatusCode;
use hyper::body::Frame;
use hyper::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, HeaderValue};
use tokio::sync::mpsc;

use super::body::{Body, BodyError, spool};
use super::errors::{self, Spelling};
use super::forward;
use super::reply::{self, Reply, no_content, typed};
use super::request::{Arrival, Call, flag, token};
use super::router::{Router, not_done, to_its_end};
use super::service::{Archive, ArchiveWriter};
use super::urlencoded;
use crate::vault::VaultError;

pub(super) async fn serve(router: &Router, call: Call, arrival: &Arrival, force: bool) -> Reply {
    match call.method.as_str() {
        "GET" if !force => save(router, call, arrival).await,
        "PUT" | "POST" => restore(router, call, arrival, force).await,
        // The vault knows how a path refuses other verbs.
        _ => super::logical::serve(router, call, arrival).await,
    }
}

async fn save(router: &Router, call: Call, arrival: &Arrival) -> Reply {
    let call = match call.buffer(arrival).await {
        Ok(call) => call,
        Err(error) => return errors::unread(&error),
    };
    let attempt = || {
        let vault = Arc::clone(&router.vault);
        let token = token(&call.headers);
        async move { vault.snapshot_save(token).await.map(archive_reply) }
    };
    router
        .answer(&call, arrival, Spelling::Logical, attempt)
        .await
}

fn archive_reply(archive: Archive) -> Reply {
    let digest = format!("sha-256=:{}:", BASE64.encode(archive.sha256));
    let body = archive_body(archive.writer);
    let mut reply = typed(StatusCode::OK, "application/gzip", body);
    let headers = reply.headers_mut();
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(archive.bytes));
    // RFC 9530.
    let digest = HeaderValue::from_str(&digest).expect("base64 is printable");
    headers.insert("repr-digest", digest);
    reply
}

/// Pieces of 64 KiB, at most eight of them waiting.
const PIECE_BYTES: usize = 64 << 10;
const PIECES_MAX: usize = 8;

fn archive_body(writer: ArchiveWriter) -> Body {
    let (sender, receiver) = mpsc::channel::<Result<Bytes, BodyError>>(PIECES_MAX);
    tokio::task::spawn_blocking(move || {
        let mut buffered = io::BufWriter::with_capacity(PIECE_BYTES, PieceWriter(sender.clone()));
        let outcome = writer(&mut buffered).and_then(|()| buffered.flush());
        if let Err(error) = outcome {
            tracing::warn!(%error, "snapshot not sent to its end");
            // Nobody listening is one of the reasons to be here.
            let _ = sender.blocking_send(Err(error.into()));
        }
    });
    let frames = stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((piece.map(Frame::data), receiver))
    });
    StreamBody::new(frames).boxed_unsync()
}

struct PieceWriter(mpsc::Sender<Result<Bytes, BodyError>>);

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .blocking_send(Ok(Bytes::copy_from_slice(bytes)))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client went away"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn restore(router: &Router, call: Call, arrival: &Arrival, force: bool) -> Reply {
    if !arrival.forwarded {
        let health = router.vault.health().await;
        if health.sealed {
            return errors::reply(&VaultError::Sealed, Spelling::Logical);
        }
        if health.standby {
            return pass_through(router, call).await;
        }
    }
    let query = urlencoded::query(call.uri.query().unwrap_or_default());
    let asked = query
        .get("dry_run")
        .map_or(Some(false), |text| urlencoded::boolean(text));
    let Some(dry_run) = asked else {
        let text = "dry_run must be true or false";
        return reply::errors(StatusCode::BAD_REQUEST, &[text.to_owned()]);
    };
    let token = token(&call.headers);
    if let Err(error) = router.vault.may_send_archive(token.clone()).await {
        return refused(&error);
    }
    let archive = match spool(call.body, arrival.body_time_max).await {
        Ok(archive) => archive,
        Err(error) => return errors::unread(&error),
    };
    let vault = Arc::clone(&router.vault);
    if dry_run {
        return match vault.snapshot_examine(token, archive, force).await {
            Ok(response) => reply::logical(response),
            Err(error) => refused(&error),
        };
    }
    let restored =
        to_its_end(async move { vault.snapshot_restore(token, archive, force).await }).await;
    match restored {
        Ok(()) => no_content(),
        Err(error) => refused(&error),
    }
}

fn refused(error: &VaultError) -> Reply {
    let reply = errors::reply(error, Spelling::Logical);
    match error {
        VaultError::Standby | VaultError::NoActiveNode => not_done(reply),
        _ => reply,
    }
}

/// To the active node as it comes; what it answers is the answer, since the
/// body is gone.
async fn pass_through(router: &Router, call: Call) -> Reply {
    if flag(&call.headers, "x-vault-no-request-forwarding") {
        return router.redirect_to_active(&call.uri).await;
    }
    if let Err(error) = router.connect_to_active().await {
        tracing::debug!(%error, "snapshot not forwarded");
        return errors::reply(&VaultError::NoActiveNode, Spelling::Logical);
    }
    let request = forward::request(&call.method, &call.uri, &call.headers, call.body);
    let request = match request {
        Ok(request) => request,
        Err(error) => return reply::errors(StatusCode::BAD_REQUEST, &[error.to_string()]),
    };
    match router.forwarder.forward(request).await {
        Ok(reply) => reply,
        Err(error) => reply::errors(StatusCode::INTERNAL_SERVER_ERROR, &[error.to_string()]),
    }
}
