//! The one place that knows bincode (D-006): bounded decoding of what crosses
//! the network and what log records carry, and the checksums.
//!
//! Every length that comes from outside is bounded before anything is
//! allocated. On-disk headers are not encoded here: `wal` and `snapshot` lay
//! them out by hand.

use std::sync::Arc;

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::{Decode, Encode};

use crate::types::{Command, CommandRef, EntryPayload, Membership};

/// The largest encoded value accepted anywhere, in bytes: a message of at most
/// 8 MiB of entries plus its own framing.
pub const DECODE_BYTES_MAX: usize = 16 << 20;

const ENCODE: Configuration<LittleEndian, Fixint> = bincode::config::standard()
    .with_little_endian()
    .with_fixed_int_encoding();
const DECODE: Configuration<LittleEndian, Fixint, Limit<DECODE_BYTES_MAX>> =
    ENCODE.with_limit::<DECODE_BYTES_MAX>();

/// Bytes that do not decode. Never names their content.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Malformed, truncated or over the limit.
    #[error("decode {what}: {reason}")]
    Malformed {
        /// What was expected.
        what: &'static str,
        /// Where it went wrong.
        reason: String,
    },
    /// Bytes are left over.
    #[error("decode {what}: {left} bytes left over after {used}")]
    TrailingBytes {
        /// What was expected.
        what: &'static str,
        /// Bytes consumed.
        used: usize,
        /// Bytes left.
        left: usize,
    },
    /// A payload kind no version of this program writes.
    #[error("decode entry payload: unknown kind {kind}")]
    UnknownKind {
        /// The kind byte.
        kind: u8,
    },
}

/// Encodes a value. Infallible for the types of this crate.
pub fn encode<T: Encode>(value: &T) -> Vec<u8> {
    bincode::encode_to_vec(value, ENCODE).expect("encoding into memory cannot fail")
}

/// Decodes exactly the bytes given; `what` names the value in errors.
///
/// # Errors
/// Malformed, truncated, over [`DECODE_BYTES_MAX`], or bytes left over.
pub fn decode<T: Decode<()>>(what: &'static str, bytes: &[u8]) -> Result<T, CodecError> {
    let (value, used) =
        bincode::decode_from_slice(bytes, DECODE).map_err(|error| CodecError::Malformed {
            what,
            reason: error.to_string(),
        })?;
    if used != bytes.len() {
        return Err(CodecError::TrailingBytes {
            what,
            used,
            left: bytes.len() - used,
        });
    }
    Ok(value)
}

/// Encodes a command as an entry's payload carries it.
#[must_use]
pub fn encode_command(command: &Command) -> Arc<[u8]> {
    encode(command).into()
}

/// Decodes what [`encode_command`] wrote.
///
/// # Errors
/// As [`decode`].
pub fn decode_command(bytes: &[u8]) -> Result<Command, CodecError> {
    decode("command", bytes)
}

/// Decodes what [`encode_command`] wrote without copying keys and values;
/// `None` for an entry so large that the two might meet their bounds apart,
/// because what they build has other sizes: [`decode_command`] decides then.
///
/// # Errors
/// Exactly where [`decode_command`] has one.
pub fn borrow_command(bytes: &[u8]) -> Option<Result<CommandRef<'_>, CodecError>> {
    if BORROWED_BYTES_MAX < bytes.len() {
        return None;
    }
    let what = "command";
    Some(match bincode::borrow_decode_from_slice(bytes, DECODE) {
        Ok((command, used)) if used == bytes.len() => Ok(command),
        Ok((_, used)) => Err(CodecError::TrailingBytes {
            what,
            used,
            left: bytes.len() - used,
        }),
        Err(error) => Err(CodecError::Malformed {
            what,
            reason: error.to_string(),
        }),
    })
}

/// What an entry of this size can be decoded to, some 48 bytes for each twelve
/// of it, stays far below [`DECODE_BYTES_MAX`] either way.
const BORROWED_BYTES_MAX: usize = 1 << 20;

const KIND_NOOP: u8 = 1;
const KIND_COMMAND: u8 = 2;
const KIND_MEMBERSHIP: u8 = 3;

/// An entry payload as (kind, bytes): what a WAL record holds.
#[must_use]
pub fn encode_payload(payload: &EntryPayload) -> (u8, Arc<[u8]>) {
    match payload {
        EntryPayload::Noop => (KIND_NOOP, Arc::from([])),
        EntryPayload::Command(bytes) => (KIND_COMMAND, Arc::clone(bytes)),
        EntryPayload::Membership(membership) => {
            (KIND_MEMBERSHIP, encode(membership.as_ref()).into())
        }
    }
}

/// The inverse of [`encode_payload`].
///
/// # Errors
/// An unknown kind, or a membership that does not decode.
pub fn decode_payload(kind: u8, bytes: &[u8]) -> Result<EntryPayload, CodecError> {
    match kind {
        KIND_NOOP if bytes.is_empty() => Ok(EntryPayload::Noop),
        KIND_COMMAND => Ok(EntryPayload::Command(bytes.into())),
        KIND_MEMBERSHIP => {
            let membership: Membership = decode("membership", bytes)?;
            Ok(EntryPayload::Membership(Arc::new(membership)))
        }
        _ => Err(CodecError::UnknownKind { kind }),
    }
}

/// IEEE CRC-32 of `bytes`, chained from `seed`.
#[must_use]
pub fn crc32(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}
