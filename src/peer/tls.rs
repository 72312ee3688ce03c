//! Mutual TLS between peers, with the certificates of the keyring pinned.
//!
//! TLS 1.3 only. A peer is whoever proves possession of the private key of a
//! certificate that is, byte for byte, in the keyring. Names, issuers and
//! validity times are not looked at: a clock that runs ahead must not cut a
//! cluster apart. Sessions are never resumed, for a resumed one would outlive
//! a key taken out of the keyring.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use aws_lc_rs::signature::{ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use zeroize::Zeroizing;

use crate::membership::decimal::SCALAR_BYTES;
use crate::membership::{Keyring, KeyringError, KeyringKey};

pub use super::certificate::{GenerateError, generate_key, generate_keyring};

/// What a connection is for, agreed on in the TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// Consensus messages.
    Raft,
    /// A snapshot on its way.
    Snapshot,
    /// Requests forwarded to the leader.
    Forward,
}

impl Service {
    /// Every service.
    pub const ALL: [Self; 3] = [Self::Raft, Self::Snapshot, Self::Forward];

    /// The name in the TLS handshake.
    #[must_use]
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Self::Raft => b"holdfast-raft/1",
            Self::Snapshot => b"holdfast-snapshot/1",
            Self::Forward => b"holdfast-forward/1",
        }
    }

    /// The service of a name, if it is one.
    #[must_use]
    pub fn of_alpn(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|service| service.alpn() == name)
    }
}

/// A keyring that cannot be used for TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not a keyring.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// Numbers that are no P-521 key pair.
    #[error("load raft TLS key {id}: not a P-521 key pair")]
    KeyPair {
        /// Which key.
        id: String,
    },
    /// A certificate that does not parse or belongs to another key.
    #[error("load raft TLS key {id}: certificate and private key do not match")]
    Certificate {
        /// Which key.
        id: String,
        /// The library's word.
        #[source]
        source: Error,
    },
    /// An id that cannot be a server name.
    #[error("load raft TLS key: its id is not a DNS name")]
    ServerName,
    /// The TLS library refuses the configuration.
    #[error("configure raft TLS")]
    Configuration(#[source] Error),
}

/// The peers' TLS, replaceable while connections are made. Empty until a
/// keyring is loaded: then every handshake is refused.
#[derive(Debug, Default)]
pub struct PeerTls {
    loaded: ArcSwapOption<LoadedKeyring>,
}

/// Configurations made from one keyring.
#[derive(Debug)]
pub(super) struct LoadedKeyring {
    pub(super) server: Arc<ServerConfig>,
    clients: [Arc<ClientConfig>; 3],
    pub(super) server_name: ServerName<'static>,
}

impl LoadedKeyring {
    pub(super) fn client(&self, service: Service) -> Arc<ClientConfig> {
        Arc::clone(&self.clients[service as usize])
    }
}

impl PeerTls {
    /// TLS with the keyring in `json`.
    ///
    /// # Errors
    /// The keyring does not parse, or holds a key that does not fit its
    /// certificate.
    pub fn new(json: &[u8]) -> Result<Self, TlsError> {
        let tls = Self::default();
        tls.replace(json)?;
        Ok(tls)
    }

    /// Uses the keyring in `json` from the next handshake on. Connections that
    /// stand are not touched.
    ///
    /// # Errors
    /// As [`PeerTls::new`]; the previous keyring then stays in use.
    pub fn replace(&self, json: &[u8]) -> Result<(), TlsError> {
        let keyring = Keyring::parse(json)?;
        self.loaded.store(Some(Arc::new(load(&keyring)?)));
        Ok(())
    }

    /// Refuses every handshake from now on.
    pub fn clear(&self) {
        self.loaded.store(None);
    }

    pub(super) fn loaded(&self) -> Option<Arc<LoadedKeyring>> {
        self.loaded.load_full()
    }
}

fn load(keyring: &Keyring) -> Result<LoadedKeyring, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let keys = keyring
        .keys
        .iter()
        .map(|key| Ok((key.id.clone(), Arc::new(certified(key)?))))
        .collect::<Result<Vec<_>, TlsError>>()?;
    let active = keys
        .iter()
        .find(|(id, _)| *id == keyring.active_key_id)
        .map(|(_, key)| Arc::clone(key))
        .ok_or(KeyringError::NoActiveKey)?;
    let server_name =
        ServerName::try_from(keyring.active_key_id.clone()).map_err(|_| TlsError::ServerName)?;
    let pins = Arc::new(PinnedCertificates {
        certificates: keyring.keys.iter().map(|k| k.certificate.clone()).collect(),
        provider: Arc::clone(&provider),
    });

    let client = |service: Service| {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::<PinnedCertificates>::clone(&pins))
            .with_client_cert_resolver(Arc::new(ActiveKey(Arc::clone(&active))));
        config.alpn_protocols = vec![service.alpn().to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    };
    let configure =
        |result: Result<Arc<ClientConfig>, Error>| result.map_err(TlsError::Configuration);
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Configuration)?
        .with_client_cert_verifier(Arc::<PinnedCertificates>::clone(&pins))
        .with_cert_resolver(Arc::new(KeyByName {
            keys,
            active: Arc::clone(&active),
        }));
    server.alpn_protocols = Service::ALL.map(|s| s.alpn().to_vec()).to_vec();
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Ok(LoadedKeyring {
        server: Arc::new(server),
        clients: [
            configure(client(Service::Raft))?,
            configure(client(Service::Snapshot))?,
            configure(client(Service::Forward))?,
        ],
        server_name,
    })
}

