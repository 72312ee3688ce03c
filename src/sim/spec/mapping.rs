//! From what the core says and saves to what the specification knows of it.

use std::sync::Arc;

use super::log::{At, Config, Entry, Log, Saved, Value};
use super::said::{Said, What};
use crate::codec;
use crate::raft::Recovered;
use crate::raft::message::{AppendResult, Message};
use crate::sim::history::Life;
use crate::types::{self, EntryPayload, LogWrite, Membership, NodeId, SnapshotMeta};

/// A membership: members are the lives that joined.
fn config(membership: &Membership) -> Arc<Config> {
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
        // Never 0, which is nothing.
        EntryPayload::Command(bytes) => Value::Command(u64::from(codec::crc32(0, bytes)) | 1 << 32),
        EntryPayload::Membership(membership) => Value::Config(config(membership)),
    }
}

pub(super) fn at(meta: &SnapshotMeta) -> At {
    (meta.term, meta.index)
}

/// What a disk held at start, with what it had forgotten filled in from
/// `known`.
pub(super) fn saved(recovered: &Recovered, known: &Log) -> Saved {
    let mut entries = recovered.entries.as_slice();
    let snapshot = recovered.snapshot.clone().unwrap_or_default();
    let first = entries.first().map(|first| first.index.previous());
    let mut start = first.unwrap_or(snapshot.index);
    let agrees = |one: &types::Entry| (one.term, one.index) == at(&snapshot);
    if recovered.snapshot.is_some() && start != snapshot.index && !entries.iter().any(agrees) {
        // It was taken in place of the log.
        (start, entries) = (snapshot.index, &[]);
    }
    let mut log = Log::default();
    if known.has(at(&snapshot)) {
        log = known.clone();
        log.keep(start);
    }
    // A directory may begin with a snapshot that nobody is known to have taken:
    // it stands for some entries, of which only the last matter.
    while log.len() < start {
        let is_config = log.len().next() == snapshot.membership_index;
        log.append(Entry {
            term: snapshot.term,
            value: match is_config {
                true => Value::Config(config(&snapshot.membership)),
                false => Value::Command(0),
            },
        });
    }
    entries
        .iter()
        .map(entry)
        .for_each(|entry| log.append(entry));
    Saved {
        term: recovered.hard_state.term,
        vote: recovered.hard_state.vote,
        log,
    }
}

/// What a disk holds after a write; a snapshot that is part of it stands for
/// entries of `memory`. `None`: the write does not fit.
pub(super) fn written(before: &Saved, write: &LogWrite, memory: &Log) -> Option<Saved> {
    let mut after = before.clone();
    if let Some(state) = write.hard_state {
        (after.term, after.vote) = (state.term, state.vote);
    }
    if let Some(meta) = write.reset_to.as_ref() {
        after.log = memory.has(at(meta)).then(|| memory.clone())?;
        after.log.keep(meta.index);
    }
    if let Some(from) = write.truncate_from {
        after.log.keep(from.previous());
    }
    for one in &write.entries {
        if one.index != after.log.len().next() {
            return None;
        }
        after.log.append(entry(one));
    }
    Some(after)
}

/// What a message says, in so many words. A pre-vote binds nobody, and names a
/// term that its sender is not in: it says nothing.
pub(super) fn said(message: &Message) -> Vec<Said> {
    let mut said = vec![one(message)];
    match message {
        Message::VoteRequest { pre: true, .. }
        | Message::VoteResponse {
            pre: true,
            granted: true,
            ..
        } => said.clear(),
        Message::AppendResponse { read_context, .. } => said.push(What::Heard(*read_context)),
        _ => {}
    }
    let term = message.term();
    said.into_iter().map(|what| Said { term, what }).collect()
}

fn one(message: &Message) -> What {
    match message {
        Message::VoteRequest {
            last_index,
            last_term,
            ..
        } => What::Campaign((*last_term, *last_index)),
        Message::VoteResponse { granted: true, .. } => What::Vote,
        Message::AppendEntries {
            prev_index,
            prev_term,
            entries,
            commit_index,
            read_context,
            ..
        } => What::Append(
            (*prev_term, *prev_index),
            entries.iter().map(entry).collect(),
            (*commit_index, *read_context),
        ),
        Message::AppendResponse {
            result: AppendResult::Matched { match_index },
            ..
        }
        | Message::InstallSnapshotResponse { match_index, .. } => What::Ack(*match_index),
        Message::Heartbeat {
            commit_index,
            read_context,
            ..
        } => What::Beat((*commit_index, *read_context)),
        Message::HeartbeatResponse { read_context, .. } => What::Heard(*read_context),
        Message::InstallSnapshot { meta, .. } => What::Install(at(meta)),
        Message::TimeoutNow { .. } => What::TimeoutNow,
        Message::ReadIndexRequest { context, .. } => What::AskRead(*context),
        Message::ReadIndexResponse {
            context,
            index: Some(index),
            ..
        } => What::Read(*context, *index),
        Message::VoteResponse { .. }
        | Message::AppendResponse { .. }
        | Message::ReadIndexResponse { .. } => What::No,
    }
}
