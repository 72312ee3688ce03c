//! Newtypes for positions and identities: two bare `u64` never meet in a
//! signature.

use std::fmt;

use bincode::{Decode, Encode};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        #[cfg_attr(feature = "sim", derive(serde::Serialize))]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, self.0)
            }
        }
    };
}

number!(
    /// Raft epoch. 0 means "before any election".
    Term,
    "t"
);
number!(
    /// Position in the Raft log, from 1; 0 means "before the first entry".
    LogIndex,
    "i"
);
number!(
    /// Order of durability requests of one node, from 1 within one process.
    Sequence,
    "s"
);
number!(
    /// Monotonic time of one process in milliseconds; the origin is arbitrary.
    Millis,
    "ms"
);
number!(
    /// A count of bytes.
    ByteCount,
    "b"
);

impl LogIndex {
    /// The position after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The position before this one; saturates at 0.
    #[must_use]
    pub fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl Term {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A member of the cluster: the first eight bytes (little-endian) of the
/// SHA-256 of its configured `node_id` string. Two names with one number are
/// refused at join (`Membership::members` holds the names).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{:x}", self.0)
    }
}

/// One life of a data directory: random, drawn when the directory is created,
/// so that an acknowledgement from a wiped or cloned directory cannot pass for
/// one of its former self.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub struct Incarnation(pub u64);

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "inc-{:016x}", self.0)
    }
}

/// Random identity of a cluster, drawn at `sys/init`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cluster-")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
