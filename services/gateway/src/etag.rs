//! Entity tags (RFC 9110, 8.8.3): parsing them from request headers, and creating them for responses.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};

use crate::transcode::Binding;

/// Number of hash bytes in a tag. Enough to exclude collisions.
const HASHED: usize = 16;
/// Suffix for the tag of a compressed representation, which must differ from the tag of the uncompressed one.
const PACKED: &str = "--gzip";
/// Suffixes that compressing proxies add to a tag, with their coding: Apache (`DeflateAlterETag`, `BrotliAlterETag`)
/// and Caddy.
const PACKED_BY_OTHERS: [(&str, &str); 4] =
    [("-gzip", "gzip"), ("-br", "br"), ("-zstd", "zstd"), ("-deflate", "deflate")];

/// A tag that a client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag<'h> {
    /// True if the tag began with `W/`.
    pub weak: bool,
    /// The text between the quotes.
    pub opaque: &'h str,
}

impl<'h> Tag<'h> {
    /// The tags that the resource may have had before compression, the most likely first. A tag with the suffix of a
    /// compressed one is also tried unchanged, because it may end like that by itself.
    pub fn meant(self) -> impl Iterator<Item = &'h str> {
        let own = self.opaque.strip_suffix(PACKED);
        let others = self.opaque;
        let others = PACKED_BY_OTHERS.iter().find_map(|(suffix, _)| others.strip_suffix(suffix));
        [own, Some(self.opaque), others.filter(|_| own.is_none())].into_iter().flatten()
    }

    /// Compares this tag with the current tag of the uncompressed representation. If both name the same content in a
    /// coding that the client `reads`, returns the tag for the response. A proxy adds its own suffix again, so the
    /// returned tag lacks it.
    pub fn is_as_good_as(self, tag: &'h str, reads: impl Fn(&str) -> bool) -> Option<&'h str> {
        if self.opaque == tag {
            return Some(tag);
        }
        let added = self.opaque.strip_prefix(tag)?;
        if added == PACKED {
            return reads("gzip").then_some(self.opaque);
        }
        PACKED_BY_OTHERS.iter().any(|(suffix, coding)| *suffix == added && reads(coding)).then_some(tag)
    }
}

/// The content of an `If-Match` or `If-None-Match` header.
#[derive(Debug, PartialEq, Eq)]
pub enum Named<'h> {
    /// `*`: any existing version.
    Any,
    /// A list of tags.
    Tags(Vec<Tag<'h>>),
}

/// The header is not a valid list of tags.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

/// Parses the tags of a request header. `None` if the request has no such header.
pub fn named<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Result<Named<'h>, Malformed>> {
    let mut values = headers.get_all(name).iter().peekable();
    values.peek()?;
    let mut tags = Vec::new();
    for value in values {
        let Ok(text) = value.to_str() else { return Some(Err(Malformed)) };
        if text.trim() == "*" {
            return Some(Ok(Named::Any));
        }
        if list(text, &mut tags).is_none() {
            return Some(Err(Malformed));
        }
    }
    Some(if tags.is_empty() { Err(Malformed) } else { Ok(Named::Tags(tags)) })
}

fn list<'h>(text: &'h str, tags: &mut Vec<Tag<'h>>) -> Option<()> {
    const BETWEEN: [char; 3] = [' ', '\t', ','];
    let mut rest = text.trim_start_matches(BETWEEN);
    while !rest.is_empty() {
        let strong = rest.strip_prefix("W/");
        let (opaque, after) = strong.unwrap_or(rest).strip_prefix('"')?.split_once('"')?;
        tags.push(Tag { weak: strong.is_some(), opaque });
        let next = after.trim_start_matches(BETWEEN);
        if !next.is_empty() && !after.trim_start().starts_with(',') {
            return None;
        }
        rest = next;
    }
    Some(())
}

