//! One process speaks for a data directory, and it holds what it acknowledged.

use tokio::io::AsyncReadExt;

use super::*;
use crate::raft::message::AppendResult;
use crate::types::Membership;

fn run(number: u64) -> Run {
    Run {
        number,
        id: 100 + number,
    }
}

fn end(term: u64, index: u64) -> DurableEnd {
    DurableEnd {
        term: Term(term),
        index: LogIndex(index),
    }
}

fn second(keyring: &Arc<Vec<u8>>, number: u64, durable: DurableEnd) -> Node {
    let mut setup = Setup::new(keyring);
    setup.run = run(number);
    setup.durable = durable;
    setup.start(2)
}

/// Lets `copy` call `one` without taking the place of the member it copies.
fn call(copy: &Node, one: &Node) {
    copy.transport.learn(one.id(), &one.hello.cluster_address);
}

async fn refusal_by_peer(node: &mut Node) -> Goodbye {
    loop {
        let (_, goodbye, refuser) = expect(node.refused.recv()).await;
        if refuser == Refuser::Peer {
            return goodbye;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_is_refused_while_the_first_answers() {
    let keyring = keyring();
    let one = Setup::new(&keyring).start(1);
    let two = second(&keyring, 5, end(0, 0));
    join(1, &[&one, &two]);
    two.connected(one.id()).await;
    one.connected(two.id()).await;
    let mut copy = second(&keyring, 6, end(0, 0));
    call(&copy, &one);
    let expected = Goodbye::Copied {
        name: "n2".to_owned(),
        incarnation: Incarnation(7),
        refused: run(6),
        other: run(5),
        answers: true,
    };
    assert_eq!(refusal_by_peer(&mut copy).await, expected);
    one.connected(two.id()).await;
    two.connected(one.id()).await;
    assert_eq!(
        one.transport.shared.options.witness.seen()[&two.id()].run,
        run(5)
    );
}

// Found by the simulator (seeds 2237, 5836): a member left and came back, its
// connections stood all the time, and nobody remembered its process: a copy was
// taken for it.
#[tokio::test(flavor = "multi_thread")]
async fn process_spoken_with_is_remembered_though_it_is_no_member_for_a_while() {
    let keyring = keyring();
    let one = Setup::new(&keyring).start(1);
    let two = second(&keyring, 5, end(0, 0));
    join(1, &[&one, &two]);
    two.connected(one.id()).await;
    one.connected(two.id()).await;
    one.transport.set_committed(MembershipProof {
        index: LogIndex(2),
        membership: Arc::new(Membership {
            members: BTreeMap::from([one.member()]),
            ..Membership::default()
        }),
    });
    let seen = || one.transport.shared.options.witness.seen();
    assert_eq!(seen()[&two.id()].run, run(5));
    let mut copy = second(&keyring, 6, end(0, 0));
    call(&copy, &one);
    let goodbye = refusal_by_peer(&mut copy).await;
    assert!(matches!(goodbye, Goodbye::Copied { .. }), "{goodbye}");
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_process_is_met_at_once_and_its_copy_refused_afterwards() {
    let keyring = keyring();
    let one = Setup::new(&keyring).start(1);
    let two = second(&keyring, 5, end(0, 0));
    join(1, &[&one, &two]);
    two.connected(one.id()).await;
    two.transport.shutdown().await;
    drop(two);
    let two = second(&keyring, 6, end(0, 0));
    call(&two, &one);
    two.connected(one.id()).await;
    for number in [5, 6] {
        let mut setup = Setup::new(&keyring);
        setup.run = Run { number, id: 9 };
        let mut copy = setup.start(2);
        call(&copy, &one);
        let goodbye = refusal_by_peer(&mut copy).await;
        assert!(
            matches!(goodbye, Goodbye::Copied { other, .. } if other == run(6)),
            "{goodbye}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_process_gives_way_to_its_successor() {
    let keyring = keyring();
    let one = Setup::new(&keyring).start(1);
    let members = BTreeMap::from([
        one.member(),
        (
            NodeId(2),
            Member {
                name: "n2".to_owned(),
                address: "127.0.0.1:1".to_owned(),
                incarnation: Incarnation(7),
                non_voter: false,
            },
        ),
    ]);
    one.transport.set_members(LogIndex(1), members);
    // A connection whose process was frozen: greeted, and never heard again.
    let mut hello = one.hello.clone();
    (hello.node, hello.run) = (NodeId(2), run(5));
    let mut frozen = greet(&one, &keyring, &hello).await;
    let two = second(&keyring, 6, end(0, 0));
    call(&two, &one);
    two.connected(one.id()).await;
    let mut rest = Vec::new();
    let cut = timeout(Duration::from_secs(5), frozen.read_to_end(&mut rest)).await;
    assert!(cut.is_ok(), "the frozen process's connection is ended");
}

// A copy was refused by the leader and ended, while a follower still waited
// whether the original answers; then the original was restarted, and the
// follower took it for the copy's copy.
#[tokio::test(flavor = "multi_thread")]
async fn copy_that_goes_away_before_the_verdict_takes_nobodys_place() {
    let keyring = keyring();
    let one = Setup::new(&keyring).start(1);
    let two = second(&keyring, 5, end(0, 0));
    join(1, &[&one, &two]);
    two.connected(one.id()).await;
    let mut setup = Setup::new(&keyring);
    setup.run = Run { number: 6, id: 9 };
    let copy = setup.start(2);
    call(&copy, &one);
    sleep(Duration::from_millis(100)).await;
    copy.transport.shutdown().await;
    two.transport.shutdown().await;
    sleep(Duration::from_secs(1)).await;
    let two = second(&keyring, 6, end(0, 0));
    call(&two, &one);
    two.connected(one.id()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_older_than_its_answers_is_refused_by_caller_and_called() {
    let keyring = keyring();
    let mut one = Setup::new(&keyring).start(1);
    let two = second(&keyring, 5, end(3, 90));
    join(1, &[&one, &two]);
    let answer = Message::AppendResponse {
        term: Term(3),
        result: AppendResult::Matched {
            match_index: LogIndex(90),
        },
        read_context: 0,
    };
    two.transport.send(one.id(), answer.clone());
    assert_eq!(one.message().await, (two.id(), answer));
    two.transport.shutdown().await;
    drop(two);

    let expected = Goodbye::RolledBack {
        name: "n2".to_owned(),
        acknowledged: end(3, 90),
        found: end(3, 80),
    };
    let mut restored = second(&keyring, 6, end(3, 80));
    call(&restored, &one);
    assert_eq!(refusal_by_peer(&mut restored).await, expected);
    // The one that is called, and does not call, is told as well.
    let mut restored = second(&keyring, 7, end(3, 80));
    let members = BTreeMap::from([one.member(), restored.member()]);
    one.transport.set_members(LogIndex(2), members);
    assert_eq!(refusal_by_peer(&mut restored).await, expected);
    let whole = second(&keyring, 8, end(3, 90));
    call(&whole, &one);
    whole.connected(one.id()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_member_is_shown_the_committed_membership_and_asks_more_slowly() {
    let keyring = keyring();
    let one = Setup::new(&keyring).start(1);
    let mut two = Setup::new(&keyring).start(2);
    join(1, &[&one, &two]);
    two.connected(one.id()).await;
    let remaining = BTreeMap::from([one.member()]);
    let proof = MembershipProof {
        index: LogIndex(2),
        membership: Arc::new(crate::types::Membership {
            voters: [one.id()].into(),
            members: remaining.clone(),
            ..crate::types::Membership::default()
        }),
    };
    one.transport.set_committed(proof.clone());
    one.transport.set_members(LogIndex(2), remaining);
    let goodbye = refusal_by_peer(&mut two).await;
    assert_eq!(goodbye.proof(), Some(&proof));
    sleep(Duration::from_secs(3)).await;
    let mut attempts = 0;
    while two.refused.try_recv().is_ok() {
        attempts += 1;
    }
    assert!(attempts <= 4, "{attempts} attempts in three seconds");
}
