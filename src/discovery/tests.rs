//! The client against servers on the loopback interface.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::*;

// Recorded from a real OpenBao 2.7.2, envelope and all.
const CHALLENGE: &str = r#"{"request_id":"3bc7b0e1-e233-874d-29ce-0a03943823ab","lease_id":"","renewable":false,"lease_duration":0,"data":{"challenge":"CjSUIw305DEB5omEc6sY0qb7NPINkc7mTrSCBY20I1CTWQ2J+MkAo+Uw8cLwT0pJOcCXOaiAKgA=","seal_config":{"type":"shamir","secret_shares":5,"secret_threshold":3,"pgp_keys":null,"nonce":"","backup":false}},"wrap_info":null,"warnings":null,"auth":null}"#;
const KEYRING: &str = include_str!("../membership/testdata/openbao-2.7.2-keyring.json");

/// A server that gives each connection the next answer and passes on what it
/// was asked.
async fn server(answers: Vec<String>) -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("address").to_string();
    let (sender, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for answer in answers {
            let (stream, _) = listener.accept().await.expect("accepts");
            let _ = sender.send(converse(stream, &answer).await);
        }
    });
    (address, requests)
}

/// Reads one request, writes `answer`.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, answer: &str) -> String {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).await.unwrap_or(0);
        request.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let complete = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                let is_length = name.eq_ignore_ascii_case("content-length");
                is_length.then(|| value.trim().parse().unwrap_or(0))
            });
            length.unwrap_or(0) <= body.len()
        });
        if read == 0 || complete {
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
            return text;
        }
    }
}

fn http(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
}

fn stanza(address: &str) -> JoinStanza {
    JoinStanza {
        leader_api_addr: address.to_owned(),
        ..JoinStanza::default()
    }
}

fn client(address: &str) -> LeaderClient {
    LeaderClient::new(JoinTarget::new(&stanza(address)).expect("usable"))
}

fn answer_request() -> AnswerRequest {
    AnswerRequest {
        server_id: "node2".to_owned(),
        answer: Zeroizing::new(vec![1, 2, 3]),
        cluster_addr: "127.0.0.1:8201".to_owned(),
        non_voter: true,
        extra: Map::from_iter([("incarnation".to_owned(), json!("7"))]),
    }
}

#[tokio::test]
async fn challenge_of_a_real_leader_is_understood() {
    let (address, mut requests) = server(vec![http("200 OK", "", CHALLENGE)]).await;
    let challenge = client(&format!("http://{address}"))
        .challenge("node2")
        .await
        .expect("a challenge");
    // BlobInfo: field 1, 52 bytes (nonce, 24 bytes, tag), empty field 5.
    assert_eq!(challenge.blob.len(), 56);
    assert_eq!(challenge.seal_config["type"], "shamir");
    assert_eq!(challenge.seal_config["secret_threshold"], 3);
    let request = requests.recv().await.expect("a request");
    assert!(request.starts_with("PUT /v1/sys/storage/raft/bootstrap/challenge HTTP/1.1\r\n"));
    assert!(request.contains(&format!("host: {address}\r\n")));
    assert!(request.ends_with("\r\n\r\n{\"server_id\":\"node2\"}"));
}

