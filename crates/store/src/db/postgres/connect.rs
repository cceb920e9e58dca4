//! Opens connections: requests TLS, never sends a password in clear text without TLS, and sets the limits of
//! statements.
//!
//! The driver is configured so that every connection begins with a TLS handshake, so it hands over the bare socket. It
//! gets back a [`Stream`], with or without TLS.

use std::{fmt, future::Future, io, pin::Pin, time::Duration};

use diesel::{ConnectionError, ConnectionResult};
use sha2::{Digest, Sha256, Sha384, Sha512};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::{
    CancelToken, Client, Connection, NoTls, Socket,
    tls::{MakeTlsConnect, TlsConnect, TlsStream},
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use super::{
    Conn, Refused,
    pooled::Limits,
    server::{Server, SslMode, Tls},
    stream::{Stream, Transport},
};
use crate::db::{
    DbError,
    config::{Config, Pooler},
};

/// The message `SSLRequest`: its length and its number.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Opens connections to one database.
#[derive(Clone)]
pub(in crate::db) struct Connector {
    server: Server,
    /// The settings of each session, or of each transaction if there is a pooler.
    limits: Vec<(String, String)>,
    /// The timeout of connecting and authenticating.
    timeout: Duration,
}

impl Connector {
    /// Creates a connector.
    ///
    /// # Errors
    /// [`DbError::Config`] if the URL's `options` cannot be used with a pooler.
    pub(super) fn new(server: Server, config: &Config) -> Result<Self, DbError> {
        let timeout = server.settings.get_connect_timeout().copied().unwrap_or(config.acquire_timeout);
        let mut limits = vec![
            // Services look up rows by their keys. With pages in memory or on flash, that costs little more than a
            // sequential read; PostgreSQL's default assumes spinning disks.
            ("random_page_cost".to_owned(), "1.1".to_owned()),
            limit("statement_timeout", config.statement_timeout),
            limit("idle_in_transaction_session_timeout", config.idle_in_transaction_timeout),
            limit("lock_timeout", config.lock_timeout),
        ];
        if server.pooler == Pooler::Transaction {
            // Every transaction needs this setting, because each may run on another connection.
            limits.push(("TimeZone".to_owned(), "UTC".to_owned()));
            limits.extend(options(&server.options)?);
        }
        Ok(Self { server, limits, timeout })
    }

    /// True if a pooler shares the connections with other clients between transactions.
    pub(super) fn is_pooled(&self) -> bool {
        self.server.pooler == Pooler::Transaction
    }

    /// The same connector with other limits for a statement and for the wait for a lock; zero means no limit.
    pub(super) fn with_limits(&self, statement: Duration, lock: Duration) -> Self {
        let mut other = self.clone();
        for changed in [limit("statement_timeout", statement), limit("lock_timeout", lock)] {
            other.limits.retain(|(name, _)| *name != changed.0);
            other.limits.push(changed);
        }
        other
    }

    /// The server's settings for the driver, with all hosts.
    pub(super) fn settings(&self) -> &tokio_postgres::Config {
        &self.server.settings
    }

    /// Opens a connection with the server's settings, or with those of one of its hosts.
    ///
    /// # Errors
    /// An error with [`Refused`] inside. It keeps the driver's own error with its SQLSTATE; diesel's would say only "db
    /// error".
    pub(in crate::db) async fn establish(&self, settings: &tokio_postgres::Config) -> ConnectionResult<Conn> {
        let mut settings = settings.clone();
        if !self.is_pooled() {
            // The URL's own options come last, so they override the others.
            let mut options: Vec<String> =
                self.limits.iter().map(|(name, value)| format!("-c {name}={value}")).collect();
            options.push(self.server.options.clone());
            settings.options(options.join(" ").trim_end());
        }
        if self.server.local {
            let (client, connection) = settings.connect(NoTls).await.map_err(|error| refused(error.into()))?;
            return finish(client, connection).await;
        }
        let limits = self.is_pooled().then(|| Limits::new(&self.limits));
        let (client, connection) =
            settings.connect(self.negotiation(limits)).await.map_err(|error| refused(error.into()))?;
        finish(client, connection).await
    }

    fn negotiation(&self, limits: Option<Limits>) -> Negotiation {
        Negotiation { tls: self.server.tls.clone(), limits, timeout: self.timeout, host: String::new() }
    }

    /// Asks the server, over another connection, to cancel what runs on a connection. If the server is unreachable,
    /// this has no effect and does no harm.
    pub(super) async fn cancel(&self, token: CancelToken) {
        let sent = async {
            match self.server.local {
                true => token.cancel_query(NoTls).await,
                false => token.cancel_query(self.negotiation(None)).await,
            }
        };
        match tokio::time::timeout(self.timeout, sent).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "cannot cancel a statement"),
            Err(_) => tracing::debug!("statement not cancelled in time"),
        }
    }
}

