//! The leader lease (off by default): for a while after a quorum has heard this
//! leader nobody else can be elected, so a read needs no round of its own.
//!
//! # Why no other leader can arise while a lease runs
//!
//! A lease starts when a round of heartbeats *left*, and counts once a quorum Q
//! has answered it. Another leader needs the votes of a quorum of its own
//! membership, and that is the lease holder's: the lease is void unless the
//! active membership and an entry of this term were committed before the round
//! left, so a log without them wins no election, and a log with them that names
//! another membership can only stem from this leader, which then appended it
//! and voided the lease. So some member of Q would have to vote. It does not:
//!
//! * It heard the leader after the round left, and grants nobody a vote (nor a
//!   pre-vote) for `election_timeout_min` after it heard a leader of *any* term
//!   ([`Raft::trusts_leader`]); a term that rose meanwhile changes nothing.
//! * It does not campaign itself either: its own timeout is at least as long.
//! * If it restarted, it waits as long from its start.
//! * It says how long it waits; who waits less than this node does not count.
//! * Only an election asked for by the leader itself is exempt (transfer). The
//!   lease is void during a transfer, and for the rest of the term once the
//!   message that asks for it was sent: it may be delayed for ever.
//! * This leader, too, may be of Q: it ends its lease when it ends to lead.
//!
//! The waiting is measured by the voter's clock, the lease by the leader's: it
//! is shorter by the drift bound, and by two milliseconds for rounding. A clock
//! that stops (a suspended machine) breaks the bound, which is why it is off by
//! default.
//!
//! Thesis 6.4.1; catalogue C4, C5.

use std::collections::VecDeque;

use crate::raft::{Raft, ReadMode, State, quorum};
use crate::types::Millis;

/// What a leader remembers of its rounds.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub(super) struct Lease {
    /// Read contexts and when each was first sent, ascending.
    rounds: VecDeque<(u64, Millis)>,
    /// A peer was asked to campaign: no lease in this term any more.
    forfeited: bool,
}

impl Lease {
    fn note(&mut self, context: u64, now: Millis) {
        if self.rounds.back().is_none_or(|(_, at)| *at < now) {
            self.rounds.push_back((context, now));
        }
        if ROUNDS_MAX < self.rounds.len() {
            self.rounds.pop_front();
        }
    }

    /// Only rounds begun from now on count.
    pub(super) fn begin(&mut self) {
        self.rounds.clear();
    }

    /// For good.
    pub(super) fn forfeit(&mut self) {
        self.forfeited = true;
    }
}

impl Raft {
    /// Names a round of heartbeats that leaves now.
    pub(super) fn begin_round(&mut self) -> u64 {
        let context = self.reads.next_context();
        if let State::Leader(lead) = &mut self.state {
            lead.lease.note(context, self.now);
        }
        context
    }

    /// Until when reads need no confirmation; `None`: they do.
    pub(super) fn lease_until(&self) -> Option<Millis> {
        let ReadMode::Lease { drift_permille } = self.config.read_mode else {
            return None;
        };
        let State::Leader(lead) = &self.state else {
            return None;
        };
        let active = self.memberships.active();
        let is_settled = self.is_ready()
            && active.index <= self.log.commit()
            && !active.membership.is_joint()
            && active.membership.voters.contains(&self.config.id);
        if !is_settled || lead.lease.forfeited || lead.transfer.is_some() || self.is_disk_stalled()
        {
            return None;
        }
        let patience = self.config.election_timeout_min;
        let confirmed = quorum::committed(&active.membership, |id| {
            if id == self.config.id {
                return self.reads.context();
            }
            let peer = lead.peers.get(&id).filter(|p| patience <= p.patience);
            peer.map_or(0, |peer| peer.acked_context)
        });
        let mut newest_first = lead.lease.rounds.iter().rev();
        let (_, sent_at) = newest_first.find(|(context, _)| *context <= confirmed)?;
        let until = Millis(sent_at.0 + lease_length(patience, drift_permille).0);
        (self.now < until).then_some(until)
    }
}

/// How long a quorum's patience lasts by the slowest clock.
pub(super) fn lease_length(patience: Millis, drift_permille: u32) -> Millis {
    let slowest = patience.0 * 1000 / (1000 + u64::from(drift_permille));
    Millis(slowest.saturating_sub(ROUNDING.0))
}

/// Two readings of a clock in whole milliseconds, on either side.
const ROUNDING: Millis = Millis(2);
/// Rounds remembered: only the newest confirmed one matters.
const ROUNDS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn remembered(lease: &Lease) -> Vec<(u64, u64)> {
        lease.rounds.iter().map(|(c, at)| (*c, at.0)).collect()
    }

    #[test]
    fn rounds_of_one_millisecond_are_one() {
        let mut lease = Lease::default();
        for (context, at) in [(1, 5), (2, 5), (3, 6)] {
            lease.note(context, Millis(at));
        }
        assert_eq!(remembered(&lease), [(1, 5), (3, 6)]);
    }

    #[test]
    fn newest_rounds_are_remembered() {
        let mut lease = Lease::default();
        for number in 1..=ROUNDS_MAX as u64 {
            lease.note(number, Millis(number));
        }
        assert_eq!(remembered(&lease).first(), Some(&(1, 1)));
        lease.note(1000, Millis(1000));
        assert_eq!(remembered(&lease).first(), Some(&(2, 2)));
        assert_eq!(remembered(&lease).len(), ROUNDS_MAX);
    }

    #[test]
    fn lease_is_shorter_than_any_voters_patience_by_the_drift() {
        for (min, drift) in [(500, 0), (500, 100), (1000, 1000), (150, 37)] {
            let length = lease_length(Millis(min), drift);
            // The voter's clock runs fast by the bound: its patience ends
            // earliest, and each reading may lose a millisecond.
            let ends = (min - 1) * 1000 / (1000 + u64::from(drift));
            assert!(length.0 < ends, "{min} ms, {drift} permille: {length:?}");
        }
        assert_eq!(lease_length(Millis(1), 0), Millis(0));
    }
}
