//! The files of `src/node` that share memory between threads, and the models.

#[path = "../../../../src/node/driver.rs"]
pub mod driver;

#[path = "../../../../src/node/options.rs"]
mod options;

#[path = "../../../../src/node/failure.rs"]
mod failure;

#[path = "../../../../src/node/event.rs"]
mod event;

#[path = "../../../../src/node/board.rs"]
mod board;

#[path = "../../../../src/node/belonging.rs"]
mod belonging;

#[path = "../../../../src/node/peers.rs"]
mod peers;

#[path = "../../../../src/node/repair.rs"]
mod repair;

#[path = "../../../../src/node/ports.rs"]
mod ports;

#[path = "../../../../src/node/standing.rs"]
mod standing;

#[path = "../../../../src/node/changes.rs"]
mod changes;

#[path = "../../../../src/node/raft_thread.rs"]
mod raft_thread;

#[path = "../../../../src/node/wal_thread.rs"]
mod wal_thread;

#[path = "../../../../src/node/apply_thread.rs"]
mod apply_thread;

#[path = "../../../../src/node/snapshots.rs"]
mod snapshots;

#[path = "../../../../src/node/snapshotter.rs"]
mod snapshotter;

#[path = "../../../../src/node/threads.rs"]
mod threads;

/// Time stands still: a thread that waits for a deadline waits for ever, so
/// that nothing is rescued by one.
mod clock {
    use crate::types::Millis;

    /// As the production clock.
    #[derive(Clone, Copy)]
    pub struct Clock(pub Millis);

    impl Clock {
        /// Always the same.
        pub fn now(self) -> Millis {
            self.0
        }
    }
}

mod recovery {
    use crate::raft::Recovered;
    use crate::types::ClusterId;
    use crate::wal::Wal;

    /// What a node starts from.
    pub struct Recovery {
        pub wal: Wal,
        pub cluster: ClusterId,
        pub recovered: Recovered,
        pub forced: Option<super::survivors::Forced>,
    }
}

mod survivors {
    use std::sync::Arc;

    use crate::types::{LogIndex, Membership, Term};

    /// A membership that counts in place of what the log says.
    pub struct Forced {
        pub membership: Arc<Membership>,
        pub since: LogIndex,
        pub term: Term,
        pub forget: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    }
}

pub mod models;
