//! `sys/storage/raft/…` behind a token.

use super::*;

const AUTOPILOT: &str = "sys/storage/raft/autopilot/configuration";

/// A leader, and two members that do not vote.
async fn three() -> Node {
    let node = unsealed().await;
    for name in ["node2", "node3"] {
        let joiner = crate::physical::JoinRequest {
            node_id: name.to_owned(),
            cluster_address: format!("{name}:8201"),
            incarnation: 1,
            non_voter: false,
        };
        node.backend.admit(joiner).await.unwrap();
    }
    node
}

async fn set(node: &Node, body: Value) -> Result<Response, VaultError> {
    node.call(Method::Update, AUTOPILOT, Some(body)).await
}

#[tokio::test]
async fn autopilot_is_set_field_by_field_and_outlives_a_seal() {
    let node = unsealed().await;
    let fresh = node.read(AUTOPILOT).await.unwrap();
    assert_eq!(fresh["dead_server_last_contact_threshold"], "24h0m0s");
    assert_eq!(
        set(&node, json!({"max_trailing_logs": "12"}))
            .await
            .unwrap(),
        Response::default()
    );
    set(&node, json!({"last_contact_threshold": "5s"}))
        .await
        .unwrap();
    let expected = json!({
        "cleanup_dead_servers": false,
        "dead_server_last_contact_threshold": "24h0m0s",
        "last_contact_threshold": "5s",
        "max_trailing_logs": 12,
        "min_quorum": 0,
        "server_stabilization_time": "10s",
    });
    assert_eq!(Value::Object(node.read(AUTOPILOT).await.unwrap()), expected);
    assert_eq!(node.backend.autopilot().max_trailing_logs, 12);

    node.vault.seal(Some(&node.root_token)).await.unwrap();
    node.backend.set_autopilot(AutopilotConfig::default());
    node.unseal(&node.shares[..2]).await;
    assert_eq!(Value::Object(node.read(AUTOPILOT).await.unwrap()), expected);
}

#[tokio::test]
async fn autopilot_that_contradicts_itself_is_refused_and_nothing_changes() {
    let node = unsealed().await;
    for (body, expected) in [
        (
            json!({"cleanup_dead_servers": true}),
            "min_quorum must be set when cleanup_dead_servers is set and it should at least be 3; \
             cleanup_dead_servers: true, min_quorum: 0x0",
        ),
        (
            json!({"cleanup_dead_servers": true, "min_quorum": 3,
                   "dead_server_last_contact_threshold": 30}),
            "dead_server_last_contact_threshold should not be set to less than 1m; received: 30",
        ),
        (
            json!({"last_contact_threshold": "bogus"}),
            "Field validation failed: error converting input for field \"last_contact_threshold\": \
             time: invalid duration \"bogus\"",
        ),
    ] {
        let refused = set(&node, body).await.unwrap_err();
        assert!(matches!(refused, VaultError::BadRequest(_)));
        assert_eq!(text(refused), expected);
    }
    assert_eq!(node.backend.autopilot(), AutopilotConfig::default());
    let deleted = node.call(Method::Delete, AUTOPILOT, None).await;
    assert!(matches!(deleted, Err(VaultError::UnsupportedOperation)));
}

#[tokio::test]
async fn policy_of_the_configuration_file_is_the_first_one() {
    let backend = InMemory::new("node1");
    let from_file = AutopilotConfig {
        max_trailing_logs: 77,
        ..AutopilotConfig::default()
    };
    backend.set_autopilot(from_file);
    let vault = vault_over(&backend, &Arc::default());
    let response = vault.init(InitRequest {
        secret_shares: 1,
        secret_threshold: 1,
        unsupported: Vec::new(),
    });
    let response = response.await.unwrap();
    let node = Node {
        vault,
        backend,
        root_token: response.root_token.to_string(),
        shares: response.shares,
    };
    node.unseal(&node.shares).await;
    assert_eq!(node.read(AUTOPILOT).await.unwrap()["max_trailing_logs"], 77);
}

#[tokio::test]
async fn state_is_read_from_the_active_node_only() {
    let node = three().await;
    let state = node.read("sys/storage/raft/autopilot/state").await.unwrap();
    assert_eq!(state["leader"], "node1");
    assert_eq!(state["non_voters"], json!(["node2", "node3"]));
    assert_eq!(state["servers"]["node2"]["status"], "non-voter");

    let backend = InMemory::beside(&node.backend, "node2");
    let standby = vault_over(&backend, &Arc::default());
    backend.start(Vec::new()).await.unwrap();
    for share in &node.shares[..2] {
        standby.unseal(key(&BASE64.encode(share))).await.unwrap();
    }
    for path in ["state", "configuration"] {
        let path = format!("sys/storage/raft/autopilot/{path}");
        let asked = request(Method::Read, &path, Some(&node.root_token), None);
        assert!(
            matches!(standby.handle(asked).await, Err(VaultError::Standby)),
            "{path}"
        );
    }
}

