//! The sending end of a snapshot stream.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::backoff::{Backoff, jitter};
use super::dial::{DialError, PeerStream};
use super::frame::{self, Frame, FrameError, FrameKind};
use super::hello::{GREETING_BYTES_MAX, Goodbye, decode_goodbye};
use super::shared::Shared;
use super::snapshot::{
    CHUNK_BYTES, CHUNKS_IN_FLIGHT, SnapshotOffer, SnapshotSource, SourceError, decode_offset,
    encode_chunk,
};
use super::tls::Service;
use super::transport::SnapshotProgress;
use crate::codec;
use crate::types::NodeId;

/// How long to listen for a goodbye after a failed write.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Attempts in a row that move the stream no further, at most.
const FRUITLESS_ATTEMPTS_MAX: u32 = 4;

/// A snapshot that was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotSendError {
    /// The peer could not be reached.
    #[error("send snapshot to {peer}")]
    Dial {
        /// To whom.
        peer: NodeId,
        /// Why.
        #[source]
        source: DialError,
    },
    /// The peer does not want it, or could not stage it.
    #[error("send snapshot to {peer}: the peer refused: {goodbye}")]
    Refused {
        /// To whom.
        peer: NodeId,
        /// Why.
        goodbye: Goodbye,
    },
    /// The peer has taken all of it, and says that it is not what was offered.
    #[error("send snapshot to {peer}: the peer had all of it: {goodbye}")]
    NotStaged {
        /// To whom.
        peer: NodeId,
        /// Why.
        goodbye: Goodbye,
    },
    /// The connection failed.
    #[error("send snapshot to {peer}, {sent} of {bytes} bytes sent")]
    Cut {
        /// To whom.
        peer: NodeId,
        /// Up to which offset.
        sent: u64,
        /// Length of the snapshot.
        bytes: u64,
        /// Why.
        #[source]
        source: FrameError,
    },
    /// The peer neither took nor said anything.
    #[error(
        "send snapshot to {peer}, {sent} of {bytes} bytes sent: no progress within {patience:?}"
    )]
    Stalled {
        /// To whom.
        peer: NodeId,
        /// Up to which offset.
        sent: u64,
        /// Length of the snapshot.
        bytes: u64,
        /// How long it was waited for.
        patience: Duration,
    },
    /// The peer broke the protocol.
    #[error("send snapshot to {peer}: unexpected {found} from the peer")]
    Protocol {
        /// To whom.
        peer: NodeId,
        /// What came.
        found: String,
    },
    /// The file cannot be read.
    #[error("read snapshot at byte {offset}")]
    Source {
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: SourceError,
    },
}

impl SnapshotSendError {
    /// Whether another attempt may succeed.
    fn is_worth_retrying(&self) -> bool {
        matches!(
            self,
            Self::Dial { .. } | Self::Cut { .. } | Self::Stalled { .. }
        )
    }

    /// Whether the file that was sent may be the reason.
    #[must_use]
    pub fn casts_doubt_on_the_file(&self) -> bool {
        matches!(self, Self::NotStaged { .. } | Self::Source { .. })
    }

    /// A refusal by a peer that holds the whole is another than one of a part.
    fn of_whole(self, is_whole: bool) -> Self {
        match self {
            Self::Refused {
                peer,
                goodbye: goodbye @ Goodbye::SnapshotFailed { .. },
            } if is_whole => Self::NotStaged { peer, goodbye },
            other => other,
        }
    }
}

/// Sends until staged; resumes after a cut while the stream gets further.
pub(super) async fn send(
    shared: &Shared,
    peer: NodeId,
    source: Arc<dyn SnapshotSource>,
) -> Result<(), SnapshotSendError> {
    let outcome = send_resuming(shared, peer, &source).await;
    shared.note_snapshot(peer, None);
    outcome
}

