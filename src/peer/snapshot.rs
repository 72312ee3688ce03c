//! Streaming a snapshot to a peer, on a connection of its own.
//!
//! ```text
//! sender                                   receiver
//!   Offer{id, bytes, meta}        ─────►
//!                                 ◄─────   Wanted{offset}
//!   Chunk{offset, bytes} …        ─────►
//!                                 ◄─────   Progress{offset} …
//!   End                           ─────►
//!                                 ◄─────   Progress … while verifying
//!                                 ◄─────   Staged
//! ```
//!
//! Either side may say goodbye with a reason; the receiver says before how much
//! it held: who refuses the whole casts doubt on the sender's file. A stream that is cut is resumed
//! on a new connection: the receiver names the offset up to which it holds the
//! same snapshot, which its id (log position, term, SHA-256) tells. Each chunk
//! has the frame's checksum; the whole is verified by the sink before it is
//! acknowledged.

use bincode::{Decode, Encode};

use crate::types::{LogIndex, SnapshotMeta, Term};

/// Bytes of one chunk, at most.
pub const CHUNK_BYTES: usize = 512 << 10;

/// The largest offer, in bytes: it carries a membership.
pub(super) const OFFER_BYTES_MAX: usize = 1 << 20;

/// Chunks read ahead by the sender, or not yet written by the receiver.
pub(super) const CHUNKS_IN_FLIGHT: usize = 4;

/// Which snapshot: equal ids mean equal bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct SnapshotId {
    /// Last log position it includes.
    pub index: LogIndex,
    /// Term of that entry.
    pub term: Term,
    /// Digest of the file.
    pub sha256: [u8; 32],
}

/// What a sender has.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SnapshotOffer {
    /// Names it.
    pub id: SnapshotId,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// What it covers.
    pub meta: SnapshotMeta,
}

/// A snapshot file that could not be read; for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

/// A snapshot file that could not be taken; for people, at both ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SinkError(pub String);

/// A snapshot file to be sent. Called on blocking threads only.
pub trait SnapshotSource: Send + Sync + 'static {
    /// What there is; the same at every call.
    fn offer(&self) -> SnapshotOffer;

    /// Fills `buffer` from a byte offset; the range is within the file.
    ///
    /// # Errors
    /// The file cannot be read.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), SourceError>;
}

/// A snapshot file being received. Called on blocking threads only. Dropped
/// without `finish` when the stream is cut: what it holds may be kept for the
/// stream that resumes it.
pub trait SnapshotSink: Send + 'static {
    /// How many bytes it holds, from the beginning without a gap.
    fn held(&self) -> u64;

    /// Appends at a byte offset, which is what it holds now.
    ///
    /// # Errors
    /// The disk failed or is full; the stream ends.
    fn append(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SinkError>;

    /// All bytes are there: verify and stage them, durably.
    ///
    /// # Errors
    /// The bytes are not what was offered, or the disk failed. The sink must
    /// have discarded what it held, so that the next stream begins anew.
    fn finish(self: Box<Self>) -> Result<(), SinkError>;
}

/// The payload of a chunk: its offset, then its bytes.
pub(super) fn encode_chunk(offset: u64, bytes: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(8 + bytes.len());
    payload.extend_from_slice(&offset.to_le_bytes());
    payload.extend_from_slice(bytes);
    payload
}

/// The inverse of [`encode_chunk`]; `None` when it is too short.
pub(super) fn decode_chunk(payload: &[u8]) -> Option<(u64, &[u8])> {
    let (offset, bytes) = payload.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*offset), bytes))
}

/// The payload of Wanted and Progress; `None` when it is not eight bytes.
pub(super) fn decode_offset(payload: &[u8]) -> Option<u64> {
    payload.try_into().ok().map(u64::from_le_bytes)
}
