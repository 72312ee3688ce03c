//! An exhaustive search through everything a small cluster of production cores
//! can do: `crate::raft::Raft` itself, not a model of it.
//!
//! # What is searched
//!
//! A state is every node (core, disk, writes on their way to it, store), what
//! the network holds, and as much history as a property still needs. From each
//! state every step that the [`Bounds`] allow is taken: a message arrives, a
//! timeout passes, a disk falls behind and catches up, a node crashes, somebody
//! proposes, reads, changes the membership. Breadth first, so that a violation
//! comes with a shortest path to it.
//!
//! What one node does when something happens to it is a function of that node
//! alone. Nodes are interned and the answers kept, so the core runs once for
//! each different pair, and a step of the search is a few table look-ups.
//!
//! # What is left out, and why that is sound
//!
//! * *Time.* Each node has a clock that moves only in jumps beyond every
//!   patience (and, for a leader, by heartbeats). Any interleaving of timeouts
//!   that real clocks allow is one of such jumps. See `canonical`.
//! * *Stickiness.* A vote request to a node that trusts a leader is ignored,
//!   which is the same as losing it; so it is delivered only with patience at
//!   its end.
//! * *Loss.* What is never delivered was lost: no step drops anything. A second
//!   copy of what is on its way counts as lost.
//! * *Dead messages.* An answer from a term that its receiver's disk has left
//!   is ignored for ever, and forgotten at once, unless it has an effect now
//!   (which would be a violation of just this rule).
//! * *Symmetry.* Founding voters differ only by number: of the states that
//!   renumbering makes equal one is searched. The core treats ids alike but in
//!   one place: among equal targets a leader that is voted out picks the
//!   highest.
//! * *Past.* History that nothing can contradict any more is forgotten; see
//!   `history`.
//!
//! # What is not searched
//!
//! What the bounds exclude, first of all. A question of a term that both ends
//! have left is taken for lost. With [`Elections::AtOnce`] and
//! [`Bounds::round_trips`] several steps happen as one: that leads deeper into
//! what a preset is about and misses what would happen in between.
//!
//! States are told apart by 64 bits; [`Report::omission`] bounds the chance
//! that any was taken for another.

mod bounds;
mod canonical;
mod disk;
mod elections;
mod explore;
mod fingerprint;
mod history;
mod interned;
mod local;
mod preset;
mod steps;
mod story;
mod violation;
mod witness;
mod world;

pub use bounds::{Bounds, Elections, Prepared, PreparedEntry, Wish};
pub use explore::{Ending, Finding, Limits, Progress, Report, explore};
pub use preset::{Preset, presets};
pub use violation::Violation;
pub use witness::{Witness, Witnesses};
