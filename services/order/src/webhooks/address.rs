//! The addresses that webhooks may be posted to. Addresses in the service's own network are not allowed: a user could
//! enter one to reach systems that are not reachable from outside (server-side request forgery).
//!
//! A name is resolved each time an event is sent, and the connection uses exactly the addresses that passed the check.
//! So a name that later resolves to another address cannot bypass it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use url::Host;

use super::settings::Settings;

/// The policy: the addresses that webhooks may be posted to.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    http: bool,
    private: bool,
    networks: Arc<[IpNet]>,
}

/// The name has no address that webhooks may be posted to.
#[derive(Debug, thiserror::Error)]
#[error("{0} has no public address, and others are not allowed")]
struct Refused(String);

impl Policy {
    pub(crate) fn new(settings: &Settings) -> Self {
        let networks = settings.allow_networks.as_slice().into();
        Self { http: settings.allow_http, private: settings.allow_private, networks }
    }

    /// True if webhooks may be posted to this address.
    pub(crate) fn permits(&self, address: IpAddr) -> bool {
        let listed = |address: IpAddr| self.networks.iter().any(|network| network.contains(&address));
        self.private || is_public(address) || listed(address) || listed(address.to_canonical())
    }

    /// Parses an endpoint's URL. The addresses of a host name are checked when an event is sent.
    ///
    /// # Errors
    /// Describes a valid URL.
    pub(crate) fn read(&self, text: &str) -> Result<Url, String> {
        let wanted = if self.http { "`https://` or `http://`" } else { "`https://`" };
        let url = Url::parse(text).map_err(|error| format!("must be an address that begins with {wanted}: {error}"))?;
        if !(url.scheme() == "https" || self.http && url.scheme() == "http") {
            return Err(format!("must begin with {wanted}"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must have no user and no password: requests are signed instead".to_owned());
        }
        if url.fragment().is_some() {
            return Err("must have no fragment (`#…`), which is never sent".to_owned());
        }
        let literal = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(_)) => None,
            None => return Err("must name a host".to_owned()),
        };
        match literal {
            Some(address) if !self.permits(address) => {
                Err("must be a public address: this one is of a private network, or reserved".to_owned())
            }
            _ => Ok(url),
        }
    }
}

/// The HTTP client resolves names through this type. It does not resolve numeric addresses, which [`Policy::read`] has
/// checked.
impl Resolve for Policy {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let fit: Vec<SocketAddr> = found.filter(|address| policy.permits(address.ip())).collect();
            if fit.is_empty() {
                return Err(Refused(name.as_str().to_owned()).into());
            }
            Ok(Box::new(fit.into_iter()) as Addrs)
        })
    }
}

/// True if an address is publicly reachable, by IANA's registries of special-purpose addresses.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = match (a, b, c) {
        // "This network", private, loopback, multicast, reserved and broadcast addresses.
        (0 | 10 | 127 | 224..=255, _, _) => true,
        // Carrier-grade NAT (RFC 6598), link-local, private.
        (100, 64..=127, _) | (169, 254, _) | (172, 16..=31, _) | (192, 168, _) => true,
        // Protocol assignments, documentation, 6to4 relays, benchmarks.
        (192, 0, 0 | 2) | (192, 88, 99) | (198, 18 | 19, _) | (198, 51, 100) | (203, 0, 113) => true,
        _ => false,
    };
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let inside = || {
        let [.., high, low] = segments;
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match segments {
        // An IPv4 address in another form: IPv4-mapped or NAT64.
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => is_public_v4(inside()),
        // Protocol assignments (Teredo and ORCHID among them), documentation, and 6to4, which embeds an IPv4 address.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // All addresses that are assigned as global unicast. Loopback, unique-local, link-local and multicast addresses
        // are outside of this range.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn policy(http: bool, private: bool, networks: &[&str]) -> Policy {
        let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
        Policy { http, private, networks }
    }

    #[test]
    fn addresses_that_are_not_public_are_refused() {
        let strict = policy(false, false, &[]);
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.0.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert!(!strict.permits(address), "{address}");
            assert!(policy(false, true, &[]).permits(address), "{address}");
        }
        for address in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "223.255.255.255",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
            "2001:200::1",
            "2606:4700::1111",
            "2a00::1",
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert!(strict.permits(address), "{address}");
        }
    }

    #[test]
    fn single_networks_can_be_allowed() {
        let some = policy(false, false, &["10.1.0.0/16", "fd00::/64"]);
        for (address, fit) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("10.2.0.1", false),
            ("fd00::7", true),
            ("fd00:0:0:1::7", false),
            ("127.0.0.1", false),
        ] {
            assert_eq!(some.permits(address.parse().unwrap()), fit, "{address}");
        }
    }

    #[test]
    fn other_notations_of_a_private_address_are_refused() {
        let strict = policy(false, false, &[]);
        for (text, what) in [
            ("", "must be an address"),
            ("shop.example", "must be an address"),
            ("http://shop.example/", "must begin with `https://`"),
            ("ftp://shop.example/", "must begin with"),
            ("file:///etc/passwd", "must begin with"),
            ("https://", "must be an address"),
            ("https://ada:pw@shop.example/", "no user"),
            ("https://shop.example/#x", "no fragment"),
            ("https://127.0.0.1/", "public address"),
            // Other notations of the same address, which browsers and therefore the parser accept.
            ("https://2130706433/", "public address"),
            ("https://0x7f.1/", "public address"),
            ("https://[::1]:8443/", "public address"),
            ("https://[::ffff:a00:1]/", "public address"),
        ] {
            let refused = strict.read(text).unwrap_err();
            assert!(refused.contains(what), "{text}: {refused}");
        }
        assert_eq!(strict.read("https://Shop.Example:8443/a?b=c").unwrap().as_str(), "https://shop.example:8443/a?b=c");
        assert!(policy(true, true, &[]).read("http://127.0.0.1:80/").is_ok());
    }
}
