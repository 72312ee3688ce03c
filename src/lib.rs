//! Holdfast: a highly available secrets store. Modules in reading order.

pub mod types;

pub mod sync;

pub mod codec;

pub mod raft;

pub mod disk;

pub mod wal;

pub mod snapshot;

pub mod store;

pub mod membership;

pub mod discovery;

pub mod peer;

pub mod node;

pub mod seal;

pub mod barrier;

pub mod physical;

pub mod vault;

pub mod http;

pub mod config;

pub mod cli;

#[cfg(feature = "sim")]
pub mod sim;
