//! Certificates of the test's own, in files of its own.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

/// Signs certificates for as long as it lives; its files are gone with it.
pub struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub struct Files {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// The key, PEM.
    pub key: PathBuf,
}

impl Authority {
    /// A new one, that nobody else trusts.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are valid names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "souk test authority");
        let key = KeyPair::generate().expect("a key for the test's authority");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("the test's authority signs itself");
        let folder = tempfile::tempdir().expect("a folder for certificates");
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("a file for the authority's certificate");
        Self { folder, issuer }
    }

    /// The authority's own certificate, PEM.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Signs a certificate for `localhost` and 127.0.0.1 and writes it and its key over those of the same name.
    pub fn sign(&self, name: &str) -> Files {
        let hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(hosts).expect("names of a certificate");
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key for a certificate");
        let signed = params.signed_by(&key, &self.issuer).expect("the test's authority signs");
        let file = |ending: &str| self.folder.path().join(format!("{name}.{ending}.pem"));
        let files = Files { certificate: file("certificate"), key: file("key") };
        std::fs::write(&files.certificate, signed.pem()).expect("a file for a certificate");
        std::fs::write(&files.key, key.serialize_pem()).expect("a file for a key");
        files
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
