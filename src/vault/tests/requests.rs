use super::*;

async fn with_kv() -> Node {
    let node = unsealed().await;
    let body = json!({
        "type": "kv", "description": "", "local": false, "seal_wrap": false,
        "external_entropy_access": false, "options": {"version": "1"},
        "config": {"options": null, "default_lease_ttl": "0s", "max_lease_ttl": "0s", "force_no_cache": false},
    });
    let response = node
        .call(Method::Update, "sys/mounts/kv1", Some(body))
        .await;
    assert_eq!(response.unwrap(), Response::default());
    node
}

#[tokio::test]
async fn root_token_looks_itself_up_as_recorded() {
    let node = unsealed().await;
    let data = node.read("auth/token/lookup-self").await.unwrap();
    assert_eq!(data["id"], json!(node.root_token));
    assert_eq!(data["accessor"].as_str().unwrap().len(), 24);
    assert!(data["creation_time"].is_u64());
    let mut rest = data.clone();
    for volatile in ["id", "accessor", "creation_time"] {
        rest.remove(volatile);
    }
    assert_eq!(
        Value::Object(rest),
        json!({
            "creation_ttl": 0, "display_name": "root", "entity_id": "", "expire_time": null,
            "explicit_max_ttl": 0, "meta": null, "num_uses": 0, "orphan": true,
            "path": "auth/token/root", "policies": ["root"], "ttl": 0, "type": "service",
        })
    );
    let asked = json!({"token": node.root_token});
    let found = node
        .call(Method::Update, "auth/token/lookup", Some(asked))
        .await
        .unwrap();
    assert_eq!(found.data.unwrap(), data);
    let bogus = json!({"token": "s.bogus"});
    let refused = node
        .call(Method::Update, "auth/token/lookup", Some(bogus))
        .await;
    assert!(matches!(refused, Err(VaultError::PermissionDenied)));
}

// Golden 08: no token is refused before the path is looked at.
#[tokio::test]
async fn checks_come_in_a_real_servers_order() {
    let node = with_kv().await;
    for path in [
        "kv1/raw",
        "nope/foo",
        "sys/nope",
        "sys/mounts",
        "auth/nope/login",
    ] {
        for token in [
            None,
            Some("s.bogus"),
            Some(""),
            Some("b.AAAA"),
            Some("s.a.b"),
        ] {
            let refused = node
                .vault
                .handle(request(Method::Read, path, token, None))
                .await;
            assert!(
                matches!(refused, Err(VaultError::PermissionDenied)),
                "{path}"
            );
        }
    }
    let refused = async |method, path: &str| node.call(method, path, None).await.unwrap_err();
    assert_eq!(
        text(refused(Method::Read, "nope/foo").await),
        "no handler for route \"nope/foo\". route entry not found."
    );
    assert_eq!(
        text(refused(Method::List, "nope/").await),
        "no handler for route \"nope/\". route entry not found."
    );
    assert_eq!(
        text(refused(Method::Read, "auth/nope/login").await),
        "no handler for route \"auth/nope/login\". route entry not found."
    );
    for path in [
        "sys/nope",
        "sys/",
        "sys/storage/raft/nope",
        "auth/token/lookup/s.x",
    ] {
        let error = refused(Method::Read, path).await;
        assert!(matches!(error, VaultError::UnsupportedPath), "{path}");
    }
    for (method, path) in [
        (Method::Patch, "kv1/raw"),
        (Method::Update, "sys/storage/raft/configuration"),
        (Method::Read, "sys/storage/raft/remove-peer"),
        (Method::Update, "sys/internal/ui/mounts"),
        (Method::Read, "sys/storage/raft/bootstrap/challenge"),
    ] {
        let error = refused(method, path).await;
        assert!(matches!(error, VaultError::UnsupportedOperation), "{path}");
    }
    let stranger = request(Method::Read, "sys/internal/ui/mounts", None, None);
    let data = node.vault.handle(stranger).await.unwrap().data.unwrap();
    assert_eq!(Value::Object(data), json!({"auth": {}, "secret": {}}));
}

