//! A quorum is lost for good, and an operator says who is left.

use holdfast::physical::{Backend, PhysicalError};

use crate::cluster::{Cluster, Home, Shape, confirmed, eventually};

/// Puts `raft/peers.json` beside the log of a member that is down.
fn say(cluster: &Cluster, index: usize, text: &str) -> std::path::PathBuf {
    let Home::Folder(folder) = &cluster.members[index].home else {
        panic!("only folders");
    };
    let folder = folder.path().join("data/raft");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("peers.json"), text).expect("a file");
    folder
}

fn named(cluster: &Cluster, index: usize) -> String {
    let member = &cluster.members[index];
    let (name, address) = (&member.name, &member.options.cluster_address);
    format!(r#"[{{"id":"{name}","address":"{address}","non_voter":false}}]"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn last_survivor_leads_again_and_keeps_everything_it_had() {
    let mut cluster = Cluster::of(3, Shape::default()).await;
    cluster.write("before", "1").await;
    for index in 0..3 {
        cluster.down(index).await;
    }
    let folder = say(&cluster, 2, &named(&cluster, 2));
    cluster.restart(2).await;
    assert_eq!(cluster.leader().await, 2);
    cluster.write("after", "2").await;
    let node = cluster.members[2].node().clone();
    assert_eq!(confirmed(&node, "before").await.as_deref(), Some("1"));
    assert_eq!(node.servers().1.len(), 1);
    eventually("the file goes", async || {
        std::fs::read_dir(&folder).expect("a folder").count() == 0
    })
    .await;

    // It stays so, and the cluster grows again.
    drop(node);
    cluster.down(2).await;
    cluster.restart(2).await;
    let joined = cluster
        .join("n4", Shape::default(), false)
        .await
        .expect("joins");
    cluster.until_voters(2).await;
    let newcomer = cluster.members[joined].node().clone();
    assert_eq!(confirmed(&newcomer, "after").await.as_deref(), Some("2"));

    // A lost one that runs again all the same is shown that it is out.
    cluster.restart(0).await;
    eventually("the lost one knows", async || {
        cluster.members[0].node().leadership().borrow().removed
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn file_that_names_a_stranger_is_refused_and_can_be_corrected() {
    let mut cluster = Cluster::of(3, Shape::default()).await;
    for index in 0..3 {
        cluster.down(index).await;
    }
    say(&cluster, 2, r#"[{"id":"n9","address":"127.0.0.1:1"}]"#);
    cluster.open(2);
    let node = cluster.members[2].node().clone();
    let refused = node.start(cluster.keyring.clone()).await;
    let Err(PhysicalError::Refused { reason }) = refused else {
        panic!("{refused:?}");
    };
    assert!(
        reason.contains("n9") && reason.contains("raft/peers.json"),
        "{reason}"
    );
    say(&cluster, 2, &named(&cluster, 2));
    node.start(cluster.keyring.clone()).await.expect("starts");
    assert_eq!(cluster.leader().await, 2);
}
