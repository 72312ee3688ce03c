//! A node's life: founded or joined once, then started and stopped with each
//! unseal and seal. Consensus runs only between start and stop; in between the
//! store stays readable.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use super::network::{Alone, Connected, Departures, Greetings, PeerHandler};
use crate::peer::{DurableEnd, Hello, PeerTls, Transport, TransportOptions};
use crate::physical::{JoinGrant, PhysicalError};
use crate::snapshot::SnapshotScrub;
use crate::store::Store;
use crate::sync::queue::{self, Receiver, Sender};
use crate::sync::thread::Builder;
use crate::types::{ClusterId, Incarnation, LogIndex, Member, Membership, NodeId};
use crate::wal::{Damage, Identity, Wal, WalScrub};

use super::belonging::OwnDirectory;
use super::event::{Event, EventSender};
use super::handle::{Facts, Inner, Network, Running};
use super::identity::node_number;
use super::options::Timings;
use super::peers::Peers;
use super::recovery::{Recovery, recover};
use super::refusals::Refusals;
use super::repair_thread::{Ending, Patient, RepairThread, examine, is_damage};
use super::replacing::Replacing;
use super::stream::Incoming;
use super::survivors::{self, SurvivorsError};
use super::threads::{Foundation, Threads, config, durable_end};
use super::upkeep::Upkeep;
use super::wal_thread::chain;

/// Who owns store and log.
pub(super) enum Lifecycle {
    /// Sealed. Without a recovery the log is read again at the next start.
    Stopped {
        store: Box<Store>,
        recovery: Option<Box<Recovery>>,
    },
    /// The threads own them.
    Running(Threads),
    /// The log is damaged and being repaired.
    Repairing(Box<Repairing>),
    /// Lost in a failure that was reported.
    Broken,
}

/// A repair under way.
pub(super) struct Repairing {
    store: Box<Store>,
    events: EventSender,
    network: Network,
    /// Becomes true when nothing touches the directory any more.
    is_over: watch::Receiver<bool>,
    /// Tells one repair from the next.
    token: Arc<()>,
}

/// What reading the log came to.
enum Reading {
    Whole(Box<Store>, Box<Recovery>),
    Damaged(Box<Store>, Box<Patient>),
}

