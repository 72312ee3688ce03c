//! The greeting: right after TLS both sides say who they are, the dialling
//! side first. Either may answer with a goodbye and its reason instead.

use std::collections::BTreeMap;
use std::fmt;

use bincode::{Decode, Encode};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::frame::{self, FrameError, FrameKind};
use crate::codec::{self, CodecError};
use crate::types::{ClusterId, Incarnation, LogIndex, Member, NodeId};

/// The largest greeting or goodbye, in bytes.
pub const GREETING_BYTES_MAX: usize = 16 << 10;

/// Who a node says it is. TLS has proved that it belongs to the cluster; which
/// of its nodes it is, it is believed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its number.
    pub node: NodeId,
    /// Its configured `node_id`.
    pub name: String,
    /// The life of its data directory.
    pub incarnation: Incarnation,
    /// Where clients reach it, a URL.
    pub api_address: String,
    /// Where peers reach it, `host:port`.
    pub cluster_address: String,
    /// The version of its program.
    pub version: String,
    /// Position of the membership it knows; 0 when it knows none.
    pub membership_index: LogIndex,
}

/// Why a node ends a conversation it might have had.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
pub enum Goodbye {
    /// The other belongs to another cluster.
    #[error("it belongs to another cluster")]
    WrongCluster,
    /// The other calls itself by a member's name and is not that member: its
    /// data directory was wiped or cloned, and it must join again.
    #[error(
        "its data directory is not the one that joined (expected {expected:?}): it must join again"
    )]
    WrongIncarnation {
        /// The life that the membership records.
        expected: Incarnation,
    },
    /// The other is not in the membership.
    #[error("it is not a member of the cluster")]
    NotMember,
    /// The one who answered is not the one who was called.
    #[error("{found} answered there, not the node that was called")]
    WrongNode {
        /// Who answered.
        found: NodeId,
    },
    /// The node does not take part just now (it is sealed, or stopping).
    #[error("it is not taking part in the cluster: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// A newer stream took this one's place.
    #[error("another snapshot took this one's place")]
    Superseded,
    /// The receiver of a snapshot could not stage it.
    #[error("the snapshot was not accepted: {reason}")]
    SnapshotFailed {
        /// Why.
        reason: String,
    },
    /// The other broke the protocol.
    #[error("protocol error: {reason}")]
    Protocol {
        /// How.
        reason: String,
    },
}

