//! `raft/peers.json`: an operator says who is left of a cluster that has lost
//! its quorum for good.
//!
//! ```text
//! [{"id":"n1","address":"host:8201","non_voter":false}]
//! ```
//! The same file goes to every survivor while all are stopped; it is read when
//! a node is unsealed. What the log knows of the members named completes it:
//! which directories they are. It then becomes `raft/survivors.json`, which
//! also says in which term that was, and counts, start after start, until the log
//! itself says who is left (see [`Raft::force_membership`]); then it goes.
//!
//! [`Raft::force_membership`]: crate::raft::Raft::force_membership

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::disk::{Disk, DiskError};
use crate::peer::{AddressError, check_advertised};
use crate::raft::Recovered;
use crate::types::{EntryPayload, LogIndex, Member, Membership, Term};

use super::identity::{DirectoryIdentity, node_number, replace_file};
use super::wal_thread::chain;

/// Folder and names within the data directory.
const FOLDER: &str = "raft";
const OPERATORS_FILE: &str = "peers.json";
const OWN_FILE: &str = "survivors.json";
/// More than this names no cluster.
const FILE_BYTES_MAX: u64 = 1 << 20;
const VERSION: u32 = 1;

/// A membership that counts in place of what the log says.
#[derive(Clone)]
pub(super) struct Forced {
    /// Who is left.
    pub membership: Arc<Membership>,
    /// What was committed when the node started with it.
    pub since: LogIndex,
    /// The term of this node when it was first told.
    pub term: Term,
    /// The log says it now: forgets the file.
    pub forget: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
}

/// A member in `peers.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survivor {
    /// Its configured `node_id`.
    pub id: String,
    /// Its cluster address, `host:port`.
    pub address: String,
    /// A permanent non-voter.
    #[serde(default)]
    pub non_voter: bool,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    /// The term when it was first read.
    term: u64,
    peers: Vec<Survivor>,
}

/// Why `peers.json` is not followed. The node does not start with it: it must
/// be corrected or removed.
#[derive(Debug, thiserror::Error)]
pub enum SurvivorsError {
    /// Not what it should be.
    #[error("read {path}: {reason}")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A server that the log does not name.
    #[error(
        "raft/peers.json names {0:?}, of which the log of this node knows nothing: name only \
         members of the lost cluster, and let other servers join afterwards"
    )]
    Unknown(String),
    /// One server twice.
    #[error("raft/peers.json names {0:?} twice")]
    Twice(String),
    /// Nobody could be elected.
    #[error("raft/peers.json names no voter")]
    NoVoter,
    /// This node, or its name with another directory.
    #[error(
        "raft/peers.json does not name this node, {0:?}: stop it for good, or add it to the file \
         on every survivor"
    )]
    NotThisNode(String),
    /// Its name has joined again since with another directory.
    #[error(
        "the member {0:?} in the log is another data directory than this one: empty this one and \
         let it join again"
    )]
    FormerLife(String),
    /// An address that peers could not use.
    #[error("raft/peers.json, {id:?}")]
    Address {
        /// Whose.
        id: String,
        /// What is wrong with it.
        #[source]
        source: AddressError,
    },
    /// The disk failed.
    #[error("read raft/peers.json")]
    Disk(#[from] DiskError),
}

/// What an operator forces upon this node, if anything.
///
/// # Errors
/// See [`SurvivorsError`].
pub(super) fn forced(
    disk: &Arc<dyn Disk>,
    directory: &Path,
    identity: &DirectoryIdentity,
    recovered: &Recovered,
) -> Result<Option<Forced>, SurvivorsError> {
    let folder = directory.join(FOLDER);
    let Some((stored, is_new)) = told(disk.as_ref(), &folder, recovered)? else {
        return Ok(None);
    };
    // Checked before it is taken over.
    let membership = membership(&stored.peers, identity, recovered)?;
    if is_new {
        let bytes = serde_json::to_vec_pretty(&stored).unwrap_or_default();
        replace_file(disk.as_ref(), &folder, OWN_FILE, &bytes)?;
        disk.remove(&folder.join(OPERATORS_FILE))?;
        disk.sync_dir(&folder)?;
    }
    let forget = forgetter(Arc::clone(disk), folder);
    if is_said(recovered, &stored) {
        if let Err(reason) = forget() {
            tracing::warn!(reason, "raft/survivors.json stays");
        }
        return Ok(None);
    }
    tracing::warn!(
        ?membership,
        "an operator says who is left of the cluster: entries that only others held are lost"
    );
    Ok(Some(Forced {
        membership: Arc::new(membership),
        since: committed(recovered),
        term: Term(stored.term),
        forget,
    }))
}

/// Who an operator says is left, to a node whose log is damaged: nobody else is
/// asked for what it lost. Both files stay as they are. `known`: what is still
/// known of the log.
///
/// # Errors
/// See [`SurvivorsError`].
pub(super) fn named(
    disk: &dyn Disk,
    directory: &Path,
    identity: &DirectoryIdentity,
    known: &Recovered,
) -> Result<Option<Membership>, SurvivorsError> {
    let stored = told(disk, &directory.join(FOLDER), known)?;
    match stored.filter(|(stored, _)| !is_said(known, stored)) {
        Some((stored, _)) => membership(&stored.peers, identity, known).map(Some),
        None => Ok(None),
    }
}

