//! A few nodes on loopback, founded as `sys/init` and join do it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use holdfast::disk::{Disk, MemoryDisk};
use holdfast::membership::duration::GoDuration;
use holdfast::node::{NodeOptions, RaftNode, SnapshotThresholds};
use holdfast::peer::generate_keyring;
use holdfast::physical::{
    Backend, JoinGrant, JoinRequest, PeerInfo, Physical, PhysicalError, Reader,
};
use holdfast::types::{Operation, Outcome, Transaction};
use holdfast::wal::WalOptions;
use tokio::time::{Instant, sleep};

pub const CLUSTER: [u8; 16] = *b"cluster-of-tests";
/// Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Where a node lives.
#[derive(Clone)]
pub enum Home {
    Folder(Arc<tempfile::TempDir>),
    Memory(MemoryDisk),
}

pub struct Member {
    pub name: String,
    pub options: NodeOptions,
    pub home: Home,
    /// `None` while it is down.
    pub node: Option<Arc<RaftNode>>,
}

impl Member {
    pub fn node(&self) -> &Arc<RaftNode> {
        self.node.as_ref().expect("the node is up")
    }
}

pub struct Cluster {
    pub members: Vec<Member>,
    pub keyring: Vec<u8>,
}

#[derive(Clone, Copy)]
pub struct Shape {
    pub snapshot_entries: u64,
    pub trailing_entries: u64,
    pub segment_bytes: u64,
    pub in_memory: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            snapshot_entries: 8192,
            trailing_entries: 8192,
            segment_bytes: 4 << 20,
            in_memory: false,
        }
    }
}

impl Cluster {
    /// A founded cluster of this many voters.
    pub async fn of(count: usize, shape: Shape) -> Self {
        let mut cluster = Self {
            members: Vec::new(),
            keyring: generate_keyring().expect("a keyring").to_vec(),
        };
        let first = cluster.add_member("n1", shape);
        let node = Arc::clone(cluster.members[first].node());
        node.bootstrap(CLUSTER).await.expect("bootstraps");
        assert!(node.leadership().borrow().is_leader);
        node.stop().await;
        node.start(cluster.keyring.clone()).await.expect("starts");
        cluster.leader().await;
        for number in 2..=count {
            let name = format!("n{number}");
            cluster.join(&name, shape, false).await.expect("joins");
        }
        cluster.until_voters(count).await;
        cluster
    }

    /// Opens a sealed node with an empty directory.
    pub fn add_member(&mut self, name: &str, shape: Shape) -> usize {
        let home = if shape.in_memory {
            Home::Memory(MemoryDisk::new())
        } else {
            Home::Folder(Arc::new(tempfile::tempdir().expect("a folder")))
        };
        let index = self.add_sealed(name, shape, home);
        self.open(index);
        index
    }

    /// A node on this home, not opened yet.
    pub fn add_sealed(&mut self, name: &str, shape: Shape, home: Home) -> usize {
        let address = free_address();
        let mut options = NodeOptions::new(
            name,
            address,
            address.to_string(),
            format!("https://{name}.example:8200"),
        );
        options.snapshot = SnapshotThresholds {
            entries: shape.snapshot_entries,
            bytes: 64 << 20,
        };
        options.trailing_entries = shape.trailing_entries;
        options.wal = WalOptions {
            segment_bytes: shape.segment_bytes,
            ..WalOptions::default()
        };
        options.autopilot.server_stabilization_time = GoDuration {
            nanoseconds: 200_000_000,
        };
        options.on_failure = Arc::new(|reason| panic!("the disk failed: {reason}"));
        options.on_refusal = Arc::new(|reason| panic!("identity refused: {reason}"));
        self.members.push(Member {
            name: name.to_owned(),
            options,
            home,
            node: None,
        });
        self.members.len() - 1
    }

    /// Opens a node, sealed, on what its home holds.
    pub fn open(&mut self, index: usize) {
        let member = &mut self.members[index];
        let mut options = member.options.clone();
        match &member.home {
            Home::Folder(folder) => options.path = Some(folder.path().join("data")),
            Home::Memory(disk) => {
                let disk: Arc<dyn Disk> = Arc::new(disk.clone());
                options.disk = Some(disk);
            }
        }
        member.node = Some(RaftNode::open(options).expect("opens"));
    }

