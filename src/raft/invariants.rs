//! What must hold after every step, cheap enough to be asserted in production:
//! a core that finds itself in the wrong must not go on to tell others.

use crate::raft::{Raft, State};
use crate::types::{LogIndex, NodeId, Term};

/// What a step must not take back.
#[derive(Debug)]
pub(super) struct Before {
    term: Term,
    vote: Option<NodeId>,
    commit: LogIndex,
    last: LogIndex,
    leads: bool,
}

impl Before {
    pub(super) fn of(raft: &Raft) -> Self {
        Self {
            term: raft.term,
            vote: raft.vote,
            commit: raft.log.commit(),
            last: raft.log.last().index,
            leads: matches!(raft.state, State::Leader(_)),
        }
    }
}

pub(super) fn check(raft: &Raft, before: &Before) {
    terms_and_votes_stay(raft, before);
    positions_are_ordered(raft);
    commit_stays(raft, before);
    leader_counts_only_its_own_term(raft, before);
    leader_only_appends(raft, before);
    candidate_votes_for_itself(raft);
    held_writes_wait_for_a_transfer(raft);
    diverged_node_leads_nobody(raft);
    lease_needs_a_settled_leader(raft);
    peers_match_below_next(raft);
    written_state_is_current(raft);
    memberships_lie_in_the_log(raft);
}

fn terms_and_votes_stay(raft: &Raft, before: &Before) {
    assert!(before.term <= raft.term, "the term went back");
    if before.term == raft.term && before.vote.is_some() {
        assert_eq!(
            before.vote, raft.vote,
            "the vote of {:?} changed",
            raft.term
        );
    }
}

fn positions_are_ordered(raft: &Raft) {
    let log = &raft.log;
    let snapshot = log.snapshot().index;
    assert!(
        log.base() <= snapshot,
        "purged {:?}, snapshot {snapshot:?}",
        log.base()
    );
    assert!(
        log.applied() <= log.handed(),
        "applied what was not handed out"
    );
    assert!(
        log.handed() <= log.commit(),
        "handed out what is not committed"
    );
    assert!(
        log.commit() <= log.last().index,
        "committed what is not there"
    );
    assert!(log.durable() <= log.last().index, "durable beyond the end");
    // While a received snapshot waits for the disk, the store lags behind it.
    let store_follows = snapshot <= log.handed() || raft.restoring.is_some();
    assert!(store_follows, "the store lacks the snapshot {snapshot:?}");
}

fn commit_stays(raft: &Raft, before: &Before) {
    assert!(
        before.commit <= raft.log.commit(),
        "the commit index went back"
    );
}

/// Thesis figure 3.7.
fn leader_counts_only_its_own_term(raft: &Raft, before: &Before) {
    let leads_on = before.leads && matches!(raft.state, State::Leader(_));
    let commit = raft.log.commit();
    if leads_on && before.term == raft.term && before.commit < commit {
        assert_eq!(
            raft.log.term_at(commit),
            Some(raft.term),
            "a leader counted an entry of another term"
        );
    }
}

fn candidate_votes_for_itself(raft: &Raft) {
    if matches!(raft.state, State::Candidate(_) | State::Leader(_)) {
        assert_eq!(
            raft.vote,
            Some(raft.config.id),
            "campaigns or leads without its own vote"
        );
    }
}

fn held_writes_wait_for_a_transfer(raft: &Raft) {
    if let State::Leader(lead) = &raft.state {
        assert!(
            raft.held.count() == 0 || lead.transfer.is_some(),
            "a leader holds writes for no reason"
        );
    }
}

fn diverged_node_leads_nobody(raft: &Raft) {
    assert!(
        raft.digests.diverged.is_none() || matches!(raft.state, State::Follower),
        "leads, or wants to, with a wrong state"
    );
}

/// What the argument of `lease` rests on, said again where it is checked.
fn lease_needs_a_settled_leader(raft: &Raft) {
    if raft.lease_until().is_none() {
        return;
    }
    let State::Leader(lead) = &raft.state else {
        panic!("a lease without leadership");
    };
    assert!(lead.transfer.is_none(), "a lease during a transfer");
    assert!(raft.is_settled(), "a lease before all was committed");
}

fn leader_only_appends(raft: &Raft, before: &Before) {
    if before.leads && before.term == raft.term {
        assert!(
            before.last <= raft.log.last().index,
            "a leader lost entries"
        );
    }
    if let State::Leader(lead) = &raft.state {
        assert_eq!(
            raft.leader,
            Some(raft.config.id),
            "leads and follows another"
        );
        assert_eq!(
            raft.accepted_term, raft.term,
            "leads with a log it does not trust"
        );
        assert_eq!(
            raft.durability.durable().term,
            raft.term,
            "leads in a term not durable"
        );
        assert_eq!(
            raft.log.last().term,
            raft.term,
            "leads without an entry of its own"
        );
        assert!(
            lead.first_index <= raft.log.last().index,
            "its first entry is gone"
        );
    }
}

