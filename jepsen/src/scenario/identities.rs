//! Data directories that must not speak for their nodes: wiped, replaced,
//! removed, copied, restored from a backup. Each is refused, and says why and
//! what to do, where an operator looks.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use crate::cluster::{Cluster, ClusterArguments, MOUNT, await_health, await_some, start_listening};
use crate::ledger::Outcome;
use crate::process::{Placement, Process, Tuning};
use crate::{Verdict, api};

/// Arguments of `jepsen identities`.
#[derive(Args)]
pub struct IdentitiesArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
}

const LIMIT: Duration = Duration::from_secs(30);
/// Longer than members speak with one that has left.
const FAREWELL: Duration = Duration::from_secs(6);
/// The documented exit code of a process that peers refuse.
const EXIT_IDENTITY_REFUSED: i32 = 4;

/// Runs `jepsen identities`.
///
/// # Errors
/// The cluster could not be formed or did not come back.
pub async fn run(arguments: IdentitiesArguments) -> anyhow::Result<Verdict> {
    let mut cluster = Cluster::form(&arguments.cluster, Tuning::default()).await?;
    let mut findings = Findings::default();
    // Never the one that leads: leadership is not what is examined.
    let leader = cluster.leader().await?;
    let victim = (leader + 1) % cluster.addresses().len();
    copied_while_the_original_runs(&mut cluster, victim, &mut findings).await?;
    restored_from_a_backup(&mut cluster, victim, &mut findings).await?;
    wiped_and_replaced(&mut cluster, victim, &mut findings).await?;
    removed_while_away(&mut cluster, victim, &mut findings).await?;
    let leader = cluster.leader().await?;
    write(&cluster, leader, "at the end").await?;
    Ok(findings.verdict())
}

/// What was seen and what was missed.
#[derive(Default)]
struct Findings {
    missed: usize,
}

impl Findings {
    fn check(&mut self, what: &str, holds: bool) {
        println!("  {} {what}", if holds { "ok:" } else { "VIOLATION not:" });
        self.missed += usize::from(!holds);
    }

    /// Looks for parts of one line; prints the line.
    fn check_line(&mut self, what: &str, text: &str, parts: &[&str]) {
        let line = text
            .lines()
            .find(|line| parts.iter().all(|part| line.contains(part)));
        self.check(what, line.is_some());
        match line {
            Some(line) => println!("      {}", line.trim()),
            None => println!("      looked for {parts:?} in:\n{}", tail(text)),
        }
    }

