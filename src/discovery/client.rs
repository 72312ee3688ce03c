//! Asking a leader over HTTP: challenge and answer.

use std::io;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::body::BodyError;
use super::exchange::exchange;
use super::target::{JoinTarget, Origin};
use super::tls::TlsSetupError;
use crate::membership::keyring::{Keyring, KeyringError};

const CHALLENGE_PATH: &str = "/v1/sys/storage/raft/bootstrap/challenge";
const ANSWER_PATH: &str = "/v1/sys/storage/raft/bootstrap/answer";

/// A standby names the leader once; a leader that has just changed, twice.
const REDIRECTS_MAX: usize = 2;

/// Why a leader gave no useful answer. The variants name the step that failed,
/// for the operator who reads them.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The stanza's certificates cannot be used.
    #[error("set up TLS for {origin}")]
    TlsSetup {
        /// Whom.
        origin: Origin,
        /// Why.
        #[source]
        source: TlsSetupError,
    },
    /// The host name does not resolve.
    #[error("resolve {origin}")]
    Resolve {
        /// Whom.
        origin: Origin,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nobody listens there, or it cannot be reached.
    #[error("connect to {origin}")]
    Connect {
        /// Whom.
        origin: Origin,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its certificate is not trusted or not of that name, or it is no TLS.
    #[error("TLS handshake with {origin}")]
    Tls {
        /// Whom.
        origin: Origin,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It does not speak HTTP, or the connection broke.
    #[error("HTTP exchange with {origin}")]
    Http {
        /// Whom.
        origin: Origin,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// Its answer could not be read.
    #[error("answer of {origin}")]
    Body {
        /// Whom.
        origin: Origin,
        /// Why.
        #[source]
        source: BodyError,
    },
    /// It took too long.
    #[error("{origin} did not answer within {limit:?} ({stage})")]
    TimedOut {
        /// Whom.
        origin: Origin,
        /// What was being waited for.
        stage: &'static str,
        /// How long.
        limit: Duration,
    },
    /// It answered with an error: sealed, uninitialised, wrong answer …
    #[error("{origin} answered {status}: {}", errors.join("; "))]
    Status {
        /// Whom.
        origin: Origin,
        /// HTTP status.
        status: u16,
        /// Its error texts.
        errors: Vec<String>,
    },
    /// It sends the client on, but not to where the client will go.
    #[error("{origin} redirects to {location:?}: {reason}")]
    Redirect {
        /// Whom.
        origin: Origin,
        /// Where it points.
        location: String,
        /// Why that is not followed.
        reason: &'static str,
    },
    /// Its answer is not what this API answers.
    #[error("answer of {origin}: {what} is missing or malformed")]
    Shape {
        /// Whom.
        origin: Origin,
        /// Which part.
        what: &'static str,
    },
    /// The keyring in its answer cannot be used.
    #[error("answer of {origin}")]
    Keyring {
        /// Whom.
        origin: Origin,
        /// Why.
        #[source]
        source: KeyringError,
    },
}

/// What the leader asks of a joiner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// The secret, encrypted under the leader's seal: a protobuf `BlobInfo`.
    pub blob: Vec<u8>,
    /// The leader's seal configuration, as it sent it (`type`,
    /// `secret_shares`, `secret_threshold` …).
    pub seal_config: Map<String, Value>,
    /// Everything in `data`, for fields of newer servers.
    pub data: Map<String, Value>,
}

/// How a joiner answers.
#[derive(Clone, Debug)]
pub struct AnswerRequest {
    /// The joiner's `node_id`.
    pub server_id: String,
    /// The decrypted secret.
    pub answer: Zeroizing<Vec<u8>>,
    /// The joiner's cluster address, `host:port`.
    pub cluster_addr: String,
    /// Joins as a permanent non-voter.
    pub non_voter: bool,
    /// Further fields, which servers that do not know them ignore.
    pub extra: Map<String, Value>,
}

/// What the leader tells a joiner it has accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The members, the joiner among them.
    pub peers: Vec<PeerRecord>,
    /// The peers' TLS keyring; `None` if it was sent in another form (see
    /// `data`).
    pub keyring: Option<Keyring>,
    /// Everything in `data`, for fields of newer servers.
    pub data: Map<String, Value>,
}

/// A member in a join answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRecord {
    /// Its `node_id`.
    pub id: String,
    /// Its cluster address, `host:port`.
    pub address: String,
    /// Whether it votes.
    pub voter: bool,
}

/// A client of one leader. Every request uses a connection of its own: two are
/// made in the life of a node.
#[derive(Clone, Debug)]
pub struct LeaderClient {
    target: JoinTarget,
}

impl LeaderClient {
    /// A client of this target.
    #[must_use]
    pub fn new(target: JoinTarget) -> Self {
        Self { target }
    }

