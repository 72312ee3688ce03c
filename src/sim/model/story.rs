//! A path as people read it: what happened, and what the nodes it happened to
//! are afterwards, in the notation of the transcripts.

use std::fmt::Write;

use crate::sim::notation;

use super::local::{Local, Output, Stimulus};
use super::violation::Violation;
use super::world::{Action, State, World};

/// Walks the states with these fingerprints again, up to the violation.
/// Returns how many steps that takes, and their story.
pub(super) fn tell(
    world: &mut World,
    initial: &State,
    path: &[u64],
    violation: &Violation,
) -> (usize, String) {
    let mut text = String::from("start\n");
    for node in 0..world.node_count() {
        line(&mut text, &describe(world.local(initial, node)));
    }
    let mut state = initial.clone();
    let mut found = Vec::new();
    for (position, fingerprint) in path.iter().enumerate() {
        found.clear();
        world.successors(&state, &mut found);
        let next = found.iter().find_map(|(action, after)| match after {
            Ok(after) if world.fingerprint(after) == *fingerprint => Some((action, after)),
            _ => None,
        });
        let (action, after) = next.expect("it was found from here before");
        let _ = writeln!(text, "\n{}. {}", position + 1, name(world, &state, action));
        changes(&mut text, world, &state, after);
        state = after.clone();
    }
    found.clear();
    world.successors(&state, &mut found);
    let last = |property: &str| {
        found
            .iter()
            .find(|(_, after)| matches!(after, Err(other) if other.property == property))
    };
    let (action, after) = last(violation.property).expect("it was found from here before");
    let _ = writeln!(
        text,
        "\n{}. {}",
        path.len() + 1,
        name(world, &state, action)
    );
    if let Err(violation) = after {
        line(&mut text, &format!("VIOLATION {violation}"));
    }
    (path.len() + 1, text)
}

fn line(text: &mut String, line: &str) {
    let _ = writeln!(text, "   {line}");
}

/// What a step is called.
fn name(world: &World, state: &State, action: &Action) -> String {
    let slowly = |prompt: &bool, node: usize| {
        let was_slow = !world.local(state, node).pending.is_empty();
        if *prompt || was_slow {
            ""
        } else {
            " (its disk is slow)"
        }
    };
    match action {
        Action::Local {
            node,
            stimulus,
            prompt,
        } => {
            let what = happening(world.stimulus(*stimulus));
            format!("{:?} {what}{}", world.id(*node), slowly(prompt, *node))
        }
        Action::Deliver {
            parcel,
            keep,
            prompt,
        } => {
            let parcel = world.parcel(*parcel);
            let what = match &parcel.content {
                Output::Message { message, .. } => notation::message(message),
                Output::Snapshot { meta, .. } => format!("snapshot {}/{}", meta.term, meta.index),
            };
            let again = if *keep { " (and a copy stays)" } else { "" };
            let slow = slowly(prompt, parcel.to().0 as usize - 1);
            format!("{:?} -> {:?} {what}{again}{slow}", parcel.from, parcel.to())
        }
        Action::Break { parcel } => {
            let parcel = world.parcel(*parcel);
            format!("the stream {:?} -> {:?} breaks", parcel.from, parcel.to())
        }
        Action::Campaign { node } => {
            format!(
                "{:?} times out, is granted pre-votes, campaigns",
                world.id(*node)
            )
        }
        Action::Elect { node, electors } => {
            let electors: Vec<_> = (0..world.node_count())
                .filter(|other| electors & (1 << other) != 0)
                .map(|other| world.id(other))
                .collect();
            format!(
                "{:?} times out and is elected by {electors:?}",
                world.id(*node)
            )
        }
    }
}

fn happening(stimulus: &Stimulus) -> String {
    match stimulus {
        Stimulus::Timeout => "times out".to_owned(),
        Stimulus::Heartbeat => "heartbeats".to_owned(),
        Stimulus::Wait => "sends again what has no answer".to_owned(),
        Stimulus::Propose(number) => format!("is asked to append command {number}"),
        Stimulus::Read(id) => format!("is asked to read ({})", id.0),
        Stimulus::Change(changes) => format!("is asked for {changes:?}"),
        Stimulus::Transfer(to) => format!("is asked to hand over to {to:?}"),
        Stimulus::TakeSnapshot => "takes a snapshot".to_owned(),
        Stimulus::Sync { all: true } => "syncs its disk".to_owned(),
        Stimulus::Sync { all: false } => "syncs one write".to_owned(),
        Stimulus::Crash {
            survivors,
            published,
        } => {
            let published = if *published {
                ", the snapshot was published"
            } else {
                ""
            };
            format!("crashes and starts again ({survivors} pending writes survive{published})")
        }
        Stimulus::Deliver { .. } | Stimulus::Stage(_) | Stimulus::Streamed { .. } => {
            unreachable!("told as deliveries")
        }
    }
}

/// The nodes that changed, and what is newly on its way.
fn changes(text: &mut String, world: &World, before: &State, after: &State) {
    for node in 0..world.node_count() {
        if before.locals[node] != after.locals[node] {
            line(text, &describe(world.local(after, node)));
        }
    }
    for parcel in &after.network {
        if !before.network.contains(parcel) {
            let parcel = world.parcel(*parcel);
            let what = match &parcel.content {
                Output::Message { message, .. } => notation::message(message),
                Output::Snapshot { .. } => "a snapshot".to_owned(),
            };
            line(
                text,
                &format!("{:?} sends {:?} {what}", parcel.from, parcel.to()),
            );
        }
    }
}

fn describe(local: &Local) -> String {
    let vote = local.written.hard_state.vote;
    let vote = vote.map_or("-".to_owned(), |id| format!("{id:?}"));
    let mut text = format!(
        "{:?} {} vote={vote} log={}",
        local.id,
        notation::status(&local.raft.status()),
        notation::entries(&local.written.entries)
    );
    for (mark, write) in &local.pending {
        let _ = write!(
            text,
            "\n      pending {}: {}",
            notation::mark(mark),
            notation::write(write)
        );
    }
    text
}
