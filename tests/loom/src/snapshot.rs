//! Snapshot files in memory, behind the production folder's interface. The
//! folder's list is under one mutex there too; its files do not matter here.

use std::path::PathBuf;
use std::sync::Arc;

use crate::sync::{Mutex, MutexGuard};
use crate::types::{ClusterId, Record, SnapshotMeta, StateHeader};

/// See the production type.
#[derive(Clone, Debug)]
pub struct SnapshotInfo {
    /// What it covers.
    pub meta: SnapshotMeta,
    /// What else it says.
    pub state: StateHeader,
    /// Where it would be.
    pub path: PathBuf,
    records: Arc<Vec<Record>>,
}

/// See the production type.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Named by the code that sets bad files aside.
    #[error("snapshot {} is damaged at byte {offset}: {reason}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Near which byte.
        offset: u64,
        /// What is wrong.
        reason: &'static str,
    },
}

impl SnapshotError {
    /// As of the production type.
    pub fn is_about_content(&self) -> bool {
        true
    }
}

/// A folder.
#[derive(Default)]
pub struct SnapshotDirectory {
    all: Mutex<Vec<SnapshotInfo>>,
}

/// A received snapshot before it has its name.
pub struct StagedSnapshot(SnapshotInfo);

/// A snapshot being written.
pub struct SnapshotWriter<'a> {
    directory: &'a SnapshotDirectory,
    meta: SnapshotMeta,
    state: StateHeader,
    records: Vec<Record>,
}

impl StagedSnapshot {
    /// An empty one of a position.
    pub fn of(meta: SnapshotMeta) -> Self {
        Self(SnapshotInfo {
            path: PathBuf::from(format!("{}", meta.index)),
            meta,
            state: StateHeader::default(),
            records: Arc::default(),
        })
    }

    /// What it is.
    pub fn info(&self) -> &SnapshotInfo {
        &self.0
    }
}

impl SnapshotDirectory {
    /// Oldest first.
    pub fn all(&self) -> Vec<SnapshotInfo> {
        self.list().clone()
    }

    /// Gives a received one its name.
    pub fn publish(&self, staged: StagedSnapshot) -> Result<SnapshotInfo, SnapshotError> {
        self.list().push(staged.0.clone());
        Ok(staged.0)
    }

    /// Begins one.
    pub fn writer(
        &self,
        _cluster: ClusterId,
        meta: SnapshotMeta,
        state: StateHeader,
    ) -> Result<SnapshotWriter<'_>, SnapshotError> {
        Ok(SnapshotWriter {
            directory: self,
            meta,
            state,
            records: Vec::new(),
        })
    }

    /// The same.
    pub fn overlapped_writer(
        &self,
        cluster: ClusterId,
        meta: SnapshotMeta,
        state: StateHeader,
    ) -> Result<SnapshotWriter<'_>, SnapshotError> {
        self.writer(cluster, meta, state)
    }

    /// Its records.
    pub fn reader(
        &self,
        info: &SnapshotInfo,
    ) -> Result<Vec<Result<Record, SnapshotError>>, SnapshotError> {
        Ok(info.records.iter().cloned().map(Ok).collect())
    }

    /// Whole, always.
    pub fn verify(&self, _info: &SnapshotInfo) -> Result<(), SnapshotError> {
        Ok(())
    }

    /// Never happens here.
    pub fn set_aside(
        &self,
        info: &SnapshotInfo,
        _error: &SnapshotError,
    ) -> Result<(), SnapshotError> {
        self.list().retain(|other| other.path != info.path);
        Ok(())
    }

    /// Keeps the newest.
    pub fn prune(&self, keep: usize) -> Result<(), SnapshotError> {
        let mut all = self.list();
        let excess = all.len().saturating_sub(keep);
        all.drain(..excess);
        Ok(())
    }

    fn list(&self) -> MutexGuard<'_, Vec<SnapshotInfo>> {
        self.all.lock().expect("nobody panics while holding it")
    }
}

impl SnapshotWriter<'_> {
    /// Adds a record.
    pub fn add(&mut self, record: &Record) -> Result<(), SnapshotError> {
        self.records.push(record.clone());
        Ok(())
    }

    /// Publishes it.
    pub fn finish(self) -> Result<(), SnapshotError> {
        let mut staged = StagedSnapshot::of(self.meta);
        staged.0.state = self.state;
        staged.0.records = Arc::new(self.records);
        self.directory.publish(staged).map(drop)
    }
}
