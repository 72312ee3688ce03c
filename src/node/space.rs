//! Room on the disk and in memory: what would not fit is refused while what
//! makes room is still done.
//!
//! The disk must not run full under the log: then nothing at all could be
//! written, not even a deletion. So growth is refused while there is still room
//! for a snapshot of the state and the segments that the log needs meanwhile,
//! and the log keeps a reserve for what happens after that (`wal/rotate.rs`).
//! Nothing has to be restarted when there is room again.

use std::path::Path;

use crate::disk::Disk;
use crate::physical::PhysicalError;
use crate::store::View;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::types::{Operation, Transaction};

/// What is known of the room there is. Shared by all who propose.
pub(super) struct Space {
    is_low: AtomicBool,
    free_bytes: AtomicU64,
    /// Of a log segment.
    segment_bytes: u64,
    /// Bytes of keys and values that the state may have.
    memory_bytes_max: Option<u64>,
}

impl Space {
    pub fn new(segment_bytes: u64, memory_bytes_max: Option<u64>) -> Self {
        Self {
            is_low: AtomicBool::new(false),
            free_bytes: AtomicU64::new(u64::MAX),
            segment_bytes,
            memory_bytes_max,
        }
    }

    /// Measures the disk. An unmeasured disk counts as before.
    pub fn look(&self, disk: &dyn Disk, directory: &Path, state_bytes: u64) {
        let Ok(free) = disk.free_bytes(directory) else {
            return;
        };
        self.free_bytes.store(free, Ordering::Relaxed);
        // Some room more before growth is accepted again than when it is
        // refused, lest the two follow each other with every write.
        let was_low = self.is_low.load(Ordering::Relaxed);
        let is_low = free < self.needed(state_bytes, was_low);
        self.is_low.store(is_low, Ordering::Relaxed);
        if is_low && !was_low {
            tracing::error!(
                free_bytes = free,
                "the disk is nearly full: only what deletes is accepted"
            );
        } else if was_low && !is_low {
            tracing::info!(free_bytes = free, "there is room on the disk again");
        }
    }

    /// Refuses a transaction that there is no room for.
    ///
    /// # Errors
    /// `DiskFull` unless it shrinks the state, `MemoryFull` if it grows it.
    pub fn check(&self, transaction: &Transaction, state: &View) -> Result<(), PhysicalError> {
        let is_low = self.is_low.load(Ordering::Relaxed);
        if !is_low && self.memory_bytes_max.is_none() {
            return Ok(());
        }
        let (added, removed) = difference(transaction, state);
        // One of the same size is no growth of the state, but of the log.
        if is_low && added >= removed {
            return Err(self.disk_full(state.bytes()));
        }
        let after = (state.bytes() + state.staged_bytes() + added).saturating_sub(removed);
        match self.memory_bytes_max {
            Some(max) if added > removed && after > max => {
                Err(PhysicalError::MemoryFull { bytes: after, max })
            }
            _ => Ok(()),
        }
    }

    /// Refuses to gather a second state beside this one.
    ///
    /// # Errors
    /// `DiskFull`, `MemoryFull`.
    pub fn check_restore(&self, state: &View) -> Result<(), PhysicalError> {
        if self.is_low.load(Ordering::Relaxed) {
            return Err(self.disk_full(state.bytes()));
        }
        let bytes = state.staged_bytes();
        match self.memory_bytes_max {
            Some(max) if bytes > max => Err(PhysicalError::MemoryFull { bytes, max }),
            _ => Ok(()),
        }
    }

    fn disk_full(&self, state_bytes: u64) -> PhysicalError {
        PhysicalError::DiskFull {
            free: self.free_bytes.load(Ordering::Relaxed),
            needed: self.needed(state_bytes, true),
        }
    }

    /// A snapshot of the state, the segment begun meanwhile and the one after.
    fn needed(&self, state_bytes: u64, is_low: bool) -> u64 {
        let segments = if is_low { 3 } else { 2 };
        state_bytes.saturating_add(segments * self.segment_bytes)
    }
}

/// Bytes of keys and values that a transaction adds, and that it removes or
/// replaces. Of two operations on one key the earlier counts too: what is told
/// here decides about refusing, not about anything stored.
fn difference(transaction: &Transaction, state: &View) -> (u64, u64) {
    let (mut added, mut removed) = (0, 0);
    for operation in &transaction.operations {
        let (Operation::Put { key, .. } | Operation::Delete { key }) = operation;
        if let Some(former) = state.value(key) {
            removed += (key.len() + former.len()) as u64;
        }
        if let Operation::Put { key, value } = operation {
            added += (key.len() + value.len()) as u64;
        }
    }
    (added, removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;
    use crate::store::Store;
    use crate::types::{Command, Entry, EntryPayload, LogIndex, Term};

    fn put(key: &str, bytes: usize) -> Operation {
        Operation::Put {
            key: key.into(),
            value: vec![7; bytes],
        }
    }

    fn delete(key: &str) -> Operation {
        Operation::Delete { key: key.into() }
    }

    fn transaction(operations: Vec<Operation>) -> Transaction {
        Transaction {
            operations,
            ..Transaction::default()
        }
    }

    /// 1000 bytes under `a`.
    fn state() -> View {
        let mut store = Store::new();
        let command = Command::Transaction(transaction(vec![put("a", 999)]));
        store.apply(&Entry {
            index: LogIndex(1),
            term: Term(1),
            payload: EntryPayload::Command(crate::codec::encode_command(&command)),
        });
        store.view()
    }

    #[test]
    fn full_disk_takes_only_what_shrinks_and_recovers_by_itself() {
        let disk = MemoryDisk::new();
        let space = Space::new(64 << 20, None);
        let state = state();
        let accepts = |operations| space.check(&transaction(operations), &state).is_ok();
        assert!(accepts(vec![put("b", 10)]));
        disk.set_full(true);
        space.look(&disk, Path::new("/"), state.bytes());
        assert!(!accepts(vec![put("b", 10)]));
        assert!(!accepts(vec![put("a", 999)]));
        assert!(accepts(vec![put("a", 900)]));
        assert!(accepts(vec![delete("a"), put("c", 10)]));
        assert!(!accepts(vec![delete("none")]));
        assert!(space.check_restore(&state).is_err());
        let error = space.check(&transaction(vec![put("b", 1)]), &state);
        assert!(matches!(
            error,
            Err(PhysicalError::DiskFull { free: 0, .. })
        ));
        disk.set_full(false);
        space.look(&disk, Path::new("/"), state.bytes());
        assert!(accepts(vec![put("b", 10)]));
        assert!(space.check_restore(&state).is_ok());
    }

    #[test]
    fn memory_quota_refuses_growth_only() {
        let space = Space::new(4096, Some(1500));
        let state = state();
        let check = |operations| space.check(&transaction(operations), &state);
        assert!(check(vec![put("b", 499)]).is_ok());
        assert!(matches!(
            check(vec![put("b", 500)]),
            Err(PhysicalError::MemoryFull {
                bytes: 1501,
                max: 1500
            })
        ));
        assert!(check(vec![delete("a")]).is_ok());
        // Already over: replacing by less is fine, by more is not.
        let strict = Space::new(4096, Some(10));
        let check = |operations| strict.check(&transaction(operations), &state);
        assert!(check(vec![put("a", 999)]).is_ok());
        assert!(check(vec![put("a", 1000)]).is_err());
    }
}
