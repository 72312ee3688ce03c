//! Streams that are cut and begun anew.

use std::path::Path;

use super::*;
use crate::disk::MemoryDisk;
use crate::types::{LogIndex, Term};

fn offer(index: u64, sha256: u8) -> SnapshotOffer {
    let id = SnapshotId {
        index: LogIndex(index),
        term: Term(1),
        sha256: [sha256; 32],
    };
    let meta = SnapshotMeta {
        index: id.index,
        term: id.term,
        ..SnapshotMeta::default()
    };
    SnapshotOffer {
        id,
        bytes: 100,
        meta,
    }
}

// Leaders change in the middle of a stream. Only the very same snapshot is
// continued; chunks of another one never follow (S9).
#[test]
fn cut_stream_is_continued_only_for_the_same_snapshot() {
    let disk = Arc::new(MemoryDisk::new());
    let folder = SnapshotDirectory::open(disk, Path::new("/snapshots")).unwrap();
    let snapshots = Arc::new(Snapshots::new(folder));
    let incoming = Incoming::default();
    let begin = |offer: &SnapshotOffer| incoming.begin(&snapshots, offer).unwrap();

    let mut sink = begin(&offer(5, 1));
    sink.append(0, &[7; 60]).unwrap();
    drop(sink);
    let sink = begin(&offer(5, 1));
    assert_eq!(sink.held(), 60, "the same one goes on");
    drop(sink);
    let sink = begin(&offer(5, 2));
    assert_eq!(sink.held(), 0, "as long, but another one");
}
