//! One leader that may be asked: a `retry_join` stanza or the body of a join
//! request, checked.

use std::fmt;
use std::path::{Path, PathBuf};

use http::Uri;
use zeroize::Zeroizing;

/// The largest certificate or key file read, in bytes.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// A stanza as a person wrote it. Where text and file are both given, the text
/// counts.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct JoinStanza {
    /// `http(s)://host:port` of the leader's API.
    pub leader_api_addr: String,
    /// Name expected in the leader's certificate instead of the URL's host.
    pub leader_tls_servername: String,
    /// PEM of the authority that signed the leader's certificate.
    pub leader_ca_cert: String,
    /// File with that PEM.
    pub leader_ca_cert_file: String,
    /// PEM of a client certificate.
    pub leader_client_cert: String,
    /// File with that PEM.
    pub leader_client_cert_file: String,
    /// PEM of its key.
    pub leader_client_key: Zeroizing<String>,
    /// File with that PEM.
    pub leader_client_key_file: String,
}

impl fmt::Debug for JoinStanza {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "retry_join {}", self.leader_api_addr)
    }
}

/// A leader that can be asked.
#[derive(Clone)]
pub struct JoinTarget {
    pub(super) origin: Origin,
    pub(super) server_name: Option<String>,
    pub(super) ca_pem: Option<String>,
    pub(super) client_identity: Option<ClientIdentity>,
}

#[derive(Clone)]
pub(super) struct ClientIdentity {
    pub(super) certificates_pem: String,
    pub(super) key_pem: Zeroizing<String>,
}

/// Scheme, host and port of an API address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// HTTPS rather than HTTP.
    pub secure: bool,
    /// Name or IP address, lower case, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// A stanza that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Not `http(s)://host[:port]`. What it is instead may hold a password.
    #[error("the leader API address is not an http or https URL")]
    Address,
    /// A certificate without its key, or the reverse.
    #[error("leader_client_cert and leader_client_key must be given together")]
    ClientIdentity,
    /// A file cannot be read.
    #[error("read {field} {}", path.display())]
    File {
        /// Which setting named it.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl JoinTarget {
    /// Checks a stanza and reads the files it names (anew for every round, so
    /// that renewed certificates are seen). Blocks on small files.
    ///
    /// # Errors
    /// See [`TargetError`].
    pub fn new(stanza: &JoinStanza) -> Result<Self, TargetError> {
        let origin = Origin::parse(&stanza.leader_api_addr).ok_or(TargetError::Address)?;
        let ca_pem = text_or_file(
            "leader_ca_cert_file",
            &stanza.leader_ca_cert,
            &stanza.leader_ca_cert_file,
        )?;
        let certificates = text_or_file(
            "leader_client_cert_file",
            &stanza.leader_client_cert,
            &stanza.leader_client_cert_file,
        )?;
        let key = text_or_file(
            "leader_client_key_file",
            &stanza.leader_client_key,
            &stanza.leader_client_key_file,
        )?;
        let client_identity = match (certificates, key.map(Zeroizing::new)) {
            (Some(certificates_pem), Some(key_pem)) => Some(ClientIdentity {
                certificates_pem,
                key_pem,
            }),
            (None, None) => None,
            _ => return Err(TargetError::ClientIdentity),
        };
        let server_name = Some(stanza.leader_tls_servername.clone());
        Ok(Self {
            origin,
            server_name: server_name.filter(|name| !name.is_empty()),
            ca_pem,
            client_identity,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }
}

impl fmt::Debug for JoinTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.origin)
    }
}

impl Origin {
    /// Parses an API address; a path is ignored, a missing port is the
    /// scheme's. `None` when it is no `http` or `https` URL with a host.
    #[must_use]
    pub fn parse(address: &str) -> Option<Self> {
        let uri: Uri = address.trim().parse().ok()?;
        let secure = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        if authority.as_str().contains('@') {
            return None;
        }
        let host = authority.host().to_ascii_lowercase();
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = bare.unwrap_or(&host).to_owned();
        let port = authority.port_u16();
        if host.is_empty() || (port.is_none() && authority.as_str().ends_with(':')) {
            return None;
        }
        Some(Self {
            secure,
            host,
            port: port.unwrap_or(if secure { 443 } else { 80 }),
        })
    }

    /// `host:port`, as a URL and a resolver take it.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

fn text_or_file(
    field: &'static str,
    text: &str,
    file: &str,
) -> Result<Option<String>, TargetError> {
    if !text.is_empty() {
        return Ok(Some(text.to_owned()));
    }
    if file.is_empty() {
        return Ok(None);
    }
    let path = Path::new(file);
    read_bounded(path)
        .map(Some)
        .map_err(|source| TargetError::File {
            field,
            path: path.to_owned(),
            source,
        })
}

/// Reads a small text file.
pub(super) fn read_bounded(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    let read = file.take(PEM_BYTES_MAX + 1).read_to_string(&mut text)?;
    if PEM_BYTES_MAX < read as u64 {
        return Err(std::io::Error::other("the file is too large"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_normalised() {
        for (address, expected) in [
            (
                "https://Vault-0.Example:8200",
                "https://vault-0.example:8200",
            ),
            ("https://vault-0/", "https://vault-0:443"),
            ("http://127.0.0.1", "http://127.0.0.1:80"),
            (
                "https://[2001:DB8::1]:8200/v1",
                "https://[2001:db8::1]:8200",
            ),
        ] {
            let origin = Origin::parse(address).expect(address);
            assert_eq!(origin.to_string(), expected);
        }
        for address in [
            "",
            "vault:8200",
            "ftp://vault",
            "https://",
            "https://u:p@vault",
            "https://vault:",
        ] {
            assert_eq!(Origin::parse(address), None, "{address}");
        }
    }

    #[test]
    fn text_counts_before_the_file_and_files_are_read() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, "from the file").expect("writes");
        let mut stanza = JoinStanza {
            leader_api_addr: "https://vault:8200".to_owned(),
            leader_ca_cert_file: file.display().to_string(),
            ..JoinStanza::default()
        };
        let target = JoinTarget::new(&stanza).expect("usable");
        assert_eq!(target.ca_pem.as_deref(), Some("from the file"));
        stanza.leader_ca_cert = "from the text".to_owned();
        let target = JoinTarget::new(&stanza).expect("usable");
        assert_eq!(target.ca_pem.as_deref(), Some("from the text"));
    }

    #[test]
    fn unusable_stanzas_say_why() {
        let mut stanza = JoinStanza {
            leader_api_addr: "https://user:password@vault".to_owned(),
            ..JoinStanza::default()
        };
        let message = |stanza: &JoinStanza| {
            let error = JoinTarget::new(stanza).expect_err("unusable");
            error.to_string()
        };
        assert_eq!(
            message(&stanza),
            "the leader API address is not an http or https URL"
        );
        stanza.leader_api_addr = "https://vault:8200".to_owned();
        stanza.leader_client_cert = "certificate".to_owned();
        assert!(message(&stanza).contains("given together"));
        stanza.leader_client_key_file = "/nonexistent/key".to_owned();
        assert_eq!(
            message(&stanza),
            "read leader_client_key_file /nonexistent/key"
        );
        assert!(!format!("{stanza:?}").contains("certificate"));
    }
}
