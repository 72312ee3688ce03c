//! What the disk holds when a node is opened or unsealed, made into a store
//! and a state the core can start from.
//!
//! Crash points of taking in a snapshot (rule 8): a staged file is deleted on
//! start; a published one whose reset record is missing is the newest snapshot
//! and the log does not contain its end: the record is written now. A newest
//! snapshot that does not verify is set aside, and the one before it serves,
//! because the log is kept from there.

use std::path::Path;
use std::sync::Arc;

use crate::disk::Disk;
use crate::raft::Recovered;
use crate::store::Store;
use crate::types::{ClusterId, Entry, HardState, LogIndex, LogWrite, SnapshotMeta, Term};
use crate::wal::{Opened, Verdict, Wal, WalError, WalOptions};

use super::error::NodeError;
use super::identity::DirectoryIdentity;
use super::snapshots::Snapshots;
use super::survivors::Forced;
use super::wal_thread::chain;

/// A log ready to be written, and what the core starts from.
pub(super) struct Recovery {
    pub wal: Wal,
    pub cluster: ClusterId,
    pub recovered: Recovered,
    /// The log ended in an unfinished write, which was cut.
    #[cfg(feature = "sim")]
    pub was_torn: bool,
    /// What an operator says in place of the log.
    pub forced: Option<Forced>,
}

impl Recovery {
    /// Whether anything of a cluster has arrived here.
    pub fn has_storage(&self) -> bool {
        !self.recovered.entries.is_empty() || self.recovered.snapshot.is_some()
    }
}

/// Opens the log and brings `store` (empty, or what this process already
/// applied) up to the durable commit index. `None` when there is no log.
///
/// # Errors
/// Damage, another node's log, a gap between snapshot and log, the disk.
pub(super) fn recover(
    disk: &Arc<dyn Disk>,
    directory: &Path,
    identity: &DirectoryIdentity,
    options: &WalOptions,
    snapshots: &Snapshots,
    store: &mut Store,
) -> Result<Option<Recovery>, NodeError> {
    let opened = Wal::open(Arc::clone(disk), directory, None, *options);
    let (mut wal, opened) = match opened {
        Ok(opened) => opened,
        Err(WalError::Missing(_)) => return Ok(None),
        Err(error) => return Err(NodeError::Log(error)),
    };
    tracing::info!(appends = wal.append_way(), "the log is open");
    let owner = wal.identity();
    if owner.node != identity.id || owner.incarnation != identity.incarnation {
        return Err(NodeError::ForeignLog {
            directory: directory.display().to_string(),
        });
    }
    let Opened {
        mut hard_state,
        base,
        mut entries,
        verdict,
        ..
    } = opened;
    if let Verdict::TornTail { .. } = verdict {
        tracing::warn!(?verdict, "the log ended in an unfinished write");
    }
    let snapshot = load_snapshot(snapshots, store, base.0)?;
    if let Some(meta) = &snapshot
        && !contains(&entries, base, meta)
    {
        // The log does not know this snapshot: it was received, published, and
        // the crash came before its record.
        hard_state = redo_reset(&mut wal, hard_state, meta)?;
        entries.clear();
    }
    let last_index = entries.last().map_or_else(
        || snapshot.as_ref().map_or(base.0, |meta| meta.index),
        |entry| entry.index,
    );
    if hard_state.commit_index > last_index {
        // Written never ahead of the entries: the tail is lost, not torn.
        return Err(NodeError::LostTail {
            last: last_index,
            commit: hard_state.commit_index,
        });
    }
    replay(store, &entries, hard_state.commit_index)?;
    // What was applied was committed, whatever was noted of it.
    hard_state.commit_index = hard_state.commit_index.max(store.applied_index());
    Ok(Some(Recovery {
        wal,
        #[cfg(feature = "sim")]
        was_torn: matches!(verdict, Verdict::TornTail { .. }),
        forced: None,
        cluster: owner.cluster,
        recovered: Recovered {
            hard_state,
            snapshot,
            entries,
            applied_index: store.applied_index(),
        },
    }))
}

/// Loads the newest snapshot that verifies and that the log reaches back to;
/// into a store that already holds later state nothing needs loading.
fn load_snapshot(
    snapshots: &Snapshots,
    store: &mut Store,
    base: LogIndex,
) -> Result<Option<SnapshotMeta>, NodeError> {
    let first = base.next();
    let mut broken = None;
    for info in snapshots.newest_first() {
        let meta = info.meta.clone();
        if meta.index.next() < first {
            break;
        }
        if meta.index <= store.applied_index() {
            return Ok(Some(meta));
        }
        match snapshots.load_into(store, &meta) {
            Ok(_empty) => return Ok(Some(meta)),
            Err(error) if error.is_damage() => {
                broken = Some(chain(&error));
                snapshots
                    .set_aside(&info, error)
                    .map_err(NodeError::Snapshots)?;
            }
            Err(error) => return Err(NodeError::Load(chain(&error))),
        }
    }
    if LogIndex(1) < first {
        return Err(NodeError::Gap {
            first,
            broken: broken.unwrap_or_else(|| "none".into()),
        });
    }
    Ok(None)
}

/// Whether the log holds the snapshot's last entry, or begins right after it.
fn contains(entries: &[Entry], base: (LogIndex, Term), meta: &SnapshotMeta) -> bool {
    if base == (meta.index, meta.term) {
        return true;
    }
    let Some(offset) = meta.index.0.checked_sub(base.0.0 + 1) else {
        return false;
    };
    usize::try_from(offset)
        .ok()
        .and_then(|offset| entries.get(offset))
        .is_some_and(|entry| entry.term == meta.term)
}

fn redo_reset(
    wal: &mut Wal,
    hard_state: HardState,
    meta: &SnapshotMeta,
) -> Result<HardState, NodeError> {
    tracing::info!(
        index = meta.index.0,
        "resuming at a snapshot received before the last stop"
    );
    let mut next = hard_state;
    if next.term < meta.term {
        // Nothing was voted in that term: a vote would have raised the term.
        next.term = meta.term;
        next.vote = None;
    }
    next.commit_index = next.commit_index.max(meta.index);
    wal.append(&[LogWrite {
        hard_state: Some(next),
        reset_to: Some(meta.clone()),
        ..LogWrite::default()
    }])
    .map_err(NodeError::Log)?;
    Ok(next)
}

fn replay(store: &mut Store, entries: &[Entry], commit: LogIndex) -> Result<(), NodeError> {
    for entry in entries {
        if entry.index > commit {
            break;
        }
        if entry.index <= store.applied_index() {
            continue;
        }
        if entry.index != store.applied_index().next() {
            return Err(NodeError::Gap {
                first: entry.index,
                broken: "none".into(),
            });
        }
        store.apply(entry);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
