//! What the tasks of a transport have in common.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::address::AddressBook;
use super::hello::{Goodbye, Hello, MembershipProof, Roll, judge};
use super::lines::{Line, Lines};
use super::outgoing;
use super::queue::Peer;
use super::tls::PeerTls;
use super::transport::{Handler, SnapshotProgress, TransportOptions};
use super::witness::{Meeting, Picture, copied};
use crate::types::{LogIndex, Member, NodeId};

pub(super) struct Shared {
    pub(super) options: TransportOptions,
    pub(super) tls: Arc<PeerTls>,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) book: ArcSwap<AddressBook>,
    pub(super) peers: ArcSwap<BTreeMap<NodeId, Arc<Peer>>>,
    pub(super) unroutable: AtomicU64,
    pub(super) handshakes: Arc<Semaphore>,
    pub(super) connections: Arc<Semaphore>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    /// One inbound snapshot at a time; the token asks its stream to give way.
    pub(super) inbound_snapshot: Mutex<CancellationToken>,
    pub(super) snapshot_slot: Arc<Semaphore>,
    pub(super) lines: Lines,
    own: ArcSwap<Hello>,
    committed: ArcSwapOption<MembershipProof>,
    inbound: Mutex<BTreeMap<NodeId, Inbound>>,
    runtime: Handle,
    /// Serialises changes of `book` and `peers`.
    changes: Mutex<()>,
}

/// An inbound raft connection.
struct Inbound {
    hello: Hello,
    line: Arc<Line>,
}

impl Shared {
    pub(super) fn new(
        runtime: &Handle,
        options: TransportOptions,
        own: Hello,
        tls: Arc<PeerTls>,
        handler: Arc<dyn Handler>,
    ) -> Arc<Self> {
        let stop = CancellationToken::new();
        Arc::new(Self {
            handshakes: Arc::new(Semaphore::new(options.handshakes_max)),
            connections: Arc::new(Semaphore::new(options.connections_max)),
            inbound_snapshot: Mutex::new(stop.child_token()),
            snapshot_slot: Arc::new(Semaphore::new(1)),
            stop,
            tasks: TaskTracker::new(),
            options,
            tls,
            handler,
            book: ArcSwap::default(),
            peers: ArcSwap::default(),
            unroutable: AtomicU64::new(0),
            lines: Lines::default(),
            own: ArcSwap::from_pointee(own),
            committed: ArcSwapOption::empty(),
            inbound: Mutex::default(),
            runtime: runtime.clone(),
            changes: Mutex::default(),
        })
    }

    /// This node's greeting as of now.
    pub(super) fn own_hello(&self) -> Hello {
        Hello {
            membership_index: self.book.load().membership_index(),
            durable: self.options.durable.now(),
            ..Hello::clone(&self.own.load())
        }
    }

    pub(super) fn set_own(&self, own: Hello) {
        self.own.store(Arc::new(own));
    }

    pub(super) fn set_members(
        self: &Arc<Self>,
        index: LogIndex,
        members: BTreeMap<NodeId, Member>,
    ) {
        self.change_book(|book| {
            book.set_members(index, members);
            true
        });
        let inbound = self.inbound.lock().unwrap_or_else(PoisonError::into_inner);
        for connection in inbound.values() {
            if self.judge(&connection.hello).is_err() {
                connection.line.cut.cancel();
            }
        }
    }

    /// Takes the newest committed membership: the proof for refusals. Peers
    /// that it does not name are forgotten, once they are not spoken with: one
    /// may be on its way in, or come back before its connection ends, and would
    /// not greet again.
    pub(super) fn set_committed(&self, proof: MembershipProof) {
        let members = &proof.membership.members;
        let witness = &self.options.witness;
        witness.retain(|id| members.contains_key(&id) || self.lines.stand(id));
        self.committed.store(Some(Arc::new(proof)));
    }

    /// Whether the other belongs to the cluster.
    fn judge(&self, hello: &Hello) -> Result<(), Goodbye> {
        let (book, committed) = (self.book.load(), self.committed.load());
        let roll = Roll {
            members: book.members(),
            committed: committed.as_deref(),
        };
        judge(&self.own_hello(), roll, hello)
    }

