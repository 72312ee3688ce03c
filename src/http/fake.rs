//! A vault that plays a role it is told, and an HTTP client that shows every
//! byte: for the tests of this folder.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::forward::{ForwardError, Forwarder};
use super::server::{Limits, Listener, serve};
use super::service::{Archive, ArchiveWriter, Token, VaultService};
use super::{Body, Identity, Reply, Router};
use crate::physical::{BoxFuture, PhysicalError};
use crate::vault::{
    Health, InitRequest, InitResponse, JoinBody, LeaderStatus, Method, Request, Response,
    SealStatus, UnsealRequest, VaultError,
};

/// What the fake answers to logical requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    #[default]
    Active,
    Standby,
    Sealed,
    /// No quorum.
    Unavailable,
}

#[derive(Default)]
pub struct FakeVault {
    pub role: Mutex<Role>,
    /// Logical requests that were executed: (path, body as text, token).
    pub seen: Mutex<Vec<(String, String, String)>>,
    pub attempts: AtomicUsize,
    pub restored_bytes: AtomicUsize,
    /// A save fails after this many bytes.
    pub save_fails: Mutex<bool>,
}

impl FakeVault {
    pub fn playing(role: Role) -> Arc<Self> {
        let fake = Self::default();
        *fake.role.lock().unwrap() = role;
        Arc::new(fake)
    }

    pub fn set_role(&self, role: Role) {
        *self.role.lock().unwrap() = role;
    }

    fn check(&self) -> Result<(), VaultError> {
        self.attempts.fetch_add(1, Ordering::SeqCst);
        match *self.role.lock().unwrap() {
            Role::Active => Ok(()),
            Role::Standby => Err(VaultError::Standby),
            Role::Sealed => Err(VaultError::Sealed),
            Role::Unavailable => Err(VaultError::Physical(PhysicalError::Unavailable {
                reason: "no quorum".into(),
            })),
        }
    }
}

/// Bytes of the archive the fake gives out.
pub const ARCHIVE_BYTES: usize = 3_000_000;

impl VaultService for FakeVault {
    fn handle(&self, request: Request) -> BoxFuture<'_, Result<Response, VaultError>> {
        Box::pin(async move {
            self.check()?;
            let body = request.body.as_ref();
            let body = body.map_or(String::new(), |body| json!(body).to_string());
            let token = request.token.as_ref().map_or("", |token| token.as_str());
            let seen = (request.path.clone(), body, token.to_owned());
            self.seen.lock().unwrap().push(seen);
            if request.path == "missing" {
                return Err(VaultError::NotFound);
            }
            let object = |value: serde_json::Value| value.as_object().cloned();
            Ok(match request.method {
                Method::Update | Method::Delete => Response::default(),
                Method::Patch => Response {
                    data: object(json!({"patched": true})),
                    ..Response::default()
                },
                Method::List => Response {
                    data: object(json!({"keys": [request.path]})),
                    ..Response::default()
                },
                Method::Help => Response {
                    data: object(json!({"help": "text"})),
                    ..Response::default()
                },
                Method::Read => Response {
                    data: object(json!({"path": request.path, "forwarded": request.forwarded})),
                    lease_duration: 2_764_800,
                    copies_data_to_top: request.path.starts_with("sys/"),
                    ..Response::default()
                },
            })
        })
    }

    fn seal_status(&self) -> BoxFuture<'_, SealStatus> {
        Box::pin(async move {
            SealStatus {
                kind: "shamir".into(),
                initialized: true,
                sealed: *self.role.lock().unwrap() == Role::Sealed,
                threshold: 3,
                shares: 5,
                ..SealStatus::default()
            }
        })
    }

    fn health(&self) -> BoxFuture<'_, Health> {
        Box::pin(async move {
            let role = *self.role.lock().unwrap();
            Health {
                initialized: true,
                sealed: role == Role::Sealed,
                standby: role != Role::Active,
                ..Health::default()
            }
        })
    }

    fn leader(&self) -> BoxFuture<'_, Result<LeaderStatus, VaultError>> {
        Box::pin(async move {
            match *self.role.lock().unwrap() {
                Role::Sealed => Err(VaultError::Sealed),
                role => Ok(LeaderStatus {
                    is_self: role == Role::Active,
                    leader_address: "http://127.0.0.1:18300".into(),
                    ..LeaderStatus::default()
                }),
            }
        })
    }

    fn initialized(&self) -> BoxFuture<'_, bool> {
        Box::pin(async { true })
    }

    fn init(&self, request: InitRequest) -> BoxFuture<'_, Result<InitResponse, VaultError>> {
        Box::pin(async move {
            if request.secret_shares == 0 || !request.unsupported.is_empty() {
                return Err(VaultError::BadRequest(format!("refused {request:?}")));
            }
            Ok(InitResponse {
                shares: vec![Zeroizing::new(vec![1, 2, 255])],
                root_token: Zeroizing::new("s.root".into()),
            })
        })
    }

    fn unseal(&self, _: UnsealRequest) -> BoxFuture<'_, Result<SealStatus, VaultError>> {
        Box::pin(async move { Ok(self.seal_status().await) })
    }

    fn seal(&self, token: Token) -> BoxFuture<'_, Result<(), VaultError>> {
        Box::pin(async move { token.map(drop).ok_or(VaultError::PermissionDenied) })
    }

    fn step_down(&self, _: Token) -> BoxFuture<'_, Result<(), VaultError>> {
        Box::pin(async move { self.check() })
    }

    fn join(&self, body: JoinBody) -> BoxFuture<'_, Result<bool, VaultError>> {
        Box::pin(async move { Ok(!body.retry) })
    }

    fn join_status(&self) -> BoxFuture<'_, serde_json::Map<String, serde_json::Value>> {
        Box::pin(async { serde_json::Map::new() })
    }

    fn snapshot_save(&self, _: Token) -> BoxFuture<'_, Result<Archive, VaultError>> {
        Box::pin(async move {
            self.check()?;
            let fails = *self.save_fails.lock().unwrap();
            let writer: ArchiveWriter = Box::new(move |sink: &mut dyn Write| {
                for piece in 0..ARCHIVE_BYTES / 1000 {
                    if fails && piece == 1500 {
                        return Err(std::io::Error::other("the barrier was sealed"));
                    }
                    sink.write_all(&[7; 1000])?;
                }
                Ok(())
            });
            Ok(Archive {
                bytes: ARCHIVE_BYTES as u64,
                sha256: [7; 32],
                writer,
            })
        })
    }

    fn snapshot_examine(
        &self,
        _: Token,
        _: File,
        force: bool,
    ) -> BoxFuture<'_, Result<Response, VaultError>> {
        Box::pin(async move {
            self.check()?;
            Ok(Response {
                data: json!({"dry_run": true, "force": force})
                    .as_object()
                    .cloned(),
                ..Response::default()
            })
        })
    }

    fn may_send_archive(&self, token: Token) -> BoxFuture<'_, Result<(), VaultError>> {
        Box::pin(async move { token.map(drop).ok_or(VaultError::PermissionDenied) })
    }

    fn snapshot_restore(
        &self,
        _: Token,
        mut archive: File,
        _: bool,
    ) -> BoxFuture<'_, Result<(), VaultError>> {
        Box::pin(async move {
            self.check()?;
            let mut bytes = Vec::new();
            archive.read_to_end(&mut bytes).unwrap();
            self.restored_bytes.store(bytes.len(), Ordering::SeqCst);
            Ok(())
        })
    }
}

