use super::*;

fn barrier() -> Barrier {
    let keyring = Keyring::generate(RootKey::generate(), "2026-11-23T00:00:00Z".to_owned());
    Barrier::new(keyring).unwrap()
}

#[test]
fn entry_encrypted_decrypts_at_its_own_path_only() {
    let barrier = barrier();
    let stored = barrier.encrypt("logical/a", b"value");
    assert_eq!(&stored[..5], &[0, 0, 0, 1, 2]);
    assert_eq!(
        barrier.decrypt("logical/a", &stored).unwrap().as_slice(),
        b"value"
    );
    assert_eq!(
        barrier.decrypt("logical/b", &stored).unwrap_err(),
        BarrierError::Authentication
    );
    assert_eq!(barrier.encryptions(), 1);
}

#[test]
fn entry_changed_anywhere_is_refused() {
    let barrier = barrier();
    let stored = barrier.encrypt("p", b"some value");
    for position in 0..stored.len() {
        let mut changed = stored.clone();
        changed[position] ^= 1;
        assert!(barrier.decrypt("p", &changed).is_err(), "byte {position}");
    }
    for length in 0..stored.len() {
        assert!(
            barrier.decrypt("p", &stored[..length]).is_err(),
            "length {length}"
        );
    }
}

#[test]
fn keyring_sealed_opens_with_its_root_key_only() {
    let root_key = RootKey::generate();
    let keyring = Keyring::generate(root_key.clone(), "2026-11-23T00:00:00Z".to_owned());
    let stored = keyring.seal();
    let entry = Barrier::new(keyring).unwrap().encrypt("x", b"y");

    let opened = Barrier::open(&root_key, &stored).unwrap();
    assert_eq!(opened.decrypt("x", &entry).unwrap().as_slice(), b"y");
    assert_eq!(
        opened.keyring().active_install_time(),
        "2026-11-23T00:00:00Z"
    );
    assert_eq!(
        Barrier::open(&RootKey::generate(), &stored).unwrap_err(),
        BarrierError::Authentication
    );
}

#[test]
fn root_key_entry_is_openbaos_json() {
    let root_key = RootKey::from_slice(&[7; 32]).unwrap();
    let keyring = Keyring::generate(root_key.clone(), String::new());
    let json = keyring.root_key_entry();
    assert_eq!(
        std::str::from_utf8(&json).unwrap(),
        r#"{"Term":1,"Version":1,"Value":"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=","InstallTime":"0001-01-01T00:00:00Z"}"#
    );
    assert!(Keyring::parse_root_key_entry(&json).unwrap() == root_key);
}

#[test]
fn root_key_sealed_opens_with_its_unseal_key_only() {
    let unseal_key = UnsealKey::generate();
    let root_key = RootKey::generate();
    let stored = unseal_key.seal_root_key(&root_key);
    assert!(unseal_key.open_root_key(&stored).unwrap() == root_key);
    // A Shamir blob ends in an empty key_info.
    assert_eq!(&stored[stored.len() - 2..], &[0x2a, 0]);
    assert_eq!(
        UnsealKey::generate().open_root_key(&stored).unwrap_err(),
        BarrierError::Authentication
    );
    assert_eq!(
        UnsealKey::from_slice(&[1; 33]).unwrap_err().to_string(),
        "crypto/aes: invalid key size 33"
    );
}

#[test]
fn keys_and_barrier_never_show_in_debug() {
    let root_key = RootKey::from_slice(&[7; 32]).unwrap();
    assert_eq!(format!("{root_key:?}"), "RootKey");
    assert_eq!(format!("{:?}", UnsealKey::generate()), "UnsealKey");
    assert_eq!(format!("{:?}", barrier()), "Barrier[term 1]");
}
