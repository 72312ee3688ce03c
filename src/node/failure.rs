//! The latch that stops the node for good: a disk that failed (D-004), or peers
//! that refuse this process its identity.

use std::sync::Arc;

use crate::physical::PhysicalError;
use crate::sync::OnceLock;

/// Called once, from the thread that met the failure, with its words.
pub type FailureHook = Arc<dyn Fn(&str) + Send + Sync>;

/// Exit code of a process whose disk failed.
pub const EXIT_STORAGE_FAILED: i32 = 3;

/// Exit code of a process that peers refuse: it runs on a copy of another's data
/// directory, or on an older state of its own. Starting it again does not help.
pub const EXIT_IDENTITY_REFUSED: i32 = 4;

/// Remembers the first failure.
pub(super) struct Failure {
    reason: OnceLock<String>,
    on_failure: FailureHook,
    on_refusal: FailureHook,
}

impl Failure {
    pub fn new(on_failure: FailureHook, on_refusal: FailureHook) -> Self {
        Self {
            reason: OnceLock::new(),
            on_failure,
            on_refusal,
        }
    }

    /// Latches the first reason and calls the hook.
    pub fn report(&self, reason: &str) {
        if self.reason.set(reason.to_owned()).is_ok() {
            tracing::error!(reason, "storage failed: the node stops");
            (self.on_failure)(reason);
        }
    }

    /// Latches that this process may not speak for its node.
    pub fn refuse(&self, reason: &str) {
        if self.reason.set(reason.to_owned()).is_ok() {
            tracing::error!(reason, "refused by a peer: the node stops");
            (self.on_refusal)(reason);
        }
    }

    /// The first failure, as callers see it.
    pub fn error(&self) -> Option<PhysicalError> {
        self.reason.get().map(|reason| PhysicalError::Failed {
            reason: reason.clone(),
        })
    }
}

/// The default hook: says so and ends the process. A node whose disk failed
/// must not go on as if it had written.
#[must_use]
pub fn exit_on_failure() -> FailureHook {
    Arc::new(|reason| {
        eprintln!("storage failed, stopping: {reason}");
        std::process::exit(EXIT_STORAGE_FAILED);
    })
}

/// The default hook for a refused identity: says so and ends the process.
#[must_use]
pub fn exit_on_refusal() -> FailureHook {
    Arc::new(|reason| {
        eprintln!("identity refused, stopping: {reason}");
        std::process::exit(EXIT_IDENTITY_REFUSED);
    })
}
