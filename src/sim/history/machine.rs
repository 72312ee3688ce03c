//! StateMachine: stores execute one position after the other and agree.

use std::collections::BTreeMap;

use crate::sim::history::{Life, Property, Verdict, Violation};
use crate::types::LogIndex;

/// What the stores of a cluster were at each position.
#[derive(Debug, Default)]
pub(super) struct Machine {
    digests: BTreeMap<LogIndex, u64>,
}

impl Machine {
    /// A store went from `before` through `first..=last`, of which everything
    /// up to `committed` is known to be committed.
    pub(super) fn executed(
        &mut self,
        life: Life,
        before: LogIndex,
        positions: (LogIndex, LogIndex),
        digest: u64,
        committed: LogIndex,
    ) -> Verdict {
        let (first, last) = positions;
        let restored = last < first;
        let follows = restored || first == before.next();
        let sides = || {
            (
                format!("it executed {before:?}"),
                format!("then {first:?}..={last:?}"),
            )
        };
        Violation::unless(follows, Property::StateMachine, life, sides)?;
        Violation::unless(last <= committed, Property::StateMachine, life, || {
            (
                format!("{committed:?} is committed"),
                format!("it executed {last:?}"),
            )
        })?;
        let known = *self.digests.entry(last).or_insert(digest);
        Violation::unless(known == digest, Property::StateMachine, life, || {
            let known = format!("the state at {last:?} is {known:x}");
            (known, format!("here {digest:x}"))
        })
    }
}
