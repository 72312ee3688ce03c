//! What http needs of the vault, as a trait, so that the router is tested
//! against a fake one. Also the archive as it leaves: written by blocking code.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::physical::BoxFuture;
use crate::vault::{
    Health, InitRequest, InitResponse, JoinBody, LeaderStatus, Method, Request, Response,
    SealStatus, UnsealRequest, Vault, VaultError,
};

/// A client's token.
pub type Token = Option<Zeroizing<String>>;

/// An archive that is ready to be sent.
pub struct Archive {
    /// Length in bytes.
    pub bytes: u64,
    /// Of all of it.
    pub sha256: [u8; 32],
    /// Writes it.
    pub writer: ArchiveWriter,
}

/// Writes a whole archive; blocks. A failure cuts the reply short.
pub type ArchiveWriter = Box<dyn FnOnce(&mut dyn Write) -> std::io::Result<()> + Send>;

/// The vault as http sees it. `Err(Standby)` always means: certainly not
/// done here, ask the active node.
pub trait VaultService: Send + Sync + 'static {
    /// A logical path.
    fn handle(&self, request: Request) -> BoxFuture<'_, Result<Response, VaultError>>;
    /// `sys/seal-status`.
    fn seal_status(&self) -> BoxFuture<'_, SealStatus>;
    /// `sys/health`.
    fn health(&self) -> BoxFuture<'_, Health>;
    /// `sys/leader`.
    fn leader(&self) -> BoxFuture<'_, Result<LeaderStatus, VaultError>>;
    /// `GET sys/init`.
    fn initialized(&self) -> BoxFuture<'_, bool>;
    /// `PUT sys/init`.
    fn init(&self, request: InitRequest) -> BoxFuture<'_, Result<InitResponse, VaultError>>;
    /// `sys/unseal`.
    fn unseal(&self, request: UnsealRequest) -> BoxFuture<'_, Result<SealStatus, VaultError>>;
    /// `sys/seal`.
    fn seal(&self, token: Token) -> BoxFuture<'_, Result<(), VaultError>>;
    /// `sys/step-down`.
    fn step_down(&self, token: Token) -> BoxFuture<'_, Result<(), VaultError>>;
    /// `sys/storage/raft/join`: whether it joined already.
    fn join(&self, body: JoinBody) -> BoxFuture<'_, Result<bool, VaultError>>;
    /// `GET sys/storage/raft/join/status`.
    fn join_status(&self) -> BoxFuture<'_, Map<String, Value>>;
    /// `GET sys/storage/raft/snapshot`.
    fn snapshot_save(&self, token: Token) -> BoxFuture<'_, Result<Archive, VaultError>>;
    /// Asked before an archive is spooled, so that strangers cannot fill the
    /// disk.
    fn may_send_archive(&self, token: Token) -> BoxFuture<'_, Result<(), VaultError>>;
    /// `POST sys/storage/raft/snapshot` and `snapshot-force`.
    fn snapshot_restore(
        &self,
        token: Token,
        archive: File,
        force: bool,
    ) -> BoxFuture<'_, Result<(), VaultError>>;
    /// The same with `dry_run=true`: what it would do.
    fn snapshot_examine(
        &self,
        token: Token,
        archive: File,
        force: bool,
    ) -> BoxFuture<'_, Result<Response, VaultError>>;
}

/// The real one.
impl VaultService for Arc<Vault> {
    fn handle(&self, request: Request) -> BoxFuture<'_, Result<Response, VaultError>> {
        Box::pin(Vault::handle(self, request))
    }

    fn seal_status(&self) -> BoxFuture<'_, SealStatus> {
        Box::pin(Vault::seal_status(self))
    }

    fn health(&self) -> BoxFuture<'_, Health> {
        Box::pin(Vault::health(self))
    }

    fn leader(&self) -> BoxFuture<'_, Result<LeaderStatus, VaultError>> {
        Box::pin(Vault::leader(self))
    }

    fn initialized(&self) -> BoxFuture<'_, bool> {
        Box::pin(Vault::initialized(self))
    }

    fn init(&self, request: InitRequest) -> BoxFuture<'_, Result<InitResponse, VaultError>> {
        Box::pin(Vault::init(self, request))
    }

    fn unseal(&self, request: UnsealRequest) -> BoxFuture<'_, Result<SealStatus, VaultError>> {
        Box::pin(Vault::unseal(self, request))
    }

    fn seal(&self, token: Token) -> BoxFuture<'_, Result<(), VaultError>> {
        Box::pin(async move { Vault::seal(self, text(&token)).await })
    }

    fn step_down(&self, token: Token) -> BoxFuture<'_, Result<(), VaultError>> {
        Box::pin(async move { Vault::step_down(self, text(&token)).await })
    }

    fn join(&self, body: JoinBody) -> BoxFuture<'_, Result<bool, VaultError>> {
        Box::pin(Vault::join(self, body))
    }

    fn join_status(&self) -> BoxFuture<'_, Map<String, Value>> {
        Box::pin(Vault::join_status(self))
    }

    fn snapshot_save(&self, token: Token) -> BoxFuture<'_, Result<Archive, VaultError>> {
        Box::pin(async move {
            let source = Vault::snapshot_save(self, text(&token)).await?;
            let prepared = tokio::task::spawn_blocking(move || source.prepare()).await;
            let internal = |error: std::io::Error| VaultError::Internal(error.to_string());
            let prepared = prepared.map_err(|error| internal(error.into()))?;
            let prepared = prepared.map_err(internal)?;
            Ok(Archive {
                bytes: prepared.bytes,
                sha256: prepared.sha256,
                writer: Box::new(move |sink| prepared.write_to(sink)),
            })
        })
    }

    /// Any token that is valid: whether it may restore, the restore decides.
    fn may_send_archive(&self, token: Token) -> BoxFuture<'_, Result<(), VaultError>> {
        Box::pin(async move {
            let request = Request {
                method: Method::Read,
                path: "auth/token/lookup-self".into(),
                query: BTreeMap::new(),
                body: None,
                token,
                forwarded: true,
            };
            Vault::handle(self, request).await.map(drop)
        })
    }

    fn snapshot_restore(
        &self,
        token: Token,
        archive: File,
        force: bool,
    ) -> BoxFuture<'_, Result<(), VaultError>> {
        Box::pin(async move { Vault::snapshot_restore(self, text(&token), archive, force).await })
    }

    fn snapshot_examine(
        &self,
        token: Token,
        archive: File,
        force: bool,
    ) -> BoxFuture<'_, Result<Response, VaultError>> {
        Box::pin(async move { Vault::snapshot_examine(self, text(&token), archive, force).await })
    }
}

fn text(token: &Token) -> Option<&str> {
    token.as_ref().map(|token| token.as_str())
}
