//! Bits flipped in the files of nodes that are down: repaired from the others
//! by real threads over real connections, or refused with the way out.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast::disk::AppendMode;
use holdfast::node::{NodeError, RaftNode, ScrubOptions};
use holdfast::physical::{Backend, Physical};

use crate::cluster::{Cluster, Home, Shape, confirmed, eventually};

const SHAPE: Shape = Shape {
    snapshot_entries: 60,
    trailing_entries: 10,
    segment_bytes: 64 << 10,
    in_memory: false,
};
const VALUES: usize = 75;
const BLOCK: usize = 4096;

fn value(number: usize) -> String {
    format!("{number}-{}", "x".repeat(2000))
}

/// Three nodes with a snapshot and a log of several segments behind it.
async fn loaded(append: AppendMode) -> Cluster {
    let mut cluster = Cluster::of(3, SHAPE).await;
    for index in 0..3 {
        cluster.down(index).await;
        cluster.members[index].options.wal.append = append;
    }
    for index in 0..3 {
        cluster.restart(index).await;
    }
    for number in 0..VALUES {
        cluster.write(&format!("k/{number}"), &value(number)).await;
    }
    cluster
}

fn files(cluster: &Cluster, index: usize, folder: &str, suffix: &str) -> Vec<PathBuf> {
    let Home::Folder(home) = &cluster.members[index].home else {
        panic!("a folder");
    };
    let listed = std::fs::read_dir(home.path().join("data").join(folder)).unwrap();
    let paths = listed.map(|file| file.unwrap().path());
    let mut files: Vec<_> = paths
        .filter(|path| path.to_str().unwrap().ends_with(suffix))
        .collect();
    files.sort();
    files
}

