//! The keys of all terms, as `core/keyring` holds them: JSON encrypted under
//! the root key, which is part of it.
//!
//! ```json
//! {"MasterKey":"<b64>","Keys":[{"Term":1,"Version":1,"Value":"<b64>",
//!  "InstallTime":"<RFC 3339>","encryptions":7}],
//!  "RotationConfig":{"Disabled":false,"MaxOperations":3865470566,"Interval":0}}
//! ```

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize, Serializer};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::envelope::{self, EntryKey};
use super::{BarrierError, KEY_BYTES, KEYRING_PATH, ROOT_KEY_PATH, random_bytes};

/// Entries that are not encrypted under the keyring carry this term.
const TERM_OUTSIDE: u32 = 1;
/// Slightly below what NIST allows under one key with random nonces.
const OPERATIONS_MAX: i64 = 3_865_470_566;
/// Room for a keyring's JSON, so that no half-grown copy of it is left behind.
const JSON_BYTES: usize = 16 << 10;

/// The key that encrypts the keyring.
#[derive(Clone)]
pub struct RootKey(Zeroizing<[u8; KEY_BYTES]>);

impl RootKey {
    /// Draws a fresh one.
    #[must_use]
    pub fn generate() -> Self {
        Self(random_bytes())
    }

    /// Takes 32 bytes.
    ///
    /// # Errors
    /// `KeySize` for any other length.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, BarrierError> {
        Ok(Self(key(bytes)?))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    fn entry_key(&self) -> EntryKey {
        EntryKey::new(self.as_bytes()).expect("a root key is 32 bytes long")
    }
}

impl PartialEq for RootKey {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes().ct_eq(other.as_bytes()).into()
    }
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootKey")
    }
}

/// The keys of all terms.
///
/// Invariant: `keys` is never empty; the highest term is the active one.
pub struct Keyring {
    root_key: RootKey,
    keys: BTreeMap<u32, TermKey>,
    rotation: Rotation,
}

struct TermKey {
    value: Zeroizing<[u8; KEY_BYTES]>,
    install_time: String,
    encryptions: u64,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Rotation {
    disabled: bool,
    max_operations: i64,
    interval: i64,
}

impl Keyring {
    /// A keyring with one fresh key, installed at `now` (RFC 3339).
    #[must_use]
    pub fn generate(root_key: RootKey, now: String) -> Self {
        let first = TermKey {
            value: random_bytes(),
            install_time: now,
            encryptions: 0,
        };
        Self {
            root_key,
            keys: BTreeMap::from([(1, first)]),
            rotation: Rotation {
                disabled: false,
                max_operations: OPERATIONS_MAX,
                interval: 0,
            },
        }
    }

    /// Opens the stored form.
    ///
    /// # Errors
    /// `Authentication` under another root key; `Malformed` if what decrypts
    /// is no keyring.
    pub fn open(root_key: &RootKey, stored: &[u8]) -> Result<Self, BarrierError> {
        if envelope::term(KEYRING_PATH, stored)? != TERM_OUTSIDE {
            return Err(BarrierError::Envelope {
                path: KEYRING_PATH.to_owned(),
                reason: "term mismatch",
            });
        }
        let json = root_key.entry_key().open(KEYRING_PATH, stored)?;
        Self::parse(&json)
    }

    /// The stored form, for [`KEYRING_PATH`].
    #[must_use]
    pub fn seal(&self) -> Vec<u8> {
        let json = self.to_json();
        self.root_key
            .entry_key()
            .seal(TERM_OUTSIDE, KEYRING_PATH, &json)
    }

    /// The plaintext of [`ROOT_KEY_PATH`]: how a node with an older root key
    /// learns the present one.
    #[must_use]
    pub fn root_key_entry(&self) -> Zeroizing<Vec<u8>> {
        let entry = KeyJson {
            term: 1,
            version: 1,
            value: Base64(self.root_key.as_bytes()),
            install_time: "0001-01-01T00:00:00Z",
            encryptions: 0,
        };
        to_json(&entry)
    }

    /// Reads the plaintext of [`ROOT_KEY_PATH`].
    ///
    /// # Errors
    /// `Malformed`.
    pub fn parse_root_key_entry(json: &[u8]) -> Result<RootKey, BarrierError> {
        let entry: KeyInput<'_> =
            serde_json::from_slice(json).map_err(|_| malformed(ROOT_KEY_PATH, "not a key"))?;
        Ok(RootKey(decode_key(entry.value)?))
    }

