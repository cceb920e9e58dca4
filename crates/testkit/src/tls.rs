//! Certificates for tests, in temporary files.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

/// A certificate authority. Its files are removed when it is dropped.
pub struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub struct Files {
    /// The file with the certificate, in PEM.
    pub certificate: PathBuf,
    /// The file with the key, in PEM.
    pub key: PathBuf,
}

impl Authority {
    /// A new authority, which is trusted only where a test says so.
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

    /// The file with the authority's own certificate, in PEM.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Signs a certificate for `localhost` and 127.0.0.1. Files of the same name are overwritten.
    pub fn sign(&self, name: &str) -> Files {
        self.sign_for(name, &["localhost", "127.0.0.1"])
    }

    /// Signs a certificate for other hosts, as [`Authority::sign`] does.
    pub fn sign_for(&self, name: &str, hosts: &[&str]) -> Files {
        self.signed(name, hosts, |_| {})
    }

    /// Signs a certificate as [`Authority::sign`] does, but one that has expired.
    pub fn sign_expired(&self, name: &str) -> Files {
        self.signed(name, &["localhost", "127.0.0.1"], |params| params.not_after = rcgen::date_time_ymd(2001, 1, 1))
    }

    fn signed(&self, name: &str, hosts: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Files {
        let signed = self.try_sign(name, hosts, change);
        signed.unwrap_or_else(|error| panic!("the test's authority cannot sign {name}: {error:#}"))
    }

    fn try_sign(
        &self,
        name: &str,
        hosts: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> anyhow::Result<Files> {
        let mut params = CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
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