fn change(path: &Path, how: impl Fn(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    how(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// Every batch header in a segment, by block.
fn batches(path: &Path) -> Vec<usize> {
    let bytes = std::fs::read(path).unwrap();
    let blocks = bytes.chunks(BLOCK).enumerate();
    blocks
        .filter(|(_, block)| block.starts_with(b"HFB1"))
        .map(|(block, _)| block)
        .collect()
}

/// Flips a bit in the payload, or in the header, of a batch in the middle.
fn flip(path: &Path, in_header: bool) {
    let batches = batches(path);
    let block = batches[batches.len() / 2];
    let offset = block * BLOCK + if in_header { 50 } else { 300 };
    change(path, |bytes| bytes[offset] ^= 4);
}

async fn check_all(cluster: &mut Cluster, index: usize) {
    let node = Arc::clone(cluster.members[index].node());
    eventually("it is whole again", async || {
        node.repair_progress().is_none() && confirmed_soon(&node).await
    })
    .await;
    for number in 0..VALUES {
        let found = confirmed(&node, &format!("k/{number}")).await;
        assert_eq!(found, Some(value(number)), "k/{number}");
    }
}

async fn confirmed_soon(node: &Arc<RaftNode>) -> bool {
    node.confirmed().await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_follower_repairs_itself() {
    for append in [AppendMode::Direct, AppendMode::Mapped] {
        let mut cluster = loaded(append).await;
        for in_header in [false, true] {
            let victim = cluster.followers().await[0];
            cluster.down(victim).await;
            let segments = files(&cluster, victim, "wal", ".wal");
            for segment in &segments {
                if batches(segment).len() > 2 {
                    flip(segment, in_header);
                }
            }
            cluster.restart(victim).await;
            check_all(&mut cluster, victim).await;
            cluster.write("after", "1").await;
        }
    }
}

/// Nobody leads while two of three repair: they need no leader for it.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_majority_repairs_itself_before_anybody_leads() {
    let mut cluster = loaded(AppendMode::Direct).await;
    for index in 0..3 {
        cluster.down(index).await;
    }
    for (index, in_header) in [(0, true), (1, false)] {
        let segments = files(&cluster, index, "wal", ".wal");
        let filled = segments.iter().filter(|path| batches(path).len() > 2);
        // Another one on each.
        flip(filled.rev().nth(index).unwrap(), in_header);
    }
    for index in 0..3 {
        cluster.restart(index).await;
    }
    for index in 0..3 {
        check_all(&mut cluster, index).await;
    }
    cluster.write("after", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_snapshots_come_from_a_peer() {
    let mut cluster = loaded(AppendMode::Direct).await;
    let victim = cluster.followers().await[0];
    cluster.down(victim).await;
    // All but the oldest, so that the log does not reach back to a good one.
    let snapshots = files(&cluster, victim, "snapshots", "");
    for snapshot in snapshots.iter().skip(1) {
        change(snapshot, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        });
    }
    let segments = files(&cluster, victim, "wal", ".wal");
    flip(&segments[0], true);
    cluster.restart(victim).await;
    check_all(&mut cluster, victim).await;
}

/// What decays while the nodes run, and is read again all the time.
async fn scrubbed() -> Cluster {
    let mut cluster = loaded(AppendMode::Direct).await;
    for index in 0..3 {
        cluster.down(index).await;
        cluster.members[index].options.scrub = ScrubOptions {
            bytes_per_second: 64 << 20,
            pause: Duration::ZERO,
        };
    }
    for index in 0..3 {
        cluster.restart(index).await;
    }
    cluster.leader().await;
    cluster
}

fn flip_in_place(path: &Path, offset: usize) {
    let file = std::fs::File::options().write(true).read(true).open(path);
    let file = file.unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset as u64).unwrap();
    file.write_all_at(&[byte[0] ^ 4], offset as u64).unwrap();
    file.sync_all().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_whose_log_decays_hands_over_and_writes_it_anew() {
    let mut cluster = scrubbed().await;
    let leader = cluster.leader().await;
    let segments = files(&cluster, leader, "wal", ".wal");
    let oldest = segments.iter().find(|it| batches(it).len() > 2).unwrap();
    let block = batches(oldest)[1];
    flip_in_place(oldest, block * BLOCK + 300);
    let node = Arc::clone(cluster.members[leader].node());
    eventually("it is repaired", async || node.scrub_status().repaired == 1).await;
    check_all(&mut cluster, leader).await;
    assert!(!oldest.exists());
    cluster.write("after", "1").await;
    assert_eq!(confirmed(&node, "after").await.as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshot_that_decays_is_replaced_while_the_node_runs() {
    let mut cluster = scrubbed().await;
    let victim = cluster.followers().await[0];
    let newest = files(&cluster, victim, "snapshots", ".snap").pop().unwrap();
    flip_in_place(&newest, 5000);
    let node = Arc::clone(cluster.members[victim].node());
    eventually("it is set aside", async || {
        node.scrub_status().repaired == 1
    })
    .await;
    eventually("there is another", async || {
        files(&cluster, victim, "snapshots", ".snap").pop() >= Some(newest.clone())
    })
    .await;
    assert_eq!(files(&cluster, victim, "snapshots", ".broken").len(), 1);
    check_all(&mut cluster, victim).await;
    // And it serves at the next start.
    drop(node);
    cluster.down(victim).await;
    cluster.restart(victim).await;
    check_all(&mut cluster, victim).await;
}

/// Puts `raft/peers.json` that names these beside the log of each of them.
fn name_survivors(cluster: &Cluster, survivors: &[usize]) {
    let named = survivors.iter().map(|index| {
        let member = &cluster.members[*index];
        let (name, address) = (&member.name, &member.options.cluster_address);
        format!(r#"{{"id":"{name}","address":"{address}"}}"#)
    });
    let text = format!("[{}]", named.collect::<Vec<_>>().join(","));
    for index in survivors {
        let Home::Folder(folder) = &cluster.members[*index].home else {
            panic!("a folder");
        };
        let folder = folder.path().join("data/raft");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("peers.json"), &text).unwrap();
    }
}

fn newest_filled(cluster: &Cluster, index: usize) -> PathBuf {
    let segments = files(cluster, index, "wal", ".wal");
    let mut filled = segments.into_iter().filter(|it| batches(it).len() > 2);
    filled.next_back().unwrap()
}

/// The third is gone for good: the two that are left lost different entries.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_survivors_repair_each_other_and_lead_again() {
    let mut cluster = loaded(AppendMode::Direct).await;
    for index in 0..3 {
        cluster.down(index).await;
    }
    flip(&newest_filled(&cluster, 0), false);
    let segments = files(&cluster, 1, "wal", ".wal");
    flip(
        segments.iter().find(|it| batches(it).len() > 2).unwrap(),
        true,
    );
    name_survivors(&cluster, &[0, 1]);
    for index in [0, 1] {
        cluster.restart(index).await;
    }
    for index in [0, 1] {
        check_all(&mut cluster, index).await;
    }
    cluster.write("after", "1").await;
    assert_eq!(cluster.members[0].node().servers().1.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn survivor_that_lost_what_was_committed_says_what_to_do() {
    let mut cluster = loaded(AppendMode::Direct).await;
    for index in 0..3 {
        cluster.down(index).await;
    }
    flip(&newest_filled(&cluster, 0), false);
    name_survivors(&cluster, &[0]);
    let said = Arc::new(Mutex::new(String::new()));
    let hook = Arc::clone(&said);
    cluster.members[0].options.on_failure =
        Arc::new(move |reason| *hook.lock().unwrap() = reason.to_owned());
    cluster.restart(0).await;
    eventually("it says so", async || !said.lock().unwrap().is_empty()).await;
    let words = said.lock().unwrap().clone();
    assert!(words.contains("was committed"), "{words}");
    assert!(words.contains("operator recover -apply"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_votes_are_refused_with_the_way_out() {
    let mut cluster = loaded(AppendMode::Direct).await;
    let victim = cluster.followers().await[0];
    cluster.down(victim).await;
    let segments = files(&cluster, victim, "wal", ".wal");
    let newest = segments.last().unwrap();
    // Both headers of the newest segment: nothing in it can be read.
    change(newest, |bytes| {
        let end = bytes.len() - BLOCK;
        bytes[..BLOCK].fill(0xee);
        bytes[end..].fill(0xee);
    });
    let mut options = cluster.members[victim].options.clone();
    let Home::Folder(folder) = &cluster.members[victim].home else {
        panic!("a folder");
    };
    options.path = Some(folder.path().join("data"));
    match RaftNode::open(options) {
        Err(error @ NodeError::Unrepairable(_)) => {
            let words = error.to_string();
            assert!(
                words.contains("remove this node from the cluster"),
                "{words}"
            );
            assert!(words.contains("let it join again"), "{words}");
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("a node that may have lost its vote opens"),
    }
}
