//! Calling one peer and keeping it called: one connection, pauses between
//! attempts.
//!
//! Messages are written as they come: everything queued goes into as few
//! writes as possible and is flushed when the queue is empty, without a timer.
//! While there is no connection, what was queued is dropped after each failed
//! attempt, so that a peer that comes back is not met with an hour of old
//! heartbeats.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt, BufWriter, ReadHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::backoff::{Backoff, jitter};
use super::dial::{PeerStream, Refuser};
use super::frame::{self, FrameError, FrameKind, PAYLOAD_BYTES_MAX};
use super::hello::{Goodbye, Printable, decode_goodbye};
use super::lines::Line;
use super::queue::{Letter, Peer};
use super::shared::Shared;
use super::tls::Service;
use crate::codec;

/// Bytes sent before pings and what comes back get their turn.
const TURN_BYTES: usize = 4 << 20;

/// Bytes gathered before a write; larger payloads are written as they are.
const WRITE_BUFFER_BYTES: usize = 64 << 10;

/// Why a standing connection ended.
#[derive(Debug, thiserror::Error)]
enum CallEnd {
    #[error("write to the peer")]
    Write(#[source] std::io::Error),
    #[error("read from the peer")]
    Read(#[source] FrameError),
    #[error("the peer took nothing for {0:?}")]
    Stalled(Duration),
    #[error("the peer was silent for {0:?}")]
    Silent(Duration),
    #[error("the peer said goodbye: {0}")]
    Goodbye(Goodbye),
    #[error("the peer sent an unexpected {0:?}")]
    Unexpected(FrameKind),
    #[error("disconnected by this node")]
    HungUp,
    #[error("the peer's process was succeeded by another")]
    Succeeded,
}

/// Calls `peer` until the transport or the peer's entry ends.
pub(super) async fn call(shared: Arc<Shared>, peer: Arc<Peer>) {
    let mut queue = peer.take_queue();
    tokio::select! {
        () = peer.stop.cancelled() => {}
        () = call_forever(&shared, &peer, &mut queue) => {}
    }
    peer.status().connected = false;
}

async fn call_forever(shared: &Arc<Shared>, peer: &Peer, queue: &mut mpsc::Receiver<Letter>) {
    let timing = &shared.options.timing;
    let mut backoff = Backoff::new(timing.backoff_min, timing.backoff_max);
    let mut refused_backoff = Backoff::new(timing.refused_min, timing.refused_max);
    loop {
        let mut is_lasting = false;
        match shared.dial(peer.id, Service::Raft).await {
            Ok((stream, hello)) => {
                tracing::debug!(peer = %peer.id, version = %Printable::new(&hello.version), "connected to peer");
                {
                    let mut status = peer.status();
                    status.connected = true;
                    status.last_error = None;
                }
                let started = Instant::now();
                let line = shared
                    .lines
                    .register(peer.id, hello.run, peer.stop.child_token());
                let end = converse(shared, peer, stream, queue, &line).await;
                tracing::debug!(peer = %peer.id, %end, "connection to peer ended");
                note_failure(peer, &end);
                if let CallEnd::Goodbye(goodbye) = &end {
                    is_lasting = goodbye.is_lasting();
                    shared.handler.refused(peer.id, goodbye, Refuser::Peer);
                }
                // A connection that never lasts is no success.
                if timing.backoff_max < started.elapsed() {
                    backoff.reset();
                    refused_backoff.reset();
                }
            }
            Err(error) => {
                tracing::debug!(peer = %peer.id, error = %chain(&error), "peer not reached");
                note_failure(peer, &error);
                if let Some((goodbye, refuser)) = error.goodbye() {
                    is_lasting = goodbye.is_lasting();
                    shared.handler.refused(peer.id, goodbye, refuser);
                }
            }
        }
        peer.drop_queued(queue);
        shared.handler.unreachable(peer.id);
        // Who was refused for good keeps asking, slowly: a membership may name
        // it one day, and whoever calls it wakes it.
        let pause = if is_lasting {
            refused_backoff.pause(jitter())
        } else {
            backoff.pause(jitter())
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = peer.wake.notified() => {}
        }
    }
}

fn note_failure(peer: &Peer, error: &(dyn std::error::Error + 'static)) {
    let mut status = peer.status();
    status.connected = false;
    status.last_error = Some(chain(error));
}

/// An error with its sources, on one line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Sends what is queued, and pings; returns when the connection has ended.
async fn converse(
    shared: &Shared,
    peer: &Peer,
    stream: PeerStream,
    queue: &mut mpsc::Receiver<Letter>,
    line: &Line,
) -> CallEnd {
    let timing = &shared.options.timing;
    let (read_half, write_half) = tokio::io::split(stream);
    let mut writer = BufWriter::with_capacity(WRITE_BUFFER_BYTES, write_half);
    let pulse = Pulse::default();
    let listening = listen(read_half, peer, &pulse, line);
    tokio::pin!(listening);
    let mut ticks = interval(timing.ping_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let written = tokio::select! {
            end = &mut listening => return end,
            () = peer.hang_up.notified() => return CallEnd::HungUp,
            () = line.cut.cancelled() => return CallEnd::Succeeded,
            Some(message) = queue.recv() => {
                send_queued(&mut writer, peer, message, queue, timing.liveness).await
            }
            _ = ticks.tick() => {
                if pulse.silence() > Some(timing.liveness) {
                    return CallEnd::Silent(timing.liveness);
                }
                pulse.ping_sent();
                send_ping(&mut writer, timing.liveness).await
            }
        };
        if let Err(end) = written {
            return end;
        }
    }
}

/// Writes `first` and what is queued behind it, then flushes once.
async fn send_queued<W: AsyncWrite + Unpin>(
    writer: &mut BufWriter<W>,
    peer: &Peer,
    first: Letter,
    queue: &mut mpsc::Receiver<Letter>,
    patience: Duration,
) -> Result<(), CallEnd> {
    let mut next = Some(first);
    let mut turn = 0;
    while let Some(message) = next {
        peer.taken(&message);
        let (kind, payload) = match &message {
            Letter::Core(message) => (FrameKind::Message, codec::encode(message)),
            Letter::Repair(message) => (FrameKind::Repair, codec::encode(message)),
        };
        drop(message);
        if payload.len() <= PAYLOAD_BYTES_MAX {
            let header = frame::header(kind, &payload);
            write_patiently(writer, &header, patience).await?;
            write_patiently(writer, &payload, patience).await?;
            peer.count_sent();
        } else {
            tracing::error!(peer = %peer.id, bytes = payload.len(), "message too large, dropped");
            peer.count_dropped();
        }
        turn += payload.len();
        next = if turn < TURN_BYTES {
            queue.try_recv().ok()
        } else {
            None
        };
    }
    flush_patiently(writer, patience).await
}

async fn send_ping<W: AsyncWrite + Unpin>(
    writer: &mut BufWriter<W>,
    patience: Duration,
) -> Result<(), CallEnd> {
    write_patiently(writer, &frame::header(FrameKind::Ping, &[]), patience).await?;
    flush_patiently(writer, patience).await
}

/// Fails when the peer takes nothing for `patience`; slow is fine.
async fn write_patiently<W: AsyncWrite + Unpin>(
    writer: &mut BufWriter<W>,
    bytes: &[u8],
    patience: Duration,
) -> Result<(), CallEnd> {
    for piece in bytes.chunks(WRITE_BUFFER_BYTES) {
        timeout(patience, writer.write_all(piece))
            .await
            .map_err(|_| CallEnd::Stalled(patience))?
            .map_err(CallEnd::Write)?;
    }
    Ok(())
}

async fn flush_patiently<W: AsyncWrite + Unpin>(
    writer: &mut BufWriter<W>,
    patience: Duration,
) -> Result<(), CallEnd> {
    timeout(patience, writer.flush())
        .await
        .map_err(|_| CallEnd::Stalled(patience))?
        .map_err(CallEnd::Write)
}

/// Whether the peer answers pings.
#[derive(Default)]
struct Pulse {
    /// When the oldest ping that is still unanswered was sent.
    unanswered_since: Mutex<Option<Instant>>,
}

impl Pulse {
    fn unanswered(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.unanswered_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn ping_sent(&self) {
        self.unanswered().get_or_insert_with(Instant::now);
    }

    fn pong_received(&self) -> Option<Duration> {
        self.unanswered().take().map(|since| since.elapsed())
    }

    fn silence(&self) -> Option<Duration> {
        self.unanswered().map(|since| since.elapsed())
    }
}

/// Reads the few frames that come back on an outgoing connection.
async fn listen(
    mut stream: ReadHalf<PeerStream>,
    peer: &Peer,
    pulse: &Pulse,
    line: &Line,
) -> CallEnd {
    loop {
        let frame = frame::read(&mut stream, super::hello::GREETING_BYTES_MAX).await;
        line.heard();
        match frame {
            Ok(frame) => match frame.kind {
                FrameKind::Pong => peer.status().round_trip = pulse.pong_received(),
                FrameKind::Goodbye => return CallEnd::Goodbye(decode_goodbye(&frame.payload)),
                other => return CallEnd::Unexpected(other),
            },
            Err(error) => return CallEnd::Read(error),
        }
    }
}