#[tokio::test]
async fn answer_brings_peers_and_keyring() {
    let body = format!(
        "{{\"data\":{{\"peers\":[{{\"id\":\"node1\",\"address\":\"127.0.0.1:18201\",\"suffrage\":0}},{{\"id\":\"node2\",\"address\":\"127.0.0.1:18211\",\"suffrage\":1}}],\"tls_keyring\":{KEYRING},\"cluster\":\"x\"}}}}"
    );
    let (address, mut requests) = server(vec![http("200 OK", "", &body)]).await;
    let answer = client(&format!("http://{address}"))
        .answer(&answer_request())
        .await
        .expect("accepted");
    assert_eq!(answer.peers.len(), 2);
    assert!(answer.peers[0].voter && !answer.peers[1].voter);
    assert_eq!(answer.peers[1].address, "127.0.0.1:18211");
    let keyring = answer.keyring.expect("a keyring");
    assert_eq!(keyring.to_stored().as_slice(), KEYRING.as_bytes());
    assert_eq!(answer.data["cluster"], "x");
    let request = requests.recv().await.expect("a request");
    let (_, body) = request.split_once("\r\n\r\n").expect("a body");
    let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    let expected = json!({
        "server_id": "node2", "answer": "AQID", "cluster_addr": "127.0.0.1:8201",
        "non_voter": true, "incarnation": "7",
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn each_way_to_fail_has_its_own_reason() {
    let message = |error: ClientError| error.to_string();
    let sealed = http(
        "503 Service Unavailable",
        "",
        r#"{"errors":["Vault is sealed"]}"#,
    );
    let (address, _requests) = server(vec![sealed]).await;
    let url = format!("http://{address}");
    let error = client(&url).challenge("n").await.expect_err("sealed");
    assert_eq!(
        message(error),
        format!("{url} answered 503: Vault is sealed")
    );

    let error = client("http://127.0.0.1:1").challenge("n").await;
    assert!(
        matches!(error, Err(ClientError::Connect { .. })),
        "{error:?}"
    );
    let error = client("http://no-such-host.invalid:1").challenge("n").await;
    assert!(
        matches!(error, Err(ClientError::Resolve { .. })),
        "{error:?}"
    );

    let (address, _requests) = server(vec!["nonsense".to_owned()]).await;
    let error = client(&format!("http://{address}")).challenge("n").await;
    assert!(matches!(error, Err(ClientError::Http { .. })), "{error:?}");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        let _ = stream.write_all(b"no TLS spoken here").await;
    });
    let error = client(&format!("https://{address}")).challenge("n").await;
    assert!(matches!(error, Err(ClientError::Tls { .. })), "{error:?}");

    for body in [
        "",
        "{}",
        "[1]",
        r#"{"data":{"challenge":"!","seal_config":{}}}"#,
    ] {
        let (address, _requests) = server(vec![http("200 OK", "", body)]).await;
        let error = client(&format!("http://{address}")).challenge("n").await;
        assert!(matches!(error, Err(ClientError::Shape { .. })), "{error:?}");
    }
    let huge = http("200 OK", "", &"x".repeat((1 << 20) + 1));
    let (address, _requests) = server(vec![huge]).await;
    let error = client(&format!("http://{address}")).challenge("n").await;
    assert!(matches!(error, Err(ClientError::Body { .. })), "{error:?}");
}

#[tokio::test]
async fn redirect_to_the_leader_is_followed_but_not_for_ever() {
    let (leader, mut asked) = server(vec![http("200 OK", "", CHALLENGE)]).await;
    let location = format!("Location: http://{leader}/v1/sys/storage/raft/bootstrap/challenge\r\n");
    let (standby, _) = server(vec![http("307 Temporary Redirect", &location, "")]).await;
    client(&format!("http://{standby}"))
        .challenge("n")
        .await
        .expect("the leader's challenge");
    let request = asked.recv().await.expect("the leader was asked");
    assert!(request.starts_with("PUT /v1/sys/storage/raft/bootstrap/challenge "));

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("address").to_string();
    let again = http(
        "307 Temporary Redirect",
        &format!("Location: http://{address}/\r\n"),
        "",
    );
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("accepts");
            converse(stream, &again).await;
        }
    });
    let error = client(&format!("http://{address}")).challenge("n").await;
    assert!(error.expect_err("loops").to_string().contains("too many"));
}

