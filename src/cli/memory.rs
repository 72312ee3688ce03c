//! Keeping secrets out of the swap.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, getrlimit};

/// Locks all memory, now and later. When that is not possible the log says
/// what to do, and the server runs all the same.
pub fn lock() {
    // With a limit, memory asked for later would be refused and the process
    // with it: worse than a page in the swap.
    if let Some(bytes) = getrlimit(Resource::Memlock).current {
        tracing::warn!(
            limit_bytes = bytes,
            "memory is not locked and may reach the swap: RLIMIT_MEMLOCK is limited; \
             run with `ulimit -l unlimited` (systemd: LimitMEMLOCK=infinity), \
             or set disable_mlock = true where there is no swap"
        );
        return;
    }
    match mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT) {
        Ok(()) => tracing::info!("memory is locked"),
        Err(error) => tracing::warn!(
            %error,
            "memory could not be locked and may reach the swap: \
             set disable_mlock = true where there is no swap"
        ),
    }
}
