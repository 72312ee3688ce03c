//! Archives of the whole state: saving, and restoring with the checks that
//! keep a wrong file from costing the cluster its state.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::time::SystemTime;

use super::storage::{PEER_KEYRING, SEAL_CONFIG};
use super::{Vault, VaultError};
use crate::barrier::{KEYRING_PATH, STORED_ROOT_KEY_PATH, UnsealKey};
use crate::physical::{ArchiveSource, PhysicalError, RestoreEntries};
use crate::snapshot::archive::{
    ArchiveError, ArchiveMeta, ArchiveReader, ArchiveServer, ArchiveWriter,
};

/// Without these nobody could ever unseal what was restored.
const REQUIRED: [&str; 4] = [
    KEYRING_PATH,
    STORED_ROOT_KEY_PATH,
    PEER_KEYRING,
    SEAL_CONFIG,
];

/// An archive waiting to be written. Holds a picture of the state, cheaply.
pub struct SnapshotSource {
    source: ArchiveSource,
    unseal_key: UnsealKey,
}

impl SnapshotSource {
    #[cfg(test)]
    pub(super) fn of_nothing() -> Self {
        Self {
            source: ArchiveSource {
                index: 1,
                term: 1,
                servers: Vec::new(),
                membership_index: 1,
                entries: std::sync::Arc::new(|| Box::new(std::iter::empty())),
            },
            unseal_key: UnsealKey::generate(),
        }
    }

    /// Writes the archive; blocks as `target` does. An error means that what
    /// was written is no archive.
    ///
    /// # Errors
    /// Of `target`.
    pub fn write_to(self, target: &mut dyn Write) -> io::Result<()> {
        let server = |server: &crate::physical::ServerInfo| ArchiveServer {
            id: server.node_id.clone(),
            address: server.address.clone(),
            voter: server.voter,
        };
        let meta = ArchiveMeta {
            index: self.source.index,
            term: self.source.term,
            servers: self.source.servers.iter().map(server).collect(),
            configuration_index: self.source.membership_index,
        };
        let seal = |sums: &[u8]| Ok::<_, io::Error>(self.unseal_key.seal(sums));
        let entries = || (self.source.entries)();
        let archive = ArchiveWriter::prepare(&meta, entries, seal).map_err(io::Error::other)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let modified = now.unwrap_or_default().as_secs();
        archive.write(target, modified).map_err(io::Error::other)?;
        Ok(())
    }
}

impl Vault {
    /// `GET sys/storage/raft/snapshot`, by any unsealed node.
    ///
    /// # Errors
    /// `Sealed`, `PermissionDenied`, `Unavailable` without a quorum.
    pub async fn snapshot_save(&self, token: Option<&str>) -> Result<SnapshotSource, VaultError> {
        let session = self.session().await?;
        self.authenticate(&session, token).await?;
        let source = self.backend.archive_source().await?;
        Ok(SnapshotSource {
            source,
            unseal_key: session.unsealed.unseal_key.clone(),
        })
    }

    /// `POST sys/storage/raft/snapshot` and `…-force` with the archive spooled
    /// to a file. Returns when the state is replaced on this node; an archive
    /// of another cluster leaves it sealed, waiting for that cluster's shares.
    ///
    /// # Errors
    /// `Standby` on a node that is not active; `BadRequest` for an archive
    /// sealed with other keys (unless `force`) or one nobody could unseal;
    /// `Internal` for a file that is no archive. Nothing is changed then.
    pub async fn snapshot_restore(
        &self,
        token: Option<&str>,
        spooled: File,
        force: bool,
    ) -> Result<(), VaultError> {
        if self.unsealed.load().is_none() {
            return Err(VaultError::Sealed);
        }
        if !self.is_active() {
            return Err(VaultError::Standby);
        }
        let session = self.session().await?;
        self.authenticate(&session, token).await?;
        let unseal_key = session.unsealed.unseal_key.clone();
        drop(session);
        let checked = move || checked(spooled, &unseal_key, force);
        let entries = tokio::task::spawn_blocking(checked).await;
        let entries = entries.map_err(|error| VaultError::Internal(error.to_string()))??;
        tracing::info!(force, "restoring a snapshot");
        self.backend.restore(entries).await?;
        tracing::info!("snapshot restored");
        // Another keyring is noticed now rather than by the next request.
        if let Some(held) = self.unsealed.load_full() {
            match self.fresh(held, self.backend.local().as_ref()).await {
                Ok(_) | Err(VaultError::Sealed) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

// Verifies everything before anything is changed; then the entries are read
// from the same file once more.
fn checked(
    mut spooled: File,
    unseal_key: &UnsealKey,
    force: bool,
) -> Result<RestoreEntries, VaultError> {
    spooled.rewind().map_err(unreadable)?;
    let archive = if force {
        ArchiveReader::verify_unsealed(&spooled)
    } else {
        let open = |sealed: &[u8]| unseal_key.open(sealed).map(|sums| sums.to_vec());
        ArchiveReader::verify(&spooled, open)
    };
    let archive = archive.map_err(refused)?;

    spooled.rewind().map_err(unreadable)?;
    let mut missing: BTreeSet<&str> = REQUIRED.into_iter().collect();
    for entry in archive.entries(&spooled).map_err(refused)? {
        let (key, _) = entry.map_err(refused)?;
        missing.remove(key.as_str());
    }
    if let Some(path) = missing.first() {
        return Err(VaultError::BadRequest(format!(
            "refused to restore: the snapshot holds no {path}, nobody could unseal it"
        )));
    }
    spooled.rewind().map_err(unreadable)?;
    let entries = archive.entries(spooled).map_err(refused)?;
    Ok(Box::new(entries.map(|entry| {
        entry.map_err(|error| PhysicalError::Refused {
            reason: error.to_string(),
        })
    })))
}

fn refused(error: ArchiveError) -> VaultError {
    match error {
        ArchiveError::SealedSums { ref reason } => {
            tracing::warn!(%reason, "open the snapshot's sealed sums");
            VaultError::BadRequest(error.to_string())
        }
        error => VaultError::Internal(error.to_string()),
    }
}

fn unreadable(error: io::Error) -> VaultError {
    VaultError::Internal(format!("read spooled snapshot: {error}"))
}
