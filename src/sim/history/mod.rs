//! What happened in a cluster, told by whatever simulates it.
//!
//! A simulation reports to [`Observer`]s. They learn only what crosses the
//! border of the core (inputs, effects, status) and what disks and stores did
//! with it, so the production code needs no hooks to be watched.

mod observer;
mod violation;

pub use observer::{Life, Observer, Step};
pub use violation::{Property, Verdict, Violation};
