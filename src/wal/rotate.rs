//! Rotation: preparing the next segment ahead of need, closing the full one.
//!
//! The order is what makes a crash harmless at any point:
//!
//! 1. fill the spare with zeros (or have it allocated, which reads as zeros),
//!    write its headers, sync, rename it to its final name, sync the folder —
//!    an empty successor means nothing;
//! 2. write the SEAL batch to the full segment — now the successor must exist;
//! 3. the next batch starts the successor.
//!
//! A disk may be full when step 1 needs room. For that case a **reserve** is
//! kept: a filled segment under another name, which becomes the spare when no
//! other can be filled. With it a node goes on voting, deleting and purging
//! after its disk is full; it is filled anew when there is room for several.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::disk::{AppendMode, BlockBuffer, Disk, DiskError, DiskResult, File, SegmentIo};

use super::error::Stop;
use super::format::{BLOCK, SegmentHeader};
use super::segment::{
    RESERVE_NAME, RESERVE_UNFINISHED_NAME, SPARE_NAME, SegmentFile, segment_name,
};

/// Zeros are written in pieces of this many bytes, past the page cache: larger
/// ones keep the appends between them waiting, and a cached piece waits for a
/// sync that writes them all at once.
const FILL_BYTES: usize = 128 << 10;
/// A spare is all zeros when this part of the segment before it is used.
const ZEROED_AT: (u64, u64) = (7, 8);
/// Writes of this many bytes ask for no zeros in advance: they go about as fast
/// to blocks that were never written, and zeroing would take half of the disk.
const LARGE_WRITE_BYTES: u64 = 512 << 10;
/// A reserve is in no hurry: one piece each so often.
const RESERVE_PAUSE: Duration = Duration::from_millis(5);

