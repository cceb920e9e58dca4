//! Endpoints with https: certificates are checked, and further authorities can be added.

use std::sync::Arc;

use souk_proto::order::v1::webhook_delivery::State;
use souk_testkit::tls::{Authority, Files};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use super::QUICK;
use crate::harness::both_with;

/// A server that accepts every request. Returns its port.
async fn serve(files: &Files) -> u16 {
    let chain = CertificateDer::pem_file_iter(&files.certificate).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = Vec::new();
                // The body is JSON, which ends with a brace.
                while !request.ends_with(b"}") {
                    let mut some = [0; 4096];
                    let Ok(read @ 1..) = stream.read(&mut some).await else { return };
                    request.extend_from_slice(&some[..read]);
                }
                let _ =
                    stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
                let _ = stream.shutdown().await;
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_checked() {
    let authority = Authority::new();
    let port = serve(&authority.sign("shop")).await;
    let url = format!("https://localhost:{port}/");
    let ca_file = authority.certificate().display().to_string();
    let trusting = [QUICK, &[("WEBHOOKS__CA_FILE", ca_file.as_str())]].concat();
    for (settings, expected) in [(trusting.as_slice(), State::Delivered), (QUICK, State::Failed)] {
        for souk in both_with(settings).await {
            let lamp = souk.stocked("LAMP", 5).await;
            let endpoint = souk.hook(&url, &["order.placed"]).await;
            souk.ordered(&lamp).await;
            let ended = souk.in_state(&endpoint.name, expected, 1).await.remove(0);
            match expected {
                State::Delivered => assert_eq!((ended.last_response_code, ended.attempt_count), (202, 1)),
                _ => assert!(ended.attempts[0].error.to_lowercase().contains("certificate"), "{:?}", ended.attempts[0]),
            }
        }
    }
}
