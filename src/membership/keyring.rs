//! The peer TLS keyring in OpenBao's JSON: what lies at `core/raft/tls` inside
//! the barrier and what a join answer carries.
//!
//! Parsing and writing are exact: what OpenBao wrote comes out byte for byte
//! (Go's field order, no spaces, a line feed at the end of a stored value).
//! Certificates and keys are only carried here; `peer::tls` uses and makes
//! them.
//!
//! ```text
//! {"keys":[{"id":"raft-<uuid>","key_type":"p521","applied_index":0,
//!   "cluster_cert":"<base64 DER>",
//!   "cluster_key_params":{"type":"p521","x":<int>,"y":<int>,"d":<int>},
//!   "created_time":"<RFC 3339>"}],
//!  "applied_index":0,"term":0,"active_key_id":"raft-<uuid>"}
//! ```

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Number;
use zeroize::Zeroizing;

use super::decimal::{DecimalError, Scalar};
use super::timestamp::Timestamp;

/// The one kind of key there is.
pub const KEY_TYPE: &str = "p521";

/// The largest keyring accepted, in bytes of JSON: a rotation leaves two keys
/// of about 2 KiB.
pub const KEYRING_BYTES_MAX: usize = 1 << 20;

/// The keys of a cluster's peers. Any of them may accept a connection; only
/// the active one dials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyring {
    /// Every key, oldest first. Invariant: contains the active one.
    pub keys: Vec<KeyringKey>,
    /// Log index that safely contains the newest key.
    pub applied_index: u64,
    /// Counts changes of the keyring. Two clusters begin alike, so equal terms
    /// do not mean equal keyrings.
    pub term: u64,
    /// Which key dials.
    pub active_key_id: String,
}

/// One self-signed certificate and its private key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyringKey {
    /// `raft-<uuid>`, also the certificate's name and the server name of a
    /// handshake.
    pub id: String,
    /// Log index that safely contains this key.
    pub applied_index: u64,
    /// DER of the certificate.
    pub certificate: Vec<u8>,
    /// Public point, first coordinate.
    pub x: Scalar,
    /// Public point, second coordinate.
    pub y: Scalar,
    /// Private scalar.
    pub d: Scalar,
    /// When it was made; decides when to rotate, never whether it is valid.
    pub created: Timestamp,
}

/// JSON that is no keyring. Never quotes the bytes: they hold private keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// Longer than any keyring.
    #[error("parse raft TLS keyring: {bytes} bytes, at most {KEYRING_BYTES_MAX}")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// Not JSON of this shape.
    #[error("parse raft TLS keyring: {kind} at line {line}, column {column}")]
    Shape {
        /// What kind of error.
        kind: &'static str,
        /// Where.
        line: usize,
        /// Where.
        column: usize,
    },
    /// A key of a type this program cannot use.
    #[error("parse raft TLS keyring: key {position}: unknown key type")]
    KeyType {
        /// Position of the key, from 0.
        position: usize,
    },
    /// A field of a key does not parse.
    #[error("parse raft TLS keyring: key {position}: {field} is malformed")]
    Field {
        /// Position of the key, from 0.
        position: usize,
        /// Which field.
        field: &'static str,
    },
    /// One of the numbers of a key.
    #[error("parse raft TLS keyring: key {position}: {field}")]
    Number {
        /// Position of the key, from 0.
        position: usize,
        /// Which number.
        field: &'static str,
        /// Why.
        #[source]
        source: DecimalError,
    },
    /// Nothing could dial.
    #[error("expected one active key to be present in the keyring")]
    NoActiveKey,
}

impl Keyring {
    /// Parses a stored keyring or the `tls_keyring` of a join answer.
    ///
    /// # Errors
    /// Anything a peer could not be reached with; see [`KeyringError`].
    pub fn parse(json: &[u8]) -> Result<Self, KeyringError> {
        if json.len() > KEYRING_BYTES_MAX {
            return Err(KeyringError::TooLarge { bytes: json.len() });
        }
        let wire: WireKeyring = serde_json::from_slice(json).map_err(|e| shape_error(&e))?;
        Self::from_wire(wire)
    }

