//! The clock of the node's threads.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::types::Millis;

/// Milliseconds since this process began to count. Those count in which the
/// machine was suspended: a leader that slept must not believe that it leads
/// still, as it would by the usual monotonic clock.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    origin: Duration,
}

impl Clock {
    pub fn start() -> Self {
        Self {
            origin: since_boot(),
        }
    }

    pub fn now(self) -> Millis {
        let elapsed = since_boot().saturating_sub(self.origin);
        Millis(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }
}

fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanoseconds)
}
