//! The address and the program of a client. The gateway sends both with calls of methods that ask for it
//! ((souk.options.v1.client_details)), because a service's own peer is the gateway.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header::USER_AGENT};
use tonic::transport::server::TcpConnectInfo;

use crate::tls::PeerCertificate;

/// The header with the client's address.
const ADDRESS: HeaderName = HeaderName::from_static("x-souk-client-address");
/// The header with the client's `User-Agent`.
const AGENT: HeaderName = HeaderName::from_static("x-souk-client-agent");
/// The name in the gateway's certificate and tokens.
const GATEWAY: &str = "gateway";
/// The maximum length of a stored `User-Agent`, in bytes. Those of browsers have about 120.
pub const MAX_AGENT: usize = 200;

/// What is known of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientDetails {
    /// The client's address. `None`: it is not known.
    pub address: Option<IpAddr>,
    /// The `User-Agent` that the client sent: printable ASCII, at most [`MAX_AGENT`] bytes. May be empty. A client can
    /// claim to be any program.
    pub user_agent: String,
}

impl ClientDetails {
    /// The details of a client with this address that sent these headers.
    pub fn new(address: IpAddr, headers: &HeaderMap) -> Self {
        Self { address: Some(address.to_canonical()), user_agent: clean(headers.get(USER_AGENT)) }
    }

    /// Sets the headers of a call to a service.
    pub fn write(&self, headers: &mut HeaderMap) {
        let address = self.address.and_then(|address| HeaderValue::from_str(&address.to_string()).ok());
        for (name, value) in [(ADDRESS, address), (AGENT, HeaderValue::from_str(&self.user_agent).ok())] {
            headers.remove(&name);
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
    }

    /// The details of the client of a request that a service got. The headers count unless the caller has a certificate
    /// that is not the gateway's. Without them, the caller is the client.
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        let (headers, extensions) = (request.metadata().as_ref(), request.extensions());
        let may_tell = extensions.get::<PeerCertificate>().is_none_or(|certificate| certificate.is_for(GATEWAY));
        if may_tell && let Some(address) = headers.get(ADDRESS) {
            let address = address.to_str().ok().and_then(|text| text.parse().ok());
            return Self { address, user_agent: clean(headers.get(AGENT)) };
        }
        let peer = extensions.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
        Self { address: peer.map(|peer| peer.ip().to_canonical()), user_agent: clean(headers.get(USER_AGENT)) }
    }
}

/// Makes a header safe to store and to show: other characters than those of printable ASCII become `?`.
fn clean(value: Option<&HeaderValue>) -> String {
    let bytes = value.map(HeaderValue::as_bytes).unwrap_or_default();
    let text: String = String::from_utf8_lossy(bytes)
        .trim()
        .chars()
        .take(MAX_AGENT)
        .map(|character| if matches!(character, ' '..='~') { character } else { '?' })
        .collect();
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(bytes: &[u8]) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_bytes(bytes).unwrap());
        ClientDetails::new("::1".parse().unwrap(), &headers).user_agent
    }

    #[test]
    fn a_user_agent_is_cleaned_and_shortened() {
        for (sent, stored) in [
            (&b"curl/8.5.0"[..], "curl/8.5.0"),
            (b"", ""),
            (b"  Mozilla/5.0 (X11; Linux x86_64)  ", "Mozilla/5.0 (X11; Linux x86_64)"),
            (b"a\tb", "a?b"),
            ("Käse \u{202e}exe".as_bytes(), "K?se ?exe"),
            (b"\xff\xfe", "??"),
        ] {
            assert_eq!(agent(sent), stored);
        }
        assert_eq!(agent(&[b'x'; 5000]).len(), MAX_AGENT);
        assert_eq!(agent("ä".repeat(300).as_bytes()).len(), MAX_AGENT);
    }

    #[test]
    fn what_the_gateway_writes_a_service_reads() {
        let mut sent = HeaderMap::new();
        sent.insert(USER_AGENT, HeaderValue::from_static("curl/8"));
        for address in ["192.0.2.1", "2001:db8::5"] {
            let details = ClientDetails::new(address.parse().unwrap(), &sent);
            let mut request = tonic::Request::new(());
            // A client's own headers of these names are replaced.
            request.metadata_mut().insert("x-souk-client-address", "198.51.100.7".parse().unwrap());
            request.metadata_mut().append("x-souk-client-address", "198.51.100.8".parse().unwrap());
            details.write(request.metadata_mut().as_mut());
            assert_eq!(request.metadata().get_all("x-souk-client-address").iter().count(), 1);
            assert_eq!(ClientDetails::of(&request), details);
        }
        let mapped = ClientDetails::new("::ffff:192.0.2.1".parse().unwrap(), &sent);
        assert_eq!(mapped.address, Some("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn without_a_gateway_the_caller_is_the_client() {
        let mut request = tonic::Request::new(());
        assert_eq!(ClientDetails::of(&request), ClientDetails::default());
        request.metadata_mut().insert("user-agent", "grpc-go/1.60".parse().unwrap());
        let remote_addr = Some("192.0.2.9:5000".parse().unwrap());
        request.extensions_mut().insert(TcpConnectInfo { local_addr: None, remote_addr });
        let expected =
            ClientDetails { address: Some("192.0.2.9".parse().unwrap()), user_agent: "grpc-go/1.60".to_owned() };
        assert_eq!(ClientDetails::of(&request), expected);
    }
}
