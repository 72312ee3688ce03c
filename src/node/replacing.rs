//! Setting aside snapshots that scrubbing found decayed, and having others
//! taken of the state in memory.

use std::sync::Arc;

use crate::snapshot::{SnapshotDirectory, SnapshotError, SnapshotInfo};

use super::event::{Event, EventSender};
use super::upkeep::{Finding, ScrubBoard};
use super::wal_thread::chain;

/// Replaces one snapshot after the other.
pub(super) struct Replacing {
    files: SnapshotDirectory,
    scrub: Arc<ScrubBoard>,
    events: EventSender,
    /// The last file, which is bad, and how many had been published when the
    /// next was asked for.
    awaited: Option<(SnapshotInfo, u64)>,
}

impl Replacing {
    pub fn new(files: SnapshotDirectory, scrub: Arc<ScrubBoard>, events: EventSender) -> Self {
        Self {
            files,
            scrub,
            events,
            awaited: None,
        }
    }

    /// A file was found bad. It is read again, by its name: the flaw may have
    /// been of the reading, or of a file that has gone since. What it held is in
    /// memory, or older than that, so another is asked for. It is set aside at
    /// once unless it is the last one: should the power fail before there is
    /// another, a node alone has what can be read of it, and nothing else.
    pub fn replace(&mut self, info: &SnapshotInfo) {
        let Some(error) = self.flaw(info) else { return };
        self.scrub.add(Finding::Snapshot {
            path: info.path.clone(),
            index: info.meta.index,
            term: info.meta.term,
            reason: chain(&error),
        });
        let published_count = self.files.published_count();
        if self.is_last(info) {
            self.awaited = Some((info.clone(), published_count));
        } else {
            // Until there is another one the log serves, from the one before on.
            self.set_aside(info, &error);
        }
        self.events.send(Event::TakeSnapshot);
    }

    /// Sets the last file aside once there is another; that may have taken its
    /// name.
    pub fn look(&mut self) {
        let Some((info, published_count)) = self.awaited.take() else {
            return;
        };
        if self.files.published_count() == published_count {
            self.awaited = Some((info, published_count));
            return;
        }
        match self.flaw(&info) {
            Some(error) if !self.is_last(&info) => self.set_aside(&info, &error),
            // The next round asks again.
            Some(_) => {}
            None => self.scrub.add_repaired(),
        }
    }

    /// What is wrong with a file that is still there.
    fn flaw(&self, info: &SnapshotInfo) -> Option<SnapshotError> {
        match self.files.verify(info) {
            Ok(()) => None,
            Err(_) if self.files.all().iter().all(|it| it.path != info.path) => None,
            Err(error) if error.is_about_content() => Some(error),
            Err(error) => {
                tracing::warn!(error = chain(&error), "a snapshot was not read again");
                None
            }
        }
    }

    fn is_last(&self, info: &SnapshotInfo) -> bool {
        self.files.all().iter().all(|it| it.path == info.path)
    }

    fn set_aside(&self, info: &SnapshotInfo, error: &SnapshotError) {
        match self.files.set_aside(info, error) {
            Ok(()) => self.scrub.add_repaired(),
            // Pruned since; or the next round tries again.
            Err(error) => tracing::warn!(error = chain(&error), "the snapshot stays"),
        }
    }
}

#[cfg(test)]
mod tests;
