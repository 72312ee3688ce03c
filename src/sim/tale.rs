//! How a run is told: cores, messages and states in a few words.

use std::fmt::Write;

use crate::codec::crc32;
use crate::raft::message::{AppendResult, Message};
use crate::raft::{Effect, Input, Role, Status};
use crate::store::View;
use crate::types::{LogWrite, RepairMessage};

use super::network::Letter;
use super::world::World;

/// A digest of everything a store holds.
pub(super) fn digest(view: &View) -> u64 {
    let mut low = 0;
    let mut high = 1;
    for record in view.records() {
        for bytes in [record.pair.key_bytes(), record.pair.value()] {
            low = crc32(low, bytes);
            high = crc32(high, &low.to_le_bytes());
        }
    }
    let place = [view.applied_term().0, view.membership_index().0];
    for number in place {
        low = crc32(low, &number.to_le_bytes());
    }
    u64::from(high) << 32 | u64::from(low)
}

pub(super) fn status(status: &Status) -> String {
    let role = match status.role {
        Role::Follower => "follower",
        Role::PreCandidate => "pre-candidate",
        Role::Candidate => "candidate",
        Role::Leader if status.ready => "leader",
        Role::Leader => "leader, not ready",
    };
    format!(
        "{role} in {:?}, log to {:?}/{:?}, committed {:?}, applied {:?}",
        status.term, status.last_term, status.last_index, status.commit_index, status.applied_index
    )
}

/// What a step came to.
pub(super) fn step(world: &World, inputs: &[Input], effects: &[Effect]) -> String {
    let mut parts: Vec<String> = inputs.iter().filter_map(input).collect();
    parts.extend(effects.iter().filter_map(|item| effect(world, item)));
    parts.join("; ")
}

/// Members by their names, which history does not know.
pub(super) fn named(world: &World, text: &str) -> String {
    let servers = world.servers.iter();
    servers.fold(text.to_owned(), |text, server| {
        text.replace(&format!("{:?}", server.id), &server.name)
    })
}

fn input(input: &Input) -> Option<String> {
    Some(match input {
        Input::Durable(mark) => format!("durable {:?}", mark.sequence),
        Input::SnapshotTaken(meta) => format!("snapshot of {:?} taken", meta.index),
        Input::SnapshotStreamed { delivered, .. } => format!(
            "stream ended: {:?}",
            delivered.as_ref().map(|meta| meta.index)
        ),
        _ => return None,
    })
}

fn effect(world: &World, effect: &Effect) -> Option<String> {
    Some(match effect {
        Effect::Persist { mark, write } => {
            format!("write {:?}:{}", mark.sequence, self::write(world, write))
        }
        Effect::Apply { entries } => {
            let last = entries.last().map(|entry| entry.index);
            format!("apply to {last:?}")
        }
        Effect::RestoreSnapshot(meta) => format!("restore snapshot of {:?}", meta.index),
        Effect::ProposalAccepted { id, index, .. } => format!("{id:?} is {index:?}"),
        Effect::Rejected { id, reason } => format!("{id:?} rejected: {reason}"),
        Effect::ReadReady { id, index } => format!("{id:?} may be read at {index:?}"),
        Effect::StreamSnapshot { to, .. } => format!("stream a snapshot to {}", world.name(*to)),
        Effect::Purge { through } => format!("purge to {through:?}"),
        Effect::MembershipActive { index, membership } => {
            let names = |ids: &std::collections::BTreeSet<crate::types::NodeId>| {
                ids.iter().map(|id| world.name(*id)).collect::<Vec<_>>()
            };
            format!(
                "members at {index:?}: voters {:?} outgoing {:?} learners {:?}",
                names(&membership.voters),
                names(&membership.voters_outgoing),
                names(&membership.learners)
            )
        }
        _ => return None,
    })
}

/// What a write carries, each part with a blank before it.
fn write(world: &World, write: &LogWrite) -> String {
    let mut text = String::new();
    if let Some(state) = write.hard_state {
        let vote = state.vote.map_or("nobody".into(), |id| world.name(id));
        let (term, commit) = (state.term, state.commit_index);
        let _ = write!(text, " {term:?}, vote for {vote}, committed {commit:?}");
    }
    if let Some(meta) = &write.reset_to {
        let _ = write!(text, " reset to {:?}", meta.index);
    }
    if let Some(from) = write.truncate_from {
        let _ = write!(text, " cut from {from:?}");
    }
    if let (Some(first), Some(last)) = (write.entries.first(), write.entries.last()) {
        let _ = write!(text, " entries {:?}..={:?}", first.index, last.index);
    }
    text
}

pub(super) fn letter(letter: &Letter) -> String {
    match letter {
        Letter::Core(core) => message(core),
        Letter::Repair(RepairMessage::Ask(ask)) => {
            let (first, last, anchor) = (ask.first, ask.last, ask.anchor);
            format!("lost {first:?} to {last:?}, anchored at {anchor:?}: who has them?")
        }
        Letter::Repair(RepairMessage::Answer(answer)) => {
            let entries = answer.entries.iter().map(|entry| (entry.index, entry.term));
            format!(
                "of {:?} to {:?}, anchor held {}: {:?}; committed {:?}, log from {:?}, snapshot {:?}",
                answer.ask.first,
                answer.ask.last,
                answer.is_anchored,
                entries.collect::<Vec<_>>(),
                answer.committed,
                answer.log_first,
                answer.snapshot_index
            )
        }
        Letter::Repair(RepairMessage::AskSnapshot) => "a snapshot, please".to_owned(),
    }
}

pub(super) fn message(message: &Message) -> String {
    let term = message.term();
    let text = match message {
        Message::VoteRequest {
            pre,
            last_index,
            last_term,
            transfer,
            ..
        } => {
            let kind = if *pre { "pre-vote" } else { "vote" };
            let why = if *transfer { " (transfer)" } else { "" };
            format!("{kind}? log {last_term:?}/{last_index:?}{why}")
        }
        Message::VoteResponse { pre, granted, .. } => {
            let kind = if *pre { "pre-vote" } else { "vote" };
            format!("{kind} {}", if *granted { "granted" } else { "refused" })
        }
        Message::AppendEntries {
            prev_index,
            prev_term,
            entries,
            commit_index,
            ..
        } => format!(
            "append {} after {prev_term:?}/{prev_index:?}, committed {commit_index:?}",
            entries.len()
        ),
        Message::AppendResponse { result, .. } => match result {
            AppendResult::Matched { match_index } => format!("matched {match_index:?}"),
            AppendResult::Rejected {
                prev_index,
                hint_index,
                ..
            } => format!("no {prev_index:?}, try {hint_index:?}"),
        },
        Message::Heartbeat { commit_index, .. } => format!("heartbeat, committed {commit_index:?}"),
        Message::HeartbeatResponse { .. } => "heartbeat answered".into(),
        Message::InstallSnapshot { meta, .. } => format!("install snapshot of {:?}", meta.index),
        Message::InstallSnapshotResponse { match_index, .. } => {
            format!("installed {match_index:?}")
        }
        Message::TimeoutNow { .. } => "campaign now".into(),
        Message::ReadIndexRequest { context, .. } => format!("read? #{context:x}"),
        Message::ReadIndexResponse { context, index, .. } => {
            format!("read #{context:x}: {index:?}")
        }
    };
    format!("{term:?} {text}")
}
