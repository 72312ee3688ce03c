use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::disk::AppendMode;
use crate::raft::ReadMode;

fn nothing(_: &str) -> Option<String> {
    None
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).expect("written");
        path
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

fn load_text(name: &str, text: &str) -> Result<Config, ConfigError> {
    let folder = Folder::new();
    let file = folder.write(name, text);
    load(&[file], &nothing, None)
}

const MINIMAL: &str = r#"
storage "raft" {
  path = "/data"
}
listener "tcp" {
  tls_disable = true
}
api_addr = "http://127.0.0.1:8200"
"#;

#[test]
fn load_minimal_derives_the_rest() {
    let config = load_text("a.hcl", MINIMAL).expect("enough");
    assert_eq!(config.storage.path, Some(PathBuf::from("/data")));
    assert_eq!(config.storage.node_id, None);
    assert_eq!(config.api_addr, "http://127.0.0.1:8200");
    assert_eq!(config.cluster_addr.to_string(), "127.0.0.1:8201");
    assert_eq!(config.cluster_listen.to_string(), "127.0.0.1:8201");
    assert_eq!((config.log_level, config.disable_mlock), ("info", false));
    assert!(config.warnings.is_empty());
}

#[test]
fn load_full_hcl() {
    let config = load_text(
        "a.hcl",
        r#"
        storage "raft" {
          path = "/data"
          node_id = "node1"
          performance_multiplier = 1
          trailing_logs = 5000
          snapshot_threshold = "4096"
          wal_io = "mmap"
          read_mode = "lease"
          clock_drift_permille = 50
          snapshot_bytes_per_second = 104857600
          max_entry_size = 1048576
          retry_join { leader_api_addr = "https://a:8200"
                       leader_ca_cert_file = "/ca.pem" }
          retry_join { leader_api_addr = "http://b:8200" }
          retry_join_as_non_voter = "true"
          autopilot { cleanup_dead_servers = true
                      min_quorum = 3
                      server_stabilization_time = "5s" }
        }
        listener "tcp" {
          address = "[::]:8300"
          cluster_address = "[::]:8301"
          tls_cert_file = "/c.pem"
          tls_key_file = "/k.pem"
          tls_min_version = "tls13"
          max_request_size = 1000
          http_read_header_timeout = "2s"
          telemetry { unauthenticated_metrics_access = true }
        }
        listener "tcp" { address = "127.0.0.1:8400" tls_disable = 1 }
        api_addr = "https://n1.example:8300/"
        cluster_addr = "https://n1.example:8301"
        cluster_name = "c"
        disable_mlock = true
        log_level = "WARN"
        log_format = "json"
        ui = true
        pid_file = "/run/x.pid"
        default_lease_ttl = "768h"
        max_lease_ttl = 3600
        telemetry { disable_hostname = true }
        "#,
    )
    .expect("valid");
    assert_eq!(config.storage.retry_join.len(), 2);
    assert_eq!(config.storage.snapshot_threshold, Some(4096));
    assert_eq!(config.storage.wal_io, AppendMode::Mapped);
    assert_eq!(config.storage.snapshot_bytes_per_second, Some(100 << 20));
    let drift_permille = 50;
    assert_eq!(config.storage.read_mode, ReadMode::Lease { drift_permille });
    assert!(config.storage.retry_join_as_non_voter);
    assert_eq!(config.storage.autopilot.min_quorum, Some(3));
    assert_eq!(config.listeners.len(), 2);
    let first = &config.listeners[0];
    assert_eq!(first.limits.body_bytes_max, 1000);
    assert_eq!(first.limits.head_time_max, Duration::from_secs(2));
    assert_eq!(
        first.tls.as_ref().map(|tls| tls.version_min),
        Some(TlsVersion::Tls13)
    );
    assert!(config.listeners[1].tls.is_none());
    assert_eq!(config.api_addr, "https://n1.example:8300");
    assert_eq!(config.cluster_addr.to_string(), "n1.example:8301");
    assert_eq!(config.cluster_listen.to_string(), "[::]:8301");
    assert_eq!(
        (config.log_level, config.log_format),
        ("warn", LogFormat::Json)
    );
    assert_eq!(config.max_lease_ttl, Duration::from_secs(3600));
    assert_eq!(
        config.warnings,
        [
            "storage \"raft\": max_entry_size has no effect",
            "listener \"tcp\": telemetry has no effect",
            "telemetry has no effect"
        ]
    );
}

