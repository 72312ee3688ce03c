//! Reading snapshot files again, a piece at a time.

use std::path::PathBuf;

use super::{SnapshotDirectory, SnapshotError, SnapshotInfo, SnapshotReader};

/// Walks the snapshots of a folder, each to its end, then again.
pub struct SnapshotScrub {
    directory: SnapshotDirectory,
    open: Option<(SnapshotInfo, SnapshotReader)>,
    /// Looked at in this round.
    done: Vec<PathBuf>,
}

/// What one step found.
#[derive(Debug)]
pub enum SnapshotScrubbed {
    /// All is as it was written, up to here.
    Sound,
    /// This file is not what was written. The file is left where it is.
    Flaw(Box<SnapshotInfo>, SnapshotError),
    /// All were read; the next step begins a new round.
    End,
}

impl SnapshotScrub {
    /// Begins before the first file.
    #[must_use]
    pub fn new(directory: SnapshotDirectory) -> Self {
        Self {
            directory,
            open: None,
            done: Vec::new(),
        }
    }

    /// Reads about `bytes` bytes more from the disk; also how many it were.
    /// Blocks.
    ///
    /// # Errors
    /// The disk's, on opening a file.
    pub fn step(&mut self, bytes: u64) -> Result<(SnapshotScrubbed, u64), SnapshotError> {
        let mut read = 0;
        while read < bytes {
            let Some((info, reader)) = &mut self.open else {
                let all = self.directory.all();
                let Some(info) = all.into_iter().find(|it| !self.done.contains(&it.path)) else {
                    self.done.clear();
                    return Ok((SnapshotScrubbed::End, read));
                };
                self.done.push(info.path.clone());
                match self.directory.uncached_reader(&info) {
                    Ok(reader) => self.open = Some((info, reader)),
                    // Pruned since, by the snapshot after it.
                    Err(_) if !self.directory.all().contains(&info) => {}
                    Err(error) if error.is_about_content() => {
                        return Ok((SnapshotScrubbed::Flaw(Box::new(info), error), read));
                    }
                    Err(error) => return Err(error),
                }
                continue;
            };
            match reader.next() {
                Some(Ok(record)) => read += record.pair.content().len() as u64,
                Some(Err(error)) => {
                    let info = info.clone();
                    self.open = None;
                    if !error.is_about_content() {
                        return Err(error);
                    }
                    return Ok((SnapshotScrubbed::Flaw(Box::new(info), error), read));
                }
                None => self.open = None,
            }
        }
        Ok((SnapshotScrubbed::Sound, read))
    }
}
