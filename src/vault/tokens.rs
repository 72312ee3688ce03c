//! The token store, as far as the root token goes: its entries in OpenBao's
//! layout, and who may do what.
//!
//! A token `s.…` is found at `sys/token/id/h<HMAC-SHA256(salt, token)>`: the
//! storage path never shows the token. Accessors use the older salted SHA-1,
//! which the format asks for; it hides nothing by itself, the barrier does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aws_lc_rs::{digest, hmac};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::storage::{Session, malformed};
use super::unseal::bad;
use super::{Method, Request, Response, Vault, VaultError, lock, object, random_text, text_field};
use crate::types::StoredValue;

/// Where the salt of token ids is kept.
pub(super) const SALT: &str = "sys/token/salt";
const ID_PREFIX: &str = "sys/token/id/";
const ACCESSOR_PREFIX: &str = "sys/token/accessor/";

const TYPE_SERVICE: u8 = 1;
/// Longer than any token: what is longer is none.
const TOKEN_BYTES_MAX: usize = 256;
/// More cached tokens than this, and the cache starts over.
const CACHED_MAX: usize = 1024;

/// A stored token. Fields that nothing here reads yet are left in storage.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct TokenEntry {
    #[serde(rename = "type")]
    kind: u8,
    id: Zeroized,
    pub(super) accessor: String,
    #[serde(default)]
    parent: String,
    #[serde(default)]
    policies: Option<Vec<String>>,
    #[serde(default)]
    path: String,
    #[serde(default)]
    meta: Option<BTreeMap<String, String>>,
    #[serde(default)]
    display_name: String,
    #[serde(default)]
    num_uses: i64,
    creation_time: i64,
    /// Nanoseconds.
    #[serde(default)]
    ttl: i64,
    /// Nanoseconds.
    #[serde(default)]
    explicit_max_ttl: i64,
    #[serde(default)]
    role: String,
    #[serde(default)]
    period: i64,
    #[serde(default)]
    entity_id: String,
    #[serde(default)]
    namespace_id: String,
    #[serde(default)]
    bound_cidrs: Option<Vec<String>>,
    #[serde(default)]
    cubbyhole_id: String,
}

/// Text that is wiped when dropped.
#[derive(Clone)]
struct Zeroized(Zeroizing<String>);

impl Serialize for Zeroized {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Zeroized {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// Decrypted entries beside the ciphertexts they came from.
#[derive(Default)]
pub(super) struct TokenCache {
    salt: Mutex<Option<Cached<Zeroizing<String>>>>,
    entries: Mutex<BTreeMap<String, Cached<TokenEntry>>>,
}

type Cached<T> = (StoredValue, Arc<T>);

impl TokenEntry {
    pub(super) fn root(id: &str, now: SystemTime) -> Self {
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH);
        Self {
            kind: TYPE_SERVICE,
            id: Zeroized(Zeroizing::new(id.to_owned())),
            accessor: random_text::<24>(),
            parent: String::new(),
            policies: Some(vec!["root".to_owned()]),
            path: "auth/token/root".to_owned(),
            meta: None,
            display_name: "root".to_owned(),
            num_uses: 0,
            creation_time: since_epoch.unwrap_or_default().as_secs().cast_signed(),
            ttl: 0,
            explicit_max_ttl: 0,
            role: String::new(),
            period: 0,
            entity_id: String::new(),
            namespace_id: "root".to_owned(),
            bound_cidrs: None,
            cubbyhole_id: random_text::<24>(),
        }
    }

    pub(super) fn to_json(&self) -> Zeroizing<Vec<u8>> {
        const ROOM: usize = 1 << 10;
        let mut json = Zeroizing::new(Vec::with_capacity(ROOM));
        serde_json::to_writer(&mut *json, self).expect("plain fields always encode");
        json
    }

