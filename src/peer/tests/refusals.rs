//! Who does not belong gets no further than its share of the handshake.

use std::time::Instant;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::*;

/// The reason that `node`'s caller of `peer` was last given.
async fn refusal(node: &mut Node, peer: u64) -> Goodbye {
    let (id, goodbye, _) = expect(node.refused.recv()).await;
    assert_eq!(id, NodeId(peer));
    goodbye
}

async fn failure(node: &Node, peer: u64, needle: &str) {
    let fails = |node: &Node| {
        let error = node.transport.peer_states()[&NodeId(peer)]
            .last_error
            .clone();
        error.is_some_and(|error| error.contains(needle))
    };
    node.until(needle, fails).await;
    assert!(!node.transport.peer_states()[&NodeId(peer)].connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn holder_of_another_keyring_is_refused_by_tls() {
    let mut one = Setup::new(&keyring()).start(1);
    let mut two = Setup::new(&keyring()).start(2);
    join(1, &[&one, &two]);
    failure(&one, 2, "TLS handshake").await;
    failure(&two, 1, "TLS handshake").await;
    one.transport.send(NodeId(2), heartbeat(1));
    sleep(Duration::from_millis(200)).await;
    assert!(one.messages.try_recv().is_err());
    assert!(two.messages.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn wiped_member_is_refused_with_the_reason() {
    let keyring = keyring();
    let one = Setup::new(&keyring).start(1);
    let mut setup = Setup::new(&keyring);
    setup.incarnation = 8;
    let mut two = setup.start(2);
    let mut joined = two.member();
    joined.1.incarnation = Incarnation(7);
    let members = BTreeMap::from([one.member(), joined]);
    one.transport.set_members(LogIndex(1), members);
    two.transport.learn(NodeId(1), &one.hello.cluster_address);
    let expected = Goodbye::WrongIncarnation {
        name: "n2".to_owned(),
        expected: Incarnation(7),
        found: Incarnation(8),
        proof: None,
    };
    assert_eq!(refusal(&mut two, 1).await, expected);
    // The member that dials it finds out as well.
    failure(&one, 2, "let the node join again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_of_another_cluster_is_refused_with_the_reason() {
    let keyring = keyring();
    let one = Setup::new(&keyring).start(1);
    let mut setup = Setup::new(&keyring);
    setup.cluster = 2;
    let mut two = setup.start(2);
    join(1, &[&one, &two]);
    assert_eq!(refusal(&mut two, 1).await, Goodbye::WrongCluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_member_is_cut_off_and_refused_with_the_reason() {
    let keyring = keyring();
    let one = Setup::new(&keyring).start(1);
    let mut two = Setup::new(&keyring).start(2);
    join(1, &[&one, &two]);
    one.connected(two.id()).await;
    two.connected(one.id()).await;
    one.transport
        .set_members(LogIndex(2), BTreeMap::from([one.member()]));
    assert_eq!(
        refusal(&mut two, 1).await,
        Goodbye::NotMember { proof: None }
    );
    assert!(one.transport.peer_states().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_answers_for_another_is_refused() {
    let keyring = keyring();
    let mut one = Setup::new(&keyring).start(1);
    let two = Setup::new(&keyring).start(2);
    let mut misled = two.member();
    misled.0 = NodeId(3);
    let members = BTreeMap::from([one.member(), misled, two.member()]);
    two.transport.set_members(LogIndex(1), members.clone());
    one.transport.set_members(LogIndex(1), members);
    let wrong = Goodbye::WrongNode { found: NodeId(2) };
    assert_eq!(refusal(&mut one, 3).await, wrong);
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_own_condition_is_told() {
    let keyring = keyring();
    let mut one = Setup::new(&keyring).start(1);
    let mut setup = Setup::new(&keyring);
    setup.sealed = true;
    let two = setup.start(2);
    join(1, &[&one, &two]);
    let reason = "sealed".to_owned();
    assert_eq!(refusal(&mut one, 2).await, Goodbye::Unavailable { reason });
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_port_harms_nobody() {
    let keyring = keyring();
    let one = Setup::new(&keyring).start(1);
    let mut two = Setup::new(&keyring).start(2);
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0; 4096],
        &[0x16, 3, 1, 255, 255],
    ] {
        let mut stranger = TcpStream::connect(two.transport.local_address())
            .await
            .expect("connects");
        stranger.write_all(garbage).await.expect("writes");
        stranger.shutdown().await.expect("closes");
        let mut answer = Vec::new();
        let _ = stranger.read_to_end(&mut answer).await;
        assert!(answer.len() < 64, "{answer:?}");
    }
    join(1, &[&one, &two]);
    one.connected(two.id()).await;
    one.transport.send(NodeId(2), heartbeat(1));
    assert_eq!(two.message().await, (NodeId(1), heartbeat(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_handshake_is_cut_off() {
    let mut setup = Setup::new(&keyring());
    setup.change = |options| options.timing.handshake = Duration::from_millis(300);
    let node = setup.start(1);
    let started = Instant::now();
    let mut stranger = TcpStream::connect(node.transport.local_address())
        .await
        .expect("connects");
    let mut answer = Vec::new();
    let read = timeout(Duration::from_secs(5), stranger.read_to_end(&mut answer)).await;
    assert_eq!(read.expect("cut off").expect("reads"), 0);
    assert!(Duration::from_millis(250) < started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_beyond_the_limit_are_refused_at_once() {
    let mut setup = Setup::new(&keyring());
    setup.change = |options| {
        options.handshakes_max = 2;
        options.timing.handshake = Duration::from_secs(30);
    };
    let node = setup.start(1);
    let mut idle = Vec::new();
    for _ in 0..2 {
        let address = node.transport.local_address();
        idle.push(TcpStream::connect(address).await.expect("connects"));
    }
    sleep(Duration::from_millis(100)).await;
    let mut third = TcpStream::connect(node.transport.local_address())
        .await
        .expect("connects");
    let mut answer = Vec::new();
    let read = timeout(Duration::from_secs(5), third.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the third is closed");
}

/// Speaks as a member that sends `bytes` after the greeting; returns what is
/// answered until the connection closes.
async fn speak_as_member(to: &Node, keyring: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut hello = to.hello.clone();
    hello.node = NodeId(2);
    let mut stream = greet(to, keyring, &hello).await;
    stream.write_all(bytes).await.expect("writes");
    stream.flush().await.expect("flushes");
    let mut answer = Vec::new();
    let read = timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    let _ = read.expect("the connection is closed");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_frames_of_a_member_end_the_connection() {
    let keyring = keyring();
    let mut node = Setup::new(&keyring).start(1);
    let mut oversized = frame::header(frame::FrameKind::Message, &[]);
    oversized[8..12].copy_from_slice(&(32_u32 << 20).to_le_bytes());
    let checksum = crate::codec::crc32(0, &oversized[..16]);
    oversized[16..20].copy_from_slice(&checksum.to_le_bytes());
    speak_as_member(&node, &keyring, &oversized).await;
    speak_as_member(&node, &keyring, b"no frame at all, but long enough").await;

    let undecodable = frame::encode(frame::FrameKind::Message, &[0xff; 40]);
    let answer = speak_as_member(&node, &keyring, &undecodable).await;
    let goodbye = hello::decode_goodbye(&answer[frame::HEADER_BYTES..]);
    assert!(matches!(goodbye, Goodbye::Protocol { .. }), "{goodbye}");
    let misplaced = frame::encode(frame::FrameKind::SnapshotEnd, &[]);
    let answer = speak_as_member(&node, &keyring, &misplaced).await;
    let goodbye = hello::decode_goodbye(&answer[frame::HEADER_BYTES..]);
    assert!(matches!(goodbye, Goodbye::Protocol { .. }), "{goodbye}");
    assert!(node.messages.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_keyring_nobody_is_accepted_and_nobody_called() {
    let keyring = keyring();
    let one = Setup::new(&keyring).start(1);
    let two = Setup::new(&keyring).start(2);
    two.transport.clear_keyring();
    join(1, &[&one, &two]);
    failure(&one, 2, "TLS handshake").await;
    failure(&two, 1, "no raft TLS keyring").await;
    two.transport.replace_keyring(&keyring).expect("replaces");
    two.connected(one.id()).await;
    one.connected(two.id()).await;
}

#[tokio::test]
async fn unspecified_address_is_not_advertised() {
    let tls = Arc::new(PeerTls::default());
    let hello = Hello {
        cluster_address: "0.0.0.0:8201".to_owned(),
        ..Setup::new(&keyring()).start(1).hello
    };
    let (messages, _) = mpsc::unbounded_channel();
    let (unreachable, _) = mpsc::unbounded_channel();
    let (refused, _) = mpsc::unbounded_channel();
    let handler = Recorder {
        messages,
        unreachable,
        refused,
        sealed: false,
        sink: None,
    };
    let options = TransportOptions::new("127.0.0.1:0".parse().expect("address"));
    let error = Transport::start(&Handle::current(), options, hello, tls, Arc::new(handler));
    assert_eq!(
        error.expect_err("refused").to_string(),
        "cannot use unspecified IP with raft storage: 0.0.0.0:8201"
    );
}
