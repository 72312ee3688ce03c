//! Pure policy about who belongs to the cluster: the peer TLS keyring as
//! OpenBao stores it, the proof a joiner gives, and when a learner is promoted.
//!
//! Nothing here touches a clock, a socket, a file or a source of randomness:
//! time and random bytes are passed in.

pub mod autopilot;
pub mod challenge;
pub mod decimal;
pub mod duration;
pub mod keyring;
pub mod timestamp;

pub use autopilot::{AutopilotConfig, Health, Stability};
pub use challenge::ChallengeKey;
pub use duration::GoDuration;
pub use keyring::{Keyring, KeyringError, KeyringKey};
