//! Formats that a string rule asks for by name: email, hostname, URI, addresses, UUID.
use std::net::{Ipv4Addr, Ipv6Addr};

/// A well-known format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Email,
    Hostname,
    Ip,
    Ipv4,
    Ipv6,
    /// A hostname or an IP address.
    Address,
    Uri,
    UriReference,
    Uuid,
    /// A UUID without its hyphens.
    TrimmedUuid,
}

impl Format {
    /// The format of a rule's name, if it is one known here.
    pub fn named(rule: &str) -> Option<Self> {
        Some(match rule {
            "email" => Self::Email,
            "hostname" => Self::Hostname,
            "ip" => Self::Ip,
            "ipv4" => Self::Ipv4,
            "ipv6" => Self::Ipv6,
            "address" => Self::Address,
            "uri" => Self::Uri,
            "uri_ref" => Self::UriReference,
            "uuid" => Self::Uuid,
            "tuuid" => Self::TrimmedUuid,
            _ => return None,
        })
    }

    /// What it is, in words that follow "must be".
    pub fn words(self) -> &'static str {
        match self {
            Self::Email => "an email address (for example name@example.com)",
            Self::Hostname => "a host name (for example example.com)",
            Self::Ip => "an IP address (for example 192.0.2.1 or 2001:db8::1)",
            Self::Ipv4 => "an IPv4 address (for example 192.0.2.1)",
            Self::Ipv6 => "an IPv6 address (for example 2001:db8::1)",
            Self::Address => "a host name or an IP address (for example example.com or 192.0.2.1)",
            Self::Uri => "a URI (for example https://example.com/)",
            Self::UriReference => "a URI or a relative reference (for example /a/b)",
            Self::Uuid => "a UUID (for example 01980000-0000-7000-8000-000000000000)",
            Self::TrimmedUuid => "a UUID without hyphens (for example 01980000000070008000000000000000)",
        }
    }

    /// Whether a text has the format.
    pub fn admits(self, text: &str) -> bool {
        match self {
            Self::Email => is_email(text),
            Self::Hostname => is_hostname(text),
            Self::Ip => is_ipv4(text) || is_ipv6(text),
            Self::Ipv4 => is_ipv4(text),
            Self::Ipv6 => is_ipv6(text),
            Self::Address => is_hostname(text) || is_ipv4(text) || is_ipv6(text),
            Self::Uri => fluent_uri::Uri::parse(text).is_ok(),
            Self::UriReference => fluent_uri::UriRef::parse(text).is_ok(),
            Self::Uuid => is_uuid(text),
            Self::TrimmedUuid => text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()),
        }
    }
}

/// As HTML defines `<input type="email">`, which protovalidate follows.
fn is_email(text: &str) -> bool {
    const SPECIAL: &[u8] = b".!#$%&'*+/=?^_`{|}~-";
    let Some((local, domain)) = text.split_once('@') else {
        return false;
    };
    let local_fits =
        !local.is_empty() && local.bytes().all(|byte| byte.is_ascii_alphanumeric() || SPECIAL.contains(&byte));
    local_fits && domain.split('.').all(is_label)
}

/// As RFC 1034 and 1123 have it; a last dot is allowed, a last label of digits is not.
fn is_hostname(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let last = name.rsplit('.').next().unwrap_or_default();
    text.len() <= 253 && name.split('.').all(is_label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn is_ipv4(text: &str) -> bool {
    text.parse::<Ipv4Addr>().is_ok()
}

/// With or without a zone: `fe80::1%eth0`.
fn is_ipv6(text: &str) -> bool {
    let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
    zone != Some("") && address.parse::<Ipv6Addr>().is_ok()
}

/// With hyphens, in either case: the other forms that the uuid crate reads are not meant.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples() {
        let long = format!("{}.com", "a".repeat(64));
        let longest = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
        let too_long = format!("{longest}e");
        let cases: &[(Format, &[&str], &[&str])] = &[
            (
                Format::Email,
                &["a@b", "first.last+tag@example.co.uk", "o'neil@x-y.com", "a..b@c.d"],
                &["", "a", "@b.c", "a@", "a@b.", "a@-b.c", "a b@c.d", "é@b.c", "a@b@c", "Name <a@b.c>", "a@b.c\n"],
            ),
            (
                Format::Hostname,
                &["localhost", "example.com", "example.com.", "xn--bcher-kva.example", "1a.2b", &longest],
                &["", ".", "a..b", "-a.b", "a-.b", "a_b", "127.0.0.1", "a.1", &long, &too_long, "a.b.."],
            ),
            (Format::Ipv4, &["127.0.0.1", "255.255.255.255"], &["", "256.0.0.1", "1.2.3", "01.2.3.4", "::1"]),
            (
                Format::Ipv6,
                &["::1", "2001:db8::1", "::ffff:192.0.2.1", "fe80::1%eth0"],
                &["", "127.0.0.1", ":::1", "fe80::1%", "[::1]"],
            ),
            (Format::Ip, &["127.0.0.1", "::1"], &["", "localhost"]),
            (Format::Address, &["127.0.0.1", "::1", "localhost"], &["", "a b"]),
            (
                Format::Uri,
                &["https://example.com/a?b=c#d", "urn:isbn:0451450523", "mailto:a@b.c"],
                &["", "/a/b", "example.com", "https://exa mple.com", "http://[::1", "https://a/%zz"],
            ),
            (Format::UriReference, &["", "/a/b", "../c", "https://a/"], &["a b", "%"]),
            (
                Format::Uuid,
                &["01980000-0000-7000-8000-00000000abcd", "01980000-0000-7000-8000-00000000ABCD"],
                &[
                    "",
                    "01980000000070008000000000000000",
                    "{01980000-0000-7000-8000-00000000abcd}",
                    "01980000-0000-7000-8000-00000000abcg",
                ],
            ),
            (Format::TrimmedUuid, &["01980000000070008000000000000000"], &["", "0198"]),
        ];
        for (format, good, bad) in cases {
            for text in *good {
                assert!(format.admits(text), "{format:?} should admit {text:?}");
            }
            for text in *bad {
                assert!(!format.admits(text), "{format:?} should not admit {text:?}");
            }
        }
    }

    #[test]
    fn the_examples_in_the_words_are_right() {
        for name in ["email", "hostname", "ip", "ipv4", "ipv6", "address", "uri", "uri_ref", "uuid", "tuuid"] {
            let format = Format::named(name).unwrap();
            let (_, example) = format.words().split_once("(for example ").unwrap();
            for example in example.trim_end_matches(')').split(" or ") {
                assert!(format.admits(example), "{name}: {example}");
            }
        }
    }
}
