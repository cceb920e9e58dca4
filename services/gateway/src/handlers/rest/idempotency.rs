//! `Idempotency-Key`: as it is, or as the IETF's draft has it (draft-ietf-httpapi-idempotency-key-header): a text in
//! quotes, where `\"` and `\\` stand for a quote and a backslash (RFC 9651, 3.3.3).

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use souk_common::error::{Problem, Reason};

use crate::head;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The key of a request, if it has one, which is for this field of it. `"abc"` and `abc` are the same key.
///
/// # Errors
/// `MALFORMED_REQUEST` where it is no text, is empty, or begins with a quote and is no text in quotes.
pub fn key<'h>(headers: &'h HeaderMap, field: &str) -> Result<Option<Cow<'h, str>>, Problem> {
    let malformed = |what: &str| malformed(what).field(field, format!("the header Idempotency-Key {what}"));
    let Some(value) = head::single(headers, &IDEMPOTENCY_KEY)? else { return Ok(None) };
    let text = value.to_str().map_err(|_| malformed("is not text"))?;
    let key = match text.strip_prefix('"') {
        Some(rest) => unquoted(rest).ok_or_else(|| malformed("begins with a quote: send \"key\" or key"))?,
        None => Cow::Borrowed(text),
    };
    // Who sends one relies on it.
    if key.is_empty() { Err(malformed("is empty: send a key, or leave it out")) } else { Ok(Some(key)) }
}

/// What stands before the closing quote, which must be the end.
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
        // Only at the beginning is a quote one.
        assert_eq!(read(&[r#"a"b\"#]), is(r#"a"b\"#));
        for wrong in [r#"""#, r#""""#, "", r#""a"#, r#""a"b""#, r#""a\b""#, r#""a\""#, r#""a";x=1"#, r#""a", "b""#] {
            assert_eq!(read(&[wrong]), Err(400), "{wrong}");
        }
        assert_eq!(read(&["a", "b"]), Err(400));
        assert_eq!(read(&["a", r#""a""#]), Err(400), "two texts");
    }
}
