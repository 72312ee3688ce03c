//! Pure policy about who belongs to the cluster: the peer TLS keyring as
//! OpenBao stores it, the proof a joiner gives, when a learner is promoted, when
//! a dead server goes, and what a change would cost.
//!
//! Nothing here touches a clock, a socket, a file or a source of randomness:
//! time and random bytes are passed in.

pub mod autopilot;
pub mod challenge;
pub mod decimal;
pub mod duration;
pub mod forecast;
pub mod keyring;
pub mod picture;
pub mod settings;
pub mod timestamp;

pub use autopilot::{Health, Stability};
pub use challenge::ChallengeKey;
pub use duration::GoDuration;
pub use forecast::{Forecast, Quorum};
pub use keyring::{Keyring, KeyringError, KeyringKey};
pub use picture::{ClusterHealth, ServerHealth};
pub use settings::{AutopilotConfig, AutopilotUpdate};
