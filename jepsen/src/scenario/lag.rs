//! A follower is away while the log it needs is compacted, several times.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;

use crate::cluster::{Cluster, ClusterArguments, MOUNT};
use crate::load::{self, Load, Plan};
use crate::process::{Process, Tuning};
use crate::{Verdict, api};

/// Arguments of `jepsen lag`.
#[derive(Args)]
pub struct LagArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Writes that the follower misses.
    #[arg(long, default_value_t = 20_000)]
    writes: u64,
    /// Concurrent clients.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Length of each value.
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// `snapshot_threshold` of the nodes; half of it is kept as `trailing_logs`.
    #[arg(long, default_value_t = 2048)]
    snapshot_threshold: u32,
}

/// Runs `jepsen lag`.
///
/// # Errors
/// The cluster could not be formed, or the follower does not catch up.
pub async fn run(arguments: LagArguments) -> anyhow::Result<Verdict> {
    let tuning = Tuning {
        snapshot_threshold: Some(arguments.snapshot_threshold),
        trailing_logs: Some(arguments.snapshot_threshold / 2),
        ..Tuning::default()
    };
    let mut cluster = Cluster::form(&arguments.cluster, tuning).await?;
    cluster.await_caught_up().await?;
    let leader = cluster.leader().await?;
    let follower = (leader + 1) % cluster.addresses().len();
    let address = cluster.node(follower).address();
    let (_, applied) = api::raft_indexes(address).await?;
    cluster
        .node_mut(follower)
        .stop(Duration::from_secs(20))
        .await?;

    let mut present = cluster.addresses();
    present.remove(follower);
    let plan = Plan {
        clients: arguments.clients,
        rate: None,
        count: Some(arguments.writes),
        value_bytes: arguments.value_bytes,
        mount: MOUNT.to_owned(),
        prefix: "lag".to_owned(),
    };
    let report = Load::start(&present, cluster.token(), &plan)
        .finish()
        .await?;
    let (committed, _) = api::raft_indexes(cluster.node(leader).address()).await?;
    let name = cluster.node(follower).name();
    println!("{name} stopped at index {applied}; the others went on to {committed}");
    println!(
        "snapshots of {name} before: {:?}",
        snapshots(cluster.node(follower))?
    );

    let begin = Instant::now();
    cluster.restart(follower).await?;
    cluster.await_caught_up().await?;
    let name = cluster.node(follower).name();
    println!(
        "{name} caught up {:.1} s after its start",
        begin.elapsed().as_secs_f64()
    );
    println!(
        "snapshots of {name} after: {:?}",
        snapshots(cluster.node(follower))?
    );
    cluster.check_alive()?;
    let nodes = cluster.named_addresses();
    load::judge(report, &nodes, cluster.token(), MOUNT).await
}

/// Names of the snapshots a node holds: Holdfast keeps them in
/// `<path>/snapshots`, OpenBao in `<path>/raft/snapshots`.
fn snapshots(node: &Process) -> anyhow::Result<Vec<String>> {
    let data = node.data_directory();
    let mut names = Vec::new();
    for folder in [data.join("snapshots"), data.join("raft/snapshots")] {
        if folder.is_dir() {
            let entries = fs::read_dir(&folder);
            for entry in entries.with_context(|| format!("list {}", folder.display()))? {
                let entry = entry.with_context(|| format!("list {}", folder.display()))?;
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
    }
    names.sort();
    Ok(names)
}
