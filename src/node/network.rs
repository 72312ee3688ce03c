//! The other members, as the raft thread sees them.

use std::sync::Arc;

use crate::raft::message::Message;
use crate::types::{Membership, NodeId};

/// Sends to peers; never blocks.
pub(super) trait Peers: Send + Sync {
    /// Sends, or drops.
    fn send(&self, to: NodeId, message: Message);
    /// Streams the newest snapshot; reports the end as an event.
    fn stream_snapshot(&self, to: NodeId);
    /// Another membership is active.
    fn set_members(&self, membership: Arc<Membership>);
    /// What a peer said of its API, if it has said hello.
    fn api_address(&self, id: NodeId) -> Option<String>;
    /// Where a peer said it listens, if it has said hello.
    fn cluster_address(&self, id: NodeId) -> Option<String>;
}

/// A node alone, as `sys/init` runs it.
pub(super) struct Alone {
    /// This node.
    pub id: NodeId,
    /// Its API address.
    pub api_address: String,
}

impl Peers for Alone {
    fn send(&self, _to: NodeId, _message: Message) {}

    fn stream_snapshot(&self, _to: NodeId) {}

    fn set_members(&self, _membership: Arc<Membership>) {}

    fn api_address(&self, id: NodeId) -> Option<String> {
        (id == self.id).then(|| self.api_address.clone())
    }

    fn cluster_address(&self, _id: NodeId) -> Option<String> {
        None
    }
}
