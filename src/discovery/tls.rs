//! TLS towards a leader's API port: an ordinary client, unlike the pinned TLS
//! between peers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

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
    let roots = match &target.ca_pem {
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            add(&mut roots, "leader_ca_cert", pem)?;
            roots
        }
        None => system_roots()?,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsSetupError::Configuration)?
        .with_root_certificates(roots);
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

fn system_roots() -> Result<RootCertStore, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if let Some(path) = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()) {
        let path = Path::new(&path);
        let pem = read_bounded(path).map_err(|source| TlsSetupError::Roots {
            path: path.to_owned(),
            source,
        })?;
        add(&mut roots, "SSL_CERT_FILE", &pem)?;
    }
    Ok(roots)
}

fn add(roots: &mut RootCertStore, what: &'static str, pem: &str) -> Result<(), TlsSetupError> {
    let (added, _ignored) = roots.add_parsable_certificates(certificates(what, pem)?);
    if added == 0 {
        return Err(TlsSetupError::Empty(what));
    }
    Ok(())
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
