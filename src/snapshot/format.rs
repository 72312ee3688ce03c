//! The bytes of a snapshot file, laid out by hand (D-006). All numbers are
//! little-endian; see the module documentation of `snapshot` for the diagram.

use std::sync::Arc;

use crate::codec;
use crate::types::{ClusterId, LogIndex, RestoreProgress, SnapshotMeta, StateHeader, Term};

/// What the file says before its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose state.
    pub cluster: ClusterId,
    /// What it covers.
    pub meta: SnapshotMeta,
    /// What else was replicated.
    pub state: StateHeader,
}

/// A chunk as the footer's table names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where its header begins.
    pub offset: u64,
    /// Length of its payload.
    pub length: u32,
    /// Chained checksum of header and payload.
    pub crc: u32,
}

/// What the end of the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Every chunk.
    pub chunks: Vec<Chunk>,
    /// Of everything before this field.
    pub sha256: [u8; 32],
}

/// Bytes that are no (whole) header, chunk or footer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatError {
    /// Not what was written.
    Damaged(&'static str),
    /// A sound header of another version of the format.
    UnknownVersion(u16),
}

impl Header {
    /// The header, whole blocks, checksum included.
    pub fn encode(&self) -> Vec<u8> {
        let membership = codec::encode(self.meta.membership.as_ref());
        let header_bytes = header_bytes(membership.len());
        assert!(header_bytes <= HEADER_BYTES_MAX);
        let (flags, restore) = match self.state.restore {
            Some(progress) => (FLAG_RESTORE, progress),
            None => (0, RestoreProgress::default()),
        };
        let mut bytes = Vec::with_capacity(header_bytes);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.state.state_machine_version.to_le_bytes());
        bytes.extend_from_slice(&length_field(header_bytes));
        bytes.extend_from_slice(&self.cluster.0);
        bytes.extend_from_slice(&self.meta.index.0.to_le_bytes());
        bytes.extend_from_slice(&self.meta.term.0.to_le_bytes());
        bytes.extend_from_slice(&self.meta.membership_index.0.to_le_bytes());
        bytes.extend_from_slice(&self.state.restore_epoch.to_le_bytes());
        bytes.extend_from_slice(&flags.to_le_bytes());
        bytes.extend_from_slice(&length_field(membership.len()));
        bytes.extend_from_slice(&restore.id.to_le_bytes());
        bytes.extend_from_slice(&restore.chunk_count.to_le_bytes());
        bytes.extend_from_slice(&self.state.entry_count.to_le_bytes());
        bytes.extend_from_slice(&self.state.staged_count.to_le_bytes());
        bytes.resize(HEADER_FIXED_BYTES, 0);
        bytes.extend_from_slice(&membership);
        bytes.resize(header_bytes - CRC_BYTES, 0);
        let crc = codec::crc32(0, &bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Length of the whole header, from its first block.
    pub fn length(block: &[u8; BLOCK_BYTES]) -> Result<usize, FormatError> {
        let mut fields = Fields(block);
        if fields.take::<8>() != *MAGIC {
            return Err(FormatError::Damaged("no snapshot magic"));
        }
        fields.take::<4>();
        let length = fields.number_u32() as usize;
        if !(BLOCK_BYTES..=HEADER_BYTES_MAX).contains(&length)
            || !length.is_multiple_of(BLOCK_BYTES)
        {
            return Err(FormatError::Damaged("header length out of bounds"));
        }
        Ok(length)
    }

    /// The inverse of [`Header::encode`]; `bytes` has the length that
    /// [`Header::length`] gave.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (content, crc) = bytes.split_at(bytes.len() - CRC_BYTES);
        if codec::crc32(0, content).to_le_bytes() != crc {
            return Err(FormatError::Damaged("header checksum differs"));
        }
        let mut fields = Fields(&content[MAGIC.len()..]);
        let version = fields.number_u16();
        if version != VERSION {
            return Err(FormatError::UnknownVersion(version));
        }
        let state_machine_version = fields.number_u16();
        fields.number_u32();
        let cluster = ClusterId(fields.take());
        let index = LogIndex(fields.number_u64());
        let term = Term(fields.number_u64());
        let membership_index = LogIndex(fields.number_u64());
        let restore_epoch = fields.number_u64();
        let flags = fields.number_u32();
        let membership_length = fields.number_u32() as usize;
        let progress = RestoreProgress {
            id: u128::from_le_bytes(fields.take()),
            chunk_count: fields.number_u64(),
        };
        let state = StateHeader {
            state_machine_version,
            restore_epoch,
            restore: (flags & FLAG_RESTORE != 0).then_some(progress),
            entry_count: fields.number_u64(),
            staged_count: fields.number_u64(),
        };
        let membership = content[HEADER_FIXED_BYTES..]
            .get(..membership_length)
            .ok_or(FormatError::Damaged("membership longer than the header"))?;
        let membership = codec::decode("snapshot membership", membership)
            .map_err(|_| FormatError::Damaged("membership does not decode"))?;
        let meta = SnapshotMeta {
            index,
            term,
            membership: Arc::new(membership),
            membership_index,
        };
        let header = Self {
            cluster,
            meta,
            state,
        };
        // One state, one encoding: what is not ours byte for byte is foreign.
        if header.encode() != bytes {
            return Err(FormatError::Damaged("header is not in canonical form"));
        }
        Ok(header)
    }
}

