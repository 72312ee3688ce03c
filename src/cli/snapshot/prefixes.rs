//! Numbers by prefix of a storage key, for a bounded number of prefixes.

use std::collections::BTreeMap;

/// Entries of a prefix, or of all.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub entries: u64,
    pub key_bytes: u64,
    pub value_bytes: u64,
    /// Of the longest value.
    pub largest: u64,
}

impl Counts {
    pub fn add(&mut self, key: &str, value: &[u8]) {
        self.entries += 1;
        self.key_bytes += key.len() as u64;
        self.value_bytes += value.len() as u64;
        self.largest = self.largest.max(value.len() as u64);
    }

    pub fn bytes(&self) -> u64 {
        self.key_bytes + self.value_bytes
    }
}

/// What became of the entries of a prefix.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Changes {
    pub added: u64,
    pub removed: u64,
    pub changed: u64,
    pub same: u64,
}

impl Changes {
    pub fn added(&mut self) {
        self.added += 1;
    }

    pub fn removed(&mut self) {
        self.removed += 1;
    }

    pub fn changed(&mut self) {
        self.changed += 1;
    }

    pub fn same(&mut self) {
        self.same += 1;
    }
}

/// One `T` a prefix. Keys of prefixes that do not fit are counted together.
pub(super) struct Prefixes<T> {
    depth: usize,
    by_prefix: BTreeMap<String, T>,
    others: Option<T>,
}

impl<T: Default> Prefixes<T> {
    /// Prefixes of so many parts, each ending with `/`.
    pub fn new(depth: usize) -> Self {
        Self {
            depth,
            by_prefix: BTreeMap::new(),
            others: None,
        }
    }

    /// The numbers that a key counts for.
    pub fn entry(&mut self, key: &str) -> &mut T {
        let parts = key.match_indices('/').map(|(position, _)| position + 1);
        // A key that ends sooner counts for the folder it is in.
        let end = parts.take(self.depth).last().unwrap_or(0);
        let prefix = &key[..end];
        if self.by_prefix.len() >= PREFIXES_MAX && !self.by_prefix.contains_key(prefix) {
            return self.others.get_or_insert_default();
        }
        self.by_prefix.entry(prefix.to_owned()).or_default()
    }

    /// All of them, in order.
    pub fn rows(&self) -> impl Iterator<Item = (String, &T)> {
        let named = self.by_prefix.iter().map(|(prefix, counts)| {
            let name = if prefix.is_empty() {
                "(no folder)"
            } else {
                prefix
            };
            (name.to_owned(), counts)
        });
        let others = self.others.iter().map(|it| ("(others)".to_owned(), it));
        named.chain(others)
    }
}

/// Prefixes kept apart, at most.
const PREFIXES_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn names(depth: usize, keys: &[&str]) -> Vec<String> {
        let mut prefixes: Prefixes<Counts> = Prefixes::new(depth);
        for key in keys {
            prefixes.entry(key).add(key, b"v");
        }
        prefixes.rows().map(|(name, _)| name).collect()
    }

    #[test]
    fn prefixes_are_cut_at_the_depth() {
        let keys = ["a", "core/x", "logical/1/a/b", "logical/1/c", "sys/"];
        assert_eq!(
            names(1, &keys),
            ["(no folder)", "core/", "logical/", "sys/"]
        );
        assert_eq!(
            names(2, &keys),
            ["(no folder)", "core/", "logical/1/", "sys/"]
        );
        assert_eq!(names(0, &keys), ["(no folder)"]);
    }

    #[test]
    fn prefixes_beyond_the_limit_are_counted_together() {
        let mut prefixes: Prefixes<Counts> = Prefixes::new(1);
        for number in 0..PREFIXES_MAX + 5 {
            let key = format!("{number:08}/x");
            prefixes.entry(&key).add(&key, b"v");
        }
        let (name, others) = prefixes.rows().last().expect("there are rows");
        assert_eq!((name.as_str(), others.entries), ("(others)", 5));
    }
}
