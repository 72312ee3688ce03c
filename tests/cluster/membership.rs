use std::sync::Arc;

use holdfast::physical::{Backend, JoinRequest, MemberWish, PhysicalError};

use crate::cluster::{Cluster, Shape, confirmed, eventually, put};

#[tokio::test(flavor = "multi_thread")]
async fn joiner_is_a_learner_first_and_then_promoted() {
    let mut cluster = Cluster::of(1, Shape::default()).await;
    cluster.write("before", "1").await;
    let index = cluster.join("n2", Shape::default(), false).await.unwrap();
    let (_, servers) = cluster.members[0].node().servers();
    let joined = servers
        .iter()
        .find(|server| server.node_id == "n2")
        .unwrap();
    assert!(!joined.non_voter);
    cluster.until_voters(2).await;
    let joiner = cluster.members[index].node();
    assert!(joiner.is_member());
    assert_eq!(confirmed(joiner, "before").await.as_deref(), Some("1"));
    let leader = joiner.leadership().borrow().leader.clone().unwrap();
    assert_eq!(leader.node_id, "n1");
    eventually("the leader's API address is known", async || {
        let leader = joiner.leadership().borrow().leader.clone();
        leader.is_some_and(|leader| leader.api_address == "https://n1.example:8200")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn permanent_non_voter_stays_one_and_serves_reads() {
    let mut cluster = Cluster::of(1, Shape::default()).await;
    let index = cluster.join("n2", Shape::default(), true).await.unwrap();
    cluster.write("a", "1").await;
    assert_eq!(
        confirmed(cluster.members[index].node(), "a")
            .await
            .as_deref(),
        Some("1")
    );
    tokio::time::sleep(std::time::Duration::from_millis(800)).await;
    let (_, servers) = cluster.members[0].node().servers();
    let joined = servers
        .iter()
        .find(|server| server.node_id == "n2")
        .unwrap();
    assert!(!joined.voter && joined.non_voter);
}

#[tokio::test(flavor = "multi_thread")]
async fn name_or_address_in_use_is_refused() {
    let cluster = Cluster::of(2, Shape::default()).await;
    let leader = cluster.members[cluster.leader().await].node();
    let taken = cluster.members[1].options.cluster_address.clone();
    let request = |node_id: &str, address: &str| JoinRequest {
        node_id: node_id.into(),
        cluster_address: address.into(),
        incarnation: 77,
        non_voter: false,
    };
    for (name, address) in [("n1", "127.0.0.1:1"), ("n2", "127.0.0.1:1"), ("n9", &taken)] {
        let error = leader.admit(request(name, address)).await.unwrap_err();
        assert!(
            matches!(error, PhysicalError::Refused { .. }),
            "{name}: {error:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_follower_knows_it_and_the_rest_goes_on() {
    let cluster = Cluster::of(3, Shape::default()).await;
    let follower = cluster.followers().await[0];
    let name = cluster.members[follower].name.clone();
    let leader = Arc::clone(cluster.members[cluster.leader().await].node());
    leader.remove(name.clone(), false).await.unwrap();
    leader.remove(name, false).await.expect("unknown is fine");
    assert_eq!(leader.servers().1.len(), 2);
    cluster.write("after", "1").await;
    let removed = cluster.members[follower].node();
    eventually("the removed node knows", async || {
        removed.leadership().borrow().removed
    })
    .await;
    let term = leader.leadership().borrow().term;
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    let still = leader.leadership().borrow().clone();
    assert!(still.is_leader && still.term == term, "{still:?}");
}

// Each alone leaves a quorum; both together would not.
#[tokio::test(flavor = "multi_thread")]
async fn removals_at_once_never_cost_the_quorum() {
    let mut cluster = Cluster::of(4, Shape::default()).await;
    let followers = cluster.followers().await;
    let leader = Arc::clone(cluster.members[cluster.leader().await].node());
    cluster.down(followers[2]).await;
    let [first, second] = [0, 1].map(|place| cluster.members[followers[place]].name.clone());
    // Until the leader has noticed who is gone.
    eventually("the dead one is missed", async || {
        let forecast = leader.forecast(&first, MemberWish::Remove);
        forecast.is_ok_and(|forecast| forecast.before.voters_in_contact == 3)
    })
    .await;
    let both = tokio::join!(
        leader.remove(first, false),
        leader.remove(second.clone(), false)
    );
    let refused = match both {
        (Ok(()), Err(refused)) | (Err(refused), Ok(())) => refused,
        both => panic!("{both:?}"),
    };
    assert!(
        matches!(refused, PhysicalError::CostsQuorum { .. }),
        "{refused:?}"
    );
    assert_eq!(leader.servers().1.len(), 3);
    cluster.write("after", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn step_down_hands_leadership_to_another_voter() {
    let cluster = Cluster::of(3, Shape::default()).await;
    let before = cluster.leader().await;
    let node = Arc::clone(cluster.members[before].node());
    node.step_down().await.unwrap();
    assert!(!node.leadership().borrow().is_leader);
    let after = cluster.leader().await;
    assert_ne!(before, after);
    cluster.write("a", "1").await;
    let error = put(&node, "a", "2").await.unwrap_err();
    assert!(matches!(error, PhysicalError::NotLeader), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lone_voter_cannot_step_down_or_be_removed() {
    let cluster = Cluster::of(1, Shape::default()).await;
    let node = cluster.members[0].node();
    let error = node.step_down().await.unwrap_err();
    assert!(matches!(error, PhysicalError::Refused { .. }), "{error:?}");
    let error = node.remove("n1".into(), true).await.unwrap_err();
    assert!(matches!(error, PhysicalError::Refused { .. }), "{error:?}");
    assert!(node.leadership().borrow().is_leader);
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_the_leader_hands_over_first() {
    let cluster = Cluster::of(3, Shape::default()).await;
    let before = cluster.leader().await;
    let name = cluster.members[before].name.clone();
    let error = cluster.members[before]
        .node()
        .remove(name.clone(), false)
        .await
        .unwrap_err();
    assert!(matches!(error, PhysicalError::NotLeader), "{error:?}");
    let after = Arc::clone(cluster.members[cluster.leader().await].node());
    after.remove(name.clone(), false).await.unwrap();
    assert!(
        after
            .servers()
            .1
            .iter()
            .all(|server| server.node_id != name)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_forwarded_to_the_leader() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let cluster = Cluster::of(2, Shape::default()).await;
    let leader = cluster.leader().await;
    let follower = cluster.followers().await[0];
    cluster.members[leader]
        .node()
        .set_forward_handler(Arc::new(|hello, mut stream| {
            Box::pin(async move {
                let mut question = [0; 4];
                stream.read_exact(&mut question).await.unwrap();
                assert_eq!(&question, b"ping");
                stream.write_all(hello.name.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            })
        }));
    let node = cluster.members[follower].node();
    let (mut stream, hello) = node.dial_forward().await.unwrap();
    assert_eq!(hello.name, cluster.members[leader].name);
    stream.write_all(b"ping").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, cluster.members[follower].name);
    assert!(cluster.members[leader].node().dial_forward().await.is_err());
}