    /// Asks for a challenge.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn challenge(&self, server_id: &str) -> Result<Challenge, ClientError> {
        let data = self
            .put_for_data(CHALLENGE_PATH, &json!({ "server_id": server_id }))
            .await?;
        let blob = data.get("challenge").and_then(Value::as_str);
        let blob = blob.and_then(|text| STANDARD.decode(text).ok());
        let seal_config = data.get("seal_config").and_then(Value::as_object);
        Ok(Challenge {
            blob: blob.ok_or_else(|| self.shape("challenge"))?,
            seal_config: seal_config
                .ok_or_else(|| self.shape("seal_config"))?
                .clone(),
            data,
        })
    }

    /// Gives the answer to a challenge, and receives the keyring.
    ///
    /// # Errors
    /// See [`ClientError`]; `Status` 400 with `invalid answer given` when the
    /// answer was wrong (another seal, or another leader by now).
    pub async fn answer(&self, request: &AnswerRequest) -> Result<Answer, ClientError> {
        let mut body = request.extra.clone();
        let answer = STANDARD.encode(request.answer.as_slice());
        body.insert("server_id".to_owned(), request.server_id.clone().into());
        body.insert("answer".to_owned(), answer.into());
        body.insert(
            "cluster_addr".to_owned(),
            request.cluster_addr.clone().into(),
        );
        body.insert("non_voter".to_owned(), request.non_voter.into());
        let data = self.put_for_data(ANSWER_PATH, &Value::Object(body)).await?;
        let peers = data.get("peers").and_then(Value::as_array);
        let peers = peers.and_then(|peers| peers.iter().map(peer_record).collect());
        let keyring = match data.get("tls_keyring") {
            None | Some(Value::Null) => None,
            Some(value) => {
                Some(
                    Keyring::from_value(value).map_err(|source| ClientError::Keyring {
                        origin: self.target.origin.clone(),
                        source,
                    })?,
                )
            }
        };
        Ok(Answer {
            peers: peers.ok_or_else(|| self.shape("peers"))?,
            keyring,
            data,
        })
    }

    /// Sends a JSON body and returns status and JSON answer; `Value::Null` for
    /// an empty one. Follows a standby's redirect to the leader.
    ///
    /// # Errors
    /// See [`ClientError`]; an HTTP error status is not one.
    pub async fn put_json(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<(StatusCode, Value), ClientError> {
        let mut target = self.target.clone();
        let mut path = path.to_owned();
        for _ in 0..=REDIRECTS_MAX {
            let (status, location, bytes) = exchange(&target, &path, body).await?;
            let Some(location) = location else {
                let value = if bytes.is_empty() {
                    Value::Null
                } else {
                    serde_json::from_slice(&bytes).map_err(|_| ClientError::Shape {
                        origin: target.origin.clone(),
                        what: "JSON",
                    })?
                };
                return Ok((status, value));
            };
            (target.origin, path) = follow(&target.origin, &location)?;
        }
        Err(ClientError::Redirect {
            origin: target.origin,
            location: path,
            reason: "too many redirects",
        })
    }

    async fn put_for_data(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<Map<String, Value>, ClientError> {
        let (status, answer) = self.put_json(path, body).await?;
        if !status.is_success() {
            return Err(ClientError::Status {
                origin: self.target.origin.clone(),
                status: status.as_u16(),
                errors: error_texts(&answer),
            });
        }
        match answer {
            Value::Object(mut answer) => match answer.remove("data") {
                Some(Value::Object(data)) => Ok(data),
                _ => Err(self.shape("data")),
            },
            _ => Err(self.shape("data")),
        }
    }

    fn shape(&self, what: &'static str) -> ClientError {
        ClientError::Shape {
            origin: self.target.origin.clone(),
            what,
        }
    }
}

fn peer_record(value: &Value) -> Option<PeerRecord> {
    Some(PeerRecord {
        id: value.get("id")?.as_str()?.to_owned(),
        address: value.get("address")?.as_str()?.to_owned(),
        voter: value.get("suffrage")?.as_u64()? == 0,
    })
}

/// The texts in `{"errors":[…]}`, printable and bounded.
fn error_texts(answer: &Value) -> Vec<String> {
    let errors = answer.get("errors").and_then(Value::as_array);
    let texts = errors.into_iter().flatten().filter_map(Value::as_str);
    texts
        .take(8)
        .map(|text| {
            text.chars()
                .take(512)
                .flat_map(|c| c.escape_debug())
                .collect()
        })
        .collect()
}

/// Where a redirect leads. Never from HTTPS to HTTP: the answer carries keys.
fn follow(from: &Origin, location: &str) -> Result<(Origin, String), ClientError> {
    let refuse = |reason| ClientError::Redirect {
        origin: from.clone(),
        location: location.chars().take(256).collect(),
        reason,
    };
    let origin = Origin::parse(location).ok_or_else(|| refuse("not an http or https URL"))?;
    if from.secure && !origin.secure {
        return Err(refuse("from https to http"));
    }
    let uri: http::Uri = location.parse().map_err(|_| refuse("not a URL"))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Ok((origin, path.to_owned()))
}