    /// The key it is encrypted under.
    #[must_use]
    pub fn root_key(&self) -> &RootKey {
        &self.root_key
    }

    /// The term that encrypts.
    #[must_use]
    pub fn active_term(&self) -> u32 {
        *self.active().0
    }

    /// When the active key was installed, RFC 3339.
    #[must_use]
    pub fn active_install_time(&self) -> &str {
        &self.active().1.install_time
    }

    /// Encryptions under the active key, as stored.
    #[must_use]
    pub fn active_encryptions(&self) -> u64 {
        self.active().1.encryptions
    }

    pub(super) fn entry_keys(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.keys
            .iter()
            .map(|(term, key)| (*term, key.value.as_slice()))
    }

    fn active(&self) -> (&u32, &TermKey) {
        self.keys
            .last_key_value()
            .expect("a keyring is never empty")
    }

    fn parse(json: &[u8]) -> Result<Self, BarrierError> {
        let input: KeyringInput<'_> =
            serde_json::from_slice(json).map_err(|_| malformed("keyring", "unexpected JSON"))?;
        let mut keys = BTreeMap::new();
        for key in input.keys {
            let term_key = TermKey {
                value: decode_key(key.value)?,
                install_time: key.install_time.to_owned(),
                encryptions: key.encryptions,
            };
            keys.insert(key.term, term_key);
        }
        if keys.is_empty() {
            return Err(malformed("keyring", "no keys"));
        }
        Ok(Self {
            root_key: RootKey(decode_key(input.root_key)?),
            keys,
            rotation: input.rotation,
        })
    }

    fn to_json(&self) -> Zeroizing<Vec<u8>> {
        let keys = self.keys.iter().map(|(&term, key)| KeyJson {
            term,
            version: 1,
            value: Base64(key.value.as_slice()),
            install_time: &key.install_time,
            encryptions: key.encryptions,
        });
        to_json(&KeyringJson {
            root_key: Base64(self.root_key.as_bytes()),
            keys: keys.collect(),
            rotation: &self.rotation,
        })
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring{:?}", self.keys.keys().collect::<Vec<_>>())
    }
}

#[derive(Serialize)]
struct KeyringJson<'a> {
    #[serde(rename = "MasterKey")]
    root_key: Base64<'a>,
    #[serde(rename = "Keys")]
    keys: Vec<KeyJson<'a>>,
    #[serde(rename = "RotationConfig")]
    rotation: &'a Rotation,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct KeyJson<'a> {
    term: u32,
    version: u32,
    value: Base64<'a>,
    install_time: &'a str,
    #[serde(rename = "encryptions", skip_serializing_if = "is_zero")]
    encryptions: u64,
}

// Borrowed strings: no copy of key material is left in memory that is not
// wiped. Base64 and timestamps never need JSON escapes.
#[derive(Deserialize)]
struct KeyringInput<'a> {
    #[serde(rename = "MasterKey")]
    root_key: &'a str,
    #[serde(rename = "Keys", borrow)]
    keys: Vec<KeyInput<'a>>,
    #[serde(rename = "RotationConfig")]
    rotation: Rotation,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct KeyInput<'a> {
    term: u32,
    value: &'a str,
    install_time: &'a str,
    #[serde(rename = "encryptions", default)]
    encryptions: u64,
}

struct Base64<'a>(&'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = Zeroizing::new(BASE64.encode(self.0));
        serializer.serialize_str(&text)
    }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn to_json<T: Serialize>(value: &T) -> Zeroizing<Vec<u8>> {
    let mut json = Zeroizing::new(Vec::with_capacity(JSON_BYTES));
    serde_json::to_writer(&mut *json, value).expect("keys and strings always encode");
    json
}

fn decode_key(text: &str) -> Result<Zeroizing<[u8; KEY_BYTES]>, BarrierError> {
    let bytes = BASE64
        .decode(text)
        .map(Zeroizing::new)
        .map_err(|_| malformed("key", "not base64"))?;
    key(&bytes)
}

fn key(bytes: &[u8]) -> Result<Zeroizing<[u8; KEY_BYTES]>, BarrierError> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    if bytes.len() != key.len() {
        return Err(BarrierError::KeySize { bytes: bytes.len() });
    }
    key.copy_from_slice(bytes);
    Ok(key)
}

fn malformed(what: &'static str, reason: &'static str) -> BarrierError {
    BarrierError::Malformed { what, reason }
}
