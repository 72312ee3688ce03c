//! `jepsen`: drives real server processes as a black box, on loopback only,
//! breaks them, and checks that nothing acknowledged was lost; and judges
//! recorded histories; and simulates whole clusters from seeds.
//!
//! Exit codes: 0 the property held; 1 it was violated; 2 undecided (`check`);
//! 3 too little of what was to be seen was seen (`sim`, `model`);
//! 255 the harness itself could not do its work, which is not a verdict.

mod api;
mod bench;
mod check;
mod client;
mod cluster;
mod ledger;
mod load;
mod loop_disk;
mod model;
mod mutants;
mod network;
mod process;
mod scenario;
mod sim;
mod statistics;
mod storage;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// What an experiment says about the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The property held.
    Valid,
    /// The property was violated; the report has been printed.
    Invalid,
}

#[derive(Parser)]
#[command(about = "Fault injection, load and checking with real processes")]
enum Command {
    /// Is a recorded history linearizable?
    Check(check::CheckArguments),
    /// Deterministic simulations of whole clusters, one a seed.
    Sim(sim::SimArguments),
    /// Which layer of tests notices the bugs of the catalogue?
    Mutants(mutants::MutantsArguments),
    /// Everything a small cluster of production cores can do.
    Model(model::ModelArguments),
    #[command(flatten)]
    Experiment(Experiment),
}

#[derive(Subcommand)]
enum Experiment {
    /// Writes from many clients, then reads everything back through every node.
    Load(load::LoadArguments),
    /// Kills the leader again and again under load: time to the next
    /// successful write, and no acknowledged write may be lost.
    KillLeader(scenario::kill_leader::KillLeaderArguments),
    /// Kills all nodes at once under load, restarts and unseals them: no
    /// acknowledged write may be lost.
    KillAll(scenario::kill_all::KillAllArguments),
    /// Freezes the file system under the leader again and again: time until
    /// another node takes writes. Needs root.
    StallDisk(scenario::stall_disk::StallDiskArguments),
    /// Five nodes of which one reaches both sides, and a leader that is heard
    /// and does not hear: time until writes go on. Needs root.
    Bridge(scenario::bridge::BridgeArguments),
    /// A wiped, a removed, a copied and a restored data directory: each is
    /// refused with its reason and remedy.
    Identities(scenario::identities::IdentitiesArguments),
    /// Bits flip in every kind of file of a follower that is down: it repairs
    /// itself or refuses, and nothing wrong is ever read.
    BitFlips(scenario::bit_flips::BitFlipsArguments),
    /// The power fails on all nodes at one instant, again and again: what was
    /// answered before is there afterwards. Needs root.
    PowerCut(scenario::power_cut::PowerCutArguments),
    /// A follower misses many writes and several compactions, comes back,
    /// catches up by snapshot and serves.
    Lag(scenario::lag::LagArguments),
    /// Holdfast beside OpenBao: throughput, latency, recovery, memory.
    Bench(bench::BenchArguments),
    /// The log beside the device, raft-engine and okaywal; what a large state
    /// costs.
    Storage(storage::StorageArguments),
}

impl Experiment {
    async fn run(self) -> anyhow::Result<Verdict> {
        match self {
            Experiment::Load(arguments) => load::run(arguments).await,
            Experiment::KillLeader(arguments) => scenario::kill_leader::run(arguments).await,
            Experiment::KillAll(arguments) => scenario::kill_all::run(arguments).await,
            Experiment::StallDisk(arguments) => scenario::stall_disk::run(arguments).await,
            Experiment::Bridge(arguments) => scenario::bridge::run(arguments).await,
            Experiment::Identities(arguments) => scenario::identities::run(arguments).await,
            Experiment::BitFlips(arguments) => scenario::bit_flips::run(arguments).await,
            Experiment::PowerCut(arguments) => scenario::power_cut::run(arguments).await,
            Experiment::Lag(arguments) => scenario::lag::run(arguments).await,
            Experiment::Bench(arguments) => bench::run(arguments).await,
            Experiment::Storage(arguments) => storage::run(&arguments),
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let experiment = match Command::parse() {
        Command::Check(arguments) => return check::run(&arguments),
        Command::Sim(arguments) => return sim::run(&arguments),
        Command::Mutants(arguments) => return mutants::run(&arguments),
        Command::Model(arguments) => return model::run(&arguments),
        Command::Experiment(experiment) => experiment,
    };
    // Dropping the experiment ends its processes and removes its files, so an
    // interrupted run leaves nothing behind.
    let outcome = tokio::select! {
        outcome = experiment.run() => outcome,
        () = interrupted() => Err(anyhow::anyhow!("interrupted")),
    };
    match outcome {
        Ok(Verdict::Valid) => ExitCode::SUCCESS,
        Ok(Verdict::Invalid) => ExitCode::from(1),
        Err(error) => {
            eprintln!("harness: {error:#}");
            ExitCode::from(255)
        }
    }
}

async fn interrupted() {
    let mut terminate =
        signal(SignalKind::terminate()).expect("installing a signal handler cannot fail here");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
