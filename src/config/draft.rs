//! What several files and the environment say, and what is made of it when
//! nothing says anything.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::listener::ListenerConfig;
use super::section::Section;
use super::storage::{StorageConfig, node_id};
use super::syntax::Entry;
use super::{Config, ConfigError, HostPort, LogFormat, log_level};
use crate::http::boolean_word as boolean;

/// Settings of the files read so far.
#[derive(Default)]
pub(super) struct Draft {
    storage: Option<StorageConfig>,
    listeners: Vec<ListenerConfig>,
    api_addr: Option<String>,
    cluster_addr: Option<String>,
    cluster_name: Option<String>,
    disable_mlock: Option<bool>,
    log_level: Option<&'static str>,
    log_format: Option<LogFormat>,
    ui: Option<bool>,
    pid_file: Option<PathBuf>,
    default_lease_ttl: Option<Duration>,
    max_lease_ttl: Option<Duration>,
    warnings: Vec<String>,
}

/// 32 days, as real servers have it.
const LEASE_TTL: Duration = Duration::from_secs(32 * 24 * 3600);

impl Draft {
    /// Adds one file: listeners are added up, everything else replaces.
    pub(super) fn add(&mut self, file: &Path, entries: &[Entry]) -> Result<(), ConfigError> {
        let mut top = Section::new(file, "", entries);
        for block in top.labelled_blocks("storage")? {
            self.storage = Some(StorageConfig::read(&top, &block, &mut self.warnings)?);
        }
        for block in top.labelled_blocks("listener")? {
            let listener = ListenerConfig::read(&top, &block, &mut self.warnings)?;
            self.listeners.push(listener);
        }
        replace(&mut self.api_addr, top.text("api_addr")?);
        replace(&mut self.cluster_addr, top.text("cluster_addr")?);
        replace(&mut self.cluster_name, top.text("cluster_name")?);
        replace(&mut self.disable_mlock, top.boolean("disable_mlock")?);
        replace(&mut self.ui, top.boolean("ui")?);
        replace(&mut self.pid_file, top.text("pid_file")?.map(PathBuf::from));
        replace(
            &mut self.default_lease_ttl,
            top.duration("default_lease_ttl")?,
        );
        replace(&mut self.max_lease_ttl, top.duration("max_lease_ttl")?);
        let level = top.parsed("log_level", LOG_LEVEL_EXPECTED, log_level)?;
        replace(&mut self.log_level, level);
        let format = top.parsed("log_format", LOG_FORMAT_EXPECTED, log_format)?;
        replace(&mut self.log_format, format);
        if top.boolean("disable_clustering")? == Some(true) {
            let line = top.line_of("disable_clustering");
            return Err(top.error(line, "disable_clustering", "false: raft is a cluster"));
        }
        for block in top.labelled_blocks("seal")? {
            if block.label != "shamir" {
                let expected = "\"shamir\", the only seal there is";
                return Err(top.error(block.line, &format!("seal {}", block.label), expected));
            }
        }
        if let Some(block) = top.labelled_blocks("ha_storage")?.first() {
            let expected = "to be absent: raft storage is highly available itself";
            return Err(top.error(block.line, "ha_storage", expected));
        }
        for key in top.ignored(IGNORED) {
            self.warnings.push(format!("{key} has no effect"));
        }
        top.finish()
    }

