//! Frames: what travels inside TLS on the raft and snapshot services, and the
//! greeting of every service.
//!
//! ```text
//! offset  bytes  little-endian
//!      0      4  magic "HFP1"
//!      4      1  version, 1
//!      5      1  kind
//!      6      2  flags, 0
//!      8      4  payload length, at most 16 MiB
//!     12      4  CRC-32 of the payload
//!     16      4  CRC-32 of bytes 0..16
//!     20      n  payload
//! ```
//!
//! TLS already protects against the network; the checksums catch a defect of
//! memory or program between two peers before it reaches a log. The length is
//! checked before anything is allocated.

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::codec::{DECODE_BYTES_MAX, crc32};

/// Length of a frame's header.
pub const HEADER_BYTES: usize = 20;

/// The largest payload of any frame.
pub const PAYLOAD_BYTES_MAX: usize = DECODE_BYTES_MAX;

const MAGIC: [u8; 4] = *b"HFP1";
const VERSION: u8 = 1;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// Who speaks: the first frame each way.
    Hello,
    /// Why no more will be said.
    Goodbye,
    /// A consensus message.
    Message,
    /// A word about entries that one of the two lost.
    Repair,
    /// Are you there?
    Ping,
    /// I am.
    Pong,
    /// A snapshot is offered.
    SnapshotOffer,
    /// Send it from this offset.
    SnapshotWanted,
    /// A piece of it.
    SnapshotChunk,
    /// That was all of it.
    SnapshotEnd,
    /// The receiver is alive and this far.
    SnapshotProgress,
    /// Verified and staged.
    SnapshotStaged,
}

impl FrameKind {
    const ALL: [(Self, u8); 12] = [
        (Self::Hello, 1),
        (Self::Goodbye, 2),
        (Self::Message, 3),
        (Self::Repair, 6),
        (Self::Ping, 4),
        (Self::Pong, 5),
        (Self::SnapshotOffer, 16),
        (Self::SnapshotWanted, 17),
        (Self::SnapshotChunk, 18),
        (Self::SnapshotEnd, 19),
        (Self::SnapshotProgress, 20),
        (Self::SnapshotStaged, 21),
    ];

    fn byte(self) -> u8 {
        Self::ALL
            .iter()
            .find_map(|(kind, byte)| (*kind == self).then_some(*byte))
            .expect("every kind is listed")
    }

    fn of_byte(byte: u8) -> Option<Self> {
        Self::ALL
            .iter()
            .find_map(|(kind, known)| (*known == byte).then_some(*kind))
    }
}

/// A header that passed every check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the payload is.
    pub kind: FrameKind,
    /// Its length in bytes, at most [`PAYLOAD_BYTES_MAX`].
    pub payload_bytes: usize,
    payload_crc: u32,
}

/// A received frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the payload is.
    pub kind: FrameKind,
    /// Its bytes.
    pub payload: Vec<u8>,
}

/// Bytes that are no frame, or no bytes.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Something else speaks here.
    #[error("read frame header: wrong magic")]
    Magic,
    /// A damaged header.
    #[error("read frame header: checksum {computed:08x}, expected {expected:08x}")]
    HeaderChecksum {
        /// Of the bytes received.
        computed: u32,
        /// What the sender computed.
        expected: u32,
    },
    /// Another version of the protocol.
    #[error("read frame header: version {0}, this program speaks {VERSION}")]
    Version(u8),
    /// A kind or flag of another version.
    #[error("read frame header: unknown kind {kind} or flags {flags:#06x}")]
    Kind {
        /// Kind byte.
        kind: u8,
        /// Flags.
        flags: u16,
    },
    /// More than is accepted at this point.
    #[error("read frame header: payload of {bytes} bytes, at most {max}")]
    TooLarge {
        /// Announced length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// A damaged payload.
    #[error(
        "read frame payload of {bytes} bytes: checksum {computed:08x}, expected {expected:08x}"
    )]
    PayloadChecksum {
        /// Its length.
        bytes: usize,
        /// Of the bytes received.
        computed: u32,
        /// What the sender computed.
        expected: u32,
    },
    /// The connection ended between frames.
    #[error("the connection was closed")]
    Closed,
    /// The connection failed.
    #[error("read frame")]
    Io(#[source] std::io::Error),
}

/// The header of a frame with this payload.
///
/// # Panics
/// If the payload exceeds [`PAYLOAD_BYTES_MAX`]: senders bound what they send.
#[must_use]
pub fn header(kind: FrameKind, payload: &[u8]) -> [u8; HEADER_BYTES] {
    assert!(
        payload.len() <= PAYLOAD_BYTES_MAX,
        "frame payload is bounded"
    );
    let length = u32::try_from(payload.len()).expect("16 MiB fits into 32 bits");
    let mut bytes = [0; HEADER_BYTES];
    bytes[0..4].copy_from_slice(&MAGIC);
    bytes[4] = VERSION;
    bytes[5] = kind.byte();
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12..16].copy_from_slice(&crc32(0, payload).to_le_bytes());
    let checksum = crc32(0, &bytes[..16]);
    bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// A whole frame: [`header`] and payload.
///
/// # Panics
/// As [`header`].
#[must_use]
pub fn encode(kind: FrameKind, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame.extend_from_slice(&header(kind, payload));
    frame.extend_from_slice(payload);
    frame
}

