//! A repair whose thread is given its turns by hand.

use std::sync::Arc;

use crate::node::NodeError;
use crate::node::board::Board;
use crate::node::event::EventSender;
use crate::node::failure::Failure;
use crate::node::identity::DirectoryIdentity;
use crate::node::network::{ForwardSlot, Greetings, PeerHandler};
use crate::node::peers::Peers;
use crate::node::refusals::Refusals;
use crate::node::repair::RepairProgress;
use crate::node::repair_thread::{RepairThread, examine, is_damage};
use crate::node::snapshots::Snapshots;
use crate::node::stream::{Incoming, Outgoing};
use crate::peer::{Goodbye, Handler, Refuser, SnapshotOffer, SnapshotSink, SnapshotSource};
use crate::snapshot::SnapshotDirectory;
use crate::store::Store;
use crate::types::{LogIndex, NodeId, RepairMessage, SnapshotMeta};

use super::{Happening, ManualOptions, Recorder, nobody, own_directory, wal_path};

/// See the module.
pub(crate) struct ManualRepair {
    thread: RepairThread,
    handler: PeerHandler,
    snapshots: Arc<Snapshots>,
    happenings: Recorder,
    failure: Arc<Failure>,
}

impl ManualRepair {
    /// Whether a node that does not open for this reason may be repaired.
    pub fn is_for(error: &NodeError) -> bool {
        is_damage(error)
    }

    /// Looks at a damaged data directory as `RaftNode` does.
    ///
    /// # Errors
    /// Damage beyond repair, or the disk.
    pub fn open(options: &ManualOptions) -> Result<Self, NodeError> {
        let disk = &options.disk;
        let directory = &options.directory;
        let identity = DirectoryIdentity::open_or_create(disk.as_ref(), directory, &options.name)?;
        let snapshots = SnapshotDirectory::open(Arc::clone(disk), &directory.join("snapshots"))
            .map_err(NodeError::Snapshots)?;
        let snapshots = Arc::new(Snapshots::new(snapshots));
        let path = wal_path(directory);
        let mut store = Store::new();
        let patient = examine(disk, &path, &identity, &options.wal, &snapshots, &mut store)?;
        let (events, queue) = EventSender::new();
        let happenings = Recorder::default();
        let failure = Arc::new(Failure::new(Arc::new(|_| {}), Arc::new(|_| {})));
        let (index, membership) = &patient.membership;
        happenings.set_members(*index, membership);
        let durable = Arc::clone(&own_directory(options, &identity).durable);
        let handler = PeerHandler {
            events: events.clone(),
            snapshots: Arc::clone(&snapshots),
            board: Arc::new(Board::new(store.view())),
            greetings: Greetings::new(&nobody()),
            forward: ForwardSlot::default(),
            incoming: Incoming::default(),
            refusals: Refusals::new(identity, durable, Arc::clone(&failure), events),
        };
        let thread = RepairThread {
            repair: patient.repair,
            events: queue,
            peers: Arc::new(happenings.clone()),
            snapshots: Arc::clone(&snapshots),
            board: Arc::default(),
            disk: Arc::clone(disk),
            directory: path,
            options: options.wal,
        };
        Ok(Self {
            thread,
            handler,
            snapshots,
            happenings,
            failure,
        })
    }

    /// What the turns did outside since the last call.
    pub fn take_happenings(&self) -> Vec<Happening> {
        std::mem::take(&mut *self.happenings.list())
    }

    /// Everybody is asked again.
    ///
    /// # Errors
    /// The disk failed.
    pub fn round(&mut self) -> Result<(), String> {
        self.thread.round()
    }

    /// Handles what is queued.
    ///
    /// # Errors
    /// This node was removed from its cluster.
    pub fn turn(&mut self) -> Result<(), String> {
        while let Ok(event) = self.thread.events.try_recv() {
            self.thread.handle(event)?;
        }
        Ok(())
    }

    /// Whether nothing is missing.
    pub fn is_whole(&self) -> bool {
        self.thread.repair.is_whole()
    }

    /// How far it has come.
    pub fn progress(&self) -> RepairProgress {
        self.thread.repair.progress()
    }

    /// Writes the log anew.
    ///
    /// # Errors
    /// The disk failed.
    pub fn finish(&self) -> Result<(), String> {
        self.thread.finish()
    }

    /// A peer speaks of lost entries.
    pub fn deliver(&self, from: NodeId, message: RepairMessage) {
        self.handler.repair(from, message);
    }

    /// A peer refuses to speak with this node.
    pub fn refused(&self, peer: NodeId, goodbye: &Goodbye) {
        self.handler.refused(peer, goodbye, Refuser::Peer);
    }

    /// Why the process must end, if it must.
    pub fn failure(&self) -> Option<String> {
        self.failure.error().map(|error| error.to_string())
    }

    /// The newest snapshot, for a peer that needs at least this much.
    pub fn newest_snapshot(&self, least: LogIndex) -> Option<Arc<dyn SnapshotSource>> {
        let info = self.snapshots.newest_covering(least)?;
        let directory = self.snapshots.directory().clone();
        Some(Arc::new(Outgoing::new(directory, info)))
    }

    /// As of a node.
    pub fn doubt_snapshot(&self, meta: &SnapshotMeta) -> bool {
        self.snapshots.set_aside_if_damaged(meta).unwrap_or(false)
    }

    /// A peer offers a snapshot.
    ///
    /// # Errors
    /// It is of no use here, or the disk failed.
    pub fn accept_snapshot(
        &self,
        from: NodeId,
        offer: &SnapshotOffer,
    ) -> Result<Box<dyn SnapshotSink>, String> {
        let sink = self.handler.snapshot(from, offer);
        sink.map_err(|error| error.0)
    }
}