    /// As [`Keyring::parse`], of JSON that is already a value.
    ///
    /// # Errors
    /// As [`Keyring::parse`].
    pub fn from_value(value: &serde_json::Value) -> Result<Self, KeyringError> {
        let wire = WireKeyring::deserialize(value).map_err(|e| shape_error(&e))?;
        Self::from_wire(wire)
    }

    /// The value at `core/raft/tls`, as Go's encoder ends it: with a line feed.
    #[must_use]
    pub fn to_stored(&self) -> Zeroizing<Vec<u8>> {
        let mut json = Zeroizing::new(
            serde_json::to_vec(&self.to_wire()).expect("strings and numbers always serialise"),
        );
        json.push(b'\n');
        json
    }

    /// The `tls_keyring` of a join answer.
    #[must_use]
    pub fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(self.to_wire()).expect("strings and numbers always serialise")
    }

    /// The key that dials.
    #[must_use]
    pub fn active(&self) -> Option<&KeyringKey> {
        self.keys.iter().find(|key| key.id == self.active_key_id)
    }

    fn from_wire(wire: WireKeyring) -> Result<Self, KeyringError> {
        let keys: Result<Vec<_>, _> = wire
            .keys
            .into_iter()
            .enumerate()
            .map(|(position, key)| KeyringKey::from_wire(position, key))
            .collect();
        let keyring = Self {
            keys: keys?,
            applied_index: wire.applied_index,
            term: wire.term,
            active_key_id: wire.active_key_id,
        };
        if keyring.active().is_none() {
            return Err(KeyringError::NoActiveKey);
        }
        Ok(keyring)
    }

    fn to_wire(&self) -> WireKeyring {
        WireKeyring {
            keys: self.keys.iter().map(KeyringKey::to_wire).collect(),
            applied_index: self.applied_index,
            term: self.term,
            active_key_id: self.active_key_id.clone(),
        }
    }
}

impl KeyringKey {
    fn from_wire(position: usize, wire: WireKey) -> Result<Self, KeyringError> {
        if wire.key_type != KEY_TYPE || wire.cluster_key_params.kind != KEY_TYPE {
            return Err(KeyringError::KeyType { position });
        }
        let field = |field| KeyringError::Field { position, field };
        let number = |name: &'static str, number: &Number| {
            Scalar::parse(&number.to_string()).map_err(|source| KeyringError::Number {
                position,
                field: name,
                source,
            })
        };
        let certificate = STANDARD
            .decode(&wire.cluster_cert)
            .ok()
            .filter(|der| !der.is_empty())
            .ok_or_else(|| field("cluster_cert"))?;
        Ok(Self {
            id: wire.id,
            applied_index: wire.applied_index,
            certificate,
            x: number("x", &wire.cluster_key_params.x)?,
            y: number("y", &wire.cluster_key_params.y)?,
            d: number("d", &wire.cluster_key_params.d)?,
            created: Timestamp::parse(&wire.created_time).ok_or_else(|| field("created_time"))?,
        })
    }

    fn to_wire(&self) -> WireKey {
        let number = |scalar: &Scalar| Number::from_string_unchecked(scalar.to_decimal());
        WireKey {
            id: self.id.clone(),
            key_type: KEY_TYPE.to_owned(),
            applied_index: self.applied_index,
            cluster_cert: STANDARD.encode(&self.certificate),
            cluster_key_params: WireParams {
                kind: KEY_TYPE.to_owned(),
                x: number(&self.x),
                y: number(&self.y),
                d: number(&self.d),
            },
            created_time: self.created.to_string(),
        }
    }
}

impl fmt::Debug for KeyringKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.id, self.created)
    }
}

