//! How joining goes: `GET sys/storage/raft/join/status`. Asked on the node
//! itself, without a token: it holds no secret, and a node that has not joined
//! knows no tokens.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::SystemTime;

use serde_json::{Map, Value, json};
use tokio::task::AbortHandle;

use super::{LeaderApiError, Vault, lock, object, rfc3339};

/// Targets remembered, at most.
const TARGETS_MAX: usize = 64;
/// The longest address or reason that is remembered or told, in characters.
const SHOWN_MAX: usize = 512;

/// Where a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JoinPhase {
    /// Nobody asked it to join, or all that was asked for failed.
    NotJoining,
    /// It asks leaders for a challenge.
    Searching,
    /// It holds a challenge and waits for shares.
    WaitingForShares,
    /// It proves that it has them.
    Answering,
    /// It is a member and receives storage.
    Receiving,
    /// It has what it takes to be unsealed.
    Joined,
    /// The cluster removed it.
    Removed,
}

impl JoinPhase {
    fn name(self) -> &'static str {
        match self {
            Self::NotJoining => "not_joining",
            Self::Searching => "searching",
            Self::WaitingForShares => "waiting_for_shares",
            Self::Answering => "answering",
            Self::Receiving => "receiving",
            Self::Joined => "joined",
            Self::Removed => "removed",
        }
    }
}

/// Why a target gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinFailure {
    /// Its name does not resolve.
    Dns,
    /// Nobody listens there, or nothing leads there.
    Tcp,
    /// No TLS there, or its certificate is not trusted.
    Tls,
    /// Its certificate is of another name.
    TlsName,
    /// It did not answer in time.
    TimedOut,
    /// It answered what no member answers.
    Protocol,
    /// It is sealed.
    Sealed,
    /// It is no member of a cluster itself.
    Uninitialized,
    /// Its seal is of another kind, or not sound.
    WrongSeal,
    /// It refused, in its own words.
    Refused,
    /// The target cannot be used as it was given.
    Target,
}

impl JoinFailure {
    fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::TlsName => "tls_name",
            Self::TimedOut => "timed_out",
            Self::Protocol => "protocol",
            Self::Sealed => "sealed",
            Self::Uninitialized => "uninitialized",
            Self::WrongSeal => "wrong_seal",
            Self::Refused => "refused",
            Self::Target => "target",
        }
    }

    /// What an error of a leader's API amounts to.
    pub(super) fn of(error: &LeaderApiError) -> Self {
        match error {
            LeaderApiError::Unreachable { kind, .. } => *kind,
            LeaderApiError::Refused { text, .. } if text.contains("Vault is sealed") => {
                Self::Sealed
            }
            LeaderApiError::Refused { text, .. } if text.contains("not initialized") => {
                Self::Uninitialized
            }
            LeaderApiError::Refused { .. } => Self::Refused,
        }
    }
}

/// What was tried, and how it ended.
#[derive(Default)]
pub(super) struct JoinTrace {
    targets: BTreeMap<String, Tried>,
    /// Rounds of asking all targets that are under way.
    searching: usize,
    /// A background task goes on asking.
    pub(super) retrying: bool,
    /// What the last request to join said.
    pub(super) non_voter: bool,
    /// The task that a request with `retry` started.
    pub(super) requested: Option<AbortHandle>,
}

struct Tried {
    attempts: u64,
    at: SystemTime,
    /// `None`: the last attempt succeeded.
    failure: Option<(JoinFailure, String)>,
}

impl JoinTrace {
    /// A target was asked; `address` as [`shown`] has it.
    pub(super) fn note(&mut self, address: &str, failure: Option<(JoinFailure, String)>) {
        let address = printable(address);
        let failure = failure.map(|(kind, reason)| (kind, printable(&reason)));
        if TARGETS_MAX <= self.targets.len() && !self.targets.contains_key(&address) {
            self.forget_oldest();
        }
        let tried = self.targets.entry(address).or_insert(Tried {
            attempts: 0,
            at: SystemTime::UNIX_EPOCH,
            failure: None,
        });
        tried.attempts += 1;
        tried.at = SystemTime::now();
        tried.failure = failure;
    }

    fn forget_oldest(&mut self) {
        let oldest = self.targets.iter().min_by_key(|(_, tried)| tried.at);
        if let Some(address) = oldest.map(|(address, _)| address.clone()) {
            self.targets.remove(&address);
        }
    }

    fn is_searching(&self) -> bool {
        0 < self.searching || self.retrying
    }

    fn targets_json(&self) -> Vec<Value> {
        let target = |(address, tried): (&String, &Tried)| {
            let failure = tried.failure.as_ref();
            json!({
                "leader_api_addr": address,
                "attempts": tried.attempts,
                "last_attempt": rfc3339(tried.at),
                "last_error_kind": failure.map(|(kind, _)| kind.name()),
                "last_error": failure.map(|(_, text)| text),
            })
        };
        self.targets.iter().map(target).collect()
    }
}

/// A round of asking under way, until dropped: its task may be aborted.
pub(super) struct Search<'a>(&'a Mutex<JoinTrace>);

impl<'a> Search<'a> {
    pub(super) fn begin(trace: &'a Mutex<JoinTrace>) -> Self {
        lock(trace).searching += 1;
        Self(trace)
    }
}

impl Drop for Search<'_> {
    fn drop(&mut self) {
        lock(self.0).searching -= 1;
    }
}