/// Turns it into a connection of diesel. The database must have the encoding in which texts are sent.
async fn finish<S>(client: Client, connection: Connection<Socket, S>) -> ConnectionResult<Conn>
where
    S: TlsStream + Unpin + Send + 'static,
{
    let encoding = connection.parameter("server_encoding").unwrap_or("UTF8");
    if !["UTF8", "UTF-8", "UNICODE"].iter().any(|known| encoding.eq_ignore_ascii_case(known)) {
        return Err(refused(Refused::Encoding(encoding.to_owned())));
    }
    Conn::try_from_client_and_connection(client, connection).await
}

fn refused(error: Refused) -> ConnectionError {
    ConnectionError::CouldntSetupConfiguration(diesel::result::Error::QueryBuilderError(Box::new(error)))
}

fn limit(name: &str, limit: Duration) -> (String, String) {
    (name.to_owned(), limit.as_millis().to_string())
}

/// Parses `-c name=value -c …`, in which a backslash escapes a space.
fn options(text: &str) -> Result<Vec<(String, String)>, DbError> {
    let wrong = || DbError::Config("has `options` other than `-c name=value`, which a pooler does not take".into());
    let (mut words, mut word, mut escaped) = (Vec::new(), String::new(), false);
    for character in text.chars() {
        match character {
            _ if escaped => {
                word.push(character);
                escaped = false;
            }
            '\\' => escaped = true,
            ' ' => words.push(std::mem::take(&mut word)),
            _ => word.push(character),
        }
    }
    words.push(word);
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        let pair = match (word.strip_prefix("--"), word.strip_prefix("-c")) {
            (Some(pair), _) => pair.to_owned(),
            (None, Some("")) => words.next().ok_or_else(wrong)?,
            (None, Some(pair)) => pair.to_owned(),
            (None, None) => return Err(wrong()),
        };
        let (name, value) = pair.split_once('=').ok_or_else(wrong)?;
        found.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(found)
}

/// Asks the server for TLS, if the settings require it.
#[derive(Clone)]
struct Negotiation {
    tls: Tls,
    limits: Option<Limits>,
    timeout: Duration,
    host: String,
}

/// Why a connection is not secure enough, or cannot be secured.
#[derive(Debug, thiserror::Error)]
pub(super) enum Insecure {
    /// The server does not support TLS.
    #[error("the server does not offer TLS, and sslmode={0} asks for it")]
    NotOffered(&'static str),
    /// The server does not speak PostgreSQL's protocol.
    #[error("what answers there does not speak PostgreSQL's protocol")]
    NotPostgres,
    /// The host's name cannot occur in a certificate.
    #[error("{0:?} is not a name that a certificate can be for")]
    Name(String),
    /// The password would be sent in clear text without TLS.
    #[error(
        "the server asks for the password in clear text over a connection without TLS; it was not sent: \
         use scram-sha-256 in pg_hba.conf, or sslmode=verify-full"
    )]
    ClearText,
}

impl<S> MakeTlsConnect<S> for Negotiation
where
    Self: TlsConnect<S, Stream = Stream>,
{
    type Stream = Stream;
    type TlsConnect = Self;
    type Error = Insecure;

    fn make_tls_connect(&mut self, host: &str) -> Result<Self, Insecure> {
        Ok(Self { host: host.to_owned(), ..self.clone() })
    }
}

