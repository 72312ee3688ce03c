use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use holdfast::physical::{Backend, PhysicalError};

use crate::cluster::{Cluster, Home, Shape, confirmed, eventually, put};

const IN_MEMORY: Shape = Shape {
    snapshot_entries: 50,
    trailing_entries: 10,
    segment_bytes: 64 << 10,
    in_memory: true,
};

/// Power fails on all three at once, in the middle of writing; unsynced blocks
/// and names are lost or torn at random. Every acknowledged write is there
/// afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_a_power_cut_of_all() {
    for seed in 0..4 {
        let mut cluster = Cluster::of(3, IN_MEMORY).await;
        let leader = Arc::clone(cluster.members[cluster.leader().await].node());
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let writer = tokio::spawn({
            let (acknowledged, stop) = (Arc::clone(&acknowledged), Arc::clone(&stop));
            async move {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    put(&leader, &format!("k/{number}"), "x").await.unwrap();
                    acknowledged.store(number + 1, Ordering::SeqCst);
                }
            }
        });
        eventually("enough is written", async || {
            acknowledged.load(Ordering::SeqCst) > 120
        })
        .await;
        // Read first: what was acknowledged before the cut must be found.
        let promised = acknowledged.load(Ordering::SeqCst);
        let cut: Vec<Home> = cluster
            .members
            .iter()
            .map(|member| match &member.home {
                Home::Memory(disk) => Home::Memory(disk.crash_seeded(seed)),
                Home::Folder(_) => panic!("in memory"),
            })
            .collect();
        stop.store(true, Ordering::Relaxed);
        writer.await.unwrap();
        for (index, home) in cut.into_iter().enumerate() {
            cluster.down(index).await;
            cluster.members[index].home = home;
        }
        for index in 0..3 {
            cluster.restart(index).await;
        }
        cluster.write("after", "1").await;
        for member in &cluster.members {
            for number in 0..promised {
                let found = confirmed(member.node(), &format!("k/{number}")).await;
                assert_eq!(found.as_deref(), Some("x"), "k/{number}, seed {seed}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn first_failed_write_stops_the_node_for_good() {
    let mut cluster = Cluster {
        members: Vec::new(),
        keyring: holdfast::peer::generate_keyring().unwrap().to_vec(),
    };
    let index = cluster.add_member("n1", IN_MEMORY);
    cluster.down(index).await;
    let reported = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&reported);
    cluster.members[index].options.on_failure = Arc::new(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
    });
    // The call that fails must be the log's own.
    cluster.members[index].options.wal.prepare_in_background = false;
    cluster.open(index);
    let node = Arc::clone(cluster.members[index].node());
    node.bootstrap(crate::cluster::CLUSTER).await.unwrap();
    put(&node, "a", "1").await.unwrap();
    let Home::Memory(disk) = &cluster.members[index].home else {
        panic!("in memory");
    };
    disk.fail_at(disk.calls() + 1);
    let error = loop {
        if let Err(error) = put(&node, "b", "2").await {
            break error;
        }
    };
    assert!(
        matches!(
            error,
            PhysicalError::Failed { .. } | PhysicalError::OutcomeUnknown { .. }
        ),
        "{error:?}"
    );
    eventually("the failure is latched", async || {
        matches!(
            put(&node, "c", "3").await,
            Err(PhysicalError::Failed { .. })
        )
    })
    .await;
    assert_eq!(reported.load(Ordering::SeqCst), 1);
    eventually("it leads no longer", async || {
        !node.leadership().borrow().is_leader
    })
    .await;
    node.stop().await;
}
