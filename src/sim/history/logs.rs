//! LogMatching: over every entry that was ever in any log.

use std::collections::BTreeMap;

use crate::sim::history::image::{Held, LogImage};
use crate::sim::history::{Life, Property, Verdict, Violation};
use crate::types::{Entry, LogIndex, Term};

/// Every entry there ever was: what its payload hashes to, and the term of the
/// entry before it.
#[derive(Debug, Default)]
pub(super) struct Logs {
    entries: BTreeMap<(LogIndex, Term), (u64, Term)>,
}

impl Logs {
    /// Index and term name an entry and the one before it, so by induction the
    /// whole prefix. `log` holds the entries already.
    pub(super) fn appended(&mut self, life: Life, log: &LogImage, entries: &[Entry]) -> Verdict {
        let mut before = entries
            .first()
            .and_then(|first| term_before(log, first.index));
        for entry in entries {
            if let Some(term_before) = before {
                self.one(life, entry.index, Held::of(entry), term_before)?;
            }
            before = Some(entry.term);
        }
        Ok(())
    }

    fn one(&mut self, life: Life, index: LogIndex, held: Held, term_before: Term) -> Verdict {
        let found = (held.hash, term_before);
        let known = *self.entries.entry((index, held.term)).or_insert(found);
        Violation::unless(known == found, Property::LogMatching, life, || {
            let name = |(hash, before): (u64, Term)| format!("{hash:x} after {before:?}");
            let known = format!("{:?}/{index:?} is {}", held.term, name(known));
            (known, format!("here {}", name(found)))
        })
    }

    /// The term that position `index` has in the log ending at `last`; `None`
    /// where that is not known any more.
    pub(super) fn ancestor(&self, last: (LogIndex, Term), index: LogIndex) -> Option<Term> {
        let (mut at, mut term) = last;
        while index < at {
            term = self.entries.get(&(at, term))?.1;
            at = at.previous();
        }
        (at == index).then_some(term)
    }
}

fn term_before(log: &LogImage, index: LogIndex) -> Option<Term> {
    let before = index.previous();
    if before == LogIndex(0) {
        return Some(Term(0));
    }
    log.term_at(before)
}

/// LeaderAppendOnly, of a write that a leader asked for and still leads after.
pub(super) fn leader_appends(life: Life, write: &crate::types::LogWrite) -> Verdict {
    let appends = write.truncate_from.is_none() && write.reset_to.is_none();
    Violation::unless(appends, Property::LeaderAppendOnly, life, || {
        let found = format!("cuts from {:?}, {:?}", write.truncate_from, write.reset_to);
        ("it leads".to_owned(), found)
    })
}
