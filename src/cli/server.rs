//! `holdfast server`: a configuration becomes a node, a vault over it and
//! listeners before it; signals end or reload them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::connect::{DiscoveredLeader, NodeDial};
use super::logging::{self, LogLevel};
use super::signals::{Signals, Wish};
use super::{ServerFlags, memory, node_id, version};
use crate::config::{self, AutopilotInitial, Config, RetryJoin, StorageConfig};
use crate::http::forward;
use crate::http::server::{Listener, serve};
use crate::http::tls::ReloadableTls;
use crate::http::{Arrival, Identity, Router};
use crate::membership::GoDuration;
use crate::membership::autopilot::AutopilotConfig;
use crate::node::{NodeOptions, RaftNode, Timings};
use crate::peer;
use crate::vault::{
    AutoJoinTarget, COMPATIBLE_VERSION, JoinTarget, Vault, VaultOptions, VaultParts,
};
use zeroize::Zeroizing;

/// How long a request that was certainly not executed waits for a leader.
const HOLD_TIME_MAX: Duration = Duration::from_secs(3);
/// How long requests may go on after the server was told to stop.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);
/// How long handing over leadership and sealing may take.
const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(10);

/// Runs until a signal ends it.
///
/// # Errors
/// Configuration, data directory, addresses, certificates.
pub(super) async fn run(flags: &ServerFlags) -> anyhow::Result<()> {
    let mut signals = Signals::listen(flags.exit_with_parent.is_some())?;
    let config = load(flags)?;
    let level = logging::start(config.log_level, config.log_format)?;
    tracing::info!(version = version(), "starting");
    for warning in &config.warnings {
        tracing::warn!("configuration: {warning}");
    }
    if config.disable_mlock {
        tracing::debug!("memory is not locked, as configured");
    } else {
        memory::lock();
    }
    let server = Server::start(config).await?;
    loop {
        match signals.next().await {
            Wish::Reload => server.reload(flags, &level),
            Wish::Stop => {
                server.stop().await;
                return Ok(());
            }
            Wish::Orphaned => {
                tracing::warn!("the process that started this server is gone");
                server.stop().await;
                if let Some(folder) = &flags.exit_with_parent {
                    super::cluster::remove_folder(folder);
                }
                return Ok(());
            }
        }
    }
}

fn load(flags: &ServerFlags) -> Result<Config, config::ConfigError> {
    let environment = |name: &str| std::env::var(name).ok();
    config::load(&flags.config, &environment, flags.log_level.as_deref())
}

/// A running server.
pub(super) struct Server {
    /// Its vault.
    pub vault: Arc<Vault>,
    config: Config,
    tls: Vec<Arc<ReloadableTls>>,
    stop: CancellationToken,
    listeners: JoinSet<()>,
}

