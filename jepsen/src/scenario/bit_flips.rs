//! Bits flipped in the files of a follower that is down, of every kind and
//! under both ways of appending: it repairs itself, or refuses and says what to
//! do; no node ever answers with anything but what was written.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;

use super::rot::{Dice, Target};
use crate::cluster::{Cluster, ClusterArguments, MOUNT, await_health, await_some, start_listening};
use crate::ledger::Ledger;
use crate::load::{self, Load, Plan};
use crate::process::Tuning;
use crate::{Verdict, api};

/// Arguments of `jepsen bit-flips`.
#[derive(Args)]
pub struct BitFlipsArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// How often each kind of file is hit, with each way of appending.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// What places, bits and their number are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Writes of 512 KiB at the beginning: over 128 of them close a segment.
    #[arg(long, default_value_t = 150)]
    large_writes: u64,
    /// Ways of appending (`wal_io`).
    #[arg(long, value_delimiter = ',', default_values = ["direct", "mmap"])]
    wal_io: Vec<String>,
}

const LIMIT: Duration = Duration::from_secs(90);
/// Small writes before each round.
const WRITES: u64 = 200;
/// So that there are always two snapshots, and entries behind them.
const SNAPSHOT_THRESHOLD: u32 = 150;

/// Runs `jepsen bit-flips`.
///
/// # Errors
/// A cluster could not be formed, or did not come back.
pub async fn run(arguments: BitFlipsArguments) -> anyhow::Result<Verdict> {
    let mut dice = Dice::new(arguments.seed);
    let mut violations = 0;
    for way in &arguments.wal_io {
        let tuning = Tuning {
            snapshot_threshold: Some(SNAPSHOT_THRESHOLD),
            wal_io: Some(way.clone()),
            ..Tuning::default()
        };
        let cluster = Cluster::form(&arguments.cluster, tuning).await?;
        let mut trial = Trial {
            cluster,
            ledger: Ledger::default(),
            violations: 0,
            counts: [0; 3],
        };
        println!("wal_io {way}, seed {}", arguments.seed);
        trial
            .write("large", arguments.large_writes, 512 << 10)
            .await?;
        for round in 1..=arguments.rounds {
            for target in Target::ALL {
                let prefix = format!("r{round}-{target:?}");
                trial.write(&prefix, WRITES, 128).await?;
                trial.hit(target, &mut dice).await?;
            }
        }
        trial.judge().await?;
        let [unharmed, repaired, refused] = trial.counts;
        println!(
            "wal_io {way}: {unharmed} times nothing was lost, {repaired} repaired from peers or an \
             older snapshot, {refused} refused with the way out"
        );
        violations += trial.violations;
    }
    Ok(match violations {
        0 => Verdict::Valid,
        _ => Verdict::Invalid,
    })
}

/// One cluster, and what was written to it.
struct Trial {
    cluster: Cluster,
    ledger: Ledger,
    violations: usize,
    /// By [`Outcome`].
    counts: [usize; 3],
}

/// What a damaged node did.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    /// Nothing was lost: a copy, or an end that nobody had acknowledged.
    Unharmed,
    /// It said that something was lost, and is whole again.
    Repaired,
    /// It ended, and said what to do.
    Refused,
}

impl Trial {
    async fn write(&mut self, prefix: &str, count: u64, bytes: usize) -> anyhow::Result<()> {
        let plan = Plan {
            clients: 8,
            rate: None,
            count: Some(count),
            value_bytes: bytes,
            mount: MOUNT.to_owned(),
            prefix: prefix.to_owned(),
        };
        let (addresses, token) = (self.cluster.addresses(), self.cluster.token());
        let report = Load::start(&addresses, token, &plan).finish().await?;
        let counts = report.ledger.counts();
        if counts.ok == 0 {
            let reasons = report.ledger.reasons();
            bail!("no write of {prefix} was acknowledged: {counts:?}, {reasons:?}");
        }
        self.ledger.merge(report.ledger);
        Ok(())
    }

