//! The bytes of a segment, format HFWAL1. Little-endian, laid by hand; pinned
//! by a golden file.
//!
//! ```text
//! segment     ┌ block 0 ─┬ batch ┬ batch ─────┬ … ┬ zeros ┬ last block ┐
//!             │ header   │ 4 KiB │ n × 4 KiB  │   │       │ header copy│
//!             └──────────┴───────┴────────────┴───┴───────┴────────────┘
//!
//! segment header, 256 bytes
//!    0  magic "HFWALSG1"          8    72  term                        8
//!    8  version                   2    80  vote                        8
//!   10  header length             2    88  commit index                8
//!   12  flags: VOTED              4    96  snapshot index              8
//!   16  cluster id               16   104  snapshot term               8
//!   32  node id                   8   112  incarnation                 8
//!   40  sequence                  8   120  zero                      128
//!   48  salt                      8   248  zero                        4
//!   56  base LSN                  8   252  CRC of bytes 0..252         4
//!   64  segment bytes             4
//!   68  block bytes               4
//!
//! batch header, 128 bytes, at the start of a block
//!    0  magic "HFB1"              4    64  prev index                  8
//!    4  flags                     2    72  prev term                   8
//!    6  version                   2    80  LSN of the previous batch   8
//!    8  LSN of this byte          8    88  its header CRC              4
//!   16  salt                      8    92  CRC of the record headers   4
//!   24  length with padding       4    96  term                        8
//!   28  record count              4   104  vote                        8
//!   32  synced LSN                8   112  commit index                8
//!   40  first index               8   120  CRC of bytes 128..length    4
//!   48  last index                8   124  CRC of bytes 0..124         4
//!   56  term of the entries       8
//!
//! record, 32-byte aligned: header, then payload padded with zeros to 32
//!    0  kind                      1    16  term                        8
//!    1  zero                      3    24  payload CRC                 4
//!    4  payload bytes             4    28  CRC of bytes 0..28, chained 4
//!    8  index                     8
//! ```
//!
//! An **LSN** is a segment's base LSN plus an offset; never reused, so every
//! block says where it belongs. **Synced LSN** is the promise that everything
//! below it was durable before this batch's write began. CRCs in a segment
//! start from its salt, so another segment's blocks do not pass for its own.
//! A record header's CRC continues from the previous record header's, the
//! first one's from the salt. A batch without entries has
//! `last index = first index − 1`.
//!
//! A vote is meaningful only with the flag VOTED: no number is reserved for
//! "none".

use std::fmt;

use crate::codec::crc32;
use crate::types::{ClusterId, HardState, Incarnation, LogIndex, NodeId, Term};

/// Bytes of a block: the unit of writing, and of damage.
pub const BLOCK: u64 = crate::disk::BLOCK_BYTES as u64;
/// The format version written, and the newest read.
pub const VERSION: u16 = 1;
/// Bytes of a segment header.
pub const SEGMENT_HEADER: usize = 256;
/// Bytes of a batch header.
pub const BATCH_HEADER: usize = 128;
/// Bytes of a record header, and the alignment of records.
pub const RECORD_HEADER: usize = 32;
/// Record kind of a SEAL batch's table; entries use the codec's kinds.
pub const KIND_SEAL_TABLE: u8 = 0xf0;

const SEGMENT_MAGIC: [u8; 8] = *b"HFWALSG1";
const BATCH_MAGIC: [u8; 4] = *b"HFB1";
const SEGMENT_VOTED: u32 = 1;

/// The first batch of its segment.
pub const SEG_START: u16 = 1;
/// Drops every entry from `first_index` on before it adds its own.
pub const TRUNC: u16 = 1 << 1;
/// The last batch of its segment; its record is the table of the others.
pub const SEAL: u16 = 1 << 2;
/// Carries nothing but its promise.
pub const MARK: u16 = 1 << 3;
/// The log begins anew after the snapshot (`prev_index`, `prev_term`).
pub const RESET: u16 = 1 << 4;
/// The vote field holds a vote.
pub const VOTED: u16 = 1 << 5;
/// The write goes on in the next batch: neither counts without the other.
pub const CONTINUES: u16 = 1 << 6;
const FLAGS_KNOWN: u16 = SEG_START | TRUNC | SEAL | MARK | RESET | VOTED | CONTINUES;

