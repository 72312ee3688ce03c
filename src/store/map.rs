//! The ordered map the state lives in, behind a trait: one implementation for
//! production, one as the oracle of tests, room for another if trust in the
//! first should fail (D-002).

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Bound;

use crate::types::Pair;

/// A map from storage paths to values in bytewise key order. Cloning gives an
/// independent picture.
pub trait StateMap: Clone + Default {
    /// The pair with this key.
    fn pair(&self, key: &str) -> Option<&Pair>;

    /// Sets a key; the former pair, if any.
    fn set(&mut self, pair: Pair) -> Option<Pair>;

    /// Removes a key; the former pair, if any.
    fn unset(&mut self, key: &str) -> Option<Pair>;

    /// Number of keys.
    fn count(&self) -> usize;

    /// Pairs from `first` on, ascending.
    fn range_from<'a>(
        &'a self,
        first: Bound<&str>,
    ) -> impl Iterator<Item = &'a Pair> + use<'a, Self>;
}

/// A pair that is found and ordered by its key alone.
#[derive(Clone, Debug)]
pub struct ByKey(Pair);

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for ByKey {}

impl PartialOrd for ByKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key_bytes().cmp(other.0.key_bytes())
    }
}

impl Borrow<[u8]> for ByKey {
    fn borrow(&self) -> &[u8] {
        self.0.key_bytes()
    }
}

/// The production map: a persistent B+ tree whose clone takes microseconds.
/// Its `diff` and `==` are not used: releases before 7.0.2 got them wrong.
pub type PersistentMap = imbl::OrdSet<ByKey>;

impl StateMap for PersistentMap {
    fn pair(&self, key: &str) -> Option<&Pair> {
        self.get(key.as_bytes()).map(|found| &found.0)
    }

    fn set(&mut self, pair: Pair) -> Option<Pair> {
        self.insert(ByKey(pair)).map(|former| former.0)
    }

    fn unset(&mut self, key: &str) -> Option<Pair> {
        self.remove(key.as_bytes()).map(|former| former.0)
    }

    fn count(&self) -> usize {
        self.len()
    }

    fn range_from<'a>(&'a self, first: Bound<&str>) -> impl Iterator<Item = &'a Pair> + use<'a> {
        let first = first.map(str::as_bytes);
        let range = self.range::<_, [u8]>((first, Bound::Unbounded));
        range.map(|found| &found.0)
    }
}

/// The oracle.
impl StateMap for BTreeSet<ByKey> {
    fn pair(&self, key: &str) -> Option<&Pair> {
        self.get(key.as_bytes()).map(|found| &found.0)
    }

    fn set(&mut self, pair: Pair) -> Option<Pair> {
        self.replace(ByKey(pair)).map(|former| former.0)
    }

    fn unset(&mut self, key: &str) -> Option<Pair> {
        self.take(key.as_bytes()).map(|former| former.0)
    }

    fn count(&self) -> usize {
        self.len()
    }

    fn range_from<'a>(&'a self, first: Bound<&str>) -> impl Iterator<Item = &'a Pair> + use<'a> {
        let first = first.map(str::as_bytes);
        let range = self.range::<[u8], _>((first, Bound::Unbounded));
        range.map(|found| &found.0)
    }
}
