//! A data directory looked at while no server runs on it: for the tools.
//!
//! Holding one keeps servers out. Nothing is created in it but the lock file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskError, RealDisk};
use crate::snapshot::{SnapshotDirectory, SnapshotError};
use crate::types::{Incarnation, LogIndex, NodeId, SnapshotMeta};

use super::identity::{DirectoryIdentity, IdentityError};

/// Folders and lock of a data directory.
pub(super) const LOCK_NAME: &str = "holdfast.lock";
pub(super) const WAL_FOLDER: &str = "wal";
pub(super) const SNAPSHOT_FOLDER: &str = "snapshots";

/// A locked data directory.
pub struct DataDirectory {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    owner: Option<DirectoryIdentity>,
    _lock: Box<dyn Send + Sync>,
}

/// Why a data directory cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Not a data directory.
    #[error("{} is no data directory: it has no folder {WAL_FOLDER:?}", .0.display())]
    NotOne(PathBuf),
    /// A server runs on it.
    #[error("lock data directory: stop the server first")]
    Locked(#[source] DiskError),
    /// It does not say to whom it belongs.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The disk failed.
    #[error("look at data directory")]
    Disk(#[from] DiskError),
}

impl DataDirectory {
    /// Locks the data directory of a server that is not running.
    ///
    /// # Errors
    /// See [`DirectoryError`].
    pub fn lock(path: &Path) -> Result<Self, DirectoryError> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
        if !disk.exists(&path.join(WAL_FOLDER))? {
            return Err(DirectoryError::NotOne(path.to_path_buf()));
        }
        let lock = disk
            .lock(&path.join(LOCK_NAME))
            .map_err(DirectoryError::Locked)?;
        Ok(Self {
            owner: DirectoryIdentity::read(&*disk, path)?,
            disk,
            path: path.to_path_buf(),
            _lock: lock,
        })
    }

    /// The file system it is on.
    #[must_use]
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The folder of its log.
    #[must_use]
    pub fn wal(&self) -> PathBuf {
        self.path.join(WAL_FOLDER)
    }

    /// The `node_id` it belongs to, as number, with its life; `None`: it does
    /// not say.
    #[must_use]
    pub fn owner(&self) -> Option<(NodeId, Incarnation)> {
        let owner = self.owner.as_ref()?;
        Some((owner.id, owner.incarnation))
    }

    /// Position of the committed membership that excludes it, if it knows one.
    #[must_use]
    pub fn removed_at(&self) -> Option<LogIndex> {
        self.owner.as_ref()?.removed_at
    }

    /// What its newest snapshot covers. Its header and footer are verified; one
    /// without is set aside, as a start of the server would.
    ///
    /// # Errors
    /// The disk failed.
    pub fn newest_snapshot(&self) -> Result<Option<SnapshotMeta>, SnapshotError> {
        let folder = self.path.join(SNAPSHOT_FOLDER);
        if !self.disk.exists(&folder).map_err(SnapshotError::Disk)? {
            return Ok(None);
        }
        let snapshots = SnapshotDirectory::open(Arc::clone(&self.disk), &folder)?;
        Ok(snapshots.newest().map(|info| info.meta))
    }

    /// The configured `node_id` it belongs to.
    #[must_use]
    pub fn node_name(&self) -> Option<&str> {
        self.owner.as_ref().map(|owner| owner.name.as_str())
    }
}
