//! Where peers are: what the membership says, and what they said themselves.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::types::{LogIndex, Member, NodeId};

/// Peers remembered that no membership names, at most.
const LEARNED_MAX: usize = 64;

/// An address that peers could not use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// `0.0.0.0` or `::`.
    #[error("cannot use unspecified IP with raft storage: {0}")]
    Unspecified(String),
    /// Not `host:port`.
    #[error("cluster address {0:?} is not host:port")]
    Malformed(String),
    /// Loopback, beside a member on a network.
    #[error(
        "cluster address {address} can only be dialled on its own machine, and a member is at \
         {other}: set cluster_addr to an address that the other members reach"
    )]
    Loopback {
        /// The address.
        address: String,
        /// A member's that is no loopback address.
        other: String,
    },
}

/// Checks an address that a node is about to advertise, `host:port`. Returns
/// whether it is a loopback address, which no other machine can use.
///
/// # Errors
/// Not `host:port`, or an unspecified IP.
pub fn check_advertised(address: &str) -> Result<bool, AddressError> {
    let malformed = || AddressError::Malformed(address.to_owned());
    let (host, port) = address.rsplit_once(':').ok_or_else(malformed)?;
    if host.is_empty() || port.parse::<u16>().map_or(true, |port| port == 0) {
        return Err(malformed());
    }
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    if bracketed.is_none() && host.contains(':') {
        return Err(malformed());
    }
    match bracketed.unwrap_or(host).parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => Err(AddressError::Unspecified(address.to_owned())),
        Ok(ip) => Ok(ip.is_loopback()),
        Err(_) => Ok(host.eq_ignore_ascii_case("localhost")),
    }
}

/// Checks an address that a node advertises to members at these addresses:
/// loopback will do only where all are on loopback.
///
/// # Errors
/// See [`AddressError`].
pub fn check_beside<'a>(
    address: &str,
    mut others: impl Iterator<Item = &'a str>,
) -> Result<(), AddressError> {
    if !check_advertised(address)? {
        return Ok(());
    }
    match others.find(|other| check_advertised(other) == Ok(false)) {
        None => Ok(()),
        Some(other) => Err(AddressError::Loopback {
            address: address.to_owned(),
            other: other.to_owned(),
        }),
    }
}

/// The address book.
#[derive(Clone, Debug, Default)]
pub(super) struct AddressBook {
    members: BTreeMap<NodeId, Member>,
    membership_index: LogIndex,
    /// What peers said in their greetings, or a join answer said of them.
    learned: BTreeMap<NodeId, String>,
}

impl AddressBook {
    pub(super) fn members(&self) -> &BTreeMap<NodeId, Member> {
        &self.members
    }

    pub(super) fn membership_index(&self) -> LogIndex {
        self.membership_index
    }

    /// Takes a new membership. What was learned of a node that it drops is
    /// forgotten, so that nobody keeps calling a removed node.
    pub(super) fn set_members(&mut self, index: LogIndex, members: BTreeMap<NodeId, Member>) {
        for gone in self.members.keys().filter(|id| !members.contains_key(id)) {
            self.learned.remove(gone);
        }
        self.members = members;
        self.membership_index = index;
    }

    /// Remembers where a peer says it is. Whether anything changed.
    pub(super) fn learn(&mut self, id: NodeId, address: &str) -> bool {
        if check_advertised(address).is_err() || self.learned.get(&id).is_some_and(|a| a == address)
        {
            return false;
        }
        let strangers = |book: &Self| -> Vec<NodeId> {
            let unknown = |id: &&NodeId| !book.members.contains_key(id);
            book.learned.keys().filter(unknown).copied().collect()
        };
        if let Some(stranger) = strangers(self).first()
            && LEARNED_MAX <= self.learned.len()
        {
            self.learned.remove(stranger);
        }
        self.learned.insert(id, address.to_owned());
        true
    }

