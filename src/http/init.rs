//! `sys/init`.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::{Method, StatusCode};
use serde::Serialize;
use serde_json::json;

use super::errors::{self, Spelling};
use super::fields::Fields;
use super::json::JsonError;
use super::reply::{Reply, bare};
use super::request::{Arrival, BufferedCall, Call};
use super::router::{Router, to_its_end, wrong_method};
use crate::vault::{InitRequest, InitResponse};

pub(super) async fn serve(router: &Router, call: Call, arrival: &Arrival) -> Reply {
    match call.method {
        Method::GET => {
            let initialized = router.vault.initialized().await;
            bare(StatusCode::OK, &json!({ "initialized": initialized }))
        }
        Method::PUT | Method::POST => match call.buffer(arrival).await {
            Ok(call) => init(router, &call).await,
            Err(error) => errors::unread(&error),
        },
        _ => wrong_method(),
    }
}

async fn init(router: &Router, call: &BufferedCall) -> Reply {
    let fields = match call.object() {
        Ok(map) => Fields::new("InitRequest", map),
        Err(refusal) => return *refusal,
    };
    let request = match parse(&fields) {
        Ok(request) => request,
        Err(error) => return errors::malformed(&error),
    };
    let vault = Arc::clone(&router.vault);
    match to_its_end(async move { vault.init(request).await }).await {
        Ok(response) => bare(StatusCode::OK, &InitBody::from(&response)),
        Err(error) => errors::reply(&error, Spelling::Bare),
    }
}

fn parse(fields: &Fields) -> Result<InitRequest, JsonError> {
    // A negative count is as bad as none.
    let count = |name| Ok(u64::try_from(fields.integer(name)?).unwrap_or(0));
    let mut unsupported = Vec::new();
    for name in ["stored_shares", "recovery_shares", "recovery_threshold"] {
        if fields.integer(name)? != 0 {
            unsupported.push(name.to_owned());
        }
    }
    for name in ["pgp_keys", "recovery_pgp_keys"] {
        if !fields.strings(name)?.is_empty() {
            unsupported.push(name.to_owned());
        }
    }
    if !fields.string("root_token_pgp_key")?.is_empty() {
        unsupported.push("root_token_pgp_key".to_owned());
    }
    Ok(InitRequest {
        secret_shares: count("secret_shares")?,
        secret_threshold: count("secret_threshold")?,
        unsupported,
    })
}

#[derive(Serialize)]
struct InitBody {
    keys: Vec<String>,
    keys_base64: Vec<String>,
    root_token: String,
}

impl From<&InitResponse> for InitBody {
    fn from(response: &InitResponse) -> Self {
        let texts = |encode: &dyn Fn(&[u8]) -> String| {
            let shares = response.shares.iter();
            shares.map(|share| encode(share)).collect()
        };
        Self {
            keys: texts(&|share| hex::encode(share)),
            keys_base64: texts(&|share| STANDARD.encode(share)),
            root_token: response.root_token.to_string(),
        }
    }
}
