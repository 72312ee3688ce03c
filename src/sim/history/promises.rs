//! What a node says of itself: durable before it is said, and true.

use crate::raft::message::{AppendResult, Message};
use crate::raft::{Effect, Input};
use crate::sim::history::image::LogImage;
use crate::sim::history::{Life, Property, Step, Verdict, Violation};
use crate::types::{LogIndex, NodeId, Term};

/// TermDurable, VoteDurable, AckDurable: a message leaves while `disk` is what
/// its sender would wake up with.
pub(super) fn sent(from: Life, to: NodeId, message: &Message, disk: &LogImage) -> Verdict {
    let term = message.term();
    let (hard_state, last) = (disk.hard_state, disk.last());
    let sides = || {
        let durable = format!("{hard_state:?} and a log to {last:?} are durable");
        (durable, format!("{message:?} leaves for {to:?}"))
    };
    if !is_speculative(message) {
        Violation::unless(term <= hard_state.term, Property::TermDurable, from, sides)?;
    }
    match message {
        Message::VoteResponse {
            pre: false,
            granted: true,
            ..
        } => {
            let kept = term < hard_state.term || hard_state.vote == Some(to);
            Violation::unless(kept, Property::VoteDurable, from, sides)
        }
        Message::VoteRequest {
            pre: false,
            last_index,
            last_term,
            ..
        } => {
            // E11: a grant may outlive the entry it was given for. (When
            // another leads the same term the log may have become more
            // complete meanwhile.)
            let complete = (*last_term, *last_index) <= (last.1, last.0);
            let own = hard_state.vote == Some(from.node);
            let kept = term < hard_state.term || (own && complete);
            Violation::unless(kept, Property::VoteDurable, from, sides)
        }
        // In a later term the tail may be cut again, whatever was true before.
        _ if term < hard_state.term => Ok(()),
        Message::AppendResponse {
            result: AppendResult::Matched { match_index },
            ..
        }
        | Message::InstallSnapshotResponse { match_index, .. } => {
            Violation::unless(*match_index <= last.0, Property::AckDurable, from, sides)
        }
        _ => Ok(()),
    }
}

/// Names a term that its sender need not be in.
fn is_speculative(message: &Message) -> bool {
    matches!(
        message,
        Message::VoteRequest { pre: true, .. } | Message::VoteResponse { pre: true, .. }
    )
}

/// The positions that peers ask about in this step and that `log` holds.
pub(super) fn held_probes(step: &Step<'_>, log: &LogImage) -> Vec<(NodeId, LogIndex, Term)> {
    let probes = step.inputs.iter().filter_map(probe);
    probes
        .filter(|(_, index, term)| log.has(*index, *term))
        .collect()
}

/// NackHonesty: whoever refuses an append because of the entry before it lacks
/// that entry. `held` is what it held of that before the step, `log` what it
/// has now (within one step an entry may be there only for a while).
pub(super) fn refuses_honestly(
    step: &Step<'_>,
    held: &[(NodeId, LogIndex, Term)],
    log: &LogImage,
) -> Verdict {
    for (to, prev_index) in step.effects.iter().filter_map(refusal) {
        let denied = held.iter().find(|(asker, index, term)| {
            (*asker, *index) == (to, prev_index) && log.has(*index, *term)
        });
        Violation::unless(denied.is_none(), Property::NackHonesty, step.life, || {
            (
                format!("it holds {denied:?}"),
                format!("denies it to {to:?}"),
            )
        })?;
    }
    Ok(())
}

fn refusal(effect: &Effect) -> Option<(NodeId, LogIndex)> {
    let Effect::Send { to, message, .. } = effect else {
        return None;
    };
    match message {
        Message::AppendResponse {
            result: AppendResult::Rejected { prev_index, .. },
            ..
        } => Some((*to, *prev_index)),
        _ => None,
    }
}

fn probe(input: &Input) -> Option<(NodeId, LogIndex, Term)> {
    let Input::Message { from, message, .. } = input else {
        return None;
    };
    match message {
        Message::AppendEntries {
            prev_index,
            prev_term,
            ..
        } => Some((*from, *prev_index, *prev_term)),
        _ => None,
    }
}
