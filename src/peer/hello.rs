//! The greeting: right after TLS both sides say who they are, the dialling
//! side first. Either may answer with a goodbye and its reason instead.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bincode::{Decode, Encode};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::frame::{self, FrameError, FrameKind};
use crate::codec::{self, CodecError};
use crate::types::{ClusterId, Incarnation, LogIndex, Member, Membership, NodeId, Term};

/// The largest greeting or goodbye, in bytes: a goodbye may carry a membership.
pub const GREETING_BYTES_MAX: usize = 64 << 10;

/// One run of a process on a data directory. The number is counted up durably
/// in the directory at each start; the id is drawn anew, and tells two copies
/// of a directory apart that were both started next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Run {
    /// Which start of the directory, from 1.
    pub number: u64,
    /// Random.
    pub id: u64,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "start {} ({:016x})", self.number, self.id)
    }
}

/// How far a node's durable state reaches. The order, by term and then by
/// position, is the order of time in one data directory: a log is cut only in
/// a later term than the one in which it was acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct DurableEnd {
    /// The durable term of the hard state.
    pub term: Term,
    /// The last durable position of the log.
    pub index: LogIndex,
}

impl fmt::Display for DurableEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "term {}, entry {}", self.term, self.index)
    }
}

/// A committed membership, as proof of who belongs to the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MembershipProof {
    /// Its log position.
    pub index: LogIndex,
    /// The membership.
    pub membership: Arc<Membership>,
}

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
    /// The run of that directory.
    pub run: Run,
    /// How far its durable state reaches.
    pub durable: DurableEnd,
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
    /// data directory was replaced, or was wiped and has not joined.
    #[error(
        "the member {name:?} has a data directory of incarnation {:016x}, this one is {:016x}: \
         it was wiped or replaced, and neither votes nor acknowledges for that member; \
         empty it and let the node join again",
        expected.0, found.0
    )]
    WrongIncarnation {
        /// The member's `node_id`.
        name: String,
        /// The life that the membership records.
        expected: Incarnation,
        /// The life that asked.
        found: Incarnation,
        /// The committed membership, if it says so.
        proof: Option<MembershipProof>,
    },
    /// The other is not in the membership.
    #[error("it is not a member of the cluster{}", proved(proof.as_ref()))]
    NotMember {
        /// The committed membership, if it says so.
        proof: Option<MembershipProof>,
    },
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
    /// Two processes run on copies of one data directory.
    #[error(
        "the data directory of {name:?} (incarnation {:016x}) is in use twice: {refused} is \
         refused, {other} {}; stop the copy, empty its directory and let it join under \
         a node_id of its own; if this is the original, start it again then",
        incarnation.0,
        if *answers { "still answers" } else { "came after it, or beside it" }
    )]
    Copied {
        /// The `node_id` of both.
        name: String,
        /// The incarnation of both.
        incarnation: Incarnation,
        /// The run that is refused.
        refused: Run,
        /// The run that stays.
        other: Run,
        /// That one was heard while the refused one waited.
        answers: bool,
    },
    /// The other's data directory is older than what it acknowledged.
    #[error(
        "the data directory of {name:?} is older than what this node acknowledged: it had \
         {acknowledged}, and has {found} (restored from a backup or an image?); remove the \
         node from the cluster, empty its directory and let it join again"
    )]
    RolledBack {
        /// Its `node_id`.
        name: String,
        /// The furthest it acknowledged.
        acknowledged: DurableEnd,
        /// What it says it holds.
        found: DurableEnd,
    },
}

impl Goodbye {
    /// Whether asking again soon is of no use: only an operator, or a change of
    /// the membership, can help.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        matches!(
            self,
            Self::WrongCluster
                | Self::WrongIncarnation { .. }
                | Self::NotMember { .. }
                | Self::Copied { .. }
                | Self::RolledBack { .. }
        )
    }

    /// The committed membership that the reason rests on.
    #[must_use]
    pub fn proof(&self) -> Option<&MembershipProof> {
        match self {
            Self::NotMember { proof } | Self::WrongIncarnation { proof, .. } => proof.as_ref(),
            _ => None,
        }
    }

    /// Without its proof, where that would not fit into a frame.
    fn without_proof(mut self) -> Self {
        if let Self::NotMember { proof } | Self::WrongIncarnation { proof, .. } = &mut self {
            *proof = None;
        }
        self
    }
}

