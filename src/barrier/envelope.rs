//! The bytes around one storage entry.
//!
//! ```text
//! 0        4       5         17                      n-16     n
//! +--------+-------+---------+-----------------------+--------+
//! | term   | ver.  | nonce   | AES-256-GCM           | tag    |
//! | u32 BE | 1,2   | random  | ciphertext            |        |
//! +--------+-------+---------+-----------------------+--------+
//! ```
//!
//! Version 2 authenticates the entry's path too, so that an entry moved to
//! another path does not decrypt; version 1 (long ago) did not. Only version 2
//! is written.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::{BarrierError, random_bytes};

const TERM_BYTES: usize = 4;
const HEADER_BYTES: usize = TERM_BYTES + 1;
const TAG_BYTES: usize = 16;
const VERSION_1: u8 = 1;
const VERSION_2: u8 = 2;

/// A key for entries of one term.
pub struct EntryKey(LessSafeKey);

impl EntryKey {
    /// Prepares an AES-256-GCM key.
    ///
    /// # Errors
    /// `KeySize` unless `key` is 32 bytes long.
    pub fn new(key: &[u8]) -> Result<Self, BarrierError> {
        let unbound = UnboundKey::new(&AES_256_GCM, key)
            .map_err(|_| BarrierError::KeySize { bytes: key.len() })?;
        Ok(Self(LessSafeKey::new(unbound)))
    }

    /// Encrypts an entry (version 2) with a fresh random nonce.
    #[must_use]
    pub fn seal(&self, term: u32, path: &str, plaintext: &[u8]) -> Vec<u8> {
        let size = HEADER_BYTES + NONCE_LEN + plaintext.len() + TAG_BYTES;
        let mut stored = Vec::with_capacity(size);
        stored.extend_from_slice(&term.to_be_bytes());
        stored.push(VERSION_2);
        self.seal_into(&mut stored, path.as_bytes(), plaintext);
        assert!(stored.len() == size);
        stored
    }

    /// Decrypts an entry read at `path`; its term is not looked at.
    ///
    /// # Errors
    /// `Envelope` for bytes that are none, `Authentication` otherwise.
    pub fn open(&self, path: &str, stored: &[u8]) -> Result<Zeroizing<Vec<u8>>, BarrierError> {
        let refuse = |reason| BarrierError::Envelope {
            path: path.to_owned(),
            reason,
        };
        let (&version, sealed) = stored
            .get(TERM_BYTES..)
            .and_then(<[u8]>::split_first)
            .ok_or_else(|| refuse("too short"))?;
        let aad = match version {
            VERSION_1 => &[],
            VERSION_2 => path.as_bytes(),
            _ => return Err(refuse("unknown version")),
        };
        self.open_slice(aad, sealed)
    }

    /// Appends `nonce ‖ ciphertext ‖ tag`.
    pub(super) fn seal_into(&self, target: &mut Vec<u8>, aad: &[u8], plaintext: &[u8]) {
        let nonce = *random_bytes::<NONCE_LEN>();
        target.extend_from_slice(&nonce);
        let start = target.len();
        target.extend_from_slice(plaintext);
        let tag = self
            .0
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(aad),
                &mut target[start..],
            )
            .expect("an entry is far below the cipher's limit");
        target.extend_from_slice(tag.as_ref());
    }

    /// Opens `nonce ‖ ciphertext ‖ tag`.
    pub(super) fn open_slice(
        &self,
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, BarrierError> {
        let (nonce, ciphertext) = sealed
            .split_first_chunk::<NONCE_LEN>()
            .ok_or(BarrierError::Authentication)?;
        let mut plaintext = Zeroizing::new(ciphertext.to_vec());
        let length = self
            .0
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(aad),
                &mut plaintext,
            )
            .map_err(|_| BarrierError::Authentication)?
            .len();
        plaintext.truncate(length);
        Ok(plaintext)
    }
}

impl fmt::Debug for EntryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EntryKey")
    }
}

/// The term in an entry's header.
///
/// # Errors
/// `Envelope` when there are fewer than four bytes.
pub fn term(path: &str, stored: &[u8]) -> Result<u32, BarrierError> {
    match stored.first_chunk::<TERM_BYTES>() {
        Some(term) => Ok(u32::from_be_bytes(*term)),
        None => Err(BarrierError::Envelope {
            path: path.to_owned(),
            reason: "too short",
        }),
    }
}
