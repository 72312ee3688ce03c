//! Kills all three nodes at once under load: what was acknowledged was on the
//! disks of a majority, so it is there after the restart.

use std::time::{Duration, Instant};

use clap::Args;

use crate::Verdict;
use crate::cluster::{Cluster, ClusterArguments, MOUNT};
use crate::load::{self, Load, Plan};
use crate::process::Tuning;

/// Arguments of `jepsen kill-all`.
#[derive(Args)]
pub struct KillAllArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// How often everything is killed.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Concurrent load clients.
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// All load clients together start at most this many writes a second.
    #[arg(long, default_value_t = 800)]
    rate: u32,
    /// `snapshot_threshold` of the nodes: low, so that some kills meet a
    /// snapshot being written.
    #[arg(long, default_value_t = 500)]
    snapshot_threshold: u32,
}

const CALM: Duration = Duration::from_secs(2);

/// Runs `jepsen kill-all`.
///
/// # Errors
/// The cluster could not be formed or did not come back.
pub async fn run(arguments: KillAllArguments) -> anyhow::Result<Verdict> {
    let tuning = Tuning {
        snapshot_threshold: Some(arguments.snapshot_threshold),
        ..Tuning::default()
    };
    let mut cluster = Cluster::form(&arguments.cluster, tuning).await?;
    let nodes = cluster.named_addresses();
    for round in 1..=arguments.rounds {
        let plan = Plan {
            clients: arguments.clients,
            rate: Some(arguments.rate),
            count: None,
            value_bytes: 128,
            mount: MOUNT.to_owned(),
            prefix: format!("kill-all-r{round}"),
        };
        let load = Load::start(&cluster.addresses(), cluster.token(), &plan);
        tokio::time::sleep(CALM).await;
        cluster.kill_all();
        let report = load.stop().await?;
        let begin = Instant::now();
        cluster.restart_all().await?;
        cluster.leader().await?;
        println!(
            "round {round}: all killed; restarted, unsealed and led after {:.1} s",
            begin.elapsed().as_secs_f64()
        );
        // A violation ends the experiment: later rounds could hide it.
        let verdict = load::judge(report, &nodes, cluster.token(), MOUNT).await?;
        if verdict == Verdict::Invalid {
            return Ok(verdict);
        }
    }
    cluster.check_alive()?;
    Ok(Verdict::Valid)
}
