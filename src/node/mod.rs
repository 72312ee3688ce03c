//! Drives the core: threads around it, files below it, callers above it.
//!
//! ```text
//! callers ──► queue ──► raft thread ──► WAL thread ──► disk
//! peers   ──►   ▲         │   │ ▲──────────┘ durable
//!               │         │   └────────► transport
//!               │         ▼
//!               └─ apply thread ──► board (pictures for readers)
//!                         └──► snapshotter ──► snapshot files
//! ```
//!
//! What it must never do: let anything but the WAL thread write the log, or
//! anything but the raft thread decide; block the raft thread on a disk or a
//! peer; answer a caller whose fate is unknown with "failed".
//!
//! `driver` is pure and shared with the simulator; everything else here is
//! threads and files.

pub mod driver;

mod options;

mod error;

mod identity;

mod directory;
mod witness_file;

mod failure;

mod event;

mod board;

mod changes;

mod clock;

mod peers;

mod ports;

mod standing;

mod belonging;

mod raft_thread;

mod wal_thread;

mod apply_thread;

mod snapshots;

mod snapshotter;

mod stream;

mod refusals;

mod network;

mod recovery;

mod survivors;

mod repair;

mod repair_thread;

mod space;

mod upkeep;

mod replacing;

mod mending;

mod threads;

mod handle;

mod lifecycle;

mod members;

mod restore;

mod backend;

#[cfg(feature = "sim")]
pub(crate) mod manual;

pub use directory::{DataDirectory, DirectoryError};
pub use error::NodeError;
pub use failure::{
    EXIT_IDENTITY_REFUSED, EXIT_STORAGE_FAILED, FailureHook, exit_on_failure, exit_on_refusal,
};
pub use handle::RaftNode;
pub use identity::{IdentityError, node_number};
pub use network::ForwardHandler;
pub use options::{NodeOptions, ScrubOptions, SnapshotThresholds, Timings};
pub use repair::RepairProgress;
pub use survivors::{Survivor, SurvivorsError};
pub use upkeep::{FINDINGS_MAX, Finding, ScrubStatus};
