//! Reads one snapshot file and verifies all of it on the way.

use std::path::{Path, PathBuf};

use aws_lc_rs::digest;

use crate::disk::File;
use crate::types::{Pair, Record, SnapshotMeta};

use super::format::{self, Chunk, Footer, FormatError, Header, RecordHead};
use super::writer::{place, sha256_of};
use super::{SnapshotError, SnapshotInfo};

/// Iterates over the records. Whoever has seen the end (`None` and no error)
/// has verified the whole file: checksums, order, counts and SHA-256. Holds at
/// most one chunk and one record in memory. After an error it ends.
pub struct SnapshotReader {
    content: Content,
    info: SnapshotInfo,
    /// Read and not yet consumed.
    buffer: Vec<u8>,
    consumed: usize,
    /// Kind and key of the last record.
    last: Option<Record>,
    entry_count: u64,
    staged_count: u64,
    ended: bool,
}

/// The file below the records.
struct Content {
    file: Box<dyn File>,
    path: PathBuf,
    footer: Footer,
    footer_offset: u64,
    /// The next chunk to read.
    next: usize,
    crc: u32,
    sha256: digest::Context,
}

impl SnapshotReader {
    /// Reads header and footer.
    ///
    /// # Errors
    /// Either is damaged or of a newer format, or the disk failed.
    pub fn open(file: Box<dyn File>, path: &Path) -> Result<Self, SnapshotError> {
        let length = file.length().map_err(SnapshotError::Disk)?;
        let header_bytes = read_header(file.as_ref(), path, length)?;
        let header = Header::decode(&header_bytes).map_err(|error| flaw(path, 0, error))?;
        let header_length = header_bytes.len() as u64;
        let (footer, footer_offset) = read_footer(file.as_ref(), path, length, header_length)?;
        let mut sha256 = digest::Context::new(&digest::SHA256);
        sha256.update(&header_bytes);
        let info = SnapshotInfo {
            meta: header.meta,
            state: header.state,
            cluster: header.cluster,
            bytes: length,
            sha256: footer.sha256,
            path: path.to_owned(),
        };
        Ok(Self {
            content: Content {
                file,
                path: path.to_owned(),
                footer,
                footer_offset,
                next: 0,
                crc: format::header_crc(&header_bytes),
                sha256,
            },
            info,
            buffer: Vec::new(),
            consumed: 0,
            last: None,
            entry_count: 0,
            staged_count: 0,
            ended: false,
        })
    }

