//! What everything below sees is ciphertext: the keyring and the envelope
//! around every storage entry, in OpenBao 2.7's formats (D-009).
//!
//! - `core/keyring` holds the keyring, encrypted under the *root key*;
//! - `core/hsm/barrier-unseal-keys` holds the root key, encrypted under the
//!   *unseal key*, the one that is split into shares;
//! - every other entry is encrypted under the keyring's active key.
//!
//! A [`Barrier`] is one keyring, opened: it never changes. Another keyring
//! (after a rotation or a restore) is another `Barrier`.
//!
//! What it must never do: put key material or plaintext into an error, a log
//! line or `Debug`; write to storage.
//!
//! Source: OpenBao's `barrier` and `seal` packages, read for their formats.

pub mod envelope;
pub mod keyring;
pub mod unseal_key;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use zeroize::Zeroizing;

use envelope::EntryKey;
pub use keyring::{Keyring, RootKey};
pub use unseal_key::UnsealKey;

/// Where the keyring is stored.
pub const KEYRING_PATH: &str = "core/keyring";
/// Where the root key is stored for nodes that hold an older one.
pub const ROOT_KEY_PATH: &str = "core/root-key";
/// Where the unseal key is stored, inside the barrier.
pub const UNSEAL_KEY_PATH: &str = "core/shamir-kek";
/// Where the root key is stored, encrypted under the unseal key.
pub const STORED_ROOT_KEY_PATH: &str = "core/hsm/barrier-unseal-keys";

/// The length of every key, in bytes (AES-256).
pub const KEY_BYTES: usize = 32;

/// Why bytes did not decrypt, or a key is none. Never names their content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BarrierError {
    /// A key of another length than AES-256 asks for.
    #[error("crypto/aes: invalid key size {bytes}")]
    KeySize {
        /// Length given, in bytes.
        bytes: usize,
    },
    /// Wrong key, or the bytes were changed.
    #[error("cipher: message authentication failed")]
    Authentication,
    /// Too short, or a version no program wrote.
    #[error("read envelope of {path}: {reason}")]
    Envelope {
        /// The entry's path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The keyring has no key for the entry's term.
    #[error("no decryption key available for term {term}")]
    UnknownTerm {
        /// The entry's term.
        term: u32,
    },
    /// Decrypted bytes that do not parse.
    #[error("decode {what}: {reason}")]
    Malformed {
        /// What was expected.
        what: &'static str,
        /// What is wrong with it; never the bytes themselves.
        reason: &'static str,
    },
}

/// One keyring, ready to encrypt and decrypt entries.
pub struct Barrier {
    keyring: Keyring,
    entry_keys: BTreeMap<u32, EntryKey>,
    encryptions: AtomicU64,
}

impl Barrier {
    /// Prepares a keyring for use.
    ///
    /// # Errors
    /// A key in it that is no AES-256 key.
    pub fn new(keyring: Keyring) -> Result<Self, BarrierError> {
        let mut entry_keys = BTreeMap::new();
        for (term, key) in keyring.entry_keys() {
            entry_keys.insert(term, EntryKey::new(key)?);
        }
        Ok(Self {
            keyring,
            entry_keys,
            encryptions: AtomicU64::new(0),
        })
    }

    /// Opens the stored form of a keyring with the root key.
    ///
    /// # Errors
    /// `Authentication` when the root key is another cluster's, or an older
    /// one; the others when the bytes are no keyring.
    pub fn open(root_key: &RootKey, stored: &[u8]) -> Result<Self, BarrierError> {
        Self::new(Keyring::open(root_key, stored)?)
    }

    /// Encrypts an entry under the active key, bound to its path.
    #[must_use]
    pub fn encrypt(&self, path: &str, plaintext: &[u8]) -> Vec<u8> {
        let term = self.keyring.active_term();
        let key = &self.entry_keys[&term];
        self.encryptions.fetch_add(1, Ordering::Relaxed);
        key.seal(term, path, plaintext)
    }

    /// Decrypts an entry read at `path`.
    ///
    /// # Errors
    /// See [`BarrierError`].
    pub fn decrypt(&self, path: &str, stored: &[u8]) -> Result<Zeroizing<Vec<u8>>, BarrierError> {
        let term = envelope::term(path, stored)?;
        let key = self
            .entry_keys
            .get(&term)
            .ok_or(BarrierError::UnknownTerm { term })?;
        key.open(path, stored)
    }

    /// The keyring it uses.
    #[must_use]
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// Encryptions under the active key that this node knows of.
    #[must_use]
    pub fn encryptions(&self) -> u64 {
        self.keyring.active_encryptions() + self.encryptions.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Barrier[term {}]", self.keyring.active_term())
    }
}

/// Fills fresh random bytes from the operating system's generator.
#[must_use]
pub fn random_bytes<const N: usize>() -> Zeroizing<[u8; N]> {
    let mut bytes = Zeroizing::new([0; N]);
    aws_lc_rs::rand::fill(bytes.as_mut_slice()).expect("the system's random generator works");
    bytes
}

#[cfg(test)]
mod tests;
