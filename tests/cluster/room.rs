//! Full disks and memory quotas: growth is refused by name, what makes room is
//! not, elections go on, and nothing has to be restarted when there is room.

use std::sync::Arc;
use std::time::Duration;

use holdfast::disk::Disk;
use holdfast::node::{Finding, RaftNode, ScrubOptions};
use holdfast::physical::{Backend, Physical, PhysicalError};
use holdfast::types::{Operation, Outcome, Transaction};

use crate::cluster::{Cluster, Home, Shape, confirmed, eventually, put};

fn in_memory() -> Shape {
    Shape {
        in_memory: true,
        ..Shape::default()
    }
}

async fn delete(node: &RaftNode, key: &str) -> Result<Outcome, PhysicalError> {
    node.commit(Transaction {
        preconditions: Vec::new(),
        operations: vec![Operation::Delete { key: key.into() }],
    })
    .await
}

fn fill(cluster: &Cluster, is_full: bool) {
    for member in &cluster.members {
        if let Home::Memory(disk) = &member.home {
            disk.set_full(is_full);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_refuses_growth_until_there_is_room() {
    let cluster = Cluster::of(3, in_memory()).await;
    for number in 0..20 {
        cluster.write(&format!("key-{number}"), "value").await;
    }
    fill(&cluster, true);
    let leader = cluster.leader().await;
    let node = Arc::clone(cluster.members[leader].node());
    eventually("growth is refused", async || {
        matches!(
            put(&node, "more", "x").await,
            Err(PhysicalError::DiskFull { free: 0, .. })
        )
    })
    .await;
    assert_eq!(
        delete(&node, "key-0").await.expect("deletes"),
        Outcome::Applied
    );
    assert_eq!(confirmed(&node, "key-0").await, None);

    // An election on full disks.
    let term = node.leadership().borrow().term;
    node.step_down().await.expect("hands over");
    eventually("another term", async || {
        let leader = cluster.leader().await;
        cluster.members[leader].node().leadership().borrow().term > term
    })
    .await;
    eventually("the new leader takes deletes only", async || {
        let node = cluster.members[cluster.leader().await].node();
        matches!(
            put(node, "more", "x").await,
            Err(PhysicalError::DiskFull { .. })
        ) && delete(node, "key-1").await.is_ok()
    })
    .await;

    fill(&cluster, false);
    eventually("there is room again", async || {
        let node = cluster.members[cluster.leader().await].node();
        put(node, "more", "x").await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_quota_refuses_growth_by_name() {
    let mut cluster = Cluster::of(1, in_memory()).await;
    cluster.write("a", &"x".repeat(1000)).await;
    cluster.down(0).await;
    cluster.members[0].options.memory_bytes_max = Some(1500);
    cluster.restart(0).await;
    cluster.leader().await;
    let node = Arc::clone(cluster.members[0].node());
    cluster.write("b", &"x".repeat(400)).await;
    let refused = put(&node, "c", &"x".repeat(200)).await;
    assert!(
        matches!(
            refused,
            Err(PhysicalError::MemoryFull {
                bytes: 1603,
                max: 1500
            })
        ),
        "{refused:?}"
    );
    delete(&node, "a").await.expect("deletes");
    cluster.write("c", &"x".repeat(200)).await;
}

/// A node alone, whose log is read again all the time, after a round without a
/// finding.
async fn scrubbed_alone() -> (Cluster, Arc<RaftNode>) {
    let shape = Shape {
        segment_bytes: 64 << 10,
        snapshot_entries: 30,
        ..in_memory()
    };
    let mut cluster = Cluster::of(1, shape).await;
    for number in 0..40 {
        cluster
            .write(&format!("key-{number}"), &"x".repeat(4000))
            .await;
    }
    cluster.down(0).await;
    cluster.members[0].options.scrub = ScrubOptions {
        bytes_per_second: 64 << 20,
        pause: Duration::ZERO,
    };
    cluster.restart(0).await;
    let node = Arc::clone(cluster.members[0].node());
    eventually("a round without a finding", async || {
        let status = node.scrub_status();
        assert!(status.findings.is_empty(), "{status:?}");
        status.rounds > 1 && status.bytes > 64 << 10
    })
    .await;
    (cluster, node)
}

/// Nothing would tell where this log ends: a node that stopped now would refuse
/// to start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decay_of_a_log_that_would_be_refused_stops_no_node() {
    let (cluster, node) = scrubbed_alone().await;
    let Home::Memory(disk) = &cluster.members[0].home else {
        panic!("it is in memory");
    };
    let folder = std::path::Path::new("/memory/wal");
    let names = disk.list(folder).expect("lists");
    let tail = names.iter().rfind(|name| name.ends_with(".wal"));
    let tail = folder.join(tail.expect("there is a log"));
    disk.overwrite(&tail, (64 << 10) - 2 * 4096, &[0xee; 8])
        .expect("there is such a file");
    let segment = folder.join("0000000000000001.wal");
    disk.overwrite(&segment, 2 * 4096 + 300, &[0xee; 8])
        .expect("there is such a file");
    eventually("it is found", async || {
        !node.scrub_status().findings.is_empty()
    })
    .await;
    let rounds = node.scrub_status().rounds;
    eventually("it is met again and again", async || {
        node.scrub_status().rounds > rounds + 5
    })
    .await;
    assert!(node.confirmed().await.is_ok());
    assert_eq!(node.scrub_status().repaired, 0);
    cluster.write("after", "1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decay_of_a_closed_segment_is_repaired_while_running() {
    let (cluster, node) = scrubbed_alone().await;
    let Home::Memory(disk) = &cluster.members[0].home else {
        panic!("it is in memory");
    };
    let segment = std::path::Path::new("/memory/wal/0000000000000001.wal");
    disk.overwrite(segment, 2 * 4096 + 300, &[0xee; 8])
        .expect("there is such a file");
    eventually("it is found", async || {
        let findings = node.scrub_status().findings;
        matches!(&findings[..], [Finding::Log(damage)] if damage.segment == 1)
    })
    .await;
    // Nobody else is there: its own state is enough.
    eventually("it is repaired", async || {
        node.scrub_status().repaired == 1 && node.confirmed().await.is_ok()
    })
    .await;
    assert!(!disk.exists(segment).expect("looks"));
    cluster.write("after", "1").await;
    for number in 0..40 {
        let found = confirmed(&node, &format!("key-{number}")).await;
        assert_eq!(found, Some("x".repeat(4000)));
    }
    let rounds = node.scrub_status().rounds;
    eventually("nothing more is found", async || {
        let status = node.scrub_status();
        assert_eq!(status.findings.len(), 1, "{status:?}");
        status.rounds > rounds + 1
    })
    .await;
}