/// A chunk's header for this payload, and its checksum, chained from that of
/// the chunk before (or of the header).
pub fn encode_chunk(sequence: u32, payload: &[u8], crc_before: u32) -> ([u8; 16], u32) {
    let mut header = [0; CHUNK_HEADER_BYTES];
    header[..4].copy_from_slice(CHUNK_MAGIC);
    header[4..8].copy_from_slice(&sequence.to_le_bytes());
    header[8..12].copy_from_slice(&length_field(payload.len()));
    let crc = codec::crc32(codec::crc32(crc_before, &header[..12]), payload);
    header[12..].copy_from_slice(&crc.to_le_bytes());
    (header, crc)
}

/// The header's own checksum, from which the chunks' are chained.
pub fn header_crc(header: &[u8]) -> u32 {
    Fields(&header[header.len() - CRC_BYTES..]).number_u32()
}

/// The footer up to and without the SHA-256 of everything before it.
pub fn encode_table(chunks: &[Chunk]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(footer_bytes(chunks.len()));
    bytes.extend_from_slice(FOOTER_MAGIC);
    bytes.extend_from_slice(&length_field(chunks.len()));
    for chunk in chunks {
        bytes.extend_from_slice(&chunk.offset.to_le_bytes());
        bytes.extend_from_slice(&chunk.length.to_le_bytes());
        bytes.extend_from_slice(&chunk.crc.to_le_bytes());
    }
    bytes
}

/// Completes a footer that [`encode_table`] began.
pub fn encode_tail(mut table: Vec<u8>, sha256: &[u8; 32]) -> Vec<u8> {
    let footer_bytes = table.len() + TAIL_BYTES;
    table.extend_from_slice(sha256);
    table.extend_from_slice(&length_field(footer_bytes));
    let crc = codec::crc32(0, &table);
    table.extend_from_slice(&crc.to_le_bytes());
    table.extend_from_slice(END_MAGIC);
    table
}

/// Length of the footer, from the last bytes of a file of `file_bytes`. Every
/// chunk but the last is full, which bounds it.
pub fn footer_length(tail: &[u8; TAIL_BYTES], file_bytes: u64) -> Result<usize, FormatError> {
    let mut fields = Fields(&tail[32..]);
    let length = fields.number_u32() as usize;
    fields.number_u32();
    if fields.take::<8>() != *END_MAGIC {
        return Err(FormatError::Damaged("no end magic"));
    }
    let chunk_count_max = file_bytes / (CHUNK_HEADER_BYTES + CHUNK_PAYLOAD_BYTES_MAX) as u64 + 1;
    if usize::try_from(chunk_count_max).is_ok_and(|count| footer_bytes(count) < length) {
        return Err(FormatError::Damaged("footer length out of bounds"));
    }
    Ok(length)
}

