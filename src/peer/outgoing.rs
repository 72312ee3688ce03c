//! Calling one peer and keeping it called: a bounded queue, one connection,
//! pauses between attempts.
//!
//! Nothing here waits for the caller of `send` or makes it wait: a full queue
//! drops the message and counts it, as the network might have. While there is
//! no connection, what was queued is dropped after each failed attempt, so
//! that a peer that comes back is not met with an hour of old heartbeats.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt, BufWriter, ReadHalf};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::backoff::{Backoff, jitter};
use super::dial::PeerStream;
use super::frame::{self, FrameError, FrameKind, PAYLOAD_BYTES_MAX};
use super::hello::{Goodbye, decode_goodbye};
use super::shared::Shared;
use super::tls::Service;
use super::transport::{PeerState, TransportOptions};
use crate::codec;
use crate::raft::message::Message;
use crate::types::NodeId;

/// Bytes gathered before a write; larger payloads are written as they are.
const WRITE_BUFFER_BYTES: usize = 64 << 10;

/// A peer to be called.
pub(super) struct Peer {
    pub(super) id: NodeId,
    pub(super) stop: CancellationToken,
    sender: mpsc::Sender<Message>,
    receiver: Mutex<Option<mpsc::Receiver<Message>>>,
    queued_bytes: AtomicUsize,
    queue_bytes_max: usize,
    wake: Notify,
    hang_up: Notify,
    counts: Counts,
    status: Mutex<CallStatus>,
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Clone, Default)]
struct CallStatus {
    connected: bool,
    round_trip: Option<Duration>,
    last_error: Option<String>,
}

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
}

impl Peer {
    pub(super) fn new(
        id: NodeId,
        options: &TransportOptions,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let (sender, receiver) = mpsc::channel(options.queue_messages_max);
        Arc::new(Self {
            id,
            stop,
            sender,
            receiver: Mutex::new(Some(receiver)),
            queued_bytes: AtomicUsize::new(0),
            queue_bytes_max: options.queue_bytes_max,
            wake: Notify::new(),
            hang_up: Notify::new(),
            counts: Counts::default(),
            status: Mutex::default(),
        })
    }

