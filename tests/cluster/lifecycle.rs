use std::sync::Arc;
use std::time::Instant;

use holdfast::node::RaftNode;
use holdfast::physical::{Backend, Physical, PhysicalError};

use crate::cluster::{CLUSTER, Cluster, Home, Shape, confirmed, put, value};

#[tokio::test(flavor = "multi_thread")]
async fn bootstrapped_node_leads_alone_and_survives_seal_and_restart() {
    let mut cluster = Cluster {
        members: Vec::new(),
        keyring: holdfast::peer::generate_keyring().unwrap().to_vec(),
    };
    let index = cluster.add_member("n1", Shape::default());
    let node = Arc::clone(cluster.members[index].node());
    assert!(!node.is_member());
    assert!(matches!(
        put(&node, "a", "b").await,
        Err(PhysicalError::NotRunning)
    ));
    node.bootstrap(CLUSTER).await.unwrap();
    assert!(node.leadership().borrow().is_leader);
    put(&node, "core/keyring", "first").await.unwrap();
    assert_eq!(node.cluster_id(), Some(CLUSTER));
    let error = node.bootstrap(CLUSTER).await.unwrap_err();
    assert!(matches!(error, PhysicalError::Refused { .. }), "{error:?}");

    node.stop().await;
    assert!(!node.leadership().borrow().is_leader);
    assert_eq!(
        value(node.local().as_ref(), "core/keyring")
            .await
            .as_deref(),
        Some("first")
    );
    assert!(matches!(
        node.confirmed().await.err(),
        Some(PhysicalError::NotRunning)
    ));

    for round in 0..3 {
        node.start(cluster.keyring.clone()).await.unwrap();
        cluster.leader().await;
        put(&node, "round", &round.to_string()).await.unwrap();
        node.stop().await;
    }
    drop(node);
    cluster.down(index).await;

    cluster.open(index);
    let node = Arc::clone(cluster.members[index].node());
    assert!(node.is_member());
    assert_eq!(
        value(node.local().as_ref(), "core/keyring")
            .await
            .as_deref(),
        Some("first")
    );
    node.start(cluster.keyring.clone()).await.unwrap();
    assert_eq!(confirmed(&node, "round").await.as_deref(), Some("2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sealed_follower_reads_what_it_holds() {
    let mut cluster = Cluster::of(3, Shape::default()).await;
    cluster.write("core/seal-config", "shares").await;
    let follower = cluster.followers().await[0];
    confirmed(cluster.members[follower].node(), "core/seal-config").await;
    // The next entry brings the commit index that covers it to the disk.
    cluster.write("later", "x").await;
    confirmed(cluster.members[follower].node(), "later").await;
    cluster.down(follower).await;
    cluster.open(follower);
    let node = cluster.members[follower].node();
    let sealed = value(node.local().as_ref(), "core/seal-config").await;
    assert_eq!(sealed.as_deref(), Some("shares"));
    assert_eq!(node.servers().1.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_leader_is_replaced_and_catches_up() {
    let mut cluster = Cluster::of(3, Shape::default()).await;
    cluster.write("a", "1").await;
    let leader = cluster.leader().await;
    cluster.down(leader).await;
    let since = Instant::now();
    cluster.write("a", "2").await;
    let outage = since.elapsed();
    assert!(outage.as_secs() < 10, "no write for {outage:?}");
    cluster.restart(leader).await;
    assert_eq!(
        confirmed(cluster.members[leader].node(), "a")
            .await
            .as_deref(),
        Some("2")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_is_locked_and_belongs_to_its_name() {
    let mut cluster = Cluster::of(1, Shape::default()).await;
    let Home::Folder(folder) = cluster.members[0].home.clone() else {
        panic!("a folder");
    };
    let mut options = cluster.members[0].options.clone();
    options.path = Some(folder.path().join("data"));
    let error = RaftNode::open(options.clone()).err().expect("locked");
    assert!(format!("{error:?}").contains("held by"), "{error:?}");
    cluster.down(0).await;
    options.node_id = "other".into();
    let error = RaftNode::open(options).err().expect("another name");
    assert!(error.to_string().contains("\"n1\""), "{error}");
}
