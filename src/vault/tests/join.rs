use std::collections::VecDeque;
use std::time::Duration;

use super::*;
use crate::barrier::STORED_ROOT_KEY_PATH;
use crate::membership::challenge::ANSWER_BYTES;
use crate::physical::Physical;

fn body_for(address: &str) -> JoinBody {
    JoinBody {
        leader_api_addr: address.to_owned(),
        ..JoinBody::default()
    }
}

async fn cluster() -> (Arc<Directory>, Node) {
    let directory = Arc::default();
    let node = initialized_in(&directory, 3, 2).await;
    node.unseal(&node.shares[..2]).await;
    (directory, node)
}

#[tokio::test]
async fn joiner_adopts_the_seal_then_shares_make_it_a_standby() {
    let (directory, leader) = cluster().await;
    leader
        .call(Method::Update, "sys/mounts/kv", Some(json!({"type": "kv"})))
        .await
        .unwrap();
    leader
        .call(Method::Update, "kv/a", Some(json!({"n": 1})))
        .await
        .unwrap();
    let backend = InMemory::beside(&leader.backend, "node2");
    let joiner = vault_over(&backend, &directory);

    assert!(joiner.join(body_for("http://node1:8200")).await.unwrap());
    assert!(joiner.initialized().await);
    let status = joiner.seal_status().await;
    assert!(status.initialized && status.sealed);
    assert_eq!((status.threshold, status.shares), (2, 3));
    let again = InitRequest {
        secret_shares: 1,
        secret_threshold: 1,
        unsupported: Vec::new(),
    };
    assert!(matches!(
        joiner.init(again).await,
        Err(VaultError::AlreadyInitialized)
    ));

    let status = unseal(&joiner, &leader.shares[..1]).await;
    assert_eq!((status.progress, status.sealed), (1, true));
    let status = unseal(&joiner, &leader.shares[1..2]).await;
    assert!(!status.sealed);
    assert_eq!(
        status.cluster_id,
        leader.vault.seal_status().await.cluster_id
    );
    // The peer keyring travelled sealed and arrived whole.
    assert_eq!(backend.tls_keyring(), b"{\"keys\":[]}");

    // A standby reads, and leaves writes to the active node.
    let token = leader.root_token.as_str();
    let read = request(Method::Read, "kv/a", Some(token), None);
    let data = joiner.handle(read).await.unwrap().data.unwrap();
    assert_eq!(data["n"], json!(1));
    let write = |forwarded| Request {
        forwarded,
        ..request(
            Method::Update,
            "kv/a",
            Some(token),
            Some(object(json!({"n": 2}))),
        )
    };
    assert!(matches!(
        joiner.handle(write(false)).await,
        Err(VaultError::Standby)
    ));
    assert!(matches!(
        joiner.handle(write(true)).await,
        Err(VaultError::NoActiveNode)
    ));
    assert!(matches!(
        joiner.step_down(Some(token)).await,
        Err(VaultError::Standby)
    ));
    let health = joiner.health().await;
    assert!(health.standby && !health.sealed);
    let status = joiner.leader().await.unwrap();
    assert!(!status.is_self && status.active_time.is_none());
    assert_eq!(status.leader_address, "http://node1:8200");
    let servers = leader.read("sys/storage/raft/configuration").await.unwrap();
    assert_eq!(servers["config"]["servers"][1]["node_id"], json!("node2"));
    assert_eq!(servers["config"]["servers"][1]["voter"], json!(false));

    assert!(joiner.join(body_for("http://node1:8200")).await.unwrap());
}

