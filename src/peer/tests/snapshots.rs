//! Snapshots arrive whole, and go on where a cut left them.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::*;
use crate::types::SnapshotMeta;

const BYTES: usize = 5 << 20;

struct Memory {
    bytes: Vec<u8>,
    read: AtomicU64,
}

impl Memory {
    fn new() -> Arc<Self> {
        let bytes = (0..BYTES).map(|i| (i / 251) as u8 ^ i as u8).collect();
        Arc::new(Self {
            bytes,
            read: AtomicU64::new(0),
        })
    }
}

impl SnapshotSource for Memory {
    fn offer(&self) -> SnapshotOffer {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &self.bytes);
        let meta = SnapshotMeta {
            index: LogIndex(40),
            term: Term(3),
            ..SnapshotMeta::default()
        };
        SnapshotOffer {
            id: SnapshotId {
                index: meta.index,
                term: meta.term,
                sha256: digest.as_ref().try_into().expect("SHA-256 has 32 bytes"),
            },
            bytes: self.bytes.len() as u64,
            meta,
        }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        let start = offset as usize;
        buffer.copy_from_slice(&self.bytes[start..start + buffer.len()]);
        self.read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// What a receiver holds across streams.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    offsets: Vec<u64>,
    staged: bool,
}

struct Staging {
    held: Shared<Held>,
    /// Breaks the connection when this much is held.
    cut_at: Option<(usize, Box<dyn Fn() + Send>)>,
    fail_at: Option<usize>,
}

impl SnapshotSink for Staging {
    fn held(&self) -> u64 {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.bytes.len() as u64
    }

    fn append(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SinkError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(offset, held.bytes.len() as u64);
        if self.fail_at.is_some_and(|at| at <= held.bytes.len()) {
            return Err(SinkError("no space left on device".to_owned()));
        }
        held.bytes.extend_from_slice(bytes);
        if let Some((at, cut)) = &self.cut_at
            && *at <= held.bytes.len()
        {
            cut();
            self.cut_at = None;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), SinkError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if self.fail_at == Some(held.bytes.len()) {
            return Err(SinkError("checksum differs".to_owned()));
        }
        held.staged = true;
        Ok(())
    }
}

/// A receiver whose first stream is cut at `cut_at` bytes by `cut`.
fn receiver(
    held: &Shared<Held>,
    cut_at: usize,
    cut: impl Fn() + Send + Clone + Sync + 'static,
    fail_at: Option<usize>,
) -> SinkOpener {
    let held = Arc::clone(held);
    Box::new(move |_offer| {
        let mut now = held.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = now.bytes.len() as u64;
        now.offsets.push(offset);
        let first = offset == 0;
        Ok(Box::new(Staging {
            held: Arc::clone(&held),
            cut_at: first.then(|| (cut_at, Box::new(cut.clone()) as Box<dyn Fn() + Send>)),
            fail_at,
        }))
    })
}

async fn send(from: &Node, source: &Arc<Memory>) -> Result<(), SnapshotSendError> {
    let source: Arc<dyn SnapshotSource> = Arc::clone(source) as Arc<dyn SnapshotSource>;
    let sending = from.transport.send_snapshot(NodeId(2), source);
    timeout(Duration::from_secs(30), sending)
        .await
        .expect("within thirty seconds")
}

