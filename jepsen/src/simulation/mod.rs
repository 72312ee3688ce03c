//! Simulated clusters by seeds: run, judged, shrunk, counted. What is simulated
//! and what must hold is `holdfast::sim`; here are the campaigns over it.

mod campaign;
mod judge;
mod shrink;

pub use campaign::{Campaign, Failed, Tally};
pub use judge::{Judged, judge};
pub use shrink::{Shrunk, shrink};
