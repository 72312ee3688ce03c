//! `sys/init`: a new cluster of one node, in OpenBao's storage layout, so that
//! an archive of it opens there too.

use std::time::{Duration, SystemTime};

use serde_json::json;
use zeroize::Zeroizing;

use super::autopilot_paths::{AUTOPILOT, encode};
use super::mounts::{MountEntry, Table};
use super::seal_state::SealConfig;
use super::storage::{
    AUDIT, Batch, CLUSTER_INFO, Committed, INDEX_HEADER_KEY, LOCAL_AUDIT, PEER_KEYRING, SEAL_CONFIG,
};
use super::tokens::{self, TokenEntry};
use super::unseal::bad;
use super::{InitRequest, InitResponse, Vault, VaultError, random_text, rfc3339, uuid};
use crate::barrier::{
    self, Barrier, KEYRING_PATH, Keyring, ROOT_KEY_PATH, RootKey, STORED_ROOT_KEY_PATH,
    UNSEAL_KEY_PATH, UnsealKey,
};
use crate::physical::PhysicalError;
use crate::seal;

impl Vault {
    /// `PUT sys/init`: keys and root token, once; sealed when it returns.
    ///
    /// # Errors
    /// `AlreadyInitialized`; `BadRequest` with a real server's texts.
    pub async fn init(&self, request: InitRequest) -> Result<InitResponse, VaultError> {
        let config = seal_config(&request)?;
        let _guard = self.lifecycle.lock().await;
        if self.initialized().await {
            return Err(VaultError::AlreadyInitialized);
        }
        let unseal_key = UnsealKey::generate();
        let shares = split(&unseal_key, &config)?;
        let keyring = Keyring::generate(RootKey::generate(), rfc3339(SystemTime::now()));
        let barrier = Barrier::new(keyring).map_err(internal)?;
        let root_token = Zeroizing::new(format!("s.{}", random_text::<24>()));

        let mut batch = Batch::new(&barrier);
        put_seal(&mut batch, &barrier, &unseal_key, &config);
        self.put_cluster(&mut batch)?;
        put_tables(&mut batch);
        put_root_token(&mut batch, &root_token);

        self.backend.bootstrap(*barrier::random_bytes()).await?;
        let written = self.commit(batch).await;
        // Sealed until the first shares come: out of raft again.
        self.backend.stop().await;
        match written? {
            Committed::Applied => Ok(InitResponse { shares, root_token }),
            Committed::Conflict => Err(VaultError::Physical(PhysicalError::Refused {
                reason: "cluster already has state".to_owned(),
            })),
        }
    }

    fn put_cluster(&self, batch: &mut Batch<'_>) -> Result<(), VaultError> {
        let name = self.options.cluster_name.clone();
        let name = name.unwrap_or_else(|| format!("vault-cluster-{}", random_hex()));
        let info = json!({"name": name, "id": uuid()}).to_string();
        batch.put(CLUSTER_INFO, info.as_bytes());
        batch.put(INDEX_HEADER_KEY, uuid().as_bytes());
        batch.put(AUTOPILOT, &encode(&self.autopilot_initial));
        let peer_keyring = Zeroizing::new((self.parts.generate_peer_keyring)());
        if peer_keyring.is_empty() {
            return Err(VaultError::Internal("generate peer TLS keyring".to_owned()));
        }
        batch.put(PEER_KEYRING, &peer_keyring);
        Ok(())
    }
}

fn seal_config(request: &InitRequest) -> Result<SealConfig, VaultError> {
    let (pgp, recovery): (Vec<&str>, Vec<&str>) = request
        .unsupported
        .iter()
        .map(String::as_str)
        .partition(|name| name.contains("pgp") && !name.starts_with("recovery"));
    if !recovery.is_empty() {
        return bad(format!(
            "parameters {} not applicable to seal type shamir",
            recovery.join(",")
        ));
    }
    let invalid = |text: &str| bad(format!("invalid seal configuration: {text}"));
    let (shares, threshold) = (request.secret_shares, request.secret_threshold);
    if shares < 1 {
        return invalid("shares must be at least one");
    }
    if threshold < 1 {
        return invalid("threshold must be at least one");
    }
    if 1 < shares && threshold == 1 {
        return invalid("threshold must be greater than one for multiple shares");
    }
    let Ok(shares) = u8::try_from(shares) else {
        return invalid("shares must be less than 256");
    };
    let Ok(threshold) = u8::try_from(threshold) else {
        return invalid("threshold must be less than 256");
    };
    if shares < threshold {
        return invalid("threshold cannot be larger than shares");
    }
    if !pgp.is_empty() {
        return invalid(&format!("{} is not supported", pgp.join(",")));
    }
    Ok(SealConfig::shamir(shares, threshold))
}

