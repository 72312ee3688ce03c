//! What waits for one peer, and how it goes with that peer.
//!
//! `push` is called by the consensus thread: it never waits. A full queue drops
//! the message and counts it, as the network might have lost it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::transport::{PeerState, SnapshotProgress, TransportOptions};
use crate::raft::message::Message;
use crate::types::{NodeId, RepairMessage};

/// What travels to a peer.
#[derive(Debug)]
pub(super) enum Letter {
    /// Of the consensus core.
    Core(Message),
    /// About lost entries.
    Repair(RepairMessage),
}

/// A peer to be called.
pub(super) struct Peer {
    pub(super) id: NodeId,
    pub(super) stop: CancellationToken,
    sender: mpsc::Sender<Letter>,
    receiver: Mutex<Option<mpsc::Receiver<Letter>>>,
    queued_bytes: AtomicUsize,
    queue_bytes_max: usize,
    pub(super) wake: Notify,
    pub(super) hang_up: Notify,
    counts: Counts,
    status: Mutex<CallStatus>,
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Clone, Default)]
pub(super) struct CallStatus {
    pub(super) connected: bool,
    pub(super) round_trip: Option<Duration>,
    pub(super) last_error: Option<String>,
    pub(super) snapshot: Option<SnapshotProgress>,
}

impl Peer {
    pub(super) fn new(
        id: NodeId,
        options: &TransportOptions,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let (sender, receiver) = mpsc::channel(options.queue_messages_max);
        Arc::new(Self {
            id,
            stop,
            sender,
            receiver: Mutex::new(Some(receiver)),
            queued_bytes: AtomicUsize::new(0),
            queue_bytes_max: options.queue_bytes_max,
            wake: Notify::new(),
            hang_up: Notify::new(),
            counts: Counts::default(),
            status: Mutex::default(),
        })
    }

    /// Queues a message, or drops and counts it. Never waits.
    pub(super) fn push(&self, message: Letter) {
        let bytes = message_bytes(&message);
        let before = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = before == 0 || before + bytes <= self.queue_bytes_max;
        if !fits || self.sender.try_send(message).is_err() {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The peer was heard of: call it now rather than after the pause.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Ends the connection, if there is one; it will be made anew.
    pub(super) fn disconnect(&self) {
        self.hang_up.notify_waiters();
    }

    pub(super) fn state(&self) -> PeerState {
        let status = self.status().clone();
        PeerState {
            connected: status.connected,
            round_trip: status.round_trip,
            last_error: status.last_error,
            snapshot: status.snapshot,
            messages_sent: self.counts.sent.load(Ordering::Relaxed),
            messages_dropped: self.counts.dropped.load(Ordering::Relaxed),
            queued_bytes: self.queued_bytes.load(Ordering::Relaxed),
        }
    }

    /// The receiving end of the queue.
    ///
    /// # Panics
    /// When called a second time: each peer has one caller.
    pub(super) fn take_queue(&self) -> mpsc::Receiver<Letter> {
        let mut receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        receiver.take().expect("one caller a peer")
    }

    pub(super) fn count_sent(&self) {
        self.counts.sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_dropped(&self) {
        self.counts.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn status(&self) -> MutexGuard<'_, CallStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message left the queue.
    pub(super) fn taken(&self, message: &Letter) {
        self.queued_bytes
            .fetch_sub(message_bytes(message), Ordering::Relaxed);
    }

    /// Drops and counts all that waits.
    pub(super) fn drop_queued(&self, queue: &mut mpsc::Receiver<Letter>) {
        while let Ok(message) = queue.try_recv() {
            self.taken(&message);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Approximate size of a message, for the queue's bound.
fn message_bytes(message: &Letter) -> usize {
    const OVERHEAD: usize = 64;
    OVERHEAD
        + match message {
            Letter::Core(Message::AppendEntries { entries, .. }) => {
                entries.iter().map(|e| e.size()).sum()
            }
            Letter::Core(Message::InstallSnapshot { meta, .. }) => meta.membership.size(),
            Letter::Core(_) => 0,
            Letter::Repair(message) => message.size(),
        }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::types::{Entry, EntryPayload, LogIndex, Millis, Term};

    fn heartbeat() -> Letter {
        Letter::Core(Message::HeartbeatResponse {
            term: Term(1),
            read_context: 0,
            patience: Millis(0),
            checkpoints: Vec::new(),
        })
    }

    fn append(bytes: usize) -> Letter {
        let entry = Entry {
            index: LogIndex(1),
            term: Term(1),
            payload: EntryPayload::Command(Arc::from(vec![0; bytes])),
        };
        Letter::Core(Message::AppendEntries {
            term: Term(1),
            prev_index: LogIndex(0),
            prev_term: Term(0),
            entries: vec![entry],
            commit_index: LogIndex(0),
            read_context: 0,
        })
    }

    fn peer(messages: usize, bytes: usize) -> Arc<Peer> {
        let options = TransportOptions {
            queue_messages_max: messages,
            queue_bytes_max: bytes,
            ..TransportOptions::new("127.0.0.1:0".parse().expect("address"))
        };
        Peer::new(NodeId(2), &options, CancellationToken::new())
    }

    #[test]
    fn queue_full_by_count_drops_and_counts() {
        let peer = peer(3, 1 << 20);
        for _ in 0..10 {
            peer.push(heartbeat());
        }
        assert_eq!(peer.state().messages_dropped, 7);
        assert_eq!(peer.state().queued_bytes, 3 * message_bytes(&heartbeat()));
    }

    #[test]
    fn queue_full_by_bytes_drops_and_counts() {
        let peer = peer(100, 2500);
        for _ in 0..10 {
            peer.push(append(1000));
        }
        assert_eq!(peer.state().messages_dropped, 8);
        let mut queue = peer.take_queue();
        peer.drop_queued(&mut queue);
        assert_eq!(peer.state().queued_bytes, 0);
        assert_eq!(peer.state().messages_dropped, 10);
    }

    #[test]
    fn message_beyond_the_limit_fits_into_an_empty_queue() {
        let peer = peer(100, 2500);
        peer.push(append(10_000));
        assert_eq!(peer.state().messages_dropped, 0);
        peer.push(heartbeat());
        assert_eq!(peer.state().messages_dropped, 1);
    }
}