async fn send_resuming(
    shared: &Shared,
    peer: NodeId,
    source: &Arc<dyn SnapshotSource>,
) -> Result<(), SnapshotSendError> {
    let timing = &shared.options.timing;
    let mut backoff = Backoff::new(timing.backoff_min, timing.backoff_max);
    let mut furthest = 0;
    let mut fruitless = 0;
    loop {
        let mut reached = 0;
        let error = match attempt(shared, peer, source, &mut reached).await {
            Ok(()) => return Ok(()),
            Err(error) => error.of_whole(reached == source.offer().bytes),
        };
        if furthest < reached {
            furthest = reached;
            fruitless = 0;
            backoff.reset();
        } else {
            fruitless += 1;
        }
        if !error.is_worth_retrying() || FRUITLESS_ATTEMPTS_MAX <= fruitless {
            return Err(error);
        }
        tracing::debug!(%peer, %error, "snapshot stream was cut, resuming");
        sleep(backoff.pause(jitter())).await;
    }
}

/// One connection; `reached` is the offset the peer is known to hold.
async fn attempt(
    shared: &Shared,
    peer: NodeId,
    source: &Arc<dyn SnapshotSource>,
    reached: &mut u64,
) -> Result<(), SnapshotSendError> {
    let (stream, _) = shared
        .dial(peer, Service::Snapshot)
        .await
        .map_err(|source| match source.goodbye() {
            Some((goodbye, _)) => SnapshotSendError::Refused {
                peer,
                goodbye: goodbye.clone(),
            },
            None => SnapshotSendError::Dial { peer, source },
        })?;
    let offer = source.offer();
    let (reader, writer) = tokio::io::split(stream);
    let mut outgoing = Outgoing {
        peer,
        writer,
        sent: 0,
        bytes: offer.bytes,
        patience: shared.options.timing.snapshot_patience,
    };
    let mut incoming = Incoming {
        peer,
        reader,
        bytes: offer.bytes,
        patience: shared.options.timing.snapshot_patience,
    };
    outgoing
        .write(FrameKind::SnapshotOffer, &codec::encode(&offer))
        .await?;
    let wanted = incoming.wanted(&offer).await?;
    *reached = wanted;
    outgoing.sent = wanted;
    let chunks = read_ahead(shared, source, &offer, wanted);
    let rate = shared.options.snapshot_bytes_per_second;
    let note = |held| {
        let bytes = offer.bytes;
        shared.note_snapshot(peer, Some(SnapshotProgress { held, bytes }));
    };
    note(wanted);
    let staged = incoming.staged(reached, note);
    tokio::pin!(staged);
    let cut = tokio::select! {
        outcome = &mut staged => return outcome,
        cut = outgoing.stream(chunks, rate) => cut,
    };
    match cut {
        Ok(()) => staged.await,
        // A peer that gives up says why before it closes.
        Err(cut) => match timeout(LAST_WORDS, staged).await {
            Ok(Err(refused @ SnapshotSendError::Refused { .. })) => Err(refused),
            _ => Err(cut),
        },
    }
}

struct Outgoing {
    peer: NodeId,
    writer: WriteHalf<PeerStream>,
    sent: u64,
    bytes: u64,
    patience: Duration,
}

impl Outgoing {
    async fn write(&mut self, kind: FrameKind, payload: &[u8]) -> Result<(), SnapshotSendError> {
        let frame = frame::encode(kind, payload);
        let writing = async {
            self.writer.write_all(&frame).await?;
            self.writer.flush().await
        };
        match timeout(self.patience, writing).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(SnapshotSendError::Cut {
                peer: self.peer,
                sent: self.sent,
                bytes: self.bytes,
                source: FrameError::Io(error),
            }),
            Err(_) => Err(SnapshotSendError::Stalled {
                peer: self.peer,
                sent: self.sent,
                bytes: self.bytes,
                patience: self.patience,
            }),
        }
    }

    async fn stream(
        &mut self,
        mut chunks: mpsc::Receiver<Result<Vec<u8>, SnapshotSendError>>,
        bytes_per_second: Option<u64>,
    ) -> Result<(), SnapshotSendError> {
        let (started, from) = (Instant::now(), self.sent);
        while let Some(chunk) = chunks.recv().await {
            let payload = chunk?;
            self.write(FrameKind::SnapshotChunk, &payload).await?;
            self.sent += (payload.len() - 8) as u64;
            if let Some(rate) = bytes_per_second {
                let due = (self.sent - from) as f64 / rate.max(1) as f64;
                sleep_until(started + Duration::from_secs_f64(due)).await;
            }
        }
        self.write(FrameKind::SnapshotEnd, &[]).await
    }
}

