//! `sys/storage/raft/join` and `join/status`: the only raft paths that are
//! answered without the envelope, by the node that is asked. The others are
//! logical paths of the vault.

use std::sync::Arc;

use hyper::{Method, StatusCode};
use serde_json::json;
use zeroize::Zeroizing;

use super::errors as refusals;
use super::errors::Spelling;
use super::fields::Fields;
use super::json::JsonError;
use super::reply::{Reply, bare, errors};
use super::request::{Arrival, Call};
use super::router::{Router, to_its_end, wrong_method};
use crate::vault::JoinBody;

pub(super) async fn join(router: &Router, call: Call, arrival: &Arrival) -> Reply {
    if !matches!(call.method, Method::PUT | Method::POST) {
        return wrong_method();
    }
    let call = match call.buffer(arrival).await {
        Ok(call) => call,
        Err(error) => return refusals::unread(&error),
    };
    let fields = match call.object() {
        Ok(map) => Fields::new("JoinRequest", map),
        Err(refusal) => return *refusal,
    };
    let body = match parse(&fields) {
        Ok(body) => body,
        Err(error) => return refusals::malformed(&error),
    };
    let vault = Arc::clone(&router.vault);
    match to_its_end(async move { vault.join(body).await }).await {
        Ok(joined) => bare(StatusCode::OK, &json!({ "joined": joined })),
        Err(error) => refusals::reply(&error, Spelling::Bare),
    }
}

/// Raft is the storage here, and bootstrapped by `init`: there is nothing for
/// this path to do.
pub(super) async fn bootstrap(router: &Router, call: Call) -> Reply {
    if !matches!(call.method, Method::PUT | Method::POST) {
        return errors(StatusCode::BAD_REQUEST, &[]);
    }
    if router.vault.health().await.sealed {
        let text = "node must be unsealed to bootstrap";
        return errors(StatusCode::BAD_REQUEST, &[text.to_owned()]);
    }
    let text = "could not bootstrap clustered storage: error bootstrapping cluster: \
                cluster already has state";
    errors(StatusCode::INTERNAL_SERVER_ERROR, &[text.to_owned()])
}

pub(super) async fn join_status(router: &Router, call: Call) -> Reply {
    if call.method != Method::GET {
        return wrong_method();
    }
    bare(StatusCode::OK, &router.vault.join_status().await)
}

fn parse(fields: &Fields) -> Result<JoinBody, JsonError> {
    let port = fields.unsigned("auto_join_port")?;
    let auto_join_port = u16::try_from(port)
        .map_err(|_| JsonError(format!("auto_join_port {port} is no port: 0 to 65535")))?;
    Ok(JoinBody {
        auto_join_scheme: fields.string("auto_join_scheme")?,
        auto_join_port,
        leader_api_addr: fields.string("leader_api_addr")?,
        leader_ca_cert: fields.string("leader_ca_cert")?,
        leader_client_cert: fields.string("leader_client_cert")?,
        leader_client_key: Zeroizing::new(fields.string("leader_client_key")?),
        leader_tls_servername: fields.string("leader_tls_servername")?,
        retry: fields.boolean("retry")?,
        non_voter: fields.boolean("non_voter")?,
        auto_join: fields.string("auto_join")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::json::decode_object;

    #[test]
    fn port_that_is_none_is_refused() {
        let parsed = |port: &str| {
            let body = format!("{{\"auto_join_port\": {port}}}");
            let map = decode_object(body.as_bytes()).expect("valid");
            parse(&Fields::new("JoinRequest", map)).map(|body| body.auto_join_port)
        };
        assert_eq!(parsed("8200").ok(), Some(8200));
        let refused = parsed("70000").expect_err("too large");
        assert_eq!(refused.0, "auto_join_port 70000 is no port: 0 to 65535");
        assert!(parsed("-1").is_err());
    }
}
