//! How a leader with a large state answers writes: alone while it writes
//! snapshots, and while new nodes fetch everything it has. Real nodes on real
//! files and loopback, in this process; one disk and its cores serve them all.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use holdfast::membership::duration::GoDuration;
use holdfast::node::{NodeOptions, RaftNode, SnapshotThresholds};
use holdfast::peer::generate_keyring;
use holdfast::physical::{Backend, JoinGrant, JoinRequest, PeerInfo, Physical};
use holdfast::types::{Outcome, Transaction};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::put;
use crate::statistics::Durations;

/// Writes of one key offered in a second, whatever becomes of those before.
const WRITES_PER_SECOND: u64 = 500;
/// How long writes are measured around snapshots.
const OBSERVED: Duration = Duration::from_secs(40);
/// Entries from one snapshot to the next: one each five seconds.
const SNAPSHOT_ENTRIES: u64 = 5 * WRITES_PER_SECOND;
/// Entries that one transaction adds while the state is made.
const FILL_ENTRIES: u64 = 512;
const PATIENCE: Duration = Duration::from_secs(120);

struct Member {
    node: Arc<RaftNode>,
    folder: PathBuf,
    address: String,
    name: String,
}

/// A write: when it was offered, when it was answered.
type Sample = (Instant, Instant);

/// Measures with a state of so many entries; the report's lines.
///
/// # Errors
/// A node did not start, join or answer.
pub fn measured(entries: u64, scratch: &Path) -> anyhow::Result<String> {
    // The program runs on a runtime of its own already.
    let measuring = || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        runtime.block_on(run(entries, scratch))
    };
    let measured = std::thread::scope(|scope| scope.spawn(measuring).join());
    measured.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

async fn run(entries: u64, scratch: &Path) -> anyhow::Result<String> {
    eprintln!("a leader with {entries} entries");
    let keyring = generate_keyring()?.to_vec();
    let leader = open("n1", scratch)?;
    leader.node.bootstrap(*b"cluster-measured").await?;
    leader.node.stop().await;
    leader.node.start(keyring.clone()).await?;
    until("the leader leads", || {
        leader.node.leadership().borrow().is_leader
    })
    .await?;
    fill(&leader.node, entries).await?;

    let mut report = format!(
        "\n{WRITES_PER_SECOND} writes a second to a leader with {entries} entries\n\n\
         | meanwhile | p50 | p99 | writes |\n|---|---|---|---|\n"
    );
    let load = Load::begin(&leader.node, entries);
    let spans = snapshots(&leader.folder, OBSERVED).await?;
    let samples = load.end().await?;
    let meets = |sample: &&Sample| {
        spans
            .iter()
            .any(|span| sample.0 < span.1 && span.0 < sample.1)
    };
    let during = samples.iter().filter(meets).copied().collect();
    let apart = samples.iter().filter(|it| !meets(it)).copied().collect();
    let written: Duration = spans.iter().map(|span| span.1 - span.0).sum();
    let mean = written / u32::try_from(spans.len().max(1))?;
    line(&mut report, "nothing", apart);
    let title = format!(
        "{} snapshots of {:.2} s each",
        spans.len(),
        mean.as_secs_f64()
    );
    line(&mut report, &title, during);

    let mut members = vec![leader];
    for name in ["n2", "n3"] {
        let newcomer = open(name, scratch)?;
        let leader = Arc::clone(&members[0].node);
        let load = Load::begin(&leader, entries);
        let begin = Instant::now();
        join(&leader, &newcomer, &keyring).await?;
        until("the newcomer has caught up", || {
            let commit_index = leader.status().commit_index;
            entries / FILL_ENTRIES < commit_index
                && commit_index <= newcomer.node.status().applied_index + 50
        })
        .await?;
        let took = begin.elapsed();
        let samples = load.end().await?;
        let title = format!("{name} joins, caught up after {:.2} s", took.as_secs_f64());
        line(&mut report, &title, samples);
        members.push(newcomer);
        until("the newcomer votes", || {
            let servers = leader.servers().1;
            servers.iter().filter(|server| server.voter).count() == members.len()
        })
        .await?;
    }
    for member in members.iter().rev() {
        member.node.stop().await;
    }
    Ok(report)
}

fn line(report: &mut String, title: &str, samples: Vec<Sample>) {
    let count = samples.len();
    let durations = samples.into_iter().map(|(begin, end)| end - begin);
    let durations = Durations::new(durations.collect());
    let (half, slow) = (durations.quantile(0.5), durations.quantile(0.99));
    let _ = writeln!(
        report,
        "| {title} | {:.2} ms | {:.2} ms | {count} |",
        half.as_secs_f64() * 1e3,
        slow.as_secs_f64() * 1e3
    );
}

