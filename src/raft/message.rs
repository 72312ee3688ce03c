//! What members say to each other. Encoded by `codec`, framed by `peer`.

use bincode::{Decode, Encode};

use crate::raft::change;
use crate::types::{Checkpoint, Entry, EntryPayload, LogIndex, Millis, SnapshotMeta, Term};

/// Terms and positions beyond this come from no honest peer; below it no sum
/// in the core overflows.
pub(super) const NUMBER_MAX: u64 = 1 << 62;

/// Checkpoints one message carries, at most.
pub const CHECKPOINTS_MAX: usize = 8;

/// One message. The sender is named by the (authenticated) connection.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub enum Message {
    /// Asks for a vote, or (`pre`) whether one would be given.
    VoteRequest {
        /// The term campaigned in (for a pre-vote: the term it would be).
        term: Term,
        /// A pre-vote changes no state of the receiver.
        pre: bool,
        /// End of the candidate's durable log.
        last_index: LogIndex,
        /// Its term.
        last_term: Term,
        /// The leader asked for this election (transfer): stickiness is waived.
        transfer: bool,
    },
    /// The answer.
    VoteResponse {
        /// Of a grant: the term asked for. Of a refusal: the receiver's term.
        term: Term,
        /// Which question this answers.
        pre: bool,
        /// The answer.
        granted: bool,
    },
    /// Entries, or none: a probe or heartbeat with a consistency check.
    AppendEntries {
        /// The leader's term.
        term: Term,
        /// Position before the first entry.
        prev_index: LogIndex,
        /// Its term.
        prev_term: Term,
        /// Consecutive entries.
        entries: Vec<Entry>,
        /// The leader's commit index.
        commit_index: LogIndex,
        /// Echoed in the answer; the leader's monotone read counter.
        read_context: u64,
    },
    /// The answer.
    AppendResponse {
        /// The receiver's term.
        term: Term,
        /// Success or the hint for the next probe.
        result: AppendResult,
        /// From the request.
        read_context: u64,
    },
    /// Keeps leadership and moves the commit index; no consistency check.
    Heartbeat {
        /// The leader's term.
        term: Term,
        /// At most the receiver's match index.
        commit_index: LogIndex,
        /// Echoed in the answer.
        read_context: u64,
        /// A state that a majority of the voters agrees on: whoever differs
        /// there is wrong.
        agreed: Option<Checkpoint>,
    },
    /// The answer.
    HeartbeatResponse {
        /// The receiver's term.
        term: Term,
        /// From the request.
        read_context: u64,
        /// For so long after a leader's message the receiver grants nobody
        /// else a vote.
        patience: Millis,
        /// The newest states it reached, ascending, [`CHECKPOINTS_MAX`] at most.
        checkpoints: Vec<Checkpoint>,
    },
    /// The snapshot's bytes have been streamed and staged: install it.
    InstallSnapshot {
        /// The leader's term.
        term: Term,
        /// What was staged.
        meta: SnapshotMeta,
    },
    /// The answer, once durable or refused.
    InstallSnapshotResponse {
        /// The receiver's term.
        term: Term,
        /// The receiver's log now matches up to here.
        match_index: LogIndex,
    },
    /// Campaign at once (leadership transfer).
    TimeoutNow {
        /// The leader's term.
        term: Term,
    },
    /// A follower asks for a read index.
    ReadIndexRequest {
        /// The follower's term.
        term: Term,
        /// The follower's own counter.
        context: u64,
    },
    /// The answer, after a quorum confirmed the leader.
    ReadIndexResponse {
        /// The leader's term.
        term: Term,
        /// From the request.
        context: u64,
        /// `None`: refused (no leader here, or leadership not confirmed yet).
        index: Option<LogIndex>,
    },
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub enum AppendResult {
    /// Durable and equal to the leader's log up to here.
    Matched {
        /// `prev_index + entries.len()`.
        match_index: LogIndex,
    },
    /// The consistency check failed.
    Rejected {
        /// The request's `prev_index`.
        prev_index: LogIndex,
        /// Where the leader should probe next: the receiver's log may agree
        /// at or before this position.
        hint_index: LogIndex,
        /// The receiver's term at `hint_index`.
        hint_term: Term,
    },
}

