//! The receiving end of a snapshot stream. One at a time: a newer stream makes
//! the older one give way, for the older one is of a leader that is no more or
//! of a connection that is dead and does not know it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::dial::PeerStream;
use super::frame::{self, FrameError, FrameKind};
use super::hello::{Goodbye, Hello, send, send_goodbye};
use super::shared::Shared;
use super::snapshot::{
    CHUNK_BYTES, CHUNKS_IN_FLIGHT, OFFER_BYTES_MAX, SinkError, SnapshotOffer, SnapshotSink,
    decode_chunk,
};
use crate::codec;

/// How often the sender hears of this side.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// How long a goodbye may take to be heard.
const PARTING: Duration = Duration::from_secs(2);

/// Serves one inbound stream to its end.
pub(super) async fn receive(shared: &Arc<Shared>, stream: PeerStream, hello: &Hello) {
    let stop = take_over(shared);
    let (mut reader, mut writer) = tokio::io::split(stream);
    let outcome = tokio::select! {
        () = stop.cancelled() => Err(StreamEnd::Said(Goodbye::Superseded)),
        outcome = exchange(shared, &mut reader, &mut writer, hello) => outcome,
    };
    match outcome {
        Ok(()) => tracing::info!(peer = %hello.node, "snapshot received and staged"),
        Err(StreamEnd::Said(goodbye)) => {
            tracing::info!(peer = %hello.node, %goodbye, "snapshot not received");
            let parting = async {
                send_goodbye(&mut writer, &goodbye).await;
                drain(&mut reader).await;
            };
            let _ = timeout(PARTING, parting).await;
        }
        Err(StreamEnd::Lost(error)) => {
            tracing::info!(peer = %hello.node, %error, "snapshot stream was cut");
        }
    }
}

/// Reads what is still on its way: closing a connection with unread bytes in
/// it resets it, and the goodbye would be lost.
async fn drain(reader: &mut ReadHalf<PeerStream>) {
    let mut discarded = vec![0; 64 << 10];
    while matches!(reader.read(&mut discarded).await, Ok(read) if read != 0) {}
}

/// Why a stream ended without a staged snapshot.
enum StreamEnd {
    /// With this reason, to be told to the sender.
    Said(Goodbye),
    /// The connection is gone.
    Lost(FrameError),
}

fn failed(error: SinkError) -> StreamEnd {
    StreamEnd::Said(Goodbye::SnapshotFailed { reason: error.0 })
}

fn protocol(reason: &str) -> StreamEnd {
    StreamEnd::Said(Goodbye::Protocol {
        reason: reason.to_owned(),
    })
}

/// Asks the stream in progress, if any, to give way.
fn take_over(shared: &Shared) -> CancellationToken {
    let mut current = shared
        .inbound_snapshot
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    current.cancel();
    *current = shared.stop.child_token();
    current.clone()
}

