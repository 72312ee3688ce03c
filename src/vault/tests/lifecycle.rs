use super::*;
use crate::barrier::KEYRING_PATH;
use crate::physical::Physical;
use crate::types::{Operation, Transaction};

#[tokio::test]
async fn uninitialized_answers_as_recorded() {
    let vault = vault_over(&InMemory::new("node1"), &Arc::default());
    assert!(!vault.initialized().await);
    let status = vault.seal_status().await;
    assert!(status.sealed && !status.initialized);
    assert_eq!(
        (status.threshold, status.shares, status.progress),
        (0, 0, 0)
    );
    let health = vault.health().await;
    assert!(health.sealed && health.standby && !health.initialized);
    assert!(matches!(vault.leader().await, Err(VaultError::Sealed)));
    assert!(matches!(
        vault.step_down(None).await,
        Err(VaultError::Sealed)
    ));
    // There is nothing to protect yet.
    vault.seal(Some("s.bogus")).await.unwrap();

    let missing = vault.unseal(UnsealRequest::default()).await.unwrap_err();
    assert_eq!(
        text(missing),
        "'key' must be specified in request body as JSON, or 'reset' set to true"
    );
    let early = vault.unseal(key("abcd")).await.unwrap_err();
    assert!(matches!(early, VaultError::NotInitialized));
    let request = request(Method::Read, "sys/mounts", None, None);
    assert!(matches!(
        vault.handle(request).await,
        Err(VaultError::Sealed)
    ));
}

