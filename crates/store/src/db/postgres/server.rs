//! The address and connection settings of PostgreSQL, from the URL and the settings. The driver's URL parser supports
//! neither `verify-ca`, `verify-full` and certificates nor poolers, so these parameters are removed first.

use std::{path::PathBuf, sync::Arc, time::Duration};

use percent_encoding::percent_decode_str;
use souk_common::tls::{ClientSettings, peer::Verify};
use tokio_postgres::config::{Host, SslMode as Driver, SslNegotiation};
use tokio_rustls::rustls::ClientConfig;

use super::super::{
    DbError,
    config::{Chain, Config, Pooler},
};

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SslMode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl SslMode {
    const ALL: [(&str, Self); 5] = [
        ("disable", Self::Disable),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];

    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, mode)| *mode == self).map_or("", |(name, _)| name)
    }
}

/// A server, or several servers of which one is used.
#[derive(Clone)]
pub(in crate::db) struct Server {
    /// The driver's settings. They leave TLS to this module.
    pub(super) settings: tokio_postgres::Config,
    pub(super) tls: Tls,
    pub(super) pooler: Pooler,
    /// The session settings of the URL, as `-c name=value`.
    pub(super) options: String,
    /// True if the server is reached over a Unix socket.
    pub(super) local: bool,
}

/// The TLS settings of connections.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) mode: SslMode,
    /// True if the TLS handshake comes first, without an `SSLRequest`.
    pub(super) direct: bool,
    /// `None` if connections do not use TLS.
    pub(super) config: Option<Arc<ClientConfig>>,
}

/// The URL parameters that the driver does not parse.
#[derive(Default)]
struct Ours {
    mode: Option<SslMode>,
    tls: ClientSettings,
    system_roots: bool,
    pooler: Option<Pooler>,
    options: String,
}

impl Server {
    /// Reads the URL, and the certificates that the URL or the settings name.
    ///
    /// # Errors
    /// [`DbError::Config`] with what is wrong.
    pub(in crate::db) fn read(config: &Config) -> Result<Self, DbError> {
        let (url, mut ours) = split(&config.url)?;
        let mut settings: tokio_postgres::Config = url.parse().map_err(|error| {
            wrong(format!("cannot be read as `postgres://user:password@host:5432/name`: {}", Chain(&error)))
        })?;
        if settings.get_hosts().is_empty() {
            // A certificate is compared with a host's name. A URL with `hostaddr` alone has none, so the address is
            // used.
            for address in settings.get_hostaddrs().to_vec() {
                settings.host(address.to_string());
            }
        }
        let local = settings.get_hosts().iter().any(|host| matches!(host, Host::Unix(_)));
        if local && settings.get_hosts().iter().any(|host| matches!(host, Host::Tcp(_))) {
            return Err(wrong("names both Unix sockets and hosts: use one of them"));
        }
        let direct = settings.get_ssl_negotiation() == SslNegotiation::Direct;
        let options = std::mem::take(&mut ours.options);
        let pooler = ours.pooler.unwrap_or(config.pooler);
        let tls = Tls::read(ours, &config.tls, direct)?;
        if local && pooler == Pooler::Transaction {
            return Err(wrong("names a Unix socket: a pooler that shares connections is reached at a host and port"));
        }
        if local && !matches!(tls.mode, SslMode::Disable | SslMode::Prefer) {
            return Err(wrong(format!("names a Unix socket, over which there is no sslmode={}", tls.mode.name())));
        }
        // The driver hands over each connection before it sends anything, and this module asks the server for TLS.
        match local {
            true => settings.ssl_mode(Driver::Disable).ssl_negotiation(SslNegotiation::Postgres),
            false => settings.ssl_mode(Driver::Require).ssl_negotiation(SslNegotiation::Direct),
        };
        if settings.get_application_name().is_none() {
            settings.application_name("souk");
        }
        if settings.get_connect_timeout().is_none() {
            // With several hosts, each gets a part of the timeout, so that all are tried before it is over.
            let hosts = u32::try_from(settings.get_hosts().len()).unwrap_or(1).max(1);
            settings.connect_timeout(config.acquire_timeout / hosts);
        }
        // Detects a server that vanished before another one replaces it. The kernel's own timeout is hours.
        settings.keepalives_idle(Duration::from_secs(10)).keepalives_interval(Duration::from_secs(3));
        if settings.get_tcp_user_timeout().is_none() {
            settings.tcp_user_timeout(Duration::from_secs(10));
        }
        Ok(Self { settings, tls, pooler, options, local })
    }
}