fn proved(proof: Option<&MembershipProof>) -> String {
    proof.map_or_else(String::new, |proof| {
        format!(
            ": the membership committed at log position {} does not name it",
            proof.index
        )
    })
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

/// Who belongs to the cluster, as far as this node knows.
#[derive(Clone, Copy)]
pub struct Roll<'a> {
    /// The active membership, and those who just left it.
    pub members: &'a BTreeMap<NodeId, Member>,
    /// The newest membership known to be committed.
    pub committed: Option<&'a MembershipProof>,
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
/// A refusal carries the committed membership when that one says the same: the
/// refused node may believe it, whatever it missed while it was away.
///
/// # Errors
/// The goodbye to answer with.
pub fn judge(own: &Hello, roll: Roll<'_>, hello: &Hello) -> Result<(), Goodbye> {
    if hello.cluster != own.cluster {
        return Err(Goodbye::WrongCluster);
    }
    if roll.members.is_empty() || own.membership_index < hello.membership_index {
        return Ok(());
    }
    let belongs = |members: &BTreeMap<NodeId, Member>| {
        let member = members.get(&hello.node);
        member.is_some_and(|member| member.incarnation == hello.incarnation)
    };
    if belongs(roll.members) {
        return Ok(());
    }
    let proof = roll
        .committed
        .filter(|proof| !belongs(&proof.membership.members))
        .cloned();
    match roll.members.get(&hello.node) {
        Some(member) => Err(Goodbye::WrongIncarnation {
            name: member.name.clone(),
            expected: member.incarnation,
            found: hello.incarnation,
            proof,
        }),
        None => Err(Goodbye::NotMember { proof }),
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
    let mut payload = codec::encode(goodbye);
    if GREETING_BYTES_MAX < payload.len() {
        payload = codec::encode(&goodbye.clone().without_proof());
    }
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
    if let Goodbye::Unavailable { reason: text }
    | Goodbye::SnapshotFailed { reason: text }
    | Goodbye::Protocol { reason: text }
    | Goodbye::WrongIncarnation { name: text, .. }
    | Goodbye::Copied { name: text, .. }
    | Goodbye::RolledBack { name: text, .. } = &mut goodbye
    {
        *text = Printable::new(text).to_string();
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
            run: Run { number: 4, id: 6 },
            durable: DurableEnd {
                term: Term(7),
                index: LogIndex(8),
            },
            api_address: "https://127.0.0.1:8200".to_owned(),
            cluster_address: "127.0.0.1:8201".to_owned(),
            version: "0.1.0".to_owned(),
            membership_index: LogIndex(5),
        }
    }

    fn member(incarnation: u64) -> Member {
        Member {
            name: "n2".to_owned(),
            incarnation: Incarnation(incarnation),
            ..Member::default()
        }
    }

    #[test]
    fn judgement_covers_every_case() {
        let own = hello(1, 10);
        let members = BTreeMap::from([(NodeId(2), member(20))]);
        let wrong_life = Goodbye::WrongIncarnation {
            name: "n2".to_owned(),
            expected: Incarnation(20),
            found: Incarnation(21),
            proof: None,
        };
        let roll = Roll {
            members: &members,
            committed: None,
        };
        let at = |index, mut hello: Hello| {
            hello.membership_index = LogIndex(index);
            judge(&own, roll, &hello)
        };
        assert_eq!(at(5, hello(2, 20)), Ok(()));
        assert_eq!(at(0, hello(2, 20)), Ok(()));
        assert_eq!(at(5, hello(2, 21)), Err(wrong_life.clone()));
        assert_eq!(at(0, hello(2, 21)), Err(wrong_life));
        assert_eq!(at(6, hello(2, 21)), Ok(()));
        assert_eq!(at(5, hello(3, 30)), Err(Goodbye::NotMember { proof: None }));
        assert_eq!(at(6, hello(3, 30)), Ok(()));

        let empty = BTreeMap::new();
        let nobody = Roll {
            members: &empty,
            committed: None,
        };
        assert_eq!(judge(&own, nobody, &hello(9, 90)), Ok(()));
        let mut foreign = hello(2, 20);
        foreign.cluster = ClusterId([2; 16]);
        foreign.membership_index = LogIndex(9);
        assert_eq!(judge(&own, roll, &foreign), Err(Goodbye::WrongCluster));
        assert_eq!(judge(&own, nobody, &foreign), Err(Goodbye::WrongCluster));
    }

    #[test]
    fn refusal_carries_the_committed_membership_only_if_it_says_the_same() {
        let own = hello(1, 10);
        let proof = |members: &[(u64, u64)]| MembershipProof {
            index: LogIndex(4),
            membership: Arc::new(Membership {
                members: members
                    .iter()
                    .map(|(id, incarnation)| (NodeId(*id), member(*incarnation)))
                    .collect(),
                ..Membership::default()
            }),
        };
        let active = proof(&[(1, 10), (2, 21)]).membership.members.clone();
        let refusal = |committed: &MembershipProof, hello: Hello| {
            let roll = Roll {
                members: &active,
                committed: Some(committed),
            };
            judge(&own, roll, &hello).expect_err("refused")
        };
        let without = proof(&[(1, 10)]);
        assert_eq!(refusal(&without, hello(3, 30)).proof(), Some(&without));
        assert_eq!(refusal(&without, hello(2, 20)).proof(), Some(&without));
        // Its replacement is not committed: it may yet stay.
        let still = proof(&[(1, 10), (2, 20), (3, 30)]);
        assert_eq!(refusal(&still, hello(2, 20)).proof(), None);
        assert_eq!(refusal(&still, hello(3, 30)).proof(), None);
        let text = refusal(&without, hello(2, 20)).to_string();
        for part in [
            "\"n2\"",
            "0000000000000015",
            "0000000000000014",
            "join again",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
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
            "0400000000000000",
            "0600000000000000",
            "0700000000000000",
            "0800000000000000",
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
