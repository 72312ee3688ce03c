use std::path::{Path, PathBuf};

use holdfast::physical::{Backend, Physical, PhysicalError, RestoreEntries};

use crate::cluster::{Cluster, Home, Shape, confirmed, eventually, value};

const TINY: Shape = Shape {
    snapshot_entries: 20,
    trailing_entries: 5,
    segment_bytes: 64 << 10,
    in_memory: false,
};

/// A value large enough that a few of them fill a log segment.
fn filler() -> String {
    "x".repeat(4000)
}

#[tokio::test(flavor = "multi_thread")]
async fn node_restarts_from_snapshot_and_log() {
    let mut cluster = Cluster::of(1, TINY).await;
    for number in 0..150 {
        cluster.write(&format!("k/{number}"), &filler()).await;
    }
    cluster.write("last", "1").await;
    let Home::Folder(folder) = cluster.members[0].home.clone() else {
        panic!("a folder");
    };
    let snapshots = folder.path().join("data/snapshots");
    let count = || std::fs::read_dir(&snapshots).unwrap().count();
    eventually("two snapshots are kept", async || count() == 2).await;
    let wal = folder.path().join("data/wal");
    // All 150 would fill about 20; kept are those after the older snapshot.
    let segments = || std::fs::read_dir(&wal).unwrap().count();
    eventually("the log is purged", async || segments() < 10).await;
    cluster.down(0).await;
    cluster.restart(0).await;
    cluster.leader().await;
    let node = cluster.members[0].node();
    assert_eq!(confirmed(node, "last").await.as_deref(), Some("1"));
    assert_eq!(confirmed(node, "k/0").await, Some(filler()));
}

/// Snapshot files of a member whose names end so, oldest first.
fn files(cluster: &Cluster, member: usize, suffix: &str) -> Vec<PathBuf> {
    let Home::Folder(folder) = cluster.members[member].home.clone() else {
        panic!("a folder");
    };
    let listed = std::fs::read_dir(folder.path().join("data/snapshots")).unwrap();
    let paths = listed.map(|file| file.unwrap().path());
    let mut files: Vec<_> = paths
        .filter(|path| path.to_str().unwrap().ends_with(suffix))
        .collect();
    files.sort();
    files
}

/// Flips a bit in the middle.
fn spoil(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rotten_newest_snapshot_is_replaced_by_the_one_before() {
    let mut cluster = Cluster::of(1, TINY).await;
    for number in 0..75 {
        cluster.write(&format!("k/{number}"), &filler()).await;
    }
    cluster.down(0).await;
    let newest = files(&cluster, 0, ".snap").pop().unwrap();
    spoil(&newest);
    cluster.restart(0).await;
    cluster.leader().await;
    let node = cluster.members[0].node();
    for number in 0..75 {
        assert_eq!(
            confirmed(node, &format!("k/{number}")).await,
            Some(filler())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn follower_far_behind_catches_up_by_snapshot_and_restarts_from_it() {
    let mut cluster = Cluster::of(3, TINY).await;
    cluster.write("first", "1").await;
    let follower = cluster.followers().await[0];
    cluster.down(follower).await;
    for number in 0..150 {
        cluster.write(&format!("k/{number}"), &filler()).await;
    }
    cluster.restart(follower).await;
    let node = cluster.members[follower].node();
    assert_eq!(confirmed(node, "k/149").await, Some(filler()));
    cluster.write("after", "1").await;
    assert_eq!(
        confirmed(cluster.members[follower].node(), "after")
            .await
            .as_deref(),
        Some("1")
    );

    cluster.down(follower).await;
    cluster.open(follower);
    let node = cluster.members[follower].node();
    assert_eq!(value(node.local().as_ref(), "k/149").await, Some(filler()));
    node.start(cluster.keyring.clone()).await.unwrap();
    let node = cluster.members[follower].node();
    assert_eq!(confirmed(node, "after").await.as_deref(), Some("1"));
}

// Found by the simulator (seed 2655): the leader streamed its rotten snapshot
// again and again, and the follower refused it each time.
#[tokio::test(flavor = "multi_thread")]
async fn rotten_snapshot_that_a_follower_refuses_is_set_aside_and_another_taken() {
    let mut cluster = Cluster::of(3, TINY).await;
    let follower = cluster.followers().await[0];
    cluster.down(follower).await;
    for number in 0..150 {
        cluster.write(&format!("k/{number}"), &filler()).await;
    }
    let leader = cluster.leader().await;
    for file in files(&cluster, leader, ".snap") {
        spoil(&file);
    }
    cluster.restart(follower).await;
    let node = cluster.members[follower].node();
    assert_eq!(confirmed(node, "k/149").await, Some(filler()));
    assert_eq!(files(&cluster, leader, ".broken").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn joiner_receives_a_snapshot() {
    let mut cluster = Cluster::of(1, TINY).await;
    for number in 0..80 {
        cluster.write(&format!("k/{number}"), &filler()).await;
    }
    let index = cluster.join("n2", TINY, false).await.unwrap();
    cluster.until_voters(2).await;
    let node = cluster.members[index].node();
    assert_eq!(confirmed(node, "k/0").await, Some(filler()));
    assert_eq!(node.servers().1.len(), 2);
}

fn archive(count: usize) -> RestoreEntries {
    let entry = |number| Ok((format!("restored/{number:05}"), vec![7; 10_000]));
    Box::new((0..count).map(entry))
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_replaces_everything_on_every_node() {
    let cluster = Cluster::of(3, Shape::default()).await;
    cluster.write("old", "1").await;
    let leader = cluster.members[cluster.leader().await].node();
    let epoch = leader.archive_source().await.unwrap();
    assert_eq!((epoch.entries)().count(), 1);
    leader.restore(archive(500)).await.unwrap();
    for member in &cluster.members {
        let reader = member.node().confirmed().await.unwrap();
        assert_eq!(reader.restore_epoch(), 1);
        assert_eq!(reader.list("restored/").await.unwrap().len(), 500);
        assert_eq!(value(reader.as_ref(), "old").await, None);
    }
    let source = leader.archive_source().await.unwrap();
    assert_eq!((source.entries)().count(), 500);
    assert_eq!(source.servers.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_that_fails_half_way_changes_nothing() {
    let cluster = Cluster::of(1, Shape::default()).await;
    cluster.write("old", "1").await;
    let node = cluster.members[0].node();
    let broken = archive(200).chain(std::iter::once(Err(PhysicalError::Refused {
        reason: "the archive ends early".into(),
    })));
    let error = node.restore(Box::new(broken)).await.unwrap_err();
    assert!(error.to_string().contains("ends early"), "{error}");
    assert_eq!(confirmed(node, "old").await.as_deref(), Some("1"));
    node.restore(archive(3)).await.unwrap();
    assert_eq!(confirmed(node, "old").await, None);
}
