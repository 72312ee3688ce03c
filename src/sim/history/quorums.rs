//! QuorumIntersection, by trying every way to divide the voters in two.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::sim::history::image::{LogImage, life_of};
use crate::sim::history::{Life, Property, Verdict, Violation};
use crate::types::Membership;

/// One half of a membership: those of it who would agree, and how many must.
struct Half {
    willing: u64,
    majority: u32,
}

/// Whether two sets of voters, with nobody in common, could each decide: one
/// under `a`, one under `b`.
fn can_split(a: &[Half], b: &[Half], everybody: u32) -> bool {
    let agree = |halves: &[Half], side: u64| {
        halves
            .iter()
            .all(|half| half.majority <= (half.willing & side).count_ones())
    };
    (0..1u64 << everybody).any(|side| agree(a, side) && agree(b, !side))
}

fn halves(membership: &Membership, order: &[Life], willing: impl Fn(Life) -> bool) -> Vec<Half> {
    let both = [&membership.voters, &membership.voters_outgoing];
    let half = |voters: &BTreeSet<_>| {
        let lives = voters.iter().map(|id| life_of(membership, *id));
        let bit = |life: Life| order.iter().position(|known| *known == life);
        let bits = lives.filter(|life| willing(*life)).filter_map(bit);
        Half {
            willing: bits.fold(0, |bits, bit| bits | 1 << bit),
            majority: voters.len() as u32 / 2 + 1,
        }
    };
    both.into_iter()
        .filter(|voters| !voters.is_empty())
        .map(half)
        .collect()
}

fn voters(memberships: [&Membership; 2]) -> Vec<Life> {
    let all = memberships.into_iter().flat_map(|membership| {
        let ids = membership.voters.union(&membership.voters_outgoing);
        ids.map(|id| life_of(membership, *id))
    });
    all.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Memberships that follow each other in a log.
pub(super) fn adjacent(life: Life, before: &Membership, after: &Membership) -> Verdict {
    let order = voters([before, after]);
    let (a, b) = (
        halves(before, &order, |_| true),
        halves(after, &order, |_| true),
    );
    // Before the first membership nobody decides anything.
    let split = !a.is_empty() && can_split(&a, &b, order.len() as u32);
    Violation::unless(!split, Property::QuorumIntersection, life, || {
        (format!("{before:?} is followed by"), format!("{after:?}"))
    })
}

/// Memberships under which two nodes could be elected, were all to start anew
/// from their disks: nobody may find voters that the other does not need.
pub(super) fn electable(candidate: Life, disks: &[(Life, &LogImage)]) -> Verdict {
    let Some((_, mine)) = disks.iter().find(|(life, _)| *life == candidate) else {
        return Ok(());
    };
    let Some(membership) = mine.membership() else {
        return Ok(());
    };
    for (rival, theirs) in disks.iter().filter(|(life, _)| *life != candidate) {
        let Some(other) = theirs
            .membership()
            .filter(|other| !Arc::ptr_eq(other, membership))
        else {
            continue;
        };
        if other == membership || !other.is_voter(rival.node) {
            continue;
        }
        let order = voters([membership, other]);
        let grants = |log: &LogImage| {
            let (index, term) = log.last();
            move |voter: Life| {
                let disk = disks.iter().find(|(life, _)| *life == voter);
                disk.is_some_and(|(_, disk)| {
                    let last = disk.last();
                    (last.1, last.0) <= (term, index)
                })
            }
        };
        let a = halves(membership, &order, grants(mine));
        let b = halves(other, &order, grants(theirs));
        let split = can_split(&a, &b, order.len() as u32);
        Violation::unless(!split, Property::QuorumIntersection, candidate, || {
            let known = format!("{rival:?} could be elected under {other:?}");
            (
                known,
                format!("{candidate:?} without its voters under {membership:?}"),
            )
        })?;
    }
    Ok(())
}
