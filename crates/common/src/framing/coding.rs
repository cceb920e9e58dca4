//! The compression codings of requests, and decompression.

use std::io::{self, Read};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use http::{HeaderMap, HeaderName};

use crate::error::{ACCEPT_ENCODING, Problem, Reason};

/// The header with the coding of a call's messages.
pub const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// The coding of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// No compression.
    Identity,
    /// gzip, which all clients support.
    Gzip,
}

/// The reasons why data cannot be decompressed.
#[derive(Debug, thiserror::Error)]
pub enum NotInflated {
    /// The decompressed data exceeds the limit.
    #[error("it is larger than allowed")]
    TooLarge,
    /// The data is not gzip, or is incomplete.
    #[error("it is not gzip, or not whole")]
    Malformed(#[source] io::Error),
}

impl Coding {
    /// The accepted codings other than identity.
    pub const ACCEPTED: &str = "gzip";

    /// The coding that a header names. `None`: an unknown coding, or more than one.
    pub fn named(headers: &HeaderMap, name: &HeaderName) -> Option<Self> {
        let mut coding = Self::Identity;
        for value in headers.get_all(name) {
            for name in value.to_str().ok()?.split(',').map(str::trim) {
                let is = |known: &str| name.eq_ignore_ascii_case(known);
                if name.is_empty() || is("identity") {
                    continue;
                }
                if coding != Self::Identity || !(is("gzip") || is("x-gzip")) {
                    return None;
                }
                coding = Self::Gzip;
            }
        }
        Some(coding)
    }

    /// The coding of the messages of a gRPC call.
    ///
    /// # Errors
    /// `UNIMPLEMENTED` for an unknown coding. The error names the accepted ones.
    pub fn of_messages(headers: &HeaderMap) -> Result<Self, Problem> {
        Self::named(headers, &GRPC_ENCODING).ok_or_else(|| {
            let message = "the messages are compressed in a way that is not accepted: send them with `grpc-encoding` \
                           gzip, or as they are";
            Problem::new(Reason::Unimplemented, message).metadata(ACCEPT_ENCODING, Self::ACCEPTED)
        })
    }
}

/// Decompresses gzip data. Stops as soon as the output exceeds `limit` bytes.
///
/// # Errors
/// See [`NotInflated`].
pub fn inflate(packed: &[u8], limit: usize) -> Result<Bytes, NotInflated> {
    let mut inflated = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    MultiGzDecoder::new(packed).take(most).read_to_end(&mut inflated).map_err(NotInflated::Malformed)?;
    if inflated.len() > limit { Err(NotInflated::TooLarge) } else { Ok(inflated.into()) }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};
    use http::HeaderValue;

    use super::*;

    pub fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn what_headers_name() {
        let table: [(&[&str], Option<Coding>); 11] = [
            (&[], Some(Coding::Identity)),
            (&["identity"], Some(Coding::Identity)),
            (&[""], Some(Coding::Identity)),
            (&["gzip"], Some(Coding::Gzip)),
            (&["X-GZip"], Some(Coding::Gzip)),
            (&["identity, gzip"], Some(Coding::Gzip)),
            (&["gzip", "gzip"], None),
            (&["gzip, gzip"], None),
            (&["br"], None),
            (&["deflate"], None),
            (&["gzip;q=1"], None),
        ];
        for (values, expected) in table {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(GRPC_ENCODING, HeaderValue::from_static(value));
            }
            assert_eq!(Coding::named(&headers, &GRPC_ENCODING), expected, "{values:?}");
            if expected.is_none() {
                let refused = Coding::of_messages(&headers).unwrap_err();
                assert_eq!(
                    (refused.reason(), refused.get_metadata(ACCEPT_ENCODING)),
                    (Reason::Unimplemented, Some("gzip"))
                );
            }
        }
    }

    #[test]
    fn a_bomb_does_not_go_off() {
        let bomb = gzip(&vec![0; 50 << 20]);
        assert!(bomb.len() < 100 << 10);
        assert!(matches!(inflate(&bomb, 1 << 20), Err(NotInflated::TooLarge)));
        // Several gzip members, which together are one file.
        let members = [gzip(&[1; 600]), gzip(&[2; 600])].concat();
        assert_eq!(inflate(&members, 1200).unwrap().len(), 1200);
        assert!(matches!(inflate(&members, 1199), Err(NotInflated::TooLarge)));
    }

    #[test]
    fn what_is_not_gzip_or_not_whole_is_told() {
        let whole = gzip(b"hello");
        assert_eq!(inflate(&whole, 5).unwrap(), "hello");
        assert_eq!(inflate(&gzip(b""), 0).unwrap(), "");
        for end in 0..whole.len() {
            assert!(matches!(inflate(&whole[..end], 100), Err(NotInflated::Malformed(_))), "{end} bytes of it");
        }
        let trailing = [&whole[..], b"x"].concat();
        let garbage = b"hello".to_vec();
        let mut wrong_sum = whole.clone();
        let at = wrong_sum.len() - 5;
        wrong_sum[at] ^= 1;
        for wrong in [trailing, garbage, wrong_sum] {
            assert!(matches!(inflate(&wrong, 100), Err(NotInflated::Malformed(_))), "{wrong:?}");
        }
    }
}