    /// Queues a message, or drops and counts it. Never waits.
    pub(super) fn push(&self, message: Message) {
        let bytes = message_bytes(&message);
        let before = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = before == 0 || before + bytes <= self.queue_bytes_max;
        if !fits || self.sender.try_send(message).is_err() {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The peer was heard of: call it now rather than after the pause.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Ends the connection, if there is one; it will be made anew.
    pub(super) fn disconnect(&self) {
        self.hang_up.notify_waiters();
    }

    pub(super) fn state(&self) -> PeerState {
        let status = self.status().clone();
        PeerState {
            connected: status.connected,
            round_trip: status.round_trip,
            last_error: status.last_error,
            messages_sent: self.counts.sent.load(Ordering::Relaxed),
            messages_dropped: self.counts.dropped.load(Ordering::Relaxed),
            queued_bytes: self.queued_bytes.load(Ordering::Relaxed),
        }
    }

    fn status(&self) -> std::sync::MutexGuard<'_, CallStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn taken(&self, message: &Message) {
        self.queued_bytes
            .fetch_sub(message_bytes(message), Ordering::Relaxed);
    }

    fn drop_queued(&self, queue: &mut mpsc::Receiver<Message>) {
        while let Ok(message) = queue.try_recv() {
            self.taken(&message);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Approximate size of a message, for the queue's bound.
fn message_bytes(message: &Message) -> usize {
    const OVERHEAD: usize = 64;
    OVERHEAD
        + match message {
            Message::AppendEntries { entries, .. } => entries.iter().map(|e| e.size()).sum(),
            Message::InstallSnapshot { meta, .. } => meta.membership.size(),
            _ => 0,
        }
}

/// Calls `peer` until the transport or the peer's entry ends.
pub(super) async fn call(shared: Arc<Shared>, peer: Arc<Peer>) {
    let queue = peer
        .receiver
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    let mut queue = queue.expect("one caller a peer");
    tokio::select! {
        () = peer.stop.cancelled() => {}
        () = call_forever(&shared, &peer, &mut queue) => {}
    }
    peer.status().connected = false;
}

async fn call_forever(shared: &Arc<Shared>, peer: &Peer, queue: &mut mpsc::Receiver<Message>) {
    let timing = &shared.options.timing;
    let mut backoff = Backoff::new(timing.backoff_min, timing.backoff_max);
    loop {
        match shared.dial(peer.id, Service::Raft).await {
            Ok((stream, hello)) => {
                tracing::debug!(peer = %peer.id, version = %hello.version, "connected to peer");
                {
                    let mut status = peer.status();
                    status.connected = true;
                    status.last_error = None;
                }
                let started = Instant::now();
                let end = converse(shared, peer, stream, queue).await;
                tracing::debug!(peer = %peer.id, %end, "connection to peer ended");
                note_failure(peer, &end);
                if let CallEnd::Goodbye(goodbye) = &end {
                    shared.handler.refused(peer.id, goodbye);
                }
                // A connection that never lasts is no success.
                if timing.backoff_max < started.elapsed() {
                    backoff.reset();
                }
            }
            Err(error) => {
                tracing::debug!(peer = %peer.id, error = %chain(&error), "peer not reached");
                note_failure(peer, &error);
                if let Some(goodbye) = error.goodbye() {
                    shared.handler.refused(peer.id, goodbye);
                }
            }
        }
        peer.drop_queued(queue);
        shared.handler.unreachable(peer.id);
        tokio::select! {
            () = sleep(backoff.pause(jitter())) => {}
            () = peer.wake.notified() => {}
        }
        peer.drop_queued(queue);
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
    queue: &mut mpsc::Receiver<Message>,
) -> CallEnd {
    let timing = &shared.options.timing;
    let (read_half, write_half) = tokio::io::split(stream);
    let mut writer = BufWriter::with_capacity(WRITE_BUFFER_BYTES, write_half);
    let pulse = Pulse::default();
    let listening = listen(read_half, peer, &pulse);
    tokio::pin!(listening);
    let mut ticks = interval(timing.ping_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let written = tokio::select! {
            end = &mut listening => return end,
            () = peer.hang_up.notified() => return CallEnd::HungUp,
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

/// Writes `first` and everything queued behind it, then flushes once.
async fn send_queued<W: AsyncWrite + Unpin>(
    writer: &mut BufWriter<W>,
    peer: &Peer,
    first: Message,
    queue: &mut mpsc::Receiver<Message>,
    patience: Duration,
) -> Result<(), CallEnd> {
    let mut next = Some(first);
    while let Some(message) = next {
        peer.taken(&message);
        let payload = codec::encode(&message);
        drop(message);
        if payload.len() <= PAYLOAD_BYTES_MAX {
            let header = frame::header(FrameKind::Message, &payload);
            write_patiently(writer, &header, patience).await?;
            write_patiently(writer, &payload, patience).await?;
            peer.counts.sent.fetch_add(1, Ordering::Relaxed);
        } else {
            tracing::error!(peer = %peer.id, bytes = payload.len(), "message too large, dropped");
            peer.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
        next = queue.try_recv().ok();
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
async fn listen(mut stream: ReadHalf<PeerStream>, peer: &Peer, pulse: &Pulse) -> CallEnd {
    loop {
        match frame::read(&mut stream, super::hello::GREETING_BYTES_MAX).await {
            Ok(frame) => match frame.kind {
                FrameKind::Pong => peer.status().round_trip = pulse.pong_received(),
                FrameKind::Goodbye => return CallEnd::Goodbye(decode_goodbye(&frame.payload)),
                other => return CallEnd::Unexpected(other),
            },
            Err(error) => return CallEnd::Read(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::types::{Entry, EntryPayload, LogIndex, Term};

    fn heartbeat() -> Message {
        Message::HeartbeatResponse {
            term: Term(1),
            read_context: 0,
        }
    }

    fn append(bytes: usize) -> Message {
        let entry = Entry {
            index: LogIndex(1),
            term: Term(1),
            payload: EntryPayload::Command(Arc::from(vec![0; bytes])),
        };
        Message::AppendEntries {
            term: Term(1),
            prev_index: LogIndex(0),
            prev_term: Term(0),
            entries: vec![entry],
            commit_index: LogIndex(0),
            read_context: 0,
        }
    }

    fn peer(messages: usize, bytes: usize) -> Arc<Peer> {
        let options = TransportOptions {
            queue_messages_max: messages,
            queue_bytes_max: bytes,
            ..TransportOptions::new("127.0.0.1:0".parse().expect("address"))
        };
        Peer::new(NodeId(2), &options, CancellationToken::new())
    }

    #[test]
    fn queue_full_by_count_drops_and_counts() {
        let peer = peer(3, 1 << 20);
        for _ in 0..10 {
            peer.push(heartbeat());
        }
        assert_eq!(peer.state().messages_dropped, 7);
        assert_eq!(peer.state().queued_bytes, 3 * message_bytes(&heartbeat()));
    }

    #[test]
    fn queue_full_by_bytes_drops_and_counts() {
        let peer = peer(100, 2500);
        for _ in 0..10 {
            peer.push(append(1000));
        }
        assert_eq!(peer.state().messages_dropped, 8);
        let mut queue = peer.receiver.lock().expect("lock").take().expect("queue");
        peer.drop_queued(&mut queue);
        assert_eq!(peer.state().queued_bytes, 0);
        assert_eq!(peer.state().messages_dropped, 10);
    }

    #[test]
    fn message_beyond_the_limit_fits_into_an_empty_queue() {
        let peer = peer(100, 2500);
        peer.push(append(10_000));
        assert_eq!(peer.state().messages_dropped, 0);
        peer.push(heartbeat());
        assert_eq!(peer.state().messages_dropped, 1);
    }
}
