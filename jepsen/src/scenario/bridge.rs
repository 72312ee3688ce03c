//! Partial partitions under load, in namespaces: one node reaches both sides
//! (catalogue E17), and a leader that is heard but hears nobody.

use std::time::{Duration, Instant};

use clap::Args;

use super::kill_leader::await_write;
use crate::Verdict;
use crate::cluster::{Cluster, ClusterArguments, MOUNT};
use crate::ledger::Ledger;
use crate::load::{self, Load, Plan};
use crate::network::Network;
use crate::process::Tuning;
use crate::statistics::Durations;

/// Arguments of `jepsen bridge`.
#[derive(Args)]
pub struct BridgeArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// How often each partition is made.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Concurrent load clients.
    #[arg(long, default_value_t = 10)]
    clients: usize,
    /// All load clients together start at most this many writes a second.
    #[arg(long, default_value_t = 150)]
    rate: u32,
    /// Writes must go on within this many of the longest election timeouts.
    #[arg(long, default_value_t = 12)]
    election_timeouts_max: u32,
}

/// The longest election timeout of a node with the default settings.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);
/// Load before each partition.
const CALM: Duration = Duration::from_secs(1);
const NODES: usize = 5;

#[derive(Clone, Copy)]
enum Partition {
    /// a – bridge – b, bridge – old leader, the fifth alone: only the bridge
    /// reaches a quorum, and the old leader reaches only the bridge.
    Bridge,
    /// Everything to the leader is lost, everything from it arrives.
    DeafLeader,
}

impl Partition {
    fn name(self) -> &'static str {
        match self {
            Partition::Bridge => "bridge",
            Partition::DeafLeader => "deaf leader",
        }
    }

    fn make(self, network: &Network, leader: usize) -> anyhow::Result<()> {
        let others: Vec<usize> = (0..NODES).filter(|node| *node != leader).collect();
        match self {
            Partition::Bridge => {
                let [bridge, a, b, alone] = others[..] else {
                    unreachable!("five nodes, one of which leads");
                };
                for (one, other) in [(a, b), (leader, a), (leader, b)] {
                    network.cut_both(one, other)?;
                }
                for other in [bridge, a, b, leader] {
                    network.cut_both(alone, other)?;
                }
            }
            Partition::DeafLeader => {
                for other in others {
                    network.cut(other, leader)?;
                }
            }
        }
        Ok(())
    }
}

/// Runs `jepsen bridge`.
///
/// # Errors
/// No root; or the cluster could not be formed, did not recover or did not
/// catch up.
pub async fn run(arguments: BridgeArguments) -> anyhow::Result<Verdict> {
    // Before the cluster: processes end before their namespaces go.
    let network = Network::create(NODES)?;
    let placements = (0..NODES).map(|node| network.placement(node)).collect();
    let cluster = Cluster::form_at(&arguments.cluster, Tuning::default(), placements).await?;
    let plan = Plan {
        clients: arguments.clients,
        rate: Some(arguments.rate),
        count: None,
        value_bytes: 128,
        mount: MOUNT.to_owned(),
        prefix: "bridge".to_owned(),
    };
    let load = Load::start(&cluster.addresses(), cluster.token(), &plan);
    let mut probes = Ledger::default();
    let mut longest = Duration::ZERO;
    for partition in [Partition::Bridge, Partition::DeafLeader] {
        let mut recoveries = Vec::new();
        for round in 1..=arguments.rounds {
            tokio::time::sleep(CALM).await;
            let (recovery, ledger) = part_and_measure(&cluster, &network, partition, round).await?;
            recoveries.push(recovery);
            probes.merge(ledger);
        }
        let recoveries = Durations::new(recoveries);
        println!(
            "{}: {} to the next successful write: {}",
            arguments.cluster.server.name(),
            partition.name(),
            recoveries.summary()
        );
        longest = longest.max(recoveries.quantile(1.0));
    }
    let mut report = load.stop().await?;
    report.ledger.merge(probes);
    let nodes = cluster.named_addresses();
    let verdict = load::judge(report, &nodes, cluster.token(), MOUNT).await?;
    let factor = arguments.cluster.performance_multiplier.unwrap_or(1).max(1);
    let limit = ELECTION_TIMEOUT * factor * arguments.election_timeouts_max;
    if limit < longest {
        println!("VIOLATION writes stood still for {longest:.2?}, over {limit:.2?}");
        return Ok(Verdict::Invalid);
    }
    Ok(verdict)
}

async fn part_and_measure(
    cluster: &Cluster,
    network: &Network,
    partition: Partition,
    round: u32,
) -> anyhow::Result<(Duration, Ledger)> {
    let leader = cluster.leader().await?;
    let name = cluster.node(leader).name().to_owned();
    partition.make(network, leader)?;
    let since = Instant::now();
    let prefix = format!("probe-{}-r{round}", partition.name().replace(' ', "-"));
    let mut others = cluster.addresses();
    others.remove(leader);
    let (recovery, ledger) = await_write(others, cluster.token(), since, &prefix).await?;
    network.heal()?;
    let healed = Instant::now();
    cluster.await_caught_up().await?;
    println!(
        "{} {round}: {name} led, next write after {:.2} s; healed, all caught up {:.2} s later",
        partition.name(),
        recovery.as_secs_f64(),
        healed.elapsed().as_secs_f64(),
    );
    Ok((recovery, ledger))
}