fn split(
    unseal_key: &UnsealKey,
    config: &SealConfig,
) -> Result<Vec<Zeroizing<Vec<u8>>>, VaultError> {
    // A single share is the key itself, as everywhere in this format.
    if config.secret_shares == 1 {
        return Ok(vec![Zeroizing::new(unseal_key.as_bytes().to_vec())]);
    }
    let fill = |bytes: &mut [u8]| aws_lc_rs::rand::fill(bytes).is_ok();
    let shares = usize::from(config.secret_shares);
    let threshold = usize::from(config.secret_threshold);
    seal::split(unseal_key.as_bytes(), shares, threshold, fill).map_err(internal)
}

fn put_seal(batch: &mut Batch<'_>, barrier: &Barrier, unseal_key: &UnsealKey, config: &SealConfig) {
    let keyring = barrier.keyring();
    let json = serde_json::to_vec(config).expect("plain fields always encode");
    batch.expect(KEYRING_PATH, None);
    batch.put_plain(SEAL_CONFIG, json);
    batch.put_plain(
        STORED_ROOT_KEY_PATH,
        unseal_key.seal_root_key(keyring.root_key()),
    );
    batch.put_plain(KEYRING_PATH, keyring.seal());
    batch.put(ROOT_KEY_PATH, &keyring.root_key_entry());
    batch.put(UNSEAL_KEY_PATH, unseal_key.as_bytes());
}

fn put_tables(batch: &mut Batch<'_>) {
    let system = MountEntry::new(
        Table::Secret,
        "sys/",
        "system",
        "system endpoints used for control, policy and debugging",
    );
    let identity = MountEntry::new(Table::Secret, "identity/", "identity", "identity store");
    let cubbyhole = MountEntry::new(
        Table::LocalSecret,
        "cubbyhole/",
        "cubbyhole",
        "per-token private secret storage",
    );
    let token = MountEntry::new(Table::Auth, "token/", "token", "token based credentials");
    let entries = [
        system
            .with("seal_wrap", json!(true))
            .with("config", json!({"passthrough_request_headers": ["Accept"]})),
        identity.with(
            "config",
            json!({"passthrough_request_headers": ["Authorization"]}),
        ),
        cubbyhole,
        token,
    ];
    for entry in &entries {
        batch.put(&entry.storage_path(), &entry.to_json());
        if entry.kind() == "identity" {
            put_identity_defaults(batch, &entry.data_prefix());
        }
    }
    let no_devices = br#"{"type":"audit","entries":null}"#;
    batch.put(AUDIT, no_devices);
    batch.put(LOCAL_AUDIT, no_devices);
}

// An OpenBao standby that opens this state cannot write what it misses here,
// and says so in errors.
fn put_identity_defaults(batch: &mut Batch<'_>, prefix: &str) {
    const DAY: Duration = Duration::from_secs(86_400);
    let day_nanoseconds: u64 = 86_400_000_000_000;
    let defaults = [
        (
            "oidc_provider/assignment/allow_all",
            json!({"group_ids": ["*"], "entity_ids": ["*"]}),
        ),
        (
            "oidc_provider/provider/default",
            json!({"issuer": "", "allowed_client_ids": ["*"], "scopes_supported": []}),
        ),
        (
            "oidc_tokens/named_keys/default",
            json!({
                "signing_algorithm": "RS256",
                "verification_ttl": day_nanoseconds,
                "rotation_period": day_nanoseconds,
                "key_ring": null,
                "signing_key": null,
                "next_signing_key": null,
                "next_rotation": rfc3339(SystemTime::now() + DAY),
                "allowed_client_ids": ["*"],
            }),
        ),
    ];
    for (path, value) in defaults {
        batch.put(&format!("{prefix}{path}"), format!("{value}\n").as_bytes());
    }
}

fn put_root_token(batch: &mut Batch<'_>, root_token: &str) {
    let salt = uuid();
    batch.put(tokens::SALT, salt.as_bytes());
    let entry = TokenEntry::root(root_token, SystemTime::now());
    batch.put(&tokens::id_path(&salt, root_token), &entry.to_json());
    // Both are letters, digits and dots: nothing to escape, no copy to wipe.
    let accessor_json = Zeroizing::new(format!(
        "{{\"token_id\":\"{root_token}\",\"accessor_id\":\"{}\",\"namespace_id\":\"root\"}}\n",
        entry.accessor
    ));
    batch.put(
        &tokens::accessor_path(&salt, &entry.accessor),
        accessor_json.as_bytes(),
    );
}

pub(super) fn random_hex() -> String {
    hex::encode(*barrier::random_bytes::<4>())
}

fn internal(error: impl std::error::Error) -> VaultError {
    VaultError::Internal(error.to_string())
}
