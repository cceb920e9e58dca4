//! The header `Idempotency-Key`. The key is either plain text or, as in the IETF draft
//! (draft-ietf-httpapi-idempotency-key-header), a string in quotes in which `\"` and `\\` represent a quote and a
//! backslash (RFC 9651, 3.3.3).

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use souk_common::error::{Problem, Reason};

use crate::head;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Reads the key of a request, if it has one. `field` is the field of the message that the key is for. `"abc"` and
/// `abc` are the same key.
///
/// # Errors
/// `MALFORMED_REQUEST` if the key is not text, is empty, or begins with a quote and is not a valid quoted string.
pub fn key<'h>(headers: &'h HeaderMap, field: &str) -> Result<Option<Cow<'h, str>>, Problem> {
    let malformed = |what: &str| malformed(what).field(field, format!("the header Idempotency-Key {what}"));
    let Some(value) = head::single(headers, &IDEMPOTENCY_KEY)? else { return Ok(None) };
    let text = value.to_str().map_err(|_| malformed("is not text"))?;
    let key = match text.strip_prefix('"') {
        Some(rest) => unquoted(rest).ok_or_else(|| malformed("begins with a quote: send \"key\" or key"))?,
        None => Cow::Borrowed(text),
    };
    // A client that sends a key relies on it, so an empty key is refused and not ignored.
    if key.is_empty() { Err(malformed("is empty: send a key, or leave it out")) } else { Ok(Some(key)) }
}

/// Decodes the text after the opening quote, up to the closing quote at the end.
fn unquoted(text: &str) -> Option<Cow<'_, str>> {
    let inner = text.strip_suffix('"')?;
    if !inner.contains(['"', '\\']) {
        return Some(Cow::Borrowed(inner));
    }
    let mut key = String::with_capacity(inner.len());
    let mut rest = inner.chars();
    while let Some(next) = rest.next() {
        key.push(match next {
            '"' => return None,
            '\\' => rest.next().filter(|escaped| ['"', '\\'].contains(escaped))?,
            other => other,
        });
    }
    Some(Cow::Owned(key))
}

fn malformed(what: &str) -> Problem {
    Problem::new(Reason::MalformedRequest, format!("the header Idempotency-Key {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_same_with_and_without_quotes() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(IDEMPOTENCY_KEY, value.parse().unwrap());
            }
            key(&headers, "request_id").map(|key| key.map(Cow::into_owned)).map_err(|problem| problem.http_status())
        };
        let is = |key: &str| Ok(Some(key.to_owned()));
        assert_eq!(read(&[]), Ok(None));
        for same in [r#"abc"#, r#""abc""#] {
            assert_eq!(read(&[same]), is("abc"));
            assert_eq!(read(&[same, same]), is("abc"));
        }
        assert_eq!(read(&[r#""a \"b\" \\""#]), is(r#"a "b" \"#));
        // A quote has a special meaning only at the beginning.
        assert_eq!(read(&[r#"a"b\"#]), is(r#"a"b\"#));
        for wrong in [r#"""#, r#""""#, "", r#""a"#, r#""a"b""#, r#""a\b""#, r#""a\""#, r#""a";x=1"#, r#""a", "b""#] {
            assert_eq!(read(&[wrong]), Err(400), "{wrong}");
        }
        assert_eq!(read(&["a", "b"]), Err(400));
        assert_eq!(read(&["a", r#""a""#]), Err(400), "two texts");
    }
}
