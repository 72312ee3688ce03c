//! A bound on how many of something exist at once.

use std::sync::Arc;

use super::atomic::{AtomicUsize, Ordering};

/// A stock of permits; clones share it.
#[derive(Clone)]
pub struct Permits {
    taken: Arc<AtomicUsize>,
    max: usize,
}

/// One of them; given back when dropped.
pub struct Permit(Arc<AtomicUsize>);

impl Permits {
    /// At most `max` at once.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            taken: Arc::new(AtomicUsize::new(0)),
            max,
        }
    }

    /// Takes one, if any is left.
    #[must_use]
    pub fn take(&self) -> Option<Permit> {
        // Only a count: nothing else becomes visible with it.
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        let more = |taken: usize| (taken < self.max).then_some(taken + 1);
        let taken = self.taken.fetch_update(set, fetch, more);
        taken.ok().map(|_| Permit(Arc::clone(&self.taken)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let taken = self.0.fetch_sub(1, Ordering::Relaxed);
        assert!(taken > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_bounded_and_given_back() {
        let permits = Permits::new(2);
        let first = permits.take();
        let second = permits.clone().take();
        assert!(first.is_some() && second.is_some());
        assert!(permits.take().is_none());
        drop(first);
        assert!(permits.take().is_some());
    }
}
