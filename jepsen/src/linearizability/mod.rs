//! Is a recorded history linearizable? Our own checker, so that its verdict can
//! be argued about: WGL (Wing and Gong's search with Lowe's cache) over per-key
//! partitions, a second algorithm of another kind as its oracle, and a witness
//! checker for when a candidate order is known.
//!
//! * Intervals are closed: a call at the same position as a return precedes it.
//! * An operation without a return may take effect at any time after its call,
//!   or never. It is optional: a search succeeds when every *returned*
//!   operation has been placed.
//! * A verdict is `Linearizable`, `Illegal` with a smallest failing
//!   sub-history, or `Unknown` with what ran out. No key may use up what the
//!   others need, so an `Unknown` of one does not hide an `Illegal` of another.
//!
//! Sources: Wing and Gong 1993; Lowe, "Testing for linearizability", 2017.

mod configurations;
mod history;
mod model;
pub mod read;
mod shrink;
mod wgl;
mod witness;

use std::time::{Duration, Instant};

pub use configurations::check_by_configurations;
pub use history::{History, Operation};
pub use model::{Action, Model, Value};
pub use witness::{WitnessFault, check_witness};

/// How far a search may go.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Wall clock for one history.
    pub time: Duration,
    /// Search steps for one history.
    pub steps: u64,
    /// Configurations remembered for one key, in bytes, roughly.
    pub cache_bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(60),
            steps: 200_000_000,
            cache_bytes: 1 << 30,
        }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Some order explains every reply.
    Linearizable,
    /// No order does.
    Illegal {
        /// The key whose operations cannot be ordered.
        key: String,
        /// A smallest failing sub-history: dropping any more of its reads, or
        /// its end, leaves a legal one.
        witness: Vec<Operation>,
    },
    /// The budget ran out first.
    Unknown {
        /// Where, and after how much.
        reason: String,
    },
}

/// A verdict and what it cost.
#[derive(Clone, Debug)]
pub struct Report {
    /// The verdict.
    pub verdict: Verdict,
    /// Operations looked at.
    pub operations: usize,
    /// Search steps.
    pub steps: u64,
}

/// Checks each key by itself, the smallest first, and stops at the first that
/// cannot be ordered.
#[must_use]
pub fn check(model: Model, history: &History, budget: Budget) -> Report {
    let deadline = Instant::now() + budget.time;
    let mut unknown = None;
    let mut steps = 0;
    let partitions = history.partitions(model);
    let mut keys_left = u32::try_from(partitions.len()).unwrap_or(u32::MAX);
    for (key, operations) in partitions {
        let now = Instant::now();
        let limits = wgl::Limits {
            deadline: now + deadline.saturating_duration_since(now) / keys_left,
            steps: budget.steps.saturating_sub(steps) / u64::from(keys_left),
            cache_bytes: budget.cache_bytes,
        };
        keys_left = (keys_left - 1).max(1);
        let search = wgl::search(model, &operations, limits);
        steps += search.steps;
        match search.outcome {
            wgl::Outcome::Linearizable => {}
            wgl::Outcome::Illegal => {
                let witness = shrink::smallest_failing(model, operations, deadline);
                return Report {
                    verdict: Verdict::Illegal { key, witness },
                    operations: history.len(),
                    steps,
                };
            }
            wgl::Outcome::Exhausted { ran_out, placed } => {
                unknown.get_or_insert(format!(
                    "key {key:?}: {ran_out} ran out after {} steps, at most {placed} of {} operations placed",
                    search.steps,
                    operations.len()
                ));
            }
        }
    }
    Report {
        verdict: unknown.map_or(Verdict::Linearizable, |reason| Verdict::Unknown { reason }),
        operations: history.len(),
        steps,
    }
}

#[cfg(test)]
mod tests;
