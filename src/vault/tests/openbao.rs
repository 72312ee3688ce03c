//! A raft snapshot of a real OpenBao 2.7.2 (a throw-away cluster, 5 shares, 3
//! needed) opens here with its own keys; `tests/openbao` does the reverse.

use std::io::{Seek, Write};

use super::*;
use crate::physical::Physical;

const ARCHIVE: &[u8] = include_bytes!("../../snapshot/archive/testdata/openbao.snap");
const ROOT_TOKEN: &str = "s.pSpjf6zzHBMdGzvB83IkQyhi";
const SHARES: [&str; 3] = [
    "8ca012808a293a5a5f775bb451b21a7b01a547253e448a2bd1462e412f129c5d1e",
    "99ebe54c4a5b162120924229d910b7252c84a7568b1484fa32811b68a22e115216",
    "a25761fd10f3a6c3da4aebe0c6789672385254873c2b39e7ec0857a3e9d63c0a80",
];

fn spooled(bytes: &[u8]) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

async fn with_openbaos_state() -> Node {
    let mut node = unsealed().await;
    let archive = spooled(ARCHIVE);
    let token = Some(node.root_token.as_str());
    node.vault
        .snapshot_restore(token, archive, true)
        .await
        .unwrap();
    let status = node.vault.seal_status().await;
    assert!(status.sealed && status.initialized);
    assert_eq!((status.threshold, status.shares), (3, 5));
    let mut status = SealStatus::default();
    for share in SHARES {
        status = node.vault.unseal(key(share)).await.unwrap();
    }
    assert!(!status.sealed);
    assert_eq!(
        status.cluster_name.as_deref(),
        Some("vault-cluster-c9d43a70")
    );
    assert_eq!(
        status.cluster_id.as_deref(),
        Some("6d764929-81a6-5750-ec91-06b09bf2d5a3")
    );
    ROOT_TOKEN.clone_into(&mut node.root_token);
    node
}

#[tokio::test]
async fn openbaos_snapshot_unseals_and_reads_back() {
    let node = with_openbaos_state().await;
    let secrets = [
        ("kv/app/one", json!({"number": "1", "value": "first"})),
        ("kv/app/two", json!({"value": "second"})),
        (
            "kv/team/nested",
            json!({
                "limits": {"cpu": 4, "nested": {"deep": true, "none": null, "ratio": 0.25}},
                "roles": ["admin", "dev"], "user": "alice",
            }),
        ),
        (
            "kv/top",
            json!({"plain": "text", "unicode": "h\u{e4}\u{df} \u{2211}"}),
        ),
    ];
    for (path, expected) in secrets {
        assert_eq!(
            Value::Object(node.read(path).await.unwrap()),
            expected,
            "{path}"
        );
    }
    let token = node.read("auth/token/lookup-self").await.unwrap();
    assert_eq!(token["accessor"], json!("SAwHZ38JmBTDhYWvlKiwIhHo"));
    assert_eq!(token["creation_time"], json!(1_795_417_145));
    let mounts = node.read("sys/mounts").await.unwrap();
    assert_eq!(
        mounts.keys().collect::<Vec<_>>(),
        ["cubbyhole/", "identity/", "kv/", "sys/"]
    );
    assert_eq!(mounts["kv/"]["accessor"], json!("kv_aa690157"));
    let keyring = node.backend.tls_keyring();
    crate::membership::Keyring::parse(&keyring).unwrap();

    // And it is a state like any other: writes, mounts, disabling.
    node.call(Method::Update, "kv/new", Some(json!({"a": 1})))
        .await
        .unwrap();
    node.call(
        Method::Update,
        "sys/mounts/more",
        Some(json!({"type": "kv"})),
    )
    .await
    .unwrap();
    node.call(Method::Delete, "sys/mounts/kv", None)
        .await
        .unwrap();
    assert!(matches!(
        node.read("kv/top").await,
        Err(VaultError::NoRoute { .. })
    ));
}

#[tokio::test]
async fn snapshot_saved_restores_without_force() {
    let node = with_openbaos_state().await;
    node.call(Method::Update, "kv/top", Some(json!({"n": 1})))
        .await
        .unwrap();
    let mut archive = tempfile::tempfile().unwrap();
    let source = node.vault.snapshot_save(Some(ROOT_TOKEN)).await.unwrap();
    source.prepare().unwrap().write_to(&mut archive).unwrap();
    archive.rewind().unwrap();
    node.call(Method::Update, "kv/top", Some(json!({"n": 2})))
        .await
        .unwrap();
    node.call(Method::Update, "kv/later", Some(json!({"n": 2})))
        .await
        .unwrap();

    node.vault
        .snapshot_restore(Some(ROOT_TOKEN), archive, false)
        .await
        .unwrap();
    assert!(!node.vault.seal_status().await.sealed);
    assert_eq!(node.read("kv/top").await.unwrap()["n"], json!(1));
    assert!(matches!(
        node.read("kv/later").await,
        Err(VaultError::NotFound)
    ));
}

#[tokio::test]
async fn restore_refuses_what_it_should_and_changes_nothing() {
    let node = unsealed().await;
    let token = Some(node.root_token.as_str());
    let before = node.backend.local().applied_index();
    let restore = async |bytes: &[u8], force| {
        let refused = node
            .vault
            .snapshot_restore(token, spooled(bytes), force)
            .await;
        refused.unwrap_err()
    };
    let foreign = restore(ARCHIVE, false).await;
    assert!(matches!(&foreign, VaultError::BadRequest(_)));
    assert_eq!(
        text(foreign),
        "could not verify hash file, possibly the snapshot is using a different set of unseal \
         keys; use the snapshot-force API to bypass this check"
    );
    assert_eq!(
        text(restore(b"not a gzip", false).await),
        "failed to decompress snapshot: gzip: invalid header"
    );
    let cut_off = restore(&ARCHIVE[..ARCHIVE.len() / 2], true).await;
    assert!(matches!(cut_off, VaultError::Internal(_)));

    let mut archive = Vec::new();
    let nothing = SnapshotSource::of_nothing();
    nothing.prepare().unwrap().write_to(&mut archive).unwrap();
    assert_eq!(
        text(restore(&archive, true).await),
        "refused to restore: the snapshot holds no core/hsm/barrier-unseal-keys, nobody could \
         unseal it"
    );
    for token in [None, Some("s.bogus")] {
        let refused = node
            .vault
            .snapshot_restore(token, spooled(ARCHIVE), true)
            .await;
        assert!(matches!(refused, Err(VaultError::PermissionDenied)));
        let refused = node.vault.snapshot_save(token).await;
        assert!(matches!(refused, Err(VaultError::PermissionDenied)));
    }
    assert_eq!(node.backend.local().applied_index(), before);
    node.read("sys/mounts").await.unwrap();
}