impl TlsConnect<Socket> for Negotiation {
    type Stream = Stream;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, Self::Error>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            let deadline = tokio::time::Instant::now() + self.timeout;
            let limits = self.limits.clone();
            let (transport, binding) = match tokio::time::timeout_at(deadline, self.secure(socket)).await {
                Ok(secured) => secured?,
                Err(_) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            };
            Ok(Stream::new(transport, binding, deadline, limits))
        })
    }
}

impl Negotiation {
    async fn secure(
        self,
        mut socket: Socket,
    ) -> Result<(Transport, Option<Vec<u8>>), Box<dyn std::error::Error + Send + Sync>> {
        let Some(config) = self.tls.config else { return Ok((Transport::Plain(socket), None)) };
        if !self.tls.direct {
            socket.write_all(&SSL_REQUEST).await?;
            let mut answer = [0];
            // Reads exactly one byte: all further bytes belong to TLS.
            socket.read_exact(&mut answer).await?;
            match answer {
                [b'S'] => {}
                [b'N'] if self.tls.mode == SslMode::Prefer => return Ok((Transport::Plain(socket), None)),
                [b'N'] => return Err(Insecure::NotOffered(self.tls.mode.name()).into()),
                _ => return Err(Insecure::NotPostgres.into()),
            }
        }
        let name = ServerName::try_from(self.host.clone()).map_err(|_| Insecure::Name(self.host))?;
        let stream = TlsConnector::from(config).connect(name, socket).await?;
        let (_, session) = stream.get_ref();
        let binding = session.peer_certificates().and_then(<[_]>::first).and_then(|shown| end_point(shown));
        Ok((Transport::Tls(Box::new(stream)), binding))
    }
}

impl fmt::Debug for Negotiation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Negotiation").field("mode", &self.tls.mode).field("host", &self.host).finish()
    }
}

/// The channel binding `tls-server-end-point` (RFC 5929): the hash of the certificate, by the hash function of its
/// signature. `None` if the signature has no hash function of its own, such as Ed25519, or has it in its parameters,
/// such as RSASSA-PSS. Then there is no channel binding, as in libpq.
fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
    // Certificate ::= SEQUENCE { tbsCertificate, SEQUENCE { algorithm, … }, signature }
    let (inside, _) = der(certificate)?;
    let (_, after) = der(inside)?;
    let (algorithm, _) = der(after)?;
    let (id, _) = der(algorithm)?;
    match (id.strip_prefix(RSA), id.strip_prefix(ECDSA)) {
        // MD5 and SHA-1 are replaced by SHA-256.
        (Some([4 | 5 | 11]), _) | (_, Some([1] | [3, 2])) => Some(Sha256::digest(certificate).to_vec()),
        (Some([12]), _) | (_, Some([3, 3])) => Some(Sha384::digest(certificate).to_vec()),
        (Some([13]), _) | (_, Some([3, 4])) => Some(Sha512::digest(certificate).to_vec()),
        _ => None,
    }
}

/// The content of the first DER element, and the bytes after it.
fn der(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_tag, rest) = bytes.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let digits = usize::from(first & 0x7f);
        let (number, after) = rest.split_at_checked(digits).filter(|_| digits <= 4)?;
        (length, rest) = (number.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), after);
    }
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_parsed_as_the_server_parses_them() {
        let found = options(r"-c search_path=a\ b,c  -cgeqo=off --work-mem=4MB").unwrap();
        let expected = [("search_path", "a b,c"), ("geqo", "off"), ("work_mem", "4MB")];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(options("").unwrap(), []);
        for wrong in ["-B 12", "-c", "-c novalue", "search_path=x"] {
            assert!(options(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn invalid_certificates_give_no_channel_binding() {
        for bytes in [&b""[..], &[0x30], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0x30, 2, 0x30, 0]] {
            assert_eq!(end_point(bytes), None);
        }
    }
}