impl Server {
    /// Opens storage, binds, serves; sealed.
    ///
    /// # Errors
    /// See [`run`].
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let mut tls = Vec::new();
        let mut bound = Vec::new();
        for listener in &config.listeners {
            let address = &listener.address;
            let own_tls = match &listener.tls {
                Some(files) => Some(Arc::new(ReloadableTls::load(files.clone())?)),
                None => None,
            };
            tls.extend(own_tls.clone());
            let resolved = address
                .resolve()
                .with_context(|| format!("look up {address}"))?;
            let listener = Listener::bind(resolved, own_tls, listener.limits)
                .await
                .with_context(|| format!("listen on {address}"))?;
            bound.push(listener);
        }
        let node = open_node(&config).await?;
        let vault = open_vault(&config, &node);
        let router = open_router(&node, &vault);
        if let Some(path) = &config.pid_file {
            std::fs::write(path, format!("{}\n", std::process::id()))
                .with_context(|| format!("write pid file {}", path.display()))?;
        }
        let stop = CancellationToken::new();
        let mut listeners = JoinSet::new();
        for (listener, configured) in bound.into_iter().zip(&config.listeners) {
            let scheme = configured.tls.as_ref().map_or("http", |_| "https");
            tracing::info!(address = %configured.address, scheme, "listening");
            let router = Arc::clone(&router);
            listeners.spawn(serve(listener, router, stop.clone(), DRAIN_TIME_MAX));
        }
        let targets = join_targets(&config.storage.retry_join)?;
        let non_voter = config.storage.retry_join_as_non_voter;
        vault.start_retry_join(targets, non_voter).await;
        Ok(Self {
            vault,
            config,
            tls,
            stop,
            listeners,
        })
    }

    /// Reads certificates and the log level again; what cannot be read leaves
    /// things as they are.
    fn reload(&self, flags: &ServerFlags, level: &LogLevel) {
        for tls in &self.tls {
            match tls.reload() {
                Ok(()) => tracing::info!("certificates read again"),
                Err(error) => tracing::error!(%error, "certificates not reloaded"),
            }
        }
        match load(flags) {
            Ok(config) => level.set(config.log_level),
            Err(error) => tracing::error!(%error, "configuration not reloaded"),
        }
    }

    /// Takes no more connections, lets requests finish, hands over leadership,
    /// seals.
    pub async fn stop(mut self) {
        tracing::info!("stopping");
        self.stop.cancel();
        while self.listeners.join_next().await.is_some() {}
        if tokio::time::timeout(SHUTDOWN_TIME_MAX, self.vault.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("the vault was not sealed in time");
        }
        if let Some(path) = &self.config.pid_file
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!(%error, "pid file not removed");
        }
        tracing::info!("stopped");
    }
}

async fn open_node(config: &Config) -> anyhow::Result<Arc<RaftNode>> {
    let options = node_options(config)?;
    tokio::task::spawn_blocking(move || RaftNode::open(options))
        .await
        .context("open storage")?
        .context("open storage")
}

fn node_options(config: &Config) -> anyhow::Result<NodeOptions> {
    let storage = &config.storage;
    let cluster_listen = config
        .cluster_listen
        .resolve()
        .with_context(|| format!("look up {}", config.cluster_listen))?;
    let defaults = NodeOptions::new(
        node_name(storage)?,
        cluster_listen,
        config.cluster_addr.to_string(),
        config.api_addr.clone(),
    );
    let mut options = NodeOptions {
        path: storage.path.clone(),
        timings: Timings::stretched(storage.performance_multiplier),
        autopilot: autopilot(&storage.autopilot)?,
        read_mode: storage.read_mode,
        ..defaults
    };
    options.wal.append = storage.wal_io;
    options.memory_bytes_max = storage.memory_quota_bytes;
    if let Some(bytes) = storage.scrub_bytes_per_second {
        options.scrub.bytes_per_second = bytes;
    }
    options.snapshot_bytes_per_second = storage.snapshot_bytes_per_second;
    if let Some(entries) = storage.snapshot_threshold {
        options.snapshot.entries = entries;
    }
    if let Some(entries) = storage.trailing_logs {
        options.trailing_entries = entries;
    }
    Ok(options)
}

fn node_name(storage: &StorageConfig) -> anyhow::Result<String> {
    match (&storage.node_id, &storage.path) {
        (Some(name), _) => Ok(name.clone()),
        (None, Some(path)) => node_id::load_or_draw(Path::new(path)),
        (None, None) => Ok(uuid::Uuid::new_v4().to_string()),
    }
}

