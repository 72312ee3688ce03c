//! Who this data directory belongs to: `node.json`.
//!
//! ```text
//! {"version":2,"node_id":"n1","incarnation":"9f0c…16 hex digits","starts":7}
//! ```
//! Name and incarnation are written once. `starts` is counted up, durably,
//! each time the directory is opened, before the node says a word: peers tell a
//! process from its copy by it. `removed_at` is added when the node learns
//! that a committed membership (at that log position) excludes it. The
//! cluster's identity is not repeated here: the log carries it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::disk::{Disk, DiskError};
use crate::peer::Run;
use crate::types::{Incarnation, LogIndex, NodeId};

/// Name and life of a data directory, and its present run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DirectoryIdentity {
    /// The configured `node_id` it was created for.
    pub name: String,
    /// That name as a number.
    pub id: NodeId,
    /// Drawn when it was created.
    pub incarnation: Incarnation,
    /// Which start this is.
    pub run: Run,
    /// Position of the committed membership that excludes it for good.
    pub removed_at: Option<LogIndex>,
}

/// A directory that cannot be used under this name.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It belongs to another node.
    #[error(
        "data directory belongs to node {found:?}, but node_id is {configured:?}: \
         configure the former name, or use an empty directory"
    )]
    OtherNode {
        /// Named in `node.json`.
        found: String,
        /// Configured.
        configured: String,
    },
    /// `node.json` holds something else.
    #[error("read {path}: {reason}")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No random bytes from the operating system.
    #[error("draw an identity: no random bytes")]
    Random,
    /// Reading or writing it failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// The number a `node_id` goes by: the first eight bytes of its SHA-256.
#[must_use]
pub fn node_number(name: &str) -> NodeId {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, name.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_ref()[..8]);
    NodeId(u64::from_le_bytes(first))
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    node_id: String,
    incarnation: String,
    #[serde(default)]
    starts: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    removed_at: Option<u64>,
}

/// Version 1 had no starts: it counts as never started.
const VERSION: u32 = 2;
const FILE_NAME: &str = "node.json";

impl DirectoryIdentity {
    /// Reads `node.json`; `None`: there is none.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub fn read(disk: &dyn Disk, directory: &Path) -> Result<Option<Self>, IdentityError> {
        let path = directory.join(FILE_NAME);
        match disk.exists(&path)? {
            true => read(disk, &path).map(Some),
            false => Ok(None),
        }
    }

    /// Reads `node.json`, or draws a new incarnation, and counts this start
    /// durably.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub fn open_or_create(
        disk: &dyn Disk,
        directory: &Path,
        configured: &str,
    ) -> Result<Self, IdentityError> {
        let path = directory.join(FILE_NAME);
        let mut identity = if disk.exists(&path)? {
            read(disk, &path)?
        } else {
            Self {
                name: configured.to_owned(),
                id: node_number(configured),
                incarnation: Incarnation(draw()?),
                run: Run::default(),
                removed_at: None,
            }
        };
        if identity.name != configured {
            return Err(IdentityError::OtherNode {
                found: identity.name,
                configured: configured.to_owned(),
            });
        }
        identity.run = Run {
            number: identity.run.number + 1,
            id: draw()?,
        };
        write(disk, directory, &identity)?;
        Ok(identity)
    }

    /// Writes `node.json` for a life that was drawn elsewhere.
    ///
    /// # Errors
    /// The disk failed.
    #[cfg(feature = "sim")]
    pub fn create(
        disk: &dyn Disk,
        directory: &Path,
        configured: &str,
        incarnation: Incarnation,
    ) -> Result<Self, IdentityError> {
        let identity = Self {
            name: configured.to_owned(),
            id: node_number(configured),
            incarnation,
            run: Run::default(),
            removed_at: None,
        };
        write(disk, directory, &identity)?;
        Ok(identity)
    }

    /// Remembers that a committed membership excludes this directory.
    ///
    /// # Errors
    /// Of the disk.
    pub fn mark_removed(
        &self,
        disk: &dyn Disk,
        directory: &Path,
        index: LogIndex,
    ) -> Result<(), IdentityError> {
        let removed = Self {
            removed_at: Some(index),
            ..self.clone()
        };
        write(disk, directory, &removed)
    }
}

fn draw() -> Result<u64, IdentityError> {
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| IdentityError::Random)?;
    Ok(u64::from_le_bytes(random))
}