/// What an operator says, and whether it was not taken over before.
fn told(
    disk: &dyn Disk,
    folder: &Path,
    recovered: &Recovered,
) -> Result<Option<(Stored, bool)>, SurvivorsError> {
    let (theirs, own) = (folder.join(OPERATORS_FILE), folder.join(OWN_FILE));
    if disk.exists(&theirs)? {
        let stored = Stored {
            version: VERSION,
            term: recovered.hard_state.term.0,
            peers: parse(&read(disk, &theirs)?, &theirs)?,
        };
        return Ok(Some((stored, true)));
    }
    if !disk.exists(&own)? {
        return Ok(None);
    }
    let stored: Stored = parse(&read(disk, &own)?, &own)?;
    if stored.version != VERSION {
        let reason = format!("version {}, this program knows {VERSION}", stored.version);
        return Err(malformed(&own, reason));
    }
    Ok(Some((stored, false)))
}

fn committed(recovered: &Recovered) -> LogIndex {
    let covered = recovered.snapshot.as_ref().map(|meta| meta.index);
    let known = recovered.hard_state.commit_index;
    known
        .max(recovered.applied_index)
        .max(covered.unwrap_or_default())
}

/// Whether a leader that was elected since the file came has said who is left,
/// and that is committed: the first entry of its term does.
fn is_said(recovered: &Recovered, stored: &Stored) -> bool {
    let is_later = |term: Term| Term(stored.term) < term;
    let by_snapshot = recovered.snapshot.as_ref();
    let by_snapshot = by_snapshot.is_some_and(|meta| is_later(meta.term));
    let commit = committed(recovered);
    let by_entry = recovered.entries.iter().any(|entry| {
        let is_membership = matches!(entry.payload, EntryPayload::Membership(_));
        is_membership && is_later(entry.term) && entry.index <= commit
    });
    by_snapshot || by_entry
}

/// The membership that the file means: its directories are those that the log
/// named last.
fn membership(
    peers: &[Survivor],
    identity: &DirectoryIdentity,
    recovered: &Recovered,
) -> Result<Membership, SurvivorsError> {
    let known = known_members(recovered);
    let mut membership = Membership::default();
    for peer in peers {
        let Some(member) = known.get(peer.id.as_str()) else {
            return Err(SurvivorsError::Unknown(peer.id.clone()));
        };
        check_advertised(&peer.address).map_err(|source| SurvivorsError::Address {
            id: peer.id.clone(),
            source,
        })?;
        let id = node_number(&peer.id);
        let member = Member {
            address: peer.address.clone(),
            non_voter: peer.non_voter,
            ..(*member).clone()
        };
        if membership.members.insert(id, member).is_some() {
            return Err(SurvivorsError::Twice(peer.id.clone()));
        }
        match peer.non_voter {
            true => membership.learners.insert(id),
            false => membership.voters.insert(id),
        };
    }
    if membership.voters.is_empty() {
        return Err(SurvivorsError::NoVoter);
    }
    let own = membership.members.get(&identity.id);
    match own.map(|member| member.incarnation == identity.incarnation) {
        Some(true) => Ok(membership),
        Some(false) => Err(SurvivorsError::FormerLife(identity.name.clone())),
        None => Err(SurvivorsError::NotThisNode(identity.name.clone())),
    }
}

/// Everybody the log names, as it named them last.
fn known_members(recovered: &Recovered) -> BTreeMap<&str, &Member> {
    let snapshot = recovered.snapshot.as_ref().map(|meta| &meta.membership);
    let entries = recovered
        .entries
        .iter()
        .filter_map(|entry| match &entry.payload {
            EntryPayload::Membership(membership) => Some(membership),
            _ => None,
        });
    let mut known = BTreeMap::new();
    for membership in snapshot.into_iter().chain(entries) {
        for member in membership.members.values() {
            known.insert(member.name.as_str(), member);
        }
    }
    known
}

fn forgetter(
    disk: Arc<dyn Disk>,
    folder: PathBuf,
) -> Arc<dyn Fn() -> Result<(), String> + Send + Sync> {
    Arc::new(move || {
        let removed = disk.remove(&folder.join(OWN_FILE));
        let removed = removed.and_then(|()| disk.sync_dir(&folder));
        tracing::info!("the log says who is left of the cluster");
        removed.map_err(|error| chain(&error))
    })
}

fn malformed(path: &Path, reason: String) -> SurvivorsError {
    SurvivorsError::Malformed {
        path: path.display().to_string(),
        reason,
    }
}

fn parse<T: for<'de> Deserialize<'de>>(bytes: &[u8], path: &Path) -> Result<T, SurvivorsError> {
    serde_json::from_slice(bytes).map_err(|error| malformed(path, error.to_string()))
}

fn read(disk: &dyn Disk, path: &Path) -> Result<Vec<u8>, SurvivorsError> {
    let file = disk.open(path)?;
    let length = file.length()?;
    if FILE_BYTES_MAX < length {
        let reason = format!("{length} bytes, at most {FILE_BYTES_MAX}");
        return Err(malformed(path, reason));
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
