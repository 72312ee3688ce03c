//! `holdfast dev`: three servers of this program on loopback, in a folder that
//! goes with them.
//!
//! Nothing is left behind: this process stops its children and removes the
//! folder; should it be killed, the children see the end of their standard
//! input, stop, and remove the folder themselves.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::process::{Child, Command};

use super::api::Api;
use super::signals::{Signals, Wish};

const NODES: usize = 3;
const READY_TIME_MAX: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(20);
/// Only a folder with this file in it is ever removed.
const MARKER: &str = "holdfast-development-cluster";

pub(super) async fn run() -> anyhow::Result<()> {
    let mut signals = Signals::listen(false)?;
    let folder = create_folder()?;
    let mut nodes = Vec::new();
    let outcome = tokio::select! {
        outcome = start(&folder, &mut nodes) => outcome,
        wish = signals.next() => {
            stop(nodes, &folder).await;
            anyhow::bail!("interrupted while starting ({wish:?})");
        }
    };
    let failure = match outcome {
        Ok(credentials) => {
            print_welcome(&nodes, &credentials);
            watch(&mut nodes, &mut signals).await
        }
        Err(error) => {
            print_logs(&nodes);
            Some(error)
        }
    };
    stop(nodes, &folder).await;
    match failure {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

struct Node {
    name: String,
    address: String,
    log: PathBuf,
    child: Child,
}

struct Credentials {
    root_token: String,
    unseal_key: String,
}

fn create_folder() -> anyhow::Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("holdfast-dev-{}", uuid::Uuid::new_v4()));
    let mut builder = std::fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(&folder)
        .with_context(|| format!("create {}", folder.display()))?;
    std::fs::write(folder.join(MARKER), "")?;
    Ok(folder)
}

/// Removes the folder of a development cluster, and no other.
pub(super) fn remove_folder(folder: &Path) {
    if !folder.join(MARKER).is_file() {
        tracing::warn!(folder = %folder.display(), "not a development cluster: not removed");
        return;
    }
    // The other nodes may be at it too.
    for _ in 0..20 {
        match std::fs::remove_dir_all(folder) {
            Ok(()) => return,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
    tracing::warn!(folder = %folder.display(), "development cluster not removed");
}

async fn start(folder: &Path, nodes: &mut Vec<Node>) -> anyhow::Result<Credentials> {
    let ports = free_ports(NODES * 2)?;
    for (number, pair) in (1..=NODES).zip(ports.chunks(2)) {
        nodes.push(spawn(folder, number, pair[0], pair[1])?);
    }
    for node in nodes.iter() {
        let api = Api::new(&node.address)?;
        api.await_that("sys/health", "", READY_TIME_MAX, |status, _| status == 501)
            .await
            .with_context(|| format!("{} does not start", node.name))?;
    }
    let first = Api::new(&nodes[0].address)?;
    let body = json!({"secret_shares": 1, "secret_threshold": 1});
    let initialised = first.put("sys/init", "", &body).await?;
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let credentials = Credentials {
        root_token: text(&initialised["root_token"]).context("init gave no root token")?,
        unseal_key: text(&initialised["keys_base64"][0]).context("init gave no key")?,
    };
    let key = json!({"key": credentials.unseal_key});
    first.put("sys/unseal", "", &key).await?;
    first.mount_secret(&credentials.root_token).await?;
    for node in &nodes[1..] {
        let api = Api::new(&node.address)?;
        let body = json!({"leader_api_addr": nodes[0].address});
        api.put("sys/storage/raft/join", "", &body).await?;
        api.put("sys/unseal", "", &key).await?;
        api.await_that("sys/health", "", READY_TIME_MAX, |status, _| status == 429)
            .await
            .with_context(|| format!("{} does not become a standby", node.name))?;
    }
    await_voters(&first, &credentials.root_token).await?;
    Ok(credentials)
}

async fn await_voters(api: &Api, token: &str) -> anyhow::Result<()> {
    let three_voters = |status: u16, reply: &serde_json::Value| {
        let servers = reply["data"]["config"]["servers"].as_array();
        let voters = servers.into_iter().flatten();
        status == 200 && voters.filter(|server| server["voter"] == true).count() == NODES
    };
    let path = "sys/storage/raft/configuration";
    api.await_that(path, token, READY_TIME_MAX, three_voters)
        .await
        .context("not all nodes became voters")
}

/// Ports that were free a moment ago, all different.
fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let held: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind(("127.0.0.1", 0)))
        .collect::<Result<_, _>>()
        .context("find free ports")?;
    let ports = held
        .iter()
        .map(|listener| Ok(listener.local_addr()?.port()));
    ports.collect()
}

