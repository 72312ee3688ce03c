//! The checkers of the harness as a library: pure, without processes.

pub mod linearizability;
