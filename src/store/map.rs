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
///
/// The tree's inner nodes hold copies of keys, one for eight at most, which
/// outlive the entries that they once were. So a large value is not part of
/// what orders: what it holds would stay, unseen by whoever counts.
#[derive(Clone, Default)]
pub struct PersistentMap {
    pairs: imbl::OrdMap<ByKey, Option<Pair>>,
}

/// Longer values, in bytes, are kept beside the key.
const VALUE_WITH_KEY_MAX: usize = 512;

impl StateMap for PersistentMap {
    fn pair(&self, key: &str) -> Option<&Pair> {
        let (short, long) = self.pairs.get_key_value(key.as_bytes())?;
        Some(long.as_ref().unwrap_or(&short.0))
    }

    fn set(&mut self, pair: Pair) -> Option<Pair> {
        let former = self.pair(pair.key()).cloned();
        if pair.value().len() <= VALUE_WITH_KEY_MAX {
            self.pairs.insert(ByKey(pair), None);
        } else {
            let key = Pair::new(pair.key(), &[]);
            self.pairs.insert(ByKey(key), Some(pair));
        }
        former
    }

    fn unset(&mut self, key: &str) -> Option<Pair> {
        let (short, long) = self.pairs.remove_with_key(key.as_bytes())?;
        Some(long.unwrap_or(short.0))
    }

    fn count(&self) -> usize {
        self.pairs.len()
    }

    fn range_from<'a>(&'a self, first: Bound<&str>) -> impl Iterator<Item = &'a Pair> + use<'a> {
        let first = first.map(str::as_bytes);
        let range = self.pairs.range::<_, [u8]>((first, Bound::Unbounded));
        range.map(|(short, long)| long.as_ref().unwrap_or(&short.0))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// How many have a clone in the map.
    fn held(pairs: &[Pair]) -> usize {
        pairs.iter().filter(|pair| pair.is_held_elsewhere()).count()
    }

    // Copies of keys in inner nodes outlive their entries: with their values,
    // whoever overwrites large values would fill memory that nobody counts.
    #[test]
    fn overwritten_large_values_are_gone() {
        let mut map = PersistentMap::default();
        let pairs: Vec<Pair> = (0..1000)
            .map(|number| Pair::new(&format!("{number:04}"), &[7; VALUE_WITH_KEY_MAX + 1]))
            .collect();
        for pair in &pairs {
            map.set(pair.clone());
        }
        assert_eq!(held(&pairs), 1000);
        for pair in &pairs {
            let former = map.set(Pair::new(pair.key(), b"x")).expect("it was set");
            assert_eq!(former.value().len(), VALUE_WITH_KEY_MAX + 1);
        }
        assert_eq!(held(&pairs), 0);
        for pair in &pairs {
            assert_eq!(map.unset(pair.key()).expect("it was set").value(), b"x");
        }
        assert_eq!(map.count(), 0);
    }

    #[test]
    fn value_may_grow_beside_its_key_and_back() {
        let mut map = PersistentMap::default();
        for length in [1, VALUE_WITH_KEY_MAX, VALUE_WITH_KEY_MAX + 1, 5] {
            map.set(Pair::new("k", &vec![3; length]));
            assert_eq!(map.pair("k").expect("it was set").value().len(), length);
            let all: Vec<_> = map.range_from(Bound::Unbounded).collect();
            assert_eq!(all.len(), 1);
            assert_eq!(all[0].value().len(), length);
        }
    }
}
