//! `sys/seal-status`, `sys/unseal`, `sys/seal` and `sys/step-down`.

use std::sync::Arc;

use hyper::{Method, StatusCode};
use serde::Serialize;
use zeroize::Zeroizing;

use super::errors::{self, Spelling};
use super::fields::Fields;
use super::reply::{self, Reply, bare, no_content};
use super::request::{Arrival, Call, token};
use super::router::{Identity, Router, to_its_end, wrong_method};
use crate::vault::{SealStatus, UnsealRequest, VaultError};

pub(super) async fn status(router: &Router, call: Call) -> Reply {
    if call.method != Method::GET {
        return wrong_method();
    }
    status_reply(router.vault.seal_status().await, &router.identity)
}

pub(super) async fn unseal(router: &Router, call: Call, arrival: &Arrival) -> Reply {
    if !matches!(call.method, Method::PUT | Method::POST) {
        return wrong_method();
    }
    let call = match call.buffer(arrival).await {
        Ok(call) => call,
        Err(error) => return errors::unread(&error),
    };
    let fields = match call.object() {
        Ok(map) => Fields::new("UnsealRequest", map),
        Err(refusal) => return *refusal,
    };
    let parsed = (|| {
        Ok(UnsealRequest {
            key: Some(Zeroizing::new(fields.string("key")?)).filter(|key| !key.is_empty()),
            reset: fields.boolean("reset")?,
            migrate: fields.boolean("migrate")?,
        })
    })();
    let request = match parsed {
        Ok(request) => request,
        Err(error) => return errors::malformed(&error),
    };
    if request.key.is_none() && !request.reset {
        let text = "'key' must be specified in request body as JSON, or 'reset' set to true";
        return reply::errors(StatusCode::BAD_REQUEST, &[text.into()]);
    }
    let vault = Arc::clone(&router.vault);
    match to_its_end(async move { vault.unseal(request).await }).await {
        Ok(status) => status_reply(status, &router.identity),
        Err(error) => errors::reply(&error, Spelling::Bare),
    }
}

pub(super) async fn seal(router: &Router, call: Call, arrival: &Arrival) -> Reply {
    if !matches!(call.method, Method::PUT | Method::POST) {
        return wrong_method();
    }
    let call = match call.buffer(arrival).await {
        Ok(call) => call,
        Err(error) => return errors::unread(&error),
    };
    let vault = Arc::clone(&router.vault);
    let token = token(&call.headers);
    match to_its_end(async move { vault.seal(token).await }).await {
        Ok(()) => no_content(),
        Err(error) => errors::reply(&error, Spelling::Logical),
    }
}

pub(super) async fn step_down(router: &Router, call: Call, arrival: &Arrival) -> Reply {
    if !matches!(call.method, Method::PUT | Method::POST) {
        return match router.vault.health().await.sealed {
            true => errors::reply(&VaultError::Sealed, Spelling::Bare),
            false => wrong_method(),
        };
    }
    let call = match call.buffer(arrival).await {
        Ok(call) => call,
        Err(error) => return errors::unread(&error),
    };
    let attempt = || {
        let vault = Arc::clone(&router.vault);
        let token = token(&call.headers);
        async move {
            to_its_end(async move { vault.step_down(token).await }).await?;
            Ok(no_content())
        }
    };
    router
        .answer(&call, arrival, Spelling::Logical, attempt)
        .await
}

fn status_reply(status: SealStatus, identity: &Identity) -> Reply {
    bare(
        StatusCode::OK,
        &SealBody {
            kind: status.kind,
            initialized: status.initialized,
            sealed: status.sealed,
            t: status.threshold,
            n: status.shares,
            progress: status.progress,
            nonce: status.nonce,
            recovery_seal: false,
            version: identity.version.clone(),
            build_date: identity.build_date.clone(),
            commit_date: identity.build_date.clone(),
            migration: false,
            cluster_name: status.cluster_name,
            cluster_id: status.cluster_id,
            storage_type: identity.storage_type.clone(),
            removed_from_cluster: status.removed_from_cluster,
            holdfast_version: identity.holdfast_version.clone(),
        },
    )
}

#[derive(Serialize)]
struct SealBody {
    #[serde(rename = "type")]
    kind: String,
    initialized: bool,
    sealed: bool,
    t: u8,
    n: u8,
    progress: u8,
    nonce: String,
    recovery_seal: bool,
    version: String,
    build_date: String,
    commit_date: String,
    migration: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_id: Option<String>,
    storage_type: String,
    removed_from_cluster: bool,
    holdfast_version: String,
}