impl Tls {
    fn read(ours: Ours, settings: &ClientSettings, direct: bool) -> Result<Self, DbError> {
        let mut files = ours.tls;
        if files.ca.as_os_str().is_empty() && !ours.system_roots {
            files.ca.clone_from(&settings.ca);
        }
        if files.certificate.as_os_str().is_empty() && files.key.as_os_str().is_empty() {
            files.certificate.clone_from(&settings.certificate);
            files.key.clone_from(&settings.key);
        }
        let authority = ours.system_roots || !files.ca.as_os_str().is_empty();
        // If the settings name an authority, the certificate must be verified.
        let mode = ours.mode.unwrap_or(if authority { SslMode::VerifyFull } else { SslMode::Prefer });
        let verify = match mode {
            SslMode::Disable | SslMode::Prefer if authority => {
                return Err(wrong(format!(
                    "says sslmode={}, which asks no authority, yet one is named (sslrootcert, tls.ca): say verify-full",
                    mode.name()
                )));
            }
            SslMode::Disable if !files.is_empty() => {
                return Err(wrong("says sslmode=disable, yet a certificate is to be shown: say verify-full"));
            }
            SslMode::Disable => return Ok(Self { mode, direct: false, config: None }),
            SslMode::Prefer if direct => {
                return Err(wrong("says sslnegotiation=direct, which needs sslmode=require, verify-ca or verify-full"));
            }
            SslMode::Prefer => Verify::Nothing,
            // As in libpq.
            SslMode::Require => {
                if authority {
                    Verify::Chain
                } else {
                    Verify::Nothing
                }
            }
            SslMode::VerifyCa => Verify::Chain,
            SslMode::VerifyFull => Verify::Full,
        };
        let mut config = files.connector(verify).map_err(|error| {
            let name = match error.setting() {
                "ca" => "tls.ca (sslrootcert)",
                "certificate" => "tls.certificate (sslcert)",
                _ => "tls.key (sslkey)",
            };
            wrong(format!("asks for TLS that is not available: {name}: {}", Chain(&error)))
        })?;
        if direct {
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(Self { mode, direct, config: Some(Arc::new(config)) })
    }
}

fn wrong(what: impl Into<String>) -> DbError {
    DbError::Config(what.into())
}

/// Splits the URL into the part for the driver and the parameters that the driver does not parse.
fn split(url: &str) -> Result<(String, Ours), DbError> {
    let mut ours = Ours::default();
    // A password may contain a question mark.
    let start = url.find('@').unwrap_or(0);
    let Some(question) = url[start..].find('?').map(|at| start + at) else { return Ok((url.to_owned(), ours)) };
    let mut theirs = Vec::new();
    for parameter in url[question + 1..].split('&') {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value = || {
            let decoded = percent_decode_str(value).decode_utf8();
            decoded.map(String::from).map_err(|_| wrong(format!("has a parameter {name} that is not UTF-8")))
        };
        match name {
            "sslmode" => {
                let value = value()?;
                let known = SslMode::ALL.iter().find(|(name, _)| *name == value);
                let (_, mode) = known.ok_or_else(|| {
                    wrong("has an unknown sslmode: say disable, prefer, require, verify-ca or verify-full")
                })?;
                ours.mode = Some(*mode);
            }
            "sslrootcert" => match value()?.as_str() {
                "system" => ours.system_roots = true,
                path => ours.tls.ca = PathBuf::from(path),
            },
            "sslcert" => ours.tls.certificate = PathBuf::from(value()?),
            "sslkey" => ours.tls.key = PathBuf::from(value()?),
            // A driver with options sends them, and a pooler refuses them.
            "options" => ours.options = value()?,
            "pooler" => {
                ours.pooler = Some(match value()?.as_str() {
                    "none" => Pooler::None,
                    "transaction" => Pooler::Transaction,
                    _ => return Err(wrong("has an unknown pooler: say none or transaction")),
                });
            }
            _ => theirs.push(parameter),
        }
    }
    let query = if theirs.is_empty() { String::new() } else { format!("?{}", theirs.join("&")) };
    Ok((format!("{}{query}", &url[..question]), ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Server, String> {
        Server::read(&Config::at(url)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_url_determines_the_tls_mode() {
        for (url, mode) in [
            ("postgres://h/d", SslMode::Prefer),
            ("postgres://h/d?sslmode=disable", SslMode::Disable),
            ("postgres://u:a?b@h/d?sslmode=require&connect_timeout=3", SslMode::Require),
            ("postgres://h,i/d?sslmode=require&target_session_attrs=read-write", SslMode::Require),
            ("postgres://h/d?pooler=transaction&sslmode=prefer", SslMode::Prefer),
            ("postgres://h/d?sslmode=require&sslnegotiation=direct&channel_binding=require", SslMode::Require),
        ] {
            let server = read(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(server.tls.mode, mode, "{url}");
            assert_eq!(server.tls.config.is_none(), mode == SslMode::Disable, "{url}");
            assert_eq!(server.settings.get_dbname(), Some("d"));
        }
        let server = read("postgres://u:a?b@h/d?sslmode=require&connect_timeout=3").unwrap();
        assert_eq!(server.settings.get_password(), Some(&b"a?b"[..]));
        assert_eq!(server.settings.get_connect_timeout(), Some(&Duration::from_secs(3)));
    }

    #[test]
    fn the_connect_timeout_is_divided_by_the_number_of_hosts() {
        let config = Config { acquire_timeout: Duration::from_secs(6), ..Config::at("postgres://a,b,c/d") };
        let server = Server::read(&config).unwrap();
        assert_eq!(server.settings.get_connect_timeout(), Some(&Duration::from_secs(2)));
    }

    #[test]
    fn invalid_urls_are_refused_with_the_valid_values() {
        for (url, told) in [
            ("postgres://h/d?sslmode=verify", "say disable, prefer, require, verify-ca or verify-full"),
            ("postgres://h/d?sslmode=prefer&sslrootcert=/x", "say verify-full"),
            ("postgres://h/d?sslmode=disable&sslcert=/x&sslkey=/y", "say verify-full"),
            ("postgres://h/d?sslrootcert=/no/such.pem", "tls.ca (sslrootcert): /no/such.pem cannot be read"),
            ("postgres://h/d?sslmode=require&sslcert=/no/such.pem", "tls.key (sslkey)"),
            ("postgres://h/d?sslnegotiation=direct", "needs sslmode=require"),
            ("postgres://%2Frun/d?pooler=transaction", "at a host and port"),
            ("postgres://%2Frun/d?sslmode=require", "no sslmode=require"),
            ("postgres://h/d?pooler=session", "say none or transaction"),
            ("postgres://h/d?nonsense=1", "nonsense"),
        ] {
            let error = read(url).map(drop).unwrap_err();
            assert!(error.contains(told), "{url}: {error}");
        }
    }
}
