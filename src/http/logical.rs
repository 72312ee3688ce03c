//! Everything that is routed to an engine: verb to operation, body to object,
//! reply to envelope.

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use serde_json::{Map, Value};

use super::errors::{self, Spelling};
use super::reply::{self, Reply};
use super::request::{Arrival, BufferedCall, Call, token};
use super::router::{Router, to_its_end, wrong_method};
use super::urlencoded;
use crate::vault::{Method, Request};

pub(super) async fn serve(router: &Router, call: Call, arrival: &Arrival) -> Reply {
    let operation = match Operation::parse(&call) {
        Ok(operation) => operation,
        Err(refusal) => return *refusal,
    };
    let call = match call.buffer(arrival).await {
        Ok(call) => call,
        Err(error) => return errors::unread(&error),
    };
    let mut body = match operation.body(&call) {
        Ok(body) => Some(body),
        Err(refusal) => return *refusal,
    };
    let attempt = || {
        // The first attempt takes the decoded body; another decodes anew.
        let body = match body.take() {
            Some(body) => body,
            None => operation.body(&call).unwrap_or_default(),
        };
        let vault = Arc::clone(&router.vault);
        let request = operation.request(&call, body, arrival.forwarded);
        let method = operation.method;
        async move {
            let response = to_its_end(async move { vault.handle(request).await }).await?;
            Ok(match method {
                Method::Help => reply::help(response),
                _ => reply::logical(response),
            })
        }
    };
    router
        .answer(&call, arrival, Spelling::Logical, attempt)
        .await
}

/// A verb and a query, understood.
#[derive(Debug)]
struct Operation {
    method: Method,
    path: String,
    query: std::collections::BTreeMap<String, String>,
}

impl Operation {
    fn parse(call: &Call) -> Result<Self, Box<Reply>> {
        let mut query = urlencoded::query(call.uri.query().unwrap_or_default());
        let method = match call.method.as_str() {
            "GET" if query.get("help").is_some_and(|help| !help.is_empty()) => {
                query.remove("help");
                Method::Help
            }
            "GET" => match query.get("list").filter(|list| !list.is_empty()) {
                None => Method::Read,
                Some(list) => match urlencoded::boolean(list) {
                    Some(true) => {
                        query.remove("list");
                        Method::List
                    }
                    Some(false) => Method::Read,
                    None => return Err(refusal(StatusCode::BAD_REQUEST, None)),
                },
            },
            "LIST" => Method::List,
            "PUT" | "POST" => Method::Update,
            "DELETE" => Method::Delete,
            "PATCH" => {
                check_patch_type(call)?;
                Method::Patch
            }
            "HEAD" | "OPTIONS" => {
                let text = "cannot handle internal-only request operation";
                return Err(refusal(StatusCode::BAD_REQUEST, Some(text)));
            }
            _ => return Err(Box::new(wrong_method())),
        };
        check_wrapping(call)?;
        let mut path = call.path.clone();
        if method == Method::List && !path.ends_with('/') {
            path.push('/');
        }
        Ok(Self {
            method,
            path,
            query,
        })
    }

    fn body(&self, call: &BufferedCall) -> Result<Option<Map<String, Value>>, Box<Reply>> {
        match self.method {
            Method::Update | Method::Patch => call.object(),
            _ => Ok(None),
        }
    }

    fn request(
        &self,
        call: &BufferedCall,
        body: Option<Map<String, Value>>,
        forwarded: bool,
    ) -> Request {
        Request {
            method: self.method,
            path: self.path.clone(),
            query: self.query.clone(),
            body,
            token: token(&call.headers),
            forwarded,
        }
    }
}

fn check_patch_type(call: &Call) -> Result<(), Box<Reply>> {
    const MERGE_PATCH: &str = "application/merge-patch+json";
    let value = call
        .headers
        .get(CONTENT_TYPE)
        .map(|value| String::from_utf8_lossy(value.as_bytes()));
    let media = value
        .as_deref()
        .and_then(|value| value.split(';').next())
        .map(|media| media.trim().to_ascii_lowercase())
        .unwrap_or_default();
    match media.as_str() {
        MERGE_PATCH => Ok(()),
        "" => Err(refusal(
            StatusCode::BAD_REQUEST,
            Some("mime: no media type"),
        )),
        other => {
            let text = format!("PATCH requires Content-Type of {MERGE_PATCH}, provided {other}");
            Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, Some(&text)))
        }
    }
}

/// A client that asked for a wrapped reply must not be handed the secret bare.
fn check_wrapping(call: &Call) -> Result<(), Box<Reply>> {
    match call.headers.get("x-vault-wrap-ttl") {
        Some(ttl) if !matches!(ttl.as_bytes(), b"" | b"0" | b"0s") => Err(refusal(
            StatusCode::BAD_REQUEST,
            Some("response wrapping is not supported by this server"),
        )),
        _ => Ok(()),
    }
}

fn refusal(status: StatusCode, text: Option<&str>) -> Box<Reply> {
    let texts: Vec<String> = text.map(str::to_owned).into_iter().collect();
    Box::new(reply::errors(status, &texts))
}
