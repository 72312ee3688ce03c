//! Figures, not checks: run with `--ignored --nocapture` on a release build.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast::physical::Physical;

use crate::cluster::{Cluster, Shape, put};

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "{what}: p50 {:?}, p90 {:?}, p99 {:?}, max {:?}",
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0)
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn commit_latency_and_throughput() {
    let cluster = Cluster::of(3, Shape::default()).await;
    let leader = Arc::clone(cluster.members[cluster.leader().await].node());
    let text = "v".repeat(256);
    let mut times = Vec::new();
    for round in 0..2000 {
        let since = Instant::now();
        put(&leader, &format!("one/{}", round % 100), &text)
            .await
            .unwrap();
        times.push(since.elapsed());
    }
    print("one client, commit", times);

    for clients in [16, 64, 256] {
        let since = Instant::now();
        let rounds = 8000 / clients;
        let writers: Vec<_> = (0..clients)
            .map(|client| {
                let (leader, text) = (Arc::clone(&leader), text.clone());
                tokio::spawn(async move {
                    let mut times = Vec::new();
                    for round in 0..rounds {
                        let since = Instant::now();
                        let key = format!("many/{client}/{}", round % 10);
                        put(&leader, &key, &text).await.unwrap();
                        times.push(since.elapsed());
                    }
                    times
                })
            })
            .collect();
        let mut times = Vec::new();
        for writer in writers {
            times.extend(writer.await.unwrap());
        }
        let rate = times.len() as f64 / since.elapsed().as_secs_f64();
        println!("{clients} clients: {rate:.0} commits/s");
        print("  commit", times);
    }

    for (what, index) in [
        ("leader", cluster.leader().await),
        ("follower", cluster.followers().await[0]),
    ] {
        let node = cluster.members[index].node();
        let mut times = Vec::new();
        for _ in 0..1000 {
            let since = Instant::now();
            node.confirmed().await.unwrap();
            times.push(since.elapsed());
        }
        print(&format!("confirmed read on the {what}"), times);
        let mut times = Vec::new();
        for round in 0..200 {
            put(&leader, "fresh", &round.to_string()).await.unwrap();
            let since = Instant::now();
            node.confirmed().await.unwrap();
            times.push(since.elapsed());
        }
        print(&format!("  right after a write, on the {what}"), times);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn outage_after_the_leader_stops() {
    let mut times = Vec::new();
    for _ in 0..5 {
        let mut cluster = Cluster::of(3, Shape::default()).await;
        let leader = cluster.leader().await;
        let node = cluster.members[leader].node.take().unwrap();
        // Silence, not a farewell: nothing is handed over.
        let since = Instant::now();
        holdfast::physical::Backend::stop(node.as_ref()).await;
        cluster.write("a", "1").await;
        times.push(since.elapsed());
    }
    print("write after the leader is gone", times);
}
