//! The latch for a broken environment: the first failure of the disk stops the
//! node for good (D-004).

use std::sync::Arc;

use crate::physical::PhysicalError;
use crate::sync::OnceLock;

/// Called once, from the thread that met the failure, with its words.
pub type FailureHook = Arc<dyn Fn(&str) + Send + Sync>;

/// Exit code of a process whose disk failed.
pub const EXIT_STORAGE_FAILED: i32 = 3;

/// Remembers the first failure.
pub(super) struct Failure {
    reason: OnceLock<String>,
    hook: FailureHook,
}

impl Failure {
    pub fn new(hook: FailureHook) -> Self {
        Self {
            reason: OnceLock::new(),
            hook,
        }
    }

    /// Latches the first reason and calls the hook.
    pub fn report(&self, reason: &str) {
        if self.reason.set(reason.to_owned()).is_ok() {
            tracing::error!(reason, "storage failed: the node stops");
            (self.hook)(reason);
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
