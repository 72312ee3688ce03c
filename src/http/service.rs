//! What http needs of the vault, as a trait, so that the router is tested
//! against a fake one. Also the archive as it leaves: written by blocking code.

use std::fs::File;
use std::io::Write;

use zeroize::Zeroizing;

use crate::physical::BoxFuture;
use crate::vault::{
    Health, InitRequest, InitResponse, JoinBody, LeaderStatus, Request, Response, SealStatus,
    UnsealRequest, VaultError,
};

/// A client's token.
pub type Token = Option<Zeroizing<String>>;

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
    /// `GET sys/storage/raft/snapshot`.
    fn snapshot_save(&self, token: Token) -> BoxFuture<'_, Result<ArchiveWriter, VaultError>>;
    /// `POST sys/storage/raft/snapshot` and `snapshot-force`.
    fn snapshot_restore(
        &self,
        token: Token,
        archive: File,
        force: bool,
    ) -> BoxFuture<'_, Result<(), VaultError>>;
}