/// The file the next segment will be made of.
pub(super) struct Spare {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    bytes: u64,
    job: Option<Job>,
    reserve_job: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

/// A spare that is being filled.
struct Job {
    thread: JoinHandle<DiskResult<Box<dyn File>>>,
    pace: Arc<Pace>,
    /// Zeros asked for, in bytes, and told to the thread.
    asked: u64,
    told: u64,
}

/// How far a spare is to be zeroed by now.
struct Pace {
    /// In bytes; [`ENOUGH`]: the segment is needed.
    target: AtomicU64,
}

/// No more zeros than there are.
const ENOUGH: u64 = u64::MAX;

/// What to do before the next piece.
enum Next {
    Fill,
    /// What is allocated need not be zeroed.
    Enough,
    /// Nobody wants the file any more.
    Stop,
}

/// A reserve is filled only if that leaves room for so many segments more.
const RESERVE_ROOM: u64 = 4;

impl Spare {
    /// Prepares spares of `bytes` bytes in a folder; none yet.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, bytes: u64) -> Self {
        Self {
            disk,
            dir: dir.to_path_buf(),
            bytes,
            job: None,
            reserve_job: None,
            stop: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Has the spare zeroed as fast as the current segment is filled, into which
    /// so many bytes were just written, up to `used` of `whole`. On a thread of
    /// its own, in small pieces, so that appends meet one piece at most and
    /// never a whole segment of zeros.
    pub fn keep_pace(&mut self, written_bytes: u64, used: u64, whole: u64) {
        if self.job.is_none() {
            // More than this write after the log was opened.
            self.job = self.begin(used - written_bytes);
        }
        let Some(job) = &mut self.job else { return };
        if written_bytes < LARGE_WRITE_BYTES {
            job.asked += written_bytes * ZEROED_AT.1 / ZEROED_AT.0;
        }
        if job.told + FILL_BYTES as u64 <= job.asked {
            job.tell(job.asked);
            if used > whole / 2 {
                self.replenish();
            }
        }
    }

    /// Without a thread the spare is made when it is needed.
    fn begin(&self, asked: u64) -> Option<Job> {
        let (disk, dir, bytes) = (Arc::clone(&self.disk), self.dir.clone(), self.bytes);
        let pace = Arc::new(Pace {
            target: AtomicU64::new(0),
        });
        let (stop, told) = (Arc::clone(&self.stop), Arc::clone(&pace));
        let next = move |offset: u64| loop {
            let target = told.target.load(Ordering::Acquire);
            if stop.load(Ordering::Relaxed) {
                return Next::Stop;
            } else if target == ENOUGH {
                return Next::Enough;
            } else if offset < target {
                return Next::Fill;
            }
            thread::park();
        };
        let thread = thread::Builder::new().name("wal-spare".into());
        let thread = thread.spawn(move || fill(&*disk, &dir, SPARE_NAME, bytes, next));
        thread.ok().map(|thread| Job {
            thread,
            pace,
            asked,
            told: 0,
        })
    }

    /// A file of at least `bytes` zeros: the prepared one if it is large
    /// enough, else one filled now.
    pub fn take(&mut self, bytes: u64) -> Result<(Box<dyn File>, u64), Stop> {
        if let Some(mut job) = self.job.take() {
            job.tell(ENOUGH);
            if let Ok(Ok(file)) = job.thread.join()
                && bytes <= self.bytes
            {
                return Ok((file, self.bytes));
            }
        }
        // A spare that failed in the background (a full disk, say) is tried
        // again: nothing was ever acknowledged in that file.
        let filled_bytes = bytes.max(self.bytes);
        match self.fill_spare(filled_bytes) {
            Ok(file) => Ok((file, filled_bytes)),
            Err(error) if error.is_full() => {
                // What was filled of it is room that others need.
                remove_spare(&*self.disk, &self.dir)?;
                let reserve = self.take_reserve(bytes)?;
                reserve.ok_or(Stop::Full { done: 0, error })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn fill_spare(&self, bytes: u64) -> DiskResult<Box<dyn File>> {
        // Not by trial: the last free bytes are others' too.
        if self.disk.free_bytes(&self.dir)? < bytes {
            let error = std::io::ErrorKind::StorageFull.into();
            return Err(DiskError::new("fill", &self.dir.join(SPARE_NAME), error));
        }
        fill(&*self.disk, &self.dir, SPARE_NAME, bytes, |_| Next::Fill)
    }

    /// Makes the reserve the spare, if it is there and large enough.
    fn take_reserve(&mut self, bytes: u64) -> DiskResult<Option<(Box<dyn File>, u64)>> {
        let reserve = self.dir.join(RESERVE_NAME);
        if !self.disk.exists(&reserve)? {
            return Ok(None);
        }
        let file = self.disk.open(&reserve)?;
        let length = file.length()?;
        if length < bytes || length > u64::from(u32::MAX) / 2 || !length.is_multiple_of(BLOCK) {
            return Ok(None);
        }
        self.disk.rename(&reserve, &self.dir.join(SPARE_NAME))?;
        tracing::warn!("the disk is full: the log goes on in its reserve");
        Ok(Some((file, length)))
    }

    /// Begins to fill the reserve on a thread of its own, unless there is one
    /// or no room for it.
    pub fn replenish(&mut self) {
        if self
            .reserve_job
            .as_ref()
            .is_some_and(|job| !job.is_finished())
        {
            return;
        }
        let reserve = self.dir.join(RESERVE_NAME);
        let is_there = self.disk.exists(&reserve).unwrap_or(true);
        let free = self.disk.free_bytes(&self.dir).unwrap_or(0);
        if is_there || free / RESERVE_ROOM < self.bytes {
            return;
        }
        let (disk, dir, bytes) = (Arc::clone(&self.disk), self.dir.clone(), self.bytes);
        let stop = Arc::clone(&self.stop);
        let next = move |_| {
            thread::park_timeout(RESERVE_PAUSE);
            match stop.load(Ordering::Relaxed) {
                true => Next::Stop,
                false => Next::Fill,
            }
        };
        let job = thread::Builder::new().name("wal-reserve".into());
        // Without a thread, or without room after all, it is tried again.
        self.reserve_job = job
            .spawn(move || {
                let unfinished = dir.join(RESERVE_UNFINISHED_NAME);
                let filled = fill(&*disk, &dir, RESERVE_UNFINISHED_NAME, bytes, next)
                    .and_then(|_| disk.rename(&unfinished, &dir.join(RESERVE_NAME)));
                if filled.is_err() {
                    let _ = disk.remove(&unfinished);
                }
            })
            .ok();
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(job) = self.job.take() {
            job.thread.thread().unpark();
            // The file it made is removed when the log is opened next.
            let _ = job.thread.join();
        }
        if let Some(job) = self.reserve_job.take() {
            job.thread().unpark();
            let _ = job.join();
        }
    }
}

impl Job {
    /// Raises the target.
    fn tell(&mut self, target: u64) {
        self.told = target;
        self.pace.target.store(target, Ordering::Release);
        self.thread.thread().unpark();
    }
}

/// Removes what is left of a spare.
pub(super) fn remove_spare(disk: &dyn Disk, dir: &Path) -> DiskResult<()> {
    remove(disk, &dir.join(SPARE_NAME))
}

fn remove(disk: &dyn Disk, path: &Path) -> DiskResult<()> {
    match disk.exists(path)? {
        true => disk.remove(path),
        false => Ok(()),
    }
}

/// Creates a file of zeros, durable up to where `next` says that it is enough.
/// It is asked before each piece, with how far zeroing has come, and may wait.
fn fill(
    disk: &dyn Disk,
    dir: &Path,
    name: &str,
    bytes: u64,
    next: impl Fn(u64) -> Next,
) -> DiskResult<Box<dyn File>> {
    let path = dir.join(name);
    remove(disk, &path)?;
    let mut file = disk.create(&path)?;
    let is_allocated = file.allocate(bytes)?;
    let zeros = BlockBuffer::zeroed(FILL_BYTES);
    let mut offset = 0;
    while offset < bytes {
        match next(offset) {
            // The rest is made durable with the headers.
            Next::Enough if is_allocated => return Ok(file),
            Next::Fill | Next::Enough => {}
            Next::Stop => {
                let error = std::io::ErrorKind::Interrupted.into();
                return Err(DiskError::new("fill", &path, error));
            }
        }
        let length =
            usize::try_from(bytes - offset).map_or(FILL_BYTES, |left| left.min(FILL_BYTES));
        file.write_blocks(offset, &zeros.as_slice()[..length])?;
        offset += length as u64;
    }
    file.sync()?;
    file.drop_cache()?;
    Ok(file)
}

/// Gives a spare its headers and its final name, durably.
pub(super) fn activate(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    mut file: Box<dyn File>,
    header: SegmentHeader,
    mode: AppendMode,
) -> DiskResult<(Box<dyn SegmentIo>, Arc<SegmentFile>)> {
    let mut block = vec![0; BLOCK as usize];
    let encoded = header.encode();
    assert!(SegmentHeader::decode(&encoded) == Ok(header));
    block[..encoded.len()].copy_from_slice(&encoded);
    file.write_at(0, &block)?;
    file.write_at(header.area_end(), &block)?;
    file.sync()?;
    file.drop_cache()?;
    drop(file);
    let path = dir.join(segment_name(header.sequence));
    disk.rename(&dir.join(SPARE_NAME), &path)?;
    disk.sync_dir(dir)?;
    let segment = SegmentFile::active(Arc::clone(disk), dir, header)?;
    Ok((disk.segment_io(&path, mode)?, Arc::new(segment)))
}
