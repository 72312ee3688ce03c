//! ReadValid: a read sees whatever any node knew to be committed when it was
//! asked.

use std::collections::BTreeMap;

use crate::raft::RequestId;
use crate::sim::history::{Life, Property, Verdict, Violation};
use crate::types::LogIndex;

/// Reads under way, and what each must see.
#[derive(Debug, Default)]
pub(super) struct Reads {
    floors: BTreeMap<(Life, RequestId), LogIndex>,
}

impl Reads {
    pub(super) fn asked(&mut self, life: Life, id: RequestId, committed: LogIndex) {
        self.floors.insert((life, id), committed);
    }

    pub(super) fn refused(&mut self, life: Life, id: RequestId) {
        self.floors.remove(&(life, id));
    }

    pub(super) fn ready(&mut self, life: Life, id: RequestId, index: LogIndex) -> Verdict {
        let floor = self.floors.remove(&(life, id));
        let valid = floor.is_some_and(|floor| floor <= index);
        Violation::unless(valid, Property::ReadValid, life, || {
            let asked = floor.map_or("it was not asked".to_owned(), |floor| {
                format!("{floor:?} was committed when it was asked")
            });
            (asked, format!("{id:?} reads at {index:?}"))
        })
    }

    pub(super) fn crashed(&mut self, life: Life) {
        self.floors.retain(|(asker, _), _| *asker != life);
    }
}
