use std::sync::Arc;

use holdfast::physical::{KEY_BYTES_MAX, Physical, PhysicalError, VALUE_BYTES_MAX};
use holdfast::types::{Operation, Outcome, Precondition, Transaction};

use crate::cluster::{Cluster, Shape, confirmed, put};

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_write_is_seen_by_confirmed_reads_on_every_node() {
    let cluster = Cluster::of(3, Shape::default()).await;
    for round in 0..20 {
        let text = format!("value {round}");
        cluster.write("core/test", &text).await;
        for member in &cluster.members {
            assert_eq!(
                confirmed(member.node(), "core/test").await,
                Some(text.clone())
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn follower_refuses_writes() {
    let cluster = Cluster::of(2, Shape::default()).await;
    let follower = cluster.followers().await[0];
    let error = put(cluster.members[follower].node(), "a", "b")
        .await
        .unwrap_err();
    assert!(matches!(error, PhysicalError::NotLeader), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn precondition_decides_between_two_writers() {
    let cluster = Cluster::of(3, Shape::default()).await;
    let leader = Arc::clone(cluster.members[cluster.leader().await].node());
    let claim = |value: &str| Transaction {
        preconditions: vec![Precondition {
            key: "claim".into(),
            expected: None,
        }],
        operations: vec![Operation::Put {
            key: "claim".into(),
            value: value.into(),
        }],
    };
    let (first, second) = tokio::join!(leader.commit(claim("one")), leader.commit(claim("two")));
    let outcomes = [first.unwrap(), second.unwrap()];
    let won = outcomes
        .iter()
        .filter(|outcome| **outcome == Outcome::Applied);
    assert_eq!(won.count(), 1, "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_concurrent_writers_all_succeed() {
    let cluster = Cluster::of(3, Shape::default()).await;
    let leader = Arc::clone(cluster.members[cluster.leader().await].node());
    let writers = (0..64).map(|writer| {
        let leader = Arc::clone(&leader);
        tokio::spawn(async move {
            for round in 0..10 {
                put(&leader, &format!("w/{writer}/{round}"), "x")
                    .await
                    .unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    for member in &cluster.members {
        let reader = member.node().confirmed().await.unwrap();
        let mut count = 0;
        for writer in reader.list("w/").await.unwrap() {
            count += reader.list(&format!("w/{writer}")).await.unwrap().len();
        }
        assert_eq!(count, 640);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_refused_in_openbaos_words() {
    let cluster = Cluster::of(1, Shape::default()).await;
    let node = cluster.members[0].node();
    let error = put(node, &"k".repeat(KEY_BYTES_MAX + 1), "v")
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "put failed due to key being too large; got 32769 bytes, max: 32768 bytes"
    );
    let error = put(node, "k", &"v".repeat(VALUE_BYTES_MAX + 1))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "put failed due to value being too large; got 1048577 bytes, max: 1048576 bytes"
    );
    put(
        node,
        &"k".repeat(KEY_BYTES_MAX),
        &"v".repeat(VALUE_BYTES_MAX),
    )
    .await
    .unwrap();
}
