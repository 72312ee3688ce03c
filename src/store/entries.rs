//! A set of storage entries: the map, and how many bytes it holds.

use std::collections::VecDeque;
use std::ops::Bound;

use super::digest::Sum;
use super::map::{PersistentMap, StateMap};
use crate::types::Pair;

/// Storage entries with their byte count and digest.
///
/// Invariants: `bytes` is the sum of all key and value lengths, `sum` that of
/// all hashes.
#[derive(Clone, Default)]
pub struct Entries<M = PersistentMap> {
    map: M,
    bytes: u64,
    sum: Sum,
}

impl<M: StateMap> Entries<M> {
    /// The pair with this key.
    pub fn pair(&self, key: &str) -> Option<&Pair> {
        self.map.pair(key)
    }

    /// Sets a key.
    pub fn put(&mut self, pair: Pair) {
        self.bytes += pair.content().len() as u64;
        self.sum.add(&pair);
        if let Some(former) = self.map.set(pair) {
            self.subtract(&former);
        }
    }

    /// Removes a key; absent is fine.
    pub fn delete(&mut self, key: &str) {
        if let Some(former) = self.map.unset(key) {
            self.subtract(&former);
        }
    }

    /// Number of entries.
    pub fn count(&self) -> usize {
        self.map.count()
    }

    /// Length of all keys and values.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What they amount to.
    pub fn sum(&self) -> Sum {
        self.sum
    }

    /// Names directly below `prefix`, ascending; a name with more below it
    /// appears once and ends in `/`. Costs O(names × log entries): everything
    /// below a sub-folder is skipped by one search.
    pub fn list(&self, prefix: &str) -> Vec<String> {
        let mut names = Vec::new();
        let mut range = self.map.range_from(Bound::Included(prefix));
        while let Some(pair) = range.next() {
            let key = pair.key();
            let Some(rest) = key.strip_prefix(prefix) else {
                break;
            };
            match rest.find('/') {
                None if rest.is_empty() => {}
                None => names.push(rest.to_owned()),
                Some(slash) => {
                    names.push(rest[..=slash].to_owned());
                    let folder = &key[..prefix.len() + slash];
                    let after = format!("{folder}{AFTER_SLASH}");
                    range = self.map.range_from(Bound::Included(after.as_str()));
                }
            }
        }
        names
    }

    /// Up to `limit` entries after `last` (`None`: from the beginning).
    fn page(&self, last: Option<&str>, limit: usize) -> VecDeque<Pair> {
        self.map
            .range_from(last.map_or(Bound::Unbounded, Bound::Excluded))
            .take(limit)
            .cloned()
            .collect()
    }

    fn subtract(&mut self, former: &Pair) {
        let former_bytes = former.content().len() as u64;
        assert!(former_bytes <= self.bytes);
        self.bytes -= former_bytes;
        self.sum.subtract(former);
    }
}

impl Entries {
    /// Walks a picture of all entries in key order.
    pub fn scan(&self) -> Scan {
        Scan {
            entries: self.clone(),
            page: VecDeque::new(),
            last: None,
        }
    }
}

/// An owned walk over a picture of the entries, in key order: it borrows
/// nothing, so it can move to another thread and outlive the store.
pub struct Scan {
    entries: Entries,
    page: VecDeque<Pair>,
    last: Option<Pair>,
}

impl Iterator for Scan {
    type Item = Pair;

    fn next(&mut self) -> Option<Self::Item> {
        if self.page.is_empty() {
            let last = self.last.as_ref().map(Pair::key);
            self.page = self.entries.page(last, PAGE_ENTRIES);
            self.last = self.page.back().cloned().or(self.last.take());
        }
        self.page.pop_front()
    }
}

/// The character after `/`: no key below a folder reaches it.
const AFTER_SLASH: char = '0';

/// Entries fetched by one search of a [`Scan`].
const PAGE_ENTRIES: usize = 256;