    /// Opens and unseals.
    pub async fn restart(&mut self, index: usize) {
        self.open(index);
        let node = Arc::clone(self.members[index].node());
        node.start(self.keyring.clone()).await.expect("starts");
    }

    /// Stops a node and lets go of its directory.
    pub async fn down(&mut self, index: usize) {
        if let Some(node) = self.members[index].node.take() {
            node.stop().await;
        }
    }

    /// A new node asks to join; returns its place.
    pub async fn join(
        &mut self,
        name: &str,
        shape: Shape,
        non_voter: bool,
    ) -> Result<usize, PhysicalError> {
        let index = self.add_member(name, shape);
        let joiner = Arc::clone(self.members[index].node());
        let leader = self.leader().await;
        let leader = Arc::clone(self.members[leader].node());
        leader
            .admit(JoinRequest {
                node_id: name.to_owned(),
                cluster_address: self.members[index].options.cluster_address.clone(),
                incarnation: joiner.incarnation(),
                non_voter,
            })
            .await?;
        let peers = leader.servers().1.into_iter().map(|server| PeerInfo {
            node_id: server.node_id,
            cluster_address: server.address,
            api_address: String::new(),
        });
        joiner
            .start_joined(JoinGrant {
                cluster_id: leader.cluster_id().expect("a cluster"),
                peers: peers.collect(),
                tls_keyring: self.keyring.clone(),
            })
            .await?;
        Ok(index)
    }

    /// The node that leads, once one does.
    pub async fn leader(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leading = self.members.iter().position(|member| {
                let node = member.node.as_ref();
                node.is_some_and(|node| node.leadership().borrow().is_leader)
            });
            if let Some(index) = leading {
                return index;
            }
            assert!(Instant::now() < deadline, "nobody leads");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Nodes that are up and do not lead.
    pub async fn followers(&self) -> Vec<usize> {
        let leader = self.leader().await;
        (0..self.members.len())
            .filter(|index| *index != leader && self.members[*index].node.is_some())
            .collect()
    }

    /// Waits until the committed membership has this many voters. An uncommitted
    /// one would be no use to those who outlive the leader.
    pub async fn until_voters(&self, count: usize) {
        eventually("all are voters", async || {
            let node = self.members[self.leader().await].node();
            let (index, servers) = node.servers();
            index <= node.status().commit_index
                && servers.iter().filter(|server| server.voter).count() == count
        })
        .await;
    }

    /// Writes through whoever leads, trying again while nobody does. A write
    /// whose outcome is unknown is repeated: it is idempotent.
    pub async fn write(&self, key: &str, value: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leader = self.leader().await;
            match put(self.members[leader].node(), key, value).await {
                Ok(outcome) => {
                    assert_eq!(outcome, Outcome::Applied);
                    return;
                }
                Err(error) => assert!(Instant::now() < deadline, "write {key}: {error}"),
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

pub async fn put(node: &RaftNode, key: &str, value: &str) -> Result<Outcome, PhysicalError> {
    node.commit(Transaction {
        preconditions: Vec::new(),
        operations: vec![Operation::Put {
            key: key.to_owned(),
            value: value.as_bytes().to_vec(),
        }],
    })
    .await
}

/// The value as a reader sees it.
pub async fn value(reader: &dyn Reader, key: &str) -> Option<String> {
    let value = reader.value(key).await.expect("reads");
    value.map(|value| String::from_utf8(value.to_vec()).expect("text"))
}

/// The value as a confirmed read on this node gives it.
pub async fn confirmed(node: &RaftNode, key: &str) -> Option<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match node.confirmed().await {
            Ok(reader) => return value(reader.as_ref(), key).await,
            Err(error) => assert!(Instant::now() < deadline, "read {key}: {error}"),
        }
    }
}

/// Waits until something holds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address")
}