impl Footer {
    /// The inverse of [`encode_tail`], for a footer that begins at byte
    /// `offset` of a file whose header is `header_bytes` long: the chunks must
    /// fill what is between them.
    pub fn decode(bytes: &[u8], header_bytes: u64, offset: u64) -> Result<Self, FormatError> {
        let Some(table_bytes) = bytes.len().checked_sub(TAIL_BYTES) else {
            return Err(FormatError::Damaged("footer too short"));
        };
        let crc_offset = bytes.len() - END_MAGIC.len() - CRC_BYTES;
        let crc = codec::crc32(0, &bytes[..crc_offset]);
        if crc.to_le_bytes() != bytes[crc_offset..][..CRC_BYTES] {
            return Err(FormatError::Damaged("footer checksum differs"));
        }
        let mut fields = Fields(bytes);
        if table_bytes < 8 || fields.take::<4>() != *FOOTER_MAGIC {
            return Err(FormatError::Damaged("no footer magic"));
        }
        let chunk_count = fields.number_u32() as usize;
        if table_bytes - 8 != chunk_count * CHUNK_ROW_BYTES {
            return Err(FormatError::Damaged("chunk table has another length"));
        }
        let mut chunks = Vec::with_capacity(chunk_count);
        let mut end = header_bytes;
        for _ in 0..chunk_count {
            let chunk = Chunk {
                offset: fields.number_u64(),
                length: fields.number_u32(),
                crc: fields.number_u32(),
            };
            let last = chunks.len() + 1 == chunk_count;
            let payload_fits = match chunk.length as usize {
                CHUNK_PAYLOAD_BYTES_MAX => true,
                length => last && 0 < length && length < CHUNK_PAYLOAD_BYTES_MAX,
            };
            if chunk.offset != end || !payload_fits {
                return Err(FormatError::Damaged("chunk table is inconsistent"));
            }
            end += CHUNK_HEADER_BYTES as u64 + u64::from(chunk.length);
            chunks.push(chunk);
        }
        if end != offset {
            return Err(FormatError::Damaged("chunks do not reach the footer"));
        }
        Ok(Self {
            chunks,
            sha256: fields.take(),
        })
    }
}

/// What precedes a record's key and value: their lengths and its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// Length of the key.
    pub key_length: u32,
    /// Length of the value.
    pub value_length: u32,
    /// Gathered by a restore in progress.
    pub staged: bool,
}

impl RecordHead {
    /// Twelve bytes.
    pub fn encode(self) -> [u8; RECORD_HEAD_BYTES] {
        let mut bytes = [0; RECORD_HEAD_BYTES];
        bytes[..4].copy_from_slice(&self.key_length.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.value_length.to_le_bytes());
        bytes[8..].copy_from_slice(&u32::from(self.staged).to_le_bytes());
        bytes
    }

    /// The inverse; lengths are bounded by what a command can carry.
    pub fn decode(bytes: &[u8; RECORD_HEAD_BYTES]) -> Result<Self, FormatError> {
        let mut fields = Fields(bytes);
        let (key_length, value_length) = (fields.number_u32(), fields.number_u32());
        let staged = match fields.number_u32() {
            0 => false,
            1 => true,
            _ => return Err(FormatError::Damaged("record of unknown kind")),
        };
        let length_max = codec::DECODE_BYTES_MAX;
        if length_max < key_length as usize || length_max < value_length as usize {
            return Err(FormatError::Damaged("record length out of bounds"));
        }
        Ok(Self {
            key_length,
            value_length,
            staged,
        })
    }
}

/// A length in a 32 bit field.
pub fn length_field(length: usize) -> [u8; 4] {
    let length = u32::try_from(length).expect("bounded far below 4 GiB");
    length.to_le_bytes()
}

/// Length of a footer with so many chunks.
pub fn footer_bytes(chunk_count: usize) -> usize {
    8 + chunk_count * CHUNK_ROW_BYTES + TAIL_BYTES
}

fn header_bytes(membership_length: usize) -> usize {
    (HEADER_FIXED_BYTES + membership_length + CRC_BYTES).next_multiple_of(BLOCK_BYTES)
}

/// Reads fields off the front. Callers check lengths first.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("length was checked");
        self.0 = rest;
        *field
    }

    fn number_u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn number_u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn number_u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

/// Unit of the header's length.
pub const BLOCK_BYTES: usize = 4096;
/// Header of a chunk.
pub const CHUNK_HEADER_BYTES: usize = 16;
/// A chunk with its header is at most 1 MiB.
pub const CHUNK_PAYLOAD_BYTES_MAX: usize = (1 << 20) - CHUNK_HEADER_BYTES;
/// What precedes a record's key.
pub const RECORD_HEAD_BYTES: usize = 12;
/// The footer's end, from the SHA-256 on.
pub const TAIL_BYTES: usize = 32 + 4 + CRC_BYTES + END_MAGIC.len();
/// Length of the checksum that ends header and footer.
pub const CRC_BYTES: usize = 4;

const HEADER_FIXED_BYTES: usize = 128;
const HEADER_BYTES_MAX: usize = 1 << 20;
const CHUNK_ROW_BYTES: usize = 16;
pub(super) const VERSION: u16 = 1;
const FLAG_RESTORE: u32 = 1;
const MAGIC: &[u8; 8] = b"HFSNAP01";
const CHUNK_MAGIC: &[u8; 4] = b"HFSC";
const FOOTER_MAGIC: &[u8; 4] = b"HFSF";
const END_MAGIC: &[u8; 8] = b"HFSNAPOK";
