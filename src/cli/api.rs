//! A little client of a server's own API, plain HTTP, for development servers.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::HOST;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

const EXCHANGE_TIME_MAX: Duration = Duration::from_secs(20);
const REPLY_BYTES_MAX: usize = 1 << 20;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(100);

/// One server.
pub(super) struct Api {
    authority: String,
}

impl Api {
    /// Of `http://host:port`.
    pub fn new(address: &str) -> anyhow::Result<Self> {
        let authority = address.strip_prefix("http://");
        let authority = authority.with_context(|| format!("{address} is no http URL"))?;
        Ok(Self {
            authority: authority.to_owned(),
        })
    }

    /// Status and JSON of one exchange; `Null` for an empty reply.
    pub async fn exchange(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: &Value,
    ) -> anyhow::Result<(u16, Value)> {
        let exchange = self.exchange_untimed(method, path, token, body);
        tokio::time::timeout(EXCHANGE_TIME_MAX, exchange)
            .await
            .with_context(|| format!("{}/v1/{path} did not answer", self.authority))?
    }

    async fn exchange_untimed(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: &Value,
    ) -> anyhow::Result<(u16, Value)> {
        let stream = TcpStream::connect(&self.authority).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let body = match body {
            Value::Null => Bytes::new(),
            body => Bytes::from(body.to_string()),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/v1/{path}"))
            .header(HOST, &self.authority);
        if !token.is_empty() {
            request = request.header("X-Vault-Token", token);
        }
        let reply = sender.send_request(request.body(Full::new(body))?).await?;
        let status = reply.status().as_u16();
        let body = Limited::new(reply.into_body(), REPLY_BYTES_MAX)
            .collect()
            .await;
        let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        let value = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body)?
        };
        Ok((status, value))
    }

    /// A write that must succeed.
    pub async fn put(&self, path: &str, token: &str, body: &Value) -> anyhow::Result<Value> {
        let (status, reply) = self.exchange(Method::PUT, path, token, body).await?;
        if status >= 300 {
            let errors = &reply["errors"];
            bail!("PUT {}/v1/{path}: {status} {errors}", self.authority);
        }
        Ok(reply)
    }

    /// Waits until a GET has an answer that `suits`.
    pub async fn await_that(
        &self,
        path: &str,
        token: &str,
        time_max: Duration,
        suits: impl Fn(u16, &Value) -> bool,
    ) -> anyhow::Result<()> {
        let waiting = async {
            loop {
                let asked = self.exchange(Method::GET, path, token, &Value::Null).await;
                if matches!(asked, Ok((status, reply)) if suits(status, &reply)) {
                    return;
                }
                tokio::time::sleep(ATTEMPT_PAUSE).await;
            }
        };
        tokio::time::timeout(time_max, waiting)
            .await
            .with_context(|| format!("{}/v1/{path}: not ready in time", self.authority))
    }

    /// A key-value engine at `secret/`, as development servers have it.
    pub async fn mount_secret(&self, token: &str) -> anyhow::Result<()> {
        let time_max = Duration::from_secs(20);
        self.await_that("sys/health", "", time_max, |status, _| status == 200)
            .await?;
        self.put("sys/mounts/secret", token, &json!({"type": "kv"}))
            .await
            .map(drop)
    }
}