impl Message {
    /// The sender's term; of a pre-vote and its grant the one it would be.
    #[must_use]
    pub fn term(&self) -> Term {
        match self {
            Self::VoteRequest { term, .. }
            | Self::VoteResponse { term, .. }
            | Self::AppendEntries { term, .. }
            | Self::AppendResponse { term, .. }
            | Self::Heartbeat { term, .. }
            | Self::HeartbeatResponse { term, .. }
            | Self::InstallSnapshot { term, .. }
            | Self::InstallSnapshotResponse { term, .. }
            | Self::TimeoutNow { term }
            | Self::ReadIndexRequest { term, .. }
            | Self::ReadIndexResponse { term, .. } => *term,
        }
    }

    /// Whether a leader or a candidate counts it for its sender.
    pub(super) fn is_counted(&self) -> bool {
        matches!(
            self,
            Self::VoteResponse { .. }
                | Self::AppendResponse { .. }
                | Self::HeartbeatResponse { .. }
                | Self::InstallSnapshotResponse { .. }
        )
    }

    /// Whether an honest peer could have sent this at all. What is not is
    /// dropped: bytes from outside never panic the core.
    pub(super) fn is_plausible(&self) -> bool {
        let term = self.term();
        let sane = |index: LogIndex| index.0 <= NUMBER_MAX;
        let content = match self {
            Self::VoteRequest {
                last_index,
                last_term,
                ..
            } => sane(*last_index) && *last_term <= term,
            Self::AppendEntries {
                prev_index,
                prev_term,
                entries,
                commit_index,
                ..
            } => {
                sane(*prev_index)
                    && sane(*commit_index)
                    && follow(*prev_index, *prev_term, entries, term)
            }
            Self::AppendResponse { result, .. } => match result {
                AppendResult::Matched { match_index } => sane(*match_index),
                AppendResult::Rejected {
                    prev_index,
                    hint_index,
                    hint_term,
                } => sane(*prev_index) && sane(*hint_index) && hint_term.0 <= NUMBER_MAX,
            },
            Self::Heartbeat {
                commit_index,
                agreed,
                ..
            } => sane(*commit_index) && agreed.is_none_or(|state| sane(state.index)),
            Self::HeartbeatResponse {
                patience,
                checkpoints,
                ..
            } => {
                patience.0 <= NUMBER_MAX
                    && checkpoints.len() <= CHECKPOINTS_MAX
                    && checkpoints.iter().all(|state| sane(state.index))
                    && checkpoints.is_sorted_by(|a, b| a.index < b.index)
            }
            Self::InstallSnapshot { meta, .. } => {
                LogIndex(0) < meta.index
                    && sane(meta.index)
                    && meta.term <= term
                    && meta.membership_index <= meta.index
                    && change::is_consistent(&meta.membership)
            }
            Self::InstallSnapshotResponse { match_index, .. } => sane(*match_index),
            Self::ReadIndexResponse { index, .. } => index.is_none_or(sane),
            Self::VoteResponse { .. } | Self::TimeoutNow { .. } | Self::ReadIndexRequest { .. } => {
                true
            }
        };
        Term(0) < term && term.0 <= NUMBER_MAX && content
    }
}