#[tokio::test]
async fn kv1_answers_as_recorded() {
    let node = with_kv().await;
    let data: Value = serde_json::from_str(
        r#"{"big": 12345678901234567890123, "l": ["a"], "n": 1, "f": 1.50, "deep": {"a": [null, true]}}"#,
    )
    .unwrap();
    let written = node
        .call(Method::Update, "kv1/j", Some(data.clone()))
        .await
        .unwrap();
    assert_eq!(written, Response::default());
    let response = node.call(Method::Read, "kv1/j", None).await.unwrap();
    assert_eq!(response.lease_duration, 2_764_800);
    let read = Value::Object(response.data.unwrap());
    assert_eq!(read.to_string(), data.to_string());

    for (body, lease_duration) in [
        (json!({"ttl": "1h", "x": "1"}), 3600),
        (json!({"ttl": "30m"}), 1800),
        (json!({"ttl": 90}), 90),
        (json!({"ttl": "90"}), 90),
        (json!({"lease": "2m"}), 120),
        (json!({"lease": "bogus"}), 2_764_800),
        (json!({"ttl": ""}), 2_764_800),
        (json!({"ttl": "9999h"}), 2_764_800),
    ] {
        node.call(Method::Update, "kv1/app/a", Some(body.clone()))
            .await
            .unwrap();
        let response = node.call(Method::Read, "kv1/app/a", None).await.unwrap();
        assert_eq!(response.lease_duration, lease_duration, "{body}");
    }

    let list = async |path: &str| node.call(Method::List, path, None).await;
    let keys = list("kv1/").await.unwrap().data.unwrap();
    assert_eq!(Value::Object(keys), json!({"keys": ["app/", "j"]}));
    let keys = list("kv1/app/").await.unwrap().data.unwrap();
    assert_eq!(Value::Object(keys), json!({"keys": ["a"]}));
    assert!(matches!(list("kv1/nope/").await, Err(VaultError::NotFound)));

    for path in ["kv1/nope", "kv1", "kv1/"] {
        assert!(
            matches!(node.read(path).await, Err(VaultError::NotFound)),
            "{path}"
        );
    }
    for (path, body, expected) in [
        ("kv1/e", None, "missing data fields"),
        ("kv1/e", Some(json!({})), "missing data fields"),
        (
            "kv1/",
            Some(json!({"a": 1})),
            "cannot write to a path ending in '/'",
        ),
        (
            "kv1/trail/",
            Some(json!({"a": 1})),
            "cannot write to a path ending in '/'",
        ),
        ("kv1", Some(json!({"a": 1})), "missing path"),
    ] {
        let refused = node.call(Method::Update, path, body).await.unwrap_err();
        assert_eq!(text(refused), expected);
    }

    for path in ["kv1/j", "kv1/nope"] {
        let deleted = node.call(Method::Delete, path, None).await.unwrap();
        assert_eq!(deleted, Response::default());
    }
    assert!(matches!(
        node.read("kv1/j").await,
        Err(VaultError::NotFound)
    ));
}

#[tokio::test]
async fn kv1_refuses_what_storage_would() {
    let node = with_kv().await;
    let body = json!({"value": "x".repeat(1 << 20)});
    let refused = node
        .call(Method::Update, "kv1/big", Some(body))
        .await
        .unwrap_err();
    let refused = text(refused);
    assert!(refused.starts_with("failed to write: put failed due to value being too large; got "));
    assert!(refused.ends_with(" bytes, max: 1048576 bytes"));
    let path = format!("kv1/{}", "k".repeat(33 << 10));
    let refused = node
        .call(Method::Update, &path, Some(json!({"a": 1})))
        .await;
    assert!(text(refused.unwrap_err()).starts_with("failed to write: put failed due to key"));
}