/// A TLS server with a certificate for `name`; its PEM.
async fn tls_server(name: &str, is_ca: rcgen::IsCa, answers: Vec<String>) -> (String, String) {
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
    params.is_ca = is_ca;
    let key = rcgen::KeyPair::generate().expect("a key");
    let cert = params.self_signed(&key).expect("certificate");
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .expect("certificate and key match");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("address").to_string();
    tokio::spawn(async move {
        for answer in answers {
            let (tcp, _) = listener.accept().await.expect("accepts");
            if let Ok(stream) = acceptor.accept(tcp).await {
                converse(stream, &answer).await;
            }
        }
    });
    (address, cert.pem())
}

/// `openssl req -x509` marks a server's certificate as an authority.
#[tokio::test]
async fn self_signed_authority_is_accepted_only_when_named_and_for_its_name() {
    let is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let answers = vec![http("200 OK", "", CHALLENGE); 4];
    let (address, pem) = tls_server("vault.example", is_ca, answers).await;
    let (_, other) = tls_server("vault.example", is_ca, Vec::new()).await;
    let ask = async |named: &str, name: &str| {
        let mut stanza = stanza(&format!("https://{address}"));
        named.clone_into(&mut stanza.leader_ca_cert);
        name.clone_into(&mut stanza.leader_tls_servername);
        let target = JoinTarget::new(&stanza).expect("usable");
        LeaderClient::new(target).challenge("n").await
    };
    for (named, name) in [
        ("", "vault.example"),
        (&other, "vault.example"),
        (&pem, "x.example"),
    ] {
        let error = ask(named, name).await;
        assert!(matches!(error, Err(ClientError::Tls { .. })), "{error:?}");
    }
    ask(&pem, "vault.example").await.expect("a challenge");
}

#[tokio::test]
async fn certificate_of_the_leader_is_verified() {
    let answers = vec![http("200 OK", "", CHALLENGE); 4];
    let (address, pem) = tls_server("vault.example", rcgen::IsCa::NoCa, answers).await;
    let mut stanza = stanza(&format!("https://{address}"));
    let ask = async |stanza: &JoinStanza| {
        let target = JoinTarget::new(stanza).expect("usable");
        LeaderClient::new(target).challenge("n").await
    };
    // Unknown authority; known, but for another name; right.
    let error = ask(&stanza).await;
    assert!(matches!(error, Err(ClientError::Tls { .. })), "{error:?}");
    stanza.leader_ca_cert = pem;
    let error = ask(&stanza).await;
    assert!(matches!(error, Err(ClientError::Tls { .. })), "{error:?}");
    stanza.leader_tls_servername = "vault.example".to_owned();
    ask(&stanza).await.expect("a challenge");

    stanza.leader_ca_cert = "no PEM".to_owned();
    let error = ask(&stanza).await.expect_err("no certificate");
    let ClientError::TlsSetup { source, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(source.to_string(), "leader_ca_cert holds no certificate");
}

#[tokio::test]
async fn first_challenge_of_a_round_counts_and_failures_are_named() {
    let (good, _requests) = server(vec![http("200 OK", "", CHALLENGE)]).await;
    // Accepts, and never answers: must not delay the round.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let silent_address = silent.local_addr().expect("address");
    let stanzas = [
        stanza("http://127.0.0.1:1"),
        stanza(&format!("http://{silent_address}")),
        stanza(&format!("http://{good}")),
    ];
    let round = tokio::time::timeout(Duration::from_secs(5), find_leader(&stanzas, "n"));
    let (client, _) = round.await.expect("at once").expect("a challenge");
    assert!(format!("{client:?}").contains(&good));

    let stanzas = [stanza("http://127.0.0.1:1"), stanza("nonsense")];
    let mut failures = find_leader(&stanzas, "n").await.expect_err("no leader");
    failures.sort_by(|a, b| a.leader_api_addr.cmp(&b.leader_api_addr));
    let texts: Vec<_> = failures.iter().map(|f| f.error.to_string()).collect();
    assert_eq!(
        texts,
        [
            "connect to http://127.0.0.1:1",
            "the leader API address is not an http or https URL"
        ]
    );
    assert!(find_leader(&[], "n").await.expect_err("nobody").is_empty());
}
