//! `holdfast server -dev`: one server in memory, initialised and unsealed.

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use zeroize::Zeroizing;

use super::api::Api;
use super::server::Server;
use super::signals::{Signals, Wish};
use super::{ServerFlags, logging};
use crate::config::{Config, HostPort, ListenerConfig, LogFormat, StorageConfig, log_level};
use crate::vault::{InitRequest, UnsealRequest};

pub(super) async fn run(flags: &ServerFlags) -> anyhow::Result<()> {
    if flags.dev_root_token_id.is_some() {
        bail!("-dev-root-token-id: root tokens are always random; use the one that is printed");
    }
    if !flags.config.is_empty() {
        bail!("-dev and -config exclude each other");
    }
    let mut signals = Signals::listen(false)?;
    let level = flags.log_level.as_deref().unwrap_or("info");
    let level =
        log_level(level).context("-log-level: expected trace, debug, info, warn or error")?;
    let _ = logging::start(level, LogFormat::Standard)?;
    let config = config(&flags.dev_listen_address, level)?;
    let address = config.api_addr.clone();
    let server = Server::start(config).await?;
    let (unseal_key, root_token) = initialise(&server).await?;
    Api::new(&address)?.mount_secret(&root_token).await?;
    print_welcome(&address, &unseal_key, &root_token);
    while signals.next().await == Wish::Reload {}
    server.stop().await;
    Ok(())
}

fn config(listen: &str, log_level: &'static str) -> anyhow::Result<Config> {
    let address = HostPort::parse(listen);
    let address = address.with_context(|| format!("-dev-listen-address: {listen:?}"))?;
    let cluster = address.next_port();
    let cluster = cluster.context("-dev-listen-address: no port follows 65535")?;
    Ok(Config {
        storage: StorageConfig {
            node_id: Some("dev".into()),
            ..StorageConfig::default()
        },
        api_addr: format!("http://{address}"),
        cluster_addr: cluster.clone(),
        cluster_listen: cluster,
        cluster_name: None,
        disable_mlock: true,
        log_level,
        log_format: LogFormat::Standard,
        ui: false,
        pid_file: None,
        default_lease_ttl: std::time::Duration::from_secs(32 * 24 * 3600),
        max_lease_ttl: std::time::Duration::from_secs(32 * 24 * 3600),
        listeners: vec![ListenerConfig {
            address,
            cluster_address: None,
            tls: None,
            limits: crate::http::server::Limits::default(),
        }],
        warnings: Vec::new(),
    })
}

/// Unseal key (base64) and root token.
async fn initialise(server: &Server) -> anyhow::Result<(Zeroizing<String>, Zeroizing<String>)> {
    let request = InitRequest {
        secret_shares: 1,
        secret_threshold: 1,
        unsupported: Vec::new(),
    };
    let initialised = server.vault.init(request).await.context("initialise")?;
    let share = initialised.shares.first().context("no unseal key")?;
    let key = Zeroizing::new(STANDARD.encode(share));
    let request = UnsealRequest {
        key: Some(key.clone()),
        ..UnsealRequest::default()
    };
    let status = server.vault.unseal(request).await.context("unseal")?;
    anyhow::ensure!(!status.sealed, "still sealed after the only share");
    Ok((key, initialised.root_token))
}

fn print_welcome(address: &str, unseal_key: &str, root_token: &str) {
    let body = json!({"message": "hello"});
    println!(
        "\nWARNING! dev mode is enabled! Everything is in memory, unsealed, and gone when this\n\
         server ends. Never run a dev mode server in production!\n\n\
         Set the address for the bao command:\n\n    \
         export BAO_ADDR='{address}'\n\n\
         Unseal Key: {unseal_key}\nRoot Token: {root_token}\n\n\
         Try:\n\n    \
         curl -H 'X-Vault-Token: {root_token}' -X PUT -d '{body}' {address}/v1/secret/first\n    \
         curl -H 'X-Vault-Token: {root_token}' {address}/v1/secret/first\n"
    );
}
