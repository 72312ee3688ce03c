//! Loom models of the node's threads: the production sources of everything
//! between the consensus core and those who wait for it, compiled with loom's
//! primitives (`sync`) and run through every interleaving within the stated
//! number of preemptions.
//!
//! The tree below mirrors `src`, so that the sources find what they name. What
//! the models do not run (network, snapshot files, HTTP) is absent or a double.

// Each model uses a part of a tree that is whole elsewhere.
#![allow(dead_code, unused_imports)]

#[path = "../../../src/types/mod.rs"]
mod types;

mod sync;

#[path = "../../../src/codec/mod.rs"]
mod codec;

#[path = "../../../src/raft/mod.rs"]
mod raft;

#[path = "../../../src/disk/mod.rs"]
mod disk;

#[path = "../../../src/wal/mod.rs"]
mod wal;

mod snapshot;

mod peer;

#[path = "../../../src/store/mod.rs"]
mod store;

#[path = "../../../src/physical/mod.rs"]
mod physical;

mod membership;

mod node;

/// Whether this plant is awake: asked only in the copy of the sources that
/// `plants` makes.
fn planted(number: usize) -> bool {
    static AWAKE: std::sync::OnceLock<Option<usize>> = std::sync::OnceLock::new();
    let awake = AWAKE.get_or_init(|| std::env::var("PLANT").ok()?.parse().ok());
    *awake == Some(number)
}

fn main() {
    node::models::run(std::env::args().nth(1).as_deref());
}