    /// Whether the other belongs to the cluster, is the only process of its
    /// data directory, and still holds what it acknowledged. Takes a while
    /// when another run of its directory may still be alive. `before` was
    /// taken before the conversation began.
    ///
    /// # Errors
    /// The goodbye to answer with.
    pub(super) async fn meet(&self, before: &Picture, hello: &Hello) -> Result<(), Goodbye> {
        self.judge(hello)?;
        let witness = &self.options.witness;
        let Meeting::Contested { older } = witness.meet(before, hello)? else {
            return Ok(());
        };
        // Two pings of either side fit into the wait.
        let patience = self.options.timing.ping_interval.mul_f64(2.5);
        if self.lines.answers(hello.node, older, patience).await {
            return Err(copied(hello, older, true));
        }
        witness.succeed(hello, older)?;
        self.lines.keep_only(hello.node, hello.run);
        Ok(())
    }

    pub(super) fn learn(self: &Arc<Self>, id: NodeId, address: &str) {
        self.change_book(|book| book.learn(id, address));
        if let Some(peer) = self.peers.load().get(&id) {
            peer.wake();
        }
    }

    /// Replaces the address book if `change` says that it changed it, and
    /// starts and stops the callers of peers accordingly.
    fn change_book(self: &Arc<Self>, change: impl FnOnce(&mut AddressBook) -> bool) {
        let _serial = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut book = AddressBook::clone(&self.book.load());
        if !change(&mut book) {
            return;
        }
        let own = self.own.load().node;
        let before = self.peers.load_full();
        let mut peers = BTreeMap::new();
        for id in book.ids().filter(|id| *id != own) {
            let peer = match before.get(&id) {
                Some(peer) => Arc::clone(peer),
                None => Peer::new(id, &self.options, self.stop.child_token()),
            };
            peers.insert(id, peer);
        }
        // The callers read the book: it must be there before they start.
        self.book.store(Arc::new(book));
        for (id, peer) in &*before {
            if !peers.contains_key(id) {
                peer.stop.cancel();
            }
        }
        for (id, peer) in &peers {
            if !before.contains_key(id) && !self.stop.is_cancelled() {
                let calling = outgoing::call(Arc::clone(self), Arc::clone(peer));
                self.spawn(calling);
            }
        }
        self.peers.store(Arc::new(peers));
    }

    /// Notes an inbound raft connection; an older one of the same peer, which
    /// the peer must have given up, is told to stop.
    pub(super) fn register_inbound(&self, hello: &Hello) -> Arc<Line> {
        let cut = self.stop.child_token();
        let line = self.lines.register(hello.node, hello.run, cut);
        let connection = Inbound {
            hello: hello.clone(),
            line: Arc::clone(&line),
        };
        let mut inbound = self.inbound.lock().unwrap_or_else(PoisonError::into_inner);
        inbound.retain(|_, connection| !connection.line.cut.is_cancelled());
        if let Some(older) = inbound.insert(hello.node, connection) {
            older.line.cut.cancel();
        }
        line
    }

    /// Shows how far a snapshot to a peer has come; `None` when it has ended.
    pub(super) fn note_snapshot(&self, peer: NodeId, progress: Option<SnapshotProgress>) {
        if let Some(peer) = self.peers.load().get(&peer) {
            peer.status().snapshot = progress;
        }
    }

    /// Ends every connection; new ones may be made.
    pub(super) fn disconnect(&self) {
        let inbound = self.inbound.lock().unwrap_or_else(PoisonError::into_inner);
        for connection in inbound.values() {
            connection.line.cut.cancel();
        }
        for peer in self.peers.load().values() {
            peer.disconnect();
        }
    }

    /// Runs a task that `shutdown` waits for; callable from any thread.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(task, &self.runtime);
    }

    pub(super) fn count_unroutable(&self) {
        self.unroutable.fetch_add(1, Ordering::Relaxed);
    }
}
