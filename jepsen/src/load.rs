//! Write load from many clients, and reading it all back through every node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use tokio::task::{JoinHandle, JoinSet};

use crate::Verdict;
use crate::api;
use crate::client::Client;
use crate::cluster::{Cluster, ClusterArguments, MOUNT};
use crate::ledger::{Ledger, Outcome, Violation};
use crate::process::Tuning;
use crate::statistics::Durations;

/// What to write.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Clients, each with one request under way at a time.
    pub clients: usize,
    /// All clients together start at most this many writes a second.
    pub rate: Option<u32>,
    /// Stop after this many writes in all.
    pub count: Option<u64>,
    /// Length of every value.
    pub value_bytes: usize,
    /// KV v1 mount.
    pub mount: String,
    /// Keys start with this; unique to the load within its cluster.
    pub prefix: String,
}

/// Running clients. Dropping it ends them.
pub struct Load {
    stop: Arc<AtomicBool>,
    is_late: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    clients: Vec<JoinHandle<ClientLog>>,
    started: Instant,
}

/// What a load did.
pub struct Report {
    /// All writes.
    pub ledger: Ledger,
    /// Latencies of the acknowledged ones.
    pub latencies: Durations,
    /// From first to last request.
    pub elapsed: Duration,
}

#[derive(Default)]
struct ClientLog {
    ledger: Ledger,
    latencies: Vec<Duration>,
}

/// Longest time a client waits for an answer.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// A key is written this often, so that both overwriting and many keys are
/// exercised.
const WRITES_PER_KEY: u64 = 4;
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(20);

