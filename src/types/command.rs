//! What the replicated store executes. Everything undetermined (time, random
//! bytes) was settled before a command was proposed.

use std::fmt;

use bincode::{BorrowDecode, Decode, Encode};

/// The payload of [`super::EntryPayload::Command`], encoded by `codec`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Command {
    /// All or nothing.
    Transaction(Transaction),
    /// One step of replacing the whole state by an archive's.
    Restore(RestoreStep),
}

/// A batch of storage operations, applied together if every precondition
/// holds. Operations on one key apply in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Transaction {
    /// Must all hold at the moment of applying.
    pub preconditions: Vec<Precondition>,
    /// What to do then.
    pub operations: Vec<Operation>,
}

/// One storage operation.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub enum Operation {
    /// Sets a key.
    Put {
        /// Storage path, e.g. `core/mounts`.
        key: String,
        /// Barrier ciphertext (or one of the few plaintext core entries).
        value: Vec<u8>,
    },
    /// Removes a key; absent is fine.
    Delete {
        /// Storage path.
        key: String,
    },
}

/// Holds when the value at `key` equals `expected` byte for byte (`None`:
/// absent). Ciphertexts carry random nonces, so equal bytes mean that nobody
/// wrote in between.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Precondition {
    /// Storage path.
    pub key: String,
    /// The value as it was read.
    pub expected: Option<Vec<u8>>,
}

/// A [`Command`] as it lies in an entry: whoever executes it copies keys and
/// values once, to where they stay.
#[derive(Debug, PartialEq, Eq, BorrowDecode)]
pub enum CommandRef<'a> {
    /// As [`Command::Transaction`].
    Transaction(TransactionRef<'a>),
    /// As [`Command::Restore`].
    Restore(RestoreStep),
}

/// A [`Transaction`] as it lies in an entry.
#[derive(Debug, PartialEq, Eq, BorrowDecode)]
pub struct TransactionRef<'a> {
    /// As [`Transaction::preconditions`].
    pub preconditions: Vec<PreconditionRef<'a>>,
    /// As [`Transaction::operations`].
    pub operations: Vec<OperationRef<'a>>,
}

/// An [`Operation`] as it lies in an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorrowDecode)]
pub enum OperationRef<'a> {
    /// As [`Operation::Put`].
    Put {
        /// Storage path.
        key: &'a str,
        /// Its value.
        value: &'a [u8],
    },
    /// As [`Operation::Delete`].
    Delete {
        /// Storage path.
        key: &'a str,
    },
}

/// A [`Precondition`] as it lies in an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorrowDecode)]
pub struct PreconditionRef<'a> {
    /// Storage path.
    pub key: &'a str,
    /// The value as it was read.
    pub expected: Option<&'a [u8]>,
}

impl Transaction {
    /// The same, borrowed.
    #[must_use]
    pub fn borrowed(&self) -> TransactionRef<'_> {
        let preconditions = self
            .preconditions
            .iter()
            .map(|precondition| PreconditionRef {
                key: &precondition.key,
                expected: precondition.expected.as_deref(),
            });
        let operations = self.operations.iter().map(|operation| match operation {
            Operation::Put { key, value } => OperationRef::Put { key, value },
            Operation::Delete { key } => OperationRef::Delete { key },
        });
        TransactionRef {
            preconditions: preconditions.collect(),
            operations: operations.collect(),
        }
    }
}

/// Restoring an archive travels through the log like everything else: chunks
/// gather in a shadow map, the last step swaps it in, on every node at the
/// same index. A newer `Begin` discards what an older one gathered.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub enum RestoreStep {
    /// Starts gathering under a random id.
    Begin {
        /// Names this restore.
        id: u128,
    },
    /// Adds entries; `sequence` counts from 0 without gaps.
    Chunk {
        /// Which restore.
        id: u128,
        /// Position of this chunk.
        sequence: u64,
        /// Keys and values.
        entries: Vec<(String, Vec<u8>)>,
    },
    /// Replaces the state by what was gathered.
    Commit {
        /// Which restore.
        id: u128,
        /// How many chunks there must have been.
        chunk_count: u64,
    },
    /// Discards what was gathered.
    Abort {
        /// Which restore.
        id: u128,
    },
}

/// What applying a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Applied,
    /// A precondition did not hold; nothing was changed.
    PreconditionFailed {
        /// The first key whose value differed.
        key: String,
    },
    /// A restore step that fits no restore in progress; nothing was changed.
    RestoreRefused {
        /// Why.
        reason: &'static str,
    },
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { key, value } => write!(f, "put {key} [{}]", value.len()),
            Self::Delete { key } => write!(f, "delete {key}"),
        }
    }
}

impl fmt::Debug for Precondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self.expected.as_ref().map(Vec::len);
        write!(f, "{} is {length:?}", self.key)
    }
}

impl fmt::Debug for RestoreStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begin { id } => write!(f, "begin {id:x}"),
            Self::Chunk {
                id,
                sequence,
                entries,
            } => {
                write!(f, "chunk {id:x} #{sequence} [{}]", entries.len())
            }
            Self::Commit { id, chunk_count } => write!(f, "commit {id:x} of {chunk_count}"),
            Self::Abort { id } => write!(f, "abort {id:x}"),
        }
    }
}
