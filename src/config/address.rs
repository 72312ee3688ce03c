//! Addresses: where to listen, and what others are told to dial.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

/// Host and port; the host may be a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A name or an IP address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl HostPort {
    /// `host:port`, `[::1]:port`, or `:port` for all addresses.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok()?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']')?,
            None if host.contains(':') => return None,
            None if host.is_empty() => "0.0.0.0",
            None => host,
        };
        let fine = |character: char| character.is_ascii_graphic() && !"/?#@[]".contains(character);
        (!host.is_empty() && host.chars().all(fine)).then(|| Self {
            host: host.to_owned(),
            port,
        })
    }

    /// A URL's or bare `host:port`; a URL without port gets `port_default`.
    #[must_use]
    pub fn parse_url(text: &str, port_default: u16) -> Option<Self> {
        let rest = match text.split_once("://") {
            Some(("http" | "https", rest)) => rest.trim_end_matches('/'),
            Some(_) => return None,
            None => text,
        };
        if rest.is_empty() {
            return None;
        }
        Self::parse(rest).or_else(|| Self::parse(&format!("{rest}:{port_default}")))
    }

    /// Whether it stands for all addresses of a machine, which nobody can dial.
    #[must_use]
    pub fn is_unspecified(&self) -> bool {
        self.host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_unspecified())
    }

    /// Whether only this machine can dial it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let address = self.host.parse::<IpAddr>();
        self.host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    /// The same host, the next port.
    #[must_use]
    pub fn next_port(&self) -> Option<Self> {
        let port = self.port.checked_add(1)?;
        Some(Self {
            host: self.host.clone(),
            port,
        })
    }

    /// An address to bind; names are looked up, which may block.
    ///
    /// # Errors
    /// A name that stands for no address.
    pub fn resolve(&self) -> std::io::Result<SocketAddr> {
        if self.host == "localhost" {
            return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)));
        }
        let mut addresses = (self.host.as_str(), self.port).to_socket_addrs()?;
        let none = || std::io::Error::other(format!("{self} has no address"));
        addresses.next().ok_or_else(none)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_go_style_addresses() {
        for (text, shown) in [
            ("127.0.0.1:8200", Some("127.0.0.1:8200")),
            (":8200", Some("0.0.0.0:8200")),
            ("[::]:8200", Some("[::]:8200")),
            ("[::1]:1", Some("[::1]:1")),
            ("vault.example:8200", Some("vault.example:8200")),
            ("127.0.0.1", None),
            ("127.0.0.1:", None),
            ("127.0.0.1:70000", None),
            ("::1:8200", None),
            ("a b:8200", None),
            ("unix:///x", None),
        ] {
            let parsed = HostPort::parse(text).map(|address| address.to_string());
            assert_eq!(parsed.as_deref(), shown, "{text}");
        }
    }

    #[test]
    fn parse_urls() {
        for (text, shown) in [
            ("https://10.0.0.1:8201", Some("10.0.0.1:8201")),
            ("http://10.0.0.1:8200/", Some("10.0.0.1:8200")),
            ("https://vault.example", Some("vault.example:8201")),
            ("https://[::1]:9", Some("[::1]:9")),
            ("10.0.0.1:8201", Some("10.0.0.1:8201")),
            ("ftp://x:1", None),
            ("https://", None),
            ("https://a/b:8", None),
        ] {
            let parsed = HostPort::parse_url(text, 8201).map(|address| address.to_string());
            assert_eq!(parsed.as_deref(), shown, "{text}");
        }
    }
}
