//! Both ways with a real OpenBao server: a state initialised here opens there
//! with the keys given here, and what it adds comes back. Needs `bao` on PATH,
//! where `make test` puts it.

use std::fs::File;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use holdfast::peer::tls::generate_keyring;
use holdfast::physical::BoxFuture;
use holdfast::physical::in_memory::InMemory;
use holdfast::vault::{
    InitRequest, JoinTarget, LeaderApi, LeaderApiError, Method, Request, UnsealRequest, Vault,
    VaultOptions, VaultParts,
};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_initialised_here_opens_in_openbao_and_comes_back() {
    let found = Command::new("bao").arg("version").output().is_ok();
    assert!(found, "needs `bao` on PATH: `make test` installs it");
    let ours = Ours::start().await;
    ours.write(
        "sys/mounts/kv",
        json!({"type": "kv", "options": {"version": "1"}}),
    )
    .await;
    let nested = json!({"limits": {"cpu": 4, "none": null}, "big": 12_345_678_901_u64});
    ours.write("kv/app/nested", nested.clone()).await;
    let folder = tempfile::tempdir().expect("temporary folder");
    let archive = folder.path().join("ours.snap");
    ours.save(&archive).await;

    let mut server = OpenBao::start(folder.path());
    let init = server.json(&["operator", "init", "-key-shares=1", "-key-threshold=1"]);
    let key = text(&init["unseal_keys_b64"][0]);
    server.run(&["operator", "unseal", key]);
    server.token = text(&init["root_token"]).to_owned();
    server.wait_until_active();
    let path = archive.to_str().expect("plain path");
    server.run(&["operator", "raft", "snapshot", "restore", "-force", path]);
    // It seals itself, but shows the old share counts until it is restarted.
    server.wait_until_sealed();
    server.restart();

    for share in &ours.shares[..2] {
        server.run(&["operator", "unseal", share]);
    }
    server.token = ours.root_token.clone();
    server.wait_until_active();
    let read = server.json(&["read", "kv/app/nested"]);
    assert_eq!(read["data"], nested);
    let token = server.json(&["token", "lookup"]);
    assert_eq!(token["data"]["policies"], json!(["root"]));
    let mounts = server.json(&["secrets", "list"]);
    assert_eq!(
        mounts
            .as_object()
            .expect("an object")
            .keys()
            .collect::<Vec<_>>(),
        ["cubbyhole/", "identity/", "kv/", "sys/"]
    );
    assert_eq!(mounts["kv/"]["options"]["version"], json!("1"));
    // Policies, identity and the token store are set up for use too.
    server.run(&["write", "kv/added", "by=openbao"]);
    server.run(&["write", "identity/entity", "name=somebody"]);
    server.run(&["policy", "read", "default"]);
    server.run(&["token", "create", "-policy=default"]);
    server.refuse_errors_since_restart();

    let back = folder.path().join("theirs.snap");
    server.run(&[
        "operator",
        "raft",
        "snapshot",
        "save",
        back.to_str().expect("plain path"),
    ]);
    let archive = File::open(&back).expect("open the archive");
    let token = Some(ours.root_token.as_str());
    ours.vault
        .snapshot_restore(token, archive, false)
        .await
        .expect("the same keys sealed it");
    assert_eq!(
        Value::Object(ours.read("kv/added").await),
        json!({"by": "openbao"})
    );
    assert_eq!(Value::Object(ours.read("kv/app/nested").await), nested);
}

/// A vault of ours over storage in memory.
struct Ours {
    vault: Arc<Vault>,
    shares: Vec<String>,
    root_token: String,
}

impl Ours {
    async fn start() -> Self {
        let parts = VaultParts {
            leader_api: Arc::new(Nobody),
            generate_peer_keyring: || generate_keyring().expect("a keyring").to_vec(),
        };
        let backend = InMemory::new("node1");
        let vault = Vault::with_parts(backend, VaultOptions::default(), parts);
        let request = InitRequest {
            secret_shares: 3,
            secret_threshold: 2,
            unsupported: Vec::new(),
        };
        let response = vault.init(request).await.expect("initialises");
        let shares: Vec<String> = response
            .shares
            .iter()
            .map(|share| BASE64.encode(share))
            .collect();
        for share in &shares[..2] {
            let request = UnsealRequest {
                key: Some(Zeroizing::new(share.clone())),
                ..UnsealRequest::default()
            };
            vault.unseal(request).await.expect("a good share");
        }
        Self {
            vault,
            shares,
            root_token: response.root_token.to_string(),
        }
    }

    fn request(&self, method: Method, path: &str, body: Option<Value>) -> Request {
        Request {
            method,
            path: path.to_owned(),
            query: std::collections::BTreeMap::new(),
            body: body.map(|body| body.as_object().expect("an object").clone()),
            token: Some(Zeroizing::new(self.root_token.clone())),
            forwarded: false,
        }
    }

