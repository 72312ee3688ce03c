//! How a restore goes: `GET sys/storage/raft/restore/status`, for whoever lost
//! the connection over which it was sent.

use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::{VaultError, object, rfc3339};

/// Where the last restore on this node stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum RestorePhase {
    /// There was none since the start of the process.
    #[default]
    None,
    /// The archive is here and being verified.
    Verifying,
    /// The state is being replaced.
    Restoring,
    /// The state was replaced.
    Done,
    /// Nothing was changed, unless the error says that it may have been.
    Failed,
}

/// The last restore.
#[derive(Default)]
pub(super) struct RestoreTrace {
    pub(super) phase: RestorePhase,
    force: bool,
    begun: Option<SystemTime>,
    ended: Option<SystemTime>,
    error: Option<String>,
}

impl RestoreTrace {
    pub(super) fn begin(&mut self, force: bool) {
        *self = Self {
            phase: RestorePhase::Verifying,
            force,
            begun: Some(SystemTime::now()),
            ..Self::default()
        };
    }

    pub(super) fn end(&mut self, error: Option<&VaultError>) {
        self.phase = match error {
            None => RestorePhase::Done,
            Some(_) => RestorePhase::Failed,
        };
        self.ended = Some(SystemTime::now());
        self.error = error.map(ToString::to_string);
    }

    pub(super) fn json(&self) -> Map<String, Value> {
        let phase = match self.phase {
            RestorePhase::None => "none",
            RestorePhase::Verifying => "verifying",
            RestorePhase::Restoring => "restoring",
            RestorePhase::Done => "done",
            RestorePhase::Failed => "failed",
        };
        object(json!({
            "phase": phase,
            "force": self.force,
            "begun": self.begun.map(rfc3339),
            "ended": self.ended.map(rfc3339),
            "error": self.error,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_tells_the_last_restore_only() {
        let mut trace = RestoreTrace::default();
        assert_eq!(trace.json()["phase"], "none");
        trace.begin(true);
        assert_eq!(trace.json()["phase"], "verifying");
        trace.end(Some(&VaultError::BadRequest("no archive".into())));
        let failed = trace.json();
        assert_eq!(
            (&failed["phase"], &failed["force"]),
            (&json!("failed"), &json!(true))
        );
        assert_eq!(failed["error"], "no archive");
        trace.begin(false);
        trace.end(None);
        let done = trace.json();
        assert_eq!(
            (&done["phase"], &done["error"]),
            (&json!("done"), &Value::Null)
        );
        assert!(done["begun"].is_string() && done["ended"].is_string());
    }
}
