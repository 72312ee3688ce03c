//! Kills the leader under load, again and again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::cluster::{Cluster, ClusterArguments, MOUNT};
use crate::ledger::{Ledger, Outcome};
use crate::load::{self, Load, Plan, Report};
use crate::process::Tuning;
use crate::statistics::Durations;
use crate::{Verdict, api};

/// Arguments of `jepsen kill-leader`.
#[derive(Args)]
pub struct KillLeaderArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// How often the leader is killed.
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    /// Concurrent load clients.
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// All load clients together start at most this many writes a second.
    #[arg(long, default_value_t = 400)]
    rate: u32,
    /// Fail if the median recovery takes longer than this.
    #[arg(long)]
    median_seconds_max: Option<f64>,
}

/// Load before each kill, so that there is something to lose.
const CALM: Duration = Duration::from_millis(1500);
const RECOVERY_LIMIT: Duration = Duration::from_secs(90);

/// Runs `jepsen kill-leader`.
///
/// # Errors
/// The cluster could not be formed, did not recover or did not come back.
pub async fn run(arguments: KillLeaderArguments) -> anyhow::Result<Verdict> {
    let mut cluster = Cluster::form(&arguments.cluster, Tuning::default()).await?;
    let plan = Plan {
        clients: arguments.clients,
        rate: Some(arguments.rate),
        count: None,
        value_bytes: 128,
        mount: MOUNT.to_owned(),
        prefix: "kill-leader".to_owned(),
    };
    let load = Load::start(&cluster.addresses(), cluster.token(), &plan);
    let mut probes = Ledger::default();
    let mut recoveries = Vec::new();
    for round in 1..=arguments.rounds {
        tokio::time::sleep(CALM).await;
        let leader = cluster.leader().await?;
        let name = cluster.node(leader).name().to_owned();
        let (recovery, ledger) = kill_and_measure(&mut cluster, leader, round).await?;
        println!(
            "round {round}: {name} killed, next write after {:.2} s ({} acknowledged so far)",
            recovery.as_secs_f64(),
            load.acknowledged()
        );
        recoveries.push(recovery);
        probes.merge(ledger);
        cluster.restart(leader).await?;
        cluster.await_caught_up().await?;
    }
    let mut report = load.stop().await?;
    report.ledger.merge(probes);
    cluster.check_alive()?;
    conclude(&arguments, &cluster, report, Durations::new(recoveries)).await
}

async fn conclude(
    arguments: &KillLeaderArguments,
    cluster: &Cluster,
    report: Report,
    recoveries: Durations,
) -> anyhow::Result<Verdict> {
    println!(
        "{}: kill of the leader to the next successful write: {}",
        arguments.cluster.server.name(),
        recoveries.summary()
    );
    let nodes = cluster.named_addresses();
    let verdict = load::judge(report, &nodes, cluster.token(), MOUNT).await?;
    let median = recoveries.quantile(0.5).as_secs_f64();
    match arguments.median_seconds_max {
        Some(limit) if limit < median => {
            println!("VIOLATION median recovery of {median:.2} s is over {limit:.2} s");
            Ok(Verdict::Invalid)
        }
        _ => Ok(verdict),
    }
}

/// Kills one node and measures from the kill to the first acknowledged write
/// that was sent after it, through any of the others. `round` keeps the keys
/// of the probing writes apart.
///
/// # Errors
/// No write succeeds within 90 seconds.
pub async fn kill_and_measure(
    cluster: &mut Cluster,
    victim: usize,
    round: u32,
) -> anyhow::Result<(Duration, Ledger)> {
    let mut survivors = cluster.addresses();
    survivors.remove(victim);
    let token = cluster.token().to_owned();
    let killed = Instant::now();
    cluster.node_mut(victim).kill();
    await_write(survivors, &token, killed, &format!("probe-r{round}")).await
}

/// Measures from `since` to the first acknowledged write that is sent from now
/// on, through any of these nodes. `prefix` keeps the keys apart.
///
/// # Errors
/// No write succeeds within 90 seconds.
pub async fn await_write(
    nodes: Vec<SocketAddr>,
    token: &str,
    since: Instant,
    prefix: &str,
) -> anyhow::Result<(Duration, Ledger)> {
    let done = Arc::new(AtomicBool::new(false));
    let mut probes = JoinSet::new();
    for (number, address) in nodes.into_iter().enumerate() {
        let prefix = format!("{prefix}-n{number}");
        probes.spawn(probe(address, token.to_owned(), prefix, Arc::clone(&done)));
    }
    let mut ledger = Ledger::default();
    let mut first: Option<Instant> = None;
    while let Some(probe) = probes.join_next().await {
        let (succeeded, writes) = probe.context("a probe")?;
        ledger.merge(writes);
        first = [first, succeeded].into_iter().flatten().min();
    }
    match first {
        Some(first) => Ok((first - since, ledger)),
        None => bail!("no write succeeded within {RECOVERY_LIMIT:?}"),
    }
}

/// Writes one key after the other through one node until one is acknowledged
/// here or elsewhere.
async fn probe(
    address: SocketAddr,
    token: String,
    prefix: String,
    done: Arc<AtomicBool>,
) -> (Option<Instant>, Ledger) {
    const PROBE_LIMIT: Duration = Duration::from_secs(1);
    const PAUSE: Duration = Duration::from_millis(10);
    let mut ledger = Ledger::default();
    let deadline = Instant::now() + RECOVERY_LIMIT;
    for number in 0.. {
        if done.load(Ordering::Relaxed) || deadline <= Instant::now() {
            break;
        }
        let mut client = Client::new(address, Some(&token), PROBE_LIMIT);
        let key = format!("{prefix}-{number}");
        let outcome = api::write(&mut client, &format!("/v1/{MOUNT}/{key}"), &key).await;
        let acknowledged = outcome == Outcome::Ok;
        ledger.record(&key, &key, outcome);
        if acknowledged {
            done.store(true, Ordering::Relaxed);
            return (Some(Instant::now()), ledger);
        }
        tokio::time::sleep(PAUSE).await;
    }
    (None, ledger)
}
