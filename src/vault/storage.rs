//! Storage as requests see it: one confirmed picture, decrypted; and batches
//! of encrypted writes.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::seal_state::Unsealed;
use super::{Vault, VaultError};
use crate::barrier::{Barrier, BarrierError};
use crate::physical::{PhysicalError, Reader};
use crate::types::{Operation, Outcome, Precondition, StoredValue, Transaction};

/// Seal configuration: plain JSON.
pub(super) const SEAL_CONFIG: &str = "core/seal-config";
/// Name and id of the cluster, as clients see them.
pub(super) const CLUSTER_INFO: &str = "core/cluster/local/info";
/// Peer TLS keyring.
pub(super) const PEER_KEYRING: &str = "core/raft/tls";
/// Audit devices, an empty table.
pub(super) const AUDIT: &str = "core/audit";
/// Audit devices of this cluster only, an empty table.
pub(super) const LOCAL_AUDIT: &str = "core/local-audit";
/// Key of the consistency header's HMAC.
pub(super) const INDEX_HEADER_KEY: &str = "core/index-header-hmac-key";

/// One picture of storage with the keys that fit it.
pub(super) struct Session {
    pub(super) reader: Arc<dyn Reader>,
    pub(super) unsealed: Arc<Unsealed>,
}

impl Session {
    /// The entry as it is stored.
    pub(super) async fn stored(&self, path: &str) -> Result<Option<StoredValue>, VaultError> {
        Ok(self.reader.value(path).await?)
    }

    /// The entry's plaintext.
    pub(super) async fn value(&self, path: &str) -> Result<Option<Zeroizing<Vec<u8>>>, VaultError> {
        match self.stored(path).await? {
            Some(stored) => Ok(Some(self.decrypt(path, &stored)?)),
            None => Ok(None),
        }
    }

    pub(super) fn decrypt(
        &self,
        path: &str,
        stored: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let plaintext = self.unsealed.barrier.decrypt(path, stored);
        plaintext.map_err(decryption_failed)
    }

    pub(super) fn batch(&self) -> Batch<'_> {
        Batch::new(&self.unsealed.barrier)
    }
}

/// Writes that happen together, or not at all.
pub(super) struct Batch<'a> {
    barrier: &'a Barrier,
    transaction: Transaction,
}

impl<'a> Batch<'a> {
    pub(super) fn new(barrier: &'a Barrier) -> Self {
        Self {
            barrier,
            transaction: Transaction::default(),
        }
    }

    /// Encrypts and sets.
    pub(super) fn put(&mut self, path: &str, plaintext: &[u8]) {
        self.put_plain(path, self.barrier.encrypt(path, plaintext));
    }

    /// Sets bytes that are no business of the barrier.
    pub(super) fn put_plain(&mut self, path: &str, value: Vec<u8>) {
        self.transaction.operations.push(Operation::Put {
            key: path.to_owned(),
            value,
        });
    }

    pub(super) fn delete(&mut self, path: &str) {
        self.transaction.operations.push(Operation::Delete {
            key: path.to_owned(),
        });
    }

    /// Only if `path` still holds these stored bytes.
    pub(super) fn expect(&mut self, path: &str, stored: Option<&[u8]>) {
        self.transaction.preconditions.push(Precondition {
            key: path.to_owned(),
            expected: stored.map(<[u8]>::to_vec),
        });
    }
}

/// Whether a batch took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Committed {
    Applied,
    /// Somebody wrote in between: read again.
    Conflict,
}

impl Vault {
    pub(super) async fn commit(&self, batch: Batch<'_>) -> Result<Committed, PhysicalError> {
        match self.backend.commit(batch.transaction).await? {
            Outcome::Applied => Ok(Committed::Applied),
            Outcome::PreconditionFailed { .. } => Ok(Committed::Conflict),
            Outcome::RestoreRefused { reason } => Err(PhysicalError::Refused {
                reason: reason.to_owned(),
            }),
        }
    }

    /// A confirmed picture of storage, after which the keys held are known to
    /// be the ones that it was encrypted under.
    pub(super) async fn session(&self) -> Result<Session, VaultError> {
        if self.unsealed.load().is_none() {
            return Err(VaultError::Sealed);
        }
        let reader = self
            .backend
            .confirmed()
            .await
            .map_err(not_running_is_sealed)?;
        self.session_over(reader).await
    }

    pub(super) async fn session_over(
        &self,
        reader: Arc<dyn Reader>,
    ) -> Result<Session, VaultError> {
        let unsealed = self.unsealed.load_full().ok_or(VaultError::Sealed)?;
        let unsealed = self.fresh(unsealed, reader.as_ref()).await?;
        Ok(Session { reader, unsealed })
    }
}

fn not_running_is_sealed(error: PhysicalError) -> VaultError {
    match error {
        PhysicalError::NotRunning => VaultError::Sealed,
        other => VaultError::Physical(other),
    }
}

pub(super) fn decryption_failed(error: BarrierError) -> VaultError {
    VaultError::Internal(format!("decryption failed: {error}"))
}

/// A stored entry that does not parse; never quotes it.
pub(super) fn malformed(path: &str) -> VaultError {
    VaultError::Internal(format!("decode {path}: unexpected content"))
}
