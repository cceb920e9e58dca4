//! The addresses of a service: one, several, or a host name that resolves to several.

use std::{fmt, net::SocketAddr};

use http::Uri;
use serde::{Deserialize, Deserializer};

use crate::tls::{ClientTls, Secured};

/// An invalid address of a service.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is not an address of a service: it must look like http://host:port, or https://host:port where \
         [client.tls] is set, or be several with commas between"
)]
pub struct AddressError(String);

/// One configured address: a host (IP address or name) and a port.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    /// `http://host:port`, the target of calls.
    pub(super) uri: Uri,
    /// `host:port`, the form that resolvers take.
    pub(super) authority: String,
    /// TLS for connections to an `https://…` address.
    pub(super) tls: Option<Secured>,
}

impl Origin {
    /// The socket address, if the host is an IP address.
    pub(super) fn fixed(&self) -> Option<SocketAddr> {
        self.authority.parse().ok()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority)
    }
}

/// Parses the addresses of a setting.
///
/// # Errors
/// If there is no address, or if one of them is invalid.
pub(super) fn parse(text: &str, tls: &ClientTls) -> Result<Vec<Origin>, AddressError> {
    let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return Err(AddressError(text.to_owned()));
    }
    parts.into_iter().map(|part| origin(part, tls).ok_or_else(|| AddressError(part.to_owned()))).collect()
}

fn origin(text: &str, tls: &ClientTls) -> Option<Origin> {
    let uri: Uri = text.parse().ok()?;
    let host = uri.host().filter(|host| !host.is_empty())?;
    let (tls, port) = match uri.scheme_str()? {
        "http" => (None, 80),
        "https" => (Some(tls.secured(host)?), 443),
        _ => return None,
    };
    let whole = matches!(uri.path(), "" | "/") && uri.query().is_none();
    let port = uri.port_u16().unwrap_or(port);
    whole.then(|| Origin { authority: format!("{host}:{port}"), uri: uri.clone(), tls })
}

/// Deserializes a setting that is one text or a list of texts. Returns the texts joined with commas.
///
/// # Errors
/// If the value is neither a text nor a list of texts.
pub fn one_or_several<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "must be an address such as \"http://127.0.0.1:9001\", or a list of such")]
    enum Given {
        One(String),
        Several(Vec<String>),
    }
    Ok(match Given::deserialize(deserializer)? {
        Given::One(address) => address,
        Given::Several(addresses) => addresses.join(","),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_and_errors_name_the_wrong_one() {
        let parse = |text| parse(text, &ClientTls::default());
        let found = parse("http://127.0.0.1:9001, http://inventory:9000/,http://[::1]:5,http://a").unwrap();
        let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["127.0.0.1:9001", "inventory:9000", "[::1]:5", "a:80"]);
        assert!(found[0].fixed().is_some() && found[1].fixed().is_none() && found[2].fixed().is_some());
        for wrong in
            ["", " , ", "not an address", "inventory:9000", "https://a:1", "http://a:1/x", "http://:1", "ftp://a"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        let error = parse("http://a:1,nope,http://b:1").unwrap_err().to_string();
        assert!(error.contains("`nope`") && error.contains("http://host:port"), "{error}");
    }

    #[test]
    fn an_address_setting_is_a_text_or_a_list() {
        let read = |json: serde_json::Value| one_or_several(json);
        assert_eq!(read("http://a:1,http://b:1".into()).unwrap(), "http://a:1,http://b:1");
        assert_eq!(read(serde_json::json!(["http://a:1", "http://b:1"])).unwrap(), "http://a:1,http://b:1");
        assert!(read(7.into()).unwrap_err().to_string().contains("or a list of such"));
    }
}