/// An address that leads to `target`, and whose connections all end whenever
/// `hung_up` changes.
async fn relay(target: std::net::SocketAddr, hung_up: watch::Receiver<u32>) -> String {
    let relay = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("binds");
    let address = relay.local_addr().expect("address").to_string();
    tokio::spawn(async move {
        loop {
            let (mut near, _) = relay.accept().await.expect("accepts");
            let mut hung_up = hung_up.clone();
            hung_up.mark_unchanged();
            tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(target).await.expect("dials");
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    _ = hung_up.changed() => {}
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshot_arrives_whole() {
    let keyring = keyring();
    let one = Setup::new(&keyring).start(1);
    let held = Shared::<Held>::default();
    let mut setup = Setup::new(&keyring);
    setup.sink = Some(receiver(&held, usize::MAX, || {}, None));
    let two = setup.start(2);
    join(1, &[&one, &two]);
    let source = Memory::new();
    send(&one, &source).await.expect("delivered");
    let held = held.lock().expect("lock");
    assert!(held.staged);
    assert_eq!(held.bytes, source.bytes);
    assert_eq!(held.offsets, [0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_cut_in_the_middle_resumes_where_it_was() {
    let keyring = keyring();
    let one = Setup::new(&keyring).start(1);
    let held = Shared::<Held>::default();
    // The cut: the receiving transport's address is a relay that hangs up.
    let (hang_up, hung_up) = watch::channel(0_u32);
    let hang_up = Arc::new(hang_up);
    let mut setup = Setup::new(&keyring);
    setup.sink = Some(receiver(
        &held,
        BYTES / 2,
        move || hang_up.send_modify(|count| *count += 1),
        None,
    ));
    let two = setup.start(2);
    let relay_address = relay(two.transport.local_address(), hung_up).await;
    let mut through = two.member();
    through.1.address = relay_address;
    let members = BTreeMap::from([one.member(), through]);
    one.transport.set_members(LogIndex(1), members);

    let source = Memory::new();
    send(&one, &source).await.expect("delivered after the cut");
    let held = held.lock().expect("lock");
    assert!(held.staged);
    assert_eq!(held.bytes, source.bytes);
    assert_eq!(held.offsets.len(), 2, "{:?}", held.offsets);
    assert!(BYTES as u64 / 2 <= held.offsets[1], "{:?}", held.offsets);
    // What the peer held already was not sent twice.
    let read = source.read.load(Ordering::Relaxed);
    assert!(read < 2 * BYTES as u64, "{read}");
}

#[tokio::test(flavor = "multi_thread")]
async fn receiver_out_of_space_says_so() {
    let keyring = keyring();
    let one = Setup::new(&keyring).start(1);
    let held = Shared::<Held>::default();
    let mut setup = Setup::new(&keyring);
    setup.sink = Some(receiver(&held, usize::MAX, || {}, Some(1 << 20)));
    let two = setup.start(2);
    join(1, &[&one, &two]);
    let error = send(&one, &Memory::new()).await.expect_err("refused");
    assert_eq!(
        error.to_string(),
        "send snapshot to 0000000000000002: the peer refused: the snapshot was not accepted: no space left on device"
    );
    assert_eq!(held.lock().expect("lock").offsets, [0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn receiver_that_takes_none_says_so() {
    let keyring = keyring();
    let one = Setup::new(&keyring).start(1);
    let two = Setup::new(&keyring).start(2);
    join(1, &[&one, &two]);
    let error = send(&one, &Memory::new()).await.expect_err("refused");
    assert!(error.to_string().ends_with("no room"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_receiver_is_given_up() {
    let one = Setup::new(&keyring()).start(1);
    one.transport.learn(NodeId(2), "127.0.0.1:1");
    let error = send(&one, &Memory::new()).await.expect_err("unreachable");
    assert!(matches!(error, SnapshotSendError::Dial { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_stream_makes_the_older_give_way() {
    let keyring = keyring();
    let mut slow = Setup::new(&keyring);
    slow.change = |options| options.snapshot_bytes_per_second = Some(1 << 20);
    let slow = slow.start(1);
    let fast = Setup::new(&keyring).start(3);
    let held = Shared::<Held>::default();
    let mut setup = Setup::new(&keyring);
    setup.sink = Some(receiver(&held, usize::MAX, || {}, None));
    let two = setup.start(2);
    join(1, &[&slow, &two, &fast]);
    let source = Memory::new();
    let started = Arc::clone(&held);
    let older = send(&slow, &source);
    let newer = async {
        while started.lock().expect("lock").bytes.is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
        send(&fast, &source).await
    };
    let (older, newer) = tokio::join!(older, newer);
    newer.expect("delivered");
    let goodbye = match older.expect_err("gave way") {
        SnapshotSendError::Refused { goodbye, .. } => goodbye,
        other => panic!("{other}"),
    };
    assert_eq!(goodbye, Goodbye::Superseded);
    let held = held.lock().expect("lock");
    assert_eq!(held.bytes, source.bytes);
    assert_eq!(held.offsets.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_of_the_whole_casts_doubt_on_the_file_and_one_of_a_part_does_not() {
    let keyring = keyring();
    let one = Setup::new(&keyring).start(1);
    let source = Memory::new();
    let all = source.bytes.len();
    for (id, fail_at, is_doubtful) in [(2, all, true), (3, all / 2, false)] {
        let mut setup = Setup::new(&keyring);
        setup.sink = Some(receiver(
            &Shared::default(),
            usize::MAX,
            || {},
            Some(fail_at),
        ));
        let two = setup.start(id);
        join(id, &[&one, &two]);
        let outcome = one
            .transport
            .send_snapshot(NodeId(id), source.clone())
            .await;
        let error = outcome.expect_err("refused");
        assert_eq!(error.casts_doubt_on_the_file(), is_doubtful, "{error}");
    }
}

/// Cuts the stream at each of the points, given in rising order.
fn receiver_cut_at(
    held: &Shared<Held>,
    points: Vec<usize>,
    cut: impl Fn() + Send + Clone + Sync + 'static,
) -> SinkOpener {
    let held = Arc::clone(held);
    Box::new(move |_offer| {
        let mut now = held.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = now.bytes.len();
        now.offsets.push(offset as u64);
        let next = points.iter().copied().find(|point| offset < *point);
        Ok(Box::new(Staging {
            held: Arc::clone(&held),
            cut_at: next.map(|at| (at, Box::new(cut.clone()) as Box<dyn Fn() + Send>)),
            fail_at: None,
        }))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_cut_at_random_points_arrives_whole_and_never_goes_back() {
    let mut seed = [0; 8];
    aws_lc_rs::rand::fill(&mut seed).expect("random bytes");
    let replay = std::env::var("HOLDFAST_SEED").ok();
    let seed = replay.map_or(u64::from_le_bytes(seed), |seed| {
        seed.parse().expect("a number")
    });
    println!("seed {seed}: replay with HOLDFAST_SEED={seed} cargo test --lib random_points");
    let mut points: Vec<usize> = (1..=5_u64)
        .map(|number| {
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(11 * number as u32)
        })
        .map(|random| 1 + random as usize % (BYTES - 1))
        .collect();
    points.sort_unstable();
    let keyring = keyring();
    let one = Setup::new(&keyring).start(1);
    let held = Shared::<Held>::default();
    let (hang_up, hung_up) = watch::channel(0_u32);
    let hang_up = Arc::new(hang_up);
    let mut setup = Setup::new(&keyring);
    let cut = move || hang_up.send_modify(|count| *count += 1);
    setup.sink = Some(receiver_cut_at(&held, points, cut));
    let two = setup.start(2);
    let mut through = two.member();
    through.1.address = relay(two.transport.local_address(), hung_up).await;
    let members = BTreeMap::from([one.member(), through]);
    one.transport.set_members(LogIndex(1), members);
    let source = Memory::new();
    send(&one, &source).await.expect("delivered after the cuts");
    let held = held.lock().expect("lock");
    assert!(held.staged);
    assert_eq!(held.bytes, source.bytes);
    assert!(held.offsets.is_sorted(), "{:?}", held.offsets);
    assert!(2 <= held.offsets.len(), "{:?}", held.offsets);
}

// The leader goes away in the middle of a stream; the next one has the very
// same snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn another_leader_continues_the_stream_and_its_progress_is_seen() {
    let keyring = keyring();
    let mut slow = Setup::new(&keyring);
    slow.change = |options| options.snapshot_bytes_per_second = Some(1 << 20);
    let first = slow.start(1);
    let next = Setup::new(&keyring).start(3);
    let held = Shared::<Held>::default();
    let mut setup = Setup::new(&keyring);
    setup.sink = Some(receiver(&held, usize::MAX, || {}, None));
    let two = setup.start(2);
    join(1, &[&first, &two, &next]);
    let source = Memory::new();
    let sent = Arc::clone(&source) as Arc<dyn SnapshotSource>;
    first
        .transport
        .send_snapshot_in_background(NodeId(2), sent, |_| {});
    let half_way = |node: &Node| {
        let state = node.transport.peer_states().remove(&NodeId(2));
        let progress = state.and_then(|state| state.snapshot);
        progress.is_some_and(|progress| 1 << 20 <= progress.held && progress.bytes == BYTES as u64)
    };
    first.until("progress is seen", half_way).await;
    first.transport.shutdown().await;

    let again = Memory::new();
    send(&next, &again).await.expect("delivered");
    assert_eq!(next.transport.peer_states()[&NodeId(2)].snapshot, None);
    let held = held.lock().expect("lock");
    assert_eq!(held.bytes, source.bytes);
    assert!(1 << 20 <= held.offsets[1], "{:?}", held.offsets);
    let read = again.read.load(Ordering::Relaxed);
    assert_eq!(read, BYTES as u64 - held.offsets[1]);
}
