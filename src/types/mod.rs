//! The vocabulary every module shares: identities, log entries, membership,
//! commands. No logic beyond small accessors, no I/O, no clock.

mod command;
mod entry;
mod ids;
mod membership;
mod pair;
mod persist;
mod repair;
mod state;

pub use command::{
    Command, CommandRef, Operation, OperationRef, Outcome, Precondition, PreconditionRef,
    RestoreStep, Transaction, TransactionRef,
};
pub use entry::{Entry, EntryPayload};
pub use ids::{ByteCount, ClusterId, Incarnation, LogIndex, Millis, NodeId, Sequence, Term};
pub use membership::{Member, Membership, MembershipChange};
pub use pair::{Pair, StoredValue};
pub use persist::{HardState, LogWrite, Mark, SnapshotMeta};
pub use repair::{RepairAnswer, RepairAsk, RepairMessage};
pub use state::{Checkpoint, Record, RestoreProgress, StateHeader};
