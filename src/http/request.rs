//! A request as the resources see it: cleaned path, headers with a meaning,
//! where it came from and within which bounds its body is taken.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use hyper::{Method, Request, Uri};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::body::{self, Body, ReadError};
use super::forward;
use super::json::{self, JsonError};
use super::reply::Reply;
use super::service::Token;
use super::{errors, urlencoded};

/// How a request reached this node.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Another node forwarded it: it must be answered here.
    pub forwarded: bool,
    /// The largest body, in bytes, of anything but a snapshot.
    pub body_bytes_max: usize,
    /// A whole body (a snapshot: each piece of it) must arrive within this.
    pub body_time_max: Duration,
}

impl Default for Arrival {
    fn default() -> Self {
        Self {
            forwarded: false,
            body_bytes_max: 32 << 20,
            body_time_max: Duration::from_secs(30),
        }
    }
}

impl Arrival {
    /// Of a request that another node passed on, and whose body it bounded.
    #[must_use]
    pub fn from_peer() -> Self {
        Self {
            forwarded: true,
            ..Self::default()
        }
    }
}

/// A request to `/v1/…`, body unread.
pub struct Call {
    /// As sent.
    pub method: Method,
    /// As sent.
    pub uri: Uri,
    /// As sent.
    pub headers: HeaderMap,
    /// After `/v1/`, cleaned and decoded.
    pub path: String,
    /// Unread.
    pub body: Body,
}

/// A request whose body has been read; it can be tried more than once.
pub struct BufferedCall {
    /// As sent.
    pub method: Method,
    /// As sent.
    pub uri: Uri,
    /// As sent.
    pub headers: HeaderMap,
    /// Everything that was sent.
    pub body: Bytes,
}

impl Call {
    /// Splits a request whose path is known.
    #[must_use]
    pub fn new(request: Request<Body>, path: String) -> Self {
        let (parts, body) = request.into_parts();
        Self {
            method: parts.method,
            uri: parts.uri,
            headers: parts.headers,
            path,
            body,
        }
    }

    /// Reads the body of a method that has one; that of others is ignored.
    ///
    /// # Errors
    /// Too large, too slow, broken off.
    pub async fn buffer(self, arrival: &Arrival) -> Result<BufferedCall, ReadError> {
        let has_body = matches!(self.method, Method::PUT | Method::POST | Method::PATCH);
        let body = if has_body {
            body::read(self.body, arrival.body_bytes_max, arrival.body_time_max).await?
        } else {
            Bytes::new()
        };
        Ok(BufferedCall {
            method: self.method,
            uri: self.uri,
            headers: self.headers,
            body,
        })
    }
}

impl BufferedCall {
    /// The body as a JSON object; a form stands for one.
    ///
    /// # Errors
    /// The finished refusal.
    pub fn object(&self) -> Result<Option<Map<String, Value>>, Box<Reply>> {
        if self.is_form() {
            return urlencoded::form(&self.body).map(Some).map_err(|text| {
                let status = hyper::StatusCode::BAD_REQUEST;
                Box::new(super::reply::errors(status, &[text.to_owned()]))
            });
        }
        json::decode_object(&self.body)
            .map_err(|error: JsonError| Box::new(errors::malformed(&error)))
    }

    /// `curl -d` calls everything a form, so what looks like JSON is JSON.
    fn is_form(&self) -> bool {
        let declared = self
            .headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split(';').next())
            .is_some_and(|media| {
                media
                    .trim()
                    .eq_ignore_ascii_case("application/x-www-form-urlencoded")
            });
        let first = self.body.iter().find(|byte| !byte.is_ascii_whitespace());
        declared && !matches!(first, None | Some(b'{' | b'['))
    }

    /// The request as it is sent to the active node.
    ///
    /// # Errors
    /// See [`forward::request`].
    pub fn to_forward(&self) -> Result<Request<Body>, hyper::http::Error> {
        let body = body::full(self.body.clone());
        forward::request(&self.method, &self.uri, &self.headers, body)
    }
}

/// `X-Vault-Token`, or else `Authorization: Bearer`.
#[must_use]
pub fn token(headers: &HeaderMap) -> Token {
    let direct = headers.get("x-vault-token").map(|value| value.as_bytes());
    let bearer = || {
        let value = headers.get(AUTHORIZATION)?.as_bytes();
        value.strip_prefix(b"Bearer ")
    };
    let bytes = direct.filter(|value| !value.is_empty()).or_else(bearer)?;
    let text = String::from_utf8_lossy(bytes.trim_ascii()).into_owned();
    Some(Zeroizing::new(text)).filter(|token| !token.is_empty())
}

/// Whether a header is set to anything that means yes.
#[must_use]
pub fn flag(headers: &HeaderMap, name: &str) -> bool {
    headers
        .get(name)
        .is_some_and(|value| !matches!(value.as_bytes(), b"" | b"false" | b"0"))
}

/// The namespace asked for, without slashes; the root namespace is `None`.
#[must_use]
pub fn namespace(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("x-vault-namespace")?;
    let name = String::from_utf8_lossy(value.as_bytes());
    let name = name.trim_matches('/');
    (!matches!(name, "" | "root")).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_from_either_header() {
        let check = |pairs: &[(&'static str, &'static str)], expected: Option<&str>| {
            let headers: HeaderMap = pairs
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect();
            let found = token(&headers);
            assert_eq!(found.as_ref().map(|token| token.as_str()), expected);
        };
        check(&[], None);
        check(&[("x-vault-token", "a")], Some("a"));
        check(
            &[("x-vault-token", ""), ("authorization", "Bearer b")],
            Some("b"),
        );
        check(
            &[("x-vault-token", "a"), ("authorization", "Bearer b")],
            Some("a"),
        );
        check(&[("authorization", "bearer b")], None);
        check(&[("authorization", "Basic b")], None);
        check(&[("authorization", "Bearer ")], None);
    }
}
