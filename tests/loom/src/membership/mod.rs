//! What the raft thread uses of the membership policy.

#[path = "../../../../src/membership/autopilot.rs"]
pub mod autopilot;

#[path = "../../../../src/membership/duration.rs"]
pub mod duration;

pub use duration::GoDuration;
