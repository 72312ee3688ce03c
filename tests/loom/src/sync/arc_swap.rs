//! A pointer that is replaced whole: loads acquire, swaps acquire and release.
//! A load may be stale, as a load of any atomic may; a mutex in its place would
//! hide that.

use std::sync::Arc;

use super::atomic::{AtomicUsize, Ordering};

/// As `arc_swap::ArcSwap`.
pub struct ArcSwap<T> {
    /// Everything it ever pointed to. Not loom's: never held across a switch.
    slots: std::sync::Mutex<Vec<Arc<T>>>,
    current: AtomicUsize,
}

impl<T> ArcSwap<T> {
    /// Points to this.
    pub fn from_pointee(value: T) -> Self {
        Self {
            slots: std::sync::Mutex::new(vec![Arc::new(value)]),
            current: AtomicUsize::new(0),
        }
    }

    /// What it points to.
    pub fn load_full(&self) -> Arc<T> {
        let slot = self.current.load(Ordering::Acquire);
        Arc::clone(&self.slots()[slot])
    }

    /// What it points to.
    pub fn load(&self) -> Arc<T> {
        self.load_full()
    }

    /// Points to something else.
    pub fn store(&self, value: Arc<T>) {
        drop(self.swap(value));
    }

    /// Points to something else; gives back what it pointed to.
    pub fn swap(&self, value: Arc<T>) -> Arc<T> {
        let slot = {
            let mut slots = self.slots();
            slots.push(value);
            slots.len() - 1
        };
        let old = self.current.swap(slot, Ordering::AcqRel);
        Arc::clone(&self.slots()[old])
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, Vec<Arc<T>>> {
        self.slots.lock().expect("nobody panics while holding it")
    }
}
