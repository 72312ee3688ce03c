//! Holdfast beside OpenBao on the same machine, in one run, interleaved: slices
//! of the one follow slices of the other, so that both meet the same noise.
//!
//! Requests go to the active node of each, the best case of both. It measures;
//! it never judges.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use tokio::task::JoinSet;

use crate::Verdict;
use crate::api;
use crate::client::Client;
use crate::cluster::{Cluster, ClusterArguments, MOUNT};
use crate::ledger::Outcome;
use crate::load::padded;
use crate::process::{ServerKind, Tuning};
use crate::scenario::kill_leader::kill_and_measure;
use crate::statistics::Durations;

/// Arguments of `jepsen bench`.
#[derive(Args)]
pub struct BenchArguments {
    /// Length of each slice.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Slices for each workload and server.
    #[arg(long, default_value_t = 2)]
    slices: u32,
    /// Concurrent clients to measure with.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256")]
    clients: Vec<usize>,
    /// Leaders killed for each server.
    #[arg(long, default_value_t = 3)]
    kills: u32,
    /// Length of each value.
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Also write the report to this file.
    #[arg(long)]
    output: Option<PathBuf>,
    /// The `holdfast` program.
    #[arg(long)]
    holdfast: Option<PathBuf>,
    /// The `bao` program.
    #[arg(long)]
    openbao: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Write,
    Read,
}

/// Sum of all slices of one workload on one server.
#[derive(Default)]
struct Measurement {
    latencies: Vec<Duration>,
    failures: usize,
    elapsed: Duration,
}

struct Contestant {
    kind: ServerKind,
    cluster: Cluster,
}

/// Keys that are read; written before the first slice.
const KEY_COUNT: usize = 1000;

/// Runs `jepsen bench`. An incomplete run is reported and still valid: numbers
/// of one machine must not decide over a build.
///
/// # Errors
/// Only that the report cannot be written.
pub async fn run(arguments: BenchArguments) -> anyhow::Result<Verdict> {
    let report = match compare(&arguments).await {
        Ok(report) => report,
        Err(error) => format!("No result: {error:#}\n"),
    };
    println!("{report}");
    if let Some(path) = &arguments.output {
        std::fs::write(path, &report).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(Verdict::Valid)
}

async fn compare(arguments: &BenchArguments) -> anyhow::Result<String> {
    let mut contestants = Vec::new();
    for (kind, program) in [
        (ServerKind::Holdfast, &arguments.holdfast),
        (ServerKind::Openbao, &arguments.openbao),
    ] {
        let cluster_arguments = ClusterArguments {
            server: kind,
            program: program.clone(),
            performance_multiplier: None,
            keep: false,
        };
        let cluster = Cluster::form(&cluster_arguments, Tuning::default())
            .await
            .with_context(|| format!("form a cluster of {}", kind.name()))?;
        fill(&cluster, arguments.value_bytes).await?;
        contestants.push(Contestant { kind, cluster });
    }
    let mut report = heading(arguments);
    for operation in [Operation::Write, Operation::Read] {
        for &clients in &arguments.clients {
            let measured = measure(arguments, &contestants, operation, clients).await?;
            row(&mut report, operation, clients, &measured);
        }
    }
    memory(&mut report, &contestants);
    for contestant in &mut contestants {
        let recoveries = recovery(&mut contestant.cluster, arguments.kills).await?;
        let name = contestant.kind.name();
        writeln!(
            report,
            "- {name}, kill -9 of the leader to the next write: {recoveries}"
        )?;
    }
    Ok(report)
}

fn heading(arguments: &BenchArguments) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "Three nodes each on one machine of {cores} cores, clients on the same machine; KV v1, \
         {} B values, {} × {} s a cell, interleaved; default settings; requests to the active \
         node.\n\n\
         | workload | clients | Holdfast op/s | p50 ms | p99 ms | OpenBao op/s | p50 ms | p99 ms \
         | ratio |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        arguments.value_bytes, arguments.slices, arguments.seconds
    )
}

/// One measurement for each contestant, in their order.
async fn measure(
    arguments: &BenchArguments,
    contestants: &[Contestant],
    operation: Operation,
    clients: usize,
) -> anyhow::Result<Vec<Measurement>> {
    let mut measured: Vec<Measurement> = Vec::new();
    measured.resize_with(contestants.len(), Measurement::default);
    for slice in 0..arguments.slices {
        let mut order: Vec<usize> = (0..contestants.len()).collect();
        // Who goes first alternates: the second meets a warmer machine.
        if slice % 2 == 1 {
            order.reverse();
        }
        for position in order {
            let cluster = &contestants[position].cluster;
            let leader = cluster.node(cluster.leader().await?).address();
            let limit = Duration::from_secs(arguments.seconds);
            let bytes = arguments.value_bytes;
            let token = cluster.token();
            let part = slice_of(operation, leader, token, clients, bytes, limit).await?;
            measured[position].absorb(part);
        }
    }
    Ok(measured)
}