/// Whose log it is (D-008).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The life of its data directory.
    pub incarnation: Incarnation,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cluster,
            node,
            incarnation,
        } = self;
        write!(f, "{cluster:?} node {node} {incarnation:?}")
    }
}

/// Log sequence number: a byte position in the whole history of segments.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lsn(pub u64);

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lsn{:#x}", self.0)
    }
}

/// The first bytes of a segment, and again the last block's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Whose log it is.
    pub identity: Identity,
    /// Number of the segment, from 1, without gaps.
    pub sequence: u64,
    /// Random at every use of the file.
    pub salt: u64,
    /// LSN of the segment's first byte.
    pub base_lsn: Lsn,
    /// Length of the file.
    pub segment_bytes: u32,
    /// Hard state known when the segment was begun.
    pub hard_state: HardState,
    /// The snapshot of the last reset before the segment was begun.
    pub snapshot: Option<(LogIndex, Term)>,
}

/// Why bytes are not a segment header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// Wrong magic, checksum or impossible fields.
    Damaged,
    /// Intact, of another version.
    Version(u16),
}

impl SegmentHeader {
    /// Lays the header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut bytes = [0; SEGMENT_HEADER];
        let (flags, vote) = match self.hard_state.vote {
            Some(NodeId(id)) => (SEGMENT_VOTED, id),
            None => (0, 0),
        };
        let (snapshot_index, snapshot_term) = self.snapshot.unwrap_or_default();
        put(&mut bytes, 0, SEGMENT_MAGIC);
        put(&mut bytes, 8, VERSION.to_le_bytes());
        put(&mut bytes, 10, (SEGMENT_HEADER as u16).to_le_bytes());
        put(&mut bytes, 12, flags.to_le_bytes());
        put(&mut bytes, 16, self.identity.cluster.0);
        put(&mut bytes, 32, self.identity.node.0.to_le_bytes());
        put(&mut bytes, 40, self.sequence.to_le_bytes());
        put(&mut bytes, 48, self.salt.to_le_bytes());
        put(&mut bytes, 56, self.base_lsn.0.to_le_bytes());
        put(&mut bytes, 64, self.segment_bytes.to_le_bytes());
        put(&mut bytes, 68, (BLOCK as u32).to_le_bytes());
        put(&mut bytes, 72, self.hard_state.term.0.to_le_bytes());
        put(&mut bytes, 80, vote.to_le_bytes());
        put(&mut bytes, 88, self.hard_state.commit_index.0.to_le_bytes());
        put(&mut bytes, 96, snapshot_index.0.to_le_bytes());
        put(&mut bytes, 104, snapshot_term.0.to_le_bytes());
        put(&mut bytes, 112, self.identity.incarnation.0.to_le_bytes());
        let crc = crc32(0, &bytes[..252]);
        put(&mut bytes, 252, crc.to_le_bytes());
        bytes
    }

    /// Reads what [`Self::encode`] laid.
    ///
    /// # Errors
    /// Damaged, or intact with another version.
    pub fn decode(bytes: &[u8; SEGMENT_HEADER]) -> Result<Self, HeaderFault> {
        let intact =
            array(bytes, 0) == SEGMENT_MAGIC && u32_at(bytes, 252) == crc32(0, &bytes[..252]);
        if !intact {
            return Err(HeaderFault::Damaged);
        }
        let version = u16::from_le_bytes(array(bytes, 8));
        if version != VERSION {
            return Err(HeaderFault::Version(version));
        }
        let segment_bytes = u32_at(bytes, 64);
        let sequence = u64_at(bytes, 40);
        let base_lsn = u64_at(bytes, 56);
        let possible = u64::from(segment_bytes).is_multiple_of(BLOCK)
            && u64::from(segment_bytes) >= SEGMENT_BYTES_MIN
            && u64::from(u32_at(bytes, 68)) == BLOCK
            && sequence > 0
            && base_lsn.checked_add(u64::from(segment_bytes)).is_some();
        if !possible {
            return Err(HeaderFault::Damaged);
        }
        let voted = u32_at(bytes, 12) & SEGMENT_VOTED != 0;
        let snapshot = (LogIndex(u64_at(bytes, 96)), Term(u64_at(bytes, 104)));
        Ok(Self {
            identity: Identity {
                cluster: ClusterId(array(bytes, 16)),
                node: NodeId(u64_at(bytes, 32)),
                incarnation: Incarnation(u64_at(bytes, 112)),
            },
            sequence,
            salt: u64_at(bytes, 48),
            base_lsn: Lsn(base_lsn),
            segment_bytes,
            hard_state: HardState {
                term: Term(u64_at(bytes, 72)),
                vote: voted.then(|| NodeId(u64_at(bytes, 80))),
                commit_index: LogIndex(u64_at(bytes, 88)),
            },
            snapshot: (snapshot.0 > LogIndex(0)).then_some(snapshot),
        })
    }

    /// The LSN at an offset of this segment.
    #[must_use]
    pub fn lsn(&self, offset: u64) -> Lsn {
        Lsn(self.base_lsn.0 + offset)
    }

    /// Where batches end: before the header's copy.
    #[must_use]
    pub fn area_end(&self) -> u64 {
        u64::from(self.segment_bytes) - BLOCK
    }

    /// Where every CRC of this segment starts.
    #[must_use]
    pub fn seed(&self) -> u32 {
        crc32(0, &self.salt.to_le_bytes())
    }
}

