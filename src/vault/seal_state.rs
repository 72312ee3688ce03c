//! Sealed, unsealed and in between: the configuration of the seal, the keys
//! held while unsealed, and how they are checked against storage.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::join::HeldJoin;
use super::mounts::MountCache;
use super::storage::{CLUSTER_INFO, PEER_KEYRING, SEAL_CONFIG, decryption_failed, malformed};
use super::tokens::TokenCache;
use super::{SealStatus, Vault, VaultError, lock};
use crate::barrier::{
    Barrier, BarrierError, KEYRING_PATH, Keyring, ROOT_KEY_PATH, RootKey, UNSEAL_KEY_PATH,
    UnsealKey,
};
use crate::physical::Reader;
use crate::seal::Progress;
use crate::types::StoredValue;

/// The only seal there is.
pub(super) const SHAMIR: &str = "shamir";

/// What `core/seal-config` says, and what a leader tells a joiner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SealConfig {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) secret_shares: u8,
    pub(super) secret_threshold: u8,
    #[serde(default)]
    pgp_keys: Option<Vec<String>>,
    #[serde(default)]
    nonce: String,
    #[serde(default)]
    backup: bool,
}

impl SealConfig {
    pub(super) fn shamir(secret_shares: u8, secret_threshold: u8) -> Self {
        Self {
            kind: SHAMIR.to_owned(),
            secret_shares,
            secret_threshold,
            pgp_keys: None,
            nonce: String::new(),
            backup: false,
        }
    }

    /// Checks what a stranger sent or an archive held.
    pub(super) fn is_sound(&self) -> bool {
        0 < self.secret_threshold && self.secret_threshold <= self.secret_shares
    }
}

/// What is remembered while sealed.
#[derive(Default)]
pub(super) struct SealState {
    pub(super) progress: Option<Progress>,
    pub(super) join: Option<HeldJoin>,
    /// The shares were right and the rest of joining goes on by itself.
    pub(super) joining: bool,
}

/// The keys of an unsealed vault, as one stored keyring has them. Another
/// keyring makes another `Unsealed`.
pub(super) struct Unsealed {
    pub(super) unseal_key: UnsealKey,
    pub(super) barrier: Barrier,
    pub(super) cluster: ClusterInfo,
    pub(super) mounts: MountCache,
    pub(super) tokens: TokenCache,
    pub(super) peer_keyring: Zeroizing<Vec<u8>>,
    keyring_stored: StoredValue,
    peer_keyring_stored: Option<StoredValue>,
}

/// What clients see as the cluster's name and id.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct ClusterInfo {
    pub(super) name: String,
    pub(super) id: String,
}

impl Unsealed {
    /// Opens what `reader` holds with the root key.
    pub(super) async fn open(
        reader: &dyn Reader,
        root_key: &RootKey,
        unseal_key: UnsealKey,
    ) -> Result<Self, OpenError> {
        let missing = |path: &str| VaultError::Internal(format!("{path} is missing"));
        let keyring_stored = reader.value(KEYRING_PATH).await.map_err(VaultError::from)?;
        let keyring_stored = keyring_stored.ok_or_else(|| missing(KEYRING_PATH))?;
        let barrier = match Barrier::open(root_key, &keyring_stored) {
            Err(BarrierError::Authentication) => return Err(OpenError::WrongRootKey),
            opened => opened.map_err(decryption_failed)?,
        };
        let peer_keyring_stored = reader.value(PEER_KEYRING).await.map_err(VaultError::from)?;
        let stored = peer_keyring_stored.as_deref();
        let stored = stored.ok_or_else(|| missing(PEER_KEYRING))?;
        let peer_keyring = barrier.decrypt(PEER_KEYRING, stored);
        let peer_keyring = peer_keyring.map_err(decryption_failed)?;
        let cluster = match plaintext(reader, &barrier, CLUSTER_INFO).await? {
            Some(json) => serde_json::from_slice(&json).map_err(|_| malformed(CLUSTER_INFO))?,
            None => ClusterInfo::default(),
        };
        let unseal_key = match plaintext(reader, &barrier, UNSEAL_KEY_PATH).await? {
            Some(key) => UnsealKey::from_slice(&key).map_err(decryption_failed)?,
            None => unseal_key,
        };
        Ok(Self {
            unseal_key,
            barrier,
            cluster,
            mounts: MountCache::default(),
            tokens: TokenCache::default(),
            peer_keyring,
            keyring_stored,
            peer_keyring_stored,
        })
    }

    // Values are shared, not copied: almost always the pointers are equal.
    async fn fits(&self, reader: &dyn Reader) -> Result<bool, VaultError> {
        let keyring = reader.value(KEYRING_PATH).await?;
        let peer_keyring = reader.value(PEER_KEYRING).await?;
        Ok(same(keyring.as_ref(), Some(&self.keyring_stored))
            && same(peer_keyring.as_ref(), self.peer_keyring_stored.as_ref()))
    }

    // The root key after it was replaced: stored under a key of the keyring
    // that this node still holds.
    async fn newer_root_key(&self, reader: &dyn Reader) -> Option<RootKey> {
        let stored = reader.value(ROOT_KEY_PATH).await.ok()??;
        let json = self.barrier.decrypt(ROOT_KEY_PATH, &stored).ok()?;
        Keyring::parse_root_key_entry(&json).ok()
    }
}

/// Why storage did not open.
pub(super) enum OpenError {
    /// It is encrypted under another root key.
    WrongRootKey,
    Other(VaultError),
}

impl From<VaultError> for OpenError {
    fn from(error: VaultError) -> Self {
        Self::Other(error)
    }
}