/// The tag of a response, without quotes. This is the message's own field `etag`, which `If-Match` is then compared
/// with, or else a hash of the JSON.
pub fn of(binding: &Binding, message: &[u8], json: &[u8]) -> String {
    let hash = || BASE64_URL_SAFE_NO_PAD.encode(&Sha256::digest(json)[..HASHED]);
    binding.own_etag(message).filter(|own| is_opaque(own)).map_or_else(hash, str::to_owned)
}

/// True if a text is valid in a tag without encoding.
fn is_opaque(text: &str) -> bool {
    text.bytes().all(|byte| byte == 0x21 || (0x23..=0x7e).contains(&byte))
}

/// Formats a tag as a header value.
pub fn header(opaque: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("\"{opaque}\"")).ok()
}

/// The tag of the compressed representation, derived from the header of the uncompressed one.
pub fn packed(plain: &HeaderValue) -> Option<HeaderValue> {
    let opaque = plain.to_str().ok()?.strip_suffix('"')?;
    HeaderValue::from_str(&format!("{opaque}{PACKED}\"")).ok()
}

#[cfg(test)]
mod tests {
    use http::header::IF_NONE_MATCH;

    use super::*;

    #[test]
    fn lists_of_tags_are_parsed() {
        let strong = |opaque| Tag { weak: false, opaque };
        let weak = |opaque| Tag { weak: true, opaque };
        let cases: [(&[&'static str], Result<Named<'_>, Malformed>); 13] = [
            (&["*"], Ok(Named::Any)),
            (&[r#""a""#], Ok(Named::Tags(vec![strong("a")]))),
            (&[r#"W/"a""#], Ok(Named::Tags(vec![weak("a")]))),
            (&[r#""a, b" ,W/"c","""#], Ok(Named::Tags(vec![strong("a, b"), weak("c"), strong("")]))),
            (&[r#", "a",,"#], Ok(Named::Tags(vec![strong("a")]))),
            (&[r#""a""#, r#""b""#], Ok(Named::Tags(vec![strong("a"), strong("b")]))),
            (&[""], Err(Malformed)),
            (&["a"], Err(Malformed)),
            (&[r#"'a'"#], Err(Malformed)),
            (&[r#"w/"a""#], Err(Malformed)),
            (&[r#""a"#], Err(Malformed)),
            (&[r#""a" "b""#], Err(Malformed)),
            (&[r#""a", *"#], Err(Malformed)),
        ];
        for (values, expected) in cases {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(IF_NONE_MATCH, HeaderValue::from_static(value));
            }
            assert_eq!(named(&headers, &IF_NONE_MATCH), Some(expected), "{values:?}");
        }
        assert_eq!(named(&HeaderMap::new(), &IF_NONE_MATCH), None);
    }

    #[test]
    fn a_compressed_response_has_its_own_tag() {
        let packed = packed(&header("a").unwrap()).unwrap();
        assert_eq!(packed, r#""a--gzip""#);
        let meant = |opaque: &'static str| Tag { weak: true, opaque }.meant().collect::<Vec<_>>();
        assert_eq!(meant("a"), ["a"]);
        assert_eq!(meant("a--gzip"), ["a", "a--gzip"]);
        assert_eq!(meant("a-gzip"), ["a-gzip", "a"]);
        assert_eq!(meant("a-br"), ["a-br", "a"]);
        let good = |opaque: &'static str, reads: &'static str| {
            Tag { weak: false, opaque }.is_as_good_as("a", |coding| coding == reads)
        };
        assert_eq!(good("a", ""), Some("a"));
        assert_eq!(good("a--gzip", "gzip"), Some("a--gzip"));
        assert_eq!((good("a-gzip", "gzip"), good("a-br", "br")), (Some("a"), Some("a")));
        assert_eq!(
            (good("a--gzip", "br"), good("a-br", "gzip"), good("b", ""), good("a-x", "gzip")),
            (None, None, None, None)
        );
        assert!(is_opaque("a-1_/=") && !is_opaque("a b") && !is_opaque("a\""));
    }
}
