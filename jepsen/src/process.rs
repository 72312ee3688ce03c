//! One server process: its ports, its directory, its life and death.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};

/// Which server runs. Both take the same command line and configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ServerKind {
    /// The one under test.
    Holdfast,
    /// The reference: `bao server`.
    Openbao,
}

/// How a node is configured beyond its ports and directory.
#[derive(Clone, Debug, Default)]
pub struct Tuning {
    /// `performance_multiplier`; the server's default when `None`.
    pub performance_multiplier: Option<u32>,
    /// `snapshot_threshold`; the server's default when `None`.
    pub snapshot_threshold: Option<u32>,
    /// `trailing_logs`; the server's default when `None`.
    pub trailing_logs: Option<u32>,
    /// `wal_io`, how Holdfast appends; its default when `None`.
    pub wal_io: Option<String>,
}

/// Where a node runs; by default on loopback, beside the others.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// Its data directory, if not below the run's own.
    pub data: Option<PathBuf>,
    /// A network namespace and the node's address in it.
    pub network: Option<(String, Ipv4Addr)>,
}

/// One node: a directory with its configuration, data and log, and at most
/// one living process, killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    program: PathBuf,
    directory: PathBuf,
    data: PathBuf,
    namespace: Option<String>,
    address: SocketAddr,
    child: Option<Child>,
}

impl ServerKind {
    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            ServerKind::Holdfast => "Holdfast",
            ServerKind::Openbao => "OpenBao",
        }
    }

    /// The program when none is given: for Holdfast the one built beside this
    /// harness, for OpenBao the one on PATH.
    pub fn default_program(self) -> anyhow::Result<PathBuf> {
        match self {
            ServerKind::Openbao => Ok(PathBuf::from("bao")),
            ServerKind::Holdfast => {
                let harness = std::env::current_exe().context("find this program")?;
                let program = harness.with_file_name("holdfast");
                if !program.is_file() {
                    bail!("{} is not built", program.display());
                }
                Ok(program)
            }
        }
    }
}