    /// Damages a follower and waits until it is a sound member again.
    async fn hit(&mut self, target: Target, dice: &mut Dice) -> anyhow::Result<()> {
        self.cluster.await_caught_up().await?;
        let leader = self.cluster.leader().await?;
        let count = self.cluster.addresses().len();
        let victim = (leader + 1 + dice.below(count as u64 - 1) as usize) % count;
        // Killed or asked to end: the last batch is another.
        if dice.below(2) == 0 {
            self.cluster.node_mut(victim).kill();
        } else {
            self.cluster.node_mut(victim).stop(LIMIT).await?;
        }
        let data = self.cluster.node(victim).data_directory();
        let flipped = target.flip(&data, dice)?;
        let before = self.cluster.node(victim).log().len();
        let begin = Instant::now();
        let outcome = self.bring_back(victim, before).await?;
        self.counts[outcome as usize] += 1;
        println!(
            "  {target:?} of {}: {}: {outcome:?} after {:.1} s",
            self.cluster.node(victim).name(),
            flipped.join(", "),
            begin.elapsed().as_secs_f64()
        );
        if matches!(outcome, Outcome::Refused) {
            let said = self.said_since(victim, before);
            self.check(
                "it says what to do",
                said.contains("remove this node from the cluster") && said.contains("join"),
                &said,
            );
            self.check("it could be repaired", !target.is_repairable(), &said);
            self.replace(victim).await?;
        }
        self.cluster.await_caught_up().await
    }

    /// Starts and unseals a node until it follows, or ends by itself.
    async fn bring_back(&mut self, victim: usize, before: usize) -> anyhow::Result<Outcome> {
        self.cluster.node_mut(victim).start()?;
        let deadline = Instant::now() + LIMIT;
        let shares = self.cluster.shares().to_vec();
        loop {
            let node = self.cluster.node_mut(victim);
            if node.await_exit(Duration::ZERO).await.is_ok() {
                return Ok(Outcome::Refused);
            }
            let address = node.address();
            match api::health(address).await {
                Some(200 | 429) => break,
                Some(503) => {
                    // It may still be opening its log.
                    let _ = api::unseal(address, &shares).await;
                }
                _ => {}
            }
            if deadline < Instant::now() {
                let said = self.said_since(victim, before);
                bail!("the damaged node neither serves nor ends:\n{said}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let said = self.said_since(victim, before);
        let losses = ["repaired from peers", "was set aside"];
        Ok(match losses.iter().any(|words| said.contains(words)) {
            true => Outcome::Repaired,
            false => Outcome::Unharmed,
        })
    }

    /// What an operator is told to do: removed, emptied, joined again.
    async fn replace(&mut self, victim: usize) -> anyhow::Result<()> {
        let leader = self.cluster.leader().await?;
        let leader = self.cluster.node(leader).address();
        let name = self.cluster.node(victim).name().to_owned();
        api::remove_peer(leader, self.cluster.token(), &name).await?;
        let data = self.cluster.node(victim).data_directory();
        fs::remove_dir_all(&data).context("empty the directory")?;
        fs::create_dir(&data).context("an empty directory")?;
        let shares = self.cluster.shares().to_vec();
        start_listening(self.cluster.node_mut(victim)).await?;
        let address = self.cluster.node(victim).address();
        await_some("the emptied node to join", LIMIT, async || {
            api::join(address, leader).await?;
            api::unseal(address, &shares).await
        })
        .await?;
        await_health(self.cluster.node_mut(victim), &[429]).await?;
        self.cluster.await_voters().await
    }

    fn said_since(&self, victim: usize, before: usize) -> String {
        let log = self.cluster.node(victim).log();
        log.get(before..).unwrap_or_default().to_owned()
    }

    fn check(&mut self, what: &str, holds: bool, said: &str) {
        if !holds {
            println!("VIOLATION not: {what}. It said:\n{said}");
            self.violations += 1;
        }
    }

    /// Everything is read back through every node, and no two of them ever
    /// found that their states differ.
    async fn judge(&mut self) -> anyhow::Result<()> {
        self.cluster.check_alive()?;
        let ledger = Arc::new(std::mem::take(&mut self.ledger));
        let (nodes, token) = (self.cluster.named_addresses(), self.cluster.token());
        let found = load::verify(Arc::clone(&ledger), &nodes, token, MOUNT).await?;
        println!(
            "  read back: {} keys through {} nodes: {} violations",
            ledger.keys_to_read().len(),
            nodes.len(),
            found.len()
        );
        for violation in found.iter().take(20) {
            println!("  VIOLATION {violation}");
        }
        self.violations += found.len();
        for node in 0..nodes.len() {
            let log = self.cluster.node(node).log();
            let differs = log
                .lines()
                .find(|line| line.contains("two replicas differ"));
            let differs = differs.unwrap_or_default().to_owned();
            self.check("all replicas agree", differs.is_empty(), &differs);
        }
        Ok(())
    }
}

/// Files with this suffix in a folder, by name.
pub fn files(folder: &Path, suffix: &str) -> anyhow::Result<Vec<PathBuf>> {
    let listed = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in listed {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(suffix) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
