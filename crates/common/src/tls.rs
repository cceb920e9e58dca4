//! TLS of souk's servers, towards clients and each other, and of those who call them. Certificates, keys and authorities
//! are read again when their files change. What souk itself calls, such as PostgreSQL, is in [`peer`].

pub mod peer;
mod reloaded;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, RootCertStore, ServerConfig,
        client::verify_server_name,
        crypto::{CryptoProvider, aws_lc_rs},
        pki_types::{
            CertificateDer, PrivateKeyDer, ServerName,
            pem::{self, PemObject},
        },
        server::{ParsedCertificate, WebPkiClientVerifier},
        version::{TLS12, TLS13},
    },
};

use self::reloaded::Reloaded;

/// What gRPC speaks over TLS.
pub const GRPC: &[&[u8]] = &[b"h2"];
/// HTTP/2 before HTTP/1.1, where the client has both.
pub const HTTP: &[&[u8]] = &[b"h2", b"http/1.1"];

/// `[server.tls]` and `[gateway.tls]`: files in PEM.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSettings {
    /// The server's certificate chain. Empty: no TLS.
    pub certificate: PathBuf,
    /// The private key that belongs to it.
    pub key: PathBuf,
    /// The authority of the callers' certificates. Empty: callers need none.
    pub client_ca: PathBuf,
    /// The oldest version spoken.
    pub min_version: Version,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Version {
    /// 1.2, for clients from before 2018.
    #[serde(rename = "1.2")]
    V12,
    /// 1.3.
    #[default]
    #[serde(rename = "1.3")]
    V13,
}

/// `[client.tls]`, and the same shape for every other server that souk calls: files in PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientSettings {
    /// The authority of the servers' certificates. Empty: no TLS for souk's services; the system's authorities for
    /// other servers.
    pub ca: PathBuf,
    /// The client certificate, for servers that ask for one. Empty: none.
    pub certificate: PathBuf,
    /// The private key that belongs to it.
    pub key: PathBuf,
}

/// Files that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The setting, below `server.tls` or `client.tls`.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} does not hold it in PEM", path.display())]
    Pem {
        /// The setting, below `server.tls` or `client.tls`.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// What a file holds cannot be used.
    #[error("cannot be used")]
    Rejected {
        /// The setting, below `server.tls` or `client.tls`.
        setting: &'static str,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// A setting is missing that another one needs.
    #[error("must be set where `{needed_by}` is")]
    Missing {
        /// The setting, below `server.tls` or `client.tls`.
        setting: &'static str,
        /// The other one.
        needed_by: &'static str,
    },
    /// No authority is given, and the system trusts none.
    #[error("is empty, and the system has no certificates of its own that it trusts: name a file")]
    NoSystemRoots {
        /// The setting.
        setting: &'static str,
    },
}

impl TlsError {
    /// The setting that is wrong, below `server.tls` or `client.tls`.
    pub fn setting(&self) -> &'static str {
        match self {
            Self::NoSystemRoots { setting }
            | Self::Read { setting, .. }
            | Self::Pem { setting, .. }
            | Self::Rejected { setting, .. }
            | Self::Missing { setting, .. } => setting,
        }
    }
}

impl ServerSettings {
    /// Whether callers speak TLS.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !is_empty(&self.certificate)
    }

    /// Reads the files, for a server that speaks these protocols. `None`: no TLS.
    ///
    /// # Errors
    /// A file that cannot be read or used, or is missing.
    pub fn load(&self, protocols: &'static [&'static [u8]]) -> Result<Option<Acceptor>, TlsError> {
        require("certificate", &self.certificate, &[("key", &self.key), ("client_ca", &self.client_ca)])?;
        if !self.is_on() {
            return Ok(None);
        }
        require("key", &self.key, &[("certificate", &self.certificate)])?;
        let settings = self.clone();
        let files = files([&self.certificate, &self.key, &self.client_ca]);
        let acceptor = Reloaded::load(files, move || settings.acceptor(protocols))?;
        Ok(Some(Acceptor(acceptor)))
    }

    fn acceptor(&self, protocols: &[&[u8]]) -> Result<TlsAcceptor, TlsError> {
        let versions = match self.min_version {
            Version::V12 => &[&TLS13, &TLS12][..],
            Version::V13 => &[&TLS13],
        };
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .map_err(rejected("certificate"))?;
        let builder = if is_empty(&self.client_ca) {
            builder.with_no_client_auth()
        } else {
            let roots = Arc::new(roots("client_ca", &self.client_ca)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| TlsError::Rejected {
                setting: "client_ca",
                source: rustls::Error::General(error.to_string()),
            })?)
        };
        let (chain, key) = (certificates("certificate", &self.certificate)?, private_key(&self.key)?);
        let mut config = builder.with_single_cert(chain, key).map_err(rejected("certificate"))?;
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// Takes connections in with the certificate in force.
#[derive(Clone)]
pub struct Acceptor(Reloaded<TlsAcceptor>);

