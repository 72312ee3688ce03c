//! Session: a command is committed as often as it was proposed and not
//! refused, at most. What was refused never happens.

use std::collections::BTreeMap;

use crate::raft::RequestId;
use crate::sim::history::image::{Held, hash, is_command};
use crate::sim::history::{Life, Property, Verdict, Violation};
use crate::types::{EntryPayload, LogIndex};

/// How often a command may happen, and how often it has.
#[derive(Clone, Copy, Debug, Default)]
struct Effects {
    allowed: u64,
    seen: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Requests {
    open: BTreeMap<(Life, RequestId), u64>,
    effects: BTreeMap<u64, Effects>,
}

impl Requests {
    pub(super) fn proposed(&mut self, life: Life, id: RequestId, payload: &EntryPayload) {
        let hash = hash(payload);
        self.open.insert((life, id), hash);
        self.effects.entry(hash).or_default().allowed += 1;
    }

    pub(super) fn accepted(&mut self, life: Life, id: RequestId) {
        self.open.remove(&(life, id));
    }

    pub(super) fn refused(&mut self, life: Life, id: RequestId) -> Verdict {
        let Some(hash) = self.open.remove(&(life, id)) else {
            return Ok(());
        };
        self.effects.entry(hash).or_default().allowed -= 1;
        self.check(life, hash)
    }

    /// An entry is committed for the first time.
    pub(super) fn committed(&mut self, life: Life, index: LogIndex, held: Held) -> Verdict {
        if LogIndex(1) < index && is_command(held.hash) {
            self.effects.entry(held.hash).or_default().seen += 1;
            return self.check(life, held.hash);
        }
        Ok(())
    }

    pub(super) fn crashed(&mut self, life: Life) {
        self.open.retain(|(asker, _), _| *asker != life);
    }

    fn check(&self, life: Life, hash: u64) -> Verdict {
        let Effects { allowed, seen } = self.effects.get(&hash).copied().unwrap_or_default();
        Violation::unless(seen <= allowed, Property::Session, life, || {
            let known = format!("command {hash:x} was proposed {allowed} times");
            (known, format!("it is committed {seen} times"))
        })
    }
}