async fn exchange(
    shared: &Arc<Shared>,
    reader: &mut ReadHalf<PeerStream>,
    writer: &mut WriteHalf<PeerStream>,
    hello: &Hello,
) -> Result<(), StreamEnd> {
    let patience = shared.options.timing.snapshot_patience;
    let offer = read_offer(reader, patience).await?;
    let mut staging = open_sink(shared, hello, &offer, patience).await?;
    let wanted = staging.held();
    let answer = wanted.to_le_bytes();
    tell(writer, FrameKind::SnapshotWanted, &answer, patience).await?;

    let progress = Arc::clone(&staging.progress);
    let taking = async {
        take_chunks(reader, &mut staging, wanted, offer.bytes, patience).await?;
        staging.finish().await
    };
    tokio::pin!(taking);
    let mut ticks = interval(PROGRESS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let outcome = loop {
        tokio::select! {
            outcome = &mut taking => break outcome,
            _ = ticks.tick() => {
                let held = progress.load(Ordering::Relaxed).to_le_bytes();
                tell(writer, FrameKind::SnapshotProgress, &held, patience).await?;
            }
        }
    };
    if outcome.is_err() {
        // Whether it was the whole that is refused.
        let held = progress.load(Ordering::Relaxed).to_le_bytes();
        tell(writer, FrameKind::SnapshotProgress, &held, patience).await?;
    }
    outcome?;
    tell(writer, FrameKind::SnapshotStaged, &[], patience).await
}

async fn tell(
    writer: &mut WriteHalf<PeerStream>,
    kind: FrameKind,
    payload: &[u8],
    patience: Duration,
) -> Result<(), StreamEnd> {
    match timeout(patience, send(writer, kind, payload)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(StreamEnd::Lost(FrameError::Io(error))),
        Err(_) => Err(StreamEnd::Lost(FrameError::Closed)),
    }
}

async fn read_offer(
    reader: &mut ReadHalf<PeerStream>,
    patience: Duration,
) -> Result<SnapshotOffer, StreamEnd> {
    let frame = timeout(patience, frame::read(reader, OFFER_BYTES_MAX))
        .await
        .map_err(|_| protocol("no snapshot was offered"))?
        .map_err(StreamEnd::Lost)?;
    if frame.kind != FrameKind::SnapshotOffer {
        return Err(protocol("expected an offer of a snapshot"));
    }
    codec::decode("snapshot offer", &frame.payload).map_err(|error| protocol(&error.to_string()))
}

/// Opens the sink on its own blocking thread, once the former stream has let
/// go of its own.
async fn open_sink(
    shared: &Arc<Shared>,
    hello: &Hello,
    offer: &SnapshotOffer,
    patience: Duration,
) -> Result<Staging, StreamEnd> {
    let slot = Arc::clone(&shared.snapshot_slot).acquire_owned();
    let slot = timeout(patience, slot)
        .await
        .ok()
        .and_then(Result::ok)
        .ok_or_else(|| {
            failed(SinkError(
                "another snapshot is still being written".to_owned(),
            ))
        })?;
    let (opened_sender, opened) = oneshot::channel();
    let (finished_sender, finished) = oneshot::channel();
    let (chunks, queue) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let progress = Arc::new(AtomicU64::new(0));
    let (shared, from, offer) = (Arc::clone(shared), hello.node, offer.clone());
    let written = Arc::clone(&progress);
    let tasks = shared.tasks.clone();
    tasks.spawn_blocking(move || {
        let _slot = slot;
        match shared.handler.snapshot(from, &offer) {
            Ok(sink) if sink.held() <= offer.bytes => {
                written.store(sink.held(), Ordering::Relaxed);
                if opened_sender.send(Ok(())).is_ok() {
                    let outcome = write_chunks(sink, queue, &written);
                    let _ = finished_sender.send(outcome);
                }
            }
            Ok(_) => {
                let error = SinkError("more is held than was offered".to_owned());
                let _ = opened_sender.send(Err(error));
            }
            Err(error) => {
                let _ = opened_sender.send(Err(error));
            }
        }
    });
    match opened.await {
        Ok(Ok(())) => Ok(Staging {
            chunks: Some(chunks),
            finished,
            progress,
        }),
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => Err(failed(thread_died())),
    }
}

fn thread_died() -> SinkError {
    SinkError("the thread that writes the snapshot died".to_owned())
}

/// The asynchronous end of a sink that lives on a blocking thread.
struct Staging {
    /// Closed to say that no more will come.
    chunks: Option<mpsc::Sender<Piece>>,
    finished: oneshot::Receiver<Result<(), SinkError>>,
    progress: Arc<AtomicU64>,
}

enum Piece {
    Chunk(Vec<u8>),
    End,
}

impl Staging {
    fn held(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// Hands a piece over; the error is what the sink said if it has failed.
    async fn push(&mut self, piece: Piece) -> Result<(), StreamEnd> {
        let chunks = self.chunks.as_ref();
        let chunks = chunks.expect("pieces are pushed only before the end");
        if chunks.send(piece).await.is_ok() {
            return Ok(());
        }
        match (&mut self.finished).await {
            Ok(Err(error)) => Err(failed(error)),
            Ok(Ok(())) | Err(_) => Err(failed(thread_died())),
        }
    }

    /// All chunks were pushed: waits until the sink has verified and staged.
    async fn finish(&mut self) -> Result<(), StreamEnd> {
        self.push(Piece::End).await?;
        self.chunks = None;
        match (&mut self.finished).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(failed(thread_died())),
        }
    }
}

/// Runs on a blocking thread until the end, an error, or the stream's cut.
fn write_chunks(
    mut sink: Box<dyn SnapshotSink>,
    mut queue: mpsc::Receiver<Piece>,
    progress: &AtomicU64,
) -> Result<(), SinkError> {
    while let Some(piece) = queue.blocking_recv() {
        match piece {
            Piece::Chunk(payload) => {
                let (offset, bytes) = decode_chunk(&payload)
                    .ok_or_else(|| SinkError("a chunk without an offset".to_owned()))?;
                sink.append(offset, bytes)?;
                progress.store(offset + bytes.len() as u64, Ordering::Relaxed);
            }
            Piece::End => return sink.finish(),
        }
    }
    Err(SinkError("the stream was cut".to_owned()))
}

/// Reads chunks in order up to the end; anything else is an error.
async fn take_chunks(
    reader: &mut ReadHalf<PeerStream>,
    staging: &mut Staging,
    from: u64,
    bytes: u64,
    patience: Duration,
) -> Result<(), StreamEnd> {
    let mut expected = from;
    loop {
        let frame = timeout(patience, frame::read(reader, 8 + CHUNK_BYTES))
            .await
            .map_err(|_| StreamEnd::Lost(FrameError::Closed))?
            .map_err(StreamEnd::Lost)?;
        match frame.kind {
            FrameKind::SnapshotChunk => {
                let (offset, length) = decode_chunk(&frame.payload)
                    .map(|(offset, bytes)| (offset, bytes.len() as u64))
                    .ok_or_else(|| protocol("a chunk without an offset"))?;
                if offset != expected || length == 0 || bytes - expected < length {
                    return Err(protocol("a chunk that does not follow the last"));
                }
                expected += length;
                staging.push(Piece::Chunk(frame.payload)).await?;
            }
            FrameKind::SnapshotEnd if expected == bytes => return Ok(()),
            FrameKind::SnapshotEnd => return Err(protocol("the end came early")),
            _ => return Err(protocol("expected a chunk of the snapshot")),
        }
    }
}
