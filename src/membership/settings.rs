//! What an operator may tune of the membership policy, and what a request to
//! tune it amounts to.

use serde::{Deserialize, Serialize};

use crate::membership::GoDuration;

/// What an operator may tune, under the names of the HTTP API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AutopilotConfig {
    /// Remove servers that have been gone for
    /// `dead_server_last_contact_threshold`.
    pub cleanup_dead_servers: bool,
    /// How long a server must be silent to count as dead.
    pub dead_server_last_contact_threshold: GoDuration,
    /// How long a healthy server may be silent.
    pub last_contact_threshold: GoDuration,
    /// How many entries a healthy server may lag behind the leader.
    pub max_trailing_logs: u64,
    /// Cleanup never leaves fewer voters than this; 0 means unset.
    pub min_quorum: u64,
    /// How long a learner must be healthy before it is promoted.
    pub server_stabilization_time: GoDuration,
}

impl Default for AutopilotConfig {
    fn default() -> Self {
        Self {
            cleanup_dead_servers: false,
            dead_server_last_contact_threshold: GoDuration::from_seconds(24 * 3600),
            last_contact_threshold: GoDuration::from_seconds(10),
            max_trailing_logs: 1000,
            min_quorum: 0,
            server_stabilization_time: GoDuration::from_seconds(10),
        }
    }
}

/// A configuration that contradicts itself, in OpenBao's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Cleanup without a floor could remove a majority.
    #[error(
        "min_quorum must be set when cleanup_dead_servers is set and it should at least be 3; cleanup_dead_servers: true, min_quorum: {0:#x}"
    )]
    QuorumFloorMissing(u64),
    /// A minute is the least that tells a restart from a death.
    #[error(
        "dead_server_last_contact_threshold should not be set to less than 1m; received: {seconds}"
    )]
    DeadThresholdTooShort {
        /// What was asked for, in seconds.
        seconds: i64,
    },
}

impl AutopilotConfig {
    /// Checks what a person configured.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.cleanup_dead_servers && self.min_quorum < 3 {
            return Err(ConfigError::QuorumFloorMissing(self.min_quorum));
        }
        // Without cleanup nothing follows from it, and real servers take it.
        if self.cleanup_dead_servers
            && self.dead_server_last_contact_threshold < GoDuration::from_seconds(60)
        {
            return Err(ConfigError::DeadThresholdTooShort {
                seconds: self.dead_server_last_contact_threshold.nanoseconds / 1_000_000_000,
            });
        }
        Ok(())
    }
}

/// What a request asks to change. As real servers have it, what is absent or
/// zero leaves the present value as it is; only a boolean can be unset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AutopilotUpdate {
    /// See [`AutopilotConfig`], as all of these.
    pub cleanup_dead_servers: Option<bool>,
    /// Seconds.
    pub dead_server_last_contact_threshold: u64,
    /// Seconds.
    pub last_contact_threshold: u64,
    /// Entries.
    pub max_trailing_logs: u64,
    /// Voters.
    pub min_quorum: u64,
    /// Seconds.
    pub server_stabilization_time: u64,
}

impl AutopilotUpdate {
    /// What the configuration becomes.
    ///
    /// # Errors
    /// See [`ConfigError`]: the whole is checked, not only what changed.
    pub fn applied_to(&self, present: &AutopilotConfig) -> Result<AutopilotConfig, ConfigError> {
        let duration = |seconds: u64, present: GoDuration| match i64::try_from(seconds) {
            Ok(0) => present,
            Ok(seconds) => GoDuration::from_seconds(seconds),
            Err(_) => GoDuration::from_seconds(i64::MAX),
        };
        let count = |asked: u64, present: u64| if asked == 0 { present } else { asked };
        let config = AutopilotConfig {
            cleanup_dead_servers: self
                .cleanup_dead_servers
                .unwrap_or(present.cleanup_dead_servers),
            dead_server_last_contact_threshold: duration(
                self.dead_server_last_contact_threshold,
                present.dead_server_last_contact_threshold,
            ),
            last_contact_threshold: duration(
                self.last_contact_threshold,
                present.last_contact_threshold,
            ),
            max_trailing_logs: count(self.max_trailing_logs, present.max_trailing_logs),
            min_quorum: count(self.min_quorum, present.min_quorum),
            server_stabilization_time: duration(
                self.server_stabilization_time,
                present.server_stabilization_time,
            ),
        };
        config.validate()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_serialise_as_the_api_shows_them() {
        let json = serde_json::to_value(AutopilotConfig::default()).expect("serialises");
        let expected = serde_json::json!({
            "cleanup_dead_servers": false,
            "dead_server_last_contact_threshold": "24h0m0s",
            "last_contact_threshold": "10s",
            "max_trailing_logs": 1000,
            "min_quorum": 0,
            "server_stabilization_time": "10s",
        });
        assert_eq!(json, expected);
        let back: AutopilotConfig = serde_json::from_value(json).expect("parses");
        assert_eq!(back, AutopilotConfig::default());
    }

    #[test]
    fn contradictory_configuration_is_refused_in_openbaos_words() {
        let mut config = AutopilotConfig {
            cleanup_dead_servers: true,
            ..AutopilotConfig::default()
        };
        assert_eq!(
            config.validate().expect_err("no floor").to_string(),
            "min_quorum must be set when cleanup_dead_servers is set and it should at least be 3; cleanup_dead_servers: true, min_quorum: 0x0"
        );
        config.min_quorum = 3;
        assert_eq!(config.validate(), Ok(()));
        config.dead_server_last_contact_threshold = GoDuration::from_seconds(30);
        assert_eq!(
            config.validate().expect_err("too short").to_string(),
            "dead_server_last_contact_threshold should not be set to less than 1m; received: 30"
        );
    }

    #[test]
    fn short_threshold_matters_only_to_a_cleanup() {
        let config = AutopilotConfig {
            dead_server_last_contact_threshold: GoDuration::from_seconds(1),
            ..AutopilotConfig::default()
        };
        assert_eq!(config.validate(), Ok(()));
    }

    #[test]
    fn update_keeps_what_is_absent_or_zero() {
        let present = AutopilotConfig {
            cleanup_dead_servers: true,
            min_quorum: 3,
            max_trailing_logs: 500,
            ..AutopilotConfig::default()
        };
        let update = AutopilotUpdate {
            last_contact_threshold: 5,
            ..AutopilotUpdate::default()
        };
        let expected = AutopilotConfig {
            last_contact_threshold: GoDuration::from_seconds(5),
            ..present.clone()
        };
        assert_eq!(update.applied_to(&present), Ok(expected));
        let nothing = AutopilotUpdate::default();
        assert_eq!(nothing.applied_to(&present), Ok(present.clone()));
        let off = AutopilotUpdate {
            cleanup_dead_servers: Some(false),
            ..AutopilotUpdate::default()
        };
        let off = off.applied_to(&present).expect("cleanup may be unset");
        assert!(!off.cleanup_dead_servers && off.min_quorum == 3);
    }

    #[test]
    fn update_is_checked_with_what_is_there_already() {
        let cleanup = AutopilotUpdate {
            cleanup_dead_servers: Some(true),
            ..AutopilotUpdate::default()
        };
        let refused = cleanup.applied_to(&AutopilotConfig::default());
        assert_eq!(refused, Err(ConfigError::QuorumFloorMissing(0)));
        let present = AutopilotConfig {
            min_quorum: 3,
            ..AutopilotConfig::default()
        };
        assert!(cleanup.applied_to(&present).is_ok());
    }
}
