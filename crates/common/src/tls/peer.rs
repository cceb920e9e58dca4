//! TLS to servers that are not part of souk: PostgreSQL, Redis, NATS, a collector. They share one shape of settings,
//! [`ClientSettings`]: an authority (a private one, or those that the system trusts), and a client certificate for
//! servers that require one.

use std::sync::Arc;

use tokio_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use super::{ClientSettings, TlsError, is_empty, read, rejected, require, roots, showing};

/// How a server's certificate is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// No verification. This protects against eavesdropping only.
    Nothing,
    /// The certificate must be signed by a trusted authority, but may be for any name.
    Chain,
    /// The certificate must be signed by a trusted authority and be for the server's name.
    Full,
}

impl ClientSettings {
    /// True if no setting is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        [&self.ca, &self.certificate, &self.key].into_iter().all(|path| is_empty(path))
    }

    /// The TLS configuration for connections to a server, with TLS 1.2 or later.
    ///
    /// # Errors
    /// If a file is missing, cannot be read or is invalid.
    pub fn connector(&self, verify: Verify) -> Result<ClientConfig, TlsError> {
        self.check_pair()?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(rejected("ca"))?;
        let builder = match verify {
            Verify::Full => builder.with_root_certificates(self.trusted()?),
            Verify::Chain | Verify::Nothing => {
                let roots = if verify == Verify::Chain { Some(self.trusted()?) } else { None };
                let verifier = Arc::new(AnyName { roots, provider });
                builder.dangerous().with_custom_certificate_verifier(verifier)
            }
        };
        showing(builder, &self.certificate, &self.key)
    }

    /// The contents of the files, for libraries that parse PEM themselves. The contents have been validated.
    ///
    /// # Errors
    /// If a file is missing, cannot be read or is invalid.
    pub fn pem(&self) -> Result<Pem, TlsError> {
        self.connector(if is_empty(&self.ca) { Verify::Nothing } else { Verify::Full })?;
        let ca = if is_empty(&self.ca) { None } else { Some(read("ca", &self.ca)?) };
        let identity = match is_empty(&self.certificate) {
            true => None,
            false => Some((read("certificate", &self.certificate)?, read("key", &self.key)?)),
        };
        Ok(Pem { ca, identity })
    }

    fn check_pair(&self) -> Result<(), TlsError> {
        require("certificate", &self.certificate, &[("key", &self.key)])?;
        require("key", &self.key, &[("certificate", &self.certificate)])
    }

    /// The trusted authorities for server certificates.
    fn trusted(&self) -> Result<RootCertStore, TlsError> {
        if !is_empty(&self.ca) {
            return roots("ca", &self.ca);
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() { Err(TlsError::NoSystemRoots { setting: "ca" }) } else { Ok(roots) }
    }
}

/// The contents of the files of [`ClientSettings`].
#[derive(Clone)]
pub struct Pem {
    /// The authority. `None`: the authorities that the system trusts.
    pub ca: Option<Vec<u8>>,
    /// The client certificate and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Accepts a server certificate for any name. The signatures of the handshake are still verified.
#[derive(Debug)]
struct AnyName {
    /// The trusted authorities. `None`: any authority is trusted.
    roots: Option<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