#[tokio::test]
async fn join_names_each_targets_reason() {
    let (directory, leader) = cluster().await;
    let backend = InMemory::beside(&leader.backend, "node2");
    let joiner = vault_over(&backend, &directory);
    let cases = [
        (
            "http://nowhere:8200",
            "http://nowhere:8200: connection refused",
        ),
        ("", "must provide leader address or auto-join metadata"),
        ("http://node2:8200", "no address but this node's own"),
    ];
    for (address, reason) in cases {
        let error = joiner.join(body_for(address)).await.unwrap_err();
        assert_eq!(
            text(error),
            format!("failed to join raft cluster: failed to get raft challenge: {reason}")
        );
    }
    leader.vault.seal(Some(&leader.root_token)).await.unwrap();
    let error = joiner
        .join(body_for("http://node1:8200"))
        .await
        .unwrap_err();
    assert!(text(error).ends_with("http://node1:8200: status 400: Vault is sealed"));
    assert!(!joiner.initialized().await);
}

#[tokio::test]
async fn wrong_shares_do_not_answer_the_challenge() {
    let (directory, leader) = cluster().await;
    let backend = InMemory::beside(&leader.backend, "node2");
    let joiner = vault_over(&backend, &directory);
    joiner.join(body_for("http://node1:8200")).await.unwrap();
    let mut wrong = leader.shares[1].clone();
    wrong[0] ^= 1;
    unseal(&joiner, &leader.shares[..1]).await;
    let refused = joiner
        .unseal(key(&BASE64.encode(&wrong)))
        .await
        .unwrap_err();
    assert_eq!(
        text(refused),
        "failed to send answer to raft leader node: error decrypting challenge: \
         cipher: message authentication failed"
    );
    let status = joiner.seal_status().await;
    assert_eq!((status.progress, status.initialized), (0, true));
    assert!(!unseal(&joiner, &leader.shares[..2]).await.sealed);
}

// Another process derives other answers: the challenge held is void.
#[tokio::test]
async fn joiner_asks_anew_when_the_leader_changed_under_its_challenge() {
    let (directory, mut leader) = cluster().await;
    let backend = InMemory::beside(&leader.backend, "node2");
    let joiner = vault_over(&backend, &directory);
    joiner.join(body_for("http://node1:8200")).await.unwrap();
    leader.vault.shutdown().await;
    leader.vault = vault_over(&leader.backend, &directory);
    lock(&directory.0).remove(0);
    leader.unseal(&leader.shares[1..]).await;
    assert!(!unseal(&joiner, &leader.shares[..2]).await.sealed);
}

