//! Transports talking over real sockets on the loopback interface.

mod copies;
mod refusals;
mod snapshots;
mod talk;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::tls::generate_keyring;
use super::*;
use crate::raft::message::Message;
use crate::types::{ClusterId, Incarnation, LogIndex, Member, NodeId, Term};

type SinkOpener =
    Box<dyn Fn(&SnapshotOffer) -> Result<Box<dyn SnapshotSink>, SinkError> + Send + Sync>;

/// A handler that hands everything to its test.
struct Recorder {
    messages: mpsc::UnboundedSender<(NodeId, Message)>,
    unreachable: mpsc::UnboundedSender<NodeId>,
    refused: mpsc::UnboundedSender<(NodeId, Goodbye, Refuser)>,
    sealed: bool,
    sink: Option<SinkOpener>,
}

impl Handler for Recorder {
    fn message(&self, from: NodeId, _incarnation: Incarnation, message: Message) {
        let _ = self.messages.send((from, message));
    }

    fn unreachable(&self, peer: NodeId) {
        let _ = self.unreachable.send(peer);
    }

    fn refused(&self, peer: NodeId, goodbye: &Goodbye, refuser: Refuser) {
        let _ = self.refused.send((peer, goodbye.clone(), refuser));
    }

    fn accept(&self, _hello: &Hello, _service: Service) -> Result<(), Goodbye> {
        if self.sealed {
            let reason = "sealed".to_owned();
            return Err(Goodbye::Unavailable { reason });
        }
        Ok(())
    }

    fn snapshot(
        &self,
        _from: NodeId,
        offer: &SnapshotOffer,
    ) -> Result<Box<dyn SnapshotSink>, SinkError> {
        match &self.sink {
            Some(open) => open(offer),
            None => Err(SinkError("no room".to_owned())),
        }
    }

    fn forward(&self, hello: Hello, mut stream: PeerStream) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let greeting = format!("hello {}", hello.name);
            let _ = stream.write_all(greeting.as_bytes()).await;
            let _ = stream.shutdown().await;
        })
    }
}

/// A transport under test and what its handler heard.
struct Node {
    transport: Transport,
    hello: Hello,
    messages: mpsc::UnboundedReceiver<(NodeId, Message)>,
    unreachable: mpsc::UnboundedReceiver<NodeId>,
    refused: mpsc::UnboundedReceiver<(NodeId, Goodbye, Refuser)>,
}

/// How a [`Node`] differs from the usual one.
struct Setup {
    keyring: Arc<Vec<u8>>,
    cluster: u8,
    incarnation: u64,
    run: Run,
    durable: DurableEnd,
    listen: String,
    sealed: bool,
    sink: Option<SinkOpener>,
    change: fn(&mut TransportOptions),
}

impl Setup {
    fn new(keyring: &Arc<Vec<u8>>) -> Self {
        Self {
            keyring: Arc::clone(keyring),
            cluster: 1,
            incarnation: 7,
            run: Run { number: 1, id: 1 },
            durable: DurableEnd::default(),
            listen: "127.0.0.1:0".to_owned(),
            sealed: false,
            sink: None,
            change: |_| {},
        }
    }

    fn start(self, id: u64) -> Node {
        let (messages_sender, messages) = mpsc::unbounded_channel();
        let (unreachable_sender, unreachable) = mpsc::unbounded_channel();
        let (refused_sender, refused) = mpsc::unbounded_channel();
        let handler = Recorder {
            messages: messages_sender,
            unreachable: unreachable_sender,
            refused: refused_sender,
            sealed: self.sealed,
            sink: self.sink,
        };
        let mut hello = Hello {
            cluster: ClusterId([self.cluster; 16]),
            node: NodeId(id),
            name: format!("n{id}"),
            incarnation: Incarnation(self.incarnation),
            run: self.run,
            durable: DurableEnd::default(),
            api_address: String::new(),
            cluster_address: "127.0.0.1:1".to_owned(),
            version: "0.1.0".to_owned(),
            membership_index: LogIndex(0),
        };
        let mut options = TransportOptions::new(self.listen.parse().expect("address"));
        options.timing.handshake = Duration::from_secs(2);
        options.timing.ping_interval = Duration::from_millis(200);
        options.durable.set(self.durable);
        (self.change)(&mut options);
        let tls = Arc::new(PeerTls::new(&self.keyring).expect("keyring"));
        let handle = Handle::current();
        let transport = Transport::start(&handle, options, hello.clone(), tls, Arc::new(handler))
            .expect("listens");
        hello.cluster_address = transport.local_address().to_string();
        transport.set_own(hello.clone());
        Node {
            transport,
            hello,
            messages,
            unreachable,
            refused,
        }
    }
}

impl Node {
    fn id(&self) -> NodeId {
        self.hello.node
    }

    fn member(&self) -> (NodeId, Member) {
        let member = Member {
            name: self.hello.name.clone(),
            address: self.hello.cluster_address.clone(),
            incarnation: self.hello.incarnation,
            non_voter: false,
        };
        (self.id(), member)
    }

    async fn message(&mut self) -> (NodeId, Message) {
        expect(self.messages.recv()).await
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        for _ in 0..500 {
            if condition(self) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("{what}: {:?}", self.transport.peer_states());
    }

    async fn connected(&self, to: NodeId) {
        let up = |node: &Self| {
            let states = node.transport.peer_states();
            states.get(&to).is_some_and(|state| state.connected)
        };
        self.until("connected", up).await;
    }
}

/// Makes nodes members of one membership at log position `index`.
fn join(index: u64, nodes: &[&Node]) {
    let members: BTreeMap<_, _> = nodes.iter().map(|node| node.member()).collect();
    for node in nodes {
        node.transport.set_members(LogIndex(index), members.clone());
    }
}

/// A raft connection to a node, greeted as `hello`.
async fn greet(
    to: &Node,
    keyring: &[u8],
    hello: &Hello,
) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let tls = PeerTls::new(keyring).expect("keyring");
    let loaded = tls.loaded().expect("loaded");
    let tcp = tokio::net::TcpStream::connect(to.transport.local_address())
        .await
        .expect("connects");
    let connector = tokio_rustls::TlsConnector::from(loaded.client(Service::Raft));
    let mut stream = connector
        .connect(loaded.server_name.clone(), tcp)
        .await
        .expect("TLS");
    hello::send_hello(&mut stream, hello).await.expect("greets");
    hello::receive_hello(&mut stream).await.expect("is greeted");
    stream
}

async fn expect<T>(waiting: impl Future<Output = Option<T>>) -> T {
    timeout(Duration::from_secs(10), waiting)
        .await
        .expect("within ten seconds")
        .expect("channel is open")
}

fn keyring() -> Arc<Vec<u8>> {
    Arc::new(generate_keyring().expect("generates").to_vec())
}

fn heartbeat(context: u64) -> Message {
    Message::Heartbeat {
        term: Term(3),
        commit_index: LogIndex(9),
        read_context: context,
        agreed: None,
    }
}

type Shared<T> = Arc<Mutex<T>>;