/// Whether `entries` follow `prev_index` without gaps, in terms that rise up to
/// the leader's, with memberships that make sense.
fn follow(prev_index: LogIndex, prev_term: Term, entries: &[Entry], term: Term) -> bool {
    let mut last = (prev_index, prev_term);
    for entry in entries {
        let fits = entry.index == last.0.next() && last.1 <= entry.term && entry.term <= term;
        let payload_fits = match &entry.payload {
            EntryPayload::Membership(membership) => {
                change::is_consistent(membership) && !membership.voters.is_empty()
            }
            EntryPayload::Noop | EntryPayload::Command(_) => true,
        };
        if !fits || !payload_fits {
            return false;
        }
        last = (entry.index, entry.term);
    }
    prev_term <= term
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(message: &Message) -> String {
        hex::encode(crate::codec::encode(message))
    }

    /// Members of different builds speak with each other: a change here is a
    /// change of the protocol.
    #[test]
    fn heartbeats_keep_their_bytes() {
        let state = Checkpoint {
            index: LogIndex(4),
            digest: 5,
        };
        let beat = Message::Heartbeat {
            term: Term(1),
            commit_index: LogIndex(2),
            read_context: 3,
            agreed: Some(state),
        };
        let words = |numbers: &[u64]| {
            let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
            hex::encode(bytes)
        };
        let expected = format!("04000000{}01{}", words(&[1, 2, 3]), words(&[4, 5, 0]));
        assert_eq!(hex(&beat), expected);
        let answer = Message::HeartbeatResponse {
            term: Term(1),
            read_context: 2,
            patience: Millis(3),
            checkpoints: vec![state],
        };
        let expected = format!("05000000{}", words(&[1, 2, 3, 1, 4, 5, 0]));
        assert_eq!(hex(&answer), expected);
    }

    /// With this many voters; 0: of no one.
    fn membership(voters: u64) -> std::sync::Arc<crate::types::Membership> {
        std::sync::Arc::new(crate::raft::stage::membership(voters, 0))
    }

    #[test]
    fn vote_request_speaks_of_a_log_that_can_be() {
        let request = |last_index, last_term| Message::VoteRequest {
            term: Term(5),
            pre: false,
            last_index: LogIndex(last_index),
            last_term: Term(last_term),
            transfer: false,
        };
        assert!(request(NUMBER_MAX, 5).is_plausible());
        assert!(!request(NUMBER_MAX + 1, 5).is_plausible());
        assert!(!request(1, 6).is_plausible(), "entries of a later term");
    }

    #[test]
    fn heartbeat_names_positions_that_can_be() {
        let beat = |commit_index, agreed| Message::Heartbeat {
            term: Term(1),
            commit_index: LogIndex(commit_index),
            read_context: 0,
            agreed: Some(Checkpoint {
                index: LogIndex(agreed),
                digest: 0,
            }),
        };
        assert!(beat(NUMBER_MAX, NUMBER_MAX).is_plausible());
        assert!(!beat(NUMBER_MAX + 1, 1).is_plausible());
        assert!(!beat(1, NUMBER_MAX + 1).is_plausible());
    }

    #[test]
    fn rejection_names_positions_and_a_term_that_can_be() {
        let rejection = |prev_index, hint_index, hint_term| Message::AppendResponse {
            term: Term(1),
            result: AppendResult::Rejected {
                prev_index: LogIndex(prev_index),
                hint_index: LogIndex(hint_index),
                hint_term: Term(hint_term),
            },
            read_context: 0,
        };
        assert!(rejection(NUMBER_MAX, NUMBER_MAX, NUMBER_MAX).is_plausible());
        assert!(!rejection(NUMBER_MAX + 1, 1, 1).is_plausible());
        assert!(!rejection(1, NUMBER_MAX + 1, 1).is_plausible());
        assert!(!rejection(1, 1, NUMBER_MAX + 1).is_plausible());
    }

    #[test]
    fn snapshot_holds_something_and_names_its_membership_inside() {
        let install = |index, term, membership_index| Message::InstallSnapshot {
            term: Term(3),
            meta: SnapshotMeta {
                index: LogIndex(index),
                term: Term(term),
                membership: membership(3),
                membership_index: LogIndex(membership_index),
            },
        };
        assert!(install(4, 3, 4).is_plausible());
        assert!(!install(0, 0, 0).is_plausible(), "of nothing");
        assert!(!install(NUMBER_MAX + 1, 3, 4).is_plausible());
        assert!(!install(4, 4, 4).is_plausible(), "of a later term");
        assert!(!install(4, 3, 5).is_plausible(), "a membership after it");
    }

    #[test]
    fn appended_membership_has_voters_and_fits_together() {
        let append = |membership| Message::AppendEntries {
            term: Term(1),
            prev_index: LogIndex(1),
            prev_term: Term(1),
            entries: vec![Entry {
                index: LogIndex(2),
                term: Term(1),
                payload: EntryPayload::Membership(membership),
            }],
            commit_index: LogIndex(1),
            read_context: 0,
        };
        assert!(append(membership(3)).is_plausible());
        assert!(!append(membership(0)).is_plausible(), "nobody votes");
        let mut both = (*membership(3)).clone();
        both.learners.insert(crate::types::NodeId(3));
        assert!(!append(both.into()).is_plausible(), "voter and learner");
    }

    #[test]
    fn too_many_or_unsorted_checkpoints_are_implausible() {
        let answer = |indexes: &[u64]| Message::HeartbeatResponse {
            term: Term(1),
            read_context: 0,
            patience: Millis(0),
            checkpoints: indexes
                .iter()
                .map(|index| Checkpoint {
                    index: LogIndex(*index),
                    digest: 0,
                })
                .collect(),
        };
        assert!(answer(&[1, 2, 3, 4, 5, 6, 7, 8]).is_plausible());
        assert!(!answer(&[1, 2, 3, 4, 5, 6, 7, 8, 9]).is_plausible());
        assert!(!answer(&[2, 1]).is_plausible());
        assert!(!answer(&[2, 2]).is_plausible(), "told twice");
        assert!(!answer(&[u64::MAX]).is_plausible());
    }
}
