//! A file that is being written: appended to, poisoned by the first failure,
//! removed unless it is published.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskResult, File};

use super::SnapshotError;

/// A `.tmp` file. Dropping it removes the file; what a crash leaves is removed
/// at the next start.
pub struct TemporaryFile {
    disk: Arc<dyn Disk>,
    file: Box<dyn File>,
    path: PathBuf,
    length: u64,
    poisoned: bool,
    renamed: bool,
}

impl TemporaryFile {
    /// Creates it, empty.
    pub fn create(disk: Arc<dyn Disk>, path: PathBuf) -> Result<Self, SnapshotError> {
        let file = disk.create(&path).map_err(SnapshotError::Disk)?;
        Ok(Self {
            disk,
            file,
            path,
            length: 0,
            poisoned: false,
            renamed: false,
        })
    }

    /// Appends; durable after [`TemporaryFile::sync`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let offset = self.length;
        self.attempt(|file| file.write_at(offset, bytes))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Appends whole blocks at the end of whole blocks, past the page cache
    /// where possible.
    pub fn append_blocks(&mut self, blocks: &[u8]) -> Result<(), SnapshotError> {
        let offset = self.length;
        self.attempt(|file| file.write_blocks(offset, blocks))?;
        self.length += blocks.len() as u64;
        Ok(())
    }

    /// Makes everything appended durable.
    pub fn sync(&mut self) -> Result<(), SnapshotError> {
        self.attempt(|file| file.sync())
    }

    /// Gives the file its final name. The name is durable after a sync of the
    /// folder.
    pub fn rename(mut self, to: &Path) -> Result<(), SnapshotError> {
        self.disk
            .rename(&self.path, to)
            .map_err(SnapshotError::Disk)?;
        self.renamed = true;
        Ok(())
    }

    /// Bytes appended.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Its present name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn attempt(
        &mut self,
        operation: impl FnOnce(&mut dyn File) -> DiskResult<()>,
    ) -> Result<(), SnapshotError> {
        if self.poisoned {
            return Err(SnapshotError::Poisoned {
                path: self.path.clone(),
            });
        }
        operation(self.file.as_mut()).map_err(|error| {
            self.poisoned = true;
            SnapshotError::Disk(error)
        })
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.renamed
            && let Err(error) = self.disk.remove(&self.path)
        {
            tracing::warn!(%error, "an unfinished snapshot file stays until the next start");
        }
    }
}
