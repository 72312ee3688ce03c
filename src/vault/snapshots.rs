//! Archives of the whole state: saving, and restoring with the checks that
//! keep a wrong file from costing the cluster its state.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::restore_status::RestorePhase;
use super::router::data;
use super::seal_state::SealConfig;
use super::storage::{PEER_KEYRING, SEAL_CONFIG};
use super::{Response, Vault, VaultError, lock, object};
use crate::barrier::{Barrier, KEYRING_PATH, STORED_ROOT_KEY_PATH, UnsealKey};
use crate::physical::{ArchiveSource, EntryIterator, PhysicalError, RestoreEntries};
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

    /// Walks the state twice, so that length and digest are known before the
    /// first byte is sent. Blocks.
    ///
    /// # Errors
    /// The archive cannot be made.
    pub fn prepare(self) -> io::Result<PreparedSnapshot> {
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
        let source = Arc::clone(&self.source.entries);
        let entries: EntriesOf = Box::new(move || source());
        let archive = ArchiveWriter::prepare(&meta, entries, seal).map_err(io::Error::other)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let modified = now.unwrap_or_default().as_secs();
        let (bytes, sha256) = archive.measure(modified);
        Ok(PreparedSnapshot {
            bytes,
            sha256,
            archive,
            modified,
        })
    }
}

type EntriesOf = Box<dyn Fn() -> EntryIterator + Send>;

/// An archive whose every byte is decided.
pub struct PreparedSnapshot {
    /// Length in bytes.
    pub bytes: u64,
    /// Of all of it.
    pub sha256: [u8; 32],
    archive: ArchiveWriter<EntriesOf>,
    modified: u64,
}

impl PreparedSnapshot {
    /// Writes the archive; blocks as `target` does. An error means that what
    /// was written is no archive.
    ///
    /// # Errors
    /// Of `target`.
    pub fn write_to(self, target: &mut dyn Write) -> io::Result<()> {
        let written = self.archive.write(target, self.modified);
        written.map(drop).map_err(io::Error::other)
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
        lock(&self.restore_trace).begin(force);
        let restored = self.verify_and_restore(spooled, unseal_key, force).await;
        lock(&self.restore_trace).end(restored.as_ref().err());
        restored?;
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

impl Vault {
    async fn verify_and_restore(
        &self,
        spooled: File,
        unseal_key: UnsealKey,
        force: bool,
    ) -> Result<(), VaultError> {
        let checked = move || {
            let checked = checked(&spooled, &unseal_key, force)?;
            entries_of(checked.archive, spooled)
        };
        let entries = tokio::task::spawn_blocking(checked).await;
        let entries = entries.map_err(|error| VaultError::Internal(error.to_string()))??;
        tracing::info!(force, "restoring a snapshot");
        lock(&self.restore_trace).phase = RestorePhase::Restoring;
        self.backend.restore(entries).await?;
        tracing::info!("snapshot restored");
        Ok(())
    }

    /// The same with `dry_run`: what is in the archive and what restoring it
    /// would do. Nothing is changed.
    ///
    /// # Errors
    /// As [`Self::snapshot_restore`]; the answer of the restore would be the
    /// same.
    pub async fn snapshot_examine(
        &self,
        token: Option<&str>,
        spooled: File,
        force: bool,
    ) -> Result<Response, VaultError> {
        if self.unsealed.load().is_none() {
            return Err(VaultError::Sealed);
        }
        if !self.is_active() {
            return Err(VaultError::Standby);
        }
        let session = self.session().await?;
        self.authenticate(&session, token).await?;
        let unsealed = Arc::clone(&session.unsealed);
        drop(session);
        let examined = move || {
            let found = checked(&spooled, &unsealed.unseal_key, force)?;
            let root_key = unsealed.barrier.keyring().root_key();
            let opens = Barrier::open(root_key, &found.keyring).is_ok();
            let config: Option<SealConfig> = serde_json::from_slice(&found.seal_config).ok();
            Ok::<_, VaultError>(json!({
                "dry_run": true,
                "index": found.archive.meta().index,
                "term": found.archive.meta().term,
                "entries": found.archive.entry_count(),
                "bytes": found.bytes,
                "secret_shares": config.as_ref().map(|config| config.secret_shares),
                "secret_threshold": config.as_ref().map(|config| config.secret_threshold),
                "seals": !opens,
            }))
        };
        let examined = tokio::task::spawn_blocking(examined).await;
        let examined = examined.map_err(|error| VaultError::Internal(error.to_string()))??;
        Ok(data(object(examined)))
    }

    /// `GET sys/storage/raft/restore/status`: the last restore on this node.
    pub(super) fn restore_status(&self) -> Map<String, Value> {
        lock(&self.restore_trace).json()
    }
}

/// An archive that may be restored.
struct Checked {
    archive: ArchiveReader,
    keyring: Vec<u8>,
    seal_config: Vec<u8>,
    /// Of all keys and values.
    bytes: u64,
}

// Verifies everything before anything is changed; then the entries are read
// from the same file once more.
fn checked(mut spooled: &File, unseal_key: &UnsealKey, force: bool) -> Result<Checked, VaultError> {
    spooled.rewind().map_err(unreadable)?;
    let archive = if force {
        ArchiveReader::verify_unsealed(spooled)
    } else {
        let open = |sealed: &[u8]| unseal_key.open(sealed).map(|sums| sums.to_vec());
        ArchiveReader::verify(spooled, open)
    };
    let archive = archive.map_err(refused)?;

    spooled.rewind().map_err(unreadable)?;
    let mut missing: BTreeSet<&str> = REQUIRED.into_iter().collect();
    let (mut keyring, mut seal_config, mut bytes) = (Vec::new(), Vec::new(), 0);
    for entry in archive.entries(spooled).map_err(refused)? {
        let (key, value) = entry.map_err(refused)?;
        missing.remove(key.as_str());
        bytes += (key.len() + value.len()) as u64;
        match key.as_str() {
            KEYRING_PATH => keyring = value,
            SEAL_CONFIG => seal_config = value,
            _ => {}
        }
    }
    if let Some(path) = missing.first() {
        return Err(VaultError::BadRequest(format!(
            "refused to restore: the snapshot holds no {path}, nobody could unseal it"
        )));
    }
    Ok(Checked {
        archive,
        keyring,
        seal_config,
        bytes,
    })
}

fn entries_of(archive: ArchiveReader, mut spooled: File) -> Result<RestoreEntries, VaultError> {
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