/// A greeting that did not come about.
#[derive(Debug, thiserror::Error)]
pub enum GreetingError {
    /// This side refused the other.
    #[error("peer {name} refused: {goodbye}")]
    Refused {
        /// What the other calls itself.
        name: Printable,
        /// Why.
        goodbye: Goodbye,
    },
    /// The other side refused this one.
    #[error("peer refused this node: {0}")]
    RefusedByPeer(Goodbye),
    /// Something other than a greeting arrived.
    #[error("expected a greeting, got {0:?}")]
    Unexpected(FrameKind),
    /// The greeting does not decode.
    #[error("decode greeting")]
    Malformed(#[source] CodecError),
    /// The connection failed or something else speaks there.
    #[error("exchange greetings")]
    Frame(#[source] FrameError),
    /// The greeting could not be sent.
    #[error("send greeting")]
    Io(#[source] std::io::Error),
}

/// Text of a peer, safe to print: control characters escaped, bounded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printable(String);

impl Printable {
    /// Bounds the text to 128 characters.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(
            text.chars()
                .take(128)
                .flat_map(char::escape_debug)
                .collect(),
        )
    }
}

impl fmt::Display for Printable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The usual decision about a greeting. The cluster must be the same. Then:
///
/// | the other is | its membership is not newer | its membership is newer |
/// |---|---|---|
/// | a member, in the life that joined | accepted | accepted |
/// | a member's name in another life | refused | accepted |
/// | no member | refused | accepted |
///
/// A node that was away while members came and went must accept a leader it
/// has never heard of, or it could never catch up; the newer membership is the
/// sign of it. A wiped directory has none, a removed node has an older one. A
/// node that knows no membership yet (`own.membership_index` 0) accepts all.
///
/// # Errors
/// The goodbye to answer with.
pub fn judge(
    own: &Hello,
    members: &BTreeMap<NodeId, Member>,
    hello: &Hello,
) -> Result<(), Goodbye> {
    if hello.cluster != own.cluster {
        return Err(Goodbye::WrongCluster);
    }
    if members.is_empty() || own.membership_index < hello.membership_index {
        return Ok(());
    }
    match members.get(&hello.node) {
        Some(member) if member.incarnation == hello.incarnation => Ok(()),
        Some(member) => Err(Goodbye::WrongIncarnation {
            expected: member.incarnation,
        }),
        None => Err(Goodbye::NotMember),
    }
}

/// Sends this side's greeting.
pub(super) async fn send_hello<S>(stream: &mut S, own: &Hello) -> Result<(), GreetingError>
where
    S: AsyncWrite + Unpin,
{
    send(stream, FrameKind::Hello, &codec::encode(own))
        .await
        .map_err(GreetingError::Io)
}

/// Says why, and closes the sending half. Failures are of no interest any more.
pub(super) async fn send_goodbye<S: AsyncWrite + Unpin>(stream: &mut S, goodbye: &Goodbye) {
    let payload = codec::encode(goodbye);
    if payload.len() <= GREETING_BYTES_MAX
        && send(stream, FrameKind::Goodbye, &payload).await.is_ok()
    {
        let _ = stream.shutdown().await;
    }
}

/// Waits for the other side's greeting.
pub(super) async fn receive_hello<S>(stream: &mut S) -> Result<Hello, GreetingError>
where
    S: AsyncRead + Unpin,
{
    let frame = frame::read(stream, GREETING_BYTES_MAX)
        .await
        .map_err(GreetingError::Frame)?;
    match frame.kind {
        FrameKind::Hello => {
            codec::decode("greeting", &frame.payload).map_err(GreetingError::Malformed)
        }
        FrameKind::Goodbye => Err(GreetingError::RefusedByPeer(decode_goodbye(&frame.payload))),
        other => Err(GreetingError::Unexpected(other)),
    }
}

/// A goodbye's reason, safe to print; one that does not decode is a protocol
/// error of theirs.
pub(super) fn decode_goodbye(payload: &[u8]) -> Goodbye {
    let mut goodbye =
        codec::decode("goodbye", payload).unwrap_or_else(|error: CodecError| Goodbye::Protocol {
            reason: error.to_string(),
        });
    if let Goodbye::Unavailable { reason }
    | Goodbye::SnapshotFailed { reason }
    | Goodbye::Protocol { reason } = &mut goodbye
    {
        *reason = Printable::new(reason).to_string();
    }
    goodbye
}

/// Writes one frame and flushes it.
pub(super) async fn send<S: AsyncWrite + Unpin>(
    stream: &mut S,
    kind: FrameKind,
    payload: &[u8],
) -> std::io::Result<()> {
    stream.write_all(&frame::encode(kind, payload)).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello(node: u64, incarnation: u64) -> Hello {
        Hello {
            cluster: ClusterId([1; 16]),
            node: NodeId(node),
            name: format!("n{node}"),
            incarnation: Incarnation(incarnation),
            api_address: "https://127.0.0.1:8200".to_owned(),
            cluster_address: "127.0.0.1:8201".to_owned(),
            version: "0.1.0".to_owned(),
            membership_index: LogIndex(5),
        }
    }

    #[test]
    fn judgement_covers_every_case() {
        let own = hello(1, 10);
        let member = Member {
            incarnation: Incarnation(20),
            ..Member::default()
        };
        let members = BTreeMap::from([(NodeId(2), member)]);
        let wrong_life = Goodbye::WrongIncarnation {
            expected: Incarnation(20),
        };
        let at = |index, mut hello: Hello| {
            hello.membership_index = LogIndex(index);
            judge(&own, &members, &hello)
        };
        assert_eq!(at(5, hello(2, 20)), Ok(()));
        assert_eq!(at(0, hello(2, 20)), Ok(()));
        assert_eq!(at(5, hello(2, 21)), Err(wrong_life.clone()));
        assert_eq!(at(0, hello(2, 21)), Err(wrong_life));
        assert_eq!(at(6, hello(2, 21)), Ok(()));
        assert_eq!(at(5, hello(3, 30)), Err(Goodbye::NotMember));
        assert_eq!(at(6, hello(3, 30)), Ok(()));

        let nobody = BTreeMap::new();
        assert_eq!(judge(&own, &nobody, &hello(9, 90)), Ok(()));
        let mut foreign = hello(2, 20);
        foreign.cluster = ClusterId([2; 16]);
        foreign.membership_index = LogIndex(9);
        assert_eq!(judge(&own, &members, &foreign), Err(Goodbye::WrongCluster));
        assert_eq!(judge(&own, &nobody, &foreign), Err(Goodbye::WrongCluster));
    }

    #[test]
    fn greeting_keeps_its_bytes() {
        let small = Hello {
            name: "a".to_owned(),
            api_address: String::new(),
            cluster_address: "b".to_owned(),
            version: String::new(),
            ..hello(2, 3)
        };
        let expected = [
            "01010101010101010101010101010101",
            "0200000000000000",
            "010000000000000061",
            "0300000000000000",
            "0000000000000000",
            "010000000000000062",
            "0000000000000000",
            "0500000000000000",
        ];
        assert_eq!(hex::encode(codec::encode(&small)), expected.concat());
    }

    #[test]
    fn text_of_a_peer_is_made_safe_to_print() {
        let printable = Printable::new(&format!("a\n\u{1b}[2J{}", "x".repeat(1000)));
        assert!(printable.to_string().starts_with("a\\n\\u{1b}[2J"));
        assert!(printable.to_string().len() < 1000);
    }

    proptest! {
        #[test]
        fn any_goodbye_is_answered(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode_goodbye(&bytes);
        }
    }
}
