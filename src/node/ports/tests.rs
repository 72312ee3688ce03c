//! What those who wait are told when nobody can answer them any more.

use super::*;
use crate::node::event::ProposalResult;

fn reply() -> (ProposalReply, oneshot::Receiver<ProposalResult>) {
    let (outcome, receiver) = oneshot::channel();
    let reply = ProposalReply {
        accepted: None,
        outcome,
        displaced_is_undone: true,
        _permit: None,
    };
    (reply, receiver)
}

// What is in the log may yet be committed by others: "failed" would be a lie
// (C9). What never got there certainly is not done.
#[test]
fn write_in_the_log_of_a_stopped_node_is_unknown() {
    let mut pending = Pending::default();
    let (asked, mut asked_answer) = reply();
    pending.add_proposal(asked);
    let mut in_log = |index| {
        let (reply, answer) = reply();
        let term = Term(1);
        let waiter = Waiter { term, reply };
        pending
            .waiters
            .entry(LogIndex(index))
            .or_default()
            .push(waiter);
        answer
    };
    let (mut covered, mut left) = (in_log(4), in_log(9));
    pending.covered(LogIndex(5));
    pending.close(&PhysicalError::NotRunning);
    let is_unknown = |answer: &mut oneshot::Receiver<ProposalResult>| {
        matches!(
            answer.try_recv(),
            Ok(Err(PhysicalError::OutcomeUnknown { .. }))
        )
    };
    assert!(is_unknown(&mut covered), "a snapshot went over it");
    assert!(is_unknown(&mut left), "the node stopped");
    assert!(matches!(
        asked_answer.try_recv(),
        Ok(Err(PhysicalError::NotRunning))
    ));
}
