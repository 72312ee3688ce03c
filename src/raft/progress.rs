//! The leader's view of one peer: what it holds, what is on its way there, and
//! how eagerly to send more.

use std::collections::VecDeque;

use crate::raft::Mismatch;
use crate::types::{Checkpoint, LogIndex, Millis, SnapshotMeta};

/// How the leader sends to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub(super) enum Pace {
    /// Where the logs agree is unknown: one message at a time.
    Probe {
        /// When the unanswered one left.
        sent_at: Option<Millis>,
    },
    /// The logs agree: messages follow each other without waiting.
    Replicate,
    /// What the peer lacks is purged here: a snapshot is on its way.
    Streaming,
    /// The snapshot is staged there and being installed.
    Installing {
        /// Which.
        meta: SnapshotMeta,
        /// When that began.
        since: Millis,
        /// When it was last asked for.
        sent_at: Millis,
    },
}

/// An append on its way.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
struct Inflight {
    last: LogIndex,
    bytes: usize,
    sent_at: Millis,
}

/// How much may be on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) messages_max: usize,
    pub(super) bytes_max: usize,
}

/// A peer that left: it is still told that its leaving is committed (M13).
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub(super) struct Departure {
    /// The position that removed it.
    pub(super) index: LogIndex,
    /// When to give up.
    pub(super) deadline: Millis,
    /// Echoed once it knows.
    pub(super) told_in: Option<u64>,
}

/// See the module. Invariant: `match_index < next_index`.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "sim", derive(serde::Serialize))]
pub(super) struct Progress {
    pub(super) match_index: LogIndex,
    pub(super) next_index: LogIndex,
    pub(super) pace: Pace,
    inflight: VecDeque<Inflight>,
    inflight_bytes: usize,
    /// An append the runtime fills from the disk is on its way since then; how
    /// many entries it carries is not known here.
    pub(super) disk_read_at: Option<Millis>,
    pub(super) last_contact: Option<Millis>,
    /// The highest commit index that was sent.
    pub(super) commit_sent: LogIndex,
    /// The highest read context that came back.
    pub(super) acked_context: u64,
    pub(super) departure: Option<Departure>,
    /// For so long after a leader's message it grants nobody else a vote.
    pub(super) patience: Millis,
    /// The newest states it told of, ascending.
    pub(super) checkpoints: Vec<Checkpoint>,
    /// Named once, until it agrees again.
    pub(super) mismatch: Option<Mismatch>,
}

impl Progress {
    /// A peer of which nothing is known yet.
    pub(super) fn new(last: LogIndex) -> Self {
        Self {
            match_index: LogIndex(0),
            next_index: last.next(),
            pace: Pace::Probe { sent_at: None },
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            disk_read_at: None,
            last_contact: None,
            commit_sent: LogIndex(0),
            acked_context: 0,
            departure: None,
            patience: Millis(0),
            checkpoints: Vec::new(),
            mismatch: None,
        }
    }

    /// Whether a snapshot is on its way.
    pub(super) fn in_snapshot(&self) -> bool {
        matches!(self.pace, Pace::Streaming | Pace::Installing { .. })
    }

    /// The snapshot being installed there: its log continues from it.
    pub(super) fn installing(&self) -> Option<LogIndex> {
        match &self.pace {
            Pace::Installing { meta, .. } => Some(meta.index),
            _ => None,
        }
    }

    /// Whether it spoke within the last `within`.
    pub(super) fn heard_within(&self, now: Millis, within: Millis) -> bool {
        self.last_contact
            .is_some_and(|at| now.0.saturating_sub(at.0) < within.0)
    }

    /// Whether another append may follow those on their way.
    pub(super) fn has_room(&self, window: Window) -> bool {
        self.disk_read_at.is_none()
            && (self.inflight.is_empty()
                || (self.inflight.len() < window.messages_max
                    && self.inflight_bytes < window.bytes_max))
    }

    /// Notes an append that ends at `last`, and expects it to arrive.
    pub(super) fn sent(&mut self, now: Millis, last: LogIndex, bytes: usize) {
        assert!(self.next_index <= last, "sent nothing new");
        self.inflight.push_back(Inflight {
            last,
            bytes,
            sent_at: now,
        });
        self.inflight_bytes += bytes;
        self.next_index = last.next();
    }

    /// The peer's log is durable and equal up to `index`. Returns whether that
    /// is news.
    pub(super) fn matched(&mut self, index: LogIndex) -> bool {
        while self
            .inflight
            .front()
            .is_some_and(|oldest| oldest.last <= index)
        {
            let oldest = self.inflight.pop_front().expect("looked at above");
            self.inflight_bytes -= oldest.bytes;
        }
        let news = self.match_index < index;
        if news {
            self.disk_read_at = None;
        }
        self.match_index = self.match_index.max(index);
        self.next_index = self.next_index.max(index.next());
        let may_replicate = match self.pace {
            Pace::Probe { .. } => self.match_index <= index,
            Pace::Replicate => false,
            Pace::Streaming | Pace::Installing { .. } => news,
        };
        if may_replicate {
            self.replicate();
        }
        news
    }

    fn replicate(&mut self) {
        self.pace = Pace::Replicate;
        self.forget_inflight();
        self.next_index = self.match_index.next();
    }

