//! The power fails on all nodes at one instant, under load, again and again: a
//! cluster goes on from what had reached the disk by then, and has everything
//! that was answered before.
//!
//! All nodes live on one ext4, in an image on a file system of its own. That
//! one is frozen for a moment and the image copied: no block is written
//! meanwhile, so the copy is what the disk held at one instant, in the middle
//! of whatever the nodes and the kernel were writing, a block at a time. What was only in memory
//! is not in it, ext4's own journal is not closed. Then everything is killed,
//! and the nodes are started on the copy.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;

use super::rot::Dice;
use crate::Verdict;
use crate::cluster::{Cluster, ClusterArguments, Directory, MOUNT};
use crate::ledger::Ledger;
use crate::load::{self, Load, Plan};
use crate::loop_disk::LoopDisk;
use crate::process::{Placement, Tuning};

/// Arguments of `jepsen power-cut`.
#[derive(Args)]
pub struct PowerCutArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// How often the power fails.
    #[arg(long, default_value_t = 100)]
    rounds: u32,
    /// What the moments are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Concurrent load clients.
    #[arg(long, default_value_t = 12)]
    clients: usize,
    /// All load clients together start at most this many writes a second.
    #[arg(long, default_value_t = 400)]
    rate: u32,
    /// Length of every value. Long ones make writes that a cut may tear.
    #[arg(long, default_value_t = 128)]
    value_bytes: usize,
    /// `snapshot_threshold` of the nodes: low, so that some cuts meet a
    /// snapshot being written.
    #[arg(long, default_value_t = 150)]
    snapshot_threshold: u32,
    /// Way of appending (`wal_io`).
    #[arg(long, default_value = "direct")]
    wal_io: String,
}

const NODES: usize = 3;
/// Sparse: what is not written takes no space.
const DISK_BYTES: u64 = 2 << 30;
const OUTER_BYTES: u64 = 3 << 30;
/// The device takes a block at a time, so that a cut may tear longer writes.
const REQUEST_KIB: u32 = 4;
/// The power fails so long after the load began, at least and at most.
const MILLISECONDS: (u64, u64) = (100, 1100);

/// Runs `jepsen power-cut`.
///
/// # Errors
/// No root; or the cluster could not be formed or did not come back.
pub async fn run(arguments: PowerCutArguments) -> anyhow::Result<Verdict> {
    // Declared before the cluster: processes end before their file systems go.
    let mut machine = Machine::create()?;
    let places = (1..=NODES).map(|node| Placement {
        data: Some(machine.path().join(format!("n{node}"))),
        ..Placement::default()
    });
    let tuning = Tuning {
        snapshot_threshold: Some(arguments.snapshot_threshold),
        wal_io: Some(arguments.wal_io.clone()),
        ..Tuning::default()
    };
    let mut cluster = Cluster::form_at(&arguments.cluster, tuning, places.collect()).await?;
    let mut dice = Dice::new(arguments.seed);
    let mut all = Ledger::default();
    println!("wal_io {}, seed {}", arguments.wal_io, arguments.seed);
    for round in 1..=arguments.rounds {
        let plan = Plan {
            clients: arguments.clients,
            rate: Some(arguments.rate),
            count: None,
            value_bytes: arguments.value_bytes,
            mount: MOUNT.to_owned(),
            prefix: format!("cut-{round}"),
        };
        let (least, most) = MILLISECONDS;
        let moment = Duration::from_millis(least + dice.below(most - least));
        print!("cut {round}: ");
        let (ledger, violations) = cut(&mut cluster, &mut machine, &plan, moment).await?;
        // A violation ends the experiment: later rounds could hide it.
        if violations > 0 {
            return Ok(Verdict::Invalid);
        }
        all.merge(ledger);
    }
    let counts = all.counts();
    let violations = read_back(&cluster, Arc::new(all)).await?;
    println!(
        "{} cuts: {} answered writes, {} of unknown fate, {violations} violations at the end",
        arguments.rounds, counts.ok, counts.info
    );
    cluster.check_alive()?;
    let logs: Vec<String> = (0..NODES).map(|node| cluster.node(node).log()).collect();
    let count = |words| {
        logs.iter()
            .map(|log| log.matches(words).count())
            .sum::<usize>()
    };
    println!(
        "starts that found an unfinished write: {}; snapshots written: {}",
        count("ended in an unfinished write"),
        count("snapshot written")
    );
    Ok(match violations {
        0 if counts.ok > 0 => Verdict::Valid,
        _ => Verdict::Invalid,
    })
}

/// One cut, and what was written before it; all nodes run afterwards.
async fn cut(
    cluster: &mut Cluster,
    machine: &mut Machine,
    plan: &Plan,
    moment: Duration,
) -> anyhow::Result<(Ledger, usize)> {
    let load = Load::start(&cluster.addresses(), cluster.token(), plan);
    tokio::time::sleep(moment).await;
    load.draw_the_line();
    let stood = machine.copy()?;
    cluster.kill_all();
    let report = load.stop().await?;
    machine.go_on_from_the_copy()?;
    let begin = Instant::now();
    cluster.restart_all().await?;
    cluster.leader().await?;
    let counts = report.ledger.counts();
    let ledger = Arc::new(report.ledger);
    let violations = read_back(cluster, Arc::clone(&ledger)).await?;
    println!(
        "after {moment:.2?}, copied in {stood:.2?}; {} answered before, {} of unknown fate; led \
         again after {:.1} s; {violations} violations",
        counts.ok,
        counts.info,
        begin.elapsed().as_secs_f64(),
    );
    let ledger = Arc::into_inner(ledger).context("the readers have ended")?;
    Ok((ledger, violations))
}

async fn read_back(cluster: &Cluster, ledger: Arc<Ledger>) -> anyhow::Result<usize> {
    let nodes = cluster.named_addresses();
    let found = load::verify(ledger, &nodes, cluster.token(), MOUNT).await?;
    for violation in found.iter().take(20) {
        println!("  VIOLATION {violation}");
    }
    Ok(found.len())
}

/// The nodes' disk within a file system that can be frozen.
struct Machine {
    // Declared in this order: the inner one is unmounted first.
    inner: LoopDisk,
    outer: LoopDisk,
    directory: Directory,
}

impl Machine {
    fn create() -> anyhow::Result<Machine> {
        let directory = Directory::create(false)?;
        let outer = LoopDisk::create(directory.path(), "outer", OUTER_BYTES)?;
        let inner = LoopDisk::create(outer.path(), "inner", DISK_BYTES)?;
        inner.limit_requests(REQUEST_KIB)?;
        Ok(Machine {
            inner,
            outer,
            directory,
        })
    }

    fn path(&self) -> PathBuf {
        self.inner.path().to_owned()
    }

    fn copy_path(&self) -> PathBuf {
        self.directory.path().join("copy.ext4")
    }

    /// Copies the disk as it is at one instant; how long writes stood still.
    fn copy(&self) -> anyhow::Result<Duration> {
        let frozen = self.outer.freeze()?;
        let begin = Instant::now();
        self.inner.copy_to(&self.copy_path())?;
        drop(frozen);
        Ok(begin.elapsed())
    }

    /// What was written since the copy is lost. Nothing may use the disk.
    fn go_on_from_the_copy(&mut self) -> anyhow::Result<()> {
        self.inner.replace_by(&self.copy_path())?;
        self.inner.limit_requests(REQUEST_KIB)
    }
}
