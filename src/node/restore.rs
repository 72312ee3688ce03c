//! Replacing the whole state through the log: `Begin`, chunks, `Commit`, with
//! a window of chunks whose outcome is still awaited. Anything going wrong
//! ends in `Abort`; only a lost `Commit` leaves doubt.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::physical::{KEY_BYTES_MAX, PhysicalError, RestoreEntries, VALUE_BYTES_MAX};
use crate::types::{Command, Outcome, RestoreStep};

use super::event::{EventSender, OrderedProposal, ProposalResult};

/// Restores from `entries`; returns when the state is applied here.
///
/// # Errors
/// `Refused` for entries over a limit or a store that refuses a step;
/// `OutcomeUnknown` when the last step's fate is; else what the entries or the
/// log say. Except for `OutcomeUnknown` the old state stays.
pub(super) async fn restore(
    events: EventSender,
    entries: RestoreEntries,
) -> Result<(), PhysicalError> {
    let id = uuid::Uuid::new_v4().as_u128();
    let mut pipeline = Pipeline {
        events,
        outstanding: VecDeque::new(),
    };
    let prepared = prepare(&mut pipeline, id, entries).await;
    let chunk_count = match prepared {
        Ok(chunk_count) => chunk_count,
        Err(error) => {
            // Best effort: a later Begin discards what was gathered anyway.
            let _ = pipeline.push(RestoreStep::Abort { id }).await;
            return Err(error);
        }
    };
    pipeline
        .push(RestoreStep::Commit { id, chunk_count })
        .await?;
    pipeline.settle(0).await
}

/// Begins and sends all chunks; how many there were, once all are applied.
async fn prepare(
    pipeline: &mut Pipeline,
    id: u128,
    entries: RestoreEntries,
) -> Result<u64, PhysicalError> {
    pipeline.push(RestoreStep::Begin { id }).await?;
    // Entries are produced by blocking reads: off the async threads.
    let (sender, mut chunks) = mpsc::channel(1);
    let producer = tokio::task::spawn_blocking(move || produce(entries, &sender));
    let mut sequence = 0;
    while let Some(chunk) = chunks.recv().await {
        pipeline
            .push(RestoreStep::Chunk {
                id,
                sequence,
                entries: chunk?,
            })
            .await?;
        sequence += 1;
    }
    producer.await.map_err(|_| PhysicalError::Refused {
        reason: "reading the archive failed".into(),
    })?;
    // The commit must not be in doubt because of a chunk.
    pipeline.settle(0).await.map_err(undone)?;
    Ok(sequence)
}

/// A step before `Commit` in doubt changes nothing visible.
fn undone(error: PhysicalError) -> PhysicalError {
    match error {
        PhysicalError::OutcomeUnknown { reason } => PhysicalError::Unavailable { reason },
        error => error,
    }
}

type Chunk = Vec<(String, Vec<u8>)>;

/// Cuts the entries into chunks of bounded size.
fn produce(entries: RestoreEntries, sender: &mpsc::Sender<Result<Chunk, PhysicalError>>) {
    let mut chunk = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        let (key, value) = match entry.and_then(checked) {
            Ok(entry) => entry,
            Err(error) => {
                // The receiver may have given up already.
                let _ = sender.blocking_send(Err(error));
                return;
            }
        };
        let size = ENTRY_OVERHEAD + key.len() + value.len();
        if bytes + size > CHUNK_BYTES_MAX && !chunk.is_empty() {
            if sender
                .blocking_send(Ok(std::mem::take(&mut chunk)))
                .is_err()
            {
                return;
            }
            bytes = 0;
        }
        bytes += size;
        chunk.push((key, value));
    }
    if !chunk.is_empty() {
        let _ = sender.blocking_send(Ok(chunk));
    }
}

fn checked(entry: (String, Vec<u8>)) -> Result<(String, Vec<u8>), PhysicalError> {
    let (key, value) = &entry;
    if key.len() > KEY_BYTES_MAX {
        return Err(PhysicalError::KeyTooLarge {
            bytes: key.len(),
            max: KEY_BYTES_MAX,
        });
    }
    if value.len() > VALUE_BYTES_MAX {
        return Err(PhysicalError::ValueTooLarge {
            bytes: value.len(),
            max: VALUE_BYTES_MAX,
        });
    }
    Ok(entry)
}

/// Steps on their way through the log.
struct Pipeline {
    events: EventSender,
    outstanding: VecDeque<oneshot::Receiver<ProposalResult>>,
}

impl Pipeline {
    /// Proposes a step after all earlier ones have their place, retrying while
    /// the log is busy; waits while too many outcomes are outstanding.
    async fn push(&mut self, step: RestoreStep) -> Result<(), PhysicalError> {
        self.settle(WINDOW - 1).await?;
        let command = Command::Restore(step);
        for _ in 0..BUSY_TRIES_MAX {
            let OrderedProposal { accepted, outcome } = self.events.propose_in_order(&command)?;
            match accepted.await.unwrap_or(Err(PhysicalError::NotRunning)) {
                Ok(()) => {
                    self.outstanding.push_back(outcome);
                    return Ok(());
                }
                Err(PhysicalError::Busy) => tokio::time::sleep(BUSY_WAIT).await,
                Err(error) => return Err(error),
            }
        }
        Err(PhysicalError::Busy)
    }

    /// Waits until at most `left` outcomes are outstanding.
    async fn settle(&mut self, left: usize) -> Result<(), PhysicalError> {
        while self.outstanding.len() > left {
            let Some(outcome) = self.outstanding.pop_front() else {
                return Ok(());
            };
            let outcome = tokio::time::timeout(OUTCOME_WAIT, outcome)
                .await
                .map_err(|_| PhysicalError::OutcomeUnknown {
                    reason: "a restore step was not committed in time".into(),
                })?
                .map_err(|_| PhysicalError::OutcomeUnknown {
                    reason: "the node stopped during a restore".into(),
                })??;
            match outcome {
                Outcome::Applied => {}
                Outcome::RestoreRefused { reason } => {
                    return Err(PhysicalError::Refused {
                        reason: reason.into(),
                    });
                }
                Outcome::PreconditionFailed { key } => {
                    return Err(PhysicalError::Refused {
                        reason: format!("a restore step depended on {key}"),
                    });
                }
            }
        }
        Ok(())
    }
}

/// Keys and values in one chunk, at most (one entry always fits).
const CHUNK_BYTES_MAX: usize = 512 << 10;
/// What an entry costs beside its bytes.
const ENTRY_OVERHEAD: usize = 16;
/// Steps whose outcome is awaited at one time.
const WINDOW: usize = 8;
/// Between two tries while the log is busy.
const BUSY_WAIT: Duration = Duration::from_millis(10);
/// Tries, i.e. ten seconds.
const BUSY_TRIES_MAX: usize = 1000;
/// For one step to be applied.
const OUTCOME_WAIT: Duration = Duration::from_secs(30);
