//! The mount tables: one entry a mount, at `core/mounts/<uuid>`,
//! `core/local-mounts/<uuid>` and `core/auth/<uuid>` (the layout OpenBao uses
//! on storage with transactions).
//!
//! An entry's JSON is kept whole: fields that nothing here knows survive.
//!
//! Two mounts at one path would be two different keys, so a precondition on
//! either would not see the other. Every change of the tables therefore also
//! writes the `sys/` entry anew, expecting the old bytes: a fence in a format
//! that needs no key of its own.

use std::fmt;
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value, json};

use super::init::random_hex;
use super::storage::{Batch, Session, malformed};
use super::{VaultError, lock, object, text_field, uuid};
use crate::types::StoredValue;

/// The maximum and default lease of a mount that sets none: 32 days.
pub(super) const SYSTEM_LEASE_SECONDS: u64 = 2_764_800;

/// Which table an entry is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Secret,
    LocalSecret,
    Auth,
}

impl Table {
    const ALL: [Self; 3] = [Self::Secret, Self::LocalSecret, Self::Auth];

    fn prefix(self) -> &'static str {
        match self {
            Self::Secret => "core/mounts/",
            Self::LocalSecret => "core/local-mounts/",
            Self::Auth => "core/auth/",
        }
    }
}

/// One mount.
#[derive(Clone)]
pub(super) struct MountEntry {
    pub(super) table: Table,
    fields: Map<String, Value>,
}

impl MountEntry {
    pub(super) fn new(table: Table, path: &str, kind: &str, description: &str) -> Self {
        let (name, accessor) = match table {
            Table::Auth => ("auth", format!("auth_{kind}_{}", random_hex())),
            _ => ("mounts", format!("{kind}_{}", random_hex())),
        };
        let fields = json!({
            "table": name,
            "path": path,
            "type": kind,
            "description": description,
            "uuid": uuid(),
            "backend_aware_uuid": uuid(),
            "accessor": accessor,
            "config": {},
            "options": null,
            "local": table == Table::LocalSecret,
            "seal_wrap": false,
            "namespace_id": "root",
        });
        Self {
            table,
            fields: object(fields),
        }
    }

    fn parse(table: Table, json: &[u8]) -> Option<Self> {
        let fields: Map<String, Value> = serde_json::from_slice(json).ok()?;
        let entry = Self { table, fields };
        let sound = entry.path().ends_with('/') && !entry.uuid().is_empty();
        sound.then_some(entry)
    }

    #[must_use]
    pub(super) fn with(mut self, field: &str, value: Value) -> Self {
        self.fields.insert(field.to_owned(), value);
        self
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec(&self.fields).expect("JSON values always encode");
        json.push(b'\n');
        json
    }

    /// Ends in `/`.
    pub(super) fn path(&self) -> &str {
        text_field(&self.fields, "path")
    }

    pub(super) fn kind(&self) -> &str {
        text_field(&self.fields, "type")
    }

    pub(super) fn uuid(&self) -> &str {
        text_field(&self.fields, "uuid")
    }

    pub(super) fn description(&self) -> &str {
        text_field(&self.fields, "description")
    }

    pub(super) fn options(&self) -> Value {
        self.fields.get("options").cloned().unwrap_or(Value::Null)
    }

    /// KV without a version, or with version 1.
    pub(super) fn is_kv_version_1(&self) -> bool {
        let options = self.options();
        let version = options.get("version").and_then(Value::as_str);
        matches!(self.kind(), "kv" | "generic") && matches!(version, None | Some("" | "1"))
    }

    /// Being removed: nothing may be read or written there.
    pub(super) fn is_tainted(&self) -> bool {
        self.fields.get("tainted") == Some(&Value::Bool(true))
    }

    pub(super) fn storage_path(&self) -> String {
        format!("{}{}", self.table.prefix(), self.uuid())
    }

    /// Where its data is.
    pub(super) fn data_prefix(&self) -> String {
        format!("logical/{}/", self.uuid())
    }

    pub(super) fn default_lease_seconds(&self) -> u64 {
        match self.config_seconds("default_lease_ttl") {
            0 => SYSTEM_LEASE_SECONDS.min(self.max_lease_seconds()),
            seconds => seconds,
        }
    }

    pub(super) fn max_lease_seconds(&self) -> u64 {
        match self.config_seconds("max_lease_ttl") {
            0 => SYSTEM_LEASE_SECONDS,
            seconds => seconds,
        }
    }

    fn config(&self, field: &str) -> Option<&Value> {
        self.fields
            .get("config")
            .and_then(|config| config.get(field))
    }

    // Stored in nanoseconds.
    fn config_seconds(&self, field: &str) -> u64 {
        let nanoseconds = self.config(field).and_then(Value::as_u64);
        nanoseconds.unwrap_or(0) / 1_000_000_000
    }

