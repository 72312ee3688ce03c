//! When a candidate order is known (the Raft log's), checking it takes
//! n log n: replay it against the model and against real time.

use std::collections::BTreeMap;

use super::history::Operation;
use super::model::{Model, Value};

/// Why an order explains nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WitnessFault {
    /// A returned operation is missing from the order, or one occurs twice.
    NotAPermutation {
        /// Its position among the operations.
        operation: usize,
    },
    /// `later` stands after `earlier` but had returned before it was called.
    RealTime {
        /// Stands first.
        earlier: usize,
        /// Stands second, yet precedes in real time.
        later: usize,
    },
    /// The reply does not fit the state at this place.
    Reply {
        /// The operation.
        operation: usize,
        /// What the state was.
        state: Value,
    },
}

/// Checks that `order` (positions in `operations`; open operations may be
/// missing) is a linearization.
///
/// # Errors
/// The first fault found.
pub fn check_witness(
    model: Model,
    operations: &[Operation],
    order: &[usize],
) -> Result<(), WitnessFault> {
    let mut seen = vec![false; operations.len()];
    let mut states: BTreeMap<&str, Value> = BTreeMap::new();
    let mut latest_call: Option<(u64, usize)> = None;
    for &position in order {
        let unseen = seen.get(position).is_some_and(|seen| !seen);
        if !unseen {
            return Err(WitnessFault::NotAPermutation {
                operation: position,
            });
        }
        seen[position] = true;
        let operation = &operations[position];
        if let (Some((call, earlier)), Some(returned)) = (latest_call, operation.returned)
            && returned < call
        {
            return Err(WitnessFault::RealTime {
                earlier,
                later: position,
            });
        }
        if latest_call.is_none_or(|(call, _)| call < operation.call) {
            latest_call = Some((operation.call, position));
        }
        let state = states
            .entry(&operation.key)
            .or_insert_with(|| model.initial());
        match model.step(state, &operation.action) {
            Some(next) => *state = next,
            None => {
                return Err(WitnessFault::Reply {
                    operation: position,
                    state: state.clone(),
                });
            }
        }
    }
    let missing = (0..operations.len()).find(|&at| !seen[at] && operations[at].returned.is_some());
    match missing {
        Some(operation) => Err(WitnessFault::NotAPermutation { operation }),
        None => Ok(()),
    }
}