fn certified(key: &KeyringKey) -> Result<CertifiedKey, TlsError> {
    let bad_pair = || TlsError::KeyPair { id: key.id.clone() };
    let mut point = Vec::with_capacity(1 + 2 * SCALAR_BYTES);
    point.push(0x04);
    point.extend_from_slice(key.x.as_be_bytes());
    point.extend_from_slice(key.y.as_be_bytes());
    let pair = EcdsaKeyPair::from_private_key_and_public_key(
        &ECDSA_P521_SHA512_ASN1_SIGNING,
        key.d.as_be_bytes(),
        &point,
    )
    .map_err(|_| bad_pair())?;
    let document = pair.to_pkcs8v1().map_err(|_| bad_pair())?;
    let pkcs8 = Zeroizing::new(document.as_ref().to_vec());
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.as_slice()));
    let signer = any_ecdsa_type(&der).map_err(|_| bad_pair())?;
    let certified = CertifiedKey::new(vec![CertificateDer::from(key.certificate.clone())], signer);
    certified
        .keys_match()
        .map_err(|source| TlsError::Certificate {
            id: key.id.clone(),
            source,
        })?;
    Ok(certified)
}

/// Accepts exactly the keyring's certificates, from either side.
#[derive(Debug)]
struct PinnedCertificates {
    certificates: Vec<Vec<u8>>,
    provider: Arc<CryptoProvider>,
}

impl PinnedCertificates {
    fn check(&self, presented: &CertificateDer<'_>) -> Result<(), Error> {
        let known = self
            .certificates
            .iter()
            .any(|pinned| pinned.as_slice() == presented.as_ref());
        if known {
            Ok(())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }
}

const NO_TLS12: &str = "peers speak TLS 1.3 only";

impl ServerCertVerifier for PinnedCertificates {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General(NO_TLS12.to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP521_SHA512]
    }
}

impl ClientCertVerifier for PinnedCertificates {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General(NO_TLS12.to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP521_SHA512]
    }
}

/// The server's choice: the key the client named, else the active one (the
/// client may have a keyring that is newer or older by one rotation).
#[derive(Debug)]
struct KeyByName {
    keys: Vec<(String, Arc<CertifiedKey>)>,
    active: Arc<CertifiedKey>,
}

impl ResolvesServerCert for KeyByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| {
            self.keys
                .iter()
                .find(|(id, _)| id == name)
                .map(|(_, key)| Arc::clone(key))
        });
        named.or_else(|| Some(Arc::clone(&self.active)))
    }
}

/// The client's only certificate.
#[derive(Debug)]
struct ActiveKey(Arc<CertifiedKey>);

impl ResolvesClientCert for ActiveKey {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REAL: &[u8] = include_bytes!("../membership/testdata/openbao-2.7.2-keyring.json");

    fn generated() -> Keyring {
        Keyring::parse(&generate_keyring().expect("generates")).expect("parses")
    }

    #[test]
    fn services_are_told_apart_by_name() {
        for service in Service::ALL {
            assert_eq!(Service::of_alpn(service.alpn()), Some(service));
        }
        assert_eq!(Service::of_alpn(b"raft_storage_v1"), None);
    }

    #[test]
    fn keyring_of_a_real_openbao_can_be_used() {
        let tls = PeerTls::new(REAL).expect("usable");
        let loaded = tls.loaded().expect("loaded");
        let name = loaded.server_name.to_str().into_owned();
        assert_eq!(name, "raft-cefbf884-4df5-2f9c-b85e-499eb8cbd549");
    }

    #[test]
    fn certificate_of_another_key_is_refused_and_the_old_keyring_stays() {
        let (mut keyring, other) = (generated(), generated());
        keyring.keys[0].certificate = other.keys[0].certificate.clone();
        let tls = PeerTls::new(REAL).expect("usable");
        let error = tls.replace(&keyring.to_stored()).expect_err("mismatch");
        assert!(matches!(error, TlsError::Certificate { .. }), "{error}");
        let name = tls.loaded().expect("still loaded").server_name.clone();
        assert!(name.to_str().starts_with("raft-cefbf884"));
    }

    #[test]
    fn numbers_that_are_no_key_pair_are_refused() {
        let (mut keyring, other) = (generated(), generated());
        keyring.keys[0].d = other.keys[0].d.clone();
        let error = PeerTls::new(&keyring.to_stored()).expect_err("no pair");
        assert!(matches!(error, TlsError::KeyPair { .. }), "{error}");
    }

    #[test]
    fn debug_shows_no_key() {
        let tls = PeerTls::new(REAL).expect("usable");
        let secret = Keyring::parse(REAL).expect("parses").keys[0].d.to_decimal();
        let shown = format!("{tls:?}");
        assert!(!shown.contains(&secret[..20]));
        assert!(!shown.contains(&hex::encode(&REAL[..8])));
    }
}