    /// Everybody that can be called.
    pub(super) fn ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        let strangers = self.learned.keys();
        let strangers = strangers.filter(|id| !self.members.contains_key(id));
        self.members.keys().chain(strangers).copied()
    }

    /// Where to try, in turn: the membership's word first, then the peer's own
    /// (it may have moved before the membership says so).
    pub(super) fn candidates(&self, id: NodeId) -> Vec<String> {
        let recorded = self.members.get(&id).map(|member| member.address.clone());
        let mut candidates: Vec<String> = recorded.into_iter().collect();
        if let Some(learned) = self.learned.get(&id)
            && !candidates.contains(learned)
        {
            candidates.push(learned.clone());
        }
        candidates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_address_is_for_a_cluster_on_loopback() {
        let check = |address: &str, others: &[&str]| {
            check_beside(address, others.iter().copied()).map_err(|error| error.to_string())
        };
        assert_eq!(check("127.0.0.1:8201", &["127.0.0.1:8211"]), Ok(()));
        assert_eq!(check("127.0.0.1:8201", &[]), Ok(()));
        assert_eq!(check("10.0.0.2:8201", &["127.0.0.1:8201"]), Ok(()));
        for address in ["127.0.0.1:8201", "localhost:8201", "[::1]:8201"] {
            let refused = check(address, &["127.0.0.1:1", "10.0.0.1:8201"]).unwrap_err();
            assert!(
                refused.contains("a member is at 10.0.0.1:8201"),
                "{refused}"
            );
        }
        assert!(check("0.0.0.0:8201", &[]).is_err());
    }

    #[test]
    fn advertised_addresses_are_checked() {
        for (address, loopback) in [
            ("10.0.0.1:8201", false),
            ("127.0.0.1:8201", true),
            ("[::1]:8201", true),
            ("[2001:db8::1]:8201", false),
            ("vault-0.vault:8201", false),
            ("localhost:8201", true),
        ] {
            assert_eq!(check_advertised(address), Ok(loopback), "{address}");
        }
        for address in ["0.0.0.0:8201", "[::]:8201"] {
            let error = check_advertised(address).expect_err(address);
            let expected = format!("cannot use unspecified IP with raft storage: {address}");
            assert_eq!(error.to_string(), expected);
        }
        for address in [
            "",
            "host",
            ":8201",
            "host:",
            "host:0",
            "host:99999",
            "::1:8201",
        ] {
            let malformed = AddressError::Malformed(address.to_owned());
            assert_eq!(check_advertised(address), Err(malformed), "{address}");
        }
    }

    fn member(address: &str) -> Member {
        Member {
            address: address.to_owned(),
            ..Member::default()
        }
    }

    #[test]
    fn membership_comes_before_what_was_learned() {
        let mut book = AddressBook::default();
        assert!(book.learn(NodeId(2), "new:2"));
        assert!(!book.learn(NodeId(2), "new:2"));
        assert!(!book.learn(NodeId(2), "0.0.0.0:2"));
        assert_eq!(book.candidates(NodeId(2)), ["new:2"]);
        book.set_members(LogIndex(1), [(NodeId(2), member("old:2"))].into());
        assert_eq!(book.candidates(NodeId(2)), ["old:2", "new:2"]);
        assert_eq!(book.ids().collect::<Vec<_>>(), [NodeId(2)]);
        book.set_members(LogIndex(2), BTreeMap::new());
        assert_eq!(book.candidates(NodeId(2)), Vec::<String>::new());
        assert_eq!(book.ids().count(), 0);
    }

    #[test]
    fn strangers_are_bounded_and_members_are_never_forgotten_for_them() {
        let mut book = AddressBook::default();
        book.set_members(LogIndex(1), [(NodeId(0), member("old:1"))].into());
        book.learn(NodeId(0), "new:1");
        for id in 1..500 {
            book.learn(NodeId(id), "stranger:1");
        }
        assert!(book.ids().count() <= LEARNED_MAX);
        assert_eq!(book.candidates(NodeId(0)), ["old:1", "new:1"]);
        assert_eq!(book.candidates(NodeId(499)), ["stranger:1"]);
    }
}