fn read(disk: &dyn Disk, path: &Path) -> Result<DirectoryIdentity, IdentityError> {
    let malformed = |reason: String| IdentityError::Malformed {
        path: path.display().to_string(),
        reason,
    };
    let file = disk.open(path)?;
    let length = file.length()?;
    if length > FILE_BYTES_MAX {
        return Err(malformed(format!(
            "{length} bytes, at most {FILE_BYTES_MAX}"
        )));
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_at(0, &mut bytes)?;
    let stored: Stored =
        serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
    if stored.version == 0 || VERSION < stored.version {
        return Err(malformed(format!(
            "version {}, this program knows 1 to {VERSION}",
            stored.version
        )));
    }
    if STARTS_MAX < stored.starts {
        return Err(malformed(format!("starts {}", stored.starts)));
    }
    let incarnation = u64::from_str_radix(&stored.incarnation, 16)
        .map_err(|error| malformed(format!("incarnation: {error}")))?;
    Ok(DirectoryIdentity {
        id: node_number(&stored.node_id),
        name: stored.node_id,
        incarnation: Incarnation(incarnation),
        run: Run {
            number: stored.starts,
            id: 0,
        },
        removed_at: stored.removed_at.map(LogIndex),
    })
}

fn write(
    disk: &dyn Disk,
    directory: &Path,
    identity: &DirectoryIdentity,
) -> Result<(), IdentityError> {
    let stored = Stored {
        version: VERSION,
        node_id: identity.name.clone(),
        incarnation: format!("{:016x}", identity.incarnation.0),
        starts: identity.run.number,
        removed_at: identity.removed_at.map(|index| index.0),
    };
    let bytes = serde_json::to_vec(&stored).expect("a struct of strings serialises");
    replace_file(disk, directory, FILE_NAME, &bytes)?;
    Ok(())
}

/// Replaces a small file of the data directory: temporary file, sync, rename,
/// folder sync. There is never half a file under the final name.
pub(super) fn replace_file(
    disk: &dyn Disk,
    directory: &Path,
    name: &str,
    bytes: &[u8],
) -> Result<(), DiskError> {
    let temporary = directory.join(format!("{name}.tmp"));
    if disk.exists(&temporary)? {
        disk.remove(&temporary)?;
    }
    let mut file = disk.create(&temporary)?;
    file.write_at(0, bytes)?;
    file.sync()?;
    drop(file);
    disk.rename(&temporary, &directory.join(name))?;
    disk.sync_dir(directory)
}

/// No directory is started that often.
const STARTS_MAX: u64 = 1 << 48;
/// More than this is no `node.json` of ours.
const FILE_BYTES_MAX: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    fn directory() -> (MemoryDisk, std::path::PathBuf) {
        let disk = MemoryDisk::new();
        let path = std::path::PathBuf::from("/data");
        disk.create_dir_all(&path).unwrap();
        (disk, path)
    }

    #[test]
    fn identity_survives_a_crash_after_creation() {
        let (disk, path) = directory();
        let first = DirectoryIdentity::open_or_create(&disk, &path, "n1").unwrap();
        let crashed = disk.crash(|_| crate::disk::Fate::Lost);
        let again = DirectoryIdentity::open_or_create(&crashed, &path, "n1").unwrap();
        assert_eq!(first.run.number, 1);
        assert_eq!(again.run.number, 2);
        assert_ne!(first.run.id, again.run.id);
        let run = first.run;
        assert_eq!(first, DirectoryIdentity { run, ..again });
    }

    #[test]
    fn removal_is_remembered() {
        let (disk, path) = directory();
        let node = DirectoryIdentity::open_or_create(&disk, &path, "n1").unwrap();
        node.mark_removed(&disk, &path, LogIndex(9)).unwrap();
        let again = DirectoryIdentity::open_or_create(&disk, &path, "n1").unwrap();
        assert_eq!(again.removed_at, Some(LogIndex(9)));
        assert_eq!(again.run.number, 2);
    }

    #[test]
    fn file_of_the_first_version_counts_as_never_started() {
        let (disk, path) = directory();
        let text = br#"{"version":1,"node_id":"n1","incarnation":"00000000000000ff"}"#;
        replace_file(&disk, &path, FILE_NAME, text).unwrap();
        let node = DirectoryIdentity::open_or_create(&disk, &path, "n1").unwrap();
        assert_eq!(node.incarnation, Incarnation(255));
        assert_eq!(node.run.number, 1);
    }

    #[test]
    fn nonsense_is_refused() {
        let (disk, path) = directory();
        for text in [
            r#"{"version":3,"node_id":"n1","incarnation":"ff"}"#,
            r#"{"version":2,"node_id":"n1","incarnation":"xyz"}"#,
            r#"{"version":2,"node_id":"n1","incarnation":"ff","starts":18446744073709551615}"#,
            "{",
        ] {
            replace_file(&disk, &path, FILE_NAME, text.as_bytes()).unwrap();
            let error = DirectoryIdentity::open_or_create(&disk, &path, "n1").unwrap_err();
            assert!(matches!(error, IdentityError::Malformed { .. }), "{error}");
        }
    }

    #[test]
    fn other_name_is_refused_by_name() {
        let (disk, path) = directory();
        DirectoryIdentity::open_or_create(&disk, &path, "n1").unwrap();
        let error = DirectoryIdentity::open_or_create(&disk, &path, "n2").unwrap_err();
        let text = error.to_string();
        assert!(text.contains("\"n1\"") && text.contains("\"n2\""), "{text}");
    }

    #[test]
    fn incarnations_of_two_directories_differ() {
        let (disk, path) = directory();
        let (other_disk, other_path) = directory();
        let first = DirectoryIdentity::open_or_create(&disk, &path, "n1").unwrap();
        let other = DirectoryIdentity::open_or_create(&other_disk, &other_path, "n1").unwrap();
        assert_eq!(first.id, other.id);
        assert_ne!(first.incarnation, other.incarnation);
    }

    #[test]
    fn name_maps_to_the_first_bytes_of_its_digest() {
        // SHA-256("abc") begins ba7816bf 8f01cfea.
        assert_eq!(node_number("abc"), NodeId(0xeacf_018f_bf16_78ba));
    }
}
