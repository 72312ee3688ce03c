//! TLS towards a leader's API port: an ordinary client, unlike the pinned TLS
//! between peers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::self_signed::NamedOrIssued;
use super::target::{JoinTarget, read_bounded};

/// TLS that cannot be set up for a target.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// Not PEM, or PEM of something else.
    #[error("parse {what}: {reason}")]
    Pem {
        /// Which text.
        what: &'static str,
        /// Why not.
        reason: String,
    },
    /// No certificate at all in it.
    #[error("{0} holds no certificate")]
    Empty(&'static str),
    /// `SSL_CERT_FILE` names a file that cannot be read.
    #[error("read SSL_CERT_FILE {}", path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Neither a DNS name nor an IP address.
    #[error("{0:?} is not a TLS server name")]
    ServerName(String),
    /// The library refuses the certificates or the key.
    #[error("configure TLS")]
    Configuration(#[source] rustls::Error),
}

/// Configuration and expected name for an `https` target. Without a CA of its
/// own a target is verified against the public roots and `SSL_CERT_FILE`.
pub(super) fn configure(
    target: &JoinTarget,
) -> Result<(Arc<ClientConfig>, ServerName<'static>), TlsSetupError> {
    let mut roots = RootCertStore::empty();
    let named = match &target.ca_pem {
        Some(pem) => add(&mut roots, "leader_ca_cert", pem)?,
        None => add_system_roots(&mut roots)?,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = NamedOrIssued::new(named, roots, Arc::clone(&provider))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsSetupError::Configuration)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &target.client_identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = certificates("leader_client_cert", &identity.certificates_pem)?;
            let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(|_| {
                // The library's word might quote the key.
                TlsSetupError::Pem {
                    what: "leader_client_key",
                    reason: "not a private key".to_owned(),
                }
            })?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(TlsSetupError::Configuration)?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = target.server_name.as_ref().unwrap_or(&target.origin.host);
    let server_name =
        ServerName::try_from(name.clone()).map_err(|_| TlsSetupError::ServerName(name.clone()))?;
    Ok((Arc::new(config), server_name))
}

/// The public authorities and those in `SSL_CERT_FILE`; returns the latter.
fn add_system_roots(
    roots: &mut RootCertStore,
) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let Some(path) = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()) else {
        return Ok(Vec::new());
    };
    let path = Path::new(&path);
    let pem = read_bounded(path).map_err(|source| TlsSetupError::Roots {
        path: path.to_owned(),
        source,
    })?;
    add(roots, "SSL_CERT_FILE", &pem)
}

/// Adds the certificates of a PEM text; returns them.
fn add(
    roots: &mut RootCertStore,
    what: &'static str,
    pem: &str,
) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let named = certificates(what, pem)?;
    let (added, _ignored) = roots.add_parsable_certificates(named.iter().cloned());
    if added == 0 {
        return Err(TlsSetupError::Empty(what));
    }
    Ok(named)
}

fn certificates(
    what: &'static str,
    pem: &str,
) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let chain = parsed.map_err(|error| TlsSetupError::Pem {
        what,
        reason: error.to_string(),
    })?;
    if chain.is_empty() {
        return Err(TlsSetupError::Empty(what));
    }
    Ok(chain)
}
