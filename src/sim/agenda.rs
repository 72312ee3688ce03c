//! What is to happen, and when: one queue for everything.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::fmt;

/// A point of simulated time, in microseconds from the start.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// That many microseconds later.
    #[must_use]
    pub fn plus(self, microseconds: u64) -> Self {
        Self(self.0.saturating_add(microseconds))
    }

    /// That many milliseconds later.
    #[must_use]
    pub fn plus_milliseconds(self, milliseconds: u64) -> Self {
        self.plus(milliseconds.saturating_mul(1000))
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>4}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// Events by time; those of one moment in the order in which they were added.
pub(super) struct Agenda<E> {
    heap: BinaryHeap<Reverse<Item<E>>>,
    added: u64,
}

struct Item<E> {
    at: Moment,
    order: u64,
    event: E,
}

impl<E> Agenda<E> {
    pub fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            added: 0,
        }
    }

    pub fn add(&mut self, at: Moment, event: E) {
        self.added += 1;
        let order = self.added;
        self.heap.push(Reverse(Item { at, order, event }));
    }

    /// The next event that is due by then.
    pub fn next_until(&mut self, end: Moment) -> Option<(Moment, E)> {
        if self.heap.peek()?.0.at > end {
            return None;
        }
        let Reverse(item) = self.heap.pop()?;
        Some((item.at, item.event))
    }
}

impl<E> Ord for Item<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl<E> PartialOrd for Item<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Item<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Item<E> {}