fn peers_match_below_next(raft: &Raft) {
    let State::Leader(lead) = &raft.state else {
        return;
    };
    let last = raft.log.last().index;
    for (id, peer) in &lead.peers {
        assert!(
            peer.match_index < peer.next_index,
            "{id:?}: match not below next"
        );
        assert!(
            peer.match_index <= last,
            "{id:?}: matches what is not there"
        );
        assert!(
            peer.next_index <= last.next(),
            "{id:?}: next beyond the end"
        );
        assert!(*id != raft.config.id, "a leader is its own peer");
    }
}

fn written_state_is_current(raft: &Raft) {
    let written = raft.durability.written();
    assert_eq!(
        (written.term, written.vote),
        (raft.term, raft.vote),
        "unwritten term or vote"
    );
    assert!(
        written.commit_index <= raft.log.commit(),
        "wrote a commit index ahead of it"
    );
    assert!(!raft.log.has_unwritten(), "unwritten entries");
}

fn memberships_lie_in_the_log(raft: &Raft) {
    let active = raft.memberships.active();
    assert!(
        active.index <= raft.log.last().index,
        "a membership beyond the log"
    );
    let committed = raft.memberships.committed();
    assert!(
        committed.index <= raft.log.commit(),
        "the first membership is not committed"
    );
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;

    use super::*;
    use crate::raft::stage::{Stage, config, membership};
    use crate::raft::{Divergence, RequestId};
    use crate::types::{Entry, EntryPayload, Millis, SnapshotMeta};

    type Breach = fn(&mut Raft, &mut Before);

    fn complaint(stage: &Stage, breach: Breach) -> String {
        let mut raft = stage.core.clone();
        let mut before = Before::of(&raft);
        check(&raft, &before);
        breach(&mut raft, &mut before);
        let checked = catch_unwind(AssertUnwindSafe(|| check(&raft, &before)));
        let panic = checked.expect_err("nothing was noticed");
        let literal = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        literal
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .expect("words")
    }

    #[test]
    fn broken_leader_is_noticed() {
        let breaches: [(&str, Breach); 13] = [
            ("the term went back", |_, before| before.term = Term(9)),
            ("the vote of t2 changed", |raft, _| raft.vote = None),
            ("the commit index went back", |_, before| {
                before.commit = LogIndex(9);
            }),
            ("leads without its own vote", |raft, before| {
                raft.vote = None;
                before.vote = None;
            }),
            ("holds writes for no reason", |raft, _| {
                raft.hold(RequestId(1), EntryPayload::Noop, Millis(0));
            }),
            ("with a wrong state", |raft, _| {
                raft.digests.diverged = Some(Divergence {
                    index: LogIndex(1),
                    own: 1,
                    agreed: 2,
                });
            }),
            ("a leader lost entries", |_, before| {
                before.last = LogIndex(9)
            }),
            ("leads and follows another", |raft, _| {
                raft.leader = Some(NodeId(2));
            }),
            ("a log it does not trust", |raft, _| {
                raft.accepted_term = Term(1);
            }),
            ("match not below next", |raft, _| {
                peer(raft).next_index = LogIndex(0);
            }),
            ("matches what is not there", |raft, _| {
                peer(raft).match_index = LogIndex(9);
                peer(raft).next_index = LogIndex(10);
            }),
            ("next beyond the end", |raft, _| {
                peer(raft).next_index = LogIndex(9);
            }),
            ("a membership beyond the log", |raft, _| {
                raft.memberships.append(&[Entry {
                    index: LogIndex(9),
                    term: Term(2),
                    payload: EntryPayload::Membership(Arc::new(membership(1, 0))),
                }]);
            }),
        ];
        let stage = Stage::leading(config(), membership(3, 0));
        for (words, breach) in breaches {
            let complaint = complaint(&stage, breach);
            assert!(complaint.contains(words), "{words}: {complaint}");
        }
    }

    #[test]
    fn broken_follower_is_noticed() {
        let breaches: [(&str, Breach); 2] = [
            ("unwritten term or vote", |raft, _| raft.term = Term(9)),
            ("the store lacks the snapshot", |raft, _| {
                raft.log.reset(&SnapshotMeta {
                    index: LogIndex(9),
                    term: Term(1),
                    ..SnapshotMeta::default()
                });
            }),
        ];
        let stage = Stage::new(config(), membership(3, 0));
        for (words, breach) in breaches {
            let complaint = complaint(&stage, breach);
            assert!(complaint.contains(words), "{words}: {complaint}");
        }
    }

    // Figure 8 of the Raft paper: the first entry, of term 1, is not its own.
    #[test]
    fn leader_that_counts_an_older_entry_is_noticed() {
        let stage = Stage::elected(config(), membership(3, 0));
        let complaint = complaint(&stage, |_, before| before.commit = LogIndex(0));
        assert!(
            complaint.contains("an entry of another term"),
            "{complaint}"
        );
        let mut before = Before::of(&stage.core);
        before.commit = LogIndex(0);
        before.leads = false;
        check(&stage.core, &before);
    }

    fn peer(raft: &mut Raft) -> &mut crate::raft::progress::Progress {
        let State::Leader(lead) = &mut raft.state else {
            panic!("it leads");
        };
        lead.peers.get_mut(&NodeId(2)).expect("a voter")
    }
}
