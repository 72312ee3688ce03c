//! A [`Backend`] in memory: one node leads as soon as it runs, others may
//! attach to it as standbys. For tests of the layers above, and for trying the
//! server without a disk.
//!
//! What it must never do: pretend durability. Nothing outlives the process.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::{
    ArchiveSource, Backend, BoxFuture, JoinGrant, JoinRequest, KEY_BYTES_MAX, Leadership,
    MemberWish, PeerInfo, Physical, PhysicalError, RaftStatus, Reader, RestoreEntries, ServerInfo,
    VALUE_BYTES_MAX,
};
use crate::membership::{AutopilotConfig, ClusterHealth, Forecast, Quorum, ServerHealth};
use crate::types::{Operation, Outcome, Pair, StoredValue, Transaction};

/// One node of a cluster in memory.
pub struct InMemory {
    node_id: String,
    address: String,
    cluster: Mutex<Arc<Cluster>>,
    node: Mutex<NodeState>,
    leadership: watch::Sender<Leadership>,
}

#[derive(Default)]
struct NodeState {
    member: bool,
    running: bool,
    tls_keyring: Vec<u8>,
    autopilot: AutopilotConfig,
}

#[derive(Default)]
struct Cluster {
    state: Mutex<ClusterState>,
}

#[derive(Clone, Default)]
struct ClusterState {
    id: Option<[u8; 16]>,
    leader: Option<PeerInfo>,
    servers: BTreeMap<String, ServerInfo>,
    entries: Entries,
    index: u64,
    restore_epoch: u64,
}

type Entries = Arc<BTreeMap<Arc<str>, Pair>>;

struct View {
    entries: Entries,
    index: u64,
    restore_epoch: u64,
}

impl InMemory {
    /// A node without a cluster.
    #[must_use]
    pub fn new(node_id: &str) -> Arc<Self> {
        Self::attached(node_id, Arc::default())
    }

    /// A node that will find `leader`'s cluster when it joins.
    #[must_use]
    pub fn beside(leader: &Self, node_id: &str) -> Arc<Self> {
        Self::attached(node_id, leader.cluster())
    }

    fn attached(node_id: &str, cluster: Arc<Cluster>) -> Arc<Self> {
        Arc::new(Self {
            node_id: node_id.to_owned(),
            address: format!("{node_id}:8201"),
            cluster: Mutex::new(cluster),
            node: Mutex::default(),
            leadership: watch::Sender::default(),
        })
    }

    /// The peer keyring it was last given.
    #[must_use]
    pub fn tls_keyring(&self) -> Vec<u8> {
        lock(&self.node).tls_keyring.clone()
    }

    /// Whether it takes part.
    #[must_use]
    pub fn is_running(&self) -> bool {
        lock(&self.node).running
    }

    fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(&lock(&self.cluster))
    }

    fn peer(&self) -> PeerInfo {
        PeerInfo {
            node_id: self.node_id.clone(),
            cluster_address: self.address.clone(),
            api_address: format!("http://{}:8200", self.node_id),
        }
    }

    fn view(&self) -> View {
        let cluster = self.cluster();
        let state = lock(&cluster.state);
        View {
            entries: Arc::clone(&state.entries),
            index: state.index,
            restore_epoch: state.restore_epoch,
        }
    }

    // Leads if nobody else does.
    fn run(&self, tls_keyring: Vec<u8>) {
        let cluster = self.cluster();
        let mut state = lock(&cluster.state);
        let leader = state.leader.get_or_insert_with(|| self.peer()).clone();
        let mut node = lock(&self.node);
        node.member = true;
        node.running = true;
        node.tls_keyring = tls_keyring;
        self.leadership.send_replace(Leadership {
            is_leader: leader.node_id == self.node_id,
            term: 1,
            leader: Some(leader),
            removed: false,
        });
    }

    fn refuse_unless_leader(&self) -> Result<(), PhysicalError> {
        if !lock(&self.node).running {
            return Err(PhysicalError::NotRunning);
        }
        if !self.leadership.borrow().is_leader {
            return Err(PhysicalError::NotLeader);
        }
        Ok(())
    }

    fn apply(&self, transaction: &Transaction) -> Result<Outcome, PhysicalError> {
        self.refuse_unless_leader()?;
        bounded(transaction)?;
        let cluster = self.cluster();
        let mut state = lock(&cluster.state);
        state.index += 1;
        let mut entries = BTreeMap::clone(&state.entries);
        for precondition in &transaction.preconditions {
            let present = entries.get(precondition.key.as_str()).map(Pair::value);
            if present != precondition.expected.as_deref() {
                let key = precondition.key.clone();
                return Ok(Outcome::PreconditionFailed { key });
            }
        }
        for operation in &transaction.operations {
            match operation {
                Operation::Put { key, value } => {
                    entries.insert(key.as_str().into(), Pair::new(key, value));
                }
                Operation::Delete { key } => {
                    entries.remove(key.as_str());
                }
            }
        }
        state.entries = Arc::new(entries);
        Ok(Outcome::Applied)
    }
}