fn spawn(folder: &Path, number: usize, api: u16, cluster: u16) -> anyhow::Result<Node> {
    let name = format!("node{number}");
    let home = folder.join(&name);
    let data = home.join("data");
    std::fs::create_dir_all(&data).with_context(|| format!("create {}", data.display()))?;
    let configuration = format!(
        "storage \"raft\" {{\n  path = {data:?}\n  node_id = \"{name}\"\n  \
         autopilot {{\n    server_stabilization_time = \"1s\"\n  }}\n}}\n\
         listener \"tcp\" {{\n  address = \"127.0.0.1:{api}\"\n  \
         cluster_address = \"127.0.0.1:{cluster}\"\n  tls_disable = true\n}}\n\
         api_addr = \"http://127.0.0.1:{api}\"\n\
         cluster_addr = \"https://127.0.0.1:{cluster}\"\n\
         disable_mlock = true\n"
    );
    let config = home.join("config.hcl");
    std::fs::write(&config, configuration)?;
    let log = home.join("log");
    let output = std::fs::File::create(&log)?;
    let child = Command::new(std::env::current_exe().context("find this program")?)
        .arg("server")
        .arg(format!("-config={}", config.display()))
        .arg(format!("-exit-with-parent={}", folder.display()))
        .stdin(Stdio::piped())
        .stdout(output.try_clone()?)
        .stderr(output)
        // Ctrl-C reaches the whole foreground group; the children wait for us.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("start {name}"))?;
    Ok(Node {
        name,
        address: format!("http://127.0.0.1:{api}"),
        log,
        child,
    })
}

/// Until a signal, or until a node ends by itself: that is a failure.
async fn watch(nodes: &mut [Node], signals: &mut Signals) -> Option<anyhow::Error> {
    loop {
        let mut ends = Vec::new();
        for node in nodes.iter_mut() {
            let name = node.name.clone();
            ends.push(Box::pin(async move { (name, node.child.wait().await) }));
        }
        tokio::select! {
            ((name, ended), _, _) = futures_util::future::select_all(ends) => {
                let status = ended.map_or_else(|error| error.to_string(), |s| s.to_string());
                return Some(anyhow::anyhow!("{name} ended by itself: {status}"));
            }
            wish = signals.next() => {
                if wish != Wish::Reload {
                    return None;
                }
            }
        }
    }
}

/// SIGTERM, time to obey, SIGKILL; then the folder.
async fn stop(mut nodes: Vec<Node>, folder: &Path) {
    for node in &nodes {
        let id = node.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = id.and_then(Pid::from_raw) {
            // It may have ended in the meantime: then there is nobody to ask.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
    let deadline = tokio::time::Instant::now() + GRACE;
    for node in &mut nodes {
        if tokio::time::timeout_at(deadline, node.child.wait())
            .await
            .is_err()
        {
            eprintln!("{} does not stop: killed", node.name);
            let _ = node.child.kill().await;
        }
    }
    remove_folder(folder);
}

fn print_logs(nodes: &[Node]) {
    const LINES: usize = 15;
    for node in nodes {
        let text = std::fs::read_to_string(&node.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        eprintln!("--- last lines of {}", node.name);
        for line in &lines[lines.len().saturating_sub(LINES)..] {
            eprintln!("{line}");
        }
    }
}

fn print_welcome(nodes: &[Node], credentials: &Credentials) {
    let Credentials {
        root_token,
        unseal_key,
    } = credentials;
    println!("\nA cluster of three for development. Everything goes when it ends (Ctrl-C).\n");
    for node in nodes {
        println!(
            "  {}  {}  log {}",
            node.name,
            node.address,
            node.log.display()
        );
    }
    let (first, last) = (&nodes[0].address, &nodes[NODES - 1].address);
    let body = json!({"message": "hello"});
    println!(
        "\nUnseal Key: {unseal_key}\nRoot Token: {root_token}\n\n\
         Write through one node, read through another:\n\n  \
         curl -H 'X-Vault-Token: {root_token}' -X PUT -d '{body}' {last}/v1/secret/first\n  \
         curl -H 'X-Vault-Token: {root_token}' {first}/v1/secret/first\n\n\
         or with the bao command:\n\n  \
         export BAO_ADDR='{first}' BAO_TOKEN='{root_token}'\n  \
         bao kv put secret/second message=hello\n  \
         bao operator raft list-peers\n"
    );
}
