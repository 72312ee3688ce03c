//! Node to node: framed messages over mutual TLS on the cluster port.
//!
//! One listener serves three services, told apart by ALPN: consensus messages,
//! snapshot streams, and connections over which requests are forwarded. Every
//! connection begins with a greeting in which both sides say which node, in
//! which life of its data directory, they are; whoever does not belong is told
//! why. A node calls every peer it knows and keeps calling; each direction has
//! a connection of its own.
//!
//! The transport may lose, repeat and reorder messages, as the consensus core
//! expects. It never blocks the core, never buffers without bound, and never
//! reads a byte of somebody who does not hold a key of the cluster's keyring.
//!
//! Absent here: what messages mean, where snapshots lie, HTTP.

mod address;
mod backoff;
mod certificate;
mod dial;
pub mod frame;
pub mod hello;
mod incoming;
mod lines;
mod outgoing;
mod queue;
mod shared;
pub mod snapshot;
mod snapshot_receive;
mod snapshot_send;
pub mod tls;
mod transport;
mod witness;

pub use address::{AddressError, check_advertised, check_beside};
pub use dial::{DialError, PeerStream, Refuser};
pub use hello::{DurableEnd, Goodbye, GreetingError, Hello, MembershipProof, Run};
pub use snapshot::{
    SinkError, SnapshotId, SnapshotOffer, SnapshotSink, SnapshotSource, SourceError,
};
pub use snapshot_send::SnapshotSendError;
pub use tls::{PeerTls, Service, TlsError, generate_keyring};
pub use transport::{
    Handler, OwnDurableEnd, PeerState, SnapshotProgress, Timing, Transport, TransportError,
    TransportOptions,
};
pub use witness::{Seen, Witness};

#[cfg(test)]
mod tests;