    /// Back to one message at a time, from what is certain.
    pub(super) fn probe(&mut self, sent_at: Option<Millis>) {
        self.pace = Pace::Probe { sent_at };
        self.forget_inflight();
        self.next_index = self.match_index.next();
    }

    /// The consistency check at `prev_index` failed; the logs may agree at
    /// `hint`. Returns whether the answer belongs to what was asked: a late one
    /// must not rewind anything (catalogue R6).
    pub(super) fn rejected(&mut self, prev_index: LogIndex, hint: LogIndex) -> bool {
        if prev_index <= self.match_index {
            return false;
        }
        match self.pace {
            Pace::Replicate => self.probe(None),
            Pace::Probe { .. } if prev_index.next() == self.next_index => {
                let next = hint.next().min(prev_index).max(self.match_index.next());
                self.next_index = next;
                self.pace = Pace::Probe { sent_at: None };
            }
            _ => return false,
        }
        true
    }

    /// Whether something sent has been without answer for `patience`.
    pub(super) fn is_overdue(&self, now: Millis, patience: Millis) -> bool {
        let sent_at = match &self.pace {
            Pace::Probe { sent_at } => *sent_at,
            Pace::Replicate => self
                .disk_read_at
                .or(self.inflight.front().map(|m| m.sent_at)),
            Pace::Streaming => None,
            Pace::Installing { sent_at, .. } => Some(*sent_at),
        };
        sent_at.is_some_and(|at| patience.0 <= now.0.saturating_sub(at.0))
    }

    fn forget_inflight(&mut self) {
        self.inflight.clear();
        self.inflight_bytes = 0;
        self.disk_read_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replicating(matched: u64) -> Progress {
        let mut progress = Progress::new(LogIndex(matched));
        progress.matched(LogIndex(matched));
        assert_eq!(progress.pace, Pace::Replicate);
        progress
    }

    #[test]
    fn window_closes_by_messages_or_bytes_and_opens_with_acks() {
        let window = Window {
            messages_max: 2,
            bytes_max: 100,
        };
        let mut progress = replicating(4);
        progress.sent(Millis(0), LogIndex(5), 10);
        assert!(progress.has_room(window));
        progress.sent(Millis(0), LogIndex(6), 10);
        assert!(!progress.has_room(window));
        progress.matched(LogIndex(5));
        assert!(progress.has_room(window));
        progress.sent(Millis(0), LogIndex(7), 500);
        progress.matched(LogIndex(6));
        assert!(!progress.has_room(window), "too many bytes");
        progress.matched(LogIndex(7));
        assert!(progress.has_room(window));
    }

    #[test]
    fn bytes_on_their_way_are_those_not_acknowledged() {
        let window = Window {
            messages_max: 9,
            bytes_max: 100,
        };
        let mut progress = replicating(4);
        progress.sent(Millis(0), LogIndex(5), 60);
        progress.sent(Millis(0), LogIndex(6), 39);
        assert!(progress.has_room(window));
        progress.matched(LogIndex(5));
        progress.sent(Millis(0), LogIndex(7), 60);
        assert!(progress.has_room(window), "99 of 100");
        progress.sent(Millis(0), LogIndex(8), 1);
        assert!(!progress.has_room(window), "all of them");
    }

    // It is the answer to something older: the snapshot is still to come.
    #[test]
    fn ack_of_what_is_known_ends_no_snapshot() {
        let mut progress = replicating(4);
        progress.pace = Pace::Streaming;
        assert!(!progress.matched(LogIndex(4)));
        assert_eq!(progress.pace, Pace::Streaming);
        assert!(progress.matched(LogIndex(5)));
        assert_eq!(progress.pace, Pace::Replicate);
    }

    #[test]
    fn old_acks_and_old_rejections_change_nothing() {
        let mut progress = replicating(10);
        progress.sent(Millis(0), LogIndex(12), 1);
        assert!(!progress.matched(LogIndex(3)));
        assert!(!progress.rejected(LogIndex(9), LogIndex(2)));
        assert_eq!(
            (progress.match_index, progress.next_index),
            (LogIndex(10), LogIndex(13))
        );
        assert_eq!(progress.pace, Pace::Replicate);
    }

    #[test]
    fn probe_goes_back_strictly_and_not_below_match() {
        let mut progress = Progress::new(LogIndex(20));
        assert!(
            !progress.rejected(LogIndex(19), LogIndex(0)),
            "not the one asked"
        );
        assert!(progress.rejected(LogIndex(20), LogIndex(30)));
        assert_eq!(
            progress.next_index,
            LogIndex(20),
            "an absurd hint still goes back"
        );
        assert!(progress.rejected(LogIndex(19), LogIndex(7)));
        assert_eq!(progress.next_index, LogIndex(8));
        assert!(progress.rejected(LogIndex(7), LogIndex(0)));
        assert_eq!(progress.next_index, LogIndex(1));
    }

    #[test]
    fn loss_while_replicating_returns_to_what_is_certain() {
        let mut progress = replicating(10);
        progress.sent(Millis(5), LogIndex(12), 1);
        assert!(!progress.is_overdue(Millis(10), Millis(10)));
        assert!(progress.is_overdue(Millis(15), Millis(10)));
        progress.probe(None);
        assert_eq!(progress.next_index, LogIndex(11));
    }
}
