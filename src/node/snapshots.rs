//! The snapshot files of a running node: written by the snapshotter, staged by
//! the transport, published by the WAL thread, loaded by the apply thread.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use crate::snapshot::{SnapshotDirectory, SnapshotError, SnapshotInfo, StagedSnapshot};
use crate::store::{RestoreError, Store, View};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::types::{ClusterId, LogIndex, SnapshotMeta, Term};

use super::wal_thread::chain;

/// Snapshots kept: the newest, and one to fall back to.
const KEPT_COUNT: usize = 2;

/// Shared by all threads of a node.
pub(super) struct Snapshots {
    directory: SnapshotDirectory,
    /// Whether a snapshot is written by two threads.
    is_overlapped: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    cluster: ClusterId,
    is_writing: bool,
    /// Received and verified; the next one replaces it.
    staged: Option<StagedSnapshot>,
    /// Handed to the core, which may have decided to begin its log after it:
    /// kept until published, or until the log is past it anyway.
    claimed: BTreeMap<Position, StagedSnapshot>,
}

type Position = (LogIndex, Term);

/// Why a snapshot was not loaded. The store is unchanged.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    /// No file covers that.
    #[error("snapshot at index {0} is not here")]
    Missing(LogIndex),
    /// It does not verify, or the disk failed.
    #[error(transparent)]
    Unreadable(#[from] RestoreError<SnapshotError>),
}

impl LoadError {
    /// Whether the file itself is bad, so that an older one may serve.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Unreadable(RestoreError::Records(error)) => error.is_about_content(),
            Self::Unreadable(RestoreError::Count { .. }) => true,
            Self::Unreadable(RestoreError::Version { .. }) | Self::Missing(_) => false,
        }
    }
}

impl Snapshots {
    pub fn new(directory: SnapshotDirectory) -> Self {
        Self {
            directory,
            is_overlapped: false,
            state: Mutex::default(),
        }
    }

    /// Snapshots are written by two threads: one encodes, one writes.
    pub fn overlapped(directory: SnapshotDirectory) -> Self {
        Self {
            is_overlapped: true,
            ..Self::new(directory)
        }
    }

    /// The folder itself.
    pub fn directory(&self) -> &SnapshotDirectory {
        &self.directory
    }

    /// Names the cluster whose state is written from now on.
    pub fn set_cluster(&self, cluster: ClusterId) {
        self.state().cluster = cluster;
    }

    /// What the files cover, newest first.
    pub fn newest_first(&self) -> Vec<SnapshotInfo> {
        let mut all = self.directory.all();
        all.reverse();
        all
    }

    /// The newest file, if it covers at least this.
    pub fn newest_covering(&self, least: LogIndex) -> Option<SnapshotInfo> {
        let newest = self.newest_first().into_iter().next();
        newest.filter(|info| least <= info.meta.index)
    }

