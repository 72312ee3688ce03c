//! The downloadable snapshot, in the form of OpenBao and Vault (D-009): a
//! gzip of a tar of
//!
//! ```text
//! meta.json           index, term, servers, length of state.bin; one line
//! state.bin           (uvarint length · protobuf StorageEntry)*, in key order
//! SHA256SUMS          of both, "hex  name\n" each
//! SHA256SUMS.sealed   the same text under the seal, as a protobuf BlobInfo
//! ```
//!
//! Values stay what the barrier made of them; the seal is the caller's, passed
//! in. What this module must never do: hold the whole state in memory, or
//! trust a length it reads.

mod entry;
mod member;
mod reader;
mod writer;

pub use entry::ENTRY_BYTES_MAX;
pub use reader::{ArchiveEntries, ArchiveReader};
pub use writer::ArchiveWriter;

use std::io;

use serde::{Deserialize, Serialize};

/// What `meta.json` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchiveMeta {
    /// Last log position included.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// The members at that time; information only.
    pub servers: Vec<ArchiveServer>,
    /// Log position of that membership.
    pub configuration_index: u64,
}

/// A member as `meta.json` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveServer {
    /// The configured `node_id`.
    pub id: String,
    /// Cluster address `host:port`.
    pub address: String,
    /// Whether it has a vote.
    pub voter: bool,
}

/// Why an archive was not read or not written. The texts of bad input are
/// OpenBao's.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Bad input: not a gzip file.
    #[error("failed to decompress snapshot: {reason}")]
    Compression {
        /// What is wrong.
        reason: String,
    },
    /// Bad input: the archive is cut off, damaged, or holds something else.
    #[error("failed to read snapshot file: {reason}")]
    Content {
        /// What is wrong.
        reason: String,
    },
    /// The sealed sums are missing or were sealed with another key.
    #[error(
        "could not verify hash file, possibly the snapshot is using a different set of unseal keys; \
         use the snapshot-force API to bypass this check"
    )]
    SealedSums {
        /// What happened, for the log.
        reason: String,
    },
    /// Sealing the sums failed.
    #[error("failed to seal snapshot hashes: {reason}")]
    Seal {
        /// What happened.
        reason: String,
    },
    /// Reading the input failed, whatever it holds.
    #[error("read snapshot archive")]
    Read(#[source] io::Error),
    /// Writing the output failed: whoever receives it has an incomplete file.
    #[error("write snapshot archive")]
    Write(#[source] io::Error),
}

impl ArchiveError {
    fn content(reason: impl Into<String>) -> Self {
        Self::Content {
            reason: reason.into(),
        }
    }

    /// An error of reading while doing what `action` says: cut off, damaged,
    /// or a failing source.
    fn reading(action: &str, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::content(format!("{action}: unexpected EOF")),
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
                Self::content(format!("{action}: {error}"))
            }
            _ => Self::Read(error),
        }
    }
}

/// `meta.json`, field for field.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct MetaFile {
    version: u64,
    #[serde(rename = "ID", default)]
    id: String,
    index: u64,
    term: u64,
    #[serde(default)]
    peers: Option<String>,
    #[serde(default)]
    configuration: ConfigurationFile,
    #[serde(default)]
    configuration_index: u64,
    #[serde(default)]
    size: u64,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ConfigurationFile {
    #[serde(default)]
    servers: Option<Vec<ServerFile>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ServerFile {
    suffrage: u8,
    #[serde(rename = "ID")]
    id: String,
    address: String,
}

impl MetaFile {
    fn new(meta: &ArchiveMeta, state_bytes: u64) -> Self {
        let server = |server: &ArchiveServer| ServerFile {
            suffrage: if server.voter {
                SUFFRAGE_VOTER
            } else {
                SUFFRAGE_NONVOTER
            },
            id: server.id.clone(),
            address: server.address.clone(),
        };
        Self {
            version: 1,
            id: "bolt-snapshot".to_owned(),
            index: meta.index,
            term: meta.term,
            peers: None,
            configuration: ConfigurationFile {
                servers: Some(meta.servers.iter().map(server).collect()),
            },
            configuration_index: meta.configuration_index,
            size: state_bytes,
        }
    }

    fn into_meta(self) -> ArchiveMeta {
        let server = |server: ServerFile| ArchiveServer {
            voter: server.suffrage == SUFFRAGE_VOTER,
            id: server.id,
            address: server.address,
        };
        let servers = self.configuration.servers.unwrap_or_default();
        ArchiveMeta {
            index: self.index,
            term: self.term,
            servers: servers.into_iter().map(server).collect(),
            configuration_index: self.configuration_index,
        }
    }
}

const SUFFRAGE_VOTER: u8 = 0;
const SUFFRAGE_NONVOTER: u8 = 1;
const META: &str = "meta.json";
const STATE: &str = "state.bin";
const SUMS: &str = "SHA256SUMS";
const SEALED_SUMS: &str = "SHA256SUMS.sealed";

#[cfg(test)]
mod tests;