#[tokio::test]
async fn retry_join_goes_on_until_a_leader_answers() {
    let directory: Arc<Directory> = Arc::default();
    let leader = initialized_in(&directory, 3, 2).await;
    let backend = InMemory::beside(&leader.backend, "node2");
    let joiner = vault_over(&backend, &directory);
    let target = |address: &str| JoinTarget {
        leader_api_addr: address.to_owned(),
        ..JoinTarget::default()
    };
    let targets = [
        "http://nowhere:8200",
        "http://node1:8200",
        "http://node2:8200",
    ]
    .map(target);
    joiner.start_retry_join(targets.to_vec(), false).await;
    let body = JoinBody {
        retry: true,
        ..body_for("http://node1:8200")
    };
    assert!(!joiner.join(body).await.unwrap());
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert!(!joiner.initialized().await);
    leader.unseal(&leader.shares[..2]).await;
    for _ in 0..100 {
        if joiner.initialized().await {
            assert!(!unseal(&joiner, &leader.shares[..2]).await.sealed);
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("no challenge held");
}

#[tokio::test]
async fn answers_without_proof_are_refused_as_documented() {
    let (_, leader) = cluster().await;
    let ask = async |step: &str, body: Value| {
        let path = format!("sys/storage/raft/bootstrap/{step}");
        let request = request(Method::Update, &path, None, Some(object(body)));
        leader.vault.handle(request).await
    };
    let reply = ask("challenge", json!({"server_id": "n"})).await.unwrap();
    assert_eq!(
        reply.data.unwrap()["seal_config"],
        json!({
            "type": "shamir", "secret_shares": 3, "secret_threshold": 2, "pgp_keys": null,
            "nonce": "", "backup": false,
        })
    );
    for (step, body, expected) in [
        ("challenge", json!({}), "no server id provided"),
        (
            "challenge",
            json!({"server_id": "x".repeat(16385)}),
            "server id exceeds max length",
        ),
        ("answer", json!({}), "no server_id provided"),
        ("answer", json!({"server_id": "n"}), "no answer provided"),
        (
            "answer",
            json!({"server_id": "n", "answer": "AA=="}),
            "no cluster_addr provided",
        ),
        (
            "answer",
            json!({"server_id": "n", "answer": "!", "cluster_addr": "h:1"}),
            "could not base64 decode answer",
        ),
        (
            "answer",
            json!({"server_id": "n", "answer": "AA==", "cluster_addr": "h:1"}),
            "invalid answer given",
        ),
    ] {
        assert_eq!(text(ask(step, body).await.unwrap_err()), expected);
    }
}

async fn phase(vault: &Arc<Vault>) -> Value {
    vault.join_status().await["phase"].clone()
}

#[tokio::test]
async fn status_follows_a_join_and_names_each_failure() {
    let (directory, leader) = cluster().await;
    let backend = InMemory::beside(&leader.backend, "node2");
    let joiner = vault_over(&backend, &directory);
    assert_eq!(phase(&joiner).await, "not_joining");
    assert!(joiner.join(body_for("http://nowhere:8200")).await.is_err());
    leader.vault.seal(Some(&leader.root_token)).await.unwrap();
    assert!(joiner.join(body_for("http://node1:8200")).await.is_err());
    let status = joiner.join_status().await;
    assert_eq!(status["phase"], "not_joining");
    let kinds: Vec<_> = status["targets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|target| {
            (
                target["leader_api_addr"].as_str().unwrap(),
                target["last_error_kind"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        kinds,
        [
            ("http://node1:8200", "sealed"),
            ("http://nowhere:8200", "tcp")
        ]
    );

    leader.unseal(&leader.shares[..2]).await;
    joiner.join(body_for("http://node1:8200")).await.unwrap();
    let status = joiner.join_status().await;
    assert_eq!(status["phase"], "waiting_for_shares");
    assert_eq!(status["targets"][0]["last_error"], Value::Null);
    assert!(!status.contains_key("progress"));
    unseal(&joiner, &leader.shares[..2]).await;
    let status = joiner.join_status().await;
    assert_eq!(status["phase"], "joined");
    assert!(
        status["progress"]["applied_index"]
            .as_u64()
            .is_some_and(|index| 0 < index)
    );
}

#[tokio::test]
async fn retry_answers_at_once_and_goes_on_until_it_joins() {
    let (directory, leader) = cluster().await;
    leader.vault.seal(Some(&leader.root_token)).await.unwrap();
    let backend = InMemory::beside(&leader.backend, "node2");
    let joiner = vault_over(&backend, &directory);
    let body = || JoinBody {
        retry: true,
        non_voter: true,
        ..body_for("http://node1:8200")
    };
    assert!(!joiner.join(body()).await.unwrap());
    let status = joiner.join_status().await;
    assert_eq!(status["phase"], "searching");
    assert_eq!(
        (&status["retry"], &status["non_voter"]),
        (&json!(true), &json!(true))
    );
    leader.unseal(&leader.shares[..2]).await;
    for _ in 0..200 {
        if phase(&joiner).await == "waiting_for_shares" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(phase(&joiner).await, "waiting_for_shares");
    unseal(&joiner, &leader.shares[..2]).await;
    assert_eq!(phase(&joiner).await, "joined");
    // As a real server, which is there already.
    assert!(joiner.join(body()).await.unwrap());
}

fn discovered(text: &str) -> JoinBody {
    JoinBody {
        auto_join: text.to_owned(),
        auto_join_scheme: "http".to_owned(),
        ..JoinBody::default()
    }
}

#[tokio::test]
async fn members_are_found_by_discovery() {
    let (directory, leader) = cluster().await;
    let backend = InMemory::beside(&leader.backend, "node2");
    let joiner = vault_over(&backend, &directory);
    let cases = [
        (
            discovered("provider="),
            "failed to join raft cluster: failed to get raft challenge: discover: no provider",
        ),
        (
            discovered("hosts=nowhere"),
            "failed to join raft cluster: failed to get raft challenge: \
             http://nowhere:8200: connection refused",
        ),
        (
            JoinBody {
                leader_api_addr: "http://node1:8200".to_owned(),
                ..discovered("hosts=node1")
            },
            "failed to join raft cluster: failed to get raft challenge: \
             cannot provide both leader address and auto-join metadata",
        ),
        (
            JoinBody {
                auto_join_scheme: "ftp".to_owned(),
                ..discovered("hosts=node1")
            },
            "invalid scheme \"ftp\"; must either be http or https",
        ),
        (
            JoinBody {
                leader_client_cert: "abc".to_owned(),
                ..body_for("http://node1:8200")
            },
            "invalid certificate parameters",
        ),
    ];
    for (body, expected) in cases {
        assert_eq!(text(joiner.join(body).await.unwrap_err()), expected);
    }
    // Itself, a stranger, the leader: one of them will do.
    let found = discovered("hosts=node2,nowhere,node1");
    assert!(joiner.join(found).await.unwrap());
}

/// Asks a joiner to join, and is no member of its cluster.
#[derive(Default)]
struct Impostor {
    /// Given one by one, the last for ever; none: everything is refused.
    challenges: Mutex<VecDeque<Vec<u8>>>,
    /// Path and address of each request.
    asked: Mutex<Vec<(String, String)>>,
    /// Decoded.
    answers: Mutex<Vec<Vec<u8>>>,
    /// Hosts that discovery finds.
    hosts: usize,
}

impl LeaderApi for Impostor {
    fn put<'a>(
        &'a self,
        target: &'a JoinTarget,
        path: &'a str,
        body: Value,
    ) -> BoxFuture<'a, Result<Map<String, Value>, LeaderApiError>> {
        Box::pin(async move {
            let address = target.leader_api_addr.clone();
            lock(&self.asked).push((path.to_owned(), address));
            if let Some(answer) = body.get("answer").and_then(Value::as_str) {
                lock(&self.answers).push(BASE64.decode(answer).unwrap());
            }
            let mut challenges = lock(&self.challenges);
            let challenge = match challenges.len() {
                0 | 1 => challenges.front().cloned(),
                _ => challenges.pop_front(),
            };
            match challenge {
                Some(challenge) if body.get("answer").is_none() => Ok(object(json!({
                    "challenge": BASE64.encode(challenge),
                    "seal_config": {
                        "type": "shamir", "secret_shares": 3, "secret_threshold": 2,
                        "pgp_keys": null, "nonce": "", "backup": false,
                    },
                }))),
                _ => Err(LeaderApiError::Refused {
                    status: 500,
                    text: "no\n2026-11-27T00:00:00Z ERROR forged".to_owned(),
                }),
            }
        })
    }

    fn discover<'a>(
        &'a self,
        _auto_join: &'a str,
    ) -> BoxFuture<'a, Result<Vec<String>, LeaderApiError>> {
        Box::pin(async { Ok((0..self.hosts).map(|host| format!("h{host}")).collect()) })
    }
}

fn asked_by(impostor: &Arc<Impostor>) -> Arc<Vault> {
    let options = VaultOptions {
        api_address: "http://node2:8200".to_owned(),
        ..VaultOptions::default()
    };
    let parts = VaultParts {
        leader_api: Arc::clone(impostor) as Arc<dyn LeaderApi>,
        generate_peer_keyring: || b"{\"keys\":[]}".to_vec(),
    };
    Vault::with_parts(InMemory::new("node2"), options, parts)
}

async fn stored_root_key(leader: &Node) -> Vec<u8> {
    let stored = leader.backend.local().value(STORED_ROOT_KEY_PATH).await;
    stored.unwrap().expect("it is initialized").to_vec()
}

/// A challenge as the leader makes it.
async fn real_challenge(leader: &Node) -> Vec<u8> {
    let path = "sys/storage/raft/bootstrap/challenge";
    let body = object(json!({"server_id": "node2"}));
    let request = request(Method::Update, path, None, Some(body));
    let data = leader.vault.handle(request).await.unwrap().data.unwrap();
    BASE64.decode(data["challenge"].as_str().unwrap()).unwrap()
}

// Stored root keys are sealed with the same key, and are in every archive.
#[tokio::test]
async fn root_key_that_passes_for_a_challenge_is_not_answered() {
    let (_, leader) = cluster().await;
    let impostor = Arc::new(Impostor::default());
    *lock(&impostor.challenges) = [stored_root_key(&leader).await].into();
    let joiner = asked_by(&impostor);
    assert!(joiner.join(body_for("http://evil:8200")).await.unwrap());
    unseal(&joiner, &leader.shares[..1]).await;
    let share = BASE64.encode(&leader.shares[1]);
    let refused = joiner.unseal(key(&share)).await.unwrap_err();
    assert_eq!(
        text(refused),
        "failed to send answer to raft leader node: http://evil:8200: what it sent is sealed \
         with this cluster's key and is no challenge"
    );
    assert_eq!(*lock(&impostor.answers), Vec::<Vec<u8>>::new());
    // Another leader may be tried.
    assert_eq!(phase(&joiner).await, "not_joining");
}

#[tokio::test]
async fn sealing_ends_a_join_that_asks_an_impostor_anew() {
    let (_, leader) = cluster().await;
    let impostor = Arc::new(Impostor::default());
    *lock(&impostor.challenges) = [
        real_challenge(&leader).await,
        stored_root_key(&leader).await,
    ]
    .into();
    let joiner = asked_by(&impostor);
    let body = JoinBody {
        retry: true,
        ..body_for("http://evil:8200")
    };
    assert!(!joiner.join(body).await.unwrap());
    until(&joiner, "waiting_for_shares").await;
    unseal(&joiner, &leader.shares[..1]).await;
    let last = key(&BASE64.encode(&leader.shares[1]));
    let unsealing = tokio::spawn({
        let joiner = Arc::clone(&joiner);
        async move { joiner.unseal(last).await }
    });
    until(&joiner, "answering").await;
    // The first answer was refused; the root key comes next.
    while lock(&impostor.challenges).len() == 2 || lock(&impostor.asked).len() < 3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    joiner.seal(None).await.unwrap();
    assert_eq!(phase(&joiner).await, "waiting_for_shares");
    let ended = unsealing.await.unwrap().unwrap_err();
    assert!(text(ended).ends_with("given up"));
    assert_eq!(joiner.seal_status().await.progress, 0);
    for answer in lock(&impostor.answers).iter() {
        assert_eq!(answer.len(), ANSWER_BYTES);
    }
}

async fn until(vault: &Arc<Vault>, expected: &str) {
    for _ in 0..200 {
        if phase(vault).await == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never {expected}");
}

#[tokio::test]
async fn challenge_held_is_not_replaced_by_another_leaders() {
    let (directory, _leader) = cluster().await;
    let other = InMemory::new("other");
    let other_leader = vault_over(&other, &directory);
    let request = InitRequest {
        secret_shares: 1,
        secret_threshold: 1,
        unsupported: Vec::new(),
    };
    let shares = other_leader.init(request).await.unwrap().shares;
    unseal(&other_leader, &shares).await;
    let joiner = vault_over(&InMemory::beside(&other, "node2"), &directory);
    let first = || body_for("http://node1:8200");
    assert!(joiner.join(first()).await.unwrap());
    let refused = joiner.join(body_for("http://other:8200")).await;
    assert!(text(refused.unwrap_err()).contains("holds a challenge of http://node1:8200 already"));
    let status = joiner.seal_status().await;
    assert_eq!((status.threshold, status.shares), (2, 3));
    // The same leader's may be renewed.
    assert!(joiner.join(first()).await.unwrap());
}

type SetField = fn(&mut JoinBody, String);

#[tokio::test]
async fn fields_of_a_join_are_bounded() {
    let (directory, leader) = cluster().await;
    let joiner = vault_over(&InMemory::beside(&leader.backend, "node2"), &directory);
    let (text_max, pem_max) = (2048, 65_536);
    let fields: [(&str, usize, SetField); 6] = [
        ("leader_api_addr", text_max, |body, text| {
            body.leader_api_addr = text
        }),
        ("leader_tls_servername", text_max, |body, text| {
            body.leader_tls_servername = text;
        }),
        ("auto_join", text_max, |body, text| body.auto_join = text),
        ("leader_ca_cert", pem_max, |body, text| {
            body.leader_ca_cert = text
        }),
        ("leader_client_cert", pem_max, |body, text| {
            body.leader_client_cert = text;
        }),
        ("leader_client_key", pem_max, |body, text| {
            body.leader_client_key = Zeroizing::new(text);
        }),
    ];
    for (field, max, set) in fields {
        let mut body = JoinBody::default();
        set(&mut body, "x".repeat(max + 1));
        let refused = joiner.join(body).await.unwrap_err();
        assert!(matches!(refused, VaultError::BadRequest(_)));
        assert_eq!(text(refused), format!("{field} exceeds {max} bytes"));
        let mut body = JoinBody::default();
        set(&mut body, "x".repeat(max));
        let refused = joiner.join(body).await.unwrap_err();
        assert!(!text(refused).contains("exceeds"), "{field}");
    }
}

#[tokio::test]
async fn sixteen_hosts_of_a_discovery_are_asked_at_most() {
    let impostor = Arc::new(Impostor {
        hosts: 1000,
        ..Impostor::default()
    });
    let joiner = asked_by(&impostor);
    let refused = joiner.join(discovered("hosts")).await.unwrap_err();
    assert_eq!(lock(&impostor.asked).len(), 16);
    // What a stranger says stays on one line.
    let refused = text(refused);
    assert!(
        refused.contains("no\\n2026") && !refused.contains('\n'),
        "{refused}"
    );
}

#[tokio::test]
async fn request_with_retry_ends_the_one_before() {
    let impostor = Arc::new(Impostor::default());
    let joiner = asked_by(&impostor);
    for number in 0..20 {
        let body = JoinBody {
            retry: true,
            ..body_for(&format!("http://h{number}:8200"))
        };
        assert!(!joiner.join(body).await.unwrap());
        tokio::task::yield_now().await;
    }
    lock(&impostor.asked).clear();
    let last = || "http://h19:8200".to_owned();
    for _ in 0..200 {
        if 2 <= lock(&impostor.asked).len() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let asked: Vec<_> = lock(&impostor.asked)
        .iter()
        .map(|(_, to)| to.clone())
        .collect();
    assert!(asked.iter().all(|to| *to == last()), "{asked:?}");
    assert_eq!(phase(&joiner).await, "searching");
}

#[tokio::test]
async fn secrets_in_an_address_are_not_told() {
    let (directory, leader) = cluster().await;
    let joiner = vault_over(&InMemory::beside(&leader.backend, "node2"), &directory);
    for address in ["http://user:secret@h:8200", "http://h:8200?token=secret"] {
        let refused = text(joiner.join(body_for(address)).await.unwrap_err());
        assert!(
            refused.contains("http://h:8200") && !refused.contains("secret"),
            "{refused}"
        );
    }
    let status = Value::Object(joiner.join_status().await).to_string();
    assert!(!status.contains("secret"), "{status}");
}