    /// Reads a snapshot that a peer did not take to its end. One that does not
    /// verify is set aside; whether it was. The peer's word alone proves
    /// nothing: its own disk may be the bad one.
    ///
    /// # Errors
    /// The disk failed.
    pub fn set_aside_if_damaged(&self, meta: &SnapshotMeta) -> Result<bool, SnapshotError> {
        let Some(info) = self.published(meta) else {
            return Ok(false);
        };
        match self.directory.verify(&info) {
            Ok(()) => Ok(false),
            Err(error) if error.is_about_content() => {
                self.directory.set_aside(&info, &error)?;
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps a received snapshot until the core asks for it; an older one in
    /// waiting is dropped, and with it its file.
    pub fn stage(&self, snapshot: StagedSnapshot) -> SnapshotMeta {
        let meta = snapshot.info().meta.clone();
        self.state().staged = Some(snapshot);
        meta
    }

    /// Whether this snapshot is here, so that the core may install it; from
    /// now on it stays.
    pub fn claim(&self, meta: &SnapshotMeta, applied: LogIndex) -> bool {
        let wanted = position(meta);
        if self.published(meta).is_some() {
            return true;
        }
        let mut state = self.state();
        // What the log is past is never installed.
        state.claimed.retain(|(index, _), _| *index > applied);
        if state.claimed.contains_key(&wanted) {
            return true;
        }
        match state.staged.take() {
            Some(staged) if position(&staged.info().meta) == wanted => {
                state.claimed.insert(wanted, staged);
                true
            }
            other => {
                state.staged = other;
                false
            }
        }
    }

    /// Gives a claimed snapshot its final name, durably.
    ///
    /// # Errors
    /// The disk failed, or it is not here: either stops the node, because the
    /// core has decided to begin its log after it.
    pub fn publish_claimed(&self, meta: &SnapshotMeta) -> Result<(), String> {
        let claimed = self.state().claimed.remove(&position(meta));
        match claimed {
            Some(staged) => self
                .directory
                .publish(staged)
                .map(|_| ())
                .map_err(|error| chain(&error)),
            None if self.published(meta).is_some() => Ok(()),
            None => Err(format!(
                "install snapshot at index {}: it is not staged here",
                meta.index
            )),
        }
    }

    /// Publishes a snapshot that was received while there is no core to ask
    /// for it, if it covers more than this position.
    ///
    /// # Errors
    /// The disk failed.
    pub fn publish_staged(&self, after: LogIndex) -> Result<Option<SnapshotMeta>, String> {
        let staged = self.state().staged.take();
        let Some(staged) = staged.filter(|staged| after < staged.info().meta.index) else {
            return Ok(None);
        };
        let published = self.directory.publish(staged);
        let info = published.map_err(|error| chain(&error))?;
        Ok(Some(info.meta))
    }

    /// Replaces the store's state; gives back the former one.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load_into(&self, store: &mut Store, meta: &SnapshotMeta) -> Result<Store, LoadError> {
        let info = self.published(meta).ok_or(LoadError::Missing(meta.index))?;
        let reader = self
            .directory
            .reader(&info)
            .map_err(RestoreError::Records)?;
        Ok(store.restore_from(reader, &info.meta, &info.state)?)
    }

    /// Renames a snapshot that does not verify, so that nobody takes it for one
    /// again.
    ///
    /// # Errors
    /// The disk failed.
    pub fn set_aside(&self, info: &SnapshotInfo, error: LoadError) -> Result<(), SnapshotError> {
        let error = match error {
            LoadError::Unreadable(RestoreError::Records(error)) => error,
            _ => SnapshotError::Damaged {
                path: info.path.clone(),
                offset: 0,
                reason: "it holds another number of records than it says",
            },
        };
        self.directory.set_aside(info, &error)
    }

    /// Writes a picture, verified and durable, and removes what is older than
    /// the one before it.
    ///
    /// # Errors
    /// The disk failed, or the node is stopping.
    pub fn write(&self, view: View, stopping: &AtomicBool) -> Result<(), String> {
        self.state().is_writing = true;
        let written = self.write_file(view, stopping);
        self.state().is_writing = false;
        written
    }

    /// Whether one is being written now.
    pub fn is_writing(&self) -> bool {
        self.state().is_writing
    }

    fn write_file(&self, view: View, stopping: &AtomicBool) -> Result<(), String> {
        let cluster = self.state().cluster;
        let (meta, header) = (view.meta(), view.header());
        let writer = match self.is_overlapped {
            true => self.directory.overlapped_writer(cluster, meta, header),
            false => self.directory.writer(cluster, meta, header),
        };
        let mut writer = writer.map_err(|error| chain(&error))?;
        for record in view.records() {
            if stopping.load(Ordering::Relaxed) {
                return Err("the node is being sealed".into());
            }
            writer.add(&record).map_err(|error| chain(&error))?;
        }
        writer.finish().map_err(|error| chain(&error))?;
        self.directory
            .prune(KEPT_COUNT)
            .map_err(|error| chain(&error))
    }

    /// The log must be kept after this position: the end of the older of the
    /// snapshots kept.
    pub fn purge_floor(&self) -> LogIndex {
        let all = self.directory.all();
        if all.len() < KEPT_COUNT {
            return LogIndex(0);
        }
        all[all.len() - KEPT_COUNT].meta.index
    }

    fn published(&self, meta: &SnapshotMeta) -> Option<SnapshotInfo> {
        self.directory
            .all()
            .into_iter()
            .find(|info| position(&info.meta) == position(meta))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one step: a panic elsewhere left it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn position(meta: &SnapshotMeta) -> Position {
    (meta.index, meta.term)
}