    fn verdict(&self) -> Verdict {
        if self.missed == 0 {
            Verdict::Valid
        } else {
            Verdict::Invalid
        }
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// Two processes on copies of one directory: the second stops, and says why.
async fn copied_while_the_original_runs(
    cluster: &mut Cluster,
    victim: usize,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    println!("a copy is started while its original runs");
    cluster.node_mut(victim).kill();
    let mut copy = copy_of(cluster, victim, "copy")?;
    cluster.restart(victim).await?;
    cluster.await_caught_up().await?;
    let code = run_until_it_ends(&mut copy, cluster.shares()).await?;
    findings.check(
        "the copy stops with the documented code",
        code == Some(EXIT_IDENTITY_REFUSED),
    );
    let name = format!("{:?}", cluster.node(victim).name());
    findings.check_line(
        "it says what it is and what to do",
        &copy.log(),
        &[
            "identity refused",
            &name,
            "in use twice",
            "let it join under",
        ],
    );
    cluster.node_mut(victim).check_alive()?;
    cluster.await_caught_up().await?;
    findings.check("the original goes on", true);
    // It was copied before the original was started: both were start 2. The next
    // start of the copy is the higher one, and the original still answers.
    let code = run_until_it_ends(&mut copy, cluster.shares()).await?;
    findings.check(
        "a restarted copy stops as well",
        code == Some(EXIT_IDENTITY_REFUSED),
    );
    cluster.node_mut(victim).check_alive()?;
    let leader = cluster.leader().await?;
    findings.check_line(
        "the leader logs it",
        &cluster.node(leader).log(),
        &["peer refused", "in use twice", "still answers"],
    );
    Ok(())
}

/// A directory that is older than its node's acknowledgements.
async fn restored_from_a_backup(
    cluster: &mut Cluster,
    victim: usize,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    println!("a directory is restored from a backup");
    cluster.await_caught_up().await?;
    // Of a running node, as an image of its disk: it was started as often as
    // the original, and only what it lost tells that it is old.
    let mut backup = copy_of(cluster, victim, "backup")?;
    for number in 0..20 {
        let leader = cluster.leader().await?;
        write(cluster, leader, &format!("after the backup {number}")).await?;
    }
    cluster.await_caught_up().await?;
    cluster.node_mut(victim).kill();
    let code = run_until_it_ends(&mut backup, cluster.shares()).await?;
    findings.check(
        "it stops with the documented code",
        code == Some(EXIT_IDENTITY_REFUSED),
    );
    findings.check_line(
        "it says what it is and what to do",
        &backup.log(),
        &[
            "identity refused",
            "older than what this node acknowledged",
            "join again",
        ],
    );
    let starts = start_until_welcome(cluster, victim).await?;
    println!("      starts of the original until all peers took it: {starts}");
    cluster.await_caught_up().await?;
    findings.check("the directory with everything in it is welcome", true);
    Ok(())
}

/// A wiped directory joins anew; the former one no longer counts.
async fn wiped_and_replaced(
    cluster: &mut Cluster,
    victim: usize,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    println!("a directory is wiped, its node joins again, and the former one comes back");
    cluster.node_mut(victim).kill();
    let data = cluster.node(victim).data_directory();
    let (former, newer) = (aside(&data, "former"), aside(&data, "newer"));
    rename(&data, &former)?;
    fs::create_dir(&data).context("an empty data directory")?;
    let leader = cluster.leader().await?;
    let leader_address = cluster.node(leader).address();
    start_listening(cluster.node_mut(victim)).await?;
    let address = cluster.node(victim).address();
    let mut refusals = String::new();
    await_some("the wiped node to be admitted", LIMIT, async || {
        let joined = join_and_unseal(address, leader_address, cluster.shares()).await;
        if let Err(error) = &joined {
            refusals.push_str(&format!("{error:#}\n"));
        }
        joined
    })
    .await?;
    println!(
        "      refusals on the way: {}",
        refusals.lines().next().unwrap_or("none")
    );
    await_health(cluster.node_mut(victim), &[429]).await?;
    cluster.await_voters().await?;
    findings.check("it is admitted as a new member and promoted", true);

    cluster.node_mut(victim).kill();
    rename(&data, &newer)?;
    rename(&former, &data)?;
    start_removed(cluster, victim, findings).await?;
    findings.check_line(
        "it says whose place it cannot take and what to do",
        &cluster.node(victim).log(),
        &[
            "refused by a peer",
            "data directory of incarnation",
            "let the node join again",
        ],
    );
    cluster.node_mut(victim).kill();
    rename(&data, &former)?;
    rename(&newer, &data)?;
    cluster.restart(victim).await?;
    cluster.await_caught_up().await?;
    findings.check("its successor is welcome", true);
    Ok(())
}

/// A node that was down while it was removed.
async fn removed_while_away(
    cluster: &mut Cluster,
    victim: usize,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    println!("a node is removed while it is down, and comes back");
    cluster.node_mut(victim).kill();
    let leader = cluster.leader().await?;
    let name = cluster.node(victim).name().to_owned();
    let leader_address = cluster.node(leader).address();
    api::remove_peer(leader_address, cluster.token(), &name).await?;
    // For a while its leader still tells it; afterwards only the refusal does.
    tokio::time::sleep(FAREWELL).await;
    start_removed(cluster, victim, findings).await?;
    let log = cluster.node(victim).log();
    findings.check_line(
        "it says by what",
        &log,
        &[
            "refused by a peer",
            "not a member",
            "membership committed at log position",
        ],
    );
    findings.check_line(
        "it says what to do",
        &log,
        &[
            "removed from the cluster by a committed membership",
            "join again",
        ],
    );
    let address = cluster.node(victim).address();
    refused_unseal(address, cluster.shares(), findings).await;

    cluster.node_mut(victim).kill();
    start_listening(cluster.node_mut(victim)).await?;
    findings.check(
        "it remembers after a restart",
        api::health(address).await == Some(530),
    );
    refused_unseal(address, cluster.shares(), findings).await;
    let joined = api::join(address, leader_address).await;
    let text = joined.map_or_else(|error| format!("{error:#}"), |()| "joined".to_owned());
    findings.check_line("it may not join over its old data", &text, &["removed"]);
    Ok(())
}

/// Starts a node that finds itself out: health 530, sealed, and shown so.
async fn start_removed(
    cluster: &mut Cluster,
    victim: usize,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let shares = cluster.shares().to_vec();
    let node = cluster.node_mut(victim);
    start_listening(node).await?;
    let address = node.address();
    // The last share is answered once somebody serves, which never happens.
    await_some(
        "the shares to be taken",
        LIMIT,
        async || match api::health(address).await {
            Some(530) => Ok(()),
            _ => api::unseal(address, &shares).await,
        },
    )
    .await?;
    await_health(node, &[530]).await?;
    findings.check("its health is 530", true);
    let removed = api::is_removed(address).await?;
    findings.check("its seal status says removed_from_cluster", removed);
    Ok(())
}

async fn refused_unseal(address: SocketAddr, shares: &[String], findings: &mut Findings) {
    let refused = api::unseal(address, shares).await;
    let text = refused.map_or_else(|error| format!("{error:#}"), |()| "unsealed".to_owned());
    findings.check_line(
        "it refuses to be unsealed",
        &text,
        &["500", "node was removed from a HA cluster", "join again"],
    );
}

async fn join_and_unseal(
    address: SocketAddr,
    leader: SocketAddr,
    shares: &[String],
) -> anyhow::Result<()> {
    match api::health(address).await {
        Some(200 | 429) => return Ok(()),
        Some(501) => api::join(address, leader).await?,
        _ => {}
    }
    api::unseal(address, shares).await?;
    match api::health(address).await {
        Some(200 | 429) => Ok(()),
        other => bail!("health {other:?} after joining"),
    }
}

/// Starts a process and unseals it, until it ends by itself.
async fn run_until_it_ends(node: &mut Process, shares: &[String]) -> anyhow::Result<Option<i32>> {
    start_listening(node).await?;
    // The answer may never come: the process may end before.
    let _ = api::unseal(node.address(), shares).await;
    node.await_exit(LIMIT)
        .await
        .with_context(|| format!("its log ends:\n{}", node.log_tail(15)))
}

/// Starts the original after its copy has ended: a peer that took the copy's
/// start for the newest refuses the original's, which has the same number, and
/// says that starting it again helps.
async fn start_until_welcome(cluster: &mut Cluster, victim: usize) -> anyhow::Result<u32> {
    /// Within this time a process that is refused has ended.
    const SETTLED: Duration = Duration::from_secs(4);
    let shares = cluster.shares().to_vec();
    for starts in 1..=2 {
        let node = cluster.node_mut(victim);
        start_listening(node).await?;
        // The answer may never come: the process may end before.
        let _ = api::unseal(node.address(), &shares).await;
        match node.await_exit(SETTLED).await {
            Ok(Some(EXIT_IDENTITY_REFUSED)) if node.log().contains("start it again then") => {}
            Ok(code) => bail!(
                "{} ended with {code:?}:\n{}",
                node.name(),
                node.log_tail(10)
            ),
            Err(_) => return Ok(starts),
        }
    }
    bail!("the original is refused however often it is started")
}

/// A process of the same name on a copy of a node's directory.
fn copy_of(cluster: &Cluster, original: usize, folder: &str) -> anyhow::Result<Process> {
    let node = cluster.node(original);
    let parent = cluster.directory().join(folder);
    let copy = Process::prepare(
        node.name(),
        node.program(),
        &parent,
        &Tuning::default(),
        Placement::default(),
    )?;
    let data = copy.data_directory();
    fs::remove_dir(&data).context("make room for the copy")?;
    let status = Command::new("cp")
        .arg("-a")
        .args([&node.data_directory(), &data])
        .status()
        .context("run cp")?;
    if !status.success() {
        bail!("cp: {status}");
    }
    Ok(copy)
}

async fn write(cluster: &Cluster, node: usize, value: &str) -> anyhow::Result<()> {
    let mut client = api::administrator(cluster.node(node).address(), Some(cluster.token()));
    let path = format!("/v1/{MOUNT}/identities");
    match api::write(&mut client, &path, value).await {
        Outcome::Ok => Ok(()),
        outcome => bail!("write: {outcome:?}"),
    }
}

fn aside(data: &Path, suffix: &str) -> PathBuf {
    data.with_extension(suffix)
}

fn rename(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::rename(from, to).with_context(|| format!("rename {}", from.display()))
}
