//! A TLS listener, spoken to by a real TLS client.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::fake::{FakeVault, Nowhere, Role, router};
use super::server::{Limits, Listener, serve};
use super::tls::{ReloadableTls, TlsError, TlsFiles, TlsVersion};

/// Writes a new self-signed certificate; returns where it is.
fn certificate(folder: &Path) -> TlsFiles {
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = TlsFiles {
        certificate: folder.join("certificate.pem"),
        key: folder.join("key.pem"),
        client_authorities: None,
        client_certificate_required: false,
        version_min: TlsVersion::Tls12,
    };
    std::fs::write(&files.certificate, signed.cert.pem()).unwrap();
    std::fs::write(&files.key, signed.signing_key.serialize_pem()).unwrap();
    files
}

async fn listen(tls: Arc<ReloadableTls>) -> (SocketAddr, CancellationToken) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = Listener::bind(any, Some(tls), Limits::default())
        .await
        .unwrap();
    let address = listener.address().unwrap();
    let stop = CancellationToken::new();
    let router = router(&FakeVault::playing(Role::Active), Nowhere);
    tokio::spawn(serve(
        listener,
        router,
        stop.clone(),
        Duration::from_secs(1),
    ));
    (address, stop)
}

async fn connect(
    address: SocketAddr,
    trusted: &Path,
    protocol: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    let trusted = CertificateDer::from_pem_file(trusted).unwrap();
    roots.add(trusted).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(address).await?;
    connector
        .connect(ServerName::try_from("localhost").unwrap(), stream)
        .await
}

#[tokio::test]
async fn tls_speaks_the_protocol_agreed_on() {
    let folder = tempfile::tempdir().unwrap();
    let files = certificate(folder.path());
    let tls = Arc::new(ReloadableTls::load(files.clone()).unwrap());
    let (address, stop) = listen(tls).await;
    let request = || {
        let request = Request::get("https://localhost/v1/sys/health");
        request.body(Empty::<bytes::Bytes>::new()).unwrap()
    };

    let stream = connect(address, &files.certificate, "h2").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let reply = sender.send_request(request()).await.unwrap();
    assert_eq!(reply.status(), 200);
    let body = reply.into_body().collect().await.unwrap().to_bytes();
    assert!(body.ends_with(b"}\n"));

    let stream = connect(address, &files.certificate, "http/1.1")
        .await
        .unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    assert_eq!(sender.send_request(request()).await.unwrap().status(), 200);
    stop.cancel();
}

#[tokio::test]
async fn tls_reload_serves_the_new_certificate_and_keeps_the_old_when_it_is_bad() {
    let folder = tempfile::tempdir().unwrap();
    let old = tempfile::tempdir().unwrap();
    let files = certificate(folder.path());
    std::fs::copy(&files.certificate, old.path().join("old.pem")).unwrap();
    let tls = Arc::new(ReloadableTls::load(files.clone()).unwrap());
    let (address, stop) = listen(Arc::clone(&tls)).await;
    certificate(folder.path());
    assert!(connect(address, &files.certificate, "h2").await.is_err());
    tls.reload().unwrap();
    assert!(connect(address, &files.certificate, "h2").await.is_ok());
    assert!(
        connect(address, &old.path().join("old.pem"), "h2")
            .await
            .is_err()
    );
    std::fs::write(&files.key, "no key").unwrap();
    assert!(matches!(
        tls.reload(),
        Err(TlsError::File {
            what: "private key",
            ..
        })
    ));
    assert!(connect(address, &files.certificate, "h2").await.is_ok());
    stop.cancel();
}

#[tokio::test]
async fn tls_requires_client_certificates_when_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = certificate(folder.path());
    files.client_authorities = Some(files.certificate.clone());
    files.client_certificate_required = true;
    let tls = Arc::new(ReloadableTls::load(files.clone()).unwrap());
    let (address, stop) = listen(tls).await;
    // In TLS 1.3 the client learns of the refusal with its first read.
    let refused = match connect(address, &files.certificate, "http/1.1").await {
        Err(_) => true,
        Ok(mut stream) => {
            let mut buffer = [0; 1];
            tokio::io::AsyncReadExt::read(&mut stream, &mut buffer)
                .await
                .is_err()
        }
    };
    assert!(refused);
    stop.cancel();
}
