//! What the node's threads name of the transport, with the fields they use.

use std::sync::{Arc, PoisonError};

use crate::sync::Mutex;
use crate::types::{LogIndex, Membership, Term};

/// See the production type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurableEnd {
    /// The durable term.
    pub term: Term,
    /// The last durable position.
    pub index: LogIndex,
}

/// See the production type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembershipProof {
    /// Its log position.
    pub index: LogIndex,
    /// The membership.
    pub membership: Arc<Membership>,
}

/// See the production type: one mutex there too.
#[derive(Default)]
pub struct OwnDurableEnd(Mutex<DurableEnd>);

impl OwnDurableEnd {
    /// Sets it.
    pub fn set(&self, end: DurableEnd) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = end;
    }

    /// As last set.
    pub fn now(&self) -> DurableEnd {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[path = "../../../src/peer/address.rs"]
mod address;

pub use address::check_beside;