fn open(name: &str, scratch: &Path) -> anyhow::Result<Member> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address: SocketAddr = listener.local_addr()?;
    drop(listener);
    let folder = scratch.join(name);
    let api_address = format!("https://{name}.invalid:8200");
    let mut options = NodeOptions::new(name, address, address.to_string(), api_address);
    options.path = Some(folder.clone());
    options.snapshot = SnapshotThresholds {
        entries: SNAPSHOT_ENTRIES,
        bytes: u64::MAX,
    };
    options.autopilot.server_stabilization_time = GoDuration {
        nanoseconds: 200_000_000,
    };
    Ok(Member {
        node: RaftNode::open(options)?,
        folder,
        address: address.to_string(),
        name: name.to_owned(),
    })
}

async fn join(leader: &RaftNode, newcomer: &Member, keyring: &[u8]) -> anyhow::Result<()> {
    let request = JoinRequest {
        node_id: newcomer.name.clone(),
        cluster_address: newcomer.address.clone(),
        incarnation: newcomer.node.incarnation(),
        non_voter: false,
    };
    leader.admit(request).await?;
    let peers = leader.servers().1.into_iter().map(|server| PeerInfo {
        node_id: server.node_id,
        cluster_address: server.address,
        api_address: String::new(),
    });
    let grant = JoinGrant {
        cluster_id: leader.cluster_id().context("a cluster")?,
        peers: peers.collect(),
        tls_keyring: keyring.to_vec(),
    };
    Ok(newcomer.node.start_joined(grant).await?)
}

async fn fill(leader: &RaftNode, entries: u64) -> anyhow::Result<()> {
    for first in (0..entries).step_by(FILL_ENTRIES as usize) {
        let last = entries.min(first + FILL_ENTRIES);
        let operations = (first..last).map(put).collect();
        write(leader, operations).await?;
    }
    Ok(())
}

async fn write(
    leader: &RaftNode,
    operations: Vec<holdfast::types::Operation>,
) -> anyhow::Result<()> {
    let transaction = Transaction {
        preconditions: Vec::new(),
        operations,
    };
    match leader.commit(transaction).await? {
        Outcome::Applied => Ok(()),
        other => bail!("a write was not applied: {other:?}"),
    }
}

/// Writes that come at their rate, answered or not.
struct Load {
    offering: tokio::task::JoinHandle<Vec<tokio::task::JoinHandle<anyhow::Result<()>>>>,
    samples: Arc<Mutex<Vec<Sample>>>,
    stop: Arc<std::sync::atomic::AtomicBool>,
}

impl Load {
    fn begin(leader: &Arc<RaftNode>, entries: u64) -> Self {
        let samples: Arc<Mutex<Vec<Sample>>> = Arc::default();
        let stop: Arc<std::sync::atomic::AtomicBool> = Arc::default();
        let (leader, noted, stopped) =
            (Arc::clone(leader), Arc::clone(&samples), Arc::clone(&stop));
        let offering = tokio::spawn(async move {
            let mut ticks = interval(Duration::from_micros(1_000_000 / WRITES_PER_SECOND));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut writes = Vec::new();
            let mut number = 0_u64;
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                ticks.tick().await;
                // All over the state, in no order.
                number = (number + 7_368_787) % entries;
                let (leader, noted) = (Arc::clone(&leader), Arc::clone(&noted));
                writes.push(tokio::spawn(async move {
                    let begin = Instant::now();
                    write(&leader, vec![put(number)]).await?;
                    let sample = (begin, Instant::now());
                    noted.lock().expect("nobody panics with it").push(sample);
                    Ok(())
                }));
            }
            writes
        });
        Self {
            offering,
            samples,
            stop,
        }
    }

    async fn end(self) -> anyhow::Result<Vec<Sample>> {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for write in self.offering.await? {
            write.await??;
        }
        let mut samples = self.samples.lock().expect("nobody panics with it");
        Ok(std::mem::take(&mut *samples))
    }
}

/// Watches a node's folder for a while: when snapshots were being written.
async fn snapshots(folder: &Path, length: Duration) -> anyhow::Result<Vec<(Instant, Instant)>> {
    let folder = folder.join("snapshots");
    let (begin, mut spans) = (Instant::now(), Vec::new());
    let mut writing: Option<Instant> = None;
    while begin.elapsed() < length {
        let mut is_writing = false;
        for item in std::fs::read_dir(&folder)? {
            is_writing |= item?.file_name().to_string_lossy().ends_with(".tmp");
        }
        match (writing, is_writing) {
            (None, true) => writing = Some(Instant::now()),
            (Some(since), false) => {
                spans.push((since, Instant::now()));
                writing = None;
            }
            _ => {}
        }
        sleep(Duration::from_millis(2)).await;
    }
    Ok(spans)
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        if deadline < Instant::now() {
            bail!("not in time: {what}");
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
