//! From a path to who answers it, after the token was looked at.

use serde_json::{Map, Value};

use super::mounts::MountTable;
use super::raft_paths::ACTIVE_ONLY;
use super::storage::Session;
use super::{Method, Request, Response, Vault, VaultError};

/// How often a request is tried again after somebody wrote in between.
const CONFLICTS_MAX: usize = 5;

impl Vault {
    /// Serves one logical request.
    ///
    /// Order of checks, as a real server's: sealed, then (for what only the
    /// active node may do) standby, then the token, then the path.
    ///
    /// # Errors
    /// See [`VaultError`]. `Standby` asks the caller to forward; a request
    /// that was forwarded already gets `NoActiveNode` instead.
    pub async fn handle(&self, request: Request) -> Result<Response, VaultError> {
        if self.unsealed.load().is_none() {
            return Err(VaultError::Sealed);
        }
        if let Some(step) = request.path.strip_prefix("sys/storage/raft/bootstrap/") {
            return self.bootstrap_step(step, &request).await;
        }
        if needs_active(&request) {
            self.refuse_on_standby(&request)?;
        }
        for _ in 0..CONFLICTS_MAX {
            let session = self.session().await?;
            if let Some(response) = self.route(&session, &request).await? {
                return Ok(response);
            }
        }
        Err(VaultError::Internal(
            "storage changed under this request too often: try again".to_owned(),
        ))
    }

    pub(super) fn refuse_on_standby(&self, request: &Request) -> Result<(), VaultError> {
        match (self.is_active(), request.forwarded) {
            (true, _) => Ok(()),
            (false, false) => Err(VaultError::Standby),
            (false, true) => Err(VaultError::NoActiveNode),
        }
    }

    // `None`: somebody wrote in between, ask again with a newer picture.
    async fn route(
        &self,
        session: &Session,
        request: &Request,
    ) -> Result<Option<Response>, VaultError> {
        let path = request.path.as_str();
        if let Some(response) = self.without_token(request)? {
            return Ok(Some(response));
        }
        let given = request.token.as_ref().map(|token| token.as_str());
        let token = self.authenticate(session, given).await?;
        if let Some(rest) = path.strip_prefix("sys/") {
            return self.sys_path(session, rest, request).await;
        }
        if let Some(rest) = path.strip_prefix("auth/token/") {
            let response = self.token_path(session, &token, rest, request).await?;
            return Ok(Some(response));
        }
        let table = MountTable::read(session).await?;
        let Some((mount, rest)) = table.route(path) else {
            return Err(VaultError::NoRoute {
                path: path.to_owned(),
            });
        };
        if mount.entry.is_kv_version_1() {
            return self.kv_version_1(session, mount, rest, request).await;
        }
        // Engines whose data is kept but which are not served.
        Err(VaultError::UnsupportedPath)
    }
}

fn needs_active(request: &Request) -> bool {
    matches!(
        request.method,
        Method::Update | Method::Delete | Method::Patch
    ) || ACTIVE_ONLY
        .iter()
        .any(|prefix| request.path.starts_with(prefix))
}

/// A reply with data.
pub(super) fn data(data: Map<String, Value>) -> Response {
    Response {
        data: Some(data),
        ..Response::default()
    }
}

/// A reply with data, repeated at the top level.
pub(super) fn data_twice(data: Map<String, Value>) -> Response {
    Response {
        data: Some(data),
        copies_data_to_top: true,
        ..Response::default()
    }
}
