//! A snapshot from the leader: staged by the transport, claimed by the raft
//! thread, published by the WAL thread.

use std::sync::Arc;

use super::Model;
use crate::node::snapshots::Snapshots;
use crate::snapshot::{SnapshotDirectory, StagedSnapshot};
use crate::sync::queue;
use crate::sync::thread::spawn;
use crate::types::{LogIndex, SnapshotMeta, Term};

pub const MODELS: &[Model] = &[Model {
    name: "snapshot_once_claimed_is_there_to_publish",
    preemptions: 2,
    scene: claimed_is_published,
}];

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta {
        index: LogIndex(index),
        term: Term(1),
        ..SnapshotMeta::default()
    }
}

/// The leader sends 5, and 6 before anybody has asked for 5; its messages that
/// name them arrive twice. Whatever the core was allowed to install is there
/// when its log is to begin after it.
fn claimed_is_published() {
    let snapshots = Arc::new(Snapshots::new(SnapshotDirectory::default()));
    let (install, installs) = queue::channel::<SnapshotMeta>();
    let (durable, durables) = queue::channel::<LogIndex>();
    let transport = {
        let snapshots = Arc::clone(&snapshots);
        spawn(move || {
            snapshots.stage(StagedSnapshot::of(meta(5)));
            snapshots.stage(StagedSnapshot::of(meta(6)));
        })
    };
    let writer = {
        let snapshots = Arc::clone(&snapshots);
        spawn(move || {
            while let Some(meta) = installs.recv() {
                snapshots.publish_claimed(&meta).expect("it was claimed");
                durable.send(meta.index).expect("the core waits");
            }
        })
    };
    // What the core has decided, and what was applied of it.
    let (mut decided, mut applied) = (LogIndex(0), LogIndex(0));
    for index in [5, 6, 5, 6] {
        applied = durables.try_recv().unwrap_or(applied);
        if snapshots.claim(&meta(index), applied) && decided < LogIndex(index) {
            install.send(meta(index)).expect("the writer waits");
            decided = LogIndex(index);
        }
    }
    drop(install);
    transport.join().expect("staged");
    writer.join().expect("published");
    assert_eq!(
        snapshots.newest_first().first().map(|info| info.meta.index),
        (LogIndex(0) < decided).then_some(decided)
    );
}
