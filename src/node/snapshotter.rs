//! The thread that writes pictures of the store as snapshot files. One at a
//! time, never in the way of applying; a failure is reported and the log kept.

use std::sync::Arc;

use crate::store::View;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::queue::{Receiver, Sender};

use super::apply_thread::ApplyCommand;
use super::event::{Event, EventSender};
use super::snapshots::Snapshots;

/// Everything the thread owns. It ends when the apply thread does.
pub(super) struct Snapshotter {
    pub views: Receiver<View>,
    pub snapshots: Arc<Snapshots>,
    pub events: EventSender,
    pub apply: Sender<ApplyCommand>,
    /// Set when the node is sealed: a snapshot half written is given up.
    pub stopping: Arc<AtomicBool>,
}

impl Snapshotter {
    pub fn run(self) {
        while let Some(view) = self.views.recv() {
            if self.stopping.load(Ordering::Relaxed) {
                break;
            }
            self.write(view);
        }
    }

    /// Writes one picture and says how that ended.
    pub fn write(&self, view: View) {
        let meta = view.meta();
        match self.snapshots.write(view, &self.stopping) {
            Ok(()) => {
                tracing::info!(index = meta.index.0, term = meta.term.0, "snapshot written");
                self.events.send(Event::SnapshotTaken(meta));
            }
            // Disk full, for example: the log still holds everything, and
            // another try follows after as many entries.
            Err(reason) => {
                tracing::warn!(index = meta.index.0, reason, "snapshot given up");
            }
        }
        let _ = self.apply.send(ApplyCommand::SnapshotEnded);
    }
}
