//! The consensus core with everything that tests it cheaply, in one test
//! binary: its unit tests and properties, the transcripts, the random walks.
//!
//! The tree below mirrors `src`, and takes the tests of `tests/raft` in beside
//! it, so that the sources find what they name.

// Only a part of a tree that is whole elsewhere.
#![allow(dead_code)]

extern crate self as holdfast;

#[path = "../../../src/types/mod.rs"]
pub mod types;

#[path = "../../../src/codec/mod.rs"]
pub mod codec;

#[path = "../../../src/raft/mod.rs"]
pub mod raft;

pub mod sim;

#[cfg(test)]
#[path = "../../raft/cluster.rs"]
mod cluster;
#[cfg(test)]
#[path = "../../raft/disk.rs"]
mod disk;
#[cfg(test)]
#[path = "../../raft/leases.rs"]
mod leases;
#[cfg(test)]
#[path = "../../raft/nonsense.rs"]
mod nonsense;
#[cfg(test)]
#[path = "../../raft/random.rs"]
mod random;
#[cfg(test)]
#[path = "../../raft/script.rs"]
mod script;
#[cfg(test)]
#[path = "../../raft/transcripts.rs"]
mod transcripts;
#[cfg(test)]
#[path = "../../raft/watch.rs"]
mod watch;

/// Which mutant is awake; 0: none. Asked only in the copy of the sources that
/// `mutants` makes.
pub fn awake() -> usize {
    static AWAKE: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    let told = || std::env::var("MUTANT").ok()?.parse().ok();
    *AWAKE.get_or_init(|| told().unwrap_or(0))
}
