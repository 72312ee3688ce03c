//! A keep-alive HTTP/1.1 client over one connection.
//!
//! It never retries and never follows a redirect: a request is sent at most
//! once, and the caller learns whether it may have had an effect. A connection
//! found closed *before* a request is written is replaced; that is no retry.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// One connection to one server.
pub struct Client {
    address: SocketAddr,
    token: Option<String>,
    timeout: Duration,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// A complete answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// The whole body.
    pub body: Bytes,
}

/// No answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No byte of the request reached the server: it had no effect.
    NotSent(String),
    /// The request was (perhaps partly) sent: it may take effect, now or later.
    Unknown(String),
}

impl Client {
    /// A client of the server at `address`; connects with its first request.
    pub fn new(address: SocketAddr, token: Option<&str>, timeout: Duration) -> Client {
        Client {
            address,
            token: token.map(str::to_owned),
            timeout,
            connection: None,
        }
    }

    /// Where requests go.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends one request and reads the whole answer, within the time limit.
    ///
    /// # Errors
    /// [`Failure::NotSent`] when provably nothing was sent, else
    /// [`Failure::Unknown`]; either way the connection is dropped.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Reply, Failure> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        // An answer may be complete before its connection is free again.
        if connection.ready().await.is_err() {
            connection = self.connect().await?;
        }
        let request = self.request(method, path, body);
        let exchange = async {
            let response = connection
                .try_send_request(request)
                .await
                .map_err(|mut error| {
                    let never_written = error.take_message().is_some();
                    let reason = format!("{}: {}", self.address, error.error());
                    if never_written {
                        Failure::NotSent(reason)
                    } else {
                        Failure::Unknown(reason)
                    }
                })?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await;
            let body =
                body.map_err(|error| Failure::Unknown(format!("{}: {error}", self.address)))?;
            Ok(Reply {
                status,
                body: body.to_bytes(),
            })
        };
        let reply = timeout(self.timeout, exchange)
            .await
            .unwrap_or_else(|_| Err(Failure::Unknown(self.timed_out("answer"))))?;
        self.connection = Some(connection);
        Ok(reply)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let connect = async {
            let stream = TcpStream::connect(self.address)
                .await
                .map_err(|error| Failure::NotSent(format!("connect {}: {error}", self.address)))?;
            // Small requests and answers: never wait for a fuller packet.
            stream
                .set_nodelay(true)
                .map_err(|error| Failure::NotSent(format!("{}: {error}", self.address)))?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|error| Failure::NotSent(format!("{}: {error}", self.address)))?;
            // Ends by itself when the sender is dropped or the server closes;
            // errors reach the caller through the request they belong to.
            tokio::spawn(connection);
            Ok(sender)
        };
        timeout(self.timeout, connect)
            .await
            .unwrap_or_else(|_| Err(Failure::NotSent(self.timed_out("connection"))))
    }

    fn request(&self, method: Method, path: &str, body: Option<Bytes>) -> Request<Full<Bytes>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string());
        if let Some(token) = &self.token {
            request = request.header("X-Vault-Token", token);
        }
        request
            .body(Full::new(body.unwrap_or_default()))
            .expect("paths and tokens of the harness are valid in HTTP")
    }

    fn timed_out(&self, what: &str) -> String {
        format!("{}: no {what} within {:?}", self.address, self.timeout)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::NotSent(reason) => write!(formatter, "not sent: {reason}"),
            Failure::Unknown(reason) => write!(formatter, "fate unknown: {reason}"),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(300);

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[tokio::test]
    async fn refused_connection_is_not_sent() {
        let (listener, address) = listener().await;
        drop(listener);
        let mut client = Client::new(address, None, LIMIT);
        let failure = client.send(Method::GET, "/", None).await.unwrap_err();
        assert!(matches!(failure, Failure::NotSent(_)), "{failure}");
    }

    #[tokio::test]
    async fn silence_after_the_request_is_unknown() {
        let (listener, address) = listener().await;
        let server = tokio::spawn(async move { listener.accept().await.unwrap() });
        let mut client = Client::new(address, None, LIMIT);
        let failure = client.send(Method::PUT, "/", None).await.unwrap_err();
        assert!(matches!(failure, Failure::Unknown(_)), "{failure}");
        drop(server.await.unwrap());
    }

    #[tokio::test]
    async fn reset_after_the_request_is_unknown_and_sent_once() {
        let (listener, address) = listener().await;
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut received = vec![0; 4096];
            let count = stream.read(&mut received).await.unwrap();
            drop(stream);
            // A silent retry would arrive here as a second connection.
            let second = timeout(LIMIT, listener.accept()).await.is_ok();
            (count, second)
        });
        let mut client = Client::new(address, None, LIMIT);
        let failure = client.send(Method::PUT, "/", None).await.unwrap_err();
        assert!(matches!(failure, Failure::Unknown(_)), "{failure}");
        let (count, second) = server.await.unwrap();
        assert!(count > 0);
        assert!(!second, "the request was sent twice");
    }

    #[tokio::test]
    async fn connection_is_kept_alive() {
        let (listener, address) = listener().await;
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut received = vec![0; 4096];
            while stream.read(&mut received).await.unwrap() > 0 {
                let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
                stream.write_all(answer).await.unwrap();
            }
        });
        let mut client = Client::new(address, Some("t"), LIMIT);
        for _ in 0..3 {
            let reply = client.send(Method::GET, "/v1/x", None).await.unwrap();
            assert_eq!(reply.status, 204);
        }
    }
}