#[tokio::test]
async fn mounts_are_listed_as_recorded() {
    let node = with_kv().await;
    let listed = node.call(Method::Read, "sys/mounts", None).await.unwrap();
    assert!(listed.copies_data_to_top);
    let mounts = listed.data.unwrap();
    assert_eq!(
        mounts.keys().collect::<Vec<_>>(),
        ["cubbyhole/", "identity/", "kv1/", "sys/"]
    );
    let mut kv = mounts["kv1/"].as_object().unwrap().clone();
    assert!(kv["accessor"].as_str().unwrap().starts_with("kv_"));
    assert_eq!(kv["uuid"].as_str().unwrap().len(), 36);
    for volatile in ["accessor", "uuid", "running_plugin_version"] {
        kv.remove(volatile);
    }
    let mut expected = object(json!({
        "config": {"default_lease_ttl": 0, "force_no_cache": false, "max_lease_ttl": 0},
        "deprecation_status": "supported", "description": "", "external_entropy_access": false,
        "local": false, "options": {"version": "1"}, "plugin_version": "",
        "running_sha256": "", "seal_wrap": false, "type": "kv",
    }));
    assert_eq!(kv, expected);
    assert_eq!(
        mounts["sys/"]["config"]["passthrough_request_headers"],
        json!(["Accept"])
    );
    assert_eq!(mounts["sys/"]["seal_wrap"], json!(true));
    assert_eq!(mounts["cubbyhole/"]["local"], json!(true));

    for path in ["kv1", "kv1/", "kv1/app/a"] {
        let path = format!("sys/internal/ui/mounts/{path}");
        let mut data = node.read(&path).await.unwrap();
        for volatile in ["accessor", "uuid", "running_plugin_version"] {
            data.remove(volatile);
        }
        expected.insert("path".to_owned(), json!("kv1/"));
        assert_eq!(data, expected);
    }
    let refused = node.read("sys/internal/ui/mounts/nope/foo").await;
    assert!(matches!(refused, Err(VaultError::PermissionDenied)));
    let tuning = node.read("sys/mounts/kv1/tune").await.unwrap();
    assert_eq!(
        Value::Object(tuning),
        json!({
            "default_lease_ttl": 2_764_800, "description": "", "force_no_cache": false,
            "max_lease_ttl": 2_764_800, "options": {"version": "1"},
        })
    );
    let refused = node.read("sys/mounts/nope").await.unwrap_err();
    assert_eq!(text(refused), "No secret engine mount at nope/");
    let auths = node.read("sys/auth").await.unwrap();
    assert_eq!(
        auths["token/"]["config"]["token_type"],
        json!("default-service")
    );
}

#[tokio::test]
async fn mounts_that_cannot_be_are_refused_as_recorded() {
    let node = with_kv().await;
    let cases = [
        (
            "kv1",
            json!({"type": "kv"}),
            "path is already in use at kv1/",
        ),
        (
            "kv1/nested",
            json!({"type": "kv"}),
            "path is already in use at kv1/",
        ),
        (
            "x",
            json!({"type": "nosuchengine"}),
            "plugin not found in the catalog: nosuchengine",
        ),
        (
            "sys/foo",
            json!({"type": "kv"}),
            "cannot mount \"sys/foo/\"",
        ),
        (
            "m1",
            json!({}),
            "backend type must be specified as a string",
        ),
        (
            "v3",
            json!({"type": "kv", "options": {"version": "3"}}),
            "nil backend of type \"kv\" returned from factory",
        ),
        (
            "v2",
            json!({"type": "kv", "options": {"version": "2"}}),
            "kv version 2 is not supported yet: use version 1",
        ),
        (
            "v2",
            json!({"type": "kv-v2"}),
            "kv version 2 is not supported yet: use version 1",
        ),
        (
            "a/../b",
            json!({"type": "kv"}),
            "invalid mount path \"a/../b/\"",
        ),
        (
            "a\u{7}",
            json!({"type": "kv"}),
            "invalid mount path \"a\\u{7}/\"",
        ),
    ];
    for (path, body, expected) in cases {
        let path = format!("sys/mounts/{path}");
        let refused = node
            .call(Method::Update, &path, Some(body))
            .await
            .unwrap_err();
        assert_eq!(text(refused), expected);
    }
    for path in ["sys", "cubbyhole", "identity"] {
        let refused = node
            .call(Method::Delete, &format!("sys/mounts/{path}"), None)
            .await;
        assert_eq!(
            text(refused.unwrap_err()),
            format!("cannot unmount \"{path}/\"")
        );
    }
    let unknown = node
        .call(Method::Delete, "sys/mounts/nope", None)
        .await
        .unwrap();
    assert_eq!(unknown, Response::default());
}

