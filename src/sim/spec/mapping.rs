//! From what the core says and saves to what the specification knows of it.

use std::sync::Arc;

use super::log::{Config, Entry, Log, Saved, Value};
use super::said::{Said, Told, What};
use crate::codec;
use crate::raft::Recovered;
use crate::raft::message::{AppendResult, Message};
use crate::sim::history::Life;
use crate::types::{self, EntryPayload, LogIndex, Membership, NodeId, SnapshotMeta};

/// A membership: members are the lives that joined.
pub(super) fn config(membership: &Membership) -> Arc<Config> {
    let life = |id: &NodeId| Life {
        node: *id,
        incarnation: membership
            .members
            .get(id)
            .map(|member| member.incarnation)
            .unwrap_or_default(),
    };
    Arc::new(Config {
        voters: membership.voters.iter().map(life).collect(),
        outgoing: membership.voters_outgoing.iter().map(life).collect(),
    })
}

pub(super) fn entry(entry: &types::Entry) -> Entry {
    Entry {
        term: entry.term,
        value: value(&entry.payload),
    }
}

pub(super) fn value(payload: &EntryPayload) -> Value {
    match payload {
        EntryPayload::Noop => Value::Command(0),
        EntryPayload::Command(bytes) => Value::Command(command(bytes)),
        EntryPayload::Membership(membership) => Value::Config(config(membership)),
    }
}

/// Stands for a list of entries.
pub(super) fn digest(entries: &[types::Entry]) -> u64 {
    let mix = |sum: u64, word: u64| (sum.rotate_left(7) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    entries.iter().fold(entries.len() as u64, |sum, entry| {
        let value = match &entry.payload {
            EntryPayload::Noop => 0,
            EntryPayload::Command(bytes) => command(bytes),
            EntryPayload::Membership(membership) => {
                let voters = membership.voters.iter().chain(&membership.voters_outgoing);
                voters.fold(1, |sum, id| mix(sum, id.0))
            }
        };
        mix(mix(sum, entry.term.0), value)
    })
}

/// Stands for a command; never 0, which is nothing.
pub(super) fn command(bytes: &[u8]) -> u64 {
    u64::from(codec::crc32(0, bytes)) | 1 << 32
}

/// What a disk held at start.
pub(super) fn saved(recovered: &Recovered) -> Saved {
    let Recovered {
        hard_state,
        snapshot,
        entries,
        ..
    } = recovered;
    let none = SnapshotMeta::default();
    let meta = snapshot.as_ref().unwrap_or(&none);
    let position = (meta.membership_index, config(&meta.membership));
    let mut start = (meta.index, meta.term);
    let mut rest = entries.as_slice();
    if let Some(first) = entries
        .first()
        .filter(|first| first.index.previous() != meta.index)
    {
        // Entries from further back: the first stands for all before it.
        let whole = first.index == LogIndex(1);
        start = if whole {
            Default::default()
        } else {
            (first.index, first.term)
        };
        rest = &entries[usize::from(!whole)..];
    }
    let mut log = Log::starting_at(start, position);
    rest.iter().map(entry).for_each(|entry| log.append(entry));
    Saved {
        term: hard_state.term,
        vote: hard_state.vote,
        log,
    }
}

/// What a message says, in so many words.
pub(super) fn said(message: &Message) -> Vec<Said> {
    let term = message.term();
    let what = match message {
        Message::AppendResponse {
            result,
            read_context,
            ..
        } => {
            let first = match result {
                AppendResult::Matched { match_index } => What::Ack(*match_index),
                AppendResult::Rejected { .. } => What::Other(0),
            };
            let heard = What::Heard(*read_context);
            return vec![Said { term, what: first }, Said { term, what: heard }];
        }
        _ => one(message),
    };
    vec![Said { term, what }]
}

fn one(message: &Message) -> What {
    match message {
        Message::VoteRequest { pre: true, .. } => What::Speculation(0),
        Message::VoteRequest {
            last_index,
            last_term,
            ..
        } => What::Campaign((*last_index, *last_term)),
        Message::VoteResponse {
            pre: true,
            granted: true,
            ..
        } => What::Speculation(1),
        Message::VoteResponse { granted: true, .. } => What::Vote,
        Message::VoteResponse { .. } => What::Other(1),
        Message::AppendEntries {
            prev_index,
            prev_term,
            entries,
            commit_index,
            read_context,
            ..
        } => {
            let told = Told {
                commit: *commit_index,
                round: *read_context,
            };
            What::Append((*prev_index, *prev_term), digest(entries), told)
        }
        Message::AppendResponse { .. } => What::Other(0),
        Message::Heartbeat {
            commit_index,
            read_context,
            ..
        } => What::Beat(Told {
            commit: *commit_index,
            round: *read_context,
        }),
        Message::HeartbeatResponse { read_context, .. } => What::Heard(*read_context),
        Message::InstallSnapshot { meta, .. } => What::Install((meta.index, meta.term)),
        Message::InstallSnapshotResponse { match_index, .. } => What::Ack(*match_index),
        Message::TimeoutNow { .. } => What::TimeoutNow,
        Message::ReadIndexRequest { context, .. } => What::AskRead(*context),
        Message::ReadIndexResponse { context, index, .. } => match index {
            Some(index) => What::Read(*context, *index),
            None => What::Other(2),
        },
    }
}
