//! The search: depth first over "which open operation takes effect next", on a
//! doubly linked list of calls and returns from which placed operations are
//! lifted, with a cache of (set of placed operations, state) already tried.

use std::collections::HashSet;
use std::time::Instant;

use super::history::Operation;
use super::model::{Model, Value};

pub(super) struct Limits {
    pub deadline: Instant,
    pub steps: u64,
    pub cache_bytes: usize,
}

pub(super) enum Outcome {
    Linearizable,
    Illegal,
    /// Undecided: `ran_out` of what, and the most that was ever placed.
    Exhausted {
        ran_out: &'static str,
        placed: usize,
    },
}

pub(super) struct Search {
    pub outcome: Outcome,
    pub steps: u64,
}

/// What a cached configuration takes beyond its set: state, hash, allocation.
const CACHED_OVERHEAD_BYTES: usize = 80;
/// How often the clock is looked at, in steps.
const CLOCK_PERIOD: u64 = 4096;
const NONE: usize = usize::MAX;

/// One event in the list; `operation` indexes the slice.
struct Event {
    operation: usize,
    is_return: bool,
    /// Of a call: its return's position in the arena, or `NONE` when open.
    partner: usize,
    previous: usize,
    next: usize,
}

struct Events {
    arena: Vec<Event>,
    head: usize,
}

impl Events {
    fn new(operations: &[Operation]) -> Self {
        let mut order: Vec<(u64, bool, usize)> = Vec::with_capacity(operations.len() * 2);
        for (position, operation) in operations.iter().enumerate() {
            order.push((operation.call, false, position));
            if let Some(returned) = operation.returned {
                order.push((returned, true, position));
            }
        }
        // Closed intervals: at equal positions calls come first.
        order.sort_unstable();
        let mut call_of = vec![NONE; operations.len()];
        let mut arena: Vec<Event> = Vec::with_capacity(order.len());
        for (at, &(_, is_return, operation)) in order.iter().enumerate() {
            arena.push(Event {
                operation,
                is_return,
                partner: NONE,
                previous: at.checked_sub(1).unwrap_or(NONE),
                next: if at + 1 < order.len() { at + 1 } else { NONE },
            });
            if is_return {
                arena[call_of[operation]].partner = at;
            } else {
                call_of[operation] = at;
            }
        }
        let head = if arena.is_empty() { NONE } else { 0 };
        Self { arena, head }
    }

    fn unlink(&mut self, at: usize) {
        let (previous, next) = (self.arena[at].previous, self.arena[at].next);
        match previous {
            NONE => self.head = next,
            previous => self.arena[previous].next = next,
        }
        if next != NONE {
            self.arena[next].previous = previous;
        }
    }

    fn relink(&mut self, at: usize) {
        let (previous, next) = (self.arena[at].previous, self.arena[at].next);
        match previous {
            NONE => self.head = at,
            previous => self.arena[previous].next = at,
        }
        if next != NONE {
            self.arena[next].previous = at;
        }
    }

    fn lift(&mut self, call: usize) {
        self.unlink(call);
        if self.arena[call].partner != NONE {
            self.unlink(self.arena[call].partner);
        }
    }

    fn unlift(&mut self, call: usize) {
        if self.arena[call].partner != NONE {
            self.relink(self.arena[call].partner);
        }
        self.relink(call);
    }
}

impl Limits {
    /// What has run out, if anything has.
    fn reached(&self, steps: u64, cached_bytes: usize) -> Option<&'static str> {
        if self.steps < steps {
            return Some("steps");
        }
        if self.cache_bytes < cached_bytes {
            return Some("memory");
        }
        let late = steps.is_multiple_of(CLOCK_PERIOD) && self.deadline <= Instant::now();
        late.then_some("time")
    }
}

/// Searches for an order of `operations` (of one key).
pub(super) fn search(model: Model, operations: &[Operation], limits: Limits) -> Search {
    let mut events = Events::new(operations);
    let mut open_returns = operations.iter().filter(|o| o.returned.is_some()).count();
    let mut placed = vec![0_u64; operations.len().div_ceil(64)];
    let mut tried: HashSet<(Box<[u64]>, Value)> = HashSet::new();
    let mut path: Vec<(usize, Value)> = Vec::new();
    let mut state = model.initial();
    let mut at = events.head;
    let mut steps = 0;
    let mut placed_most = 0;
    let outcome = loop {
        if open_returns == 0 {
            break Outcome::Linearizable;
        }
        steps += 1;
        let cached_bytes = tried.len() * (placed.len() * 8 + CACHED_OVERHEAD_BYTES);
        if let Some(ran_out) = limits.reached(steps, cached_bytes) {
            break Outcome::Exhausted {
                ran_out,
                placed: placed_most,
            };
        }
        let is_call = at != NONE && !events.arena[at].is_return;
        if is_call {
            let operation = events.arena[at].operation;
            let next_state = model.step(&state, &operations[operation].action);
            if let Some(next_state) = next_state {
                placed[operation / 64] |= 1 << (operation % 64);
                if tried.insert((placed.clone().into_boxed_slice(), next_state.clone())) {
                    events.lift(at);
                    open_returns -= usize::from(operations[operation].returned.is_some());
                    path.push((at, std::mem::replace(&mut state, next_state)));
                    placed_most = placed_most.max(path.len());
                    at = events.head;
                    continue;
                }
                placed[operation / 64] &= !(1 << (operation % 64));
            }
            at = events.arena[at].next;
            continue;
        }
        // A return whose call is not placed (or the end of the list): nothing
        // that may go first works here, so the last placement was wrong.
        let Some((call, previous_state)) = path.pop() else {
            break Outcome::Illegal;
        };
        let operation = events.arena[call].operation;
        placed[operation / 64] &= !(1 << (operation % 64));
        open_returns += usize::from(operations[operation].returned.is_some());
        events.unlift(call);
        state = previous_state;
        at = events.arena[call].next;
    };
    Search { outcome, steps }
}