    // Tokens of limited use, of another namespace or bound to addresses need
    // machinery that is not there: refused rather than let through too often.
    fn may_do_everything(&self, now: SystemTime) -> bool {
        let lives = self.ttl == 0 || {
            let seconds = (self.ttl / 1_000_000_000).saturating_add(self.creation_time);
            let until = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            now < SystemTime::UNIX_EPOCH + until
        };
        self.kind == TYPE_SERVICE
            && self
                .policies
                .iter()
                .flatten()
                .any(|policy| policy == "root")
            && self.bound_cidrs.as_ref().is_none_or(Vec::is_empty)
            && self.num_uses == 0
            && (self.namespace_id.is_empty() || self.namespace_id == "root")
            && lives
    }

    // Shape of a root token; one that expires has fields more.
    fn lookup(&self) -> Map<String, Value> {
        object(json!({
            "accessor": self.accessor,
            "creation_time": self.creation_time,
            "creation_ttl": self.ttl / 1_000_000_000,
            "display_name": self.display_name,
            "entity_id": self.entity_id,
            "expire_time": null,
            "explicit_max_ttl": self.explicit_max_ttl / 1_000_000_000,
            "id": self.id.0.as_str(),
            "meta": self.meta,
            "num_uses": self.num_uses,
            "orphan": self.parent.is_empty(),
            "path": self.path,
            "policies": self.policies,
            "ttl": self.ttl / 1_000_000_000,
            "type": "service",
        }))
    }
}

/// Storage path of a token.
pub(super) fn id_path(salt: &str, token: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, salt.as_bytes());
    let tag = hmac::sign(&key, token.as_bytes());
    format!("{ID_PREFIX}h{}", hex::encode(tag.as_ref()))
}

/// Storage path of an accessor.
pub(super) fn accessor_path(salt: &str, accessor: &str) -> String {
    let salted = format!("{salt}{accessor}");
    let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, salted.as_bytes());
    format!("{ACCESSOR_PREFIX}{}", hex::encode(digest.as_ref()))
}

impl Vault {
    /// Whose token it is, if it may do everything.
    pub(super) async fn authenticate(
        &self,
        session: &Session,
        token: Option<&str>,
    ) -> Result<Arc<TokenEntry>, VaultError> {
        let token = token.ok_or(VaultError::PermissionDenied)?;
        let entry = find(session, token).await?;
        match entry {
            Some(entry) if entry.may_do_everything(SystemTime::now()) => Ok(entry),
            _ => Err(VaultError::PermissionDenied),
        }
    }

    /// `auth/token/…`.
    pub(super) async fn token_path(
        &self,
        session: &Session,
        token: &TokenEntry,
        path: &str,
        request: &Request,
    ) -> Result<Response, VaultError> {
        match (path, request.method) {
            ("lookup-self", Method::Read | Method::Update) => Ok(found(token)),
            ("lookup", Method::Read) => Ok(found(token)),
            ("lookup", Method::Update) => {
                let body = request.body.as_ref();
                let asked = body
                    .map(|body| text_field(body, "token"))
                    .unwrap_or_default();
                if asked.is_empty() {
                    return bad("missing token ID");
                }
                let entry = find(session, asked).await?;
                let entry = entry.ok_or(VaultError::PermissionDenied)?;
                Ok(found(&entry))
            }
            ("lookup-self" | "lookup", _) => Err(VaultError::UnsupportedOperation),
            _ => Err(VaultError::UnsupportedPath),
        }
    }
}

fn found(entry: &TokenEntry) -> Response {
    Response {
        data: Some(entry.lookup()),
        ..Response::default()
    }
}

