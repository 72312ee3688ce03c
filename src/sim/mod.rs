//! Deterministic simulation: whole clusters in one thread, with invented
//! networks, disks and clocks, watched by checkers that remember everything.
//!
//! What it must never do: read a clock, draw randomness that no seed gave,
//! iterate over a hash, touch a file. One seed is one story, byte for byte.
//!
//! Compiled only with the feature `sim`; the binary carries nothing of it.

pub mod history;
pub mod notation;
