//! TLS to servers that are not souk's own: PostgreSQL, Redis, NATS, a collector. They have one shape of settings,
//! [`ClientSettings`]: a private authority, or whom the system trusts; and a certificate for those that ask for one.

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

/// The verification of a server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Nothing: what is sent is hidden from those who only listen.
    Nothing,
    /// A trusted authority signed it, for any name.
    Chain,
    /// A trusted authority signed it for the server's name.
    Full,
}

impl ClientSettings {
    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        [&self.ca, &self.certificate, &self.key].into_iter().all(|path| is_empty(path))
    }

    /// What connections to a server are made with, by TLS 1.2 or newer.
    ///
    /// # Errors
    /// A file that cannot be read or used, or is missing.
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

    /// The files' contents, for libraries that read them themselves. Both have been found usable.
    ///
    /// # Errors
    /// A file that cannot be read or used, or is missing.
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

    /// The trusted authorities of server certificates.
    fn trusted(&self) -> Result<RootCertStore, TlsError> {
        if !is_empty(&self.ca) {
            return roots("ca", &self.ca);
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() { Err(TlsError::NoSystemRoots { setting: "ca" }) } else { Ok(roots) }
    }
}

/// What is in the files of [`ClientSettings`].
#[derive(Clone)]
pub struct Pem {
    /// The authority; `None`: whom the system trusts.
    pub ca: Option<Vec<u8>>,
    /// Our certificate and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Takes a certificate for whatever name. The handshake itself is checked as ever.
#[derive(Debug)]
struct AnyName {
    /// The trusted authorities. `None`: any.
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
