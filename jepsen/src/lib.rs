//! The checkers of the harness as a library, without processes.

pub mod linearizability;
pub mod simulation;
