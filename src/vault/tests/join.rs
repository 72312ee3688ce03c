use super::*;

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
