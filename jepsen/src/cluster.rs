//! Three real nodes on loopback, from start to removal.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;

use crate::api::{self, Credentials};
use crate::ledger::Outcome;
use crate::process::{Placement, Process, ServerKind, Tuning};

/// Which servers an experiment runs.
#[derive(Args, Clone, Debug)]
pub struct ClusterArguments {
    /// Which server.
    #[arg(long, value_enum, default_value = "holdfast")]
    pub server: ServerKind,
    /// Its program: by default the `holdfast` beside this one, or `bao` on PATH.
    #[arg(long)]
    pub program: Option<PathBuf>,
    /// The servers' `performance_multiplier` (their own default if absent).
    #[arg(long)]
    pub performance_multiplier: Option<u32>,
    /// Keep data directories and logs after the run, and print where they are.
    #[arg(long)]
    pub keep: bool,
}

/// A formed cluster. Dropping it kills its processes and removes its files.
pub struct Cluster {
    // Declared before the directory: processes end before their files go.
    nodes: Vec<Process>,
    credentials: Credentials,
    directory: Directory,
}

/// KV v1 mount that every cluster of the harness has.
pub const MOUNT: &str = "jepsen";

const NODE_COUNT: usize = 3;
const FORMATION_LIMIT: Duration = Duration::from_secs(90);

impl Cluster {
    /// Starts three nodes, forms one cluster of three voters, mounts KV v1.
    ///
    /// # Errors
    /// Anything that keeps that from happening within 90 seconds a step.
    pub async fn form(arguments: &ClusterArguments, tuning: Tuning) -> anyhow::Result<Cluster> {
        let placements = vec![Placement::default(); NODE_COUNT];
        Cluster::form_at(arguments, tuning, placements).await
    }

