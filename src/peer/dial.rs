//! Calling a peer: name resolution, TCP, TLS, greeting; each with its own
//! error, so that an operator sees which of them failed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, TlsStream};

use super::frame::FrameError;
use super::hello::{self, Goodbye, GreetingError, Hello, Printable};
use super::shared::Shared;
use super::tls::Service;
use super::witness::Picture;
use crate::types::NodeId;

/// An authenticated connection between peers.
pub type PeerStream = TlsStream<TcpStream>;

/// Which side of a conversation refused the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refuser {
    /// This node.
    This,
    /// The peer.
    Peer,
}

/// Why a peer could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Neither the membership nor a greeting named an address.
    #[error("dial {0}: its address is not known")]
    NoAddress(NodeId),
    /// This node is sealed.
    #[error("dial {address}: no raft TLS keyring is loaded")]
    NoKeyring {
        /// Where.
        address: String,
    },
    /// The name does not resolve.
    #[error("resolve {address}")]
    Resolve {
        /// The name.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nobody accepts connections there.
    #[error("connect to {address}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Whoever is there does not hold the cluster's keys, or refused this
    /// node's.
    #[error("TLS handshake with {address}")]
    Tls {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// One side refused the other.
    #[error("greet {address}")]
    Greeting {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: GreetingError,
    },
    /// It took too long.
    #[error("{stage} {address}: no answer within {limit:?}")]
    TimedOut {
        /// What was being waited for.
        stage: &'static str,
        /// Where.
        address: String,
        /// How long.
        limit: Duration,
    },
}

impl DialError {
    /// What the peer, or this node, gave as a reason to refuse, and which of
    /// them did.
    #[must_use]
    pub fn goodbye(&self) -> Option<(&Goodbye, Refuser)> {
        let Self::Greeting { source, .. } = self else {
            return None;
        };
        match source {
            GreetingError::RefusedByPeer(goodbye) => Some((goodbye, Refuser::Peer)),
            GreetingError::Refused { goodbye, .. } => Some((goodbye, Refuser::This)),
            _ => None,
        }
    }
}

impl Shared {
    /// Calls `peer` at each address known, until one answers as that peer.
    pub(super) async fn dial(
        &self,
        peer: NodeId,
        service: Service,
    ) -> Result<(PeerStream, Hello), DialError> {
        let mut last = DialError::NoAddress(peer);
        let candidates = self.book.load().candidates(peer);
        for address in candidates {
            match self.dial_at(peer, service, &address).await {
                Ok(connected) => return Ok(connected),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn dial_at(
        &self,
        peer: NodeId,
        service: Service,
        address: &str,
    ) -> Result<(PeerStream, Hello), DialError> {
        let timing = &self.options.timing;
        let timed_out = |stage: &'static str, limit: Duration| DialError::TimedOut {
            stage,
            address: address.to_owned(),
            limit,
        };
        let before = self.options.witness.picture();
        let loaded = self.tls.loaded().ok_or_else(|| DialError::NoKeyring {
            address: address.to_owned(),
        })?;
        let tcp = timeout(timing.connect, connect(address))
            .await
            .map_err(|_| timed_out("connect to", timing.connect))??;

        let connector = TlsConnector::from(loaded.client(service));
        let handshake = async {
            let stream = connector
                .connect(loaded.server_name.clone(), tcp)
                .await
                .map_err(|source| DialError::Tls {
                    address: address.to_owned(),
                    source,
                })?;
            if stream.get_ref().1.alpn_protocol() != Some(service.alpn()) {
                return Err(DialError::Tls {
                    address: address.to_owned(),
                    source: io::Error::other("the peer does not offer this service"),
                });
            }
            let mut stream = PeerStream::Client(stream);
            let hello = self
                .greet_called(&mut stream, peer, &before)
                .await
                .map_err(|source| DialError::Greeting {
                    address: address.to_owned(),
                    source,
                })?;
            Ok((stream, hello))
        };
        timeout(timing.handshake, handshake)
            .await
            .map_err(|_| timed_out("handshake with", timing.handshake))?
    }

    /// The dialling side of the greeting.
    async fn greet_called(
        &self,
        stream: &mut PeerStream,
        peer: NodeId,
        before: &Picture,
    ) -> Result<Hello, GreetingError> {
        hello::send_hello(stream, &self.own_hello()).await?;
        let theirs = hello::receive_hello(stream).await?;
        let verdict = if theirs.node == peer {
            self.meet_while_there(stream, before, &theirs).await?
        } else {
            Err(Goodbye::WrongNode { found: theirs.node })
        };
        self.settle(stream, theirs, verdict).await
    }

    /// The accepting side of the greeting. `before` was taken when the caller
    /// came.
    pub(super) async fn greet_caller(
        &self,
        stream: &mut PeerStream,
        service: Service,
        before: &Picture,
    ) -> Result<Hello, GreetingError> {
        let theirs = hello::receive_hello(stream).await?;
        let verdict = match self.meet_while_there(stream, before, &theirs).await? {
            Ok(()) => self.handler.accept(&theirs, service),
            refused => refused,
        };
        if let Err(goodbye) = &verdict {
            self.handler.refused(theirs.node, goodbye, Refuser::This);
        }
        let theirs = self.settle(stream, theirs, verdict).await?;
        hello::send_hello(stream, &self.own_hello()).await?;
        Ok(theirs)
    }

    /// Judges the other, which says nothing meanwhile. Should it go away before
    /// the verdict, it was never met: a copy that another peer has refused must
    /// not take the place of its original here.
    async fn meet_while_there(
        &self,
        stream: &mut PeerStream,
        before: &Picture,
        theirs: &Hello,
    ) -> Result<Result<(), Goodbye>, GreetingError> {
        let mut byte = [0];
        tokio::select! {
            // Only a verdict that takes its time is interrupted.
            biased;
            verdict = self.meet(before, theirs) => Ok(verdict),
            read = stream.read(&mut byte) => Err(GreetingError::Frame(match read {
                Ok(_) => FrameError::Closed,
                Err(error) => FrameError::Io(error),
            })),
        }
    }

    async fn settle(
        &self,
        stream: &mut PeerStream,
        theirs: Hello,
        verdict: Result<(), Goodbye>,
    ) -> Result<Hello, GreetingError> {
        match verdict {
            Ok(()) => Ok(theirs),
            Err(goodbye) => {
                hello::send_goodbye(stream, &goodbye).await;
                Err(GreetingError::Refused {
                    name: Printable::new(&theirs.name),
                    goodbye,
                })
            }
        }
    }
}

/// Resolves anew for every call (a peer may have moved) and tries each address.
async fn connect(address: &str) -> Result<TcpStream, DialError> {
    let resolve_error = |source| DialError::Resolve {
        address: address.to_owned(),
        source,
    };
    let resolved: Vec<SocketAddr> = tokio::net::lookup_host(address)
        .await
        .map_err(resolve_error)?
        .collect();
    let mut last = resolve_error(io::Error::other("the name has no addresses"));
    for socket_address in resolved {
        let connected = TcpStream::connect(socket_address).await;
        match connected.and_then(|tcp| tcp.set_nodelay(true).map(|()| tcp)) {
            Ok(tcp) => return Ok(tcp),
            Err(source) => {
                last = DialError::Connect {
                    address: format!("{address} ({socket_address})"),
                    source,
                };
            }
        }
    }
    Err(last)
}

/// Serves the TLS side of an accepted connection: the stream and what it is
/// for.
pub(super) async fn accept_tls(
    shared: &Arc<Shared>,
    tcp: TcpStream,
) -> io::Result<(PeerStream, Service)> {
    tcp.set_nodelay(true)?;
    let loaded = shared
        .tls
        .loaded()
        .ok_or_else(|| io::Error::other("no raft TLS keyring is loaded"))?;
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&loaded.server));
    let stream = acceptor.accept(tcp).await?;
    let service = stream
        .get_ref()
        .1
        .alpn_protocol()
        .and_then(Service::of_alpn)
        .ok_or_else(|| io::Error::other("no service was named in the handshake"))?;
    Ok((PeerStream::Server(stream), service))
}
