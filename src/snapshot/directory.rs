//! The folder that holds the snapshot files.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, File};
use crate::types::{ClusterId, LogIndex, SnapshotMeta, StateHeader, Term};

use super::format::Header;
use super::output::Output;
use super::reader::meta_of;
use super::receiver::{SnapshotReceiver, StagedSnapshot};
use super::temporary::TemporaryFile;
use super::{SnapshotError, SnapshotInfo, SnapshotReader, SnapshotWriter};

/// A folder of snapshot files. Clones share it; any thread may use it, and
/// every method that touches files blocks.
#[derive(Clone)]
pub struct SnapshotDirectory {
    shared: Arc<Shared>,
}

struct Shared {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    contents: Mutex<Contents>,
    /// Numbers temporary files.
    temporary_count: AtomicU64,
}

#[derive(Default)]
struct Contents {
    /// Ascending by index and term.
    snapshots: Vec<SnapshotInfo>,
    broken: Vec<BrokenSnapshot>,
    published_count: u64,
}

/// A file that was found bad and set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenSnapshot {
    /// Where it is now.
    pub path: PathBuf,
    /// What was wrong; empty for one set aside before this start.
    pub reason: String,
}

impl SnapshotDirectory {
    /// Opens (or creates) the folder: removes unfinished files, lists the
    /// snapshots whose header and footer are sound, and sets the others aside
    /// under `.broken`.
    ///
    /// # Errors
    /// The disk failed, or a file is of a newer format: that one is neither
    /// read nor touched.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, SnapshotError> {
        disk.create_dir_all(path).map_err(SnapshotError::Disk)?;
        let directory = Self {
            shared: Arc::new(Shared {
                disk,
                path: path.to_owned(),
                contents: Mutex::default(),
                temporary_count: AtomicU64::new(0),
            }),
        };
        for name in directory.disk().list(path).map_err(SnapshotError::Disk)? {
            directory.take_in(&name)?;
        }
        directory.sync()?;
        Ok(directory)
    }

    /// The snapshot with the highest index. Its header and footer were sound;
    /// reading it to the end verifies the rest.
    #[must_use]
    pub fn newest(&self) -> Option<SnapshotInfo> {
        self.contents().snapshots.last().cloned()
    }

    /// The snapshot with the highest index that is sound to the last byte, as
    /// read from the disk. Bad ones above it are set aside.
    ///
    /// # Errors
    /// The disk failed.
    pub fn newest_verified(&self) -> Result<Option<SnapshotInfo>, SnapshotError> {
        while let Some(info) = self.newest() {
            match self.verify(&info) {
                Ok(()) => return Ok(Some(info)),
                Err(error) if error.is_about_content() => self.set_aside(&info, &error)?,
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// All snapshots, ascending by index.
    #[must_use]
    pub fn all(&self) -> Vec<SnapshotInfo> {
        self.contents().snapshots.clone()
    }

    /// How many files were given their final name since the folder was opened:
    /// tells a new file from an old one of the same name.
    #[must_use]
    pub fn published_count(&self) -> u64 {
        self.contents().published_count
    }

    /// Files that were found bad, now or before.
    #[must_use]
    pub fn broken(&self) -> Vec<BrokenSnapshot> {
        self.contents().broken.clone()
    }

    /// What the files cover whose header is whole, the broken ones included.
    #[must_use]
    pub fn covers(&self) -> Vec<SnapshotMeta> {
        let (sound, broken) = (self.all(), self.broken());
        let mut all: Vec<SnapshotMeta> = sound.into_iter().map(|info| info.meta).collect();
        for file in broken {
            let opened = self.open_file(&file.path);
            let meta = opened.and_then(|opened| meta_of(opened.as_ref(), &file.path));
            all.extend(meta);
        }
        all
    }

    /// Begins to write a snapshot.
    ///
    /// # Errors
    /// The disk failed.
    pub fn writer(
        &self,
        cluster: ClusterId,
        meta: SnapshotMeta,
        state: StateHeader,
    ) -> Result<SnapshotWriter, SnapshotError> {
        let header = Header {
            cluster,
            meta,
            state,
        };
        let output = Output::here(self.disk(), self.temporary("write")?)?;
        SnapshotWriter::begin(self.clone(), output, header)
    }

    /// The same, but the file is written and read back on threads of its own,
    /// while the caller's encodes what follows.
    ///
    /// # Errors
    /// As of [`SnapshotDirectory::writer`].
    pub fn overlapped_writer(
        &self,
        cluster: ClusterId,
        meta: SnapshotMeta,
        state: StateHeader,
    ) -> Result<SnapshotWriter, SnapshotError> {
        let header = Header {
            cluster,
            meta,
            state,
        };
        let output = Output::beside(self.disk(), self.temporary("write")?)?;
        SnapshotWriter::begin(self.clone(), output, header)
    }

    /// Opens a snapshot. The file stays readable while the reader lives, even
    /// when it is pruned meanwhile.
    ///
    /// # Errors
    /// The disk failed, or header or footer are damaged.
    pub fn reader(&self, info: &SnapshotInfo) -> Result<SnapshotReader, SnapshotError> {
        SnapshotReader::open(self.open_file(&info.path)?, &info.path)
    }

    /// Opens a snapshot for sending its bytes to another node. Stays readable
    /// as [`SnapshotDirectory::reader`] does.
    ///
    /// # Errors
    /// The disk failed.
    pub fn bytes(&self, info: &SnapshotInfo) -> Result<SnapshotBytes, SnapshotError> {
        Ok(SnapshotBytes {
            file: self.open_file(&info.path)?,
            length: info.bytes,
        })
    }

    /// Reads a whole snapshot from the disk, past the cache.
    ///
    /// # Errors
    /// The first flaw, or a failing disk.
    pub fn verify(&self, info: &SnapshotInfo) -> Result<(), SnapshotError> {
        self.verify_file(&info.path).map(|_| ())
    }

    /// Begins to receive a snapshot of `expected_bytes` from another node.
    ///
    /// # Errors
    /// The disk failed.
    pub fn receiver(&self, expected_bytes: u64) -> Result<SnapshotReceiver, SnapshotError> {
        let file = self.temporary("receive")?;
        Ok(SnapshotReceiver::begin(self.clone(), file, expected_bytes))
    }

    /// Gives a received snapshot its final name, durably.
    ///
    /// # Errors
    /// The disk failed.
    pub fn publish(&self, staged: StagedSnapshot) -> Result<SnapshotInfo, SnapshotError> {
        self.publish_file(staged.file, staged.info)
    }

    /// Sets a snapshot aside whose reader reported damage.
    ///
    /// # Errors
    /// The disk failed.
    pub fn set_aside(
        &self,
        info: &SnapshotInfo,
        error: &SnapshotError,
    ) -> Result<(), SnapshotError> {
        self.rename_broken(&info.path, error.to_string())?;
        let mut contents = self.contents();
        contents.snapshots.retain(|other| other.path != info.path);
        Ok(())
    }

    /// Removes all but the newest `keep` snapshots.
    ///
    /// # Errors
    /// The disk failed.
    pub fn prune(&self, keep: usize) -> Result<(), SnapshotError> {
        let excess = {
            let snapshots = &mut self.contents().snapshots;
            let excess = snapshots.len().saturating_sub(keep);
            snapshots.drain(..excess).collect::<Vec<_>>()
        };
        if excess.is_empty() {
            return Ok(());
        }
        for info in excess {
            self.disk()
                .remove(&info.path)
                .map_err(SnapshotError::Disk)?;
        }
        self.sync()
    }

    /// Reads a whole file from the disk, past the cache.
    pub(super) fn verify_file(&self, path: &Path) -> Result<SnapshotInfo, SnapshotError> {
        self.open_uncached(path)?.verify()
    }

    /// As [`SnapshotDirectory::reader`], past the cache.
    pub(super) fn uncached_reader(
        &self,
        info: &SnapshotInfo,
    ) -> Result<SnapshotReader, SnapshotError> {
        self.open_uncached(&info.path)
    }

    fn open_uncached(&self, path: &Path) -> Result<SnapshotReader, SnapshotError> {
        let file = self.open_file(path)?;
        file.drop_cache().map_err(SnapshotError::Disk)?;
        SnapshotReader::open(file, path)
    }

    /// Gives a verified file its final name, durably, and lists it.
    pub(super) fn publish_file(
        &self,
        file: TemporaryFile,
        mut info: SnapshotInfo,
    ) -> Result<SnapshotInfo, SnapshotError> {
        info.path = self
            .shared
            .path
            .join(file_name(info.meta.index, info.meta.term));
        file.rename(&info.path)?;
        self.sync()?;
        self.enlist(info.clone());
        self.contents().published_count += 1;
        Ok(info)
    }

    /// Sorts one name found at the start.
    fn take_in(&self, name: &str) -> Result<(), SnapshotError> {
        let path = self.shared.path.join(name);
        if name.ends_with(TEMPORARY_SUFFIX) {
            return self.disk().remove(&path).map_err(SnapshotError::Disk);
        }
        if name.ends_with(BROKEN_SUFFIX) {
            let reason = String::new();
            self.contents().broken.push(BrokenSnapshot { path, reason });
            return Ok(());
        }
        if !name.ends_with(SNAPSHOT_SUFFIX) {
            tracing::warn!(path = %path.display(), "unknown file among the snapshots");
            return Ok(());
        }
        match SnapshotReader::open(self.open_file(&path)?, &path) {
            Ok(reader) => {
                let info = reader.info().clone();
                if name == file_name(info.meta.index, info.meta.term) {
                    self.enlist(info);
                    return Ok(());
                }
                self.rename_broken(&path, "its name is that of another snapshot".to_owned())
            }
            Err(error) if error.is_about_content() => self.rename_broken(&path, error.to_string()),
            Err(error) => Err(error),
        }
    }

    fn rename_broken(&self, path: &Path, reason: String) -> Result<(), SnapshotError> {
        let mut name = path.to_owned().into_os_string();
        name.push(BROKEN_SUFFIX);
        let broken = PathBuf::from(name);
        tracing::error!(path = %broken.display(), reason, "a snapshot is broken and was set aside");
        self.disk()
            .rename(path, &broken)
            .map_err(SnapshotError::Disk)?;
        self.sync()?;
        self.contents().broken.push(BrokenSnapshot {
            path: broken,
            reason,
        });
        Ok(())
    }

    fn enlist(&self, info: SnapshotInfo) {
        let place = |info: &SnapshotInfo| (info.meta.index, info.meta.term);
        let snapshots = &mut self.contents().snapshots;
        snapshots.retain(|other| place(other) != place(&info));
        let position = snapshots.partition_point(|other| place(other) < place(&info));
        snapshots.insert(position, info);
    }

    fn temporary(&self, purpose: &str) -> Result<TemporaryFile, SnapshotError> {
        let number = self.shared.temporary_count.fetch_add(1, Ordering::Relaxed);
        let name = format!("{purpose}-{number}{TEMPORARY_SUFFIX}");
        TemporaryFile::create(Arc::clone(self.disk()), self.shared.path.join(name))
    }

    fn open_file(&self, path: &Path) -> Result<Box<dyn File>, SnapshotError> {
        self.disk().open(path).map_err(SnapshotError::Disk)
    }

    fn sync(&self) -> Result<(), SnapshotError> {
        self.disk()
            .sync_dir(&self.shared.path)
            .map_err(SnapshotError::Disk)
    }

    fn disk(&self) -> &Arc<dyn Disk> {
        &self.shared.disk
    }

    /// Every change to the lists is one step, so a panic elsewhere while the
    /// lock was held left them whole.
    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.shared
            .contents
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes of a snapshot file, for another node.
pub struct SnapshotBytes {
    file: Box<dyn File>,
    length: u64,
}

impl SnapshotBytes {
    /// Up to `limit` bytes from `offset` on; none at the end.
    ///
    /// # Errors
    /// The disk failed.
    pub fn read(&self, offset: u64, limit: usize) -> Result<Vec<u8>, SnapshotError> {
        let left = self.length.saturating_sub(offset);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(limit);
        let mut bytes = vec![0; length];
        if !bytes.is_empty() {
            self.file
                .read_at(offset, &mut bytes)
                .map_err(SnapshotError::Disk)?;
        }
        Ok(bytes)
    }
}

/// Padded, so that names sort as positions do.
fn file_name(index: LogIndex, term: Term) -> String {
    format!("snap-{:020}-{:020}{SNAPSHOT_SUFFIX}", index.0, term.0)
}

const SNAPSHOT_SUFFIX: &str = ".snap";
const TEMPORARY_SUFFIX: &str = ".tmp";
const BROKEN_SUFFIX: &str = ".broken";
