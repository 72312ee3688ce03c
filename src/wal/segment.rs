//! Segment files: their names, reading batches from them, the one being
//! written.

use std::io;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use crate::disk::{BlockBuffer, Disk, DiskError, DiskResult, File, Mapped, SegmentIo};
use crate::sync::{Mutex, MutexGuard};

use super::batch::{BatchId, WriteBuffer};
use super::format::{HeaderFault, SealRow, SegmentHeader};
use super::walk::OpenSegment;

/// Name of the segment being prepared.
pub(super) const SPARE_NAME: &str = "spare";
/// Name of the segment kept for a full disk.
pub(super) const RESERVE_NAME: &str = "reserve";
/// Name of the reserve while it is filled.
pub(super) const RESERVE_UNFINISHED_NAME: &str = "reserve.tmp";
const SUFFIX: &str = ".wal";

/// File name of a segment: its sequence number in 16 hexadecimal digits, so
/// that names sort as segments do.
pub(super) fn segment_name(sequence: u64) -> String {
    format!("{sequence:016x}{SUFFIX}")
}

/// The inverse of [`segment_name`]; `None` for any other name.
pub(super) fn parse_segment_name(name: &str) -> Option<u64> {
    let sequence = u64::from_str_radix(name.strip_suffix(SUFFIX)?, 16).ok()?;
    (segment_name(sequence) == name).then_some(sequence)
}

/// The sequence numbers of the segments in a folder, ascending.
pub(super) fn list_segments(disk: &dyn Disk, dir: &Path) -> DiskResult<Vec<u64>> {
    let names = disk.list(dir)?;
    Ok(names
        .iter()
        .filter_map(|name| parse_segment_name(name))
        .collect())
}

/// A segment as readers see it: read by call while it is being written, mapped
/// once it is closed.
pub(super) struct SegmentFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    header: SegmentHeader,
    source: Mutex<Source>,
}

enum Source {
    Active(Box<dyn File>),
    Closed,
    Mapped(Arc<dyn Mapped>),
}

/// A batch's bytes; those of a closed segment keep its map alive.
pub(super) enum BatchBytes {
    Read(Vec<u8>),
    Mapped(Arc<dyn Mapped>, Range<usize>),
}

impl SegmentFile {
    /// The segment being written.
    pub fn active(disk: Arc<dyn Disk>, dir: &Path, header: SegmentHeader) -> DiskResult<Self> {
        let mut segment = Self::closed(disk, dir, header);
        let file = segment.disk.open(&segment.path)?;
        segment.source = Mutex::new(Source::Active(file));
        Ok(segment)
    }

    /// A segment nobody will write to again.
    pub fn closed(disk: Arc<dyn Disk>, dir: &Path, header: SegmentHeader) -> Self {
        Self {
            disk,
            path: dir.join(segment_name(header.sequence)),
            header,
            source: Mutex::new(Source::Closed),
        }
    }

    /// Nobody will write to it again: from now on it is mapped when read.
    pub fn close(&self) {
        *self.source() = Source::Closed;
    }

    /// Whether nobody will write to it again.
    pub fn is_closed(&self) -> bool {
        !matches!(*self.source(), Source::Active(_))
    }

    /// Opens it for reading what is on the disk, past every cache.
    pub fn reopen(&self) -> DiskResult<Result<OpenSegment, HeaderFault>> {
        let dir = self.path.parent().unwrap_or(Path::new(""));
        OpenSegment::open(&*self.disk, dir, self.header.sequence)
    }

    /// Its header.
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// Its place.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of the batch at an offset.
    pub fn batch(&self, offset: u64, length: u32) -> DiskResult<BatchBytes> {
        let mut source = self.source();
        if let Source::Active(file) = &*source {
            let mut bytes = vec![0; length as usize];
            file.read_blocks(offset, &mut bytes)?;
            return Ok(BatchBytes::Read(bytes));
        }
        let map = match &*source {
            Source::Mapped(map) => Arc::clone(map),
            _ => self.disk.map(&self.path)?,
        };
        *source = Source::Mapped(Arc::clone(&map));
        let start = usize::try_from(offset).expect("offsets in a segment fit 32 bits");
        let range = start..start + length as usize;
        if range.end > map.bytes().len() {
            let error = io::ErrorKind::UnexpectedEof.into();
            return Err(DiskError::new("read", &self.path, error));
        }
        Ok(BatchBytes::Mapped(map, range))
    }

    fn source(&self) -> MutexGuard<'_, Source> {
        // Every state is valid, whoever panicked while holding it.
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for BatchBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Read(bytes) => bytes,
            Self::Mapped(map, range) => &map.bytes()[range.clone()],
        }
    }
}

/// The segment being written.
pub(super) struct Tail {
    pub io: Box<dyn SegmentIo>,
    pub header: SegmentHeader,
    /// Where the next write begins.
    pub offset: u64,
    /// The last batch before it.
    pub last: BatchId,
    /// Every batch of the segment so far.
    pub rows: Vec<SealRow>,
    /// The same segment as readers see it.
    pub segment: Arc<SegmentFile>,
    /// Memory of the last write, for the next one.
    pub memory: BlockBuffer,
}

impl Tail {
    /// An empty write at the end.
    pub fn begin_write(&mut self) -> WriteBuffer {
        let memory = std::mem::take(&mut self.memory);
        WriteBuffer::within(memory, self.header, self.offset, self.last)
    }

    /// Makes a write durable and moves past it. After an error nothing here
    /// may be used again.
    pub fn write(&mut self, write: &WriteBuffer) -> DiskResult<()> {
        assert!(write.offset() == self.offset);
        assert!(write.end() <= self.header.area_end());
        self.io.append(self.offset, write.bytes())?;
        self.offset = write.end();
        self.last = write.last();
        self.rows
            .extend(write.closed().iter().map(|batch| batch.row));
        Ok(())
    }
}