    /// What header and footer say.
    #[must_use]
    pub fn info(&self) -> &SnapshotInfo {
        &self.info
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// The first flaw, or a failing disk.
    pub fn verify(mut self) -> Result<SnapshotInfo, SnapshotError> {
        for record in &mut self {
            record?;
        }
        Ok(self.info)
    }

    fn read_record(&mut self) -> Result<Option<Record>, SnapshotError> {
        if !self.fill(1)? {
            return self.end().map(|()| None);
        }
        self.require(format::RECORD_HEAD_BYTES)?;
        let head = self.buffer[self.consumed..]
            .first_chunk()
            .expect("the head is in the buffer");
        let head = RecordHead::decode(head).map_err(|error| self.flaw(error))?;
        let (key_length, value_length) = (head.key_length as usize, head.value_length as usize);
        self.require(format::RECORD_HEAD_BYTES + key_length + value_length)?;
        let body = &self.buffer[self.consumed + format::RECORD_HEAD_BYTES..];
        let (key, value) = body[..key_length + value_length].split_at(key_length);
        let Ok(key) = str::from_utf8(key) else {
            return Err(self.damaged("record key is not UTF-8"));
        };
        let record = Record {
            pair: Pair::new(key, value),
            staged: head.staged,
        };
        self.consumed += format::RECORD_HEAD_BYTES + key_length + value_length;
        self.check_order(&record)?;
        Ok(Some(record))
    }

    fn check_order(&mut self, record: &Record) -> Result<(), SnapshotError> {
        let last = self.last.replace(record.clone());
        if last.is_some_and(|last| place(record) <= place(&last)) {
            return Err(self.damaged("records out of order"));
        }
        if record.staged {
            self.staged_count += 1;
        } else {
            self.entry_count += 1;
        }
        Ok(())
    }

    /// After the last record: the counts and the SHA-256.
    fn end(&mut self) -> Result<(), SnapshotError> {
        let state = &self.info.state;
        if (self.entry_count, self.staged_count) != (state.entry_count, state.staged_count) {
            return Err(self.damaged("another number of records than the header says"));
        }
        let content = &mut self.content;
        content
            .sha256
            .update(&format::encode_table(&content.footer.chunks));
        if sha256_of(content.sha256.clone()) != content.footer.sha256 {
            return Err(self.damaged("SHA-256 differs"));
        }
        Ok(())
    }

    /// Whether at least `length` unconsumed bytes are in the buffer, after
    /// reading as many chunks as it takes.
    fn fill(&mut self, length: usize) -> Result<bool, SnapshotError> {
        while self.buffer.len() - self.consumed < length {
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
            if !self.content.read_chunk(&mut self.buffer)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn require(&mut self, length: usize) -> Result<(), SnapshotError> {
        if self.fill(length)? {
            Ok(())
        } else {
            Err(self.damaged("the last record is cut off"))
        }
    }

    fn flaw(&self, error: FormatError) -> SnapshotError {
        flaw(&self.content.path, self.content.offset(), error)
    }

    fn damaged(&self, reason: &'static str) -> SnapshotError {
        self.flaw(FormatError::Damaged(reason))
    }
}

impl Iterator for SnapshotReader {
    type Item = Result<Record, SnapshotError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let record = self.read_record().transpose();
        self.ended = !matches!(record, Some(Ok(_)));
        record
    }
}

impl Content {
    /// Appends the next chunk's payload to `buffer`; `false` after the last.
    fn read_chunk(&mut self, buffer: &mut Vec<u8>) -> Result<bool, SnapshotError> {
        let Some(&chunk) = self.footer.chunks.get(self.next) else {
            return Ok(false);
        };
        let mut header = [0; format::CHUNK_HEADER_BYTES];
        self.read(chunk.offset, &mut header)?;
        let begin = buffer.len();
        buffer.resize(begin + chunk.length as usize, 0);
        let payload_offset = chunk.offset + header.len() as u64;
        self.read(payload_offset, &mut buffer[begin..])?;
        let payload = &buffer[begin..];
        let sequence = u32::try_from(self.next).expect("the table was bounded");
        let (expected, crc) = format::encode_chunk(sequence, payload, self.crc);
        let Chunk { offset, .. } = chunk;
        if header != expected || crc != chunk.crc {
            let error = FormatError::Damaged("chunk checksum differs");
            return Err(flaw(&self.path, offset, error));
        }
        self.sha256.update(&header);
        self.sha256.update(payload);
        self.crc = crc;
        self.next += 1;
        Ok(true)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), SnapshotError> {
        read_at(self.file.as_ref(), &self.path, offset, buffer)
    }

    /// How far reading has come.
    fn offset(&self) -> u64 {
        let next = self.footer.chunks.get(self.next);
        next.map_or(self.footer_offset, |chunk| chunk.offset)
    }
}

/// What a file says that it covers, whatever became of the rest of it.
///
/// # Errors
/// The header is damaged or of a newer format, or the disk failed.
pub(super) fn meta_of(file: &dyn File, path: &Path) -> Result<SnapshotMeta, SnapshotError> {
    let length = file.length().map_err(SnapshotError::Disk)?;
    let header = read_header(file, path, length)?;
    let header = Header::decode(&header).map_err(|error| flaw(path, 0, error))?;
    Ok(header.meta)
}

fn read_header(file: &dyn File, path: &Path, length: u64) -> Result<Vec<u8>, SnapshotError> {
    if length < (format::BLOCK_BYTES + format::footer_bytes(0)) as u64 {
        return Err(flaw(
            path,
            length,
            FormatError::Damaged("file ends too early"),
        ));
    }
    let mut block = [0; format::BLOCK_BYTES];
    read_at(file, path, 0, &mut block)?;
    let header_length = Header::length(&block).map_err(|error| flaw(path, 0, error))?;
    if length < header_length as u64 {
        return Err(flaw(path, 0, FormatError::Damaged("header is cut off")));
    }
    let mut header = vec![0; header_length];
    read_at(file, path, 0, &mut header)?;
    Ok(header)
}

fn read_footer(
    file: &dyn File,
    path: &Path,
    length: u64,
    header_length: u64,
) -> Result<(Footer, u64), SnapshotError> {
    let mut tail = [0; format::TAIL_BYTES];
    let tail_offset = length - tail.len() as u64;
    read_at(file, path, tail_offset, &mut tail)?;
    let footer_length =
        format::footer_length(&tail, length).map_err(|error| flaw(path, tail_offset, error))?;
    let Some(footer_offset) = length
        .checked_sub(footer_length as u64)
        .filter(|offset| header_length <= *offset)
    else {
        let error = FormatError::Damaged("footer length out of bounds");
        return Err(flaw(path, tail_offset, error));
    };
    let mut footer = vec![0; footer_length];
    read_at(file, path, footer_offset, &mut footer)?;
    let footer = Footer::decode(&footer, header_length, footer_offset)
        .map_err(|error| flaw(path, footer_offset, error))?;
    Ok((footer, footer_offset))
}

/// Callers stay below the length of the file, so whatever fails is the disk.
fn read_at(
    file: &dyn File,
    path: &Path,
    offset: u64,
    buffer: &mut [u8],
) -> Result<(), SnapshotError> {
    file.read_at(offset, buffer)
        .map_err(|source| SnapshotError::Unreadable {
            path: path.to_owned(),
            offset,
            source,
        })
}

fn flaw(path: &Path, offset: u64, error: FormatError) -> SnapshotError {
    let path = path.to_owned();
    match error {
        FormatError::Damaged(reason) => SnapshotError::Damaged {
            path,
            offset,
            reason,
        },
        FormatError::UnknownVersion(version) => SnapshotError::Unsupported { path, version },
    }
}