    /// Environment over files, then defaults, then what must be there.
    pub(super) fn resolve(
        self,
        environment: &dyn Fn(&str) -> Option<String>,
        flag_level: Option<&str>,
    ) -> Result<Config, ConfigError> {
        let environment = Environment(environment);
        let mut storage = self.storage.ok_or_else(|| {
            ConfigError::Incomplete("a storage \"raft\" { path = … } block is missing".into())
        })?;
        environment.apply_to(&mut storage)?;
        if storage.path.is_none() {
            let text = "storage \"raft\": path is missing";
            return Err(ConfigError::Incomplete(text.into()));
        }
        let Some(first) = self.listeners.first() else {
            let text = "a listener \"tcp\" { address = … } block is missing";
            return Err(ConfigError::Incomplete(text.into()));
        };
        let (api_name, api_addr) = environment.over("API_ADDR", self.api_addr);
        let (cluster_name, cluster_addr) = environment.over("CLUSTER_ADDR", self.cluster_addr);
        let api = Advertised::api(&api_name, api_addr, first)?;
        let cluster_addr = match cluster_addr {
            Some(text) => cluster_address(&cluster_name, &text)?,
            None => guessed_cluster_address(&api, first)?,
        };
        if cluster_addr.is_unspecified() {
            return Err(ConfigError::Incomplete(format!(
                "cannot use unspecified IP with raft storage: {cluster_addr}"
            )));
        }
        let cluster_listen = match &first.cluster_address {
            Some(address) => address.clone(),
            None => first.address.next_port().ok_or_else(no_next_port)?,
        };
        let level = match flag_level {
            Some(flag) => Some(log_level(flag).ok_or_else(|| ConfigError::Variable {
                name: "-log-level".into(),
                expected: LOG_LEVEL_EXPECTED.into(),
            })?),
            None => environment.parsed("LOG_LEVEL", LOG_LEVEL_EXPECTED, log_level)?,
        };
        let format = environment.parsed("LOG_FORMAT", LOG_FORMAT_EXPECTED, log_format)?;
        Ok(Config {
            storage,
            api_addr: api.url,
            cluster_addr,
            cluster_listen,
            cluster_name: self.cluster_name.filter(|name| !name.is_empty()),
            disable_mlock: self.disable_mlock.unwrap_or(false),
            log_level: level.or(self.log_level).unwrap_or("info"),
            log_format: format.or(self.log_format).unwrap_or_default(),
            ui: self.ui.unwrap_or(false),
            pid_file: self.pid_file,
            default_lease_ttl: self.default_lease_ttl.unwrap_or(LEASE_TTL),
            max_lease_ttl: self.max_lease_ttl.unwrap_or(LEASE_TTL),
            listeners: self.listeners,
            warnings: self.warnings,
        })
    }
}

fn replace<T>(setting: &mut Option<T>, value: Option<T>) {
    if value.is_some() {
        *setting = value;
    }
}

fn log_format(name: &str) -> Option<LogFormat> {
    match name.to_ascii_lowercase().as_str() {
        "" | "standard" => Some(LogFormat::Standard),
        "json" => Some(LogFormat::Json),
        _ => None,
    }
}

const LOG_LEVEL_EXPECTED: &str = "trace, debug, info, warn or error";
const LOG_FORMAT_EXPECTED: &str = "standard or json";

/// The API address as others are told, and its parts.
struct Advertised {
    url: String,
    address: HostPort,
    /// Taken from the listener, for want of anything better.
    is_guess: bool,
}

impl Advertised {
    fn api(
        name: &str,
        configured: Option<String>,
        listener: &ListenerConfig,
    ) -> Result<Self, ConfigError> {
        let incomplete = |text: String| Err(ConfigError::Incomplete(text));
        let Some(text) = configured else {
            if listener.address.is_unspecified() {
                let address = &listener.address;
                return incomplete(format!(
                    "api_addr is missing and cannot be guessed from a listener on {address}"
                ));
            }
            let scheme = if listener.tls.is_some() {
                "https"
            } else {
                "http"
            };
            return Ok(Self {
                url: format!("{scheme}://{}", listener.address),
                address: listener.address.clone(),
                is_guess: true,
            });
        };
        let port = if text.starts_with("http://") { 80 } else { 443 };
        let is_url = text.starts_with("http://") || text.starts_with("https://");
        match HostPort::parse_url(&text, port) {
            Some(address) if is_url => Ok(Self {
                url: text.trim_end_matches('/').to_owned(),
                address,
                is_guess: false,
            }),
            _ => incomplete(format!(
                "{name}: expected a URL such as \"https://10.0.0.1:8200\", found {text:?}"
            )),
        }
    }
}

fn cluster_address(name: &str, text: &str) -> Result<HostPort, ConfigError> {
    HostPort::parse_url(text, 8201).ok_or_else(|| {
        ConfigError::Incomplete(format!(
            "{name}: expected a URL such as \"https://10.0.0.1:8201\", found {text:?}"
        ))
    })
}

