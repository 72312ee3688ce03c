//! Writes one snapshot file.

use aws_lc_rs::digest;

use crate::disk::BlockBuffer;
use crate::types::Record;

use super::directory::SnapshotDirectory;
use super::format::{self, Chunk, Header, RecordHead};
use super::output::Output;
use super::{SnapshotError, SnapshotInfo};

/// Writes a snapshot, record by record. Holds some 24 chunks in memory at most.
/// Dropped before [`SnapshotWriter::finish`], it leaves nothing behind.
pub struct SnapshotWriter {
    directory: SnapshotDirectory,
    output: Output,
    header: Header,
    /// Of everything before the chunk being filled.
    sha256: digest::Context,
    chunks: Vec<Chunk>,
    /// The chunk being filled: room for its header, payload.
    chunk: BlockBuffer,
    /// Where it will be in the file.
    offset: u64,
    /// Checksum that the next chunk's is chained from.
    crc: u32,
    /// Kind and key of the last record.
    last: Option<Record>,
    entry_count: u64,
    staged_count: u64,
}

impl SnapshotWriter {
    pub(super) fn begin(
        directory: SnapshotDirectory,
        mut output: Output,
        header: Header,
    ) -> Result<Self, SnapshotError> {
        let bytes = header.encode();
        let mut sha256 = digest::Context::new(&digest::SHA256);
        sha256.update(&bytes);
        let mut first = BlockBuffer::default();
        first.extend_from_slice(&bytes);
        let mut chunk = output.write(first)?;
        chunk.resize(format::CHUNK_HEADER_BYTES);
        Ok(Self {
            directory,
            output,
            header,
            sha256,
            chunks: Vec::new(),
            chunk,
            offset: bytes.len() as u64,
            crc: format::header_crc(&bytes),
            last: None,
            entry_count: 0,
            staged_count: 0,
        })
    }

    /// Adds the next record: the state in key order, then the staged records
    /// in key order.
    ///
    /// # Errors
    /// The disk failed, or does not hold what was written; the writer is of no
    /// use any more.
    ///
    /// # Panics
    /// When the record is out of order.
    pub fn add(&mut self, record: &Record) -> Result<(), SnapshotError> {
        if let Some(last) = &self.last {
            assert!(place(last) < place(record));
        }
        self.last = Some(record.clone());
        if record.staged {
            self.staged_count += 1;
        } else {
            self.entry_count += 1;
        }
        let head = RecordHead {
            key_length: u32::from_le_bytes(format::length_field(record.pair.key_bytes().len())),
            value_length: u32::from_le_bytes(format::length_field(record.pair.value().len())),
            staged: record.staged,
        };
        self.stream(&head.encode())?;
        self.stream(record.pair.content())
    }

    /// Ends the file, syncs it, reads it back from the disk, and gives it its
    /// final name, durably.
    ///
    /// # Errors
    /// The disk failed, or does not hold what was written. The snapshot does
    /// not exist then.
    ///
    /// # Panics
    /// When the number of records is not the one announced.
    pub fn finish(mut self) -> Result<SnapshotInfo, SnapshotError> {
        assert_eq!(self.entry_count, self.header.state.entry_count);
        assert_eq!(self.staged_count, self.header.state.staged_count);
        if self.chunk.len() == format::CHUNK_HEADER_BYTES {
            self.chunk.resize(0);
        } else {
            self.seal_chunk();
        }
        let table = format::encode_table(&self.chunks);
        self.sha256.update(&table);
        let sha256 = sha256_of(self.sha256.clone());
        let tail = format::encode_tail(table, &sha256);
        self.chunk.extend_from_slice(&tail);
        self.output.write(self.chunk)?;
        let file = self.output.finish()?;
        let written = SnapshotInfo {
            meta: self.header.meta,
            state: self.header.state,
            cluster: self.header.cluster,
            bytes: self.offset + tail.len() as u64,
            sha256,
            path: file.path().to_owned(),
        };
        assert_eq!(written.bytes, file.length());
        self.directory.publish_file(file, written)
    }

    /// Appends to the record stream.
    fn stream(&mut self, mut bytes: &[u8]) -> Result<(), SnapshotError> {
        while !bytes.is_empty() {
            let room = CHUNK_BYTES_MAX - self.chunk.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
            if self.chunk.len() == CHUNK_BYTES_MAX {
                self.seal_chunk();
                let full = std::mem::take(&mut self.chunk);
                self.chunk = self.output.write(full)?;
                self.chunk.resize(format::CHUNK_HEADER_BYTES);
            }
        }
        Ok(())
    }

    /// Gives the chunk its header, and a place in the table.
    fn seal_chunk(&mut self) {
        let sequence = u32::try_from(self.chunks.len()).expect("4 PiB do not fit in memory");
        let chunk = self.chunk.as_mut_slice();
        let (room, payload) = chunk.split_at_mut(format::CHUNK_HEADER_BYTES);
        let (header, crc) = format::encode_chunk(sequence, payload, self.crc);
        room.copy_from_slice(&header);
        self.chunks.push(Chunk {
            offset: self.offset,
            length: u32::from_le_bytes(format::length_field(payload.len())),
            crc,
        });
        self.crc = crc;
        self.sha256.update(chunk);
        self.offset += chunk.len() as u64;
    }
}

/// What orders records: the state first, then what is staged, each by key.
pub(super) fn place(record: &Record) -> (bool, &[u8]) {
    (record.staged, record.pair.key_bytes())
}

/// A full chunk, which is whole blocks.
const CHUNK_BYTES_MAX: usize = format::CHUNK_HEADER_BYTES + format::CHUNK_PAYLOAD_BYTES_MAX;

/// Ends a SHA-256 computation.
pub(super) fn sha256_of(context: digest::Context) -> [u8; 32] {
    let digest = context.finish();
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}