#[tokio::test]
async fn stranger_learns_and_changes_nothing() {
    let node = three().await;
    for (method, path) in [
        (Method::Read, "autopilot/state"),
        (Method::Read, "autopilot/configuration"),
        (Method::Update, "autopilot/configuration"),
        (Method::Read, "configuration"),
        (Method::Update, "remove-peer"),
        (Method::Update, "promote"),
        (Method::Update, "demote"),
        (Method::Update, "transfer-leader"),
    ] {
        for token in [None, Some("s.stranger")] {
            let body = object(json!({"server_id": "node2", "max_trailing_logs": 1}));
            let path = format!("sys/storage/raft/{path}");
            let body = (method == Method::Update).then_some(body);
            let refused = node.vault.handle(request(method, &path, token, body)).await;
            assert!(
                matches!(refused, Err(VaultError::PermissionDenied)),
                "{path}"
            );
        }
    }
    assert_eq!(node.backend.servers().1.len(), 3);
}

async fn ask(node: &Node, path: &str, body: Value) -> Result<Option<Value>, String> {
    let path = format!("sys/storage/raft/{path}");
    match node.call(Method::Update, &path, Some(body)).await {
        Ok(response) => Ok(response.data.map(Value::Object)),
        Err(error) => Err(error.to_string()),
    }
}

#[tokio::test]
async fn votes_are_given_and_taken_any_number_of_times() {
    let node = three().await;
    let votes = || {
        let (_, servers) = node.backend.servers();
        servers.iter().find(|s| s.node_id == "node2").unwrap().voter
    };
    for _ in 0..2 {
        assert_eq!(
            ask(&node, "promote", json!({"server_id": "node2"})).await,
            Ok(None)
        );
        assert!(votes());
    }
    for _ in 0..2 {
        assert_eq!(
            ask(&node, "demote", json!({"server_id": "node2"})).await,
            Ok(None)
        );
        assert!(!votes());
    }
    for path in ["promote", "demote"] {
        assert_eq!(
            ask(&node, path, json!({"server_id": "nope"}))
                .await
                .unwrap_err(),
            "server nope not found in raft configuration"
        );
    }
    for path in ["promote", "demote", "remove-peer"] {
        let refused = ask(&node, path, json!({})).await.unwrap_err();
        assert_eq!(refused, "no server id provided");
    }
}

#[tokio::test]
async fn dry_run_tells_the_quorum_and_does_nothing() {
    let node = three().await;
    ask(&node, "promote", json!({"server_id": "node2"}))
        .await
        .unwrap();
    let told = ask(
        &node,
        "remove-peer",
        json!({"server_id": "node2", "dry_run": true}),
    )
    .await;
    let told = told.unwrap().unwrap();
    assert_eq!(
        (&told["allowed"], &told["changes"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(told["before"]["voters"], 2);
    assert_eq!(told["after"]["quorum"], 1);
    assert_eq!(node.backend.servers().1.len(), 3);
    let unknown = json!({"server_id": "nope", "dry_run": true});
    let told = ask(&node, "remove-peer", unknown).await.unwrap().unwrap();
    assert_eq!(told["changes"], false);
    let handed = ask(&node, "transfer-leader", json!({"dry_run": true})).await;
    assert_eq!(handed.unwrap().unwrap()["changes"], false);
}

#[tokio::test]
async fn last_voter_stays_and_unknown_peers_are_gone() {
    let node = three().await;
    for path in ["remove-peer", "demote"] {
        let body = json!({"server_id": "node1", "force": true});
        let refused = ask(&node, path, body).await.unwrap_err();
        assert_eq!(refused, "need at least one voter in configuration: {[]}");
    }
    let unknown = json!({"server_id": "nope"});
    assert_eq!(ask(&node, "remove-peer", unknown).await, Ok(None));
}

#[tokio::test]
async fn leadership_goes_to_voters_only() {
    let node = three().await;
    let to = |name: &str| json!({"server_id": name});
    assert!(
        ask(&node, "transfer-leader", to("node2"))
            .await
            .unwrap_err()
            .contains("promote it first")
    );
    assert_eq!(
        ask(&node, "transfer-leader", to("nope")).await.unwrap_err(),
        "server nope not found in raft configuration"
    );
    ask(&node, "promote", to("node2")).await.unwrap();
    assert_eq!(ask(&node, "transfer-leader", to("node2")).await, Ok(None));
    assert_eq!(ask(&node, "transfer-leader", json!({})).await, Ok(None));
}

#[tokio::test]
async fn disaster_recovery_token_is_refused_with_its_meaning() {
    let node = three().await;
    for path in ["remove-peer", "promote", "demote", "configuration"] {
        let body = json!({"server_id": "node2", "dr_operation_token": "t"});
        let refused = ask(&node, path, body).await.unwrap_err();
        assert!(
            refused.contains("this cluster is none"),
            "{path}: {refused}"
        );
    }
    // Clients that send every field leave it empty.
    let body = json!({"server_id": "node3", "dr_operation_token": ""});
    assert_eq!(ask(&node, "remove-peer", body).await, Ok(None));
}