/// The port after the API's, where the API is at an address that others can
/// dial. Nobody said that loopback is one: a member recorded under 127.0.0.1
/// is a trap that closes when the second machine joins.
fn guessed_cluster_address(
    api: &Advertised,
    listener: &ListenerConfig,
) -> Result<HostPort, ConfigError> {
    if api.is_guess {
        if let Some(address) = &listener.cluster_address
            && !address.is_unspecified()
        {
            return Ok(address.clone());
        }
        if api.address.is_loopback() {
            let text = "cluster_addr is missing and cannot be guessed from a listener on loopback: \
                        set cluster_addr or api_addr";
            return Err(ConfigError::Incomplete(text.into()));
        }
    }
    api.address.next_port().ok_or_else(no_next_port)
}

fn no_next_port() -> ConfigError {
    ConfigError::Incomplete("cluster_addr is missing and no port follows 65535".into())
}

/// Variables by their name without prefix; ours first, then OpenBao's, then
/// Vault's.
struct Environment<'a>(&'a dyn Fn(&str) -> Option<String>);

const PREFIXES: [&str; 3] = ["HOLDFAST_", "BAO_", "VAULT_"];

impl Environment<'_> {
    /// The full name and value of the first variable that is set and not empty.
    fn find(&self, name: &str) -> Option<(String, String)> {
        PREFIXES.iter().find_map(|prefix| {
            let name = format!("{prefix}{name}");
            let value = (self.0)(&name).filter(|value| !value.is_empty())?;
            Some((name, value))
        })
    }

    /// What a setting is, and what to call it in errors.
    fn over(&self, name: &str, configured: Option<String>) -> (String, Option<String>) {
        match self.find(name) {
            Some((name, value)) => (name, Some(value)),
            None => (name.to_ascii_lowercase(), configured),
        }
    }

    fn parsed<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some((name, value)) = self.find(name) else {
            return Ok(None);
        };
        let wrong = || ConfigError::Variable {
            name,
            expected: expected.to_owned(),
        };
        read(&value).map(Some).ok_or_else(wrong)
    }

    fn apply_to(&self, storage: &mut StorageConfig) -> Result<(), ConfigError> {
        let expected = "a name of 1 to 128 printable characters";
        replace(
            &mut storage.node_id,
            self.parsed("RAFT_NODE_ID", expected, node_id)?,
        );
        let path = self.find("RAFT_PATH").map(|(_, path)| PathBuf::from(path));
        replace(&mut storage.path, path);
        let name = "RAFT_RETRY_JOIN_AS_NON_VOTER";
        if let Some(value) = self.parsed(name, "true or false", boolean)? {
            storage.retry_join_as_non_voter = value;
        }
        Ok(())
    }
}

/// Known to real servers; nothing here depends on them.
const IGNORED: &[&str] = &[
    "cache_size",
    "disable_cache",
    "disable_printable_check",
    "disable_sealwrap",
    "disable_indexing",
    "disable_performance_standby",
    "disable_standby_reads",
    "disable_sentinel_trace",
    "disable_core_dumps",
    "default_max_request_duration",
    "enable_ui",
    "raw_storage_endpoint",
    "introspection_endpoint",
    "enable_response_header_hostname",
    "enable_response_header_raft_node_id",
    "enable_post_unseal_trace",
    "post_unseal_trace_directory",
    "log_file",
    "log_requests_level",
    "log_rotate_bytes",
    "log_rotate_duration",
    "log_rotate_max_files",
    "plugin_directory",
    "plugin_file_uid",
    "plugin_file_permissions",
    "plugin_tmpdir",
    "plugin_auto_download",
    "plugin_auto_register",
    "plugin_download_behavior",
    "plugin",
    "telemetry",
    "service_registration",
    "user_lockout",
    "experiments",
    "detect_deadlocks",
    "imprecise_lease_role_tracking",
    "allow_audit_log_prefixing",
    "unsafe_allow_api_audit_creation",
    "unsafe_cross_namespace_identity",
    "allow_unauthenticated_workflows",
    "administrative_namespace_path",
    "license_path",
    "entropy",
    "reporting",
    "cluster_cipher_suites",
    "remove_irrevocable_lease_after",
    "feature_flags",
    "initialize",
    "audit",
];