async fn slice_of(
    operation: Operation,
    address: SocketAddr,
    token: &str,
    clients: usize,
    value_bytes: usize,
    limit: Duration,
) -> anyhow::Result<Measurement> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut workers = JoinSet::new();
    let begin = Instant::now();
    for number in 0..clients {
        let mut client = Client::new(address, Some(token), Duration::from_secs(10));
        let stop = Arc::clone(&stop);
        workers.spawn(async move {
            let mut part = Measurement::default();
            for request in number * 7.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let path = path_of(request % KEY_COUNT);
                let begin = Instant::now();
                let succeeded = match operation {
                    Operation::Write => {
                        let value = padded(&request.to_string(), value_bytes);
                        api::write(&mut client, &path, &value).await == Outcome::Ok
                    }
                    Operation::Read => matches!(api::read(&mut client, &path).await, Ok(Some(_))),
                };
                if succeeded {
                    part.latencies.push(begin.elapsed());
                } else {
                    part.failures += 1;
                    // A refusing server must not turn into a busy loop.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            part
        });
    }
    tokio::time::sleep(limit).await;
    stop.store(true, Ordering::Relaxed);
    let mut whole = Measurement::default();
    while let Some(part) = workers.join_next().await {
        whole.absorb(part.context("a bench client")?);
    }
    whole.elapsed = begin.elapsed();
    Ok(whole)
}

impl Measurement {
    fn absorb(&mut self, part: Measurement) {
        self.latencies.extend(part.latencies);
        self.failures += part.failures;
        self.elapsed += part.elapsed;
    }

    fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

async fn fill(cluster: &Cluster, value_bytes: usize) -> anyhow::Result<()> {
    let leader = cluster.node(cluster.leader().await?).address();
    let mut client = api::administrator(leader, Some(cluster.token()));
    for number in 0..KEY_COUNT {
        let value = padded(&number.to_string(), value_bytes);
        let outcome = api::write(&mut client, &path_of(number), &value).await;
        if outcome != Outcome::Ok {
            anyhow::bail!("fill key {number}: {outcome:?}");
        }
    }
    Ok(())
}

fn path_of(number: usize) -> String {
    format!("/v1/{MOUNT}/bench-{number}")
}

fn row(report: &mut String, operation: Operation, clients: usize, measured: &[Measurement]) {
    let _ = write!(report, "| {operation:?} | {clients} ");
    for measurement in measured {
        let latencies = Durations::new(measurement.latencies.clone());
        let milliseconds = |fraction| latencies.quantile(fraction).as_secs_f64() * 1000.0;
        let failures = match measurement.failures {
            0 => String::new(),
            count => format!(" ({count} failed)"),
        };
        let _ = write!(
            report,
            "| {:.0}{failures} | {:.2} | {:.2} ",
            measurement.rate(),
            milliseconds(0.5),
            milliseconds(0.99)
        );
    }
    let ratio = match measured {
        [ours, theirs] if 0.0 < theirs.rate() => format!("{:.1}", ours.rate() / theirs.rate()),
        _ => "–".to_owned(),
    };
    let _ = writeln!(report, "| {ratio} |");
}

fn memory(report: &mut String, contestants: &[Contestant]) {
    report.push('\n');
    for contestant in contestants {
        let resident: Vec<String> = (0..contestant.cluster.addresses().len())
            .filter_map(|position| contestant.cluster.node(position).resident_kib())
            .map(|kib| format!("{} MiB", kib / 1024))
            .collect();
        let name = contestant.kind.name();
        let _ = writeln!(
            report,
            "- {name}, resident memory of the nodes after the load: {}",
            resident.join(", ")
        );
    }
}

async fn recovery(cluster: &mut Cluster, kills: u32) -> anyhow::Result<String> {
    let mut recoveries = Vec::new();
    for round in 1..=kills {
        cluster.await_caught_up().await?;
        let leader = cluster.leader().await?;
        let (recovery, _) = kill_and_measure(cluster, leader, round).await?;
        recoveries.push(recovery);
        cluster.restart(leader).await?;
    }
    Ok(Durations::new(recoveries).summary())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement(operations: usize) -> Measurement {
        Measurement {
            latencies: vec![Duration::from_millis(2); operations],
            failures: 0,
            elapsed: Duration::from_secs(1),
        }
    }

    #[test]
    fn row_has_rates_quantiles_and_ratio() {
        let mut report = String::new();
        let measured = [measurement(300), measurement(100)];
        row(&mut report, Operation::Write, 16, &measured);
        let expected = "| Write | 16 | 300 | 2.00 | 2.00 | 100 | 2.00 | 2.00 | 3.0 |\n";
        assert_eq!(report, expected);
    }
}
