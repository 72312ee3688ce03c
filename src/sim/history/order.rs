//! Order and MatchDurable: the positions of one node, and what a leader thinks
//! of its peers.

use std::collections::BTreeMap;

use crate::raft::{PeerStatus, Status};
use crate::sim::history::image::{LogImage, life_of};
use crate::sim::history::{Life, Property, Verdict, Violation};
use crate::types::{LogIndex, NodeId};

/// Applied, committed, last: in this order, and last as it was written.
pub(super) fn positions(life: Life, status: &Status, written: &LogImage) -> Verdict {
    let Status {
        applied_index,
        commit_index,
        last_index,
        last_term,
        ..
    } = status;
    let ordered = applied_index <= commit_index
        && commit_index <= last_index
        && (*last_index, *last_term) == written.last();
    Violation::unless(ordered, Property::Order, life, || {
        let known = format!("a log to {:?} was written", written.last());
        let log = format!("ends at {last_term:?}/{last_index:?}");
        let found = format!("it {log}, commit {commit_index:?}, applied {applied_index:?}");
        (known, found)
    })
}

/// What goes is covered by a snapshot.
pub(super) fn purge(life: Life, through: LogIndex, snapshot: LogIndex) -> Verdict {
    Violation::unless(through <= snapshot, Property::Order, life, || {
        let known = format!("its snapshot covers {snapshot:?}");
        (known, format!("it purges through {through:?}"))
    })
}

/// Of each peer: match below next, and what is newly counted is on its disk,
/// in the life that is the member. `seen` is what was counted before.
pub(super) fn matches<'a>(
    life: Life,
    status: &Status,
    written: &LogImage,
    seen: &mut BTreeMap<NodeId, LogIndex>,
    durable: impl Fn(Life) -> Option<&'a LogImage>,
) -> Verdict {
    for (id, peer) in &status.peers {
        let PeerStatus {
            match_index,
            next_index,
            ..
        } = peer;
        Violation::unless(match_index < next_index, Property::Order, life, || {
            let known = format!("{id:?} matches {match_index:?}");
            (known, format!("{next_index:?} is next"))
        })?;
        if seen.insert(*id, *match_index) == Some(*match_index) || *match_index == LogIndex(0) {
            continue;
        }
        let disk = durable(life_of(&status.membership, *id));
        // In a later term the tail may be cut again.
        let Some(disk) = disk.filter(|disk| disk.hard_state.term <= status.term) else {
            continue;
        };
        let term = written.held(*match_index).map(|held| held.term);
        let holds = term.map_or(*match_index <= disk.last().0, |term| {
            disk.has(*match_index, term)
        });
        Violation::unless(holds, Property::MatchDurable, life, || {
            let known = format!("the disk of {id:?} ends at {:?}", disk.last());
            (known, format!("{match_index:?} is counted"))
        })?;
    }
    Ok(())
}