/// Nobody is active.
pub struct Nowhere;

impl Forwarder for Nowhere {
    fn connect(&self) -> BoxFuture<'_, Result<(), ForwardError>> {
        Box::pin(async {
            Err(ForwardError::NotSent {
                reason: "nobody".into(),
            })
        })
    }

    fn forward(&self, _: hyper::Request<Body>) -> BoxFuture<'_, Result<Reply, ForwardError>> {
        Box::pin(async {
            Err(ForwardError::NotSent {
                reason: "nobody".into(),
            })
        })
    }
}

pub fn router(vault: &Arc<FakeVault>, forwarder: impl Forwarder) -> Arc<Router> {
    let vault: Arc<dyn VaultService> = Arc::clone(vault) as _;
    let identity = Identity {
        version: "2.7.2".into(),
        holdfast_version: "0.1.0".into(),
        build_date: "2026-11-23T00:00:00Z".into(),
        storage_type: "raft".into(),
    };
    Router::new(
        vault,
        Arc::new(forwarder),
        identity,
        Duration::from_millis(600),
    )
}

/// A listening server; stops when dropped.
pub struct Server {
    pub address: SocketAddr,
    pub stop: CancellationToken,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub async fn listen(router: Arc<Router>, limits: Limits) -> Server {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = Listener::bind(any, None, limits).await.unwrap();
    let address = listener.address().unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(serve(
        listener,
        router,
        stop.clone(),
        Duration::from_secs(5),
    ));
    Server { address, stop }
}

/// A reply, dissected.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The first error text; "" for `{"errors":[]}`.
    pub fn error(&self) -> String {
        let texts = self.json()["errors"].as_array().cloned().unwrap();
        let first = texts.first().and_then(|text| text.as_str());
        first.unwrap_or_default().to_owned()
    }
}

/// Sends `head` (request line and extra headers) and `body`, closing after.
pub async fn ask(address: SocketAddr, line: &str, headers: &str, body: &[u8]) -> Answer {
    let mut bytes = format!(
        "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    let raw = tokio::task::spawn_blocking(move || exchange(address, &bytes));
    let raw = raw.await.unwrap();
    parse(&raw).unwrap_or_else(|| panic!("no reply to {line}: {raw:?}"))
}

/// Everything the server sends until it closes.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    // A server that refuses early may not read all of it.
    let _ = stream.write_all(bytes);
    let mut raw = Vec::new();
    let _ = stream.read_to_end(&mut raw);
    raw
}

pub fn parse(raw: &[u8]) -> Option<Answer> {
    let end = raw.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&raw[..end]).into_owned();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer {
        status,
        head,
        body: String::from_utf8_lossy(&raw[end + 4..]).into_owned(),
    })
}
