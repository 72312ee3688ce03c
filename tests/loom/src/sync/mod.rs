//! What `src/sync` names, as loom sees it. The queue and the permits are the
//! production files; tokio's `oneshot`, `ArcSwap` and `OnceLock` are replaced
//! by what their documentation promises, no more.

#[path = "../../../../src/sync/permits.rs"]
pub mod permits;

#[path = "../../../../src/sync/queue.rs"]
pub mod queue;

pub mod oneshot;

mod arc_swap;

mod once_lock;

pub use loom::sync::{Condvar, Mutex, MutexGuard, atomic};

pub use arc_swap::ArcSwap;
pub use once_lock::OnceLock;

/// Threads with room for the core: loom's own stacks hold 32 KiB.
pub mod thread {
    pub use loom::thread::JoinHandle;

    const STACK_WORDS: usize = 64 << 10;

    /// As `std::thread::Builder`.
    pub struct Builder(loom::thread::Builder);

    impl Builder {
        /// Nothing set.
        pub fn new() -> Self {
            Self(loom::thread::Builder::new().stack_size(STACK_WORDS))
        }

        /// Names the thread.
        pub fn name(self, name: String) -> Self {
            Self(self.0.name(name))
        }

        /// Starts it.
        pub fn spawn<T: Send + 'static>(
            self,
            work: impl FnOnce() -> T + Send + 'static,
        ) -> std::io::Result<JoinHandle<T>> {
            self.0.spawn(work)
        }
    }

    /// Starts a thread.
    pub fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        Builder::new().spawn(work).expect("loom starts any thread")
    }
}