#[tokio::test]
async fn init_refuses_bad_share_counts_as_recorded() {
    let vault = vault_over(&InMemory::new("node1"), &Arc::default());
    let cases = [
        (
            1,
            2,
            &[][..],
            "invalid seal configuration: threshold cannot be larger than shares",
        ),
        (
            5,
            1,
            &[],
            "invalid seal configuration: threshold must be greater than one for multiple shares",
        ),
        (
            0,
            0,
            &[],
            "invalid seal configuration: shares must be at least one",
        ),
        (
            300,
            200,
            &[],
            "invalid seal configuration: shares must be less than 256",
        ),
        (
            5,
            3,
            &["recovery_shares", "recovery_threshold"],
            "parameters recovery_shares,recovery_threshold not applicable to seal type shamir",
        ),
    ];
    for (secret_shares, secret_threshold, unsupported, expected) in cases {
        let request = InitRequest {
            secret_shares,
            secret_threshold,
            unsupported: unsupported.iter().map(|&name| name.to_owned()).collect(),
        };
        let Err(VaultError::BadRequest(found)) = vault.init(request).await else {
            panic!("{secret_shares}/{secret_threshold} was accepted");
        };
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn init_then_shares_unseal() {
    let node = initialized(5, 3).await;
    assert_eq!(node.shares.len(), 5);
    assert!(node.shares.iter().all(|share| share.len() == 33));
    assert_eq!(node.root_token.len(), 26);
    assert!(!node.backend.is_running());
    let again = InitRequest {
        secret_shares: 1,
        secret_threshold: 1,
        unsupported: Vec::new(),
    };
    assert!(matches!(
        node.vault.init(again).await,
        Err(VaultError::AlreadyInitialized)
    ));

    // Hex and base64 mixed, one share twice.
    let status = node
        .vault
        .unseal(key(&hex::encode(&node.shares[4])))
        .await
        .unwrap();
    assert_eq!(
        (status.progress, status.threshold, status.shares),
        (1, 3, 5)
    );
    let nonce = status.nonce.clone();
    assert_eq!(nonce.len(), 36);
    let status = node
        .vault
        .unseal(key(&BASE64.encode(&node.shares[4])))
        .await
        .unwrap();
    assert_eq!(
        (status.progress, status.nonce.as_str()),
        (1, nonce.as_str())
    );
    let status = node.unseal(&node.shares[..2]).await;
    assert!(!status.sealed && status.initialized);
    assert_eq!((status.progress, status.nonce.as_str()), (0, ""));
    assert!(status.cluster_name.unwrap().starts_with("vault-cluster-"));

    let health = node.vault.health().await;
    assert!(!health.sealed && !health.standby);
    let leader = node.vault.leader().await.unwrap();
    assert!(leader.is_self && leader.active_time.is_some());
    assert_eq!(leader.leader_address, "http://node1:8200");
    assert_eq!(leader.leader_cluster_address, "https://node1:8201");
    assert_eq!(node.backend.tls_keyring(), b"{\"keys\":[]}");

    // One share more is no mistake.
    let status = node.unseal(&node.shares[3..4]).await;
    assert!(!status.sealed);
    let reset = UnsealRequest {
        reset: true,
        ..UnsealRequest::default()
    };
    assert_eq!(
        text(node.vault.unseal(reset).await.unwrap_err()),
        "vault is unsealed"
    );
}

#[tokio::test]
async fn init_with_one_share_unseals_with_it() {
    let node = initialized(1, 1).await;
    assert_eq!(node.shares[0].len(), 32);
    assert!(!node.unseal(&node.shares).await.sealed);
}

#[tokio::test]
async fn wrong_shares_are_refused_as_recorded() {
    let node = initialized(5, 3).await;
    let refused = async |text: &str| node.vault.unseal(key(text)).await.unwrap_err().to_string();
    assert_eq!(
        refused("not-base64!!").await,
        "'key' must be a valid hex or base64 string"
    );
    assert_eq!(
        refused("AAAA").await,
        "invalid key: key is shorter than minimum 16 bytes"
    );
    assert_eq!(
        refused(&BASE64.encode([1; 34])).await,
        "invalid key: key is longer than maximum 33 bytes"
    );

    // Forty-four letters A are valid hex: 22 bytes, which fit no other share.
    let status = node.vault.unseal(key(&"A".repeat(44))).await.unwrap();
    assert_eq!(status.progress, 1);
    node.unseal(&node.shares[..1]).await;
    let share = BASE64.encode(&node.shares[1]);
    assert_eq!(
        refused(&share).await,
        "invalid key: failed to compute combined key: all parts must be the same length"
    );
    assert_eq!(node.vault.seal_status().await.progress, 0);

    let mut wrong = node.shares[2].clone();
    wrong[0] ^= 1;
    node.unseal(&node.shares[..2]).await;
    assert_eq!(
        refused(&BASE64.encode(&wrong)).await,
        "unable to retrieve stored keys: invalid key: failed to decrypt keys from storage: \
         cipher: message authentication failed"
    );
    let status = node.vault.seal_status().await;
    assert!(status.sealed);
    assert_eq!((status.progress, status.nonce.as_str()), (0, ""));

    node.unseal(&node.shares[..1]).await;
    let reset = UnsealRequest {
        reset: true,
        ..UnsealRequest::default()
    };
    assert_eq!(node.vault.unseal(reset).await.unwrap().progress, 0);
    assert!(!node.unseal(&node.shares[..3]).await.sealed);
}

#[tokio::test]
async fn seal_needs_the_root_token() {
    let node = unsealed().await;
    for token in [None, Some("s.bogus")] {
        let refused = node.vault.seal(token).await;
        assert!(matches!(refused, Err(VaultError::PermissionDenied)));
        let refused = node.vault.step_down(token).await;
        assert!(matches!(refused, Err(VaultError::PermissionDenied)));
    }
    node.vault.step_down(Some(&node.root_token)).await.unwrap();
    node.vault.seal(Some(&node.root_token)).await.unwrap();
    assert!(node.vault.seal_status().await.sealed);
    assert!(!node.backend.is_running());
    assert!(matches!(
        node.read("sys/mounts").await,
        Err(VaultError::Sealed)
    ));
    assert!(!node.unseal(&node.shares[1..]).await.sealed);
    node.read("sys/mounts").await.unwrap();
}

// A real server keeps the old share counts until it is restarted, and refuses
// the right shares.
#[tokio::test]
async fn restore_of_another_cluster_seals_and_asks_for_its_shares() {
    let other = unsealed().await;
    other
        .call(Method::Update, "sys/mounts/kv", Some(json!({"type": "kv"})))
        .await
        .unwrap();
    other
        .call(Method::Update, "kv/a", Some(json!({"from": "other"})))
        .await
        .unwrap();
    let node = initialized(1, 1).await;
    node.unseal(&node.shares).await;

    node.backend
        .restore(entries_of(&other).await)
        .await
        .unwrap();
    let refused = node.read("sys/mounts").await;
    assert!(matches!(refused, Err(VaultError::Sealed)));
    let status = node.vault.seal_status().await;
    assert!(status.sealed && status.initialized);
    assert_eq!((status.threshold, status.shares), (2, 3));

    let status = unseal(&node.vault, &other.shares[..2]).await;
    assert!(!status.sealed);
    assert_eq!(
        status.cluster_id,
        other.vault.seal_status().await.cluster_id
    );
    let request = request(Method::Read, "kv/a", Some(&other.root_token), None);
    let data = node.vault.handle(request).await.unwrap().data.unwrap();
    assert_eq!(Value::Object(data), json!({"from": "other"}));
}

#[tokio::test]
async fn restore_of_an_earlier_state_keeps_the_node_unsealed() {
    let node = unsealed().await;
    node.call(Method::Update, "sys/mounts/kv", Some(json!({"type": "kv"})))
        .await
        .unwrap();
    node.call(Method::Update, "kv/a", Some(json!({"n": 1})))
        .await
        .unwrap();
    let earlier = entries_of(&node).await;
    node.call(Method::Update, "kv/a", Some(json!({"n": 2})))
        .await
        .unwrap();
    node.call(
        Method::Update,
        "sys/mounts/kv2",
        Some(json!({"type": "kv"})),
    )
    .await
    .unwrap();

    node.backend.restore(earlier).await.unwrap();
    assert_eq!(node.read("kv/a").await.unwrap()["n"], json!(1));
    assert!(matches!(
        node.read("kv2/a").await,
        Err(VaultError::NoRoute { .. })
    ));
    assert!(!node.vault.seal_status().await.sealed);
}

#[tokio::test]
async fn restore_is_noticed_without_a_request() {
    let other = unsealed().await;
    let node = unsealed().await;
    node.backend
        .restore(entries_of(&other).await)
        .await
        .unwrap();
    for _ in 0..100 {
        if node.vault.seal_status().await.sealed {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("still unsealed over another cluster's storage");
}

// The last write of a request that read before the restore would be garbage
// under the new keys.
#[tokio::test]
async fn write_prepared_before_a_restore_does_not_land_after_it() {
    let node = unsealed().await;
    node.call(Method::Update, "sys/mounts/kv", Some(json!({"type": "kv"})))
        .await
        .unwrap();
    let session = node.vault.session().await.unwrap();
    let table = super::super::mounts::MountTable::read(&session)
        .await
        .unwrap();
    let mount = table.at("kv/").unwrap();
    let mut batch = session.batch();
    batch.expect(&mount.storage_path, Some(&mount.stored));
    batch.put(&format!("{}late", mount.entry.data_prefix()), b"{}");

    let other = unsealed().await;
    node.backend
        .restore(entries_of(&other).await)
        .await
        .unwrap();
    let committed = node.vault.commit(batch).await.unwrap();
    assert_eq!(committed, super::super::storage::Committed::Conflict);
}

#[tokio::test]
async fn keyring_gone_from_storage_is_an_error_not_a_panic() {
    let node = unsealed().await;
    let operations = vec![Operation::Delete {
        key: KEYRING_PATH.to_owned(),
    }];
    let transaction = Transaction {
        preconditions: Vec::new(),
        operations,
    };
    node.backend.commit(transaction).await.unwrap();
    let refused = node.read("sys/mounts").await.unwrap_err();
    assert_eq!(text(refused), "core/keyring is missing");
}

async fn entries_of(node: &Node) -> crate::physical::RestoreEntries {
    let source = node.backend.archive_source().await.unwrap();
    let entries: Vec<_> = (source.entries)()
        .map(|pair| Ok((pair.key().to_owned(), pair.value().to_vec())))
        .collect();
    Box::new(entries.into_iter())
}
