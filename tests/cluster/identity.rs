//! Data directories that must not speak for their nodes.

use std::path::Path;
use std::sync::{Arc, Mutex};

use holdfast::physical::{Backend, PhysicalError};

use crate::cluster::{Cluster, Home, Shape, eventually, put};

/// A copy of a member's directory, as a backup or a clone of its machine.
fn copy_of(home: &Home) -> Home {
    let Home::Folder(folder) = home else {
        panic!("only folders are copied");
    };
    let copy = tempfile::tempdir().expect("a folder");
    copy_folder(folder.path(), copy.path());
    Home::Folder(Arc::new(copy))
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copies");
        }
    }
}

/// Adds a member that runs as another one does, on another home; what it says
/// when its identity is refused.
fn add_twin(cluster: &mut Cluster, original: usize, home: Home) -> (usize, Arc<Mutex<String>>) {
    let words = Arc::new(Mutex::new(String::new()));
    let heard = Arc::clone(&words);
    let name = cluster.members[original].name.clone();
    let twin = cluster.add_sealed(&name, Shape::default(), home);
    cluster.members[twin].options.on_refusal = Arc::new(move |reason| {
        *heard.lock().expect("lock") = reason.to_owned();
    });
    (twin, words)
}

async fn refused(words: &Mutex<String>, parts: &[&str]) {
    eventually("the twin is refused", async || {
        !words.lock().expect("lock").is_empty()
    })
    .await;
    let words = words.lock().expect("lock");
    for part in parts {
        assert!(words.contains(part), "{part}: {words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_of_a_running_node_stops_and_the_original_goes_on() {
    let mut cluster = Cluster::of(3, Shape::default()).await;
    let original = cluster.followers().await[0];
    cluster.down(original).await;
    let home = copy_of(&cluster.members[original].home);
    cluster.restart(original).await;
    cluster.write("a", "1").await;
    let (twin, words) = add_twin(&mut cluster, original, home);
    cluster.restart(twin).await;
    refused(&words, &["in use twice", "start 2", "let it join under"]).await;
    let stopped = put(cluster.members[twin].node(), "b", "1").await;
    assert!(matches!(stopped, Err(PhysicalError::Failed { .. })));
    let node = cluster.members[original].node();
    let applied = node.status().applied_index;
    cluster.write("c", "1").await;
    eventually("the original follows", async || {
        applied < node.status().applied_index
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_restored_from_a_backup_neither_votes_nor_acknowledges() {
    let mut cluster = Cluster::of(3, Shape::default()).await;
    let original = cluster.followers().await[0];
    cluster.down(original).await;
    let home = copy_of(&cluster.members[original].home);
    cluster.restart(original).await;
    for number in 0..20 {
        cluster.write(&format!("k{number}"), "1").await;
    }
    let acknowledged = cluster.members[cluster.leader().await].node().status();
    let node = Arc::clone(cluster.members[original].node());
    eventually("the original has it all", async || {
        acknowledged.commit_index <= node.status().applied_index
    })
    .await;
    drop(node);
    cluster.down(original).await;
    // The one that could make a quorum with it was down meanwhile, and must not
    // have forgotten; the third is away.
    let leader = cluster.leader().await;
    for index in 0..3 {
        cluster.down(index).await;
    }
    cluster.restart(leader).await;
    let (twin, words) = add_twin(&mut cluster, original, home);
    cluster.restart(twin).await;
    // As old, or as a second run of one start: whichever peer judges first.
    refused(&words, &["peer", "says: the data directory of"]).await;
    cluster.down(twin).await;
    cluster.restart(original).await;
    cluster.write("after", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_removed_while_it_was_down_learns_it_and_remembers() {
    let mut cluster = Cluster::of(3, Shape::default()).await;
    let away = cluster.followers().await[0];
    let name = cluster.members[away].name.clone();
    cluster.down(away).await;
    let leader = Arc::clone(cluster.members[cluster.leader().await].node());
    leader.remove(name, false).await.expect("removes");
    let term = leader.leadership().borrow().term;
    cluster.restart(away).await;
    let removed = Arc::clone(cluster.members[away].node());
    eventually("the removed node knows", async || {
        removed.leadership().borrow().removed
    })
    .await;
    let error = put(&removed, "a", "1").await.unwrap_err();
    assert!(
        !matches!(error, PhysicalError::OutcomeUnknown { .. }),
        "{error:?}"
    );
    drop(removed);
    cluster.down(away).await;

    cluster.open(away);
    let again = cluster.members[away].node();
    assert!(again.leadership().borrow().removed, "remembered");
    let error = again.start(cluster.keyring.clone()).await.unwrap_err();
    assert!(error.to_string().contains("join again"), "{error}");
    let leads = leader.leadership().borrow().clone();
    assert!(leads.is_leader && leads.term == term, "{leads:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_directory_is_out_though_its_name_is_a_member() {
    let mut cluster = Cluster::of(3, Shape::default()).await;
    let former = cluster.followers().await[0];
    let name = cluster.members[former].name.clone();
    cluster.down(former).await;
    let leader = Arc::clone(cluster.members[cluster.leader().await].node());
    // While it may be alive, nobody takes its name.
    leader.remove(name.clone(), false).await.expect("removes");
    cluster
        .join(&name, Shape::default(), false)
        .await
        .expect("joins");
    cluster.until_voters(3).await;
    cluster.restart(former).await;
    let node = cluster.members[former].node();
    eventually("the former directory knows", async || {
        node.leadership().borrow().removed
    })
    .await;
    cluster.write("a", "1").await;
}
