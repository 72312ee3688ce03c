//! A restore in progress: chunks gather beside the state until the last step
//! swaps them in.

use crate::types::{Outcome, Pair, RestoreProgress, RestoreStep};

use super::entries::Entries;

/// What a restore has gathered.
#[derive(Clone, Default)]
pub struct Shadow {
    /// Which restore, and how many chunks of it came.
    pub progress: RestoreProgress,
    /// The entries so far.
    pub entries: Entries,
}

/// What a step asks of the store.
pub enum Step {
    /// The shadow changed, or nothing did.
    Done(Outcome),
    /// These entries replace the state.
    Replace(Entries),
}

/// Takes one step. A refused step changes nothing.
pub fn step(shadow: &mut Option<Shadow>, step: RestoreStep) -> Step {
    match step {
        RestoreStep::Begin { id } => {
            *shadow = Some(Shadow {
                progress: RestoreProgress { id, chunk_count: 0 },
                entries: Entries::default(),
            });
            Step::Done(Outcome::Applied)
        }
        RestoreStep::Chunk {
            id,
            sequence,
            entries,
        } => Step::Done(gather(shadow, id, sequence, entries)),
        RestoreStep::Commit { id, chunk_count } => commit(shadow, id, chunk_count),
        RestoreStep::Abort { id } => match in_progress(shadow, id) {
            None => refused(NOT_IN_PROGRESS),
            Some(_) => {
                *shadow = None;
                Step::Done(Outcome::Applied)
            }
        },
    }
}

fn gather(
    shadow: &mut Option<Shadow>,
    id: u128,
    sequence: u64,
    entries: Vec<(String, Vec<u8>)>,
) -> Outcome {
    let Some(shadow) = in_progress(shadow, id) else {
        return Outcome::RestoreRefused {
            reason: NOT_IN_PROGRESS,
        };
    };
    if sequence != shadow.progress.chunk_count {
        return Outcome::RestoreRefused {
            reason: OUT_OF_SEQUENCE,
        };
    }
    for (key, value) in entries {
        shadow.entries.put(Pair::new(&key, &value));
    }
    shadow.progress.chunk_count += 1;
    Outcome::Applied
}

fn commit(shadow: &mut Option<Shadow>, id: u128, chunk_count: u64) -> Step {
    match in_progress(shadow, id) {
        None => refused(NOT_IN_PROGRESS),
        Some(gathered) if gathered.progress.chunk_count != chunk_count => refused(INCOMPLETE),
        Some(gathered) => {
            let entries = std::mem::take(&mut gathered.entries);
            *shadow = None;
            Step::Replace(entries)
        }
    }
}

fn in_progress(shadow: &mut Option<Shadow>, id: u128) -> Option<&mut Shadow> {
    shadow.as_mut().filter(|shadow| shadow.progress.id == id)
}

fn refused(reason: &'static str) -> Step {
    Step::Done(Outcome::RestoreRefused { reason })
}

const NOT_IN_PROGRESS: &str = "this restore is not in progress";
const OUT_OF_SEQUENCE: &str = "a restore chunk is missing or repeated";
const INCOMPLETE: &str = "the restore ends with another number of chunks than were gathered";
