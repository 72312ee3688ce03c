//! The second algorithm, of another kind: breadth first over sets of
//! configurations (Lowe's just-in-time linearization). An operation is placed
//! only when some return demands it. Memory grows with concurrency, so it
//! serves as the oracle of the first one on small histories.

use std::collections::HashSet;

use super::history::{History, Operation};
use super::model::{Model, Value};

/// Whether every key can be ordered; `None` when more than 128 operations of a
/// key are pending at once or a set outgrows `configurations_max`.
#[must_use]
pub fn check_by_configurations(
    model: Model,
    history: &History,
    configurations_max: usize,
) -> Option<bool> {
    for (_, operations) in history.partitions(model) {
        if !key_is_linearizable(model, &operations, configurations_max)? {
            return Some(false);
        }
    }
    Some(true)
}

/// A state, and which pending operations (by slot) have taken effect.
type Configuration = (Value, u128);

fn key_is_linearizable(
    model: Model,
    operations: &[Operation],
    configurations_max: usize,
) -> Option<bool> {
    let mut events: Vec<(u64, bool, usize)> = Vec::new();
    for (position, operation) in operations.iter().enumerate() {
        events.push((operation.call, false, position));
        events.extend(operation.returned.map(|at| (at, true, position)));
    }
    events.sort_unstable();

    let mut slots: [Option<usize>; 128] = [None; 128];
    let mut configurations: HashSet<Configuration> = HashSet::from([(model.initial(), 0)]);
    for (_, is_return, position) in events {
        if !is_return {
            let free = slots.iter().position(Option::is_none)?;
            slots[free] = Some(position);
            continue;
        }
        let slot = slots
            .iter()
            .position(|held| *held == Some(position))
            .expect("a return follows its call");
        configurations = close(
            model,
            operations,
            &slots,
            configurations,
            configurations_max,
        )?
        .into_iter()
        .filter(|(_, placed)| placed & (1 << slot) != 0)
        .map(|(state, placed)| (state, placed & !(1 << slot)))
        .collect();
        slots[slot] = None;
        if configurations.is_empty() {
            return Some(false);
        }
    }
    Some(true)
}

/// Every configuration reachable by letting pending operations take effect.
fn close(
    model: Model,
    operations: &[Operation],
    slots: &[Option<usize>; 128],
    from: HashSet<Configuration>,
    configurations_max: usize,
) -> Option<HashSet<Configuration>> {
    let mut reached = from.clone();
    let mut frontier: Vec<Configuration> = from.into_iter().collect();
    while let Some((state, placed)) = frontier.pop() {
        for (slot, pending) in slots.iter().enumerate() {
            let Some(position) = pending else { continue };
            if placed & (1 << slot) != 0 {
                continue;
            }
            let Some(next) = model.step(&state, &operations[*position].action) else {
                continue;
            };
            let configuration = (next, placed | (1 << slot));
            if reached.insert(configuration.clone()) {
                frontier.push(configuration);
            }
        }
        if configurations_max < reached.len() {
            return None;
        }
    }
    Some(reached)
}
