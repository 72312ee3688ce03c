//! The other members, as the raft thread sees them.

use std::sync::Arc;

use crate::raft::message::Message;
use crate::types::{Incarnation, LogIndex, Membership, NodeId, RepairMessage};

/// Sends to peers; never blocks.
pub(super) trait Peers: Send + Sync {
    /// Sends, or drops.
    fn send(&self, to: NodeId, message: Message);
    /// The same, of lost entries.
    fn send_repair(&self, to: NodeId, message: RepairMessage);
    /// Streams the newest snapshot, if it covers at least this; reports the
    /// end as an event.
    fn stream_snapshot(&self, to: NodeId, least: LogIndex);
    /// Another membership is active.
    fn set_members(&self, index: LogIndex, membership: &Membership);
    /// Another membership is known to be committed.
    fn set_committed(&self, index: LogIndex, membership: &Arc<Membership>);
    /// What a node said of its API, if it has said hello.
    fn api_address(&self, id: NodeId) -> Option<String>;
    /// Where a node said it listens, if it has said hello in this life of its
    /// directory.
    fn cluster_address(&self, id: NodeId, life: Incarnation) -> Option<String>;
}