impl Vault {
    /// The seal's configuration: what storage says, else what a leader told
    /// us. Read anew each time, so that a restore cannot leave an old one.
    pub(super) async fn seal_config(&self) -> Option<SealConfig> {
        let stored = self.backend.local().value(SEAL_CONFIG).await.ok().flatten();
        match stored {
            Some(json) => serde_json::from_slice(&json)
                .ok()
                .filter(SealConfig::is_sound),
            None => {
                let state = lock(&self.seal_state);
                state.join.as_ref().map(|join| join.seal_config.clone())
            }
        }
    }

    /// `GET sys/seal-status`; never waits for anything under way.
    pub async fn seal_status(&self) -> SealStatus {
        let initialized = self.initialized().await;
        let config = self.seal_config().await;
        let unsealed = self.unsealed.load_full();
        let state = lock(&self.seal_state);
        let progress = state.progress.as_ref();
        SealStatus {
            kind: SHAMIR.to_owned(),
            initialized,
            sealed: unsealed.is_none(),
            threshold: config.as_ref().map_or(0, |config| config.secret_threshold),
            shares: config.as_ref().map_or(0, |config| config.secret_shares),
            progress: progress.map_or(0, |progress| {
                u8::try_from(progress.count()).unwrap_or(u8::MAX)
            }),
            nonce: progress.map_or_else(String::new, |progress| progress.nonce().to_owned()),
            cluster_name: unsealed.as_ref().map(|keys| keys.cluster.name.clone()),
            cluster_id: unsealed.as_ref().map(|keys| keys.cluster.id.clone()),
            removed_from_cluster: self.is_removed(),
        }
    }

    /// Whether there is a cluster here: initialised, joined, or a join
    /// challenge held.
    pub async fn initialized(&self) -> bool {
        if self.backend.is_member() || self.unsealed.load().is_some() {
            return true;
        }
        {
            let state = lock(&self.seal_state);
            if state.join.is_some() || state.joining {
                return true;
            }
        }
        let stored = self.backend.local().value(SEAL_CONFIG).await;
        stored.is_ok_and(|config| config.is_some())
    }

    /// The keys that fit `reader`: the ones held, or newly opened ones after a
    /// rotation or restore. Storage of another cluster seals this node.
    pub(super) async fn fresh(
        &self,
        held: Arc<Unsealed>,
        reader: &dyn Reader,
    ) -> Result<Arc<Unsealed>, VaultError> {
        if held.fits(reader).await? {
            return Ok(held);
        }
        let guard = self.lifecycle.lock().await;
        // Another request may have opened it meanwhile.
        let held = self.unsealed.load_full().ok_or(VaultError::Sealed)?;
        if held.fits(reader).await? {
            return Ok(held);
        }
        // Only the newest picture decides: the caller's may be from before a
        // restore that this node has been unsealed after.
        let newest = self.backend.local();
        if held.fits(newest.as_ref()).await? {
            return Err(replaced_meanwhile());
        }
        match self.reopen(&held, newest.as_ref()).await {
            Ok(opened) => {
                tracing::info!("the keyring in storage changed: opened the new one");
                self.backend
                    .set_tls_keyring(opened.peer_keyring.to_vec())
                    .map_err(VaultError::Physical)?;
                let opened = Arc::new(opened);
                self.unsealed.store(Some(Arc::clone(&opened)));
                if !opened.fits(reader).await? {
                    return Err(replaced_meanwhile());
                }
                Ok(opened)
            }
            Err(OpenError::Other(error)) => Err(error),
            Err(OpenError::WrongRootKey) => {
                tracing::warn!(
                    "storage was replaced by another cluster's: sealing; \
                     unseal with the keys of the restored snapshot"
                );
                self.close_barrier();
                drop(guard);
                self.stop_after_replacement();
                Err(VaultError::Sealed)
            }
        }
    }

    async fn reopen(&self, held: &Unsealed, reader: &dyn Reader) -> Result<Unsealed, OpenError> {
        let unseal_key = held.unseal_key.clone();
        let root_key = held.barrier.keyring().root_key();
        match Unsealed::open(reader, root_key, unseal_key.clone()).await {
            Err(OpenError::WrongRootKey) => {}
            result => return result,
        }
        match held.newer_root_key(reader).await {
            Some(root_key) => Unsealed::open(reader, &root_key, unseal_key).await,
            None => Err(OpenError::WrongRootKey),
        }
    }

    /// Forgets the keys and all shares.
    pub(super) fn close_barrier(&self) {
        self.unsealed.store(None);
        *lock(&self.seal_state) = SealState::default();
    }

    /// Whether this node may answer for the cluster.
    pub(super) fn is_active(&self) -> bool {
        self.unsealed.load().is_some() && self.backend.leadership().borrow().is_leader
    }
}

fn replaced_meanwhile() -> VaultError {
    VaultError::Internal("storage was replaced under this request: try again".to_owned())
}

async fn plaintext(
    reader: &dyn Reader,
    barrier: &Barrier,
    path: &str,
) -> Result<Option<Zeroizing<Vec<u8>>>, VaultError> {
    match reader.value(path).await? {
        Some(stored) => {
            let plaintext = barrier.decrypt(path, &stored);
            plaintext.map(Some).map_err(decryption_failed)
        }
        None => Ok(None),
    }
}

fn same(left: Option<&StoredValue>, right: Option<&StoredValue>) -> bool {
    match (left, right) {
        (Some(left), Some(right)) => left.is_same(right) || left == right,
        (None, None) => true,
        _ => false,
    }
}
