//! What was seen of the peers, kept across restarts: `peers.json`.
//!
//! ```text
//! {"version":1,"peers":[{"node":"…","incarnation":"…","starts":7,"run":"…",
//!                        "term":3,"index":1204}]}
//! ```
//! Numbers that identify are 16 hex digits. A new run is written at once,
//! acknowledged positions every few seconds: what they guard against is a
//! directory restored from a backup, which is older than that. Losing the file
//! weakens the guard and harms nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::disk::{Disk, DiskError};
use crate::peer::{DurableEnd, Run, Seen, Witness};
use crate::types::{Incarnation, LogIndex, NodeId, Term};

use super::identity::replace_file;
use super::wal_thread::chain;

/// The file and what it was read into.
pub(super) struct WitnessFile {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    witness: Arc<Witness>,
    /// The changes that the file covers. Held while it is written.
    written: Mutex<(u64, u64)>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    peers: Vec<StoredPeer>,
}

#[derive(Serialize, Deserialize)]
struct StoredPeer {
    node: String,
    incarnation: String,
    starts: u64,
    run: String,
    term: u64,
    index: u64,
}

const VERSION: u32 = 1;
const FILE_NAME: &str = "peers.json";
/// More than this is no `peers.json` of ours.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Between two looks at what changed.
const LOOK: Duration = Duration::from_millis(200);
/// How old written positions may become.
const POSITIONS_INTERVAL: Duration = Duration::from_secs(5);

impl WitnessFile {
    /// Reads what was kept. A file that cannot be read counts as none.
    pub fn open(disk: Arc<dyn Disk>, directory: &Path) -> Self {
        let seen = read(disk.as_ref(), &directory.join(FILE_NAME)).unwrap_or_else(|reason| {
            tracing::warn!(
                reason,
                file = FILE_NAME,
                "what was seen of the peers is lost"
            );
            BTreeMap::new()
        });
        Self {
            disk,
            directory: directory.to_owned(),
            witness: Arc::new(Witness::new(seen)),
            written: Mutex::new((0, 0)),
        }
    }

    /// What is remembered of the peers.
    pub fn witness(&self) -> &Arc<Witness> {
        &self.witness
    }

    /// Writes what changed, if anything did. Blocks.
    pub fn write(&self) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        // Counted before the copy: what changes in between is written again.
        let changes = self.witness.changes();
        if *written == changes {
            return;
        }
        let bytes = encode(&self.witness.seen());
        match replace_file(self.disk.as_ref(), &self.directory, FILE_NAME, &bytes) {
            Ok(()) => *written = changes,
            Err(error) => tracing::warn!(error = %chain(&error), "peers.json not written"),
        }
    }

    /// Keeps the file current until dropped.
    pub async fn keep(self: Arc<Self>) {
        let (mut runs, _) = self.witness.changes();
        let mut last = Instant::now();
        loop {
            sleep(LOOK).await;
            let (now, _) = self.witness.changes();
            if now == runs && last.elapsed() < POSITIONS_INTERVAL {
                continue;
            }
            (runs, last) = (now, Instant::now());
            let this = Arc::clone(&self);
            if tokio::task::spawn_blocking(move || this.write())
                .await
                .is_err()
            {
                return;
            }
        }
    }
}

fn encode(seen: &BTreeMap<NodeId, Seen>) -> Vec<u8> {
    let hex = |number: u64| format!("{number:016x}");
    let peers = seen.iter().map(|(id, seen)| StoredPeer {
        node: hex(id.0),
        incarnation: hex(seen.incarnation.0),
        starts: seen.run.number,
        run: hex(seen.run.id),
        term: seen.acknowledged.term.0,
        index: seen.acknowledged.index.0,
    });
    let stored = Stored {
        version: VERSION,
        peers: peers.collect(),
    };
    serde_json::to_vec(&stored).expect("strings and numbers serialise")
}

fn read(disk: &dyn Disk, path: &Path) -> Result<BTreeMap<NodeId, Seen>, String> {
    let failed = |error: DiskError| chain(&error);
    if !disk.exists(path).map_err(failed)? {
        return Ok(BTreeMap::new());
    }
    let file = disk.open(path).map_err(failed)?;
    let length = file.length().map_err(failed)?;
    if FILE_BYTES_MAX < length {
        return Err(format!("{length} bytes, at most {FILE_BYTES_MAX}"));
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_at(0, &mut bytes).map_err(failed)?;
    let stored: Stored = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    if stored.version != VERSION {
        return Err(format!("version {}", stored.version));
    }
    stored.peers.iter().map(decode).collect()
}

fn decode(stored: &StoredPeer) -> Result<(NodeId, Seen), String> {
    let number = |text: &str| u64::from_str_radix(text, 16).map_err(|error| error.to_string());
    let seen = Seen {
        incarnation: Incarnation(number(&stored.incarnation)?),
        run: Run {
            number: stored.starts,
            id: number(&stored.run)?,
        },
        acknowledged: DurableEnd {
            term: Term(stored.term),
            index: LogIndex(stored.index),
        },
    };
    Ok((NodeId(number(&stored.node)?), seen))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    #[test]
    fn what_was_seen_survives_and_damage_counts_as_nothing() {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
        let directory = Path::new("/data");
        disk.create_dir_all(directory).unwrap();
        let seen = Seen {
            incarnation: Incarnation(u64::MAX),
            run: Run { number: 3, id: 9 },
            acknowledged: DurableEnd {
                term: Term(4),
                index: LogIndex(77),
            },
        };
        let seen = BTreeMap::from([(NodeId(u64::MAX - 1), seen)]);
        let bytes = encode(&seen);
        replace_file(disk.as_ref(), directory, FILE_NAME, &bytes).unwrap();
        let file = WitnessFile::open(Arc::clone(&disk), directory);
        assert_eq!(file.witness().seen(), seen);
        for damage in [&bytes[..bytes.len() / 2], b"{\"version\":9,\"peers\":[]}"] {
            replace_file(disk.as_ref(), directory, FILE_NAME, damage).unwrap();
            let file = WitnessFile::open(Arc::clone(&disk), directory);
            assert!(file.witness().seen().is_empty());
        }
    }
}