/// What hvac's test suite generates.
#[test]
fn load_json_in_its_spellings() {
    for text in [
        r#"{"storage": {"raft": {"path": "/d", "node_id": "x"}},
            "api_addr": "http://127.0.0.1:9200", "listener": {"tcp": {"address": "127.0.0.1:9200", "tls_disable": true}}}"#,
        r#"{"storage": [{"raft": {"path": "/d", "node_id": "x"}}],
            "api_addr": "http://127.0.0.1:9200", "listener": [{"tcp": {"address": "127.0.0.1:9200", "tls_disable": "true"}}]}"#,
        r#"{"storage": {"raft": [{"path": "/d", "node_id": "x"}]},
            "api_addr": "http://127.0.0.1:9200", "listener": [{"tcp": [{"address": "127.0.0.1:9200", "tls_disable": "1"}]}]}"#,
    ] {
        let config = load_text("a.json", text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(config.storage.node_id.as_deref(), Some("x"));
        assert_eq!(config.listeners[0].address.port, 9200);
        assert_eq!(config.cluster_addr.port, 9201);
    }
}

#[test]
fn load_errors_name_file_line_key_and_expectation() {
    for (text, expected) in [
        (
            "storage \"raft\" {\n  paht = \"/d\"\n}",
            "a.hcl:2: \"paht\" in storage \"raft\": expected a known key; did you mean \"path\"?",
        ),
        (
            "listener \"tcp\" {\n\n tls_disabled = true\n tls_disable = true }",
            "a.hcl:3: \"tls_disabled\" in listener \"tcp\": expected a known key; did you mean \"tls_disable\"?",
        ),
        (
            "apiaddr = \"x\"",
            "a.hcl:1: \"apiaddr\": expected a known key; did you mean \"api_addr\"?",
        ),
        (
            "xyzzyplugh = 1",
            "a.hcl:1: \"xyzzyplugh\": expected a known key",
        ),
        ("ui = 7", "a.hcl:1: \"ui\": expected true or false"),
        (
            "ui = true\nui = false",
            "a.hcl:2: \"ui\": expected to be given once",
        ),
        (
            "api_addr = 5",
            "a.hcl:1: \"api_addr\": expected a text in quotes",
        ),
        (
            "storage \"file\" {}",
            "a.hcl:1: \"storage file\": expected \"raft\", the only storage there is",
        ),
        ("storage = 5", "a.hcl:1: \"storage\": expected a block"),
        (
            "listener \"unix\" {}",
            "a.hcl:1: \"listener unix\": expected \"tcp\", the only listener there is",
        ),
        (
            "listener \"tcp\" {\n address = \"127.0.0.1\"\n}",
            "a.hcl:2: \"address\" in listener \"tcp\": expected an address such as \"127.0.0.1:8200\", found \"127.0.0.1\"",
        ),
        (
            "listener \"tcp\" {}",
            "a.hcl:1: \"listener\" in listener \"tcp\": expected tls_cert_file and tls_key_file, or tls_disable = true",
        ),
        (
            "seal \"awskms\" {}",
            "a.hcl:1: \"seal awskms\": expected \"shamir\", the only seal there is",
        ),
        (
            "default_lease_ttl = \"10x\"",
            "a.hcl:1: \"default_lease_ttl\": expected a duration such as \"10s\" or \"1h30m\"",
        ),
        (
            "log_level = \"loud\"",
            "a.hcl:1: \"log_level\": expected trace, debug, info, warn or error, found \"loud\"",
        ),
        (
            "storage \"raft\" { performance_multiplier = 11 }",
            "a.hcl:1: \"performance_multiplier\" in storage \"raft\": expected a whole number from 0 to 10",
        ),
        (
            "storage \"raft\" { path = \"/d\"\n retry_join {} }",
            "a.hcl:2: \"retry_join\" in storage \"raft\": expected either leader_api_addr or auto_join",
        ),
        (
            "storage \"raft\" { read_mode = \"clock\" }",
            "a.hcl:1: \"read_mode\" in storage \"raft\": expected \"quorum\" or \"lease\", found \"clock\"",
        ),
        (
            "storage \"raft\" { clock_drift_permille = 5 }",
            "a.hcl:1: \"clock_drift_permille\" in storage \"raft\": expected read_mode = \"lease\" beside it: a quorum trusts no clock",
        ),
        (
            "disable_clustering = true",
            "a.hcl:1: \"disable_clustering\": expected false: raft is a cluster",
        ),
        (
            "a = [",
            "a.hcl:1: expected a value, found the end of the file",
        ),
        (
            "",
            "configuration: a storage \"raft\" { path = … } block is missing",
        ),
        (
            "storage \"raft\" {}",
            "configuration: storage \"raft\": path is missing",
        ),
        (
            "storage \"raft\" { path = \"/d\" }",
            "configuration: a listener \"tcp\" { address = … } block is missing",
        ),
    ] {
        let error = load_text("a.hcl", text).expect_err(text).to_string();
        assert!(
            error.ends_with(expected),
            "{text}\n found {error}\nwanted {expected}"
        );
    }
}

