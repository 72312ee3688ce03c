//! ElectionSafety and VoteOnce: of whole histories, not of the living.

use std::collections::BTreeMap;

use crate::raft::message::Message;
use crate::sim::history::{Life, Property, Verdict, Violation};
use crate::types::{NodeId, Term};

/// Who ever led, and who was ever given a vote.
#[derive(Debug, Default)]
pub(super) struct Elections {
    leaders: BTreeMap<Term, Life>,
    grants: BTreeMap<(Life, Term), NodeId>,
}

impl Elections {
    /// Notes a leader. Returns whether the term had none before.
    pub(super) fn leads(&mut self, life: Life, term: Term) -> Result<bool, Box<Violation>> {
        let is_new = !self.leaders.contains_key(&term);
        let leader = *self.leaders.entry(term).or_insert(life);
        Violation::unless(leader == life, Property::ElectionSafety, life, || {
            (
                format!("{leader:?} led {term:?}"),
                format!("{life:?} leads it"),
            )
        })?;
        Ok(is_new)
    }

    /// A message leaves; a campaign is a vote for oneself.
    pub(super) fn sent(&mut self, from: Life, to: NodeId, message: &Message) -> Verdict {
        let (term, candidate) = match message {
            Message::VoteResponse {
                term,
                pre: false,
                granted: true,
            } => (*term, to),
            Message::VoteRequest {
                term, pre: false, ..
            } => (*term, from.node),
            _ => return Ok(()),
        };
        let known = *self.grants.entry((from, term)).or_insert(candidate);
        Violation::unless(known == candidate, Property::VoteOnce, from, || {
            let known = format!("it voted for {known:?} in {term:?}");
            (known, format!("now for {candidate:?}"))
        })
    }
}
