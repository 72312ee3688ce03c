//! The primitives through which threads share memory, under one name, so that
//! the models of `tests/loom` can put loom's in their place and run the code
//! that uses them unchanged.
//!
//! Used by `node` and `wal`; nothing here knows what it carries. What the
//! models take at their word, because it is not ours: tokio's `oneshot` (one
//! message, or the news that none will come) and `ArcSwap` (a pointer that is
//! read with acquire and swapped with acquire and release).

pub mod permits;

pub mod queue;

pub use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, atomic};

pub use arc_swap::ArcSwap;
pub use tokio::sync::oneshot;

/// Threads.
pub mod thread {
    pub use std::thread::{Builder, JoinHandle};
}
