//! TLS of souk's servers and of the clients that call them. Certificates, keys and authorities are read again when
//! their files change. TLS to other systems, such as PostgreSQL, is in [`peer`].

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

/// The ALPN protocols of gRPC.
pub const GRPC: &[&[u8]] = &[b"h2"];
/// The ALPN protocols of HTTP: HTTP/2 is preferred to HTTP/1.1 if the client supports both.
pub const HTTP: &[&[u8]] = &[b"h2", b"http/1.1"];

/// Settings of `[server.tls]` and `[gateway.tls]`. The files are in PEM format.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSettings {
    /// The server's certificate chain. Empty: no TLS.
    pub certificate: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
    /// The authority that signs client certificates. Empty: clients need no certificate.
    pub client_ca: PathBuf,
    /// The minimum TLS version.
    pub min_version: Version,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Version {
    /// TLS 1.2, for clients from before 2018.
    #[serde(rename = "1.2")]
    V12,
    /// TLS 1.3.
    #[default]
    #[serde(rename = "1.3")]
    V13,
}

/// Settings of `[client.tls]`, and of every other server that souk connects to. The files are in PEM format.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientSettings {
    /// The authority that signs the servers' certificates. Empty: no TLS for souk's services; the system's authorities
    /// for other servers.
    pub ca: PathBuf,
    /// The client certificate, for servers that require one. Empty: none.
    pub certificate: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
}

/// An error in TLS settings or their files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The setting, below `server.tls` or `client.tls`.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file does not contain the expected PEM section.
    #[error("{} does not hold it in PEM", path.display())]
    Pem {
        /// The setting, below `server.tls` or `client.tls`.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: pem::Error,
    },
    /// The content of a file is invalid.
    #[error("cannot be used")]
    Rejected {
        /// The setting, below `server.tls` or `client.tls`.
        setting: &'static str,
        /// The cause.
        #[source]
        source: rustls::Error,
    },
    /// A setting is missing, but another setting needs it.
    #[error("must be set where `{needed_by}` is")]
    Missing {
        /// The setting, below `server.tls` or `client.tls`.
        setting: &'static str,
        /// The setting that needs it.
        needed_by: &'static str,
    },
    /// No authority is set, and the system trusts none.
    #[error("is empty, and the system has no certificates of its own that it trusts: name a file")]
    NoSystemRoots {
        /// The setting.
        setting: &'static str,
    },
}

impl TlsError {
    /// The name of the wrong setting, below `server.tls` or `client.tls`.
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
    /// True if clients must connect with TLS.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !is_empty(&self.certificate)
    }

    /// Loads the files for a server with these ALPN protocols. `None`: no TLS.
    ///
    /// # Errors
    /// If a file is missing, cannot be read or is invalid.
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

/// Accepts TLS connections with the current certificate.
#[derive(Clone)]
pub struct Acceptor(Reloaded<TlsAcceptor>);

impl Acceptor {
    /// Performs the TLS handshake with a client.
    ///
    /// # Errors
    /// If the client fails the handshake, or if the connection is lost.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
        self.0.current().await.accept(stream).await
    }
}

/// The certificate of the client of a connection. The server's authority has signed it.
#[derive(Debug, Clone)]
pub(crate) struct PeerCertificate(CertificateDer<'static>);

impl PeerCertificate {
    /// The certificate of a connection. `None`: the server requires none.
    pub(crate) fn of(connection: &rustls::ServerConnection) -> Option<Self> {
        Some(Self(connection.peer_certificates()?.first()?.clone().into_owned()))
    }

    /// True if the certificate is for this name (a DNS name in `subjectAltName`).
    pub(crate) fn is_for(&self, name: &str) -> bool {
        let (Ok(certificate), Ok(name)) = (ParsedCertificate::try_from(&self.0), ServerName::try_from(name)) else {
            return false;
        };
        verify_server_name(&certificate, &name).is_ok()
    }
}

/// The TLS configuration for calls to souk's services.
#[derive(Clone, Default)]
pub struct ClientTls(Option<Reloaded<Arc<ClientConfig>>>);

impl ClientTls {
    /// Loads the files of these settings.
    ///
    /// # Errors
    /// If a file is missing, cannot be read or is invalid.
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

    /// TLS for connections to the service on this host. `None`: no TLS, or a certificate cannot name this host.
    pub(crate) fn secured(&self, host: &str) -> Option<Secured> {
        // In a URI, an IPv6 address is in brackets.
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
    /// The TLS configuration for calls to souk's own services.
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

/// TLS for connections to one host.
#[derive(Clone)]
pub(crate) struct Secured {
    config: Reloaded<Arc<ClientConfig>>,
    name: ServerName<'static>,
}

impl Secured {
    /// Performs the TLS handshake with the service.
    ///
    /// # Errors
    /// If the server's certificate is not for this host, if the server rejects the client, or if the connection is
    /// lost.
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

/// Reads the authorities in a file.
fn roots(setting: &'static str, path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in certificates(setting, path)? {
        roots.add(root).map_err(rejected(setting))?;
    }
    Ok(roots)
}

/// Adds the client certificate, if one is set.
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

/// The paths that are set.
fn files<const N: usize>(paths: [&PathBuf; N]) -> Vec<PathBuf> {
    paths.into_iter().filter(|path| !is_empty(path)).cloned().collect()
}

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

/// Fails if the setting is empty although one of the others is set.
fn require(setting: &'static str, path: &Path, others: &[(&'static str, &Path)]) -> Result<(), TlsError> {
    match others.iter().find(|(_, other)| !is_empty(other)) {
        Some((needed_by, _)) if is_empty(path) => Err(TlsError::Missing { setting, needed_by }),
        _ => Ok(()),
    }
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { setting, path: path.to_owned(), source })
}
