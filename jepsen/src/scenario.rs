//! Experiments that break things.

pub mod bridge;
pub mod identities;
pub mod kill_all;
pub mod kill_leader;
pub mod lag;
pub mod stall_disk;
