//! Writes one snapshot file.

use aws_lc_rs::digest;

use crate::types::Record;

use super::directory::SnapshotDirectory;
use super::format::{self, Chunk, Header, RecordHead};
use super::temporary::TemporaryFile;
use super::{SnapshotError, SnapshotInfo};

/// Writes a snapshot, record by record. Holds at most one chunk in memory.
/// Dropped before [`SnapshotWriter::finish`], it leaves nothing behind.
pub struct SnapshotWriter {
    directory: SnapshotDirectory,
    file: TemporaryFile,
    header: Header,
    /// Of everything written so far.
    sha256: digest::Context,
    chunks: Vec<Chunk>,
    /// Payload of the chunk being filled.
    payload: Vec<u8>,
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
        file: TemporaryFile,
        header: Header,
    ) -> Result<Self, SnapshotError> {
        let bytes = header.encode();
        let mut writer = Self {
            directory,
            file,
            header,
            sha256: digest::Context::new(&digest::SHA256),
            chunks: Vec::new(),
            payload: Vec::with_capacity(format::CHUNK_PAYLOAD_BYTES_MAX),
            crc: format::header_crc(&bytes),
            last: None,
            entry_count: 0,
            staged_count: 0,
        };
        writer.append(&bytes)?;
        Ok(writer)
    }

    /// Adds the next record: the state in key order, then the staged records
    /// in key order.
    ///
    /// # Errors
    /// The disk failed; the writer is of no use any more.
    ///
    /// # Panics
    /// When the record is out of order.
    pub fn add(&mut self, record: &Record) -> Result<(), SnapshotError> {
        if let Some(last) = &self.last {
            assert!((last.staged, &last.key) < (record.staged, &record.key));
        }
        self.last = Some(record.clone());
        if record.staged {
            self.staged_count += 1;
        } else {
            self.entry_count += 1;
        }
        let head = RecordHead {
            key_length: u32::from_le_bytes(format::length_field(record.key.len())),
            value_length: u32::from_le_bytes(format::length_field(record.value.len())),
            staged: record.staged,
        };
        self.stream(&head.encode())?;
        self.stream(record.key.as_bytes())?;
        self.stream(&record.value)
    }

    /// Ends the file, syncs it, reads it back from the disk and verifies it,
    /// and gives it its final name, durably.
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
        self.end_chunk()?;
        let table = format::encode_table(&self.chunks);
        self.sha256.update(&table);
        let sha256 = sha256_of(self.sha256.clone());
        self.file.append(&format::encode_tail(table, &sha256))?;
        self.file.sync()?;
        let written = self.directory.verify_file(self.file.path())?;
        if written.sha256 != sha256 {
            return Err(SnapshotError::WrongContent {
                expected: sha256,
                found: written.sha256,
            });
        }
        self.directory.publish_file(self.file, written)
    }

    /// Appends to the record stream.
    fn stream(&mut self, mut bytes: &[u8]) -> Result<(), SnapshotError> {
        while !bytes.is_empty() {
            let room = format::CHUNK_PAYLOAD_BYTES_MAX - self.payload.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.payload.extend_from_slice(now);
            bytes = later;
            if self.payload.len() == format::CHUNK_PAYLOAD_BYTES_MAX {
                self.end_chunk()?;
            }
        }
        Ok(())
    }

    fn end_chunk(&mut self) -> Result<(), SnapshotError> {
        if self.payload.is_empty() {
            return Ok(());
        }
        let sequence = u32::try_from(self.chunks.len()).expect("4 PiB do not fit in memory");
        let payload = std::mem::take(&mut self.payload);
        let (header, crc) = format::encode_chunk(sequence, &payload, self.crc);
        self.chunks.push(Chunk {
            offset: self.file.length(),
            length: u32::from_le_bytes(format::length_field(payload.len())),
            crc,
        });
        self.crc = crc;
        self.append(&header)?;
        self.append(&payload)?;
        self.payload = payload;
        self.payload.clear();
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.sha256.update(bytes);
        self.file.append(bytes)
    }
}

/// Ends a SHA-256 computation.
pub(super) fn sha256_of(context: digest::Context) -> [u8; 32] {
    let digest = context.finish();
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}
