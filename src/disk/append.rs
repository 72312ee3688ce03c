//! Appending to a segment of the operating system's: the mode asked for, or
//! what the file system allows instead.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::direct::DurableWriter;
use super::mapped::MappedSegment;
use super::{AppendMode, BLOCK_BYTES, DiskError, DiskResult, SegmentIo};

/// A segment open for appending.
pub(super) struct RealSegment {
    file: File,
    path: PathBuf,
    length: u64,
    writer: Writer,
}

enum Writer {
    Writes(DurableWriter),
    Map(MappedSegment),
}

impl RealSegment {
    pub(super) fn open(path: &Path, mode: AppendMode) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let writer = match mode {
            AppendMode::Direct => Writer::Writes(DurableWriter::open(path)?),
            AppendMode::Cached => Writer::Writes(DurableWriter::cached()),
            // Where a store could end the process with a signal, writes it is.
            AppendMode::Mapped => match MappedSegment::open(&file)? {
                Some(map) => Writer::Map(map),
                None => Writer::Writes(DurableWriter::open(path)?),
            },
        };
        Ok(Self {
            length: file.metadata()?.len(),
            file,
            path: path.to_path_buf(),
            writer,
        })
    }
}

impl SegmentIo for RealSegment {
    fn append(&mut self, offset: u64, blocks: &[u8]) -> DiskResult<()> {
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64));
        assert!(blocks.len().is_multiple_of(BLOCK_BYTES));
        assert!(offset + blocks.len() as u64 <= self.length);
        let result = match &mut self.writer {
            Writer::Writes(writer) => writer.write(&self.file, offset, blocks),
            Writer::Map(map) => map.append(offset, blocks),
        };
        result.map_err(|error| DiskError::new("append to", &self.path, error))
    }

    fn way(&self) -> &'static str {
        match &self.writer {
            Writer::Writes(writer) => writer.way(),
            Writer::Map(_) => "stores through a map and msync",
        }
    }
}
