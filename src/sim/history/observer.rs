//! The trait through which a simulation tells what happened.

use std::fmt;

use crate::raft::message::Message;
use crate::raft::{Effect, Input, Recovered, Status};
use crate::sim::history::Verdict;
use crate::types::{Incarnation, LogIndex, Mark, Millis, NodeId};

/// One life of one member's data directory. A wiped or cloned directory is
/// another server under an old name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life {
    /// Its name.
    pub node: NodeId,
    /// Which of its directories.
    pub incarnation: Incarnation,
}

impl Default for Life {
    /// Nobody.
    fn default() -> Self {
        Self {
            node: NodeId(0),
            incarnation: Incarnation::default(),
        }
    }
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}#{:x}", self.node, self.incarnation.0)
    }
}

/// One call of [`crate::raft::Raft::step_all`].
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Who stepped.
    pub life: Life,
    /// Its time.
    pub now: Millis,
    /// What it was told, in order.
    pub inputs: &'a [Input],
    /// What it wants done, in order; nothing of it has been done yet.
    pub effects: &'a [Effect],
    /// What it is now.
    pub status: &'a Status,
}

/// Listens to a simulation. Every method may find a violation, which ends the
/// run.
///
/// Order matters. For one node: `started`, then steps; of each step `stepped`
/// first, then, while its effects are carried out, `sent` for each message
/// that leaves at once. When the disk has made a write durable: `durable`, then
/// `sent` for each message that waited for it, then the step with
/// [`Input::Durable`]. A crash is told when it happens, with nothing about what
/// survived: the next `started` shows that. Events of different nodes mix
/// freely.
pub trait Observer {
    /// A core was created from what its disk held, before its first step.
    ///
    /// # Errors
    /// The violation that this proves.
    fn started(&mut self, life: Life, recovered: &Recovered, status: &Status) -> Verdict;

    /// A core handled inputs.
    ///
    /// # Errors
    /// The violation that this proves.
    fn stepped(&mut self, step: &Step<'_>) -> Verdict;

    /// A message left a node: its `after` is durable, entries from the log are
    /// filled in. Whether it arrives shows in the inputs of the receiver.
    ///
    /// # Errors
    /// The violation that this proves.
    fn sent(&mut self, from: Life, to: NodeId, message: &Message) -> Verdict;

    /// Every write up to `mark` is on the disk and stays there.
    ///
    /// # Errors
    /// The violation that this proves.
    fn durable(&mut self, life: Life, mark: Mark) -> Verdict;

    /// The store executed `first..=last`; `digest` is that of its state then.
    /// A restored snapshot executes nothing: `first` is then `last.next()`.
    ///
    /// # Errors
    /// The violation that this proves.
    fn executed(&mut self, life: Life, first: LogIndex, last: LogIndex, digest: u64) -> Verdict;

    /// The process is gone: of writes that were not reported durable, some
    /// first ones may have survived.
    ///
    /// # Errors
    /// The violation that this proves.
    fn crashed(&mut self, life: Life) -> Verdict;

    /// A damaged log is written anew from what peers gave (D-030), or its
    /// process ends meanwhile: the next `started` shows which.
    ///
    /// # Errors
    /// The violation that this proves.
    fn repaired(&mut self, _life: Life) -> Verdict {
        Ok(())
    }
}
