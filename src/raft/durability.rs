//! Which writes are on their way to the disk, and what becomes known when one
//! arrives.
//!
//! Each write is named by a mark, unique in its sequence. What its completion
//! proves about the log is noted when it is issued and *clipped* when the log
//! is truncated, so a completion can never vouch for entries that took the
//! place of those it carried (catalogue R17).

use std::collections::VecDeque;

use crate::types::{HardState, LogIndex, Mark, Millis, Sequence, Term};

/// A write that is not durable yet.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
struct Pending {
    mark: Mark,
    hard_state: HardState,
    /// Whether it carries a new term or vote.
    names_vote: bool,
    /// The log's end it makes durable.
    last: LogIndex,
    issued_at: Millis,
}

/// What a completion proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Completed {
    /// Term in which the write was requested.
    pub(super) accepted_term: Term,
    /// The log is durable up to here, as far as this write goes.
    pub(super) last: LogIndex,
}

/// See the module.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub(super) struct Durability {
    issued: Sequence,
    pending: VecDeque<Pending>,
    written: HardState,
    durable: HardState,
}

impl Durability {
    /// Everything found at start is durable.
    pub(super) fn new(hard_state: HardState) -> Self {
        Self {
            issued: Sequence(0),
            pending: VecDeque::new(),
            written: hard_state,
            durable: hard_state,
        }
    }

    /// The newest hard state handed to the disk.
    pub(super) fn written(&self) -> HardState {
        self.written
    }

    /// The newest hard state known to be on it.
    pub(super) fn durable(&self) -> HardState {
        self.durable
    }

    /// Names a write that leaves the log ending at `last`.
    pub(super) fn issue(&mut self, now: Millis, hard_state: HardState, last: LogIndex) -> Mark {
        assert!(self.written.term <= hard_state.term, "the term goes back");
        let names_vote =
            (self.written.term, self.written.vote) != (hard_state.term, hard_state.vote);
        assert!(
            !names_vote || self.written.term < hard_state.term || self.written.vote.is_none(),
            "the vote of {:?} changes",
            hard_state.term
        );
        self.issued = Sequence(self.issued.0 + 1);
        self.written = hard_state;
        let mark = Mark {
            accepted_term: hard_state.term,
            sequence: self.issued,
        };
        self.pending.push_back(Pending {
            mark,
            hard_state,
            names_vote,
            last,
            issued_at: now,
        });
        mark
    }

    /// Everything up to `mark` is durable. `None`: known before.
    pub(super) fn complete(&mut self, mark: Mark) -> Option<Completed> {
        assert!(mark.sequence <= self.issued, "{mark:?} was never issued");
        let mut newest = None;
        while let Some(front) = self
            .pending
            .front()
            .filter(|p| p.mark.sequence <= mark.sequence)
        {
            newest = Some(*front);
            self.pending.pop_front();
        }
        let newest = newest?;
        assert_eq!(
            newest.mark, mark,
            "completion of a write under another name"
        );
        self.durable = newest.hard_state;
        Some(Completed {
            accepted_term: newest.mark.accepted_term,
            last: newest.last,
        })
    }

    /// The log was cut to end at `last`: no write in flight proves more.
    pub(super) fn clip(&mut self, last: LogIndex) {
        for pending in &mut self.pending {
            pending.last = pending.last.min(last);
        }
    }

    /// What a message must wait for that speaks of the log.
    pub(super) fn after_everything(&self) -> Option<Mark> {
        self.pending.back().map(|pending| pending.mark)
    }

    /// What a message must wait for that speaks only of a term.
    pub(super) fn after_hard_state(&self) -> Option<Mark> {
        self.pending
            .iter()
            .rfind(|pending| pending.names_vote)
            .map(|pending| pending.mark)
    }

    /// Since when the oldest write has been waiting for the disk.
    pub(super) fn waiting_since(&self) -> Option<Millis> {
        self.pending.front().map(|pending| pending.issued_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hard_state(term: u64) -> HardState {
        HardState {
            term: Term(term),
            ..HardState::default()
        }
    }

    #[test]
    fn clipped_write_proves_only_what_survived() {
        let mut writes = Durability::new(hard_state(1));
        let first = writes.issue(Millis(0), hard_state(1), LogIndex(9));
        writes.clip(LogIndex(4));
        let second = writes.issue(Millis(0), hard_state(2), LogIndex(9));
        assert_eq!(
            writes.complete(first).map(|done| done.last),
            Some(LogIndex(4))
        );
        assert_eq!(writes.durable().term, Term(1));
        assert_eq!(
            writes.complete(second).map(|done| done.last),
            Some(LogIndex(9))
        );
        assert_eq!(writes.complete(second), None);
    }

    #[test]
    fn messages_about_a_term_wait_only_for_it() {
        let mut writes = Durability::new(hard_state(1));
        let vote = writes.issue(Millis(0), hard_state(2), LogIndex(1));
        let entries = writes.issue(Millis(0), hard_state(2), LogIndex(2));
        assert_eq!(writes.after_hard_state(), Some(vote));
        assert_eq!(writes.after_everything(), Some(entries));
        writes.complete(vote);
        assert_eq!(writes.after_hard_state(), None);
    }

    #[test]
    #[should_panic(expected = "the vote of t1 changes")]
    fn second_vote_in_a_term_is_a_broken_program() {
        let vote = |node| HardState {
            vote: Some(crate::types::NodeId(node)),
            ..hard_state(1)
        };
        let mut writes = Durability::new(vote(1));
        writes.issue(Millis(0), vote(2), LogIndex(0));
    }
}