/// No log grows this long; keeps arithmetic on indexes from files in range.
const INDEX_END: u64 = 1 << 62;
/// The smallest segment: header, one batch, a SEAL batch, header copy.
pub const SEGMENT_BYTES_MIN: u64 = 4 * BLOCK;

/// The first bytes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Of the constants above; VOTED is derived from `hard_state`.
    pub flags: u16,
    /// LSN of its first byte.
    pub lsn: Lsn,
    /// The segment's.
    pub salt: u64,
    /// Bytes with padding: a multiple of [`BLOCK`].
    pub length: u32,
    /// Records in it.
    pub record_count: u32,
    /// Everything below was durable before this write began.
    pub synced_lsn: Lsn,
    /// First entry in it, or the position that would follow.
    pub first_index: LogIndex,
    /// Last entry in it; `first_index − 1`: none.
    pub last_index: LogIndex,
    /// Term of all its entries; 0 without entries.
    pub term: Term,
    /// The entry before `first_index`.
    pub prev_index: LogIndex,
    /// Its term.
    pub prev_term: Term,
    /// LSN of the batch before; 0 for the first of all.
    pub prev_lsn: Lsn,
    /// That batch's header CRC.
    pub prev_crc: u32,
    /// CRC of all record headers.
    pub directory_crc: u32,
    /// Hard state after this batch.
    pub hard_state: HardState,
    /// CRC of everything after the header.
    pub body_crc: u32,
}