impl Acceptor {
    /// Shakes hands with a caller.
    ///
    /// # Errors
    /// The caller's, or the connection's.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
        self.0.current().await.accept(stream).await
    }
}

/// The certificate that the client of a connection has shown, and that the server's authority has signed.
#[derive(Debug, Clone)]
pub(crate) struct PeerCertificate(CertificateDer<'static>);

impl PeerCertificate {
    /// `None`: the server asks for none.
    pub(crate) fn of(connection: &rustls::ServerConnection) -> Option<Self> {
        Some(Self(connection.peer_certificates()?.first()?.clone().into_owned()))
    }

    /// Whether this is one of its names (DNS names in `subjectAltName`).
    pub(crate) fn is_for(&self, name: &str) -> bool {
        let (Ok(certificate), Ok(name)) = (ParsedCertificate::try_from(&self.0), ServerName::try_from(name)) else {
            return false;
        };
        verify_server_name(&certificate, &name).is_ok()
    }
}

/// What a process calls services with.
#[derive(Clone, Default)]
pub struct ClientTls(Option<Reloaded<Arc<ClientConfig>>>);

impl ClientTls {
    /// Reads the files.
    ///
    /// # Errors
    /// A file that cannot be read or used, or is missing.
    pub fn load(settings: &ClientSettings) -> Result<Self, TlsError> {
        let ClientSettings { ca, certificate, key } = settings;
        require("ca", ca, &[("certificate", certificate), ("key", key)])?;
        require("certificate", certificate, &[("key", key)])?;
        require("key", key, &[("certificate", certificate)])?;
        if is_empty(ca) {
            return Ok(Self(None));
        }
        let settings = settings.clone();
        let config = Reloaded::load(files([ca, certificate, key]), move || settings.config())?;
        Ok(Self(Some(config)))
    }

    /// How to secure connections to the service on this host. `None`: no TLS, or no host that a certificate can name.
    pub(crate) fn secured(&self, host: &str) -> Option<Secured> {
        // An address of IPv6 is in brackets in a URI.
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).ok()?;
        Some(Secured { config: self.0.clone()?, name })
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClientTls").field(&self.0.is_some()).finish()
    }
}

impl ClientSettings {
    /// What souk's own services are called with.
    fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(rejected("ca"))?
            .with_root_certificates(roots("ca", &self.ca)?);
        let mut config = showing(builder, &self.certificate, &self.key)?;
        config.alpn_protocols = GRPC.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

/// How connections to one host are secured.
#[derive(Clone)]
pub(crate) struct Secured {
    config: Reloaded<Arc<ClientConfig>>,
    name: ServerName<'static>,
}

impl Secured {
    /// Shakes hands with the service.
    ///
    /// # Errors
    /// It is not who it should be, or does not take us for one of its callers; or the connection is lost.
    pub(crate) async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsConnector::from(self.config.current().await).connect(self.name.clone(), stream).await
    }
}

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Secured").field(&self.name).finish()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn rejected(setting: &'static str) -> impl Fn(rustls::Error) -> TlsError {
    move |source| TlsError::Rejected { setting, source }
}

/// The authorities in a file.
fn roots(setting: &'static str, path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in certificates(setting, path)? {
        roots.add(root).map_err(rejected(setting))?;
    }
    Ok(roots)
}

/// With a certificate for servers that ask for one, where it is given.
fn showing(
    builder: rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>,
    certificate: &Path,
    key: &Path,
) -> Result<ClientConfig, TlsError> {
    if is_empty(certificate) {
        return Ok(builder.with_no_client_auth());
    }
    let chain = certificates("certificate", certificate)?;
    builder.with_client_auth_cert(chain, private_key(key)?).map_err(rejected("certificate"))
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read("key", path)?).map_err(not_pem("key", path))
}

fn certificates(setting: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(setting, path)?).collect();
    found
        .and_then(|found| if found.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(found) })
        .map_err(not_pem(setting, path))
}

fn not_pem(setting: &'static str, path: &Path) -> impl FnOnce(pem::Error) -> TlsError {
    let path = path.to_owned();
    move |source| TlsError::Pem { setting, path, source }
}

/// The files that are given.
fn files<const N: usize>(paths: [&PathBuf; N]) -> Vec<PathBuf> {
    paths.into_iter().filter(|path| !is_empty(path)).cloned().collect()
}

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

/// Fails if a setting is empty that one of the others needs.
fn require(setting: &'static str, path: &Path, others: &[(&'static str, &Path)]) -> Result<(), TlsError> {
    match others.iter().find(|(_, other)| !is_empty(other)) {
        Some((needed_by, _)) if is_empty(path) => Err(TlsError::Missing { setting, needed_by }),
        _ => Ok(()),
    }
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { setting, path: path.to_owned(), source })
}
