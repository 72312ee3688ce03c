//! Experiments that break things.

pub mod kill_all;
pub mod kill_leader;
pub mod lag;
