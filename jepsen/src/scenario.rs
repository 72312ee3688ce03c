//! Experiments that break things.

pub mod bit_flips;
pub mod bridge;
pub mod identities;
pub mod kill_all;
pub mod kill_leader;
pub mod lag;
pub mod power_cut;
pub mod rot;
pub mod stall_disk;