impl Physical for InMemory {
    fn confirmed(&self) -> BoxFuture<'_, Result<Arc<dyn Reader>, PhysicalError>> {
        Box::pin(async {
            if !lock(&self.node).running {
                return Err(PhysicalError::NotRunning);
            }
            Ok(Arc::new(self.view()) as Arc<dyn Reader>)
        })
    }

    fn local(&self) -> Arc<dyn Reader> {
        // A node that has not joined holds nothing of the cluster beside it.
        if !lock(&self.node).member {
            return Arc::new(View {
                entries: Entries::default(),
                index: 0,
                restore_epoch: 0,
            });
        }
        Arc::new(self.view())
    }

    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<Outcome, PhysicalError>> {
        Box::pin(async move { self.apply(&transaction) })
    }
}

impl Backend for InMemory {
    fn is_member(&self) -> bool {
        lock(&self.node).member
    }

    fn node_id(&self) -> String {
        self.node_id.clone()
    }

    fn incarnation(&self) -> u64 {
        1
    }

    fn bootstrap(&self, cluster_id: [u8; 16]) -> BoxFuture<'_, Result<(), PhysicalError>> {
        Box::pin(async move {
            if self.is_member() {
                return Err(PhysicalError::Refused {
                    reason: "cluster already has state".to_owned(),
                });
            }
            let cluster = self.cluster();
            {
                let mut state = lock(&cluster.state);
                state.id = Some(cluster_id);
                let server = server(&self.node_id, &self.address, true, false);
                state.servers.insert(self.node_id.clone(), server);
            }
            self.run(Vec::new());
            Ok(())
        })
    }

    fn start(&self, tls_keyring: Vec<u8>) -> BoxFuture<'_, Result<(), PhysicalError>> {
        Box::pin(async move {
            self.run(tls_keyring);
            Ok(())
        })
    }

    fn start_joined(&self, grant: JoinGrant) -> BoxFuture<'_, Result<(), PhysicalError>> {
        Box::pin(async move {
            if self.is_member() || self.cluster_id() != Some(grant.cluster_id) {
                return Err(PhysicalError::Refused {
                    reason: "the grant is for another cluster".to_owned(),
                });
            }
            self.run(grant.tls_keyring);
            Ok(())
        })
    }

    fn set_tls_keyring(&self, tls_keyring: Vec<u8>) -> Result<(), PhysicalError> {
        lock(&self.node).tls_keyring = tls_keyring;
        Ok(())
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            lock(&self.node).running = false;
            let cluster = self.cluster();
            let mut state = lock(&cluster.state);
            let leads = |leader: &PeerInfo| leader.node_id == self.node_id;
            if state.leader.as_ref().is_some_and(leads) {
                state.leader = None;
            }
            self.leadership.send_replace(Leadership::default());
        })
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    fn servers(&self) -> (u64, Vec<ServerInfo>) {
        let cluster = self.cluster();
        let state = lock(&cluster.state);
        let leads = |id: &String| state.leader.as_ref().is_some_and(|l| l.node_id == *id);
        let servers = state.servers.iter().map(|(id, server)| ServerInfo {
            leader: leads(id),
            ..server.clone()
        });
        (1, servers.collect())
    }

    fn status(&self) -> RaftStatus {
        let view = self.view();
        RaftStatus {
            commit_index: view.index,
            applied_index: view.index,
            term: 1,
            peers: BTreeMap::new(),
            repair: None,
        }
    }

    fn cluster_id(&self) -> Option<[u8; 16]> {
        lock(&self.cluster().state).id
    }

    fn admit(&self, joiner: JoinRequest) -> BoxFuture<'_, Result<(), PhysicalError>> {
        Box::pin(async move {
            self.refuse_unless_leader()?;
            let cluster = self.cluster();
            let mut state = lock(&cluster.state);
            let server = server(
                &joiner.node_id,
                &joiner.cluster_address,
                false,
                joiner.non_voter,
            );
            state.servers.insert(joiner.node_id, server);
            Ok(())
        })
    }

    fn remove(&self, node_id: String, _force: bool) -> BoxFuture<'_, Result<(), PhysicalError>> {
        Box::pin(async move {
            self.refuse_unless_leader()?;
            lock(&self.cluster().state).servers.remove(&node_id);
            Ok(())
        })
    }

    fn change_vote(
        &self,
        node_id: String,
        votes: bool,
        _force: bool,
    ) -> BoxFuture<'_, Result<(), PhysicalError>> {
        Box::pin(async move {
            self.refuse_unless_leader()?;
            let cluster = self.cluster();
            let mut state = lock(&cluster.state);
            match state.servers.get_mut(&node_id) {
                None => Err(PhysicalError::UnknownServer { node_id }),
                Some(server) => {
                    (server.voter, server.non_voter) = (votes, !votes);
                    Ok(())
                }
            }
        })
    }

    // Everybody in memory is in contact.
    fn forecast(&self, node_id: &str, wish: MemberWish) -> Result<Forecast, PhysicalError> {
        self.refuse_unless_leader()?;
        let cluster = self.cluster();
        let state = lock(&cluster.state);
        let unknown = || PhysicalError::UnknownServer {
            node_id: node_id.to_owned(),
        };
        let server = state.servers.get(node_id).ok_or_else(unknown)?;
        let voters = state.servers.values().filter(|s| s.voter).count();
        let after = match (wish, server.voter) {
            (MemberWish::Promote, false) => voters + 1,
            (MemberWish::Remove | MemberWish::Demote, true) => voters - 1,
            _ => voters,
        };
        let quorum = |voters| Quorum {
            voters,
            voters_in_contact: voters,
        };
        Ok(Forecast {
            before: quorum(voters),
            after: quorum(after),
        })
    }

    fn step_down(&self) -> BoxFuture<'_, Result<(), PhysicalError>> {
        Box::pin(async { self.refuse_unless_leader() })
    }

    fn hand_over(&self, node_id: String) -> BoxFuture<'_, Result<(), PhysicalError>> {
        Box::pin(async move {
            self.refuse_unless_leader()?;
            if lock(&self.cluster().state).servers.contains_key(&node_id) {
                Ok(())
            } else {
                Err(PhysicalError::UnknownServer { node_id })
            }
        })
    }

    fn committed_servers(&self) -> BoxFuture<'_, Result<(u64, Vec<ServerInfo>), PhysicalError>> {
        Box::pin(async { Ok(self.servers()) })
    }

    fn autopilot(&self) -> AutopilotConfig {
        lock(&self.node).autopilot.clone()
    }

    fn set_autopilot(&self, config: AutopilotConfig) {
        lock(&self.node).autopilot = config;
    }

    fn cluster_health(&self) -> Result<ClusterHealth, PhysicalError> {
        self.refuse_unless_leader()?;
        let (_, servers) = self.servers();
        let voters = servers.iter().filter(|server| server.voter).count();
        let health = |server: ServerInfo| ServerHealth {
            node_id: server.node_id,
            address: server.address,
            healthy: true,
            is_leader: server.leader,
            is_voter: server.voter,
            is_permanent_non_voter: server.non_voter,
            ..ServerHealth::default()
        };
        Ok(ClusterHealth {
            healthy: true,
            failure_tolerance: voters.saturating_sub(voters / 2 + 1),
            leader: self.node_id.clone(),
            servers: servers.into_iter().map(health).collect(),
        })
    }

    fn archive_source(&self) -> BoxFuture<'_, Result<ArchiveSource, PhysicalError>> {
        Box::pin(async {
            let view = self.view();
            let (membership_index, servers) = self.servers();
            let entries = view.entries;
            Ok(ArchiveSource {
                index: view.index,
                term: 1,
                servers,
                membership_index,
                entries: Arc::new(move || {
                    let pairs: Vec<Pair> = entries.values().cloned().collect();
                    Box::new(pairs.into_iter())
                }),
            })
        })
    }

    fn restore(&self, entries: RestoreEntries) -> BoxFuture<'_, Result<(), PhysicalError>> {
        Box::pin(async move {
            self.refuse_unless_leader()?;
            let mut restored = BTreeMap::new();
            for entry in entries {
                let (key, value) = entry?;
                restored.insert(Arc::from(key.as_str()), Pair::new(&key, &value));
            }
            let cluster = self.cluster();
            let mut state = lock(&cluster.state);
            state.entries = Arc::new(restored);
            state.index += 1;
            state.restore_epoch += 1;
            Ok(())
        })
    }
}

