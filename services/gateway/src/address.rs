//! The client address of a request: the peer's, or the one that a trusted proxy reports.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::{HeaderMap, HeaderName, header};
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error};

/// A network of proxies, such as `10.0.0.0/8`, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(IpNet);

/// Reads a list of networks.
///
/// # Errors
/// Names the entry that is not a network. The list is read as a whole, so that the error names the setting.
pub fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Network>, D::Error> {
    let read = |text: &String| {
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(Network).map_err(|_| {
            D::Error::custom(format!(
                "`{text}` is not a network: write one such as \"10.0.0.0/8\" or \"fd00::/8\", or one address"
            ))
        })
    };
    Vec::<String>::deserialize(deserializer)?.iter().map(read).collect()
}

/// The header in which proxies report the client address. Only one header is read, because a proxy passes on whatever a
/// client writes into the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum ForwardedBy {
    /// `X-Forwarded-For: client, proxy`
    #[serde(rename = "x-forwarded-for")]
    XForwardedFor,
    /// `Forwarded: for=client, for="[2001:db8::1]:4711"` (RFC 7239)
    #[serde(rename = "forwarded")]
    Forwarded,
}

/// The address of the client. Each proxy adds its caller at the right, and everything to the left of an untrusted
/// address may be forged. So the rightmost address that is not a trusted proxy's is the client.
pub fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[Network], by: ForwardedBy) -> IpAddr {
    let is_trusted = |address: IpAddr| is_trusted(address, trusted);
    let mut nearest = peer.to_canonical();
    let (name, read): (HeaderName, fn(&str) -> Option<IpAddr>) = match by {
        ForwardedBy::XForwardedFor => (HeaderName::from_static("x-forwarded-for"), address),
        ForwardedBy::Forwarded => (header::FORWARDED, forwarded_for),
    };
    let lines = headers.get_all(name).into_iter().collect::<Vec<_>>();
    let mut hops = lines.into_iter().rev().flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
    while is_trusted(nearest) {
        // If a trusted proxy reports no address, the proxy counts as the client.
        let Some(hop) = hops.next().and_then(read) else { break };
        nearest = hop;
    }
    nearest
}

/// True if the address belongs to a trusted proxy.
pub fn is_trusted(address: IpAddr, trusted: &[Network]) -> bool {
    trusted.iter().any(|network| network.0.contains(&address))
}

/// The network that counts as one client. For IPv6 this is a /64: a site owns a whole /64 and would otherwise have 2^64
/// budgets.
pub fn site(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

/// Parses an address as proxies write it, with or without a port: `192.0.2.1:80`, `[2001:db8::1]:80`, `2001:db8::1`.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = || text.parse().or_else(|_| text.trim_start_matches('[').trim_end_matches(']').parse()).ok();
    let address: IpAddr = text.parse::<SocketAddr>().map(|socket| socket.ip()).ok().or_else(bare)?;
    Some(address.to_canonical())
}

fn forwarded_for(element: &str) -> Option<IpAddr> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| address(value.trim().trim_matches('"')))?
    };
    element.split(';').find_map(pair)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_client_is_the_rightmost_address_that_is_not_trusted() {
        use ForwardedBy::{Forwarded as F, XForwardedFor as X};
        let trusted = networks(json!(["10.0.0.0/8", "192.0.2.7", "fd00::/8"])).unwrap();
        let table: [(&str, ForwardedBy, &[&str], &str); 17] = [
            // Headers of an untrusted peer are ignored.
            ("203.0.113.9", X, &["198.51.100.1"], "203.0.113.9"),
            ("10.0.0.1", X, &["198.51.100.1"], "198.51.100.1"),
            ("::ffff:10.0.0.1", X, &["198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", X, &["198.51.100.1, 192.0.2.7, 10.2.3.4"], "198.51.100.1"),
            // Addresses to the left of the client's are forged by the client.
            ("10.0.0.1", X, &["10.9.9.9, 127.0.0.1, 198.51.100.1, 10.2.3.4"], "198.51.100.1"),
            // Two header lines form one list.
            ("10.0.0.1", X, &["1.1.1.1", "198.51.100.1", "10.2.3.4"], "198.51.100.1"),
            ("10.0.0.1", X, &["198.51.100.1:4711"], "198.51.100.1"),
            ("fd00::1", X, &["[2001:db8::5]:4711"], "2001:db8::5"),
            ("fd00::1", X, &["2001:db8::5"], "2001:db8::5"),
            // Without a readable address, the last known proxy counts as the client.
            ("10.0.0.1", X, &[], "10.0.0.1"),
            ("10.0.0.1", X, &["198.51.100.1, unknown"], "10.0.0.1"),
            ("10.0.0.1", X, &["198.51.100.1, unknown, 10.2.3.4"], "10.2.3.4"),
            // All addresses belong to trusted proxies.
            ("10.0.0.1", X, &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", F, &["for=1.1.1.1, For=198.51.100.1;proto=https;by=10.0.0.1"], "198.51.100.1"),
            ("10.0.0.1", F, &["for=1.1.1.1", "proto=https;for=\"[2001:db8::5]:4711\", for=10.2.3.4"], "2001:db8::5"),
            ("10.0.0.1", F, &["for=_hidden"], "10.0.0.1"),
            // An unclosed quote of the client does not hide the entries after it.
            ("10.0.0.1", F, &["for=\"1.1.1.1, for=198.51.100.1"], "198.51.100.1"),
        ];
        for (peer, by, lines, expected) in table {
            let mut headers = HeaderMap::new();
            for line in lines {
                // The header that is not configured must have no effect.
                headers.append(if by == X { "x-forwarded-for" } else { "forwarded" }, line.parse().unwrap());
            }
            headers.append(if by == X { "forwarded" } else { "x-forwarded-for" }, "for=6.6.6.6".parse().unwrap());
            let found = client(peer.parse().unwrap(), &headers, &trusted, by);
            assert_eq!(found, expected.parse::<IpAddr>().unwrap(), "{peer} {lines:?}");
        }
    }

    #[test]
    fn an_ipv6_site_is_one_client() {
        let site = |text: &str| site(text.parse().unwrap()).to_string();
        assert_eq!(site("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(site("192.0.2.1"), "192.0.2.1");
    }

    #[test]
    fn the_error_names_an_invalid_network() {
        let error = networks(json!(["::1", "10.0.0.0/33"])).unwrap_err().to_string();
        assert!(error.contains("`10.0.0.0/33` is not a network") && error.contains("10.0.0.0/8"), "{error}");
    }
}