async fn find(session: &Session, token: &str) -> Result<Option<Arc<TokenEntry>>, VaultError> {
    // Tokens of other namespaces have a second dot; batch tokens are not stored.
    let plausible = token.strip_prefix("s.").or(token.strip_prefix("hvs."));
    let usable = plausible.is_some_and(|rest| !rest.is_empty() && !rest.contains('.'));
    if !usable || TOKEN_BYTES_MAX < token.len() {
        return Ok(None);
    }
    let Some(salt) = salt(session).await? else {
        return Ok(None);
    };
    let path = id_path(&salt, token);
    let Some(stored) = session.stored(&path).await? else {
        return Ok(None);
    };
    let entry = decrypted(session, &path, stored)?;
    let same: bool = entry.id.0.as_bytes().ct_eq(token.as_bytes()).into();
    Ok(same.then_some(entry))
}

fn decrypted(
    session: &Session,
    path: &str,
    stored: StoredValue,
) -> Result<Arc<TokenEntry>, VaultError> {
    let cache = &session.unsealed.tokens.entries;
    if let Some((ciphertext, entry)) = lock(cache).get(path)
        && ciphertext.is_same(&stored)
    {
        return Ok(Arc::clone(entry));
    }
    let json = session.decrypt(path, &stored)?;
    let entry: TokenEntry = serde_json::from_slice(&json).map_err(|_| malformed(ID_PREFIX))?;
    let entry = Arc::new(entry);
    let mut cached = lock(cache);
    if CACHED_MAX <= cached.len() {
        cached.clear();
    }
    cached.insert(path.to_owned(), (stored, Arc::clone(&entry)));
    Ok(entry)
}

async fn salt(session: &Session) -> Result<Option<Arc<Zeroizing<String>>>, VaultError> {
    let Some(stored) = session.stored(SALT).await? else {
        return Ok(None);
    };
    let cache = &session.unsealed.tokens.salt;
    if let Some((ciphertext, salt)) = lock(cache).as_ref()
        && ciphertext.is_same(&stored)
    {
        return Ok(Some(Arc::clone(salt)));
    }
    let plaintext = session.decrypt(SALT, &stored)?;
    let text = String::from_utf8(plaintext.to_vec()).map_err(|_| malformed(SALT))?;
    let salt = Arc::new(Zeroizing::new(text));
    *lock(cache) = Some((stored, Arc::clone(&salt)));
    Ok(Some(salt))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Paths of a throw-away OpenBao 2.7.2's root token.
    #[test]
    fn paths_are_openbaos() {
        let salt = "6af66140-7fa3-08e7-6573-f305ee798586";
        assert_eq!(
            id_path(salt, "s.pSpjf6zzHBMdGzvB83IkQyhi"),
            "sys/token/id/h31170515a6c9ce71743aefefaff49e234bdcaa31a6dcba86b2dd33fa634f165a"
        );
        assert_eq!(
            accessor_path(salt, "SAwHZ38JmBTDhYWvlKiwIhHo"),
            "sys/token/accessor/0d4c5d3e3d0780f957300d261e13a5c916aa95a2"
        );
    }

    #[test]
    fn expired_limited_or_lesser_tokens_may_do_nothing() {
        let now = SystemTime::now();
        let root = TokenEntry::root("s.x", now);
        assert!(root.may_do_everything(now));
        let hour_ns = 3_600_000_000_000;
        let refused = [
            TokenEntry {
                policies: Some(vec!["default".to_owned()]),
                ..root.clone()
            },
            TokenEntry {
                bound_cidrs: Some(vec!["10.0.0.0/8".to_owned()]),
                ..root.clone()
            },
            TokenEntry {
                num_uses: 1,
                ..root.clone()
            },
            TokenEntry {
                namespace_id: "abcde".to_owned(),
                ..root.clone()
            },
            TokenEntry {
                ttl: hour_ns,
                creation_time: root.creation_time - 3601,
                ..root.clone()
            },
            TokenEntry {
                kind: 2,
                ..root.clone()
            },
        ];
        for entry in refused {
            assert!(!entry.may_do_everything(now));
        }
        let fresh = TokenEntry {
            ttl: hour_ns,
            ..root
        };
        assert!(fresh.may_do_everything(now));
    }
}