    /// As `sys/mounts` shows it.
    pub(super) fn info(&self) -> Map<String, Value> {
        let flag = |name: &str| self.fields.get(name).and_then(Value::as_bool);
        let mut config = object(json!({
            "default_lease_ttl": self.config_seconds("default_lease_ttl"),
            "force_no_cache": self.config("force_no_cache").is_some_and(|v| *v == Value::Bool(true)),
            "max_lease_ttl": self.config_seconds("max_lease_ttl"),
        }));
        if let Some(headers) = self.config("passthrough_request_headers") {
            config.insert("passthrough_request_headers".to_owned(), headers.clone());
        }
        if self.table == Table::Auth {
            config.insert("token_type".to_owned(), json!("default-service"));
        }
        let mut info = object(json!({
            "accessor": text_field(&self.fields, "accessor"),
            "config": config,
            "description": self.description(),
            "external_entropy_access": false,
            "local": flag("local").unwrap_or(false),
            "options": self.options(),
            "plugin_version": "",
            "running_plugin_version": RUNNING_VERSION,
            "running_sha256": "",
            "seal_wrap": flag("seal_wrap").unwrap_or(false),
            "type": self.kind(),
            "uuid": self.uuid(),
        }));
        if self.kind() == "kv" {
            info.insert("deprecation_status".to_owned(), json!("supported"));
        }
        info
    }
}

const RUNNING_VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"), "+builtin.holdfast");

impl fmt::Debug for MountEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.kind(), self.path())
    }
}

/// An entry and the bytes it was read from, for preconditions.
#[derive(Clone, Debug)]
pub(super) struct StoredMount {
    pub(super) entry: MountEntry,
    pub(super) storage_path: String,
    pub(super) stored: StoredValue,
}

/// All tables at one moment.
pub(super) struct MountTable {
    mounts: Vec<Arc<StoredMount>>,
}

/// The last table read: reused while the ciphertexts are the same.
#[derive(Default)]
pub(super) struct MountCache(Mutex<Option<Arc<MountTable>>>);

impl MountTable {
    /// Reads the tables.
    pub(super) async fn read(session: &Session) -> Result<Arc<Self>, VaultError> {
        let held = lock(&session.unsealed.mounts.0).clone();
        let mut mounts = Vec::new();
        let mut reused = 0;
        for table in Table::ALL {
            for name in session.reader.list(table.prefix()).await? {
                let storage_path = format!("{}{name}", table.prefix());
                let Some(stored) = session.stored(&storage_path).await? else {
                    continue;
                };
                let known = held
                    .as_ref()
                    .and_then(|held| held.reuse(&storage_path, &stored));
                reused += usize::from(known.is_some());
                mounts.push(match known {
                    Some(mount) => mount,
                    None => Arc::new(parse(session, table, storage_path, stored)?),
                });
            }
        }
        if let Some(held) =
            held.filter(|held| held.mounts.len() == mounts.len() && reused == mounts.len())
        {
            return Ok(held);
        }
        let table = Arc::new(Self { mounts });
        *lock(&session.unsealed.mounts.0) = Some(Arc::clone(&table));
        Ok(table)
    }

    fn reuse(&self, storage_path: &str, stored: &StoredValue) -> Option<Arc<StoredMount>> {
        let mut mounts = self.mounts.iter();
        let mount = mounts.find(|mount| mount.storage_path == storage_path)?;
        mount.stored.is_same(stored).then(|| Arc::clone(mount))
    }

    pub(super) fn secrets(&self) -> impl Iterator<Item = &Arc<StoredMount>> {
        let auth = |mount: &&Arc<StoredMount>| mount.entry.table != Table::Auth;
        self.mounts.iter().filter(auth)
    }

    pub(super) fn auths(&self) -> impl Iterator<Item = &Arc<StoredMount>> {
        let auth = |mount: &&Arc<StoredMount>| mount.entry.table == Table::Auth;
        self.mounts.iter().filter(auth)
    }

    /// The mount at exactly this path (ending in `/`).
    pub(super) fn at(&self, path: &str) -> Option<&Arc<StoredMount>> {
        self.secrets().find(|mount| mount.entry.path() == path)
    }

    /// The mount that serves `path`, and what of the path is its own. The
    /// mount's own path counts with and without its last slash.
    pub(super) fn route<'p>(&self, path: &'p str) -> Option<(&Arc<StoredMount>, &'p str)> {
        let serves = |mount: &&Arc<StoredMount>| {
            let prefix = mount.entry.path();
            path.starts_with(prefix) || path == prefix.trim_end_matches('/')
        };
        let usable = self.secrets().filter(|mount| !mount.entry.is_tainted());
        let mount = usable
            .filter(serves)
            .max_by_key(|mount| mount.entry.path().len())?;
        let rest = path.get(mount.entry.path().len()..).unwrap_or_default();
        Some((mount, rest))
    }

    /// A mount that `path` (ending in `/`) would hide or be hidden by.
    pub(super) fn conflict(&self, path: &str) -> Option<&str> {
        let mut paths = self.secrets().map(|mount| mount.entry.path());
        paths.find(|taken| path.starts_with(taken) || taken.starts_with(path))
    }

    /// Makes `batch` conflict with every other change of the tables.
    pub(super) fn fence(&self, batch: &mut Batch<'_>) -> Result<(), VaultError> {
        let system = self.at("sys/").ok_or_else(|| malformed("core/mounts"))?;
        batch.expect(&system.storage_path, Some(&system.stored));
        batch.put(&system.storage_path, &system.entry.to_json());
        Ok(())
    }
}

fn parse(
    session: &Session,
    table: Table,
    storage_path: String,
    stored: StoredValue,
) -> Result<StoredMount, VaultError> {
    let json = session.decrypt(&storage_path, &stored)?;
    let entry = MountEntry::parse(table, &json).ok_or_else(|| malformed(&storage_path))?;
    Ok(StoredMount {
        entry,
        storage_path,
        stored,
    })
}
