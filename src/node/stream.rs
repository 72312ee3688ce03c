//! Snapshot files on their way to a peer and from one, between the transport
//! and the snapshot folder. Everything here runs on blocking threads.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::peer::{
    SinkError, SnapshotId, SnapshotOffer, SnapshotSink, SnapshotSource, SourceError,
};
use crate::snapshot::{SnapshotBytes, SnapshotDirectory, SnapshotInfo, SnapshotReceiver};
use crate::types::SnapshotMeta;

use super::snapshots::Snapshots;
use super::wal_thread::chain;

/// A snapshot being sent; opened at the first read, and readable from then on
/// even when it is pruned.
pub(super) struct Outgoing {
    directory: SnapshotDirectory,
    info: SnapshotInfo,
    opened: Mutex<Option<SnapshotBytes>>,
}

impl Outgoing {
    pub fn new(directory: SnapshotDirectory, info: SnapshotInfo) -> Self {
        Self {
            directory,
            info,
            opened: Mutex::new(None),
        }
    }
}

impl SnapshotSource for Outgoing {
    fn offer(&self) -> SnapshotOffer {
        SnapshotOffer {
            id: SnapshotId {
                index: self.info.meta.index,
                term: self.info.meta.term,
                sha256: self.info.sha256,
            },
            bytes: self.info.bytes,
            meta: self.info.meta.clone(),
        }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        let failed = |error: &dyn std::error::Error| SourceError(chain(error));
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if opened.is_none() {
            let bytes = self.directory.bytes(&self.info);
            *opened = Some(bytes.map_err(|error| failed(&error))?);
        }
        let Some(bytes) = opened.as_ref() else {
            return Err(SourceError("the snapshot is not open".into()));
        };
        let read = bytes
            .read(offset, buffer.len())
            .map_err(|error| failed(&error))?;
        if read.len() != buffer.len() {
            return Err(SourceError(format!(
                "snapshot ends at {}, {} bytes wanted from {offset}",
                self.info.bytes,
                buffer.len()
            )));
        }
        buffer.copy_from_slice(&read);
        Ok(())
    }
}

/// What was received of a snapshot whose stream was cut: kept for the next
/// stream of the same snapshot, from whichever leader.
#[derive(Clone, Default)]
pub(super) struct Incoming(Arc<Mutex<Option<(SnapshotId, SnapshotReceiver)>>>);

impl Incoming {
    /// A sink for what is offered, perhaps already holding part of it.
    ///
    /// # Errors
    /// The disk failed.
    pub fn begin(
        &self,
        snapshots: &Arc<Snapshots>,
        offer: &SnapshotOffer,
    ) -> Result<Box<dyn SnapshotSink>, SinkError> {
        let kept = self.slot().take();
        let receiver = match kept {
            Some((id, receiver)) if id == offer.id && receiver.expected_bytes() == offer.bytes => {
                receiver
            }
            // Dropping another one removes its file.
            _ => snapshots
                .directory()
                .receiver(offer.bytes)
                .map_err(|error| SinkError(chain(&error)))?,
        };
        Ok(Box::new(Sink {
            id: offer.id,
            meta: offer.meta.clone(),
            receiver: Some(receiver),
            incoming: self.clone(),
            snapshots: Arc::clone(snapshots),
        }))
    }

    fn slot(&self) -> MutexGuard<'_, Option<(SnapshotId, SnapshotReceiver)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A snapshot being received.
struct Sink {
    id: SnapshotId,
    meta: SnapshotMeta,
    /// `None` once it is finished or of no use.
    receiver: Option<SnapshotReceiver>,
    incoming: Incoming,
    snapshots: Arc<Snapshots>,
}

impl SnapshotSink for Sink {
    fn held(&self) -> u64 {
        self.receiver.as_ref().map_or(0, SnapshotReceiver::offset)
    }

    fn append(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SinkError> {
        let Some(receiver) = &mut self.receiver else {
            return Err(SinkError("an earlier write failed".into()));
        };
        let appended = receiver.append(offset, bytes);
        if let Err(error) = appended {
            self.receiver = None;
            return Err(SinkError(chain(&error)));
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), SinkError> {
        let Some(receiver) = self.receiver.take() else {
            return Err(SinkError("an earlier write failed".into()));
        };
        let staged = receiver
            .finish(&self.id.sha256)
            .map_err(|error| SinkError(chain(&error)))?;
        if staged.info().meta != self.meta {
            return Err(SinkError(
                "the snapshot covers something else than was offered".into(),
            ));
        }
        self.snapshots.stage(staged);
        Ok(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(receiver) = self.receiver.take() {
            *self.incoming.slot() = Some((self.id, receiver));
        }
    }
}

#[cfg(test)]
mod tests;
