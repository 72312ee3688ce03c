//! `sys/mounts`: list, read, enable, disable, tune.

use serde_json::{Map, Value, json};

use super::kv1::seconds;
use super::mounts::{MountEntry, MountTable, StoredMount, Table};
use super::router::{data, data_twice};
use super::storage::{Committed, Session};
use super::sys_paths::only;
use super::unseal::bad;
use super::{Method, Request, Response, Vault, VaultError, object, text_field};

/// Paths that belong to the server.
const PROTECTED: [&str; 5] = ["audit/", "auth/", "sys/", "cubbyhole/", "identity/"];
/// The longest mount path, in bytes.
const PATH_BYTES_MAX: usize = 512;
/// Data of a disabled mount goes in transactions of so many keys …
const DELETE_KEYS_MAX: usize = 500;
/// … and so many bytes of keys.
const DELETE_BYTES_MAX: usize = 1 << 20;

impl Vault {
    pub(super) async fn list_mounts(&self, session: &Session) -> Result<Response, VaultError> {
        let table = MountTable::read(session).await?;
        let mounts = table.secrets().map(|mount| {
            let info = Value::Object(mount.entry.info());
            (mount.entry.path().to_owned(), info)
        });
        Ok(data_twice(mounts.collect()))
    }

    /// `sys/mounts/PATH` and `…/tune`; `None` asks for another try.
    pub(super) async fn mount_path(
        &self,
        session: &Session,
        path: &str,
        request: &Request,
    ) -> Result<Option<Response>, VaultError> {
        let table = MountTable::read(session).await?;
        let trimmed = path.trim_end_matches('/');
        if let Some(tuned) = trimmed.strip_suffix("/tune") {
            only(request, Method::Read)?;
            return tuning(&table, &format!("{tuned}/")).map(Some);
        }
        let path = format!("{trimmed}/");
        match request.method {
            Method::Read => match table.at(&path) {
                Some(mount) => Ok(Some(data_twice(mount.entry.info()))),
                None => bad(format!("No secret engine mount at {path}")),
            },
            Method::Update => self.enable(session, &table, &path, request).await,
            Method::Delete => self.disable(session, &table, &path).await,
            Method::List | Method::Patch | Method::Help => Err(VaultError::UnsupportedOperation),
        }
    }

    async fn enable(
        &self,
        session: &Session,
        table: &MountTable,
        path: &str,
        request: &Request,
    ) -> Result<Option<Response>, VaultError> {
        let nothing = Map::new();
        let entry = new_entry(path, request.body.as_ref().unwrap_or(&nothing))?;
        if PROTECTED.iter().any(|taken| path.starts_with(taken)) {
            return bad(format!("cannot mount \"{path}\""));
        }
        if let Some(taken) = table.conflict(path) {
            return bad(format!("path is already in use at {taken}"));
        }
        let mut batch = session.batch();
        table.fence(&mut batch)?;
        batch.put(&entry.storage_path(), &entry.to_json());
        done(self.commit(batch).await?)
    }

    // The entry is marked first: from then on no write can land below it, so
    // what is deleted stays deleted. A crash half way leaves the mark, and
    // disabling again goes on.
    async fn disable(
        &self,
        session: &Session,
        table: &MountTable,
        path: &str,
    ) -> Result<Option<Response>, VaultError> {
        if PROTECTED.iter().any(|taken| path.starts_with(taken)) {
            return bad(format!("cannot unmount \"{path}\""));
        }
        let Some(mount) = table.at(path) else {
            return Ok(Some(Response::default()));
        };
        if !mount.entry.is_tainted() {
            let mut batch = session.batch();
            table.fence(&mut batch)?;
            let marked = mount.entry.clone().with("tainted", json!(true));
            batch.expect(&mount.storage_path, Some(&mount.stored));
            batch.put(&mount.storage_path, &marked.to_json());
            self.commit(batch).await?;
            return Ok(None);
        }
        self.delete_data(session, mount).await?;
        let mut batch = session.batch();
        table.fence(&mut batch)?;
        batch.expect(&mount.storage_path, Some(&mount.stored));
        batch.delete(&mount.storage_path);
        done(self.commit(batch).await?)
    }

    async fn delete_data(&self, session: &Session, mount: &StoredMount) -> Result<(), VaultError> {
        let keys = keys_below(session, mount.entry.data_prefix()).await?;
        let mut rest = keys.as_slice();
        while !rest.is_empty() {
            let (some, later) = rest.split_at(bounded_count(rest));
            rest = later;
            let mut batch = session.batch();
            batch.expect(&mount.storage_path, Some(&mount.stored));
            some.iter().for_each(|key| batch.delete(key));
            // A conflict means that somebody else is deleting it, or that a
            // restore brought it back: the last step notices.
            self.commit(batch).await?;
        }
        Ok(())
    }
}