impl BatchHeader {
    /// Lays the header's bytes, CRC included. `seed` is the segment's.
    #[must_use]
    pub fn encode(&self, seed: u32) -> [u8; BATCH_HEADER] {
        let mut bytes = [0; BATCH_HEADER];
        let (voted, vote) = match self.hard_state.vote {
            Some(NodeId(id)) => (VOTED, id),
            None => (0, 0),
        };
        let flags = (self.flags & !VOTED) | voted;
        put(&mut bytes, 0, BATCH_MAGIC);
        put(&mut bytes, 4, flags.to_le_bytes());
        put(&mut bytes, 6, VERSION.to_le_bytes());
        put(&mut bytes, 8, self.lsn.0.to_le_bytes());
        put(&mut bytes, 16, self.salt.to_le_bytes());
        put(&mut bytes, 24, self.length.to_le_bytes());
        put(&mut bytes, 28, self.record_count.to_le_bytes());
        put(&mut bytes, 32, self.synced_lsn.0.to_le_bytes());
        put(&mut bytes, 40, self.first_index.0.to_le_bytes());
        put(&mut bytes, 48, self.last_index.0.to_le_bytes());
        put(&mut bytes, 56, self.term.0.to_le_bytes());
        put(&mut bytes, 64, self.prev_index.0.to_le_bytes());
        put(&mut bytes, 72, self.prev_term.0.to_le_bytes());
        put(&mut bytes, 80, self.prev_lsn.0.to_le_bytes());
        put(&mut bytes, 88, self.prev_crc.to_le_bytes());
        put(&mut bytes, 92, self.directory_crc.to_le_bytes());
        put(&mut bytes, 96, self.hard_state.term.0.to_le_bytes());
        put(&mut bytes, 104, vote.to_le_bytes());
        put(
            &mut bytes,
            112,
            self.hard_state.commit_index.0.to_le_bytes(),
        );
        put(&mut bytes, 120, self.body_crc.to_le_bytes());
        let crc = crc32(seed, &bytes[..124]);
        put(&mut bytes, 124, crc.to_le_bytes());
        bytes
    }

    /// Reads the header of the batch at `offset` of a segment, and its CRC
    /// (the next batch repeats it). `None`: this is no batch of that segment
    /// at that place.
    #[must_use]
    pub fn decode(
        segment: &SegmentHeader,
        offset: u64,
        bytes: &[u8; BATCH_HEADER],
    ) -> Option<(Self, u32)> {
        let crc = u32_at(bytes, 124);
        let version = u16::from_le_bytes(array(bytes, 6));
        if array(bytes, 0) != BATCH_MAGIC
            || version != VERSION
            || crc != crc32(segment.seed(), &bytes[..124])
        {
            return None;
        }
        let flags = u16::from_le_bytes(array(bytes, 4));
        let header = Self {
            flags,
            lsn: Lsn(u64_at(bytes, 8)),
            salt: u64_at(bytes, 16),
            length: u32_at(bytes, 24),
            record_count: u32_at(bytes, 28),
            synced_lsn: Lsn(u64_at(bytes, 32)),
            first_index: LogIndex(u64_at(bytes, 40)),
            last_index: LogIndex(u64_at(bytes, 48)),
            term: Term(u64_at(bytes, 56)),
            prev_index: LogIndex(u64_at(bytes, 64)),
            prev_term: Term(u64_at(bytes, 72)),
            prev_lsn: Lsn(u64_at(bytes, 80)),
            prev_crc: u32_at(bytes, 88),
            directory_crc: u32_at(bytes, 92),
            hard_state: HardState {
                term: Term(u64_at(bytes, 96)),
                vote: (flags & VOTED != 0).then(|| NodeId(u64_at(bytes, 104))),
                commit_index: LogIndex(u64_at(bytes, 112)),
            },
            body_crc: u32_at(bytes, 120),
        };
        header.is_possible(segment, offset).then_some((header, crc))
    }

    /// Whether the fields agree with each other and with the place.
    fn is_possible(&self, segment: &SegmentHeader, offset: u64) -> bool {
        let length = u64::from(self.length);
        let entries = (self.last_index.0.wrapping_add(1)).checked_sub(self.first_index.0);
        let counted = match entries {
            Some(count) if self.has(SEAL) => count == 0 && self.record_count == 1,
            Some(count) => count == u64::from(self.record_count),
            None => false,
        };
        self.flags & !FLAGS_KNOWN == 0
            && self.lsn == segment.lsn(offset)
            && self.salt == segment.salt
            && length >= BLOCK
            && length.is_multiple_of(BLOCK)
            && offset + length <= segment.area_end()
            && self.synced_lsn <= self.lsn
            && (1..INDEX_END).contains(&self.first_index.0)
            && self.prev_index == self.first_index.previous()
            && self.has(SEG_START) == (offset == BLOCK)
            && counted
    }

