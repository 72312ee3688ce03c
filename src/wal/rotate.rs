//! Rotation: preparing the next segment ahead of need, closing the full one.
//!
//! The order is what makes a crash harmless at any point:
//!
//! 1. fill the spare with zeros, write its headers, sync, rename it to its
//!    final name, sync the folder — an empty successor means nothing;
//! 2. write the SEAL batch to the full segment — now the successor must exist;
//! 3. the next batch starts the successor.
//!
//! A disk may be full when step 1 needs room. For that case a **reserve** is
//! kept: a filled segment under another name, which becomes the spare when no
//! other can be filled. With it a node goes on voting, deleting and purging
//! after its disk is full; it is filled anew when there is room for several.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crate::disk::{AppendMode, Disk, DiskError, DiskResult, File, SegmentIo};

use super::error::Stop;
use super::format::{BLOCK, SegmentHeader};
use super::segment::{
    RESERVE_NAME, RESERVE_UNFINISHED_NAME, SPARE_NAME, SegmentFile, segment_name,
};

/// Zeros are written in pieces of this many bytes: larger ones make the page
/// cache use large folios that later cost more than they save.
const FILL_BYTES: usize = 128 << 10;
/// And synced every so many bytes, so that filling a spare does not leave the
/// log's own syncs waiting behind a full segment of dirty pages.
const FILL_SYNC_BYTES: u64 = 4 << 20;

/// The file the next segment will be made of.
pub(super) struct Spare {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    bytes: u64,
    stop: Arc<AtomicBool>,
    job: Option<JoinHandle<DiskResult<Box<dyn File>>>>,
    reserve_job: Option<JoinHandle<()>>,
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
            stop: Arc::new(AtomicBool::new(false)),
            job: None,
            reserve_job: None,
        }
    }

    /// Begins to fill a spare on a thread of its own, unless one is begun.
    pub fn prepare_in_background(&mut self) {
        if self.job.is_some() {
            return;
        }
        let (disk, dir, bytes) = (Arc::clone(&self.disk), self.dir.clone(), self.bytes);
        let stop = Arc::clone(&self.stop);
        let job = thread::Builder::new().name("wal-spare".into());
        // Without a thread the spare is made when it is needed.
        self.job = job
            .spawn(move || fill(&*disk, &dir, SPARE_NAME, bytes, &stop))
            .ok();
    }

    /// A file of at least `bytes` zeros: the prepared one if it is large
    /// enough, else one filled now.
    pub fn take(&mut self, bytes: u64) -> Result<(Box<dyn File>, u64), Stop> {
        if let Some(job) = self.job.take()
            && let Ok(Ok(file)) = job.join()
            && bytes <= self.bytes
        {
            return Ok((file, self.bytes));
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
        fill(&*self.disk, &self.dir, SPARE_NAME, bytes, &self.stop)
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
        let job = thread::Builder::new().name("wal-reserve".into());
        // Without a thread, or without room after all, it is tried again.
        self.reserve_job = job
            .spawn(move || {
                let unfinished = dir.join(RESERVE_UNFINISHED_NAME);
                let filled = fill(&*disk, &dir, RESERVE_UNFINISHED_NAME, bytes, &stop)
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
            // The file it made is removed when the log is opened next.
            let _ = job.join();
        }
        if let Some(job) = self.reserve_job.take() {
            let _ = job.join();
        }
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

fn fill(
    disk: &dyn Disk,
    dir: &Path,
    name: &str,
    bytes: u64,
    stop: &AtomicBool,
) -> DiskResult<Box<dyn File>> {
    let path = dir.join(name);
    remove(disk, &path)?;
    let mut file = disk.create(&path)?;
    let zeros = vec![0; FILL_BYTES];
    let mut offset = 0;
    while offset < bytes {
        if stop.load(Ordering::Relaxed) {
            let error = std::io::ErrorKind::Interrupted.into();
            return Err(DiskError::new("fill", &path, error));
        }
        let piece = &zeros[..zeros
            .len()
            .min(usize::try_from(bytes - offset).unwrap_or(FILL_BYTES))];
        file.write_at(offset, piece)?;
        offset += piece.len() as u64;
        if offset.is_multiple_of(FILL_SYNC_BYTES) {
            file.sync()?;
        }
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
