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
        self.sign_for(name, &["localhost", "127.0.0.1"])
    }

    /// The same for other hosts.
    pub fn sign_for(&self, name: &str, hosts: &[&str]) -> Files {
        self.signed(name, hosts, |_| {})
    }

    /// The same as [`Authority::sign`], but nobody should take it any more.
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