impl Load {
    /// Starts the clients; client `i` begins with node `i mod n`.
    pub fn start(addresses: &[SocketAddr], token: &str, plan: &Plan) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let is_late = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let tickets = Arc::new(AtomicU64::new(0));
        let clients = (0..plan.clients)
            .map(|number| {
                let writer = Writer {
                    number,
                    plan: plan.clone(),
                    addresses: addresses.to_vec(),
                    token: token.to_owned(),
                    stop: Arc::clone(&stop),
                    is_late: Arc::clone(&is_late),
                    acknowledged: Arc::clone(&acknowledged),
                    tickets: Arc::clone(&tickets),
                };
                tokio::spawn(writer.run())
            })
            .collect();
        Load {
            stop,
            is_late,
            acknowledged,
            clients,
            started: Instant::now(),
        }
    }

    /// Acknowledged writes so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Answers that arrive from now on count for nothing: what they answer may
    /// be undone.
    pub fn draw_the_line(&self) {
        self.is_late.store(true, Ordering::SeqCst);
    }

    /// Lets every client finish the request under way, then reports.
    ///
    /// # Errors
    /// A client panicked.
    pub async fn stop(self) -> anyhow::Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        self.finish().await
    }

    /// Waits until the planned count is written, then reports.
    ///
    /// # Errors
    /// A client panicked.
    pub async fn finish(mut self) -> anyhow::Result<Report> {
        let mut ledger = Ledger::default();
        let mut latencies = Vec::new();
        for client in self.clients.drain(..) {
            let log = client.await.context("a load client")?;
            ledger.merge(log.ledger);
            latencies.extend(log.latencies);
        }
        Ok(Report {
            ledger,
            latencies: Durations::new(latencies),
            elapsed: self.started.elapsed(),
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for client in &self.clients {
            client.abort();
        }
    }
}

struct Writer {
    number: usize,
    plan: Plan,
    addresses: Vec<SocketAddr>,
    token: String,
    stop: Arc<AtomicBool>,
    is_late: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    tickets: Arc<AtomicU64>,
}

impl Writer {
    async fn run(self) -> ClientLog {
        let mut log = ClientLog::default();
        let mut node = self.number;
        let mut client = self.client(node);
        let (mut key_number, mut writes_to_key) = (0_u64, 0_u64);
        let mut pace = Pace::new(&self.plan);
        for sequence in 0_u64.. {
            if self.is_over() {
                break;
            }
            pace.wait().await;
            let key = format!("{}-c{}-k{key_number}", self.plan.prefix, self.number);
            let id = format!("{}-c{}-w{sequence}", self.plan.prefix, self.number);
            let value = padded(&id, self.plan.value_bytes);
            let begin = Instant::now();
            let path = format!("/v1/{}/{key}", self.plan.mount);
            let mut outcome = api::write(&mut client, &path, &value).await;
            // Looked at after the answer arrived.
            if outcome == Outcome::Ok && self.is_late.load(Ordering::SeqCst) {
                outcome = Outcome::Info("answered too late to count".into());
            }
            if outcome == Outcome::Ok {
                log.latencies.push(begin.elapsed());
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
            } else {
                node += 1;
                client = self.client(node);
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            }
            writes_to_key += 1;
            // After an unknown fate the key is retired: see `ledger`.
            if writes_to_key == WRITES_PER_KEY || matches!(outcome, Outcome::Info(_)) {
                (key_number, writes_to_key) = (key_number + 1, 0);
            }
            log.ledger.record(&key, &id, outcome);
        }
        log
    }

    fn client(&self, node: usize) -> Client {
        let address = self.addresses[node % self.addresses.len()];
        Client::new(address, Some(&self.token), WRITE_LIMIT)
    }

    fn is_over(&self) -> bool {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        self.stop.load(Ordering::Relaxed) || self.plan.count.is_some_and(|count| count <= ticket)
    }
}

/// Spreads the starts of one client's requests evenly; a late one does not
/// cause a burst.
struct Pace {
    interval: Option<Duration>,
    next: Instant,
}

impl Pace {
    fn new(plan: &Plan) -> Pace {
        let share = |rate: u32| Duration::from_secs_f64(plan.clients as f64 / f64::from(rate));
        Pace {
            interval: plan.rate.map(share),
            next: Instant::now(),
        }
    }

    async fn wait(&mut self) {
        if let Some(interval) = self.interval {
            tokio::time::sleep_until(self.next.into()).await;
            self.next = (self.next + interval).max(Instant::now());
        }
    }
}

/// A value of exactly `bytes` bytes (or the id's length, if that is more).
pub fn padded(id: &str, bytes: usize) -> String {
    let padding = bytes.saturating_sub(id.len());
    format!("{id}{}", "~".repeat(padding))
}

/// The id within a padded value.
fn id_of(value: &str) -> &str {
    value.trim_end_matches('~')
}

/// Reads every key back through every node and judges it. Reads are repeated
/// until the server gives a value or says that there is none.
///
/// # Errors
/// A node that does not answer for a minute.
pub async fn verify(
    ledger: Arc<Ledger>,
    nodes: &[(String, SocketAddr)],
    token: &str,
    mount: &str,
) -> anyhow::Result<Vec<Violation>> {
    const READERS_PER_NODE: usize = 8;
    let keys = Arc::new(ledger.keys_to_read());
    let mut readers = JoinSet::new();
    for (node, address) in nodes {
        for reader in 0..READERS_PER_NODE {
            let (ledger, keys) = (Arc::clone(&ledger), Arc::clone(&keys));
            let (node, mount) = (node.clone(), mount.to_owned());
            let mut client = Client::new(*address, Some(token), WRITE_LIMIT);
            readers.spawn(async move {
                let mut violations = Vec::new();
                for key in keys.iter().skip(reader).step_by(READERS_PER_NODE) {
                    let path = format!("/v1/{mount}/{key}");
                    let found = read_patiently(&mut client, &path).await?;
                    let found = found.as_deref().map(id_of);
                    violations.extend(ledger.check(key, &node, found));
                }
                anyhow::Ok(violations)
            });
        }
    }
    let mut violations = Vec::new();
    while let Some(reader) = readers.join_next().await {
        violations.extend(reader.context("a reader")??);
    }
    Ok(violations)
}

async fn read_patiently(client: &mut Client, path: &str) -> anyhow::Result<Option<String>> {
    const LIMIT: Duration = Duration::from_secs(60);
    const PAUSE: Duration = Duration::from_millis(50);
    let deadline = Instant::now() + LIMIT;
    loop {
        match api::read(client, path).await {
            Ok(found) => return Ok(found),
            Err(error) if deadline <= Instant::now() => {
                return Err(error.context(format!("no answer within {LIMIT:?}")));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Verifies and prints the verdict of a finished load.
///
/// # Errors
/// As [`verify`]; also when nothing was acknowledged, which proves nothing.
pub async fn judge(
    report: Report,
    nodes: &[(String, SocketAddr)],
    token: &str,
    mount: &str,
) -> anyhow::Result<Verdict> {
    let counts = report.ledger.counts();
    println!(
        "writes: {} acknowledged, {} refused, {} of unknown fate; {:.0}/s over {:.1} s; \
         p50 {:.1} ms, p99 {:.1} ms",
        counts.ok,
        counts.fail,
        counts.info,
        counts.ok as f64 / report.elapsed.as_secs_f64(),
        report.elapsed.as_secs_f64(),
        report.latencies.quantile(0.5).as_secs_f64() * 1000.0,
        report.latencies.quantile(0.99).as_secs_f64() * 1000.0,
    );
    for (reason, count) in report.ledger.reasons().iter().take(8) {
        println!("  {count} × {reason}");
    }
    if counts.ok == 0 {
        bail!("no write was acknowledged: nothing to judge");
    }
    let begin = Instant::now();
    let ledger = Arc::new(report.ledger);
    let violations = verify(Arc::clone(&ledger), nodes, token, mount).await?;
    println!(
        "read back: {} keys through {} nodes in {:.1} s: {} violations",
        ledger.keys_to_read().len(),
        nodes.len(),
        begin.elapsed().as_secs_f64(),
        violations.len()
    );
    for violation in violations.iter().take(20) {
        println!("  VIOLATION {violation}");
    }
    Ok(if violations.is_empty() {
        Verdict::Valid
    } else {
        Verdict::Invalid
    })
}

/// Arguments of `jepsen load`.
#[derive(Args)]
pub struct LoadArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Nodes of a running cluster instead of one of our own; needs --token.
    #[arg(long, value_delimiter = ',', requires = "token")]
    addresses: Vec<SocketAddr>,
    /// A token of that cluster.
    #[arg(long)]
    token: Option<String>,
    /// KV v1 mount of that cluster; mounted if it is not there.
    #[arg(long, default_value = MOUNT)]
    mount: String,
    /// Concurrent clients.
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// How long to write, unless --count is given.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How many writes.
    #[arg(long)]
    count: Option<u64>,
    /// Length of each value.
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
}

/// Runs `jepsen load`.
///
/// # Errors
/// The cluster could not be formed or did not answer.
pub async fn run(arguments: LoadArguments) -> anyhow::Result<Verdict> {
    let own;
    let (nodes, token) = if let Some(token) = &arguments.token {
        let named = |address: &SocketAddr| (address.to_string(), *address);
        let nodes: Vec<_> = arguments.addresses.iter().map(named).collect();
        let first = nodes.first().context("--token needs --addresses")?.1;
        api::mount_kv(first, token, &arguments.mount).await?;
        (nodes, token.clone())
    } else {
        own = Cluster::form(&arguments.cluster, Tuning::default()).await?;
        (own.named_addresses(), own.token().to_owned())
    };
    let mount = match arguments.token {
        Some(_) => arguments.mount.clone(),
        None => MOUNT.to_owned(),
    };
    let plan = Plan {
        clients: arguments.clients,
        rate: None,
        count: arguments.count,
        value_bytes: arguments.value_bytes,
        mount: mount.clone(),
        prefix: format!("load-{}", std::process::id()),
    };
    let addresses: Vec<_> = nodes.iter().map(|(_, address)| *address).collect();
    let load = Load::start(&addresses, &token, &plan);
    let report = if plan.count.is_some() {
        load.finish().await?
    } else {
        tokio::time::sleep(Duration::from_secs(arguments.seconds)).await;
        load.stop().await?
    };
    judge(report, &nodes, &token, &mount).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_has_the_length_asked_for_and_keeps_the_id() {
        let value = padded("load-c1-w2", 64);
        assert_eq!(value.len(), 64);
        assert_eq!(id_of(&value), "load-c1-w2");
        assert_eq!(padded("abc", 1), "abc");
        assert_eq!(padded("abc", 1 << 20).len(), 1 << 20);
    }
}
