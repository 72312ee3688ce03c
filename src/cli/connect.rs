//! A joint between modules that do not know each other: the raft node dials for
//! http.

use std::sync::Arc;

use crate::http::forward::{Dial, Stream};
use crate::node::RaftNode;
use crate::physical::{Backend, BoxFuture};

/// Dials the leader over the cluster port.
pub struct NodeDial(pub Arc<RaftNode>);

impl Dial for NodeDial {
    fn active(&self) -> Option<String> {
        let leadership = self.0.leadership();
        let leadership = leadership.borrow();
        if leadership.is_leader {
            return None;
        }
        let leader = leadership.leader.as_ref()?;
        // A leader that comes back in another term is another one: what ran
        // over the old connection may have been lost.
        Some(format!("{} of term {}", leader.node_id, leadership.term))
    }

    fn dial(&self) -> BoxFuture<'_, std::io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let (stream, _) = self.0.dial_forward().await.map_err(std::io::Error::other)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}
