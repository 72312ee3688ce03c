//! How messages, writes and answers are written down, in transcripts and in
//! every story a simulation tells.

use crate::raft::message::{AppendResult, Message};
use crate::raft::{Effect, Status};
use crate::types::{Entry, EntryPayload, LogWrite, Mark};

/// An entry: term, index, what it says.
#[must_use]
pub fn entry(entry: &Entry) -> String {
    let what = match &entry.payload {
        EntryPayload::Noop => "noop".to_owned(),
        EntryPayload::Command(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
        EntryPayload::Membership(membership) => format!("{membership:?}"),
    };
    format!("{}/{} {what}", entry.term, entry.index)
}

/// Entries in brackets.
#[must_use]
pub fn entries(list: &[Entry]) -> String {
    let each: Vec<String> = list.iter().map(entry).collect();
    format!("[{}]", each.join(", "))
}

/// The name of a write.
#[must_use]
pub fn mark(mark: &Mark) -> String {
    format!("{:?}{:?}", mark.accepted_term, mark.sequence)
}

/// A write.
#[must_use]
pub fn write(write: &LogWrite) -> String {
    let mut words = Vec::new();
    if let Some(state) = write.hard_state {
        let vote = state.vote.map_or("-".to_owned(), |id| format!("{id:?}"));
        words.push(format!(
            "term={} vote={vote} commit={}",
            state.term, state.commit_index
        ));
    }
    if let Some(meta) = &write.reset_to {
        words.push(format!("reset-to={}/{}", meta.term, meta.index));
    }
    if let Some(from) = write.truncate_from {
        words.push(format!("truncate-from={from}"));
    }
    if !write.entries.is_empty() {
        words.push(entries(&write.entries));
    }
    words.join(" ")
}

/// A message.
#[must_use]
pub fn message(message: &Message) -> String {
    if let Some(vote) = vote(message) {
        return vote;
    }
    let rest = match message {
        Message::AppendResponse { result, .. } => append_result(result),
        Message::AppendEntries {
            prev_index,
            prev_term,
            entries,
            commit_index,
            ..
        } => {
            let list = self::entries(entries);
            format!("AppendEntries prev={prev_term}/{prev_index} commit={commit_index} {list}")
        }
        Message::Heartbeat {
            commit_index,
            read_context,
            agreed,
            ..
        } => {
            let agreed = agreed.map_or(String::new(), |state| format!(" agreed={state:?}"));
            format!("Heartbeat commit={commit_index} context={read_context}{agreed}")
        }
        Message::HeartbeatResponse {
            read_context,
            checkpoints,
            ..
        } => {
            let states = if checkpoints.is_empty() {
                String::new()
            } else {
                format!(" states={checkpoints:?}")
            };
            format!("HeartbeatResponse context={read_context}{states}")
        }
        Message::InstallSnapshot { meta, .. } => {
            format!(
                "InstallSnapshot {}/{} {:?}",
                meta.term, meta.index, meta.membership
            )
        }
        Message::InstallSnapshotResponse { match_index, .. } => {
            format!("InstallSnapshotResponse match={match_index}")
        }
        Message::TimeoutNow { .. } => "TimeoutNow".to_owned(),
        Message::ReadIndexRequest { context, .. } => format!("ReadIndexRequest context={context}"),
        Message::ReadIndexResponse { context, index, .. } => {
            let index = index.map_or("none".to_owned(), |index| index.to_string());
            format!("ReadIndexResponse context={context} index={index}")
        }
        Message::VoteRequest { .. } | Message::VoteResponse { .. } => unreachable!("told above"),
    };
    format!("{rest} (term {})", message.term())
}

/// Questions and answers of elections name their term in their own place.
fn vote(message: &Message) -> Option<String> {
    Some(match message {
        Message::VoteRequest {
            pre,
            last_index,
            last_term,
            transfer,
            ..
        } => {
            let kind = if *pre {
                "PreVoteRequest"
            } else {
                "VoteRequest"
            };
            let transfer = if *transfer { " transfer" } else { "" };
            format!(
                "{kind} term={} last={last_term}/{last_index}{transfer}",
                message.term()
            )
        }
        Message::VoteResponse { term, pre, granted } => {
            let kind = if *pre {
                "PreVoteResponse"
            } else {
                "VoteResponse"
            };
            let answer = if *granted { "granted" } else { "refused" };
            format!("{kind} term={term} {answer}")
        }
        _ => return None,
    })
}

fn append_result(result: &AppendResult) -> String {
    match result {
        AppendResult::Matched { match_index } => format!("AppendResponse match={match_index}"),
        AppendResult::Rejected {
            prev_index,
            hint_index,
            hint_term,
        } => format!("AppendResponse rejected={prev_index} hint={hint_term}/{hint_index}"),
    }
}

/// An effect as a line.
#[must_use]
pub fn effect(effect: &Effect) -> String {
    let after = |mark: &Option<Mark>| {
        mark.as_ref().map_or(String::new(), |mark| {
            format!(", after {}", self::mark(mark))
        })
    };
    match effect {
        Effect::Persist { mark, write } => {
            format!("persist {}: {}", self::mark(mark), self::write(write))
        }
        Effect::Send {
            to,
            message,
            after: mark,
        } => {
            format!("-> {to:?} {}{}", self::message(message), after(mark))
        }
        Effect::SendFromLog {
            to,
            message,
            first,
            last,
            ..
        } => {
            format!(
                "-> {to:?} {} from log {first}..={last}",
                self::message(message)
            )
        }
        Effect::Apply { entries } => format!("apply {}", self::entries(entries)),
        Effect::RestoreSnapshot(meta) => format!("restore {}/{}", meta.term, meta.index),
        Effect::ProposalAccepted { id, index, term } => {
            format!("request {}: accepted at {term}/{index}", id.0)
        }
        Effect::AlreadyDone { id } => format!("request {}: already so", id.0),
        Effect::Rejected { id, reason } => format!("request {}: rejected: {reason}", id.0),
        Effect::ReadReady { id, index } => format!("request {}: read at {index}", id.0),
        Effect::TransferStarted { id, target } => {
            format!("request {}: transferring to {target:?}", id.0)
        }
        Effect::StreamSnapshot { to, .. } => format!("stream snapshot to {to:?}"),
        Effect::Purge { through } => format!("purge through {through}"),
        Effect::DigestMismatch(mismatch) => format!("mismatch: {mismatch}"),
        Effect::Diverged(divergence) => format!("diverged: {divergence}"),
        Effect::MembershipActive { index, membership } => {
            format!("membership at {index}: {membership:?}")
        }
    }
}

/// What a node is, in a line.
#[must_use]
pub fn status(status: &Status) -> String {
    let leader = status
        .leader
        .map_or("none".to_owned(), |id| format!("{id:?}"));
    let mut line = format!(
        "{:?} term={} leader={leader} last={}/{} commit={} applied={}",
        status.role,
        status.term,
        status.last_term,
        status.last_index,
        status.commit_index,
        status.applied_index,
    );
    if status.removed {
        line += " removed";
    }
    if status.disk_stalled {
        line += " stalled";
    }
    if status.diverged.is_some() {
        line += " diverged";
    }
    if let Some(until) = status.lease_until {
        line += &format!(" lease-until={until}");
    }
    if 0 < status.held_count {
        line += &format!(" held={}", status.held_count);
    }
    line + &format!(" {:?}", status.membership)
}
