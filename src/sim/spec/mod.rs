//! The executable specification, and the proof that what ran refines it.
//!
//! * `raft`, with `log` and `said`, is the specification: Raft as the thesis tells
//!   it, at most 500 lines, without a line of the core's.
//! * `mapping` and `explain` map a step of the core to actions of it.
//! * [`Refinement`] does so for every step of every simulated run and random
//!   walk. A step that the specification does not allow is a violation, with the
//!   states before and after, what happened, and the guard that forbids it.
//!
//! Validation of traces, as CCF does it with TLA+, but while the run goes on
//! and in one language. To run it alone, so that a planted bug is found by it
//! or not at all: `HOLDFAST_ONLY=spec cargo test --test raft random`.
//!
//! It sees what a core decides and says, and what its disk held. It cannot see
//! that something does not happen (liveness), the clocks that a lease trusts,
//! or what a node does around its core.

mod explain;
mod log;
mod mapping;
mod raft;
mod refinement;
mod said;

pub use refinement::Refinement;