    async fn write(&self, path: &str, body: Value) {
        let request = self.request(Method::Update, path, Some(body));
        self.vault.handle(request).await.expect("written");
    }

    async fn read(&self, path: &str) -> Map<String, Value> {
        let response = self
            .vault
            .handle(self.request(Method::Read, path, None))
            .await;
        response.expect("read").data.expect("data")
    }

    async fn save(&self, path: &Path) {
        let source = self
            .vault
            .snapshot_save(Some(&self.root_token))
            .await
            .expect("a snapshot");
        let mut file = File::create(path).expect("create the archive");
        let prepared = source.prepare().expect("an archive of it");
        prepared.write_to(&mut file).expect("write the archive");
    }
}

/// This node is the first.
struct Nobody;

impl LeaderApi for Nobody {
    fn put<'a>(
        &'a self,
        _target: &'a JoinTarget,
        _path: &'a str,
        _body: Value,
    ) -> BoxFuture<'a, Result<Map<String, Value>, LeaderApiError>> {
        unreachable!("nothing joins here")
    }

    fn discover<'a>(
        &'a self,
        _auto_join: &'a str,
    ) -> BoxFuture<'a, Result<Vec<String>, LeaderApiError>> {
        unreachable!("nobody joins here")
    }
}

/// A real server in a process of its own.
struct OpenBao {
    process: Child,
    folder: PathBuf,
    address: String,
    token: String,
}

impl OpenBao {
    fn start(folder: &Path) -> Self {
        let (api, cluster) = (free_port(), free_port());
        std::fs::create_dir(folder.join("data")).expect("data directory");
        let data = folder.join("data").display().to_string();
        let config = format!(
            "storage \"raft\" {{\n path = \"{data}\"\n node_id = \"bao1\"\n}}\n\
             listener \"tcp\" {{\n address = \"127.0.0.1:{api}\"\n tls_disable = true\n}}\n\
             api_addr = \"http://127.0.0.1:{api}\"\n\
             cluster_addr = \"https://127.0.0.1:{cluster}\"\n"
        );
        std::fs::write(folder.join("config.hcl"), config).expect("configuration");
        let server = Self {
            process: spawn(folder),
            folder: folder.to_owned(),
            address: format!("http://127.0.0.1:{api}"),
            token: String::new(),
        };
        server.wait("its API", |status| status.is_some());
        server
    }

    fn restart(&mut self) {
        self.stop();
        self.process = spawn(&self.folder);
        self.wait("its API", |status| status.is_some());
    }

    fn stop(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }

    fn bao(&self, arguments: &[&str]) -> std::process::Output {
        Command::new("bao")
            .args(arguments)
            .env("BAO_ADDR", &self.address)
            .env("BAO_TOKEN", &self.token)
            .env("BAO_FORMAT", "json")
            .env("HOME", &self.folder)
            .output()
            .expect("bao runs")
    }

    fn run(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.bao(arguments);
        assert!(
            output.status.success(),
            "bao {}: {}\n{}",
            arguments[..2].join(" "),
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        output.stdout
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_slice(&self.run(arguments)).expect("JSON")
    }

    fn wait_until_active(&self) {
        self.wait("activity", |status| {
            status.is_some_and(|status| status["is_self"] == json!(true))
        });
    }

    fn wait_until_sealed(&self) {
        self.wait("the seal", |status| {
            status.is_some_and(|status| status["sealed"] == json!(true))
        });
    }

    // Status is seal-status, with the leader's where there is one.
    fn wait(&self, what: &str, done: impl Fn(Option<&Value>) -> bool) {
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            let output = self.bao(&["status"]);
            let status: Option<Value> = serde_json::from_slice(&output.stdout).ok();
            if done(status.as_ref()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        panic!("waited for {what} in vain\n{}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("server.log")).unwrap_or_default()
    }

    fn refuse_errors_since_restart(&self) {
        let log = self.log();
        let (_, since) = log.rsplit_once(START).expect("it was started");
        let errors: Vec<&str> = since
            .lines()
            .filter(|line| line.contains("[ERROR]"))
            .collect();
        assert!(errors.is_empty(), "{errors:#?}");
        assert!(since.contains("post-unseal setup complete"), "{since}");
    }
}

impl Drop for OpenBao {
    fn drop(&mut self) {
        self.stop();
    }
}

const START: &str = "---- started\n";

fn spawn(folder: &Path) -> Child {
    let mut log = File::options()
        .create(true)
        .append(true)
        .open(folder.join("server.log"))
        .expect("log file");
    log.write_all(START.as_bytes()).expect("log file");
    Command::new("bao")
        .args(["server", "-config"])
        .arg(folder.join("config.hcl"))
        .env("HOME", folder)
        .stdout(log.try_clone().expect("log file"))
        .stderr(log)
        .stdin(Stdio::null())
        .spawn()
        .expect("bao starts")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("bound").port()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}
