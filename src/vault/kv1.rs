//! KV version 1: one JSON object a path, stored as OpenBao's passthrough
//! engine stores it.

use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::mounts::StoredMount;
use super::storage::{Committed, Session, malformed};
use super::unseal::bad;
use super::{Method, Request, Response, Vault, VaultError, object};
use crate::membership::GoDuration;
use crate::physical::PhysicalError;

impl Vault {
    /// A request below a KV mount; `path` is the mount's own part.
    ///
    /// Writes hold only while the mount is the one that was read: not after it
    /// was disabled, and not after a restore brought other keys.
    pub(super) async fn kv_version_1(
        &self,
        session: &Session,
        mount: &StoredMount,
        path: &str,
        request: &Request,
    ) -> Result<Option<Response>, VaultError> {
        let key = format!("{}{path}", mount.entry.data_prefix());
        match request.method {
            Method::Read => read(session, mount, path, &key).await.map(Some),
            Method::List => list(session, &key).await.map(Some),
            Method::Update => self.kv_write(session, mount, path, &key, request).await,
            Method::Delete => self.kv_delete(session, mount, path, &key).await,
            Method::Patch | Method::Help => Err(VaultError::UnsupportedOperation),
        }
    }

    async fn kv_write(
        &self,
        session: &Session,
        mount: &StoredMount,
        path: &str,
        key: &str,
        request: &Request,
    ) -> Result<Option<Response>, VaultError> {
        if path.is_empty() && !request.path.ends_with('/') {
            return bad("missing path");
        }
        if names_nothing(path) {
            return bad("cannot write to a path ending in '/'");
        }
        let Some(body) = request.body.as_ref().filter(|body| !body.is_empty()) else {
            return bad("missing data fields");
        };
        let json = serde_json::to_vec(body).expect("JSON values always encode");
        let json = Zeroizing::new(json);
        let mut batch = session.batch();
        batch.expect(&mount.storage_path, Some(&mount.stored));
        batch.put(key, &json);
        match self.commit(batch).await.map_err(failed_to_write)? {
            Committed::Applied => Ok(Some(Response::default())),
            Committed::Conflict => Ok(None),
        }
    }

    async fn kv_delete(
        &self,
        session: &Session,
        mount: &StoredMount,
        path: &str,
        key: &str,
    ) -> Result<Option<Response>, VaultError> {
        if names_nothing(path) {
            return Ok(Some(Response::default()));
        }
        let mut batch = session.batch();
        batch.expect(&mount.storage_path, Some(&mount.stored));
        batch.delete(key);
        match self.commit(batch).await? {
            Committed::Applied => Ok(Some(Response::default())),
            Committed::Conflict => Ok(None),
        }
    }
}

async fn read(
    session: &Session,
    mount: &StoredMount,
    path: &str,
    key: &str,
) -> Result<Response, VaultError> {
    if names_nothing(path) {
        return Err(VaultError::NotFound);
    }
    let json = session.value(key).await?.ok_or(VaultError::NotFound)?;
    let data: Map<String, Value> =
        serde_json::from_slice(&json).map_err(|_| malformed(mount.entry.path()))?;
    let (lease_duration, warnings) = lease(mount, &data);
    Ok(Response {
        data: Some(data),
        lease_duration,
        warnings,
        ..Response::default()
    })
}

async fn list(session: &Session, prefix: &str) -> Result<Response, VaultError> {
    let keys = session.reader.list(prefix).await?;
    if keys.is_empty() {
        return Err(VaultError::NotFound);
    }
    Ok(Response {
        data: Some(object(json!({"keys": keys}))),
        ..Response::default()
    })
}

// What the secret asks for in `ttl` (or the older `lease`), within the mount's
// bounds. Advice to the reader: nothing is revoked.
fn lease(mount: &StoredMount, data: &Map<String, Value>) -> (u64, Vec<String>) {
    let asked = data.get("ttl").or_else(|| data.get("lease"));
    let asked = asked.and_then(seconds).filter(|seconds| 0 < *seconds);
    let max = mount.entry.max_lease_seconds();
    match asked {
        None => (mount.entry.default_lease_seconds(), Vec::new()),
        Some(seconds) if max < seconds => {
            let text = format!(
                "TTL of \"{}\" exceeded the effective max_ttl of \"{}\"; TTL value is capped accordingly",
                go_duration(seconds),
                go_duration(max)
            );
            (max, vec![text])
        }
        Some(seconds) => (seconds, Vec::new()),
    }
}

/// Seconds in the forms clients write: `90`, `"90"`, `"1h30m"`, `"2d"`.
pub(super) fn seconds(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text_seconds(text.trim()),
        _ => None,
    }
}

fn text_seconds(text: &str) -> Option<u64> {
    const DAY_SECONDS: u64 = 86_400;
    if text.is_empty() {
        return Some(0);
    }
    if let Ok(seconds) = text.parse() {
        return Some(seconds);
    }
    if let Some(days) = text.strip_suffix('d')
        && let Ok(days) = days.parse::<u64>()
    {
        return days.checked_mul(DAY_SECONDS);
    }
    let duration = GoDuration::parse(text).ok()?;
    u64::try_from(duration.nanoseconds / 1_000_000_000).ok()
}

fn go_duration(seconds: u64) -> GoDuration {
    GoDuration::from_seconds(i64::try_from(seconds).unwrap_or(i64::MAX))
}

fn names_nothing(path: &str) -> bool {
    path.is_empty() || path.ends_with('/')
}

// The engine's words around storage's, where clients have seen them.
fn failed_to_write(error: PhysicalError) -> VaultError {
    match error {
        PhysicalError::ValueTooLarge { .. } | PhysicalError::KeyTooLarge { .. } => {
            VaultError::Internal(format!("failed to write: {error}"))
        }
        other => VaultError::Physical(other),
    }
}
