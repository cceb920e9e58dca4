//! TLS for clients, and for services that ask for a certificate.

use std::{io, path::Path, sync::Arc};

use reqwest::StatusCode;
use souk_testkit::{
    tls::{Authority, Files},
    wait,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, SupportedProtocolVersion,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
        version::{TLS12, TLS13},
    },
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity, ServerTlsConfig};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    boot::{Booted, boot_with},
    edge::LONG,
};

async fn boot(files: &Files, settings: &[(&str, &str)]) -> Booted {
    let (certificate, key) = (files.certificate.to_str().unwrap(), files.key.to_str().unwrap());
    let own = [("gateway.tls.certificate", certificate), ("gateway.tls.key", key)];
    boot_with(&[&own, settings].concat(), |address| address).await
}

fn address(souk: &Booted) -> &str {
    souk.url.trim_start_matches("http://")
}

async fn connect(
    souk: &Booted,
    ca: &Path,
    protocol: &str,
    version: &'static SupportedProtocolVersion,
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = TcpStream::connect(address(souk)).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

/// The certificate that the gateway presents.
async fn seen(souk: &Booted, ca: &Path) -> CertificateDer<'static> {
    let stream = connect(souk, ca, "http/1.1", &TLS13).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

#[tokio::test]
async fn http1_and_http2_work_over_tls() {
    let authority = Authority::new();
    let souk = boot(&authority.sign("gateway"), &[]).await;
    let mut stream = connect(&souk, &authority.certificate(), "http/1.1", &TLS13).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("strict-transport-security: max-age=31536000"), "{answer}");

    let ca = Certificate::from_pem(std::fs::read(authority.certificate()).unwrap());
    let endpoint = Endpoint::from_shared(format!("https://{}", address(&souk))).unwrap();
    let endpoint = endpoint.tls_config(ClientTlsConfig::new().ca_certificate(ca).domain_name("localhost")).unwrap();
    let channel = endpoint.connect().await.unwrap();
    HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap();
    // A connection without TLS gets no response.
    assert!(souk.request("GET", "/livez").send().await.is_err());
}

#[tokio::test]
async fn a_response_arrives_over_tls_even_if_the_request_body_is_too_large() {
    let authority = Authority::new();
    let souk = boot(&authority.sign("gateway"), &[("server.max_request_bytes", "4KiB")]).await;
    let mut stream = connect(&souk, &authority.certificate(), "http/1.1", &TLS13).await.unwrap();
    let size = 2 * 1024 * 1024;
    let head = format!("GET /test/v1/signedIn HTTP/1.1\r\nhost: localhost\r\ncontent-length: {size}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'x'; size]).await.expect("the gateway reads on");
    let mut answer = String::new();
    tokio::time::timeout(LONG, stream.read_to_string(&mut answer)).await.expect("the gateway closes").unwrap();
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn old_tls_versions_are_accepted_only_if_configured() {
    let authority = Authority::new();
    let (files, ca) = (authority.sign("gateway"), authority.certificate());
    let souk = boot(&files, &[]).await;
    connect(&souk, &ca, "h2", &TLS12).await.unwrap_err();
    connect(&souk, &ca, "h2", &TLS13).await.unwrap();
    let souk = boot(&files, &[("gateway.tls.min_version", "1.2")]).await;
    for version in [&TLS12, &TLS13] {
        let stream = connect(&souk, &ca, "h2", version).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
    }
}

#[tokio::test]
async fn a_changed_certificate_is_used_and_open_connections_stay() {
    let authority = Authority::new();
    let ca = authority.certificate();
    let souk = boot(&authority.sign("gateway"), &[]).await;
    let first = seen(&souk, &ca).await;
    let mut open = connect(&souk, &ca, "http/1.1", &TLS13).await.unwrap();
    authority.sign("gateway");
    wait::until(LONG, "the new certificate to be in force", async || seen(&souk, &ca).await != first).await;
    open.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test]
async fn clients_that_do_not_finish_the_handshake_are_disconnected() {
    let authority = Authority::new();
    let souk = boot(&authority.sign("gateway"), &[("gateway.header_timeout", "300ms")]).await;
    // Nothing, half a handshake, and HTTP without TLS.
    for first in [&b""[..], b"\x16\x03\x01\x02\x00\x01", b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n"] {
        let mut stream = TcpStream::connect(address(&souk)).await.unwrap();
        stream.write_all(first).await.unwrap();
        let mut answer = Vec::new();
        // A reset counts as the end, too.
        let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.expect("the gateway closes");
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    }
    // A client that finishes the handshake, for which there is enough time, and then stays silent.
    let souk = boot(&authority.sign("gateway"), &[("gateway.header_timeout", "2s")]).await;
    let mut stream = connect(&souk, &authority.certificate(), "http/1.1", &TLS13).await.unwrap();
    let _ = tokio::time::timeout(LONG, stream.read_to_end(&mut Vec::new())).await.expect("the gateway closes");
}

#[tokio::test]
async fn the_gateway_sends_its_certificate_to_services_that_ask_for_one() {
    let authority = Authority::new();
    let (service, own) = (authority.sign("service"), authority.sign("gateway"));
    let pem = |path: &Path| std::fs::read(path).unwrap();
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(pem(&service.certificate), pem(&service.key)))
        .client_ca_root(Certificate::from_pem(pem(&authority.certificate())));
    let (address, _health) =
        crate::echo::serve_over(Some(tls), crate::boot::contract(), CancellationToken::new()).await;
    let ca = authority.certificate();
    let settings = [
        ("client.tls.ca", ca.to_str().unwrap()),
        ("client.tls.certificate", own.certificate.to_str().unwrap()),
        ("client.tls.key", own.key.to_str().unwrap()),
    ];
    let shown = boot_with(&settings, |_| address.clone()).await;
    shown.get("/test/v1/things/1").await.ok();
    assert_eq!(shown.get("/readyz").await.status, StatusCode::OK);
    let not_shown = boot_with(&settings[..1], |_| address.clone()).await;
    not_shown.get("/test/v1/things/1").await.problem(503, "SERVICE_UNAVAILABLE");
}