impl Process {
    /// Lays out a node's directory and configuration; starts nothing.
    ///
    /// # Errors
    /// The file system, or no free port.
    pub fn prepare(
        name: &str,
        program: &Path,
        parent: &Path,
        tuning: &Tuning,
        placement: Placement,
    ) -> anyhow::Result<Process> {
        let directory = parent.join(name);
        let data = placement.data.unwrap_or_else(|| directory.join("data"));
        for folder in [&directory, &data] {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let (namespace, address, cluster_address) = match placement.network {
            Some((namespace, address)) => (
                Some(namespace),
                SocketAddr::from((address, 8200)),
                SocketAddr::from((address, 8201)),
            ),
            None => (None, free_address()?, free_address()?),
        };
        let configuration = configuration(name, &data, address, cluster_address, tuning);
        let path = directory.join("config.hcl");
        fs::write(&path, configuration).with_context(|| format!("write {}", path.display()))?;
        Ok(Process {
            name: name.to_owned(),
            program: program.to_owned(),
            directory,
            data,
            namespace,
            address,
            child: None,
        })
    }

    /// The node's name, also its raft id.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The program it runs.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Where its API listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its raft data lives.
    pub fn data_directory(&self) -> PathBuf {
        self.data.clone()
    }

    /// Starts the process; its output is appended to the node's log.
    ///
    /// # Errors
    /// The program does not start, or one is running already.
    pub fn start(&mut self) -> anyhow::Result<()> {
        if self.child.is_some() {
            bail!("{} is running already", self.name);
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .with_context(|| format!("open {}", self.log_path().display()))?;
        let errors = log.try_clone().context("share the log")?;
        // `ip netns exec` becomes the program: the child is the server itself.
        let mut command = match &self.namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command
                    .args(["netns", "exec", namespace])
                    .arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        let child = command
            .arg("server")
            .arg(format!(
                "-config={}",
                self.directory.join("config.hcl").display()
            ))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Ends the process as SIGKILL does: no last word, no flush.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Fails only if it is dead already, and then there is only the
            // corpse left to collect.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks the process to end (SIGTERM) and waits for it.
    ///
    /// # Errors
    /// It is still alive after `limit`; then it has been killed.
    pub async fn stop(&mut self, limit: Duration) -> anyhow::Result<()> {
        let Some(child) = &mut self.child else {
            return Ok(());
        };
        let pid = Pid::from_child(child);
        kill_process(pid, Signal::TERM).with_context(|| format!("signal {}", self.name))?;
        let deadline = Instant::now() + limit;
        loop {
            if child.try_wait().context("wait for the process")?.is_some() {
                self.child = None;
                return Ok(());
            }
            if deadline <= Instant::now() {
                self.kill();
                bail!("{} did not stop within {limit:?}", self.name);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Fails if the process ended by itself.
    ///
    /// # Errors
    /// It did; the error carries the end of its log.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        let Some(child) = &mut self.child else {
            bail!("{} is not running", self.name);
        };
        match child.try_wait().context("look at the process")? {
            None => Ok(()),
            Some(status) => bail!(
                "{} ended by itself ({status}); its log ends:\n{}",
                self.name,
                self.log_tail(20)
            ),
        }
    }

    /// Waits until the process ends by itself; its exit code, if it has one.
    ///
    /// # Errors
    /// It lives on after `limit`.
    pub async fn await_exit(&mut self, limit: Duration) -> anyhow::Result<Option<i32>> {
        let Some(child) = &mut self.child else {
            bail!("{} is not running", self.name);
        };
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = child.try_wait().context("look at the process")? {
                self.child = None;
                return Ok(status.code());
            }
            if deadline <= Instant::now() {
                bail!("{} lives on after {limit:?}", self.name);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Resident memory in KiB, if the process is running.
    pub fn resident_kib(&self) -> Option<u64> {
        let pid = self.child.as_ref()?.id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    }

    /// All it has logged, over all its starts.
    pub fn log(&self) -> String {
        let log = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// The last lines of the node's log.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("server.log")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn configuration(
    name: &str,
    data: &Path,
    address: SocketAddr,
    cluster_address: SocketAddr,
    tuning: &Tuning,
) -> String {
    let settings = [
        ("performance_multiplier", tuning.performance_multiplier),
        ("snapshot_threshold", tuning.snapshot_threshold),
        ("trailing_logs", tuning.trailing_logs),
    ];
    let settings: String = settings
        .into_iter()
        .filter_map(|(key, value)| value.map(|value| format!("  {key} = {value}\n")))
        .chain(
            tuning
                .wal_io
                .iter()
                .map(|way| format!("  wal_io = \"{way}\"\n")),
        )
        .collect();
    format!(
        r#"storage "raft" {{
  path = "{data}"
  node_id = "{name}"
{settings}}}
listener "tcp" {{
  address = "{address}"
  cluster_address = "{cluster_address}"
  tls_disable = true
}}
api_addr = "http://{address}"
cluster_addr = "https://{cluster_address}"
disable_mlock = true
"#,
        data = data.display(),
    )
}

/// Ports below the range from which Linux takes those of outgoing connections,
/// so that a node that is down finds its port free when it comes back.
const PORT_FIRST: u16 = 12_000;
const PORT_COUNT: u16 = 18_000;

fn free_address() -> anyhow::Result<SocketAddr> {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    // Different runs start at different places; two that collide anyway are
    // told apart by binding.
    let start = (std::process::id() as u16).wrapping_mul(31);
    for _ in 0..PORT_COUNT {
        let step = TAKEN.fetch_add(1, Ordering::Relaxed);
        let port = PORT_FIRST + start.wrapping_add(step) % PORT_COUNT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free port on loopback")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_addresses_differ() {
        let first = free_address().unwrap();
        let second = free_address().unwrap();
        assert_ne!(first, second);
    }

    #[test]
    fn configuration_names_only_the_settings_given() {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let tuning = Tuning {
            snapshot_threshold: Some(2048),
            ..Tuning::default()
        };
        let text = configuration("n1", Path::new("/d"), address, address, &tuning);
        assert!(text.contains("snapshot_threshold = 2048"));
        assert!(!text.contains("trailing_logs"));
    }
}