    /// As [`Cluster::form`], of as many nodes as there are places.
    ///
    /// # Errors
    /// As [`Cluster::form`].
    pub async fn form_at(
        arguments: &ClusterArguments,
        tuning: Tuning,
        placements: Vec<Placement>,
    ) -> anyhow::Result<Cluster> {
        let program = match &arguments.program {
            Some(program) => program.clone(),
            None => arguments.server.default_program()?,
        };
        let tuning = Tuning {
            performance_multiplier: arguments.performance_multiplier,
            ..tuning
        };
        let directory = Directory::create(arguments.keep)?;
        let mut nodes = (1..)
            .zip(placements)
            .map(|(number, placement)| {
                let name = format!("n{number}");
                Process::prepare(&name, &program, &directory.path, &tuning, placement)
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut credentials = None;
        for position in 0..nodes.len() {
            let leader = nodes[0].address();
            start_listening(&mut nodes[position]).await?;
            let address = nodes[position].address();
            match &credentials {
                None => {
                    let fresh = api::initialise(address).await?;
                    api::unseal(address, &fresh.shares).await?;
                    credentials = Some(fresh);
                    await_health(&mut nodes[position], &[200]).await?;
                }
                Some(Credentials { shares, .. }) => {
                    api::join(address, leader).await?;
                    api::unseal(address, shares).await?;
                    await_health(&mut nodes[position], &[200, 429]).await?;
                }
            }
        }
        let credentials = credentials.context("a cluster has nodes")?;
        let cluster = Cluster {
            nodes,
            credentials,
            directory,
        };
        cluster.await_voters().await?;
        api::mount_kv(cluster.nodes[0].address(), cluster.token(), MOUNT).await?;
        cluster.await_mount().await?;
        Ok(cluster)
    }

    /// The run's own directory: removed at the end.
    pub fn directory(&self) -> &Path {
        &self.directory.path
    }

    /// The unseal shares.
    pub fn shares(&self) -> &[String] {
        &self.credentials.shares
    }

    /// The root token.
    pub fn token(&self) -> &str {
        &self.credentials.root_token
    }

    /// API addresses of all nodes, in order.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(Process::address).collect()
    }

    /// Name and API address of all nodes, in order.
    pub fn named_addresses(&self) -> Vec<(String, SocketAddr)> {
        let named = |node: &Process| (node.name().to_owned(), node.address());
        self.nodes.iter().map(named).collect()
    }

    /// The node at a position.
    pub fn node(&self, position: usize) -> &Process {
        &self.nodes[position]
    }

    /// The node at a position.
    pub fn node_mut(&mut self, position: usize) -> &mut Process {
        &mut self.nodes[position]
    }

    /// Position of the active node, awaited.
    ///
    /// # Errors
    /// None within the limit.
    pub async fn leader(&self) -> anyhow::Result<usize> {
        await_some("an active node", FORMATION_LIMIT, async || {
            for (position, node) in self.nodes.iter().enumerate() {
                if api::health(node.address()).await == Some(200) {
                    return Ok(position);
                }
            }
            bail!("no node answers as the active one")
        })
        .await
    }

    /// Kills all nodes at once: every signal is sent before any corpse is
    /// collected.
    pub fn kill_all(&mut self) {
        std::thread::scope(|scope| {
            for node in &mut self.nodes {
                scope.spawn(|| node.kill());
            }
        });
    }

    /// Starts a node that is down and unseals it.
    ///
    /// # Errors
    /// It does not get there within the limit.
    pub async fn restart(&mut self, position: usize) -> anyhow::Result<()> {
        let shares = self.credentials.shares.clone();
        bring_up(&mut self.nodes[position], &shares).await
    }

    /// Starts and unseals all nodes, at the same time: a last share may be
    /// answered only when a quorum is there.
    ///
    /// # Errors
    /// One does not get there within the limit.
    pub async fn restart_all(&mut self) -> anyhow::Result<()> {
        let shares = self.credentials.shares.clone();
        let [first, second, third] = &mut self.nodes[..] else {
            bail!("a cluster has {NODE_COUNT} nodes");
        };
        tokio::try_join!(
            bring_up(first, &shares),
            bring_up(second, &shares),
            bring_up(third, &shares),
        )?;
        Ok(())
    }

    /// Waits until every node has applied what the leader has committed now.
    ///
    /// # Errors
    /// One does not get there within the limit.
    pub async fn await_caught_up(&self) -> anyhow::Result<()> {
        let leader = self.leader().await?;
        let (committed, _) = api::raft_indexes(self.nodes[leader].address()).await?;
        for node in &self.nodes {
            let what = format!("{} to apply {committed}", node.name());
            await_some(&what, FORMATION_LIMIT, async || {
                let (_, applied) = api::raft_indexes(node.address()).await?;
                if applied < committed {
                    bail!("it has applied {applied}");
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Fails if a process ended by itself.
    ///
    /// # Errors
    /// One did.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        self.nodes.iter_mut().try_for_each(Process::check_alive)
    }

    /// OpenBao's standbys learn of a new mount a little later.
    async fn await_mount(&self) -> anyhow::Result<()> {
        for node in &self.nodes {
            let what = format!("{} to know the mount", node.name());
            let mut client = api::administrator(node.address(), Some(self.token()));
            await_some(&what, FORMATION_LIMIT, async || {
                let path = format!("/v1/{MOUNT}/formed");
                match api::write(&mut client, &path, "yes").await {
                    Outcome::Ok => Ok(()),
                    outcome => bail!("{outcome:?}"),
                }
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until every node is a voter.
    ///
    /// # Errors
    /// One is not within the limit.
    pub async fn await_voters(&self) -> anyhow::Result<()> {
        let count = self.nodes.len();
        let leader = self.leader().await?;
        await_some(&format!("{count} voters"), FORMATION_LIMIT, async || {
            let voters = api::voters(self.nodes[leader].address(), self.token()).await?;
            if voters.len() < count {
                bail!("voters are {voters:?}");
            }
            Ok(())
        })
        .await
    }
}

/// Tries until it succeeds, every 50 ms.
///
/// # Errors
/// The last one, after `limit`.
pub async fn await_some<T>(
    what: &str,
    limit: Duration,
    mut attempt: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if deadline <= Instant::now() => {
                return Err(error.context(format!("waited {limit:?} for {what}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn bring_up(node: &mut Process, shares: &[String]) -> anyhow::Result<()> {
    start_listening(node).await?;
    let address = node.address();
    // A node that has just come up may not be ready for shares yet; giving
    // them twice does no harm.
    let what = format!("{} to take its shares", node.name());
    await_some(&what, FORMATION_LIMIT, async || {
        api::unseal(address, shares).await
    })
    .await?;
    await_health(node, &[200, 429]).await
}

/// Starts a node and waits until it answers, in whatever state.
///
/// # Errors
/// It does not within the limit.
pub async fn start_listening(node: &mut Process) -> anyhow::Result<()> {
    node.start()?;
    await_health(node, &[200, 429, 501, 503, 530]).await
}

/// Waits until a node's health is one of these.
///
/// # Errors
/// It is not within the limit.
pub async fn await_health(node: &mut Process, wanted: &[u16]) -> anyhow::Result<()> {
    let what = format!("{} to answer with a health of {wanted:?}", node.name());
    await_some(&what, FORMATION_LIMIT, async || {
        node.check_alive()?;
        match api::health(node.address()).await {
            Some(status) if wanted.contains(&status) => Ok(()),
            other => bail!("health {other:?}; its log ends:\n{}", node.log_tail(10)),
        }
    })
    .await
}

/// A directory of this run, removed with everything in it unless kept.
pub struct Directory {
    path: PathBuf,
    keep: bool,
}

impl Directory {
    /// Makes a new one.
    ///
    /// # Errors
    /// The file system.
    pub fn create(keep: bool) -> anyhow::Result<Directory> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("jepsen-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Directory { path, keep })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.keep {
            eprintln!("kept: {}", self.path.display());
        } else {
            remove(&self.path);
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path) {
        eprintln!("harness: cannot remove {}: {error}", path.display());
    }
}