impl Reader for View {
    fn value<'a>(
        &'a self,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<StoredValue>, PhysicalError>> {
        Box::pin(async move { Ok(self.entries.get(key).map(Pair::stored)) })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<String>, PhysicalError>> {
        Box::pin(async move {
            let from = (Bound::Included(prefix), Bound::Unbounded);
            let below = self.entries.range::<str, _>(from);
            let names: BTreeSet<String> = below
                .map_while(|(key, _)| key.strip_prefix(prefix))
                .map(|rest| match rest.split_once('/') {
                    Some((directory, _)) => format!("{directory}/"),
                    None => rest.to_owned(),
                })
                .collect();
            Ok(names.into_iter().collect())
        })
    }

    fn restore_epoch(&self) -> u64 {
        self.restore_epoch
    }

    fn applied_index(&self) -> u64 {
        self.index
    }
}

fn server(node_id: &str, address: &str, voter: bool, non_voter: bool) -> ServerInfo {
    ServerInfo {
        node_id: node_id.to_owned(),
        address: address.to_owned(),
        leader: false,
        voter,
        non_voter,
    }
}

fn bounded(transaction: &Transaction) -> Result<(), PhysicalError> {
    for operation in &transaction.operations {
        let (key, bytes) = match operation {
            Operation::Put { key, value } => (key, value.len()),
            Operation::Delete { key } => (key, 0),
        };
        if KEY_BYTES_MAX < key.len() {
            return Err(PhysicalError::KeyTooLarge {
                bytes: key.len(),
                max: KEY_BYTES_MAX,
            });
        }
        if VALUE_BYTES_MAX < bytes {
            return Err(PhysicalError::ValueTooLarge {
                bytes,
                max: VALUE_BYTES_MAX,
            });
        }
    }
    Ok(())
}

// A poisoned lock only means that another test panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
