//! The router over real sockets with a fake vault behind it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::mpsc;

use super::fake::*;
use super::forward::{self, Client, Dial, Stream};
use super::request::Arrival;
use super::server::Limits;
use crate::physical::BoxFuture;

const LIMITS: Limits = Limits {
    body_bytes_max: 1 << 20,
    head_time_max: Duration::from_millis(300),
    body_time_max: Duration::from_millis(400),
    idle_time_max: Duration::from_secs(3),
};

async fn active() -> (Arc<FakeVault>, Server) {
    let vault = FakeVault::playing(Role::Active);
    let server = listen(router(&vault, Nowhere), LIMITS).await;
    (vault, server)
}

#[tokio::test]
async fn replies_carry_envelope_and_headers() {
    let (_, server) = active().await;
    let reply = ask(server.address, "GET /v1/kv1/a", "", b"").await;
    assert_eq!(reply.status, 200);
    let body = reply.json();
    for field in [
        "request_id",
        "lease_id",
        "renewable",
        "lease_duration",
        "data",
        "wrap_info",
        "warnings",
        "auth",
    ] {
        assert!(body.get(field).is_some(), "{field} in {body}");
    }
    assert!(reply.body.ends_with("}\n"));
    assert_eq!(body["lease_duration"], 2_764_800);
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert!(reply.header("strict-transport-security").is_some());

    let copied = ask(server.address, "GET /v1/sys/mounts", "", b"")
        .await
        .json();
    assert_eq!(copied["path"], copied["data"]["path"]);

    let written = ask(server.address, "PUT /v1/kv1/a", "", br#"{"a":1}"#).await;
    assert_eq!((written.status, written.body.as_str()), (204, ""));
    assert_eq!(written.header("content-type"), Some("application/json"));

    let missing = ask(server.address, "GET /v1/missing", "", b"").await;
    assert_eq!(
        (missing.status, missing.body.as_str()),
        (404, "{\"errors\":[]}\n")
    );
}

#[tokio::test]
async fn methods_and_paths_as_recorded() {
    let (_, server) = active().await;
    let patch = "Content-Type: application/merge-patch+json\r\n";
    for (line, headers, status, error) in [
        ("FOO /v1/kv1/a", "", 405, ""),
        ("TRACE /v1/kv1/a", "", 405, ""),
        (
            "OPTIONS /v1/kv1/a",
            "",
            400,
            "cannot handle internal-only request operation",
        ),
        ("PATCH /v1/kv1/a", "", 400, "mime: no media type"),
        (
            "PATCH /v1/kv1/a",
            "Content-Type: application/json\r\n",
            415,
            "PATCH requires Content-Type of application/merge-patch+json, provided application/json",
        ),
        ("GET /v1/kv1/a?list=xx", "", 400, ""),
        ("DELETE /v1/sys/health", "", 405, ""),
        ("POST /v1/sys/health", "", 405, ""),
        ("POST /v1/sys/leader", "", 405, ""),
        ("POST /v1/sys/seal-status", "", 405, ""),
        ("GET /v1/sys/unseal", "", 405, ""),
        ("GET /v1/sys/step-down", "", 405, ""),
        ("DELETE /v1/sys/seal", "", 405, ""),
        ("DELETE /v1/sys/init", "", 405, ""),
        ("GET /v1/sys/storage/raft/join", "", 405, ""),
        ("GET /v1", "", 404, ""),
        ("GET /v2/foo", "", 404, ""),
        (
            "GET /v1/a",
            "X-Vault-Namespace: ns1\r\n",
            404,
            "namespace not found",
        ),
        (
            "GET /v1/sys/health",
            "X-Vault-Namespace: ns1/\r\n",
            400,
            "operation unavailable in namespaces",
        ),
        (
            "GET /v1/kv1/a",
            "X-Vault-Wrap-TTL: 60\r\n",
            400,
            "response wrapping is not supported by this server",
        ),
        ("GET /v1/sys/health?standbycode=abc", "", 400, ""),
    ] {
        let reply = ask(server.address, line, headers, b"").await;
        assert_eq!(
            (reply.status, reply.error().as_str()),
            (status, error),
            "{line}"
        );
    }
    let patched = ask(server.address, "PATCH /v1/kv1/a", patch, b"{}").await;
    assert_eq!(patched.status, 200);
    let head = ask(server.address, "HEAD /v1/sys/health", "", b"").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let unprintable = ask(server.address, "GET /v1/kv1/raw%00x", "", b"").await;
    assert_eq!((unprintable.status, unprintable.body.as_str()), (400, ""));
    let root = ask(
        server.address,
        "GET /v1/a",
        "X-Vault-Namespace: root\r\n",
        b"",
    )
    .await;
    assert_eq!(root.status, 200);
    let help = ask(server.address, "GET /v1/kv1/a?help=1", "", b"").await;
    assert_eq!(help.json(), json!({"help": "text"}));
}

#[tokio::test]
async fn redirects_as_recorded() {
    let (_, server) = active().await;
    let check = async |line: &str, location: &str, body: &str| {
        let reply = ask(server.address, line, "", b"").await;
        assert_eq!(reply.status, 307, "{line}");
        assert_eq!(reply.header("location"), Some(location), "{line}");
        assert_eq!(reply.body, body, "{line}");
    };
    let page = |target: &str| format!("<a href=\"{target}\">Temporary Redirect</a>.\n\n");
    check("GET /v1//kv1/raw", "/v1/kv1/raw", &page("/v1/kv1/raw")).await;
    check(
        "GET /v1/kv1/a/../b?x=1",
        "/v1/kv1/b?x=1",
        &page("/v1/kv1/b?x=1"),
    )
    .await;
    check("GET /", "/ui/", &page("/ui/")).await;
    check("GET /v1/sys", "/v1/sys/", &page("/v1/sys/")).await;
    check("POST /v1//kv1/f", "/v1/kv1/f", "").await;
    check("LIST /v1//kv1/f", "/v1/kv1/f", "").await;
}

#[tokio::test]
async fn list_spellings_are_one() {
    let (vault, server) = active().await;
    for line in [
        "LIST /v1/kv1",
        "LIST /v1/kv1/",
        "GET /v1/kv1?list=true",
        "GET /v1/kv1/?list=1",
    ] {
        let reply = ask(server.address, line, "", b"").await;
        assert_eq!(reply.json()["data"]["keys"], json!(["kv1/"]), "{line}");
    }
    assert_eq!(vault.seen.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn bodies_reach_the_vault_whatever_their_type() {
    let (vault, server) = active().await;
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    for (headers, body, seen) in [
        ("", r#"{"a":1}"#, r#"{"a":1}"#),
        (form, r#" {"a":1}"#, r#"{"a":1}"#),
        (form, "a=b&c=d", r#"{"a":"b","c":"d"}"#),
        (
            "Content-Type: text/plain\r\n",
            r#"{"a":1.50}"#,
            r#"{"a":1.50}"#,
        ),
        ("", "", ""),
        (form, "", ""),
        ("", "null", ""),
        ("", "   ", ""),
    ] {
        let headers = format!("{headers}X-Vault-Token: tok\r\n");
        let reply = ask(server.address, "POST /v1/kv1/a", &headers, body.as_bytes()).await;
        assert_eq!(reply.status, 204, "{body}");
        let last = vault.seen.lock().unwrap().last().cloned();
        assert_eq!(
            last,
            Some(("kv1/a".into(), seen.into(), "tok".into())),
            "{body}"
        );
    }
    let refused = ask(server.address, "PUT /v1/kv1/a", "", b"{bad json").await;
    assert_eq!(refused.status, 400);
    assert_eq!(
        refused.error(),
        "failed to decode JSON input: invalid character 'b' looking for beginning of value"
    );
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(20_000), "]".repeat(20_000));
    let refused = ask(server.address, "PUT /v1/kv1/a", "", deep.as_bytes()).await;
    assert_eq!(
        refused.error(),
        "failed to decode JSON input: exceeded max depth"
    );
}

#[tokio::test]
async fn body_too_large_is_413_declared_or_not() {
    let (vault, server) = active().await;
    let large = vec![b' '; LIMITS.body_bytes_max + 1];
    for line in ["PUT /v1/kv1/a", "PUT /v1/sys/unseal", "PUT /v1/sys/init"] {
        let reply = ask(server.address, line, "", &large).await;
        assert_eq!(reply.status, 413, "{line}");
        assert_eq!(reply.error(), "http: request body too large");
    }
    let chunked = {
        let mut bytes =
            b"PUT /v1/kv1/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
                .to_vec();
        for _ in 0..20 {
            bytes.extend_from_slice(b"10000\r\n");
            bytes.extend_from_slice(&[b' '; 0x10000]);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        bytes
    };
    let address = server.address;
    let raw = tokio::task::spawn_blocking(move || exchange(address, &chunked));
    assert_eq!(parse(&raw.await.unwrap()).unwrap().status, 413);
    assert!(vault.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn unseal_init_join_bodies_as_recorded() {
    let (_, server) = active().await;
    for (line, body, status, error) in [
        (
            "PUT /v1/sys/unseal",
            "{}",
            400,
            "'key' must be specified in request body as JSON, or 'reset' set to true",
        ),
        (
            "PUT /v1/sys/unseal",
            r#"{"key":5}"#,
            400,
            "failed to decode JSON input: json: cannot unmarshal number into Go struct field UnsealRequest.key of type string",
        ),
        (
            "PUT /v1/sys/init",
            r#"{"secret_shares":"5"}"#,
            400,
            "failed to decode JSON input: json: cannot unmarshal string into Go struct field InitRequest.secret_shares of type int",
        ),
        (
            "POST /v1/sys/storage/raft/join",
            r#"{"retry":"true"}"#,
            400,
            "failed to decode JSON input: json: cannot unmarshal string into Go struct field JoinRequest.retry of type bool",
        ),
        ("PUT /v1/sys/seal", "", 403, "permission denied"),
    ] {
        let reply = ask(server.address, line, "", body.as_bytes()).await;
        assert_eq!(
            (reply.status, reply.error().as_str()),
            (status, error),
            "{line} {body}"
        );
    }
    let joined = ask(server.address, "POST /v1/sys/storage/raft/join", "", b"{}").await;
    assert_eq!(joined.body, "{\"joined\":true}\n");
    let body = br#"{"secret_shares":1,"secret_threshold":1,"pgp_keys":null}"#;
    let init = ask(server.address, "PUT /v1/sys/init", "", body).await;
    assert_eq!(
        init.json(),
        json!({"keys": ["0102ff"], "keys_base64": ["AQL/"], "root_token": "s.root"})
    );
    let unsealed = ask(server.address, "PUT /v1/sys/unseal", "", br#"{"key":"ab"}"#).await;
    let status = unsealed.json();
    for field in [
        "type",
        "initialized",
        "sealed",
        "t",
        "n",
        "progress",
        "nonce",
        "version",
    ] {
        assert!(status.get(field).is_some(), "{field}");
    }
    let sealed = ask(
        server.address,
        "PUT /v1/sys/seal",
        "X-Vault-Token: t\r\n",
        b"",
    )
    .await;
    assert_eq!(sealed.status, 204);
}

#[tokio::test]
async fn sealed_is_503_with_the_text_clients_match() {
    let vault = FakeVault::playing(Role::Sealed);
    let server = listen(router(&vault, Nowhere), LIMITS).await;
    for line in [
        "GET /v1/kv1/a",
        "PUT /v1/sys/step-down",
        "GET /v1/sys/leader",
        "GET /v1/sys/storage/raft/snapshot",
        "POST /v1/sys/storage/raft/snapshot",
    ] {
        let reply = ask(server.address, line, "", b"").await;
        assert_eq!(
            (reply.status, reply.error().as_str()),
            (503, "Vault is sealed"),
            "{line}"
        );
    }
}

#[tokio::test]
async fn slow_heads_are_cut_off_and_slow_bodies_get_408() {
    let (_, server) = active().await;
    let address = server.address;
    let dribble = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let begun = Instant::now();
        let mut buffer = [0; 256];
        let mut sent = b"GET /v1/a HTTP/1.1\r\nX: ".iter().cycle();
        while begun.elapsed() < Duration::from_secs(5) {
            if stream.write_all(&[*sent.next().unwrap()]).is_err() {
                break;
            }
            if let Ok(0) = stream.read(&mut buffer) {
                break;
            }
        }
        begun.elapsed()
    });
    assert!(dribble.await.unwrap() < Duration::from_secs(2));
    let slow = b"PUT /v1/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10\r\n\r\n{";
    let raw = tokio::task::spawn_blocking(move || exchange(address, slow)).await;
    assert_eq!(parse(&raw.unwrap()).unwrap().status, 408);
}

/// The pause between two requests is not the pause inside a head: Go clients
/// keep connections for minutes, and one that is closed under a PUT is an
/// error the client cannot retry.
#[tokio::test]
async fn idle_connection_outlives_the_head_limit() {
    let (_, server) = active().await;
    let address = server.address;
    let outcome = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(8)))
            .unwrap();
        let mut buffer = [0; 4096];
        for pause in [0, 900] {
            std::thread::sleep(Duration::from_millis(pause));
            stream
                .write_all(b"PUT /v1/a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
                .unwrap();
            let length = stream.read(&mut buffer).unwrap();
            assert!(buffer[..length].starts_with(b"HTTP/1.1 204"));
        }
        let begun = Instant::now();
        assert_eq!(stream.read(&mut buffer).unwrap(), 0);
        begun.elapsed()
    });
    let idle = outcome.await.unwrap();
    assert!(
        idle >= LIMITS.idle_time_max - Duration::from_millis(200),
        "{idle:?}"
    );
}

#[tokio::test]
async fn garbage_and_huge_heads_get_an_error_and_no_panic() {
    let (_, server) = active().await;
    let address = server.address;
    let many = (0..5000)
        .map(|n| format!("X-{n}: y\r\n"))
        .collect::<String>();
    let hostile: Vec<Vec<u8>> = vec![
        b"\x00\x01\x02\r\n\r\n".to_vec(),
        b"GET /v1/a HTTP/9.9\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(200_000)).into_bytes(),
        format!("GET /v1/a HTTP/1.1\r\n{many}\r\n").into_bytes(),
        format!("GET /v1/a HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(4 << 20)).into_bytes(),
        b"PUT /v1/a HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n".to_vec(),
        b"PUT /v1/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n".to_vec(),
    ];
    for bytes in hostile {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        let raw = tokio::task::spawn_blocking(move || exchange(address, &bytes))
            .await
            .unwrap();
        if let Some(reply) = parse(&raw) {
            assert!((400..500).contains(&reply.status), "{shown}: {reply:?}");
        }
    }
    assert_eq!(ask(address, "GET /v1/a", "", b"").await.status, 200);
}

#[tokio::test]
async fn stopping_lets_a_request_finish() {
    let (_, server) = active().await;
    let address = server.address;
    let (head, body) = (
        "PUT /v1/a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n",
        "{}",
    );
    let stop = server.stop.clone();
    let outcome = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        stop.cancel();
        std::thread::sleep(Duration::from_millis(100));
        stream.write_all(body.as_bytes()).unwrap();
        let mut raw = Vec::new();
        stream.read_to_end(&mut raw).unwrap();
        raw
    });
    assert_eq!(parse(&outcome.await.unwrap()).unwrap().status, 204);
    assert!(TcpStream::connect(address).is_err());
}

/// Dials another router through memory, as the cluster connection would.
struct Loopback {
    active: Active,
}

impl Dial for Loopback {
    fn active(&self) -> Option<String> {
        let active = self.active.lock().unwrap();
        active.as_ref().map(|(name, _)| name.clone())
    }

    fn dial(&self) -> BoxFuture<'_, std::io::Result<Box<dyn Stream>>> {
        let active = self.active.lock().unwrap();
        let sender = active.as_ref().map(|(_, sender)| sender.clone());
        Box::pin(async move {
            let (here, there) = tokio::io::duplex(1 << 16);
            let sent = sender.map(|sender| sender.send(there));
            match sent {
                Some(Ok(())) => Ok(Box::new(here) as Box<dyn Stream>),
                _ => Err(std::io::Error::other("nobody listens")),
            }
        })
    }
}

/// Name of the active node and where its incoming connections go.
type Active = Arc<std::sync::Mutex<Option<(String, Incoming)>>>;
type Incoming = mpsc::UnboundedSender<tokio::io::DuplexStream>;

/// Serves forwarded requests with `vault` behind; returns where to dial.
fn peer(vault: &Arc<FakeVault>) -> Incoming {
    let router = router(vault, Nowhere);
    let (sender, mut receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(stream) = receiver.recv().await {
            let arrival = Arrival::from_peer();
            tokio::spawn(forward::serve(stream, Arc::clone(&router), arrival));
        }
    });
    sender
}

async fn standby(active: Option<&Arc<FakeVault>>) -> (Arc<FakeVault>, Server, Active) {
    let active: Active = Arc::new(std::sync::Mutex::new(
        active.map(|vault| ("node1".to_owned(), peer(vault))),
    ));
    let vault = FakeVault::playing(Role::Standby);
    let client = Client::new(Loopback {
        active: Arc::clone(&active),
    });
    let server = listen(router(&vault, client), LIMITS).await;
    (vault, server, active)
}

#[tokio::test]
async fn standby_forwards_everything_unchanged() {
    let leader = FakeVault::playing(Role::Active);
    let (_, server, _) = standby(Some(&leader)).await;
    let token = "X-Vault-Token: tok\r\n";
    let written = ask(server.address, "PUT /v1/kv1/a%2Fb", token, br#"{"a":1}"#).await;
    assert_eq!((written.status, written.body.as_str()), (204, ""));
    let seen = leader.seen.lock().unwrap().clone();
    assert_eq!(
        seen,
        [("kv1/a/b".into(), r#"{"a":1}"#.into(), "tok".into())]
    );
    let read = ask(server.address, "GET /v1/kv1/x?version=2", token, b"").await;
    assert_eq!(
        read.json()["data"],
        json!({"path": "kv1/x", "forwarded": true})
    );
    let listed = ask(server.address, "LIST /v1/kv1", token, b"").await;
    assert_eq!(listed.json()["data"]["keys"], json!(["kv1/"]));
    let missing = ask(server.address, "GET /v1/missing", token, b"").await;
    assert_eq!(
        (missing.status, missing.body.as_str()),
        (404, "{\"errors\":[]}\n")
    );
    let down = ask(server.address, "PUT /v1/sys/step-down", token, b"").await;
    assert_eq!(down.status, 204);
}

#[tokio::test]
async fn standby_redirects_when_told_not_to_forward() {
    let leader = FakeVault::playing(Role::Active);
    let (_, server, _) = standby(Some(&leader)).await;
    let told = "X-Vault-No-Request-Forwarding: true\r\n";
    for path in ["/v1/kv1/fw?x=1", "/v1/sys/storage/raft/snapshot"] {
        let reply = ask(server.address, &format!("POST {path}"), told, b"").await;
        let location = format!("http://127.0.0.1:18300{path}");
        assert_eq!(
            (reply.status, reply.header("location")),
            (307, Some(location.as_str()))
        );
    }
    assert!(leader.seen.lock().unwrap().is_empty());
}

/// Two standbys that each take the other for active must not pass a request
/// to and fro.
#[tokio::test]
async fn forwarded_request_is_never_forwarded_again() {
    let other = FakeVault::playing(Role::Standby);
    let (_, server, _) = standby(Some(&other)).await;
    let reply = ask(server.address, "PUT /v1/kv1/a", "", b"{}").await;
    assert_eq!(reply.status, 500);
    assert_eq!(
        reply.error(),
        "local node not active but active cluster node not found"
    );
    assert_eq!(reply.header("x-holdfast-not-done"), None);
    assert!(
        other.attempts.load(Ordering::SeqCst) > 1,
        "tried again while time lasted"
    );
}

#[tokio::test]
async fn request_is_held_until_the_new_leader_serves() {
    let (first, second) = (
        FakeVault::playing(Role::Active),
        FakeVault::playing(Role::Active),
    );
    let (_, server, active) = standby(Some(&first)).await;
    assert_eq!(
        ask(server.address, "PUT /v1/a", "", b"{}").await.status,
        204
    );
    first.set_role(Role::Standby);
    let later = Arc::clone(&active);
    let becoming = peer(&second);
    tokio::spawn(async move {
        *later.lock().unwrap() = None;
        tokio::time::sleep(Duration::from_millis(250)).await;
        *later.lock().unwrap() = Some(("node2".into(), becoming));
    });
    let reply = ask(server.address, "PUT /v1/b", "", b"{}").await;
    assert_eq!(reply.status, 204);
    let paths = |vault: &FakeVault| -> Vec<String> {
        let seen = vault.seen.lock().unwrap();
        seen.iter().map(|(path, ..)| path.clone()).collect()
    };
    assert_eq!(
        (paths(&first), paths(&second)),
        (vec!["a".into()], vec!["b".into()])
    );
}

#[tokio::test]
async fn without_quorum_the_answer_is_503_in_bounded_time() {
    let vault = FakeVault::playing(Role::Unavailable);
    let server = listen(router(&vault, Nowhere), LIMITS).await;
    let begun = Instant::now();
    let reply = ask(server.address, "GET /v1/kv1/a", "", b"").await;
    assert_eq!(reply.status, 503);
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn snapshots_stream_both_ways_through_a_standby() {
    let leader = FakeVault::playing(Role::Active);
    let (_, server, _) = standby(Some(&leader)).await;
    let saved = ask(server.address, "GET /v1/sys/storage/raft/snapshot", "", b"").await;
    assert_eq!(saved.status, 200);
    assert_eq!(saved.header("content-type"), Some("application/gzip"));
    assert_eq!(saved.header("content-disposition"), Some("attachment"));
    assert_eq!(saved.body.len(), ARCHIVE_BYTES);
    let archive = vec![9; 5_000_000];
    for path in ["snapshot", "snapshot-force"] {
        let line = format!("POST /v1/sys/storage/raft/{path}");
        leader.restored_bytes.store(0, Ordering::SeqCst);
        let sent = ask(server.address, &line, "X-Vault-Token: t\r\n", &archive).await;
        assert_eq!(sent.status, 204);
        assert_eq!(leader.restored_bytes.load(Ordering::SeqCst), archive.len());
    }
}

#[tokio::test]
async fn snapshot_that_fails_midway_is_seen_to_be_cut_off() {
    let leader = FakeVault::playing(Role::Active);
    *leader.save_fails.lock().unwrap() = true;
    let (_, server, _) = standby(Some(&leader)).await;
    let direct = listen(router(&leader, Nowhere), LIMITS).await;
    for address in [direct.address, server.address] {
        let cut = ask(address, "GET /v1/sys/storage/raft/snapshot", "", b"").await;
        assert_eq!(cut.status, 200);
        assert!(cut.body.len() < ARCHIVE_BYTES, "its length was told");
    }
}
