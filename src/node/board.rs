//! What the apply thread publishes after each batch: an immutable picture that
//! any number of readers share.

use std::sync::Arc;

use crate::physical::{BoxFuture, PhysicalError, Reader};
use crate::store::View;
use crate::sync::ArcSwap;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::types::{LogIndex, StoredValue};

impl Reader for View {
    fn value<'a>(
        &'a self,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<StoredValue>, PhysicalError>> {
        Box::pin(std::future::ready(Ok(View::value(self, key))))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<String>, PhysicalError>> {
        Box::pin(std::future::ready(Ok(View::list(self, prefix))))
    }

    fn restore_epoch(&self) -> u64 {
        View::restore_epoch(self)
    }

    fn applied_index(&self) -> u64 {
        View::applied_index(self).0
    }
}

/// Where the newest picture is found.
pub(super) struct Board {
    newest: ArcSwap<View>,
    /// Its applied index; written after the picture, so whoever reads this
    /// finds a picture at least as new.
    applied: AtomicU64,
}

impl Board {
    /// Starts with this picture.
    pub fn new(view: View) -> Self {
        let applied = AtomicU64::new(view.applied_index().0);
        Self {
            newest: ArcSwap::from_pointee(view),
            applied,
        }
    }

    /// The newest picture.
    pub fn newest(&self) -> Arc<View> {
        self.newest.load_full()
    }

    /// Replaces the picture; gives back the old one, whose last owner pays for
    /// freeing what only it held.
    pub fn publish(&self, view: Arc<View>) -> Arc<View> {
        let applied = view.applied_index().0;
        let old = self.newest.swap(view);
        self.applied.store(applied, Ordering::Release);
        old
    }

    /// The newest picture is at least this new.
    pub fn applied(&self) -> LogIndex {
        LogIndex(self.applied.load(Ordering::Acquire))
    }
}
