//! Rotation: preparing the next segment ahead of need, closing the full one.
//!
//! The order is what makes a crash harmless at any point:
//!
//! 1. fill the spare with zeros, write its headers, sync, rename it to its
//!    final name, sync the folder — an empty successor means nothing;
//! 2. write the SEAL batch to the full segment — now the successor must exist;
//! 3. the next batch starts the successor.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crate::disk::{AppendMode, Disk, DiskError, DiskResult, File, SegmentIo};

use super::format::{BLOCK, SegmentHeader};
use super::segment::{SPARE_NAME, SegmentFile, segment_name};

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
}

impl Spare {
    /// Prepares spares of `bytes` bytes in a folder; none yet.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, bytes: u64) -> Self {
        Self {
            disk,
            dir: dir.to_path_buf(),
            bytes,
            stop: Arc::new(AtomicBool::new(false)),
            job: None,
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
        self.job = job.spawn(move || fill(&*disk, &dir, bytes, &stop)).ok();
    }

    /// A file of at least `bytes` zeros: the prepared one if it is large
    /// enough, else one filled now.
    pub fn take(&mut self, bytes: u64) -> DiskResult<(Box<dyn File>, u64)> {
        if let Some(job) = self.job.take()
            && let Ok(Ok(file)) = job.join()
            && bytes <= self.bytes
        {
            return Ok((file, self.bytes));
        }
        // A spare that failed in the background (a full disk, say) is tried
        // again: nothing was ever acknowledged in that file.
        let bytes = bytes.max(self.bytes);
        fill(&*self.disk, &self.dir, bytes, &self.stop).map(|file| (file, bytes))
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(job) = self.job.take() {
            // The file it made is removed when the log is opened next.
            let _ = job.join();
        }
    }
}

/// Removes what is left of a spare.
pub(super) fn remove_spare(disk: &dyn Disk, dir: &Path) -> DiskResult<()> {
    let path = dir.join(SPARE_NAME);
    match disk.exists(&path)? {
        true => disk.remove(&path),
        false => Ok(()),
    }
}

fn fill(disk: &dyn Disk, dir: &Path, bytes: u64, stop: &AtomicBool) -> DiskResult<Box<dyn File>> {
    remove_spare(disk, dir)?;
    let path = dir.join(SPARE_NAME);
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