#[tokio::test]
async fn disabled_mount_leaves_no_data_and_its_path_is_free() {
    let node = with_kv().await;
    for path in ["a", "b/c", "b/d/e"] {
        let path = format!("kv1/{path}");
        node.call(Method::Update, &path, Some(json!({"v": 1})))
            .await
            .unwrap();
    }
    let before = node.backend.archive_source().await.unwrap();
    let count = |source: &crate::physical::ArchiveSource| (source.entries)().count();
    node.call(Method::Delete, "sys/mounts/kv1", None)
        .await
        .unwrap();
    let after = node.backend.archive_source().await.unwrap();
    assert_eq!(count(&before) - count(&after), 4);
    assert!(matches!(
        node.read("kv1/a").await,
        Err(VaultError::NoRoute { .. })
    ));
    let body = json!({"type": "kv"});
    node.call(Method::Update, "sys/mounts/kv1", Some(body))
        .await
        .unwrap();
    assert!(matches!(
        node.read("kv1/a").await,
        Err(VaultError::NotFound)
    ));
}

#[tokio::test]
async fn mounts_at_one_path_at_the_same_time_make_one_mount() {
    let node = unsealed().await;
    let enable = || node.call(Method::Update, "sys/mounts/kv", Some(json!({"type": "kv"})));
    // Both read the same table before either commits.
    let session = node.vault.session().await.unwrap();
    let table = super::super::mounts::MountTable::read(&session)
        .await
        .unwrap();
    let mut batch = session.batch();
    table.fence(&mut batch).unwrap();
    enable().await.unwrap();
    let committed = node.vault.commit(batch).await.unwrap();
    assert_eq!(committed, super::super::storage::Committed::Conflict);
    assert!(enable().await.is_err());
}

#[tokio::test]
async fn raft_configuration_and_removal_as_recorded() {
    let node = unsealed().await;
    let data = node.read("sys/storage/raft/configuration").await.unwrap();
    let config = &data["config"];
    assert_eq!(
        config["servers"],
        json!([{
            "node_id": "node1", "address": "node1:8201", "leader": true,
            "protocol_version": "3", "voter": true,
        }])
    );
    assert!(config["index"].is_u64());
    let remove = |body| node.call(Method::Update, "sys/storage/raft/remove-peer", Some(body));
    let refused = remove(json!({})).await.unwrap_err();
    assert_eq!(text(refused), "no server id provided");
    assert_eq!(
        remove(json!({"server_id": "nope"})).await.unwrap(),
        Response::default()
    );
}

#[tokio::test]
async fn status_paths_have_the_fields_clients_need() {
    let node = unsealed().await;
    let key = node
        .call(Method::Read, "sys/key-status", None)
        .await
        .unwrap();
    assert!(key.copies_data_to_top);
    let data = key.data.unwrap();
    assert_eq!(data["term"], json!(1));
    assert!(data["install_time"].as_str().unwrap().ends_with('Z'));
    assert!(data["encryptions"].is_u64());
    let nodes = node.read("sys/ha-status").await.unwrap();
    assert_eq!(
        nodes["nodes"],
        json!([{
            "hostname": "node1", "api_address": "http://node1:8200",
            "cluster_address": "https://node1:8201", "active_node": true, "last_echo": null,
            "version": "2.7.2", "upgrade_version": "2.7.2",
        }])
    );
    let acl = node.read("sys/internal/ui/resultant-acl").await.unwrap();
    assert_eq!(acl["root"], json!(true));
}

#[tokio::test]
async fn nothing_secret_reaches_storage_in_plain() {
    let node = with_kv().await;
    let body = json!({"password": "correct horse battery staple"});
    node.call(Method::Update, "kv1/a", Some(body))
        .await
        .unwrap();
    let source = node.backend.archive_source().await.unwrap();
    for pair in (source.entries)() {
        let (key, value) = (pair.key(), pair.value());
        for secret in [&node.root_token[..], "correct horse", "MasterKey", "kv1/"] {
            let found = value
                .windows(secret.len())
                .any(|part| part == secret.as_bytes());
            assert!(!found, "{key} holds {secret}");
        }
        assert!(!key.contains(&node.root_token));
    }
}