/// Checks a header. `payload_bytes_max` is the limit at this point of the
/// conversation.
///
/// # Errors
/// Not a header, damaged, of another version, or too large a payload.
pub fn parse_header(
    bytes: &[u8; HEADER_BYTES],
    payload_bytes_max: usize,
) -> Result<Header, FrameError> {
    let word =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    if bytes[0..4] != MAGIC {
        return Err(FrameError::Magic);
    }
    let (computed, expected) = (crc32(0, &bytes[..16]), word(16));
    if computed != expected {
        return Err(FrameError::HeaderChecksum { computed, expected });
    }
    if bytes[4] != VERSION {
        return Err(FrameError::Version(bytes[4]));
    }
    let flags = u16::from_le_bytes([bytes[6], bytes[7]]);
    let kind = FrameKind::of_byte(bytes[5]).filter(|_| flags == 0);
    let kind = kind.ok_or(FrameError::Kind {
        kind: bytes[5],
        flags,
    })?;
    let payload_bytes = usize::try_from(word(8)).unwrap_or(usize::MAX);
    let max = payload_bytes_max.min(PAYLOAD_BYTES_MAX);
    if payload_bytes > max {
        return Err(FrameError::TooLarge {
            bytes: payload_bytes,
            max,
        });
    }
    Ok(Header {
        kind,
        payload_bytes,
        payload_crc: word(12),
    })
}

/// Checks a payload against its header.
///
/// # Errors
/// The checksum differs.
pub fn check_payload(header: &Header, payload: &[u8]) -> Result<(), FrameError> {
    let computed = crc32(0, payload);
    if computed == header.payload_crc {
        Ok(())
    } else {
        Err(FrameError::PayloadChecksum {
            bytes: payload.len(),
            computed,
            expected: header.payload_crc,
        })
    }
}

/// Reads one frame; waits as long as the stream does. Not cancel safe: a read
/// given up in the middle leaves the stream unusable.
///
/// # Errors
/// [`FrameError::Closed`] when the stream ends before a frame begins; a
/// malformed frame; a failed read.
pub async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    payload_bytes_max: usize,
) -> Result<Frame, FrameError> {
    let mut bytes = [0; HEADER_BYTES];
    let first = stream.read(&mut bytes).await.map_err(FrameError::Io)?;
    if first == 0 {
        return Err(FrameError::Closed);
    }
    stream
        .read_exact(&mut bytes[first..])
        .await
        .map_err(FrameError::Io)?;
    let header = parse_header(&bytes, payload_bytes_max)?;
    let mut payload = vec![0; header.payload_bytes];
    stream
        .read_exact(&mut payload)
        .await
        .map_err(FrameError::Io)?;
    check_payload(&header, &payload)?;
    Ok(Frame {
        kind: header.kind,
        payload,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_all(mut bytes: &[u8], max: usize) -> Result<Frame, FrameError> {
        futures_util::FutureExt::now_or_never(read(&mut bytes, max)).expect("memory never waits")
    }

    #[test]
    fn golden_frames_keep_their_bytes() {
        let hex = |kind, payload: &[u8]| hex::encode(encode(kind, payload));
        assert_eq!(
            hex(FrameKind::Ping, b""),
            "48465031010400000000000000000000b54d4f8f"
        );
        assert_eq!(
            hex(FrameKind::Message, b"holdfast"),
            "4846503101030000080000001fd0740ca3c187b2686f6c6466617374"
        );
        assert_eq!(
            hex(FrameKind::SnapshotStaged, &[0; 3]),
            "48465031011500000300000012d941ff3f5190d2000000"
        );
    }

    #[test]
    fn frame_survives_the_round_trip() {
        for (kind, _) in FrameKind::ALL {
            let frame = read_all(&encode(kind, b"payload"), 7).expect("reads");
            assert_eq!(
                (frame.kind, frame.payload.as_slice()),
                (kind, &b"payload"[..])
            );
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = encode(FrameKind::Message, b"payload");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read_all(&bad, PAYLOAD_BYTES_MAX).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn oversized_frame_is_refused_before_allocation() {
        let mut bytes = header(FrameKind::Message, b"");
        bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        let checksum = crc32(0, &bytes[..16]);
        bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
        let error = read_all(&bytes, usize::MAX).expect_err("too large");
        assert!(matches!(
            error,
            FrameError::TooLarge {
                bytes: 4_294_967_295,
                max: PAYLOAD_BYTES_MAX
            }
        ));
        let frame = encode(FrameKind::Hello, &[0; 101]);
        let error = read_all(&frame, 100).expect_err("too large here");
        assert!(matches!(
            error,
            FrameError::TooLarge {
                bytes: 101,
                max: 100
            }
        ));
    }

    #[test]
    fn end_of_stream_is_told_from_a_cut_frame() {
        assert!(matches!(read_all(b"", 10), Err(FrameError::Closed)));
        let frame = encode(FrameKind::Ping, b"12345");
        for length in 1..frame.len() {
            assert!(matches!(
                read_all(&frame[..length], 10),
                Err(FrameError::Io(_))
            ));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = read_all(&bytes, PAYLOAD_BYTES_MAX);
        }

        #[test]
        fn any_header_with_good_checksum_is_answered(mut bytes in any::<[u8; HEADER_BYTES]>()) {
            bytes[0..4].copy_from_slice(&MAGIC);
            let checksum = crc32(0, &bytes[..16]);
            bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
            if let Ok(header) = parse_header(&bytes, 100) {
                prop_assert!(header.payload_bytes <= 100);
            }
        }
    }
}
