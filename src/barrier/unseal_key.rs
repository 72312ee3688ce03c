//! The unseal key: what the shares combine to. It encrypts the root key, join
//! challenges and the checksums of an archive.
//!
//! Sealed bytes are a protobuf `BlobInfo{ciphertext=1, key_info=5}` whose
//! ciphertext is `nonce(12) ‖ AES-256-GCM ciphertext ‖ tag(16)`, without
//! associated data.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message;
use zeroize::Zeroizing;

use super::envelope::EntryKey;
use super::{BarrierError, KEY_BYTES, RootKey, random_bytes};

/// The key that is split into shares.
#[derive(Clone)]
pub struct UnsealKey(Zeroizing<[u8; KEY_BYTES]>);

impl UnsealKey {
    /// Draws a fresh one.
    #[must_use]
    pub fn generate() -> Self {
        Self(random_bytes())
    }

    /// Takes what the shares combined to.
    ///
    /// # Errors
    /// `KeySize` for any other length than 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, BarrierError> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        if bytes.len() != key.len() {
            return Err(BarrierError::KeySize { bytes: bytes.len() });
        }
        key.copy_from_slice(bytes);
        Ok(Self(key))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// Encrypts into a `BlobInfo`.
    #[must_use]
    pub fn seal(&self, plaintext: &[u8]) -> Vec<u8> {
        let mut ciphertext = Vec::new();
        self.entry_key().seal_into(&mut ciphertext, &[], plaintext);
        let blob = BlobInfo {
            ciphertext,
            key_info: Some(KeyInfo {}),
        };
        blob.encode_to_vec()
    }

    /// Decrypts a `BlobInfo`.
    ///
    /// # Errors
    /// `Malformed` when it is none; `Authentication` under another key.
    pub fn open(&self, blob: &[u8]) -> Result<Zeroizing<Vec<u8>>, BarrierError> {
        let blob = BlobInfo::decode(blob).map_err(|_| BarrierError::Malformed {
            what: "sealed blob",
            reason: "not a BlobInfo message",
        })?;
        self.entry_key().open_slice(&[], &blob.ciphertext)
    }

    /// The stored form of the root key: a JSON list of one, sealed.
    #[must_use]
    pub fn seal_root_key(&self, root_key: &RootKey) -> Vec<u8> {
        let text = Zeroizing::new(BASE64.encode(root_key.as_bytes()));
        let json = Zeroizing::new(format!("[\"{}\"]", *text));
        self.seal(json.as_bytes())
    }

    /// Opens what [`Self::seal_root_key`] made.
    ///
    /// # Errors
    /// As [`Self::open`]; `Malformed` when it is not exactly one key.
    pub fn open_root_key(&self, stored: &[u8]) -> Result<RootKey, BarrierError> {
        let malformed = |reason| BarrierError::Malformed {
            what: "stored keys",
            reason,
        };
        let json = self.open(stored)?;
        let keys: Vec<&str> =
            serde_json::from_slice(&json).map_err(|_| malformed("not a list of keys"))?;
        let [text] = keys[..] else {
            return Err(malformed("not exactly one key"));
        };
        let bytes = BASE64
            .decode(text)
            .map(Zeroizing::new)
            .map_err(|_| malformed("not base64"))?;
        RootKey::from_slice(&bytes)
    }

    fn entry_key(&self) -> EntryKey {
        EntryKey::new(self.as_bytes()).expect("an unseal key is 32 bytes long")
    }
}

impl fmt::Debug for UnsealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnsealKey")
    }
}

#[derive(Clone, PartialEq, Message)]
struct BlobInfo {
    #[prost(bytes = "vec", tag = "1")]
    ciphertext: Vec<u8>,
    #[prost(message, optional, tag = "5")]
    key_info: Option<KeyInfo>,
}

// Always present, always empty under a Shamir seal.
#[derive(Clone, PartialEq, Message)]
struct KeyInfo {}
