//! The ordered map the state lives in, behind a trait: one implementation for
//! production, one as the oracle of tests, room for another if trust in the
//! first should fail (D-002).

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// A map from storage paths to values in bytewise key order. Cloning gives an
/// independent picture.
pub trait StateMap: Clone + Default {
    /// The value at `key`.
    fn value(&self, key: &str) -> Option<&Arc<[u8]>>;

    /// Sets a key; the former value, if any.
    fn set(&mut self, key: Arc<str>, value: Arc<[u8]>) -> Option<Arc<[u8]>>;

    /// Removes a key; the former value, if any.
    fn unset(&mut self, key: &str) -> Option<Arc<[u8]>>;

    /// Number of keys.
    fn count(&self) -> usize;

    /// Keys and values from `first` on, ascending.
    fn range_from<'a>(
        &'a self,
        first: Bound<&str>,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<[u8]>)> + use<'a, Self>;
}

/// The production map: a persistent B+ tree whose clone takes microseconds.
/// Its `diff` and `==` are not used: releases before 7.0.2 got them wrong.
pub type PersistentMap = imbl::OrdMap<Arc<str>, Arc<[u8]>>;

impl StateMap for PersistentMap {
    fn value(&self, key: &str) -> Option<&Arc<[u8]>> {
        self.get(key)
    }

    fn set(&mut self, key: Arc<str>, value: Arc<[u8]>) -> Option<Arc<[u8]>> {
        self.insert(key, value)
    }

    fn unset(&mut self, key: &str) -> Option<Arc<[u8]>> {
        self.remove(key)
    }

    fn count(&self) -> usize {
        self.len()
    }

    fn range_from<'a>(
        &'a self,
        first: Bound<&str>,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<[u8]>)> + use<'a> {
        self.range::<_, str>((first, Bound::Unbounded))
    }
}

impl StateMap for BTreeMap<Arc<str>, Arc<[u8]>> {
    fn value(&self, key: &str) -> Option<&Arc<[u8]>> {
        self.get(key)
    }

    fn set(&mut self, key: Arc<str>, value: Arc<[u8]>) -> Option<Arc<[u8]>> {
        self.insert(key, value)
    }

    fn unset(&mut self, key: &str) -> Option<Arc<[u8]>> {
        self.remove(key)
    }

    fn count(&self) -> usize {
        self.len()
    }

    fn range_from<'a>(
        &'a self,
        first: Bound<&str>,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<[u8]>)> + use<'a> {
        self.range::<str, _>((first, Bound::Unbounded))
    }
}
