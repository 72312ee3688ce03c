//! What members say to each other. Encoded by `codec`, framed by `peer`.

use bincode::{Decode, Encode};

use crate::types::{Entry, LogIndex, SnapshotMeta, Term};

/// One message. The sender is named by the (authenticated) connection.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
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
    },
    /// The answer.
    HeartbeatResponse {
        /// The receiver's term.
        term: Term,
        /// From the request.
        read_context: u64,
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
