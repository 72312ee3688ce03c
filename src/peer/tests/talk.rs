//! What members say to each other arrives.

use std::time::Instant;

use tokio::io::AsyncReadExt;

use super::*;
use crate::types::{Entry, EntryPayload};

#[tokio::test(flavor = "multi_thread")]
async fn members_exchange_messages_both_ways() {
    let keyring = keyring();
    let mut one = Setup::new(&keyring).start(1);
    let mut two = Setup::new(&keyring).start(2);
    join(1, &[&one, &two]);
    one.connected(two.id()).await;
    two.connected(one.id()).await;
    for context in 0..100 {
        one.transport.send(NodeId(2), heartbeat(context));
    }
    two.transport.send(NodeId(1), heartbeat(1000));
    for context in 0..100 {
        assert_eq!(two.message().await, (NodeId(1), heartbeat(context)));
    }
    assert_eq!(one.message().await, (NodeId(2), heartbeat(1000)));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_message_arrives_whole() {
    let keyring = keyring();
    let one = Setup::new(&keyring).start(1);
    let mut two = Setup::new(&keyring).start(2);
    join(1, &[&one, &two]);
    one.connected(two.id()).await;
    let entries = (1..=8).map(|index| Entry {
        index: LogIndex(index),
        term: Term(1),
        payload: EntryPayload::Command(Arc::from(vec![index as u8; 1 << 20])),
    });
    let message = Message::AppendEntries {
        term: Term(1),
        prev_index: LogIndex(0),
        prev_term: Term(0),
        entries: entries.collect(),
        commit_index: LogIndex(0),
        read_context: 1,
    };
    one.transport.send(NodeId(2), message.clone());
    assert_eq!(two.message().await, (NodeId(1), message));
}

#[tokio::test(flavor = "multi_thread")]
async fn joiner_without_membership_answers_its_leader() {
    let keyring = keyring();
    let mut leader = Setup::new(&keyring).start(1);
    let mut joiner = Setup::new(&keyring).start(2);
    let members = BTreeMap::from([leader.member(), joiner.member()]);
    leader.transport.set_members(LogIndex(5), members);
    leader.connected(joiner.id()).await;
    leader.transport.send(NodeId(2), heartbeat(1));
    assert_eq!(joiner.message().await, (NodeId(1), heartbeat(1)));
    // The joiner learned the address from the greeting.
    joiner.connected(leader.id()).await;
    joiner.transport.send(NodeId(1), heartbeat(2));
    assert_eq!(leader.message().await, (NodeId(2), heartbeat(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn member_that_was_away_accepts_a_leader_it_never_heard_of() {
    let keyring = keyring();
    let mut behind = Setup::new(&keyring).start(1);
    let gone = Setup::new(&keyring).start(2);
    let leader = Setup::new(&keyring).start(3);
    join(5, &[&behind, &gone]);
    let members = BTreeMap::from([behind.member(), leader.member()]);
    leader.transport.set_members(LogIndex(9), members);
    leader.connected(behind.id()).await;
    leader.transport.send(NodeId(1), heartbeat(1));
    assert_eq!(behind.message().await, (NodeId(3), heartbeat(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_that_comes_back_is_called_again() {
    let keyring = keyring();
    let mut one = Setup::new(&keyring).start(1);
    let two = Setup::new(&keyring).start(2);
    join(1, &[&one, &two]);
    one.connected(two.id()).await;
    let listen = two.transport.local_address().to_string();
    two.transport.shutdown().await;
    assert_eq!(expect(one.unreachable.recv()).await, NodeId(2));

    // The port is free again at once.
    let mut setup = Setup::new(&keyring);
    setup.listen = listen;
    let mut two = setup.start(2);
    one.connected(two.id()).await;
    one.transport.send(NodeId(2), heartbeat(5));
    assert_eq!(two.message().await, (NodeId(1), heartbeat(5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_that_moved_is_found_by_what_it_said() {
    let keyring = keyring();
    let one = Setup::new(&keyring).start(1);
    let mut two = Setup::new(&keyring).start(2);
    let mut stale = two.member();
    stale.1.address = "127.0.0.1:1".to_owned();
    let members = BTreeMap::from([one.member(), stale]);
    one.transport.set_members(LogIndex(1), members.clone());
    two.transport.set_members(LogIndex(1), members);
    one.connected(two.id()).await;
    one.transport.send(NodeId(2), heartbeat(5));
    assert_eq!(two.message().await, (NodeId(1), heartbeat(5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn queue_of_an_unreachable_peer_overflows_without_blocking() {
    let keyring = keyring();
    let mut setup = Setup::new(&keyring);
    setup.change = |options| options.queue_messages_max = 10;
    let one = setup.start(1);
    let (_, mut absent) = one.member();
    absent.address = "127.0.0.1:1".to_owned();
    let members = BTreeMap::from([one.member(), (NodeId(2), absent)]);
    one.transport.set_members(LogIndex(1), members);
    let started = Instant::now();
    for context in 0..100_000 {
        one.transport.send(NodeId(2), heartbeat(context));
    }
    assert!(started.elapsed() < Duration::from_secs(2));
    let dropped =
        |node: &Node| node.transport.peer_states()[&NodeId(2)].messages_dropped == 100_000;
    one.until("all dropped", dropped).await;
    one.transport.send(NodeId(3), heartbeat(0));
    assert_eq!(one.transport.unroutable_count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_peer_is_given_up() {
    let keyring = keyring();
    let mut setup = Setup::new(&keyring);
    setup.change = |options| {
        options.timing.ping_interval = Duration::from_millis(50);
        options.timing.liveness = Duration::from_millis(300);
    };
    let mut one = setup.start(1);
    let two = Setup::new(&keyring).start(2);
    // A proxy that stops passing anything on, but keeps its sockets open.
    let proxy = Proxy::start(two.transport.local_address()).await;
    let mut through = two.member();
    through.1.address = proxy.address.clone();
    let members = BTreeMap::from([one.member(), through]);
    one.transport.set_members(LogIndex(1), members);
    one.connected(two.id()).await;
    one.until("round trip", |node| {
        node.transport.peer_states()[&NodeId(2)]
            .round_trip
            .is_some()
    })
    .await;
    proxy.freeze();
    assert_eq!(expect(one.unreachable.recv()).await, NodeId(2));
    let silent = |node: &Node| {
        let error = node.transport.peer_states()[&NodeId(2)].last_error.clone();
        error.is_some_and(|error| error.contains("silent"))
    };
    one.until("silence is named", silent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarding_connection_is_handed_over_authenticated() {
    let keyring = keyring();
    let one = Setup::new(&keyring).start(1);
    let two = Setup::new(&keyring).start(2);
    join(1, &[&one, &two]);
    let (mut stream, hello) = one.transport.dial_forward(NodeId(2)).await.expect("dials");
    assert_eq!(hello.name, "n2");
    let mut said = String::new();
    stream.read_to_string(&mut said).await.expect("reads");
    assert_eq!(said, "hello n1");
    let error = one.transport.dial_forward(NodeId(9)).await.err();
    assert_eq!(
        error.expect("unknown").to_string(),
        "dial 0000000000000009: its address is not known"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keyring_is_replaced_while_running() {
    let (old, new) = (keyring(), keyring());
    let both = merge(&old, &new);
    let one = Setup::new(&old).start(1);
    let mut two = Setup::new(&both).start(2);
    join(1, &[&one, &two]);
    // One knows the old key only; two dials with the new and accepts both.
    one.connected(two.id()).await;
    one.transport.send(NodeId(2), heartbeat(1));
    assert_eq!(two.message().await, (NodeId(1), heartbeat(1)));
    two.until("two is refused", |node| {
        node.transport.peer_states()[&NodeId(1)]
            .last_error
            .is_some()
    })
    .await;
    one.transport.replace_keyring(&both).expect("replaces");
    two.connected(one.id()).await;
}

/// Measured, not judged: the time a message takes there and back.
#[tokio::test(flavor = "multi_thread")]
async fn messages_go_there_and_back() {
    const ROUNDS: u32 = 2000;
    let keyring = keyring();
    let mut one = Setup::new(&keyring).start(1);
    let mut two = Setup::new(&keyring).start(2);
    join(1, &[&one, &two]);
    one.connected(two.id()).await;
    two.connected(one.id()).await;
    let echo = tokio::spawn(async move {
        while let Some((from, message)) = two.messages.recv().await {
            two.transport.send(from, message);
        }
    });
    let mut trips = Vec::new();
    for context in 0..u64::from(ROUNDS) {
        let started = Instant::now();
        one.transport.send(NodeId(2), heartbeat(context));
        assert_eq!(one.message().await, (NodeId(2), heartbeat(context)));
        trips.push(started.elapsed());
    }
    echo.abort();
    trips.sort();
    let at = |share: usize| trips[trips.len() * share / 1000];
    println!(
        "round trip over TLS: median {:?}, p90 {:?}, p99 {:?}, max {:?}",
        at(500),
        at(900),
        at(990),
        trips[trips.len() - 1]
    );
}

/// A keyring with the keys of both; the newer one's is active.
fn merge(old: &[u8], new: &[u8]) -> Arc<Vec<u8>> {
    let parse = |json| crate::membership::Keyring::parse(json).expect("parses");
    let (old, mut both) = (parse(old), parse(new));
    both.keys.splice(0..0, old.keys);
    both.term = 1;
    Arc::new(both.to_stored().to_vec())
}

/// Passes bytes on until it is told to freeze.
struct Proxy {
    address: String,
    frozen: tokio::sync::watch::Sender<bool>,
}

impl Proxy {
    async fn start(target: std::net::SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("binds");
        let address = listener.local_addr().expect("address").to_string();
        let (frozen, watch) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.expect("accepts");
                let mut watch = watch.clone();
                tokio::spawn(async move {
                    let mut far = tokio::net::TcpStream::connect(target).await.expect("dials");
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = watch.changed() => std::future::pending::<()>().await,
                    }
                });
            }
        });
        Self { address, frozen }
    }

    fn freeze(&self) {
        self.frozen.send_replace(true);
    }
}
