//! `sys/unseal`: shares in, keys out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::sync::Arc;
use zeroize::Zeroizing;

use super::seal_state::{OpenError, Unsealed};
use super::{SealStatus, UnsealRequest, Vault, VaultError, lock, uuid};
use crate::barrier::{BarrierError, KEY_BYTES, KEYRING_PATH, STORED_ROOT_KEY_PATH, UnsealKey};
use crate::seal::{Progress, Provided};

/// The shortest share accepted: an AES-128 key.
const SHARE_BYTES_MIN: usize = 16;
/// The longest: a key and the share's place.
const SHARE_BYTES_MAX: usize = KEY_BYTES + 1;

impl Vault {
    /// `PUT sys/unseal`. A share more, or `reset`. The reply to the last share
    /// waits (bounded) until somebody is active.
    ///
    /// # Errors
    /// `BadRequest` with a real server's texts; shares that turn out wrong are
    /// forgotten together.
    pub async fn unseal(&self, request: UnsealRequest) -> Result<SealStatus, VaultError> {
        if request.reset {
            return self.reset_unseal().await;
        }
        let key = request.key.unwrap_or_default();
        if key.is_empty() {
            return bad("'key' must be specified in request body as JSON, or 'reset' set to true");
        }
        let share = decode_share(&key)?;
        if request.migrate {
            return bad("can't perform a seal migration, no migration seal found");
        }
        if !self.initialized().await {
            return Err(VaultError::NotInitialized);
        }
        if self.unsealed.load().is_none() {
            check_length(&share)?;
        }
        if self.take_share(share).await? {
            self.wait_until_serving().await;
        }
        Ok(self.seal_status().await)
    }

    // Whether this share was the one that opened the vault.
    async fn take_share(&self, share: Zeroizing<Vec<u8>>) -> Result<bool, VaultError> {
        let guard = self.lifecycle.lock().await;
        if self.unsealed.load().is_some() || lock(&self.seal_state).joining {
            return Ok(false);
        }
        if self.is_removed() {
            let text = "node was removed from a HA cluster: empty its data directory and let it \
                        join again";
            return Err(VaultError::Internal(text.to_owned()));
        }
        let Some(combined) = self.provide(share).await? else {
            return Ok(false);
        };
        let unseal_key = unseal_key(&combined)?;
        let stored = self.backend.local().value(KEYRING_PATH).await?;
        if stored.is_none() && lock(&self.seal_state).join.is_some() {
            drop(guard);
            self.finish_join(unseal_key).await?;
        } else {
            self.open(unseal_key).await?;
        }
        Ok(true)
    }

    async fn provide(
        &self,
        share: Zeroizing<Vec<u8>>,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, VaultError> {
        let config = self.seal_config().await;
        let config = config.ok_or_else(|| {
            VaultError::Internal("no usable seal configuration in storage".to_owned())
        })?;
        let threshold = usize::from(config.secret_threshold);
        let mut state = lock(&self.seal_state);
        let progress = match &mut state.progress {
            Some(progress) if progress.threshold() == threshold => progress,
            other => other.insert(Progress::new(threshold)),
        };
        match progress.provide(share, uuid) {
            Ok(Provided::Pending) => Ok(None),
            Ok(Provided::Complete(combined)) => Ok(Some(combined)),
            Err(error) => bad(format!(
                "invalid key: failed to compute combined key: {error}"
            )),
        }
    }

    /// Opens what this node holds and takes part in the cluster. The caller
    /// holds the lifecycle lock.
    async fn open(&self, unseal_key: UnsealKey) -> Result<(), VaultError> {
        let unsealed = self.open_local(unseal_key).await?;
        self.stop_if_due().await;
        self.backend.start(unsealed.peer_keyring.to_vec()).await?;
        self.opened(unsealed);
        Ok(())
    }

    /// As [`Self::open`], of a joiner that takes part already.
    pub(super) async fn open_joined(&self, unseal_key: UnsealKey) -> Result<(), VaultError> {
        let unsealed = self.open_local(unseal_key).await?;
        self.backend
            .set_tls_keyring(unsealed.peer_keyring.to_vec())?;
        self.opened(unsealed);
        Ok(())
    }

    fn opened(&self, unsealed: Unsealed) {
        self.unsealed.store(Some(Arc::new(unsealed)));
        tracing::info!("vault is unsealed");
    }

    async fn open_local(&self, unseal_key: UnsealKey) -> Result<Unsealed, VaultError> {
        let local = self.backend.local();
        let stored = local.value(STORED_ROOT_KEY_PATH).await?;
        let stored = stored.ok_or_else(|| {
            VaultError::Internal("unable to retrieve stored keys: no stored keys found".to_owned())
        })?;
        let root_key = match unseal_key.open_root_key(&stored) {
            Err(BarrierError::Authentication) => return wrong_shares(),
            root_key => root_key.map_err(|error| {
                VaultError::Internal(format!("unable to retrieve stored keys: {error}"))
            })?,
        };
        match Unsealed::open(local.as_ref(), &root_key, unseal_key).await {
            Ok(unsealed) => Ok(unsealed),
            Err(OpenError::WrongRootKey) => bad("Unseal failed, invalid key"),
            Err(OpenError::Other(error)) => Err(error),
        }
    }

    async fn reset_unseal(&self) -> Result<SealStatus, VaultError> {
        if self.unsealed.load().is_some() {
            return bad("vault is unsealed");
        }
        lock(&self.seal_state).progress = None;
        Ok(self.seal_status().await)
    }
}

/// Hex is tried first: an accident of a real server that scripts rely on.
fn decode_share(text: &str) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    // Base64 of zeros is hex, too: only what is as long as a share counts.
    let is_share = |share: &Vec<u8>| (SHARE_BYTES_MIN..=SHARE_BYTES_MAX).contains(&share.len());
    let decoded = hex::decode(text)
        .ok()
        .filter(is_share)
        .or_else(|| BASE64.decode(text).ok())
        .map(Zeroizing::new);
    decoded.ok_or_else(|| {
        VaultError::BadRequest("'key' must be a valid hex or base64 string".to_owned())
    })
}

fn check_length(share: &[u8]) -> Result<(), VaultError> {
    if share.len() < SHARE_BYTES_MIN {
        return bad(format!(
            "invalid key: key is shorter than minimum {SHARE_BYTES_MIN} bytes"
        ));
    }
    if SHARE_BYTES_MAX < share.len() {
        return bad(format!(
            "invalid key: key is longer than maximum {SHARE_BYTES_MAX} bytes"
        ));
    }
    Ok(())
}

fn unseal_key(combined: &[u8]) -> Result<UnsealKey, VaultError> {
    match UnsealKey::from_slice(combined) {
        Ok(key) => Ok(key),
        // AES keys of a size that no unseal key has: to a real server they are
        // merely wrong.
        Err(BarrierError::KeySize { bytes: 16 | 24 }) => wrong_shares(),
        Err(error) => bad(format!("invalid key: failed to setup unseal key: {error}")),
    }
}

fn wrong_shares<T>() -> Result<T, VaultError> {
    bad(
        "unable to retrieve stored keys: invalid key: failed to decrypt keys from storage: \
         cipher: message authentication failed",
    )
}

pub(super) fn bad<T>(text: impl Into<String>) -> Result<T, VaultError> {
    Err(VaultError::BadRequest(text.into()))
}
