//! A snapshot in either form, as one stream of entries.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};

use crate::disk::open_read_only;
use crate::snapshot::archive::{ArchiveError, ArchiveReader};
use crate::snapshot::{SnapshotError, SnapshotInfo, SnapshotReader};

/// A snapshot that is not what was written.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) enum Flaw {
    Archive(ArchiveError),
    Snapshot(SnapshotError),
}

/// A snapshot whose form is known.
pub(super) struct Source {
    path: PathBuf,
    bytes: u64,
    form: Form,
}

enum Form {
    /// Verified to the end.
    Archive(ArchiveReader),
    /// Header and footer were read.
    File(SnapshotInfo),
}

/// Keys and values in order.
pub(super) type Entries = Box<dyn Iterator<Item = anyhow::Result<(String, Vec<u8>)>>>;

impl Source {
    /// Opens a file of either form; an archive is read and verified.
    ///
    /// # Errors
    /// A [`Flaw`]; or it cannot be read.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let place = || format!("read {}", path.display());
        let mut file = File::open(path).with_context(place)?;
        let bytes = file.metadata().with_context(place)?.len();
        let mut magic = [0; 8];
        let count = file.read(&mut magic).with_context(place)?;
        let form = if magic[..count].starts_with(SNAPSHOT_MAGIC) {
            let reader = open_file(path)?;
            Form::File(reader.info().clone())
        } else {
            let input = BufReader::new(File::open(path).with_context(place)?);
            let reader = ArchiveReader::verify_unsealed(input).map_err(archive_error)?;
            Form::Archive(reader)
        };
        Ok(Self {
            path: path.to_path_buf(),
            bytes,
            form,
        })
    }

    /// Its entries; keys out of order are an error. At the end, all of the
    /// snapshot has been verified.
    ///
    /// # Errors
    /// A [`Flaw`]; or it cannot be read.
    pub fn entries(&self) -> anyhow::Result<Entries> {
        let place = || format!("read {}", self.path.display());
        match &self.form {
            Form::Archive(reader) => {
                let input = BufReader::new(File::open(&self.path).with_context(place)?);
                let mut last: Option<String> = None;
                let entries = reader.entries(input).map_err(archive_error)?;
                Ok(Box::new(entries.map(move |entry| {
                    let (key, value) = entry.map_err(archive_error)?;
                    if last.as_ref().is_some_and(|last| *last >= key) {
                        let reason = "storage entries are not in the order of their keys";
                        return Err(archive_error(ArchiveError::Content {
                            reason: reason.into(),
                        }));
                    }
                    last = Some(key.clone());
                    Ok((key, value))
                })))
            }
            Form::File(_) => {
                let records = open_file(&self.path)?;
                let entries = records.filter_map(|record| match record {
                    // What a restore has gathered is not the state yet.
                    Ok(record) if record.staged => None,
                    Ok(record) => {
                        let pair = record.pair;
                        Some(Ok((pair.key().to_owned(), pair.value().to_vec())))
                    }
                    Err(error) => Some(Err(snapshot_error(error))),
                });
                Ok(Box::new(entries))
            }
        }
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// As [`Self::entries`].
    pub fn read(&self, see: &mut dyn FnMut(&str, &[u8])) -> anyhow::Result<()> {
        for entry in self.entries()? {
            let (key, value) = entry?;
            see(&key, &value);
        }
        Ok(())
    }

    /// Name and position on one line.
    pub fn title(&self) -> String {
        let (index, term) = self.position();
        format!("{} (index {index}, term {term})", self.path.display())
    }

    /// What is known of it, a line each.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let (index, term) = self.position();
        let mut lines = vec![
            ("file", self.path.display().to_string()),
            ("kind", self.kind().to_owned()),
            ("bytes", self.bytes.to_string()),
            ("index", index.to_string()),
            ("term", term.to_string()),
        ];
        match &self.form {
            Form::Archive(reader) => {
                for server in &reader.meta().servers {
                    let role = if server.voter { "voter" } else { "non-voter" };
                    lines.push(("member", format!("{} {} {role}", server.id, server.address)));
                }
                lines.push(("sums", SUMS.to_owned()));
            }
            Form::File(info) => {
                lines.push(("cluster", hex::encode(info.cluster.0)));
                let membership = &info.meta.membership;
                for (id, member) in &membership.members {
                    let votes = membership.voters.contains(id);
                    let role = if votes { "voter" } else { "non-voter" };
                    lines.push((
                        "member",
                        format!("{} {} {role}", member.name, member.address),
                    ));
                }
                if info.state.staged_count > 0 {
                    let count = info.state.staged_count;
                    lines.push((
                        "restore",
                        format!("{count} entries gathered, not in effect"),
                    ));
                }
                lines.push(("sha256", hex::encode(info.sha256)));
            }
        }
        lines
    }

    /// The same for programs.
    pub fn describe(&self) -> Value {
        let (index, term) = self.position();
        let mut all = json!({
            "file": self.path.display().to_string(),
            "kind": self.kind(),
            "bytes": self.bytes,
            "index": index,
            "term": term,
        });
        match &self.form {
            Form::Archive(reader) => {
                let members = reader.meta().servers.iter().map(|server| {
                    json!({"id": server.id, "address": server.address, "voter": server.voter})
                });
                all["members"] = members.collect::<Vec<Value>>().into();
            }
            Form::File(info) => {
                all["cluster_id"] = hex::encode(info.cluster.0).into();
                all["sha256"] = hex::encode(info.sha256).into();
                all["staged_entries"] = info.state.staged_count.into();
            }
        }
        all
    }

    fn kind(&self) -> &'static str {
        match &self.form {
            Form::Archive(_) => "snapshot archive",
            Form::File(_) => "snapshot file of a data directory",
        }
    }

    fn position(&self) -> (u64, u64) {
        match &self.form {
            Form::Archive(reader) => (reader.meta().index, reader.meta().term),
            Form::File(info) => (info.meta.index.0, info.meta.term.0),
        }
    }
}

fn open_file(path: &Path) -> anyhow::Result<SnapshotReader> {
    SnapshotReader::open(open_read_only(path)?, path).map_err(snapshot_error)
}

fn archive_error(error: ArchiveError) -> anyhow::Error {
    match error {
        ArchiveError::Compression { .. } | ArchiveError::Content { .. } => {
            Flaw::Archive(error).into()
        }
        _ => error.into(),
    }
}

fn snapshot_error(error: SnapshotError) -> anyhow::Error {
    if error.is_about_content() {
        Flaw::Snapshot(error).into()
    } else {
        error.into()
    }
}

const SNAPSHOT_MAGIC: &[u8] = b"HFSNAP01";
/// What cannot be known here.
const SUMS: &str = "sound; who sealed them only the unseal keys can tell";
