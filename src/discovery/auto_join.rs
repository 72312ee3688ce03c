//! `auto_join`: members found by asking somebody else where they are, in
//! go-discover's words: `provider=dns name=vault.internal`. Keys and values are
//! joined by `=`; either may be quoted, and a backslash quotes one character.
//!
//! Errors never show a value: some providers take secrets.

use std::collections::BTreeMap;
use std::time::Duration;

/// For a name to be resolved.
const RESOLVE_LIMIT: Duration = Duration::from_secs(5);

/// What an `auto_join` text asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AutoJoin {
    /// Every address (A and AAAA) of a name.
    Dns {
        /// The name.
        name: String,
    },
}

/// An `auto_join` text that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AutoJoinError {
    /// A word without a `=`: a key without its value, or the rest of a value
    /// that was not quoted.
    #[error("discover: word {position}: missing '='")]
    ValueMissing {
        /// Its place in the text, from 1.
        position: usize,
    },
    /// A quote that does not end.
    #[error("discover: {key}: error with key=value pair unbalanced quotes")]
    UnbalancedQuotes {
        /// The key, as far as it was read.
        key: String,
    },
    /// Nobody to ask.
    #[error("discover: no provider")]
    NoProvider,
    /// Nobody that is known.
    #[error("discover: unknown provider {name}; known: dns")]
    UnknownProvider {
        /// The name given.
        name: String,
    },
    /// A key that the provider does not take: a typing error would otherwise
    /// find the wrong servers, or none.
    #[error("discover-{provider}: unknown key {key}; known: {known}")]
    UnknownKey {
        /// The provider.
        provider: &'static str,
        /// The key given.
        key: String,
        /// The keys there are.
        known: &'static str,
    },
    /// A key that the provider needs.
    #[error("discover-{provider}: {key} is missing")]
    KeyMissing {
        /// The provider.
        provider: &'static str,
        /// The key.
        key: &'static str,
    },
}

impl AutoJoin {
    /// Reads an `auto_join` text.
    ///
    /// # Errors
    /// See [`AutoJoinError`].
    pub fn parse(text: &str) -> Result<Self, AutoJoinError> {
        let mut keys = pairs(text)?;
        let provider = keys.remove("provider").filter(|name| !name.is_empty());
        let provider = provider.ok_or(AutoJoinError::NoProvider)?;
        match provider.as_str() {
            "dns" => Self::dns(keys),
            _ => Err(AutoJoinError::UnknownProvider { name: provider }),
        }
    }

    fn dns(mut keys: BTreeMap<String, String>) -> Result<Self, AutoJoinError> {
        let provider = "dns";
        let name = keys.remove("name").filter(|name| !name.is_empty());
        if let Some((key, _)) = keys.into_iter().next() {
            let known = "name";
            return Err(AutoJoinError::UnknownKey {
                provider,
                key,
                known,
            });
        }
        let key = "name";
        let name = name.ok_or(AutoJoinError::KeyMissing { provider, key })?;
        Ok(Self::Dns { name })
    }

    /// Whom to ask, as it may be shown.
    #[must_use]
    pub fn provider(&self) -> &'static str {
        match self {
            Self::Dns { .. } => "dns",
        }
    }

    /// Hosts of members, IP addresses; sorted, each once.
    ///
    /// # Errors
    /// The provider's words; `TimedOut` after 5 s.
    pub async fn hosts(&self) -> Result<Vec<String>, std::io::Error> {
        match self {
            Self::Dns { name } => {
                let any_port = 0;
                let found = tokio::net::lookup_host((name.as_str(), any_port));
                let found = tokio::time::timeout(RESOLVE_LIMIT, found).await??;
                let hosts: std::collections::BTreeSet<_> =
                    found.map(|address| address.ip()).collect();
                Ok(hosts.into_iter().map(|ip| ip.to_string()).collect())
            }
        }
    }
}