// At least one: a key alone is always within a transaction's bounds.
fn bounded_count(keys: &[String]) -> usize {
    let mut bytes = 0;
    let within = keys.iter().take(DELETE_KEYS_MAX).take_while(|key| {
        bytes += key.len();
        bytes <= DELETE_BYTES_MAX
    });
    within.count().max(1)
}

async fn keys_below(session: &Session, prefix: String) -> Result<Vec<String>, VaultError> {
    let mut keys = Vec::new();
    let mut directories = vec![prefix];
    while let Some(directory) = directories.pop() {
        for name in session.reader.list(&directory).await? {
            let path = format!("{directory}{name}");
            if name.ends_with('/') {
                directories.push(path);
            } else {
                keys.push(path);
            }
        }
    }
    Ok(keys)
}

fn done(committed: Committed) -> Result<Option<Response>, VaultError> {
    match committed {
        Committed::Applied => Ok(Some(Response::default())),
        Committed::Conflict => Ok(None),
    }
}

fn new_entry(path: &str, body: &Map<String, Value>) -> Result<MountEntry, VaultError> {
    let kind = text_field(body, "type");
    if kind.is_empty() {
        return bad("backend type must be specified as a string");
    }
    check_path(path)?;
    let options = body.get("options").cloned().unwrap_or(Value::Null);
    let version = options.get("version").and_then(version_text);
    match (kind, version.as_deref()) {
        ("kv" | "kv-v1", None | Some("" | "1")) => {}
        ("kv-v2", _) | ("kv", Some("2")) => {
            return bad("kv version 2 is not supported yet: use version 1");
        }
        ("kv" | "kv-v1", Some(_)) => {
            return bad(format!(
                "nil backend of type \"{kind}\" returned from factory"
            ));
        }
        _ => return bad(format!("plugin not found in the catalog: {kind}")),
    }
    let local = body.get("local").and_then(Value::as_bool).unwrap_or(false);
    let table = if local {
        Table::LocalSecret
    } else {
        Table::Secret
    };
    let options = match (kind, options) {
        ("kv-v1", _) => json!({"version": "1"}),
        (_, Value::Object(options)) => Value::Object(options),
        _ => Value::Null,
    };
    let entry = MountEntry::new(table, path, "kv", text_field(body, "description"));
    let seal_wrap = body.get("seal_wrap").and_then(Value::as_bool);
    Ok(entry
        .with("options", options)
        .with("seal_wrap", json!(seal_wrap.unwrap_or(false)))
        .with("config", config(body.get("config"))?))
}

fn version_text(version: &Value) -> Option<String> {
    match version {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

// Only what differs from the default is stored; leases in nanoseconds.
fn config(given: Option<&Value>) -> Result<Value, VaultError> {
    let mut config = Map::new();
    let mut lease = [0; 2];
    for (position, field) in ["default_lease_ttl", "max_lease_ttl"].iter().enumerate() {
        let Some(value) = given.and_then(|given| given.get(*field)) else {
            continue;
        };
        let Some(asked) = seconds(value) else {
            return bad(format!("unable to parse {field}"));
        };
        lease[position] = asked;
        if 0 < asked {
            let nanoseconds = asked.saturating_mul(1_000_000_000);
            config.insert((*field).to_owned(), json!(nanoseconds));
        }
    }
    if 0 < lease[1] && lease[1] < lease[0] {
        return bad("given default lease TTL greater than given max lease TTL");
    }
    if given.and_then(|given| given.get("force_no_cache")) == Some(&Value::Bool(true)) {
        config.insert("force_no_cache".to_owned(), json!(true));
    }
    Ok(Value::Object(config))
}

fn check_path(path: &str) -> Result<(), VaultError> {
    let inside = path.trim_end_matches('/');
    let sound = !inside.is_empty()
        && inside.len() <= PATH_BYTES_MAX
        && inside
            .split('/')
            .all(|part| !matches!(part, "" | "." | ".."))
        && inside.trim() == inside
        && !inside.chars().any(char::is_control);
    if sound {
        Ok(())
    } else {
        bad(format!("invalid mount path {path:?}"))
    }
}

fn tuning(table: &MountTable, path: &str) -> Result<Response, VaultError> {
    let Some(mount) = table.at(path) else {
        return bad(format!(
            "tune of path \"{path}\" failed: no mount entry found"
        ));
    };
    let entry = &mount.entry;
    let mut tuning = object(json!({
        "default_lease_ttl": entry.default_lease_seconds(),
        "description": entry.description(),
        "force_no_cache": false,
        "max_lease_ttl": entry.max_lease_seconds(),
    }));
    if !entry.options().is_null() {
        tuning.insert("options".to_owned(), entry.options());
    }
    Ok(Response {
        copies_data_to_top: true,
        ..data(tuning)
    })
}
