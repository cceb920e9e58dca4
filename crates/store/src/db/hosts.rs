//! The hosts of a PostgreSQL URL: the primary, and the servers that may replace it in a failover.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use diesel::{ConnectionError, ConnectionResult};
use tokio_postgres::config::{Config, Host, TargetSessionAttrs};

use super::config::Chain;
use super::postgres::{Conn, Connector, is_refusal};

/// The longest time for one of several hosts, so that the next one is tried in time.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The hosts. Each is tried separately, so that one that hangs does not use up the time of all.
pub(super) struct Hosts {
    each: Vec<Config>,
    /// The host of the last connection. It is tried first, because only one host accepts writes.
    last: AtomicUsize,
    timeout: Duration,
}

impl Hosts {
    /// The hosts of the settings. If there are several, only one that accepts writes is used. All together get the time
    /// `wait`.
    pub fn of(settings: &Config, wait: Duration) -> Self {
        let each = each(settings);
        let timeout = (wait / u32::try_from(each.len()).unwrap_or(u32::MAX)).min(TIMEOUT);
        Self { each, last: AtomicUsize::new(0), timeout }
    }

    /// A connection to the first host that accepts it.
    pub async fn connect(&self, connector: &Connector) -> ConnectionResult<Conn> {
        if let [only] = self.each.as_slice() {
            return connector.establish(only).await;
        }
        let count = self.each.len();
        let first = self.last.load(Ordering::Relaxed);
        let (mut refusals, mut troubles) = (Vec::new(), Vec::new());
        for at in (first..first + count).map(|at| at % count) {
            let trouble = match tokio::time::timeout(self.timeout, connector.establish(&self.each[at])).await {
                Ok(Ok(conn)) => {
                    self.last.store(at, Ordering::Relaxed);
                    return Ok(conn);
                }
                Ok(Err(error)) => {
                    let text = Chain(&error).to_string();
                    if is_refusal(&error) {
                        refusals.push(error);
                    }
                    text
                }
                Err(_) => format!("no answer for {:?}", self.timeout),
            };
            troubles.push(format!("{}: {trouble}", name(&self.each[at])));
        }
        match refusals.pop() {
            // The settings are wrong only if every host refused for good.
            Some(refusal) if refusals.len() + 1 == count => Err(refusal),
            _ => Err(ConnectionError::BadConnection(troubles.join("; "))),
        }
    }
}

/// The settings of each host alone.
fn each(settings: &Config) -> Vec<Config> {
    let (hosts, addresses, ports) = (settings.get_hosts(), settings.get_hostaddrs(), settings.get_ports());
    let count = hosts.len().max(addresses.len());
    if count < 2 {
        return vec![settings.clone()];
    }
    let of = |at: usize| {
        let mut one = without_host(settings);
        match hosts.get(at) {
            Some(Host::Tcp(host)) => drop(one.host(host)),
            #[cfg(unix)]
            Some(Host::Unix(path)) => drop(one.host_path(path)),
            None => {}
        }
        if let Some(address) = addresses.get(at) {
            one.hostaddr(*address);
        }
        if let Some(port) = ports.get(at).or(ports.first()) {
            one.port(*port);
        }
        one
    };
    (0..count).map(of).collect()
}

fn without_host(from: &Config) -> Config {
    let mut to = Config::new();
    from.get_user().map(|user| to.user(user));
    from.get_password().map(|password| to.password(password));
    from.get_dbname().map(|name| to.dbname(name));
    from.get_options().map(|options| to.options(options));
    from.get_application_name().map(|name| to.application_name(name));
    from.get_connect_timeout().map(|timeout| to.connect_timeout(*timeout));
    from.get_tcp_user_timeout().map(|timeout| to.tcp_user_timeout(*timeout));
    from.get_keepalives_interval().map(|interval| to.keepalives_interval(interval));
    from.get_keepalives_retries().map(|retries| to.keepalives_retries(retries));
    to.keepalives(from.get_keepalives());
    to.keepalives_idle(from.get_keepalives_idle());
    to.ssl_mode(from.get_ssl_mode());
    to.ssl_negotiation(from.get_ssl_negotiation());
    to.channel_binding(from.get_channel_binding());
    to.load_balance_hosts(from.get_load_balance_hosts());
    to.target_session_attrs(match from.get_target_session_attrs() {
        // A failover changes which of several hosts accepts writes, so every connection checks this.
        TargetSessionAttrs::Any => TargetSessionAttrs::ReadWrite,
        asked => asked,
    });
    to
}

/// A host's name for messages. Each host has a name or an address.
fn name(of: &Config) -> String {
    let host = match of.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        #[cfg(unix)]
        Some(Host::Unix(path)) => path.display().to_string(),
        None => of.get_hostaddrs().first().map(ToString::to_string).unwrap_or_default(),
    };
    match of.get_ports().first() {
        Some(port) => format!("{host}:{port}"),
        None => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(url: &str) -> Vec<Config> {
        each(&url.parse().unwrap())
    }

    #[test]
    fn a_url_with_one_host_stays_unchanged() {
        let url = "postgres://ann:secret@one:5433/shop?target_session_attrs=any&connect_timeout=3";
        assert_eq!(hosts(url), [url.parse().unwrap()]);
    }

    /// Each host must get every setting of the URL. If a new setting is forgotten, this test fails.
    #[test]
    fn each_of_several_hosts_gets_every_setting() {
        let rest = "options=-c%20geqo%3Doff&application_name=x&connect_timeout=3&tcp_user_timeout=4&keepalives=0\
            &keepalives_idle=5&keepalives_interval=6&keepalives_retries=7&target_session_attrs=read-write\
            &sslmode=require&sslnegotiation=direct&channel_binding=require&load_balance_hosts=random";
        let url = |host: &str| format!("postgres://ann:secret@{host}/shop?{rest}");
        let both = hosts(&url("one:5433,two"));
        assert_eq!(both, [url("one:5433"), url("two:5432")].map(|url| url.parse().unwrap()));
        assert_eq!(both.iter().map(name).collect::<Vec<_>>(), ["one:5433", "two:5432"]);
    }

    #[test]
    fn one_of_several_hosts_must_accept_writes() {
        let attributes = |url: &str| hosts(url)[1].get_target_session_attrs();
        assert_eq!(attributes("postgres://one,two/shop"), TargetSessionAttrs::ReadWrite);
        let read_only = "postgres://one,two/shop?target_session_attrs=read-only";
        assert_eq!(attributes(read_only), TargetSessionAttrs::ReadOnly);
    }
}
