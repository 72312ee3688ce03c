//! Logs and snapshots as a crash may leave them beside each other.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::codec::encode_command;
use crate::disk::MemoryDisk;
use crate::snapshot::SnapshotDirectory;
use crate::types::{Command, EntryPayload, Membership, Operation, Transaction};
use crate::wal::Identity;

struct Directory {
    disk: Arc<dyn Disk>,
    wal: PathBuf,
    identity: DirectoryIdentity,
    snapshots: Snapshots,
    options: WalOptions,
}

const CLUSTER: ClusterId = ClusterId([7; 16]);

impl Directory {
    fn new() -> Self {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
        let base = Path::new("/data");
        disk.create_dir_all(base).unwrap();
        let identity = DirectoryIdentity::open_or_create(disk.as_ref(), base, "n1").unwrap();
        let folder = SnapshotDirectory::open(Arc::clone(&disk), &base.join("snapshots")).unwrap();
        let options = WalOptions {
            segment_bytes: 64 << 10,
            prepare_in_background: false,
            ..WalOptions::default()
        };
        Self {
            disk,
            wal: base.join("wal"),
            identity,
            snapshots: Snapshots::new(folder),
            options,
        }
    }

    /// A log with these entries, `commit` of them known to be committed.
    fn write_log(&self, entries: &[Entry], commit: u64) -> Wal {
        let identity = Identity {
            cluster: CLUSTER,
            node: self.identity.id,
            incarnation: self.identity.incarnation,
        };
        let mut wal =
            Wal::create(Arc::clone(&self.disk), &self.wal, identity, self.options).unwrap();
        wal.append(&[LogWrite {
            hard_state: Some(HardState {
                term: Term(2),
                vote: None,
                commit_index: LogIndex(commit),
            }),
            entries: entries.to_vec(),
            ..LogWrite::default()
        }])
        .unwrap();
        wal
    }

    /// A snapshot of the state after these entries.
    fn write_snapshot(&self, entries: &[Entry]) {
        let mut store = Store::new();
        for entry in entries {
            store.apply(entry);
        }
        let never = AtomicBool::new(false);
        self.snapshots.write(store.view(), &never).unwrap();
    }

    fn recover(&self) -> Result<(Store, Recovery), NodeError> {
        let mut store = Store::new();
        let recovery = recover(
            &self.disk,
            &self.wal,
            &self.identity,
            &self.options,
            &self.snapshots,
            &mut store,
        )?;
        Ok((store, recovery.expect("there is a log")))
    }
}

/// The first is the membership, the others put their own number.
fn entries(count: u64, term: u64) -> Vec<Entry> {
    let entry = |index| {
        let payload = if index == 1 {
            EntryPayload::Membership(Arc::new(Membership::default()))
        } else {
            EntryPayload::Command(encode_command(&Command::Transaction(Transaction {
                preconditions: Vec::new(),
                operations: vec![Operation::Put {
                    key: format!("k/{index}"),
                    value: vec![1],
                }],
            })))
        };
        Entry {
            index: LogIndex(index),
            term: Term(term),
            payload,
        }
    };
    (1..=count).map(entry).collect()
}

#[test]
fn committed_entries_are_applied_and_the_rest_is_not() {
    let directory = Directory::new();
    drop(directory.write_log(&entries(9, 2), 6));
    let (store, recovery) = directory.recover().unwrap();
    assert_eq!(store.applied_index(), LogIndex(6));
    assert_eq!(recovery.recovered.entries.len(), 9);
    assert_eq!(recovery.recovered.applied_index, LogIndex(6));
}

#[test]
fn own_snapshot_is_loaded_and_the_log_after_it_applied() {
    let directory = Directory::new();
    drop(directory.write_log(&entries(9, 2), 8));
    directory.write_snapshot(&entries(5, 2));
    let (store, recovery) = directory.recover().unwrap();
    assert_eq!(store.applied_index(), LogIndex(8));
    assert_eq!(recovery.recovered.snapshot.unwrap().index, LogIndex(5));
    assert_eq!(recovery.recovered.entries.len(), 9);
}

/// A snapshot came from the leader and was published; power failed before the
/// log's record of it. The log ends before it, or holds another history.
#[test]
fn published_snapshot_without_its_record_is_resumed() {
    for (log, commit) in [(entries(3, 1), 2), (entries(40, 1), 0)] {
        let directory = Directory::new();
        drop(directory.write_log(&log, commit));
        directory.write_snapshot(&entries(20, 2));
        let (store, recovery) = directory.recover().unwrap();
        assert_eq!(store.applied_index(), LogIndex(20));
        assert!(recovery.recovered.entries.is_empty());
        let state = recovery.recovered.hard_state;
        assert_eq!((state.term, state.commit_index), (Term(2), LogIndex(20)));
        drop(recovery);
        // The record is durable now: the next start finds it.
        let (store, recovery) = directory.recover().unwrap();
        assert_eq!(store.applied_index(), LogIndex(20));
        assert_eq!(recovery.recovered.snapshot.unwrap().index, LogIndex(20));
    }
}

#[test]
fn log_that_begins_after_a_missing_snapshot_is_refused() {
    let directory = Directory::new();
    let mut wal = directory.write_log(&entries(3, 1), 2);
    let meta = SnapshotMeta {
        index: LogIndex(20),
        term: Term(2),
        ..SnapshotMeta::default()
    };
    wal.append(&[LogWrite {
        reset_to: Some(meta),
        ..LogWrite::default()
    }])
    .unwrap();
    drop(wal);
    let error = directory.recover().err().unwrap();
    assert!(matches!(error, NodeError::Gap { first, .. } if first == LogIndex(21)));
}

#[test]
fn log_of_another_directory_is_refused() {
    let mut directory = Directory::new();
    drop(directory.write_log(&entries(3, 1), 2));
    directory.identity.incarnation = crate::types::Incarnation(1);
    let error = directory.recover().err().unwrap();
    assert!(matches!(error, NodeError::ForeignLog { .. }), "{error}");
}