    /// Whether a flag is set.
    #[must_use]
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// The first bytes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// The codec's payload kind, or [`KIND_SEAL_TABLE`].
    pub kind: u8,
    /// Bytes of payload, without padding.
    pub payload_bytes: u32,
    /// Position of the entry.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// CRC of the payload.
    pub payload_crc: u32,
}

impl RecordHeader {
    /// Lays the header's bytes; also gives its CRC, for the next one.
    #[must_use]
    pub fn encode(&self, chain: u32) -> ([u8; RECORD_HEADER], u32) {
        let mut bytes = [0; RECORD_HEADER];
        bytes[0] = self.kind;
        put(&mut bytes, 4, self.payload_bytes.to_le_bytes());
        put(&mut bytes, 8, self.index.0.to_le_bytes());
        put(&mut bytes, 16, self.term.0.to_le_bytes());
        put(&mut bytes, 24, self.payload_crc.to_le_bytes());
        let crc = crc32(chain, &bytes[..28]);
        put(&mut bytes, 28, crc.to_le_bytes());
        (bytes, crc)
    }

    /// Reads what [`Self::encode`] laid; `None` if the CRC says no.
    #[must_use]
    pub fn decode(bytes: &[u8; RECORD_HEADER], chain: u32) -> Option<(Self, u32)> {
        let crc = crc32(chain, &bytes[..28]);
        (crc == u32_at(bytes, 28)).then(|| {
            let header = Self {
                kind: bytes[0],
                payload_bytes: u32_at(bytes, 4),
                index: LogIndex(u64_at(bytes, 8)),
                term: Term(u64_at(bytes, 16)),
                payload_crc: u32_at(bytes, 24),
            };
            (header, crc)
        })
    }
}

/// One line of a SEAL batch's table: what a batch of the segment held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealRow {
    /// Where the batch is.
    pub lsn: Lsn,
    /// Its length.
    pub length: u32,
    /// Its header CRC.
    pub crc: u32,
    /// Its first position.
    pub first_index: LogIndex,
    /// Its last position.
    pub last_index: LogIndex,
    /// The term of its entries.
    pub term: Term,
}

impl SealRow {
    /// Bytes of a row.
    pub const BYTES: usize = 40;

    /// Lays the row's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        put(&mut bytes, 0, self.lsn.0.to_le_bytes());
        put(&mut bytes, 8, self.length.to_le_bytes());
        put(&mut bytes, 12, self.crc.to_le_bytes());
        put(&mut bytes, 16, self.first_index.0.to_le_bytes());
        put(&mut bytes, 24, self.last_index.0.to_le_bytes());
        put(&mut bytes, 32, self.term.0.to_le_bytes());
        bytes
    }

    /// Reads what [`Self::encode`] laid.
    #[must_use]
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        Self {
            lsn: Lsn(u64_at(bytes, 0)),
            length: u32_at(bytes, 8),
            crc: u32_at(bytes, 12),
            first_index: LogIndex(u64_at(bytes, 16)),
            last_index: LogIndex(u64_at(bytes, 24)),
            term: Term(u64_at(bytes, 32)),
        }
    }
}

/// Bytes a record with this payload takes.
#[must_use]
pub fn record_bytes(payload_bytes: u64) -> u64 {
    RECORD_HEADER as u64 + payload_bytes.next_multiple_of(RECORD_HEADER as u64)
}

/// Bytes of the SEAL batch of a segment with this many batches before it.
#[must_use]
pub fn seal_bytes(batch_count: u64) -> u64 {
    (BATCH_HEADER as u64 + record_bytes(batch_count * SealRow::BYTES as u64))
        .next_multiple_of(BLOCK)
}

fn put<const N: usize>(bytes: &mut [u8], offset: usize, field: [u8; N]) {
    bytes[offset..offset + N].copy_from_slice(&field);
}

fn array<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes[offset..offset + N]
        .try_into()
        .expect("a slice of N bytes is an array of N bytes")
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(array(bytes, offset))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(array(bytes, offset))
}
