//! Why a node does not open.

use crate::disk::DiskError;
use crate::snapshot::SnapshotError;
use crate::types::LogIndex;
use crate::wal::WalError;

use super::identity::IdentityError;

/// Why a node could not be opened on its data directory.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Another process uses the directory.
    #[error("lock data directory")]
    Locked(#[source] DiskError),
    /// Creating folders failed.
    #[error("prepare data directory")]
    Directory(#[source] DiskError),
    /// The directory belongs to another node, or does not say to whom.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log is of another node than `node.json` names.
    #[error("the log in {directory} belongs to another data directory: was it copied?")]
    ForeignLog {
        /// The log's folder.
        directory: String,
    },
    /// The log is damaged, or the disk failed.
    #[error("open log")]
    Log(#[source] WalError),
    /// The snapshot folder cannot be used.
    #[error("open snapshots")]
    Snapshots(#[source] SnapshotError),
    /// A snapshot could not be read.
    #[error("load snapshot: {0}")]
    Load(String),
    /// Entries that no snapshot covers are gone from the log.
    #[error(
        "the log begins at {first} and no readable snapshot reaches it (broken: {broken}): \
         remove this node from the cluster and let it join with an empty directory"
    )]
    Gap {
        /// First position of the log.
        first: LogIndex,
        /// What is wrong with the snapshot that should.
        broken: String,
    },
    /// What is lost cannot be told, or nobody is there to ask.
    #[error(
        "the data directory is damaged beyond repair from peers ({0}): remove this node from the \
         cluster (`operator raft remove-peer`), empty its data directory, and let it join again"
    )]
    Unrepairable(String),
    /// The operator named who is left, and none of them has what is lost.
    #[error(
        "entry {0} was committed, is lost here, and none of the servers that raft/peers.json \
         names has it: this node cannot be one of them. Stop them, make a cluster of the others \
         (`holdfast operator recover -apply` with their data directories), then empty this node's \
         data directory and let it join again. If there are no others, restore a backup \
         (`operator raft snapshot restore`) into a new cluster"
    )]
    NoSurvivorHas(LogIndex),
    /// The log is shorter than what is known to be committed.
    #[error(
        "the log ends at {last}, but {commit} was committed: acknowledged entries are lost; \
         remove this node from the cluster and let it join with an empty directory"
    )]
    LostTail {
        /// End of the log.
        last: LogIndex,
        /// Durable commit index.
        commit: LogIndex,
    },
}
