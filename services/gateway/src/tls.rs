//! TLS towards clients, with a certificate that is read again when its files change.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use souk_common::error::chain;
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{
            CertificateDer, PrivateKeyDer,
            pem::{self, PemObject},
        },
        version::{TLS12, TLS13},
    },
    server::TlsStream,
};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// HTTP/2 before HTTP/1.1, where the client has both.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What stands for the hash of files that cannot be read.
const UNREADABLE: [u8; 32] = [0; 32];

/// `[gateway.tls]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// File with the certificate and those between it and a root, PEM. Empty: no TLS.
    pub certificate: PathBuf,
    /// File with its private key, PEM.
    pub key: PathBuf,
    /// The oldest version spoken.
    pub min_version: Version,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Version {
    /// 1.2, for clients from before 2018.
    #[serde(rename = "1.2")]
    V12,
    /// 1.3.
    #[serde(rename = "1.3")]
    V13,
}

impl Settings {
    /// Whether clients speak TLS.
    pub fn is_on(&self) -> bool {
        !self.certificate.as_os_str().is_empty()
    }

    /// Checks what a type cannot.
    ///
    /// # Errors
    /// The setting's name below `gateway.tls`, and what would be right.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        match (self.is_on(), !self.key.as_os_str().is_empty()) {
            (true, false) => Err(("key", "must be set where `certificate` is".to_owned())),
            (false, true) => Err(("certificate", "must be set where `key` is".to_owned())),
            _ => Ok(()),
        }
    }
}

/// A certificate that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("gateway.tls.{setting}: {} cannot be read", path.display())]
    Read {
        /// `certificate` or `key`.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("gateway.tls.{setting}: {} holds no {setting} in PEM", path.display())]
    Pem {
        /// `certificate` or `key`.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// Both files are well, but not together.
    #[error("the files of gateway.tls.certificate and gateway.tls.key cannot be used together")]
    Rejected(#[source] rustls::Error),
}

/// Speaks TLS with the certificate in force.
pub struct Tls {
    settings: Settings,
    current: watch::Sender<TlsAcceptor>,
    /// Hash of the files as they were at the last look, good or not.
    seen: [u8; 32],
}

/// Takes connections of clients in.
#[derive(Clone)]
pub struct Acceptor(watch::Receiver<TlsAcceptor>);

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// Where they cannot be read, or used.
    pub fn load(settings: &Settings) -> Result<Self, TlsError> {
        let files = Files::read(settings)?;
        let (current, _) = watch::channel(files.acceptor(settings)?);
        Ok(Self { settings: settings.clone(), current, seen: files.hash() })
    }

    /// What takes connections in; it always has the certificate in force.
    pub fn acceptor(&self) -> Acceptor {
        Acceptor(self.current.subscribe())
    }

    /// Looks at the files from time to time, and puts a new certificate in force. A bad one is logged once, and the
    /// old one stays.
    pub async fn follow(mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let settings = self.settings.clone();
            // A task that could not run is one that the end of the process cut off.
            let Ok(read) = tokio::task::spawn_blocking(move || Files::read(&settings)).await else { return };
            match self.look(read) {
                Some(Ok(())) => tracing::info!("a new TLS certificate is in force"),
                Some(Err(error)) => {
                    let error = chain(&error);
                    tracing::error!(error, "the new TLS certificate cannot be used: the old one stays in force");
                }
                None => {}
            }
        }
    }

    /// Puts what was read in force, where it is new and good. `None`: nothing has changed since the last look.
    fn look(&mut self, read: Result<Files, TlsError>) -> Option<Result<(), TlsError>> {
        let seen = read.as_ref().map_or(UNREADABLE, Files::hash);
        if std::mem::replace(&mut self.seen, seen) == seen {
            return None;
        }
        let acceptor = read.and_then(|files| files.acceptor(&self.settings));
        Some(acceptor.map(|acceptor| drop(self.current.send_replace(acceptor))))
    }
}

impl Acceptor {
    /// Shakes hands with a client.
    ///
    /// # Errors
    /// The client's, or the connection's.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let current = self.0.borrow().clone();
        current.accept(stream).await
    }
}

/// What the two files hold.
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    fn read(settings: &Settings) -> Result<Self, TlsError> {
        let read = |setting, path: &PathBuf| {
            std::fs::read(path).map_err(|source| TlsError::Read { setting, path: path.clone(), source })
        };
        Ok(Self { certificate: read("certificate", &settings.certificate)?, key: read("key", &settings.key)? })
    }

    fn hash(&self) -> [u8; 32] {
        Sha256::new().chain_update(&self.certificate).chain_update(&self.key).finalize().into()
    }

    fn acceptor(&self, settings: &Settings) -> Result<TlsAcceptor, TlsError> {
        let wrong = |setting, path: &PathBuf| {
            let path = path.clone();
            move |source| TlsError::Pem { setting, path, source }
        };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<_, _>>()
            .and_then(|chain: Vec<_>| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) })
            .map_err(wrong("certificate", &settings.certificate))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(wrong("key", &settings.key))?;
        let versions = match settings.min_version {
            Version::V12 => &[&TLS13, &TLS12][..],
            Version::V13 => &[&TLS13],
        };
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(TlsError::Rejected)?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

#[cfg(test)]
mod tests {
    use souk_testkit::tls::Authority;

    use super::*;

    #[test]
    fn a_bad_certificate_never_takes_the_place_of_a_good_one() {
        let authority = Authority::new();
        let own = authority.sign("own");
        let settings =
            Settings { certificate: own.certificate.clone(), key: own.key.clone(), min_version: Version::V13 };
        let mut tls = Tls::load(&settings).unwrap();
        let mut in_force = tls.acceptor();
        let mut look = || tls.look(Files::read(&settings)).map(|outcome| outcome.map_err(|error| chain(&error)));
        assert_eq!(look(), None);

        std::fs::write(&own.certificate, "no certificate").unwrap();
        assert!(look().unwrap().unwrap_err().contains("holds no certificate in PEM"));
        assert_eq!(look(), None, "told once");
        std::fs::remove_file(&own.certificate).unwrap();
        assert!(look().unwrap().unwrap_err().contains("cannot be read"));
        assert_eq!(look(), None);
        let other = authority.sign("other");
        std::fs::copy(&other.certificate, &own.certificate).unwrap();
        assert!(look().unwrap().unwrap_err().contains("cannot be used together"));
        assert!(!in_force.0.has_changed().unwrap());

        std::fs::copy(&other.key, &own.key).unwrap();
        assert_eq!(look(), Some(Ok(())));
        assert!(in_force.0.has_changed().unwrap());
        in_force.0.mark_unchanged();

        std::fs::write(&own.key, "").unwrap();
        assert!(Tls::load(&settings).is_err_and(|error| error.to_string().starts_with("gateway.tls.key")));
    }

    #[test]
    fn one_file_alone_is_refused() {
        let check = |certificate: &str, key: &str| {
            Settings { certificate: certificate.into(), key: key.into(), min_version: Version::V13 }
                .check()
                .map_err(|fault| fault.0)
        };
        assert_eq!((check("", ""), check("c", "k")), (Ok(()), Ok(())));
        assert_eq!((check("c", ""), check("", "k")), (Err("key"), Err("certificate")));
    }
}
