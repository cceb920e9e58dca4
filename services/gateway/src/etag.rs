//! Entity tags (RFC 9110, 8.8.3): read from the headers of a request, made for an answer.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};

use crate::transcode::Binding;

/// Bytes of a hash that a tag is made of: none will ever meet another by chance.
const HASHED: usize = 16;
/// What the tag of a compressed representation ends in: it is another one than that of the same as it is.
const PACKED: &str = "--gzip";
/// What proxies that compress add to a tag, with the coding: Apache (`DeflateAlterETag`, `BrotliAlterETag`) and Caddy.
const PACKED_BY_OTHERS: [(&str, &str); 4] =
    [("-gzip", "gzip"), ("-br", "br"), ("-zstd", "zstd"), ("-deflate", "deflate")];

/// A tag that a client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag<'h> {
    /// Whether it began with `W/`.
    pub weak: bool,
    /// What stands between the quotes.
    pub opaque: &'h str,
}

impl<'h> Tag<'h> {
    /// The tags that it may have been before it was compressed, the likeliest first. If it ends as a compressed one
    /// does, it may still be one that ends so by itself.
    pub fn meant(self) -> impl Iterator<Item = &'h str> {
        let own = self.opaque.strip_suffix(PACKED);
        let others = self.opaque;
        let others = PACKED_BY_OTHERS.iter().find_map(|(suffix, _)| others.strip_suffix(suffix));
        [own, Some(self.opaque), others.filter(|_| own.is_none())].into_iter().flatten()
    }

    /// Whether it is that of the same thing as `tag`, in a coding that `reads` says yes to. Gives what the answer is to
    /// be tagged with: a proxy adds again what it added itself.
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

/// What an `If-Match` or `If-None-Match` names.
#[derive(Debug, PartialEq, Eq)]
pub enum Named<'h> {
    /// `*`: anything that there is.
    Any,
    /// These.
    Tags(Vec<Tag<'h>>),
}

/// A header that is no list of tags.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

/// The tags in a request's header; `None` if it has no such header.
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

/// The tag of an answer, without quotes: the message's own field `etag`, which `If-Match` is then held against; else
/// a hash of its JSON.
pub fn of(binding: &Binding, message: &[u8], json: &[u8]) -> String {
    let hash = || BASE64_URL_SAFE_NO_PAD.encode(&Sha256::digest(json)[..HASHED]);
    binding.own_etag(message).filter(|own| is_opaque(own)).map_or_else(hash, str::to_owned)
}

/// Whether a text may be in a tag as it is.
fn is_opaque(text: &str) -> bool {
    text.bytes().all(|byte| byte == 0x21 || (0x23..=0x7e).contains(&byte))
}

/// A tag as a header.
pub fn header(opaque: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("\"{opaque}\"")).ok()
}

/// The tag of the compressed representation, from the header that the other one has.
pub fn packed(plain: &HeaderValue) -> Option<HeaderValue> {
    let opaque = plain.to_str().ok()?.strip_suffix('"')?;
    HeaderValue::from_str(&format!("{opaque}{PACKED}\"")).ok()
}

#[cfg(test)]
mod tests {
    use http::header::IF_NONE_MATCH;

    use super::*;

    #[test]
    fn lists_of_tags_are_read() {
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
    fn a_compressed_answer_has_a_tag_of_its_own() {
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