fn pairs(text: &str) -> Result<BTreeMap<String, String>, AutoJoinError> {
    let mut found = BTreeMap::new();
    let mut rest = text.trim_start();
    for pair in 0.. {
        if rest.is_empty() {
            break;
        }
        let unbalanced = |key: &str| AutoJoinError::UnbalancedQuotes {
            key: key.to_owned(),
        };
        let (key, after_key) = word(rest, true).ok_or_else(|| unbalanced(""))?;
        let Some(value) = after_key.trim_start().strip_prefix('=') else {
            let position = pair + 1;
            return Err(AutoJoinError::ValueMissing { position });
        };
        let (value, after) = word(value.trim_start(), false).ok_or_else(|| unbalanced(&key))?;
        found.insert(key, value);
        rest = after.trim_start();
    }
    Ok(found)
}

/// One key or value off the front of `text`, unquoted; `None` if a quote does
/// not end. A key ends at `=` too.
fn word(text: &str, is_key: bool) -> Option<(String, &str)> {
    let mut word = String::new();
    let mut quote = None;
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match (quote, character) {
            (_, '\\') => word.push(characters.next()?.1),
            (Some(open), _) if character == open => quote = None,
            (Some(_), _) => word.push(character),
            (None, '"' | '\'') => quote = Some(character),
            (None, '=') if is_key => return Some((word, &text[at..])),
            (None, _) if character.is_whitespace() => return Some((word, &text[at..])),
            (None, _) => word.push(character),
        }
    }
    quote.is_none().then_some((word, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_with_quotes_escapes_and_spaces() {
        for (text, expected) in [
            ("", vec![]),
            (
                "provider=dns name=a.b",
                vec![("name", "a.b"), ("provider", "dns")],
            ),
            (" a = b  c= d ", vec![("a", "b"), ("c", "d")]),
            ("a=\"b c\" d='e \"f'", vec![("a", "b c"), ("d", "e \"f")]),
            ("\"a b\"=c", vec![("a b", "c")]),
            ("a=\"b\\\"c\" d=e\\ f", vec![("a", "b\"c"), ("d", "e f")]),
            ("a=b=c", vec![("a", "b=c")]),
            ("a=", vec![("a", "")]),
            ("label=\"app = x, y=z\"", vec![("label", "app = x, y=z")]),
            ("a=1 a=2", vec![("a", "2")]),
        ] {
            let found = pairs(text).expect(text);
            let found: Vec<_> = found
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str()))
                .collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn text_that_makes_no_sense_is_refused_by_name() {
        for (text, reason) in [
            ("", "discover: no provider"),
            ("x=1", "discover: no provider"),
            ("nope", "discover: word 1: missing '='"),
            ("provider=k8s bogus", "discover: word 2: missing '='"),
            (
                "provider=aws key=correct secret",
                "discover: word 3: missing '='",
            ),
            (
                "\"",
                "discover: : error with key=value pair unbalanced quotes",
            ),
            (
                "provider=dns name=\"a",
                "discover: name: error with key=value pair unbalanced quotes",
            ),
            (
                "provider=nope a=b",
                "discover: unknown provider nope; known: dns",
            ),
            ("provider=dns", "discover-dns: name is missing"),
            (
                "provider=dns name=a nmae=secret",
                "discover-dns: unknown key nmae; known: name",
            ),
        ] {
            let error = AutoJoin::parse(text).expect_err(text).to_string();
            assert_eq!(error, reason, "{text}");
            assert!(!error.contains("secret"));
        }
    }

    #[tokio::test]
    async fn name_stands_for_all_its_addresses() {
        let local = AutoJoin::parse("provider=dns name=localhost").expect("well formed");
        assert_eq!(local.provider(), "dns");
        let hosts = local.hosts().await.expect("localhost resolves");
        assert!(hosts.contains(&"127.0.0.1".to_owned()), "{hosts:?}");
        let nobody = AutoJoin::parse("provider=dns name=nobody.invalid").expect("well formed");
        assert!(nobody.hosts().await.is_err());
    }
}
