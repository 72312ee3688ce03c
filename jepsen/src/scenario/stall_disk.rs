//! Freezes the file system under the leader, again and again, under load: a
//! disk that hangs without an error must cost leadership, not availability.

use std::time::{Duration, Instant};

use clap::Args;

use super::kill_leader::await_write;
use crate::Verdict;
use crate::cluster::{Cluster, ClusterArguments, MOUNT, await_some};
use crate::ledger::Ledger;
use crate::load::{self, Load, Plan};
use crate::loop_disk::LoopDisk;
use crate::process::{Placement, Tuning};
use crate::statistics::Durations;

/// Arguments of `jepsen stall-disk`.
#[derive(Args)]
pub struct StallDiskArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// How often the leader's disk is frozen.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Concurrent load clients.
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// All load clients together start at most this many writes a second.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Fail if writes take longer than this to go on, in any round.
    #[arg(long, default_value_t = 20.0)]
    seconds_max: f64,
}

/// Load before each freeze.
const CALM: Duration = Duration::from_secs(1);
const CATCH_UP_LIMIT: Duration = Duration::from_secs(60);
const NODES: usize = 3;
/// Sparse: what a node does not write takes no space.
const DISK_BYTES: u64 = 1 << 30;

/// Runs `jepsen stall-disk`.
///
/// # Errors
/// No root; or the cluster could not be formed, did not recover or did not
/// catch up.
pub async fn run(arguments: StallDiskArguments) -> anyhow::Result<Verdict> {
    // Before the cluster: processes end before their file systems go.
    let disks = Disks::create()?;
    let placement = |disk: &LoopDisk| Placement {
        data: Some(disk.path().join("data")),
        ..Placement::default()
    };
    let placements = disks.disks.iter().map(placement).collect();
    let cluster = Cluster::form_at(&arguments.cluster, Tuning::default(), placements).await?;
    let plan = Plan {
        clients: arguments.clients,
        rate: Some(arguments.rate),
        count: None,
        value_bytes: 128,
        mount: MOUNT.to_owned(),
        prefix: "stall-disk".to_owned(),
    };
    let load = Load::start(&cluster.addresses(), cluster.token(), &plan);
    let mut probes = Ledger::default();
    let mut recoveries = Vec::new();
    for round in 1..=arguments.rounds {
        tokio::time::sleep(CALM).await;
        let (recovery, ledger) = freeze_and_measure(&cluster, &disks, round).await?;
        recoveries.push(recovery);
        probes.merge(ledger);
        println!("  {} acknowledged so far", load.acknowledged());
    }
    let mut report = load.stop().await?;
    report.ledger.merge(probes);
    let recoveries = Durations::new(recoveries);
    println!(
        "{}: freeze of the leader's disk to the next successful write: {}",
        arguments.cluster.server.name(),
        recoveries.summary()
    );
    let nodes = cluster.named_addresses();
    let verdict = load::judge(report, &nodes, cluster.token(), MOUNT).await?;
    let longest = recoveries.quantile(1.0).as_secs_f64();
    if arguments.seconds_max < longest {
        println!("VIOLATION writes stood still for {longest:.2} s");
        return Ok(Verdict::Invalid);
    }
    Ok(verdict)
}

/// One round; the disk is thawed again at its end, however it ends.
async fn freeze_and_measure(
    cluster: &Cluster,
    disks: &Disks,
    round: u32,
) -> anyhow::Result<(Duration, Ledger)> {
    let leader = cluster.leader().await?;
    let name = cluster.node(leader).name().to_owned();
    let mut others = cluster.addresses();
    others.remove(leader);
    let since = Instant::now();
    let frozen = disks.disks[leader].freeze()?;
    let prefix = format!("probe-r{round}");
    let (recovery, ledger) = await_write(others, cluster.token(), since, &prefix).await?;
    let successor = other_leader(cluster, leader).await?;
    drop(frozen);
    let thawed = Instant::now();
    await_some("the old leader to follow", CATCH_UP_LIMIT, async || {
        cluster.await_caught_up().await
    })
    .await?;
    println!(
        "round {round}: disk of {name} frozen, next write after {:.2} s through {}; \
         thawed after {:.2} s, caught up {:.2} s later",
        recovery.as_secs_f64(),
        cluster.node(successor).name(),
        (thawed - since).as_secs_f64(),
        thawed.elapsed().as_secs_f64(),
    );
    Ok((recovery, ledger))
}

/// The active node among the others, awaited.
async fn other_leader(cluster: &Cluster, frozen: usize) -> anyhow::Result<usize> {
    await_some("another active node", CATCH_UP_LIMIT, async || {
        for (position, address) in cluster.addresses().into_iter().enumerate() {
            if position != frozen && crate::api::health(address).await == Some(200) {
                return Ok(position);
            }
        }
        anyhow::bail!("none of the others is active")
    })
    .await
}

/// The nodes' file systems, in a directory of their own.
struct Disks {
    // Declared before the directory: unmounted before it goes.
    disks: Vec<LoopDisk>,
    _directory: crate::cluster::Directory,
}

impl Disks {
    fn create() -> anyhow::Result<Disks> {
        let directory = crate::cluster::Directory::create(false)?;
        let disks = (1..=NODES)
            .map(|number| LoopDisk::create(directory.path(), &format!("n{number}"), DISK_BYTES))
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Disks {
            disks,
            _directory: directory,
        })
    }
}