impl Inner {
    pub(super) async fn bootstrap(&self, cluster: [u8; 16]) -> Result<(), PhysicalError> {
        let mut lifecycle = self.lifecycle.lock().await;
        if self.cluster().is_some() {
            return Err(PhysicalError::Refused {
                reason: "this node belongs to a cluster already".into(),
            });
        }
        self.create_log(ClusterId(cluster), Some(self.alone()))
            .await?;
        let (store, _) = take_stopped(&mut lifecycle)?;
        let Reading::Whole(store, recovery) = self.recover(store, &mut lifecycle).await? else {
            return Err(PhysicalError::NotRunning);
        };
        let recovery = (store, recovery);
        let greetings = Greetings::new(&self.hello(ClusterId(cluster)));
        let (events, receiver) = EventSender::new();
        let foundation = self.foundation(Timings::alone(), Arc::new(Alone { greetings }), events);
        // Nobody mends the log of a node that is about to be sealed again.
        let (flaws, _) = unbounded_channel();
        let started = (receiver, flaws);
        self.run(&mut lifecycle, foundation, started, recovery, None)?;
        let mut leadership = self.leadership.subscribe();
        let leads = leadership.wait_for(|leadership| leadership.is_leader);
        match tokio::time::timeout(BOOTSTRAP_WAIT, leads).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(self.failure.error().unwrap_or(PhysicalError::Unavailable {
                reason: "the first leader was not elected in time".into(),
            })),
        }
    }

    pub(super) async fn start(self: &Arc<Self>, keyring: Vec<u8>) -> Result<(), PhysicalError> {
        let mut lifecycle = self.lifecycle.lock().await;
        let running = self.running.load_full();
        if running.is_some_and(|running| running.network.is_some()) {
            return self.set_tls_keyring(&keyring);
        }
        self.stop_threads(&mut lifecycle).await;
        if self.cluster().is_none() {
            return Err(PhysicalError::NotRunning);
        }
        if let Some(index) = self.identity.removed_at {
            return Err(PhysicalError::Refused {
                reason: format!(
                    "this node was removed from its cluster by the membership at log position \
                     {index}: empty its data directory and let it join again"
                ),
            });
        }
        self.start_network(&mut lifecycle, &keyring, &[]).await
    }

    pub(super) async fn start_joined(
        self: &Arc<Self>,
        grant: JoinGrant,
    ) -> Result<(), PhysicalError> {
        let mut lifecycle = self.lifecycle.lock().await;
        let granted = ClusterId(grant.cluster_id);
        let refused = |reason: &str| {
            Err(PhysicalError::Refused {
                reason: reason.into(),
            })
        };
        if self.is_member() || self.running.load().is_some() {
            return refused("this node belongs to a cluster already");
        }
        match self.cluster() {
            // A join that was interrupted before anything arrived.
            Some(cluster) if cluster == granted => {}
            Some(_) => {
                return refused(
                    "the data directory was prepared for another cluster: use an empty one",
                );
            }
            None => self.create_log(granted, None).await?,
        }
        let peers: Vec<(NodeId, String)> = grant
            .peers
            .iter()
            .map(|peer| (node_number(&peer.node_id), peer.cluster_address.clone()))
            .collect();
        self.start_network(&mut lifecycle, &grant.tls_keyring, &peers)
            .await
    }

    pub(super) async fn stop(&self) {
        let mut lifecycle = self.lifecycle.lock().await;
        self.stop_threads(&mut lifecycle).await;
    }

    /// Opens the cluster port and runs; stays stopped when that fails.
    pub(super) async fn start_network(
        self: &Arc<Self>,
        lifecycle: &mut Lifecycle,
        keyring: &[u8],
        peers: &[(NodeId, String)],
    ) -> Result<(), PhysicalError> {
        let tls = Arc::new(PeerTls::new(keyring).map_err(|error| refused(&error))?);
        let (store, recovery) = take_stopped(lifecycle)?;
        let recovery = match recovery {
            Some(recovery) => (store, recovery),
            None => match self.recover(store, lifecycle).await? {
                Reading::Whole(store, recovery) => (store, recovery),
                Reading::Damaged(store, mut patient) => {
                    if let Err(error) = self.follow_survivors(&mut patient) {
                        let recovery = None;
                        *lifecycle = Lifecycle::Stopped { store, recovery };
                        return Err(refused(&error));
                    }
                    return self.start_repair(lifecycle, keyring, tls, store, *patient);
                }
            },
        };
        let recovery = self.force_membership(lifecycle, recovery)?;
        // The greeting says how far the log reaches, from the first one on.
        self.durable.set(durable_end(&recovery.1.recovered));
        let own = self.hello(recovery.1.cluster);
        let (events, receiver) = EventSender::new();
        let (network, connected) = match self.open_port(own, (tls, keyring), &events) {
            Ok(opened) => opened,
            Err(error) => {
                let (store, recovery) = recovery;
                *lifecycle = Lifecycle::Stopped {
                    store,
                    recovery: Some(recovery),
                };
                return Err(error);
            }
        };
        for (peer, address) in peers {
            network.transport.learn(*peer, address);
        }
        let foundation = self.foundation(self.options.timings, Arc::new(connected), events);
        let (flaws, found) = unbounded_channel();
        let started = (receiver, flaws);
        self.run(lifecycle, foundation, started, recovery, Some(network))?;
        tokio::spawn(Self::mend(Arc::downgrade(self), found));
        Ok(())
    }

    /// Listens on the cluster port; what peers say goes to `events`.
    fn open_port(
        &self,
        own: Hello,
        (tls, keyring): (Arc<PeerTls>, &[u8]),
        events: &EventSender,
    ) -> Result<(Network, Connected), PhysicalError> {
        let greetings = Greetings::new(&own);
        let handler = PeerHandler {
            events: events.clone(),
            snapshots: Arc::clone(&self.snapshots),
            board: Arc::clone(&self.board),
            greetings: greetings.clone(),
            forward: Arc::clone(&self.forward),
            incoming: Incoming::default(),
            refusals: Refusals::new(
                self.identity.clone(),
                Arc::clone(&self.durable),
                Arc::clone(&self.failure),
                events.clone(),
            ),
        };
        let transport = Transport::start(
            &tokio::runtime::Handle::current(),
            self.transport_options(),
            own,
            Arc::clone(&tls),
            Arc::new(handler),
        );
        let transport = Arc::new(transport.map_err(|error| refused(&error))?);
        let connected = Connected {
            transport: Arc::clone(&transport),
            events: events.clone(),
            snapshots: Arc::clone(&self.snapshots),
            greetings,
            runtime: tokio::runtime::Handle::current(),
            departures: Departures::default(),
        };
        let keeper = tokio::spawn(Arc::clone(&self.witness_file).keep());
        let network = Network {
            transport,
            tls,
            keyring: ArcSwap::from_pointee(keyring.to_vec()),
            keeper: keeper.abort_handle(),
        };
        Ok((network, connected))
    }

    /// Begins to repair the damaged log (D-030); consensus starts when that is
    /// done. Does not wait.
    fn start_repair(
        self: &Arc<Self>,
        lifecycle: &mut Lifecycle,
        keyring: &[u8],
        tls: Arc<PeerTls>,
        store: Box<Store>,
        patient: Patient,
    ) -> Result<(), PhysicalError> {
        let salvage = patient.repair.salvage();
        // What it acknowledged it still stands by.
        self.durable.set(DurableEnd {
            term: salvage.hard_state().term,
            index: salvage.last().0.max(patient.repair.snapshot().0),
        });
        let (events, receiver) = EventSender::new();
        let own = self.hello(patient.cluster);
        let opened = self.open_port(own, (tls, keyring), &events);
        let (network, connected) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let recovery = None;
                *lifecycle = Lifecycle::Stopped { store, recovery };
                return Err(error);
            }
        };
        let (index, membership) = &patient.membership;
        connected.set_members(*index, membership);
        let thread = RepairThread {
            repair: patient.repair,
            events: receiver,
            peers: Arc::new(connected),
            snapshots: Arc::clone(&self.snapshots),
            board: Arc::clone(&self.repair),
            disk: Arc::clone(&self.disk),
            directory: self.wal_path.clone(),
            options: self.options.wal,
        };
        let token = Arc::new(());
        let (over, is_over) = watch::channel(false);
        let work = tokio::task::spawn_blocking(move || {
            let ending = thread.run();
            over.send_replace(true);
            ending
        });
        let (inner, keyring) = (Arc::clone(self), keyring.to_vec());
        let waiter_token = Arc::clone(&token);
        tokio::spawn(async move {
            let ending = work.await;
            let ending = ending.unwrap_or_else(|_| Err("the repair ended in a panic".into()));
            inner.end_repair(ending, &waiter_token, keyring).await;
        });
        *lifecycle = Lifecycle::Repairing(Box::new(Repairing {
            store,
            events,
            network,
            is_over,
            token,
        }));
        Ok(())
    }

    /// A repair has ended: the node starts, unless it was sealed meanwhile.
    fn end_repair(
        self: Arc<Self>,
        ending: Result<Ending, String>,
        token: &Arc<()>,
        keyring: Vec<u8>,
    ) -> BoxFuture<'_, ()> {
        // Boxed: starting may begin another repair.
        Box::pin(async move {
            let mut lifecycle = self.lifecycle.lock().await;
            let is_current = match &*lifecycle {
                Lifecycle::Repairing(repairing) => Arc::ptr_eq(&repairing.token, token),
                _ => false,
            };
            if !is_current {
                return;
            }
            self.stop_threads(&mut lifecycle).await;
            match ending {
                Ok(Ending::Stopped) => {}
                Ok(Ending::Whole) => {
                    tracing::info!("the log is whole again");
                    if let Err(error) = self.start_network(&mut lifecycle, &keyring, &[]).await {
                        // It must not stay out of service unnoticed.
                        let reason = format!("start on the repaired log: {}", chain(&error));
                        self.failure.report(&reason);
                    }
                }
                Err(reason) => self.failure.report(&reason),
            }
        })
    }

    /// A repair asks those that an operator says are left, if he says so.
    fn follow_survivors(&self, patient: &mut Patient) -> Result<(), SurvivorsError> {
        let (disk, identity) = (&*self.disk, &self.identity);
        let named = survivors::named(disk, &self.directory, identity, &patient.known)?;
        if let Some(named) = named {
            patient.follow(identity.id, named);
        }
        Ok(())
    }

    /// Takes up what an operator says of the survivors of a lost quorum.
    fn force_membership(
        &self,
        lifecycle: &mut Lifecycle,
        (store, mut recovery): (Box<Store>, Box<Recovery>),
    ) -> Result<(Box<Store>, Box<Recovery>), PhysicalError> {
        let recovered = &recovery.recovered;
        match survivors::forced(&self.disk, &self.directory, &self.identity, recovered) {
            Ok(forced) => {
                recovery.forced = forced;
                Ok((store, recovery))
            }
            Err(error) => {
                *lifecycle = Lifecycle::Stopped {
                    store,
                    recovery: Some(recovery),
                };
                Err(refused(&error))
            }
        }
    }

    fn transport_options(&self) -> TransportOptions {
        TransportOptions {
            snapshot_bytes_per_second: self.options.snapshot_bytes_per_second,
            witness: Arc::clone(self.witness_file.witness()),
            durable: Arc::clone(&self.durable),
            ..TransportOptions::new(self.options.cluster_listen)
        }
    }

    fn own_directory(&self) -> OwnDirectory {
        let (disk, directory, identity) = (
            Arc::clone(&self.disk),
            self.directory.clone(),
            self.identity.clone(),
        );
        OwnDirectory {
            incarnation: self.identity.incarnation,
            durable: Arc::clone(&self.durable),
            remember_removal: Arc::new(move |index| {
                let marked = identity.mark_removed(disk.as_ref(), &directory, index);
                marked.map_err(|error| chain(&error))
            }),
        }
    }

    fn foundation(
        &self,
        timings: Timings,
        peers: Arc<dyn Peers>,
        events: EventSender,
    ) -> Foundation {
        Foundation {
            config: config(
                (self.identity.id, self.identity.incarnation),
                timings,
                self.options.trailing_entries,
                self.options.read_mode,
            ),
            thresholds: self.options.snapshot,
            checkpoint_interval: self.options.checkpoint_interval.max(1),
            autopilot: self.autopilot(),
            board: Arc::clone(&self.board),
            snapshots: Arc::clone(&self.snapshots),
            failure: Arc::clone(&self.failure),
            status: Arc::clone(&self.status),
            leadership: Arc::clone(&self.leadership),
            peers,
            events,
            directory: self.own_directory(),
        }
    }

    /// Starts measuring and scrubbing; it ends when what it gives is dropped.
    fn begin_upkeep(
        &self,
        recovery: &Recovery,
        events: &EventSender,
        flaws: UnboundedSender<Damage>,
    ) -> Sender<()> {
        let (sender, receiver) = queue::channel();
        let upkeep = Upkeep {
            disk: Arc::clone(&self.disk),
            directory: self.directory.clone(),
            board: Arc::clone(&self.board),
            space: Arc::clone(&self.space),
            scrub: Arc::clone(&self.scrub),
            options: self.options.scrub,
            log: WalScrub::new(&recovery.wal.reader()),
            snapshots: SnapshotScrub::new(self.snapshots.directory().clone()),
            replacing: Replacing::new(
                self.snapshots.directory().clone(),
                Arc::clone(&self.scrub),
                events.clone(),
            ),
            flaws,
            log_is_done: false,
            stop: receiver,
        };
        let thread = Builder::new().name("upkeep".into());
        if let Err(error) = thread.spawn(move || upkeep.run()) {
            tracing::error!(%error, "nothing measures the disk: no thread");
        }
        sender
    }

    fn run(
        &self,
        lifecycle: &mut Lifecycle,
        foundation: Foundation,
        (queue, flaws): (Receiver<Event>, UnboundedSender<Damage>),
        (store, recovery): (Box<Store>, Box<Recovery>),
        network: Option<Network>,
    ) -> Result<(), PhysicalError> {
        let events = foundation.events.clone();
        let upkeep = self.begin_upkeep(&recovery, &events, flaws);
        match Threads::spawn(&foundation, queue, *store, *recovery, self.clock) {
            Ok(threads) => {
                *lifecycle = Lifecycle::Running(threads);
                self.running.store(Some(Arc::new(Running {
                    events,
                    network,
                    _upkeep: upkeep,
                })));
                Ok(())
            }
            Err(reason) => {
                self.failure.report(&reason);
                Err(PhysicalError::Failed { reason })
            }
        }
    }

    pub(super) async fn stop_threads(&self, lifecycle: &mut Lifecycle) {
        let threads = match std::mem::replace(lifecycle, Lifecycle::Broken) {
            Lifecycle::Running(threads) => threads,
            Lifecycle::Repairing(repairing) => {
                *lifecycle = self.stop_repair(*repairing).await;
                return;
            }
            other => {
                *lifecycle = other;
                return;
            }
        };
        let running = self.running.swap(None);
        if let Some(running) = &running {
            // The core first: its last word is that it no longer leads.
            running.events.send(Event::Stop);
            if let Some(network) = &running.network {
                network.keeper.abort();
                network.transport.shutdown().await;
            }
        }
        drop(running);
        let witness_file = Arc::clone(&self.witness_file);
        // Without the file the guard is weaker, and nothing else.
        let _ = tokio::task::spawn_blocking(move || witness_file.write()).await;
        let store = tokio::task::spawn_blocking(move || threads.join()).await;
        match store {
            Ok(Some(store)) => {
                *lifecycle = Lifecycle::Stopped {
                    store: Box::new(store),
                    recovery: None,
                };
            }
            _ => self.failure.report("a thread of the node ended in a panic"),
        }
    }

    async fn stop_repair(&self, repairing: Repairing) -> Lifecycle {
        let Repairing {
            store,
            events,
            network,
            mut is_over,
            ..
        } = repairing;
        events.send(Event::Stop);
        // An error: the thread is gone.
        let _ = is_over.wait_for(|is_over| *is_over).await;
        network.keeper.abort();
        network.transport.shutdown().await;
        self.repair.set(None);
        let recovery = None;
        Lifecycle::Stopped { store, recovery }
    }

    /// Makes a log for a cluster, with the first membership if this node
    /// founds it.
    async fn create_log(
        &self,
        cluster: ClusterId,
        founder: Option<Membership>,
    ) -> Result<(), PhysicalError> {
        let identity = Identity {
            cluster,
            node: self.identity.id,
            incarnation: self.identity.incarnation,
        };
        let (disk, path, options) = (
            Arc::clone(&self.disk),
            self.wal_path.clone(),
            self.options.wal,
        );
        let founded = founder.is_some();
        let created = tokio::task::spawn_blocking(move || {
            let mut wal = Wal::create(disk, &path, identity, options)?;
            if let Some(membership) = founder {
                wal.append(&[crate::raft::bootstrap(membership)])?;
            }
            wal.mark_idle()
        });
        let created = created.await.map_err(|error| failed(&error))?;
        created.map_err(|error| failed(&error))?;
        *self.facts_mut() = Facts {
            cluster: Some(cluster),
            has_storage: founded,
        };
        self.snapshots.set_cluster(cluster);
        Ok(())
    }

    /// Reads the log again; on failure the node is broken, and says why.
    async fn recover(
        &self,
        mut store: Box<Store>,
        lifecycle: &mut Lifecycle,
    ) -> Result<Reading, PhysicalError> {
        *lifecycle = Lifecycle::Broken;
        let (disk, path, identity, options, snapshots) = (
            Arc::clone(&self.disk),
            self.wal_path.clone(),
            self.identity.clone(),
            self.options.wal,
            Arc::clone(&self.snapshots),
        );
        let recovered = tokio::task::spawn_blocking(move || {
            match recover(&disk, &path, &identity, &options, &snapshots, &mut store) {
                Ok(Some(recovery)) => Ok(Ok(Reading::Whole(store, Box::new(recovery)))),
                Ok(None) => Ok(Err(store)),
                Err(error) if is_damage(&error) => {
                    tracing::error!(error = chain(&error), "the log will be repaired from peers");
                    let patient =
                        examine(&disk, &path, &identity, &options, &snapshots, &mut store)?;
                    Ok(Ok(Reading::Damaged(store, Box::new(patient))))
                }
                Err(error) => Err(error),
            }
        });
        let recovered = recovered.await.map_err(|error| failed(&error))?;
        match recovered {
            Ok(Ok(reading)) => {
                let (Reading::Whole(store, _) | Reading::Damaged(store, _)) = &reading;
                self.board.publish(Arc::new(store.view()));
                Ok(reading)
            }
            Ok(Err(store)) => {
                *lifecycle = Lifecycle::Stopped {
                    store,
                    recovery: None,
                };
                Err(PhysicalError::NotRunning)
            }
            Err(error) => {
                let reason = chain(&error);
                self.failure.report(&reason);
                Err(PhysicalError::Failed { reason })
            }
        }
    }

    fn hello(&self, cluster: ClusterId) -> Hello {
        Hello {
            cluster,
            node: self.identity.id,
            name: self.identity.name.clone(),
            incarnation: self.identity.incarnation,
            run: self.identity.run,
            durable: self.durable.now(),
            api_address: self.options.api_address.clone(),
            cluster_address: self.options.cluster_address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            membership_index: LogIndex(0),
        }
    }

    /// The membership of a cluster of one.
    fn alone(&self) -> Membership {
        let member = Member {
            name: self.identity.name.clone(),
            address: self.options.cluster_address.clone(),
            incarnation: Incarnation(self.identity.incarnation.0),
            non_voter: false,
        };
        Membership {
            voters: [self.identity.id].into(),
            members: [(self.identity.id, member)].into(),
            ..Membership::default()
        }
    }
}

type StoppedParts = (Box<Store>, Option<Box<Recovery>>);

fn take_stopped(lifecycle: &mut Lifecycle) -> Result<StoppedParts, PhysicalError> {
    match std::mem::replace(lifecycle, Lifecycle::Broken) {
        Lifecycle::Stopped { store, recovery } => Ok((store, recovery)),
        other => {
            *lifecycle = other;
            Err(PhysicalError::Failed {
                reason: "the node cannot be started in this state".into(),
            })
        }
    }
}

pub(super) fn refused(error: &dyn std::error::Error) -> PhysicalError {
    PhysicalError::Refused {
        reason: chain(error),
    }
}

fn failed(error: &dyn std::error::Error) -> PhysicalError {
    PhysicalError::Failed {
        reason: chain(error),
    }
}

/// For a node alone to elect itself.
const BOOTSTRAP_WAIT: Duration = Duration::from_secs(10);
