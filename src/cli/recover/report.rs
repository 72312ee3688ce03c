//! What one survivor's directory says: everything a plan needs, nothing that
//! is secret.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use serde::{Deserialize, Serialize};

use crate::codec::decode_payload;
use crate::node::DataDirectory;
use crate::types::{EntryPayload, LogIndex, Membership, SnapshotMeta, Term};
use crate::wal::{Identity, Outcome, Seen, owner, survey};

/// More than this is no report.
const FILE_BYTES_MAX: u64 = 1 << 20;
const VERSION: u32 = 1;

/// One survivor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Report {
    version: u32,
    /// Its configured name.
    pub node_id: String,
    /// The life of its directory, 16 hex digits.
    pub incarnation: String,
    /// Its cluster, 32 hex digits.
    pub cluster_id: String,
    /// Its term.
    pub term: u64,
    /// End of its log.
    pub last_index: u64,
    /// Term of the last entry.
    pub last_term: u64,
    /// What it knows to be committed (it may be more).
    pub commit_index: u64,
    /// Where the newest membership it knows stands.
    pub membership_index: u64,
    /// That membership.
    pub members: Vec<Known>,
}

/// A member, as a log knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    /// Its configured name.
    pub node_id: String,
    /// Its cluster address.
    pub address: String,
    /// The life of its directory, 16 hex digits.
    pub incarnation: String,
    /// It votes, in the incoming half of a joint membership.
    pub voter: bool,
    /// It votes in the half that is being left.
    pub leaving: bool,
}

impl Report {
    /// Of a stopped server on this machine.
    pub(super) fn of_directory(path: &Path) -> anyhow::Result<Self> {
        let directory = DataDirectory::lock(path)?;
        if let Some(index) = directory.removed_at() {
            bail!(
                "this node was removed from its cluster at log position {index}: it is no \
                 survivor"
            );
        }
        let Some((node, incarnation)) = directory.owner() else {
            bail!("node.json is missing: whose directory is this?");
        };
        let (disk, wal) = (&**directory.disk(), directory.wal());
        let expected = owner(disk, &wal)
            .context("read log")?
            .map(|found| Identity {
                node,
                incarnation,
                ..found
            });
        let newest = directory.newest_snapshot().context("read snapshots")?;
        let mut log = Log::default();
        let found = survey(disk, &wal, expected, &mut |seen| log.see(seen)).context("read log")?;
        match &found.outcome {
            Outcome::Clean | Outcome::TornTail { .. } => {}
            outcome => bail!(
                "the log is {outcome}: see holdfast wal verify. Leave this one out; or, if the \
                 others may lack what it holds, add it to their raft/peers.json by hand: it is \
                 then repaired from the servers named there"
            ),
        }
        if let Some(flaw) = log.flaw {
            return Err(flaw);
        }
        let mut commit = found.hard_state.commit_index;
        if let Some(meta) = newest {
            commit = commit.max(meta.index);
            log.cover(&meta);
        }
        let Some(identity) = found.identity else {
            bail!("the log names no owner");
        };
        let Some((membership_index, membership)) = log.memberships.pop() else {
            bail!("the log names no members: this node never finished joining");
        };
        Ok(Self {
            version: VERSION,
            node_id: directory.node_name().unwrap_or_default().to_owned(),
            incarnation: format!("{:016x}", incarnation.0),
            cluster_id: hex(&identity.cluster.0),
            term: found.hard_state.term.0,
            last_index: log.end.0.0,
            last_term: log.end.1.0,
            commit_index: commit.0,
            membership_index: membership_index.0,
            members: known(&membership),
        })
    }

    /// Printed on another machine.
    pub(super) fn of_file(path: &Path) -> anyhow::Result<Self> {
        let length = std::fs::metadata(path)?.len();
        if FILE_BYTES_MAX < length {
            bail!("{length} bytes, a report has at most {FILE_BYTES_MAX}");
        }
        let report: Self = serde_json::from_slice(&std::fs::read(path)?)
            .context("neither a data directory nor a report of one")?;
        if report.version != VERSION {
            bail!("version {}, this program knows {VERSION}", report.version);
        }
        Ok(report)
    }

    /// Where the log ends, as elections compare it.
    pub(super) fn end(&self) -> (u64, u64) {
        (self.last_term, self.last_index)
    }
}

/// What a survey shows of a log, batch after batch.
#[derive(Default)]
struct Log {
    end: (LogIndex, Term),
    memberships: Vec<(LogIndex, Arc<Membership>)>,
    flaw: Option<anyhow::Error>,
}

impl Log {
    fn see(&mut self, seen: &Seen<'_>) {
        match seen {
            Seen::Batch { header, .. } => {
                self.end = match header.first_index <= header.last_index {
                    true => (header.last_index, header.term),
                    false => (header.prev_index, header.prev_term),
                };
                let end = self.end.0;
                self.memberships.retain(|(index, _)| *index <= end);
            }
            Seen::Entry { header, payload } => {
                self.memberships.retain(|(index, _)| *index < header.index);
                match decode_payload(header.kind, payload) {
                    Ok(EntryPayload::Membership(membership)) => {
                        self.memberships.push((header.index, membership));
                    }
                    Ok(_) => {}
                    Err(error) => self.flaw = Some(anyhow!("entry {}: {error}", header.index)),
                }
            }
            _ => {}
        }
    }

    /// A snapshot reaches at least so far.
    fn cover(&mut self, meta: &SnapshotMeta) {
        self.end = self.end.max((meta.index, meta.term));
        let newest = self.memberships.last().map(|(index, _)| *index);
        if newest < Some(meta.membership_index) {
            let membership = Arc::clone(&meta.membership);
            self.memberships.push((meta.membership_index, membership));
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn known(membership: &Membership) -> Vec<Known> {
    let member = |(id, member): (&crate::types::NodeId, &crate::types::Member)| Known {
        node_id: member.name.clone(),
        address: member.address.clone(),
        incarnation: format!("{:016x}", member.incarnation.0),
        voter: membership.voters.contains(id),
        leaving: membership.voters_outgoing.contains(id),
    };
    let mut known: Vec<Known> = membership.members.iter().map(member).collect();
    known.sort_by(|one, other| one.node_id.cmp(&other.node_id));
    known
}

#[cfg(test)]
impl Report {
    /// A survivor of a cluster of these voters.
    pub(super) fn made_up(name: &str, end: (u64, u64), commit: u64, voters: &[&str]) -> Self {
        let known = |name: &&str| Known {
            node_id: (*name).to_owned(),
            address: format!("{name}:8201"),
            incarnation: format!("life of {name}"),
            voter: true,
            leaving: false,
        };
        Self {
            version: VERSION,
            node_id: name.to_owned(),
            incarnation: format!("life of {name}"),
            cluster_id: "c".to_owned(),
            term: end.0,
            last_index: end.1,
            last_term: end.0,
            commit_index: commit,
            membership_index: 1,
            members: voters.iter().map(known).collect(),
        }
    }
}
