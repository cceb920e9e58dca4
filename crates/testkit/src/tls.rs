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
        Self::make().unwrap_or_else(|error| panic!("the test's authority cannot be made: {error:#}"))
    }

    fn make() -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "souk test authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let authority = Self { folder: tempfile::tempdir()?, issuer };
        std::fs::write(authority.certificate(), authority.issuer.pem())?;
        Ok(authority)
    }

    /// The authority's own certificate, PEM.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Signs a certificate for `localhost` and 127.0.0.1 and writes it and its key over those of the same name.
    pub fn sign(&self, name: &str) -> Files {
        self.try_sign(name).unwrap_or_else(|error| panic!("the test's authority cannot sign {name}: {error:#}"))
    }

    fn try_sign(&self, name: &str) -> anyhow::Result<Files> {
        let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let signed = params.signed_by(&key, &self.issuer)?;
        let file = |ending: &str| self.folder.path().join(format!("{name}.{ending}.pem"));
        let files = Files { certificate: file("certificate"), key: file("key") };
        std::fs::write(&files.certificate, signed.pem())?;
        std::fs::write(&files.key, key.serialize_pem())?;
        Ok(files)
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
