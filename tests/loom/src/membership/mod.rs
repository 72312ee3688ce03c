//! What the raft thread uses of the membership policy.

#[path = "../../../../src/membership/autopilot.rs"]
pub mod autopilot;

#[path = "../../../../src/membership/forecast.rs"]
pub mod forecast;

#[path = "../../../../src/membership/picture.rs"]
pub mod picture;

#[path = "../../../../src/membership/settings.rs"]
pub mod settings;

#[path = "../../../../src/membership/duration.rs"]
pub mod duration;

pub use duration::GoDuration;
pub use forecast::{Forecast, Quorum};
pub use picture::{ClusterHealth, ServerHealth};
pub use settings::{AutopilotConfig, AutopilotUpdate};