struct Incoming {
    peer: NodeId,
    reader: ReadHalf<PeerStream>,
    bytes: u64,
    patience: Duration,
}

impl Incoming {
    async fn read(&mut self, reached: u64) -> Result<Frame, SnapshotSendError> {
        match timeout(
            self.patience,
            frame::read(&mut self.reader, GREETING_BYTES_MAX),
        )
        .await
        {
            Ok(Ok(frame)) if frame.kind == FrameKind::Goodbye => Err(SnapshotSendError::Refused {
                peer: self.peer,
                goodbye: decode_goodbye(&frame.payload),
            }),
            Ok(Ok(frame)) => Ok(frame),
            Ok(Err(source)) => Err(SnapshotSendError::Cut {
                peer: self.peer,
                sent: reached,
                bytes: self.bytes,
                source,
            }),
            Err(_) => Err(SnapshotSendError::Stalled {
                peer: self.peer,
                sent: reached,
                bytes: self.bytes,
                patience: self.patience,
            }),
        }
    }

    fn protocol(&self, found: &Frame) -> SnapshotSendError {
        SnapshotSendError::Protocol {
            peer: self.peer,
            found: format!("{:?} of {} bytes", found.kind, found.payload.len()),
        }
    }

    /// The offset from which the peer wants it.
    async fn wanted(&mut self, offer: &SnapshotOffer) -> Result<u64, SnapshotSendError> {
        let frame = self.read(0).await?;
        let offset = decode_offset(&frame.payload)
            .filter(|offset| frame.kind == FrameKind::SnapshotWanted && *offset <= offer.bytes);
        offset.ok_or_else(|| self.protocol(&frame))
    }

    /// Follows the peer's progress until it has staged the snapshot.
    async fn staged(
        &mut self,
        reached: &mut u64,
        note: impl Fn(u64),
    ) -> Result<(), SnapshotSendError> {
        loop {
            let frame = self.read(*reached).await?;
            match (frame.kind, decode_offset(&frame.payload)) {
                (FrameKind::SnapshotStaged, _) => return Ok(()),
                (FrameKind::SnapshotProgress, Some(offset)) => {
                    *reached = (*reached).max(offset);
                    note(*reached);
                }
                _ => return Err(self.protocol(&frame)),
            }
        }
    }
}

/// Reads the file on a blocking thread, a few chunks ahead of the network.
fn read_ahead(
    shared: &Shared,
    source: &Arc<dyn SnapshotSource>,
    offer: &SnapshotOffer,
    from: u64,
) -> mpsc::Receiver<Result<Vec<u8>, SnapshotSendError>> {
    let (sender, receiver) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let (source, end) = (Arc::clone(source), offer.bytes);
    shared.tasks.spawn_blocking(move || {
        let mut offset = from;
        while offset < end {
            let length = usize::try_from(end - offset).map_or(CHUNK_BYTES, |l| l.min(CHUNK_BYTES));
            let mut bytes = vec![0; length];
            let chunk = source
                .read(offset, &mut bytes)
                .map(|()| encode_chunk(offset, &bytes))
                .map_err(|source| SnapshotSendError::Source { offset, source });
            let failed = chunk.is_err();
            if sender.blocking_send(chunk).is_err() || failed {
                return;
            }
            offset += length as u64;
        }
    });
    receiver
}
