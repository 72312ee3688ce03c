//! From a failing history to one a person can read.
//!
//! Two cuts are sound, because neither can turn a legal history into an
//! illegal one: ending the history earlier (what had not returned by then
//! becomes open), and dropping an operation that changes no state. Dropping a
//! write would be unsound: a read of its value would fail for no reason.

use std::time::{Duration, Instant};

use super::history::Operation;
use super::model::Model;
use super::wgl::{self, Limits, Outcome};

/// Each trial of the shrinker, at most.
const TRIAL_STEPS: u64 = 2_000_000;
const TRIAL_CACHE_BYTES: usize = 256 << 20;
/// All of them, at most, and never past the deadline of the check itself.
const GRACE: Duration = Duration::from_secs(2);

/// The shortest failing prefix, without the observations that do not matter.
pub(super) fn smallest_failing(
    model: Model,
    operations: Vec<Operation>,
    deadline: Instant,
) -> Vec<Operation> {
    let deadline = deadline.min(Instant::now() + GRACE);
    let shortest = shortest_failing_prefix(model, operations, deadline);
    drop_observations(model, shortest, deadline)
}

fn fails(model: Model, operations: &[Operation], deadline: Instant) -> bool {
    let limits = Limits {
        deadline,
        steps: TRIAL_STEPS,
        cache_bytes: TRIAL_CACHE_BYTES,
    };
    matches!(
        wgl::search(model, operations, limits).outcome,
        Outcome::Illegal
    )
}

/// What was known right after position `end`.
fn prefix(operations: &[Operation], end: u64) -> Vec<Operation> {
    operations
        .iter()
        .filter(|operation| operation.call <= end)
        .map(|operation| Operation {
            returned: operation.returned.filter(|&returned| returned <= end),
            ..operation.clone()
        })
        .filter(|operation| operation.returned.is_some() || !operation.action.is_observation())
        .collect()
}

fn shortest_failing_prefix(
    model: Model,
    operations: Vec<Operation>,
    deadline: Instant,
) -> Vec<Operation> {
    let mut returns: Vec<u64> = operations.iter().filter_map(|o| o.returned).collect();
    returns.sort_unstable();
    // Failing is monotone in the end: bisect for the first failing one.
    let first_failing =
        returns.partition_point(|&end| !fails(model, &prefix(&operations, end), deadline));
    match returns.get(first_failing) {
        Some(&end) => prefix(&operations, end),
        None => operations,
    }
}

fn drop_observations(
    model: Model,
    mut operations: Vec<Operation>,
    deadline: Instant,
) -> Vec<Operation> {
    let mut at = 0;
    while at < operations.len() && Instant::now() < deadline {
        if operations[at].action.is_observation() {
            let dropped = operations.remove(at);
            if fails(model, &operations, deadline) {
                continue;
            }
            operations.insert(at, dropped);
        }
        at += 1;
    }
    operations
}
