//! How requests may be compressed, and inflating them.

use std::io::{self, Read};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use http::{HeaderMap, HeaderName};

use crate::error::{ACCEPT_ENCODING, Problem, Reason};

/// How the messages of a call are compressed.
pub const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// How a request is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// Not at all.
    Identity,
    /// With gzip, which everyone can write.
    Gzip,
}

/// What cannot be inflated.
#[derive(Debug, thiserror::Error)]
pub enum NotInflated {
    /// More comes out than is taken.
    #[error("it is larger than allowed")]
    TooLarge,
    /// It is not what it says, or is not whole.
    #[error("it is not gzip, or not whole")]
    Malformed(#[source] io::Error),
}

impl Coding {
    /// The codings that are accepted beside none.
    pub const ACCEPTED: &str = "gzip";

    /// What a header names. `None`: something else, or more than one.
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

    /// That of the messages of a gRPC call.
    ///
    /// # Errors
    /// `UNIMPLEMENTED`, with what is accepted.
    pub fn of_messages(headers: &HeaderMap) -> Result<Self, Problem> {
        Self::named(headers, &GRPC_ENCODING).ok_or_else(|| {
            let message = "the messages are compressed in a way that is not accepted: send them with `grpc-encoding` \
                           gzip, or as they are";
            Problem::new(Reason::Unimplemented, message).metadata(ACCEPT_ENCODING, Self::ACCEPTED)
        })
    }
}

/// Inflates what gzip made. Stops as soon as more than `limit` bytes come out.
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
        // Also in several members, which together are one file.
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
