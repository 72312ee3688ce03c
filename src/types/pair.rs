//! A key and its value as the store keeps them.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A storage path and its value in one allocation, which clones share: a large
/// state consists of little else.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// Length of the key (8 bytes, little-endian), key, value.
    bytes: Arc<[u8]>,
}

/// A value of the store; clones share its bytes.
#[derive(Clone)]
pub struct StoredValue {
    bytes: Arc<[u8]>,
    start: usize,
}

impl Pair {
    /// Copies both.
    #[must_use]
    pub fn new(key: &str, value: &[u8]) -> Self {
        let key_end = HEAD_BYTES + key.len();
        let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, key_end + value.len()).collect();
        let target = Arc::get_mut(&mut bytes).expect("nobody else knows it yet");
        target[..HEAD_BYTES].copy_from_slice(&(key.len() as u64).to_le_bytes());
        target[HEAD_BYTES..key_end].copy_from_slice(key.as_bytes());
        target[key_end..].copy_from_slice(value);
        Self { bytes }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &str {
        str::from_utf8(self.key_bytes()).expect("it was text")
    }

    /// The key's bytes, which order as keys do.
    #[must_use]
    pub fn key_bytes(&self) -> &[u8] {
        &self.bytes[HEAD_BYTES..self.key_end()]
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.bytes[self.key_end()..]
    }

    /// The value, to keep.
    #[must_use]
    pub fn stored(&self) -> StoredValue {
        StoredValue {
            bytes: Arc::clone(&self.bytes),
            start: self.key_end(),
        }
    }

    /// The key's length in 8 bytes, little-endian, the key, the value: another
    /// pair has other bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Key and value, one behind the other.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        &self.bytes[HEAD_BYTES..]
    }

    /// Whether another clone lives.
    #[cfg(test)]
    #[must_use]
    pub fn is_held_elsewhere(&self) -> bool {
        1 < Arc::strong_count(&self.bytes)
    }

    fn key_end(&self) -> usize {
        let head = self.bytes.first_chunk().expect("every pair has one");
        // It was a length in memory.
        HEAD_BYTES + u64::from_le_bytes(*head) as usize
    }
}

impl StoredValue {
    /// Whether they are not only equal but the same bytes in memory, so that
    /// whatever was made of one holds for the other.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.bytes, &other.bytes)
    }
}

impl Deref for StoredValue {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl PartialEq for StoredValue {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl Eq for StoredValue {}

// Values hold ciphertext, but a log line is no place for them either way.
impl fmt::Debug for StoredValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", self.len())
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.key(), self.value().len())
    }
}

const HEAD_BYTES: usize = 8;

#[cfg(test)]
mod tests {
    use super::Pair;

    #[test]
    fn pair_gives_back_what_it_was_made_of() {
        for (key, value) in [
            ("", &b""[..]),
            ("a/b", b""),
            ("", b"v"),
            ("grün", b"\xFF\0"),
        ] {
            let pair = Pair::new(key, value);
            assert_eq!((pair.key(), pair.value()), (key, value));
            assert_eq!(pair.content(), [key.as_bytes(), value].concat());
            assert_eq!(pair.stored()[..], *value);
        }
    }

    #[test]
    fn same_value_is_one_in_memory() {
        let (one, other) = (Pair::new("a", b"v"), Pair::new("a", b"v"));
        assert_eq!(one.stored(), other.stored());
        assert!(one.stored().is_same(&one.clone().stored()));
        assert!(!one.stored().is_same(&other.stored()));
    }

    #[test]
    fn where_the_key_ends_is_part_of_a_pair() {
        assert_ne!(Pair::new("ab", b"c"), Pair::new("a", b"bc"));
    }
}