fn shape_error(error: &serde_json::Error) -> KeyringError {
    KeyringError::Shape {
        kind: match error.classify() {
            serde_json::error::Category::Eof => "unexpected end",
            serde_json::error::Category::Syntax => "syntax error",
            _ => "unexpected shape",
        },
        line: error.line(),
        column: error.column(),
    }
}

// Field order is Go's.
#[derive(Serialize, Deserialize)]
struct WireKeyring {
    keys: Vec<WireKey>,
    #[serde(default)]
    applied_index: u64,
    #[serde(default)]
    term: u64,
    active_key_id: String,
}

#[derive(Serialize, Deserialize)]
struct WireKey {
    id: String,
    key_type: String,
    #[serde(default)]
    applied_index: u64,
    cluster_cert: String,
    cluster_key_params: WireParams,
    created_time: String,
}

#[derive(Serialize, Deserialize)]
struct WireParams {
    #[serde(rename = "type")]
    kind: String,
    x: Number,
    y: Number,
    d: Number,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // Of a throw-away cluster of a real OpenBao 2.7.2.
    const REAL: &[u8] = include_bytes!("testdata/openbao-2.7.2-keyring.json");

    fn real() -> Keyring {
        Keyring::parse(REAL).expect("a real keyring parses")
    }

    fn with(from: &str, to: &str) -> Result<Keyring, KeyringError> {
        let text = std::str::from_utf8(REAL).expect("JSON is UTF-8");
        assert!(text.contains(from), "{from}");
        Keyring::parse(text.replacen(from, to, 1).as_bytes())
    }

    #[test]
    fn keyring_of_a_real_openbao_survives_byte_for_byte() {
        let keyring = real();
        assert_eq!(keyring.keys.len(), 1);
        assert_eq!(keyring.active_key_id, keyring.keys[0].id);
        assert_eq!(keyring.active().map(|key| key.certificate.len()), Some(644));
        assert_eq!(keyring.to_stored().as_slice(), REAL);
    }

    #[test]
    fn value_and_text_agree() {
        let value: serde_json::Value = serde_json::from_slice(REAL).expect("JSON");
        let keyring = Keyring::from_value(&value).expect("parses");
        assert_eq!(keyring, real());
        assert_eq!(keyring.to_value(), value);
    }

    #[test]
    fn what_no_peer_could_use_is_refused() {
        let message = |result: Result<Keyring, KeyringError>| {
            result.expect_err("must be refused").to_string()
        };
        assert_eq!(
            message(with(
                "\"active_key_id\":\"raft-",
                "\"active_key_id\":\"raft_"
            )),
            "expected one active key to be present in the keyring"
        );
        assert_eq!(
            message(with("\"key_type\":\"p521\"", "\"key_type\":\"p384\"")),
            "parse raft TLS keyring: key 0: unknown key type"
        );
        assert_eq!(
            message(with("\"cluster_cert\":\"", "\"cluster_cert\":\"!")),
            "parse raft TLS keyring: key 0: cluster_cert is malformed"
        );
        assert_eq!(
            message(with("\"created_time\":\"2026", "\"created_time\":\"never")),
            "parse raft TLS keyring: key 0: created_time is malformed"
        );
        assert_eq!(
            message(with("\"d\":", "\"d\":-")),
            "parse raft TLS keyring: key 0: d"
        );
        assert!(message(with("\"x\":", "\"z\":")).contains("unexpected shape"));
        assert!(message(Keyring::parse(b"{")).contains("unexpected end"));
        assert!(message(Keyring::parse(&vec![b' '; KEYRING_BYTES_MAX + 1])).contains("at most"));
    }

    #[test]
    fn neither_errors_nor_debug_show_key_material() {
        let secret = real().keys[0].d.to_decimal();
        assert!(!format!("{:?}", real()).contains(&secret[..20]));
        let error = with("\"d\":", "\"d\":false,\"e\":").expect_err("no number");
        assert!(!error.to_string().contains(&secret[..20]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Keyring::parse(&bytes);
        }
    }
}