/// A target's address as it may be shown: a URL can hold a password or a
/// token, and it is a stranger's text.
pub(super) fn shown(address: &str) -> String {
    let (scheme, rest) = match address.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), address),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if path.contains('@') {
        // The end of a password, perhaps: no URL has it there.
        return printable(&format!("{scheme}***"));
    }
    let host = authority.rsplit('@').next().unwrap_or_default();
    let path = path.split(['?', '#']).next().unwrap_or_default();
    printable(&format!("{scheme}{host}{path}"))
}

/// At most 512 characters on one line.
pub(super) fn printable(text: &str) -> String {
    let mut printable = String::new();
    for character in text.chars().take(SHOWN_MAX) {
        if character.is_control() {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}

impl Vault {
    /// `GET sys/storage/raft/join/status`.
    pub async fn join_status(&self) -> Map<String, Value> {
        let (held, joining) = {
            let state = lock(&self.seal_state);
            (
                state.join.as_ref().map(|join| join.non_voter),
                state.joining,
            )
        };
        let member = self.backend.is_member();
        let trace = lock(&self.join_trace);
        let phase = if self.is_removed() {
            JoinPhase::Removed
        } else if joining && self.backend.cluster_id().is_some() {
            JoinPhase::Receiving
        } else if joining {
            JoinPhase::Answering
        } else if member {
            JoinPhase::Joined
        } else if held.is_some() {
            JoinPhase::WaitingForShares
        } else if trace.is_searching() {
            JoinPhase::Searching
        } else {
            JoinPhase::NotJoining
        };
        let status = self.backend.status();
        let mut shown = object(json!({
            "phase": phase.name(),
            "retry": trace.retrying,
            "non_voter": held.unwrap_or(trace.non_voter),
            "targets": trace.targets_json(),
        }));
        if matches!(phase, JoinPhase::Receiving | JoinPhase::Joined) {
            let progress = json!({
                "applied_index": status.applied_index,
                "commit_index": status.commit_index,
            });
            shown.insert("progress".to_owned(), progress);
        }
        if let Some(repair) = status.repair {
            let repair = json!({
                "lost": repair.lost,
                "missing": repair.missing,
                "fetched": repair.fetched,
            });
            shown.insert("repair".to_owned(), repair);
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_shows_the_last_error_of_each_target() {
        let mut trace = JoinTrace::default();
        trace.note(
            "https://a:8200",
            Some((JoinFailure::Dns, "no such name".into())),
        );
        trace.note(
            "https://a:8200",
            Some((JoinFailure::Sealed, "Vault is sealed".into())),
        );
        trace.note("https://b:8200", None);
        let mut shown = trace.targets_json();
        for target in &mut shown {
            assert!(target["last_attempt"].take().is_string());
        }
        let expected = [
            json!({
                "leader_api_addr": "https://a:8200", "attempts": 2, "last_attempt": null,
                "last_error_kind": "sealed", "last_error": "Vault is sealed",
            }),
            json!({
                "leader_api_addr": "https://b:8200", "attempts": 1, "last_attempt": null,
                "last_error_kind": null, "last_error": null,
            }),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn trace_is_bounded() {
        let mut trace = JoinTrace::default();
        for number in 0..1000 {
            trace.note(&format!("https://h{number}:8200"), None);
        }
        assert_eq!(trace.targets.len(), TARGETS_MAX);
    }

    #[test]
    fn trace_forgets_the_oldest_targets_first() {
        let mut trace = JoinTrace::default();
        for number in 0..TARGETS_MAX {
            trace.note(&format!("https://junk{number}:8200"), None);
        }
        trace.note("https://real:8200", None);
        assert!(trace.targets.contains_key("https://real:8200"));
        assert!(!trace.targets.contains_key("https://junk0:8200"));
    }

    #[test]
    fn trace_remembers_the_beginning_of_long_texts() {
        let mut trace = JoinTrace::default();
        let long = "\u{fc}".repeat(100_000);
        trace.note(&long, Some((JoinFailure::Target, long.clone())));
        let (address, tried) = trace.targets.first_key_value().expect("noted");
        assert_eq!(address.chars().count(), SHOWN_MAX);
        let (_, reason) = tried.failure.as_ref().expect("it failed");
        assert_eq!(reason.chars().count(), SHOWN_MAX);
    }

    #[test]
    fn address_is_shown_without_credentials() {
        for (address, expected) in [
            ("https://user:password@h:8200/x?token=t", "https://h:8200/x"),
            ("https://h:8200", "https://h:8200"),
            ("https://h:8200?token=t", "https://h:8200"),
            ("https://h:8200#token", "https://h:8200"),
            ("https://h?token=a@b", "https://***"),
            ("https://user:pass/word@h", "https://***"),
            ("user:password@h", "h"),
            ("h:8200?token=t", "h:8200"),
            ("", ""),
        ] {
            assert_eq!(shown(address), expected);
        }
    }

    #[test]
    fn address_is_shown_on_one_line() {
        assert_eq!(
            shown("https://h\n\u{1b}[1mERROR"),
            "https://h\\n\\u{1b}[1mERROR"
        );
        assert_eq!(shown(&"x".repeat(1 << 20)).len(), SHOWN_MAX);
    }

    #[test]
    fn refusals_are_told_apart() {
        let refused = |text: &str| LeaderApiError::Refused {
            status: 503,
            text: text.to_owned(),
        };
        assert_eq!(
            JoinFailure::of(&refused("Vault is sealed")),
            JoinFailure::Sealed
        );
        assert_eq!(
            JoinFailure::of(&refused("Vault is not initialized")),
            JoinFailure::Uninitialized
        );
        assert_eq!(
            JoinFailure::of(&refused("invalid answer given")),
            JoinFailure::Refused
        );
    }
}
