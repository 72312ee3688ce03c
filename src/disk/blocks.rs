//! Bytes in memory where direct I/O wants them.

use super::BLOCK_BYTES;

/// A growing buffer whose first byte lies on a block boundary, so that writing
/// it past the page cache needs no copy. What it has grown to is kept.
#[derive(Debug, Default)]
pub struct BlockBuffer {
    /// `start` bytes of nothing, then the content.
    bytes: Vec<u8>,
    start: usize,
}

impl BlockBuffer {
    /// Empty, with room for this many bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        let mut buffer = Self::default();
        buffer.reserve(capacity);
        buffer
    }

    /// This many zeros.
    #[must_use]
    pub fn zeroed(length: usize) -> Self {
        let mut buffer = Self::with_capacity(length);
        buffer.resize(length);
        buffer
    }

    /// Number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// The bytes, to change.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }

    /// Adds bytes at the end.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// Cuts, or adds zeros.
    pub fn resize(&mut self, length: usize) {
        self.reserve(length.saturating_sub(self.len()));
        self.bytes.resize(self.start + length, 0);
    }

    /// Forgets the bytes, and the room if it is more than `kept_max` bytes.
    pub fn clear(&mut self, kept_max: usize) {
        if kept_max + BLOCK_BYTES < self.bytes.capacity() {
            *self = Self::default();
        }
        self.bytes.truncate(self.start);
    }

    fn reserve(&mut self, additional: usize) {
        if additional <= self.bytes.capacity() - self.bytes.len() {
            return;
        }
        // Growing in place could move the content off its boundary.
        let wanted = (self.len() + additional).max(2 * self.len());
        let mut bytes: Vec<u8> = Vec::with_capacity(wanted + BLOCK_BYTES);
        let start = bytes.as_ptr().align_offset(BLOCK_BYTES);
        bytes.resize(start, 0);
        bytes.extend_from_slice(self.as_slice());
        *self = Self { bytes, start };
    }
}

/// Whether bytes may go past the page cache from where they are.
pub(super) fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().align_offset(BLOCK_BYTES) == 0
}

#[cfg(test)]
mod tests {
    use super::{BlockBuffer, is_aligned};
    use crate::disk::BLOCK_BYTES;

    #[test]
    fn content_stays_on_its_boundary_however_it_grows() {
        let mut buffer = BlockBuffer::default();
        let mut expected = Vec::new();
        for number in 0..3000_usize {
            let piece = vec![number as u8; number % 37];
            buffer.extend_from_slice(&piece);
            expected.extend_from_slice(&piece);
            if number % 100 == 0 {
                let length = expected.len().next_multiple_of(32);
                buffer.resize(length);
                expected.resize(length, 0);
            }
            assert!(buffer.is_empty() || is_aligned(buffer.as_slice()));
        }
        assert_eq!(buffer.len(), expected.len());
        assert!(buffer.as_slice() == expected);
        buffer.as_mut_slice()[7] = 1;
        expected[7] = 1;
        buffer.resize(9);
        assert_eq!(buffer.as_slice(), &expected[..9]);
    }

    #[test]
    fn cleared_buffer_keeps_as_much_as_it_is_told() {
        let mut buffer = BlockBuffer::zeroed(8 * BLOCK_BYTES);
        buffer.clear(8 * BLOCK_BYTES);
        assert!(buffer.is_empty() && 8 * BLOCK_BYTES <= buffer.bytes.capacity());
        buffer.extend_from_slice(&[5; 3]);
        assert!(is_aligned(buffer.as_slice()));
        buffer.clear(BLOCK_BYTES);
        assert_eq!(buffer.bytes.capacity(), 0);
        assert_eq!(BlockBuffer::zeroed(5).as_slice(), [0; 5]);
    }
}
