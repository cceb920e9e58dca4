//! Certificates that the processes of an installation present to each other (mTLS), signed by the installation's own
//! authority.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use chrono::{Datelike, Days, NaiveDate, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use crate::cli::CertificatesArgs;

/// The folder of the authority. Only this command reads it.
const AUTHORITY: &str = "authority";
const AUTHORITY_DAYS: u64 = 10 * 365;
const DAYS: u64 = 365;

/// Makes the authority if there is none, and a new certificate for each name.
pub fn run(args: &CertificatesArgs) -> anyhow::Result<()> {
    let is_name =
        |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if let Some(name) = args.names.iter().find(|name| name.is_empty() || *name == AUTHORITY || !is_name(name)) {
        bail!("`{name}` cannot be the name of a service: write small letters, digits and hyphens, such as `order`");
    }
    let authority = Authority::open(&folder(&args.dir.join(AUTHORITY))?)?;
    for name in &args.names {
        authority.sign(name, &folder(&args.dir.join(name))?)?;
        println!("{name}: a certificate for {DAYS} days");
    }
    Ok(())
}

/// The certificate authority.
struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Opens the authority in this folder, or makes it. It is never replaced, so that running processes accept
    /// certificates that are made later.
    fn open(folder: &Path) -> anyhow::Result<Self> {
        let (certificate_file, key_file) = (folder.join("ca.pem"), folder.join("key.pem"));
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "souk's own services");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        valid_for(&mut params, AUTHORITY_DAYS);
        let (certificate, key) = if certificate_file.exists() && key_file.exists() {
            let key =
                KeyPair::from_pem(&read(&key_file)?).with_context(|| format!("{} holds no key", key_file.display()))?;
            (read(&certificate_file)?, key)
        } else {
            let key = KeyPair::generate()?;
            let certificate = params.self_signed(&key)?.pem();
            write(&key_file, &key.serialize_pem(), 0o600)?;
            write(&certificate_file, &certificate, 0o644)?;
            (certificate, key)
        };
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// Signs a certificate that a service presents to its callers and to the services that it calls.
    fn sign(&self, name: &str, folder: &Path) -> anyhow::Result<()> {
        // `localhost` is for the service's own health check.
        let mut params = CertificateParams::new([name, "localhost"].map(str::to_owned))?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        valid_for(&mut params, DAYS);
        let key = KeyPair::generate()?;
        let signed = params.signed_by(&key, &self.issuer)?;
        write(&folder.join("ca.pem"), &self.certificate, 0o644)?;
        write(&folder.join("key.pem"), &key.serialize_pem(), 0o600)?;
        write(&folder.join("certificate.pem"), &signed.pem(), 0o644)
    }
}

/// Sets the validity. It begins yesterday, because the clocks of hosts differ.
fn valid_for(params: &mut CertificateParams, days: u64) {
    let date = |date: NaiveDate| {
        let part = |number: u32| u8::try_from(number).unwrap_or(1);
        rcgen::date_time_ymd(date.year(), part(date.month()), part(date.day()))
    };
    let today = Utc::now().date_naive();
    params.not_before = date(today - Days::new(1));
    params.not_after = date(today + Days::new(days));
}

fn folder(path: &Path) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(path).with_context(|| format!("the folder {} cannot be made", path.display()))?;
    Ok(path.to_owned())
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))
}

/// Replaces a file atomically, so that a process that starts meanwhile does not read half of it.
fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let written = || {
        let new = path.with_extension("new");
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    written().with_context(|| format!("{} cannot be written", path.display()))
}