#[test]
fn load_folder_merges_in_order_of_names() {
    let folder = Folder::new();
    folder.write(
        "20-b.hcl",
        "log_level = \"debug\"\nlistener \"tcp\" { address = \"127.0.0.1:2\" tls_disable = true }",
    );
    folder.write(
        "10-a.hcl",
        MINIMAL.to_owned() + "log_level = \"error\"\ncluster_name = \"c\"",
    );
    folder.write("30-c.json", "{\"ui\": true}");
    folder.write("40-d.txt", "not read");
    let config = load(&[folder.path().to_owned()], &nothing, None).expect("valid");
    assert_eq!(config.log_level, "debug");
    assert_eq!(config.cluster_name.as_deref(), Some("c"));
    assert!(config.ui);
    let ports: Vec<u16> = config
        .listeners
        .iter()
        .map(|one| one.address.port)
        .collect();
    assert_eq!(ports, [8200, 2]);
}

#[test]
fn load_environment_over_files_and_flag_over_environment() {
    let folder = Folder::new();
    let file = folder.write("a.hcl", MINIMAL);
    let environment = |name: &str| {
        let value = match name {
            "VAULT_API_ADDR" => "https://vault:8200",
            "BAO_API_ADDR" => "https://bao:8200",
            "VAULT_CLUSTER_ADDR" => "https://c:9",
            "BAO_RAFT_NODE_ID" => "",
            "VAULT_RAFT_NODE_ID" => "from-env",
            "HOLDFAST_RAFT_PATH" => "/other",
            "BAO_LOG_LEVEL" => "debug",
            "BAO_RAFT_RETRY_JOIN_AS_NON_VOTER" => "true",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let config = load(std::slice::from_ref(&file), &environment, None).expect("valid");
    assert_eq!(config.api_addr, "https://bao:8200");
    assert_eq!(config.cluster_addr.to_string(), "c:9");
    assert_eq!(config.storage.node_id.as_deref(), Some("from-env"));
    assert_eq!(config.storage.path, Some(PathBuf::from("/other")));
    assert_eq!(config.log_level, "debug");
    assert!(config.storage.retry_join_as_non_voter);
    let config = load(std::slice::from_ref(&file), &environment, Some("trace")).expect("valid");
    assert_eq!(config.log_level, "trace");

    let wrong = |name: &str| (name == "BAO_CLUSTER_ADDR").then(|| "https://0.0.0.0:8201".into());
    let error = load(&[file], &wrong, None)
        .expect_err("unspecified")
        .to_string();
    assert!(
        error.contains("cannot use unspecified IP with raft storage"),
        "{error}"
    );
}

#[test]
fn load_unspecified_listener_needs_an_api_address() {
    let said = "api_addr = \"http://127.0.0.1:8200\"";
    let everywhere = "address = \":8200\"\n tls_disable";
    let without = MINIMAL.replace("tls_disable", everywhere).replace(said, "");
    let complaint = |text: &str| {
        let error = load_text("a.hcl", text).expect_err("cannot be guessed");
        error.to_string()
    };
    assert!(complaint(&without).contains("api_addr is missing"));
    let loopback = MINIMAL.replace(said, "");
    assert!(complaint(&loopback).contains("cluster_addr is missing"));
    let own = "cluster_address = \"127.0.0.1:9\"\n tls_disable";
    let own = loopback.replace("tls_disable", own);
    assert_eq!(load_text("a.hcl", &own).expect("said").cluster_addr.port, 9);
    let config = load_text("a.hcl", &(without + "api_addr = \"http://10.0.0.1:8200\""));
    let config = config.expect("valid");
    assert_eq!(config.cluster_addr.to_string(), "10.0.0.1:8201");
    assert_eq!(config.cluster_listen.to_string(), "0.0.0.0:8201");
}

#[test]
fn load_hostile_files_end_in_errors() {
    let folder = Folder::new();
    for (name, bytes) in [
        ("binary.hcl", vec![0xff, 0xfe, 0, 1]),
        ("huge.hcl", vec![b'#'; 2 << 20]),
        ("deep.hcl", "a {".repeat(100_000).into_bytes()),
        ("deep.json", "{\"a\":".repeat(100_000).into_bytes()),
        ("long.hcl", "x".repeat(1 << 19).into_bytes()),
        ("key.hcl", ("x".repeat(1 << 19) + " = 1").into_bytes()),
    ] {
        let file = folder.write(name, bytes);
        let error = load(&[file], &nothing, None).expect_err(name).to_string();
        assert!(error.len() < 1000, "{name}: {} bytes", error.len());
    }
    assert!(load(&[folder.path().join("absent.hcl")], &nothing, None).is_err());
    assert!(load(&[], &nothing, None).is_err());
    let empty = Folder::new();
    assert!(load(&[empty.path().to_owned()], &nothing, None).is_err());
}
