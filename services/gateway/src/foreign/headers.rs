//! Lists of headers that are forwarded between clients and services.

use http::{HeaderMap, HeaderName, header};
use serde::{Deserialize, Deserializer, de::Error};

/// A list of headers, by full names and by prefixes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderList {
    exact: Vec<HeaderName>,
    prefixes: Vec<String>,
}

/// Headers of a single connection, of a single message on it, or of the gateway itself. A list never forwards them.
const RESERVED: [HeaderName; 16] = [
    header::AUTHORIZATION,
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::DATE,
    header::ETAG,
    header::EXPECT,
    header::HOST,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::VARY,
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("traceparent"),
];
const RESERVED_PREFIXES: [&str; 3] = ["grpc-", "access-control-", "proxy-"];

fn is_reserved(name: &str) -> bool {
    RESERVED.iter().any(|reserved| reserved == name) || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

impl HeaderList {
    /// Parses full names such as `x-tenant` and prefixes such as `x-shop-*`.
    ///
    /// # Errors
    /// The first entry that is invalid, or that names a header that is never forwarded.
    pub fn parse(entries: &[String]) -> Result<Self, String> {
        let mut list = Self::default();
        for entry in entries {
            let (text, is_prefix) = entry.strip_suffix('*').map_or((entry.as_str(), false), |text| (text, true));
            let name =
                HeaderName::from_bytes(text.as_bytes()).ok().filter(|_| !text.contains('*')).ok_or_else(|| {
                    format!("`{entry}` is no header: write a name such as x-tenant, or x-shop-* for all that begin so")
                })?;
            if is_reserved(name.as_str()) {
                return Err(format!(
                    "`{entry}` is not passed on by a list: it belongs to a connection or to the gateway itself \
                     (for authorization there is pass_authorization)"
                ));
            }
            match is_prefix {
                true => list.prefixes.push(name.as_str().to_owned()),
                false => list.exact.push(name),
            }
        }
        Ok(list)
    }

    /// True if the list contains a header.
    pub fn has(&self, name: &HeaderName) -> bool {
        let name = name.as_str();
        let named = self.exact.iter().any(|exact| exact == name);
        (named || self.prefixes.iter().any(|prefix| name.starts_with(prefix))) && !is_reserved(name)
    }

    /// True if the list contains no header.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty()
    }

    /// The headers that the list contains by full name.
    pub fn named(&self) -> impl Iterator<Item = &HeaderName> {
        self.exact.iter()
    }

    /// Appends all headers of `from` that the list contains to `to`.
    pub fn copy(&self, from: &HeaderMap, to: &mut HeaderMap) {
        for (name, value) in from.iter().filter(|(name, _)| self.has(name)) {
            to.append(name, value.clone());
        }
    }
}

impl<'de> Deserialize<'de> for HeaderList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&Vec::<String>::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn list(entries: &[&str]) -> Result<HeaderList, String> {
        HeaderList::parse(&entries.iter().map(|entry| (*entry).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn only_listed_names_and_prefixes_pass() {
        let list = list(&["X-Tenant", "x-shop-*", "g*"]).unwrap();
        let mut from = HeaderMap::new();
        for name in ["x-tenant", "x-tenant-2", "x-shop-lane", "x-shop", "grpc-timeout", "cookie", "authorization"] {
            from.append(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        from.append("x-tenant", HeaderValue::from_static("2"));
        let mut to = HeaderMap::new();
        list.copy(&from, &mut to);
        let mut names: Vec<_> = to.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        names.sort_unstable();
        assert_eq!(names, [("x-shop-lane", "1"), ("x-tenant", "1"), ("x-tenant", "2")]);
    }

    #[test]
    fn invalid_header_names_are_refused() {
        for wrong in
            ["", "*", "x tenant", "x-*-y", "authorization", "Content-Type", "grpc-status", "grpc-*", "x-request-id"]
        {
            assert!(list(&[wrong]).unwrap_err().contains(&format!("`{wrong}`")), "{wrong}");
        }
    }
}