fn autopilot(initial: &AutopilotInitial) -> anyhow::Result<AutopilotConfig> {
    let duration = |setting: Option<Duration>, default: GoDuration| match setting {
        Some(value) => GoDuration::from_milliseconds(i64::try_from(value.as_millis()).unwrap_or(0)),
        None => default,
    };
    let default = AutopilotConfig::default();
    let autopilot = AutopilotConfig {
        cleanup_dead_servers: initial
            .cleanup_dead_servers
            .unwrap_or(default.cleanup_dead_servers),
        dead_server_last_contact_threshold: duration(
            initial.dead_server_last_contact_threshold,
            default.dead_server_last_contact_threshold,
        ),
        last_contact_threshold: duration(
            initial.last_contact_threshold,
            default.last_contact_threshold,
        ),
        max_trailing_logs: initial
            .max_trailing_logs
            .unwrap_or(default.max_trailing_logs),
        min_quorum: initial.min_quorum.unwrap_or(default.min_quorum),
        server_stabilization_time: duration(
            initial.server_stabilization_time,
            default.server_stabilization_time,
        ),
    };
    autopilot
        .validate()
        .context("storage \"raft\": autopilot")?;
    Ok(autopilot)
}

fn open_vault(config: &Config, node: &Arc<RaftNode>) -> Arc<Vault> {
    let options = VaultOptions {
        version: COMPATIBLE_VERSION.into(),
        storage_type: "raft".into(),
        cluster_name: config.cluster_name.clone(),
        api_address: config.api_addr.clone(),
        cluster_address: config.cluster_addr.to_string(),
    };
    let parts = VaultParts {
        leader_api: Arc::new(DiscoveredLeader),
        generate_peer_keyring: peer_keyring,
    };
    Vault::with_parts(Arc::clone(node) as _, options, parts)
}

fn peer_keyring() -> Vec<u8> {
    let keyring = peer::tls::generate_keyring();
    keyring
        .expect("generating a key needs nothing that can be missing")
        .to_vec()
}

fn open_router(node: &Arc<RaftNode>, vault: &Arc<Vault>) -> Arc<Router> {
    let identity = Identity {
        version: COMPATIBLE_VERSION.into(),
        holdfast_version: env!("CARGO_PKG_VERSION").into(),
        build_date: BUILD_DATE.into(),
        storage_type: "raft".into(),
    };
    let forwarder = Arc::new(forward::Client::new(NodeDial(Arc::clone(node))));
    let router = Router::new(
        Arc::new(Arc::clone(vault)),
        forwarder,
        identity,
        HOLD_TIME_MAX,
    );
    let serving = Arc::downgrade(&router);
    node.set_forward_handler(Arc::new(move |_, stream| {
        let router = serving.upgrade();
        Box::pin(async move {
            if let Some(router) = router {
                forward::serve(stream, router, Arrival::from_peer()).await;
            }
        })
    }));
    router
}

/// Reported as build and commit date; a release sets it.
const BUILD_DATE: &str = match option_env!("HOLDFAST_BUILD_DATE") {
    Some(date) => date,
    None => "2026-11-23T00:00:00Z",
};

fn join_targets(stanzas: &[RetryJoin]) -> anyhow::Result<Vec<JoinTarget>> {
    let text = |given: &String, file: &Option<std::path::PathBuf>| match file {
        Some(path) if given.is_empty() => std::fs::read_to_string(path)
            .with_context(|| format!("retry_join: read {}", path.display())),
        _ => Ok(given.clone()),
    };
    let targets = stanzas.iter().map(|stanza| {
        let key = text(&stanza.leader_client_key, &stanza.leader_client_key_file)?;
        let (scheme, port) = (stanza.auto_join_scheme.as_str(), stanza.auto_join_port);
        let auto_join = AutoJoinTarget::new(stanza.auto_join.clone(), scheme, port)
            .map_err(|reason| anyhow::anyhow!("retry_join: {reason}"))?;
        Ok(JoinTarget {
            auto_join: Some(auto_join).filter(|auto_join| !auto_join.text.is_empty()),
            leader_api_addr: stanza.leader_api_addr.clone(),
            leader_ca_cert: text(&stanza.leader_ca_cert, &stanza.leader_ca_cert_file)?,
            leader_client_cert: text(&stanza.leader_client_cert, &stanza.leader_client_cert_file)?,
            leader_client_key: Zeroizing::new(key),
            leader_tls_servername: stanza.leader_tls_servername.clone(),
        })
    });
    targets.collect()
}
