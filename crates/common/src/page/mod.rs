//! Lists in pages: how many, from where on, which ones and in what order (AIP-158, 160, 132).
//!
//! A list method reads one row more than a page holds, and lets [`cut`] make the page and its token:
//!
//! ```
//! # use souk_common::page;
//! # struct Row { title: String, id: u32 }
//! # fn rows(_after: Option<(String, u32)>, _limit: i64) -> Vec<Row> { Vec::new() }
//! # fn list(page_size: i32, page_token: &str, filter: &str) -> Result<(), page::PageError> {
//! // Everything that makes this list another one, but neither page_size nor page_token.
//! let query = ("products.list", filter, "title");
//! let size = page::size(page_size);
//! let after: Option<(String, u32)> = page::decode(page_token, &query)?;
//! let rows = rows(after, size + 1); // WHERE (title, id) > after ORDER BY title, id LIMIT size + 1
//! let (rows, next_page_token) = page::cut(rows, size, &query, |last| (last.title.clone(), last.id));
//! # Ok(())
//! # }
//! ```

pub mod filter;
pub mod order;
mod text;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// How many a page holds where the request does not say.
pub const DEFAULT_SIZE: i64 = 50;
/// How many a page holds at most.
pub const MAX_SIZE: i64 = 500;

/// Longer tokens are not ours.
const MAX_TOKEN: usize = 4096;

/// Why a page token cannot be used. Its message may be shown to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PageError {
    /// It is not one of ours, or is damaged.
    #[error("is not a page token of this method: send the last answer's next_page_token, or none for the first page")]
    Malformed,
    /// It belongs to a list with other arguments.
    #[error(
        "belongs to a list with other arguments: keep all but page_size and page_token as they were, or start again without it"
    )]
    OtherQuery,
}

/// How many rows a page of this `page_size` holds: 50 where it is 0, never more than 500. The contracts refuse
/// negative sizes; here they count as 0.
#[must_use]
pub fn size(page_size: i32) -> i64 {
    match i64::from(page_size) {
        ..=0 => DEFAULT_SIZE,
        size => size.min(MAX_SIZE),
    }
}

/// The token of the page that goes on after `key`, for this query alone.
///
/// `query` is all that makes the list another one: the method, its parent, filter and order. `key` is what the
/// order sorts by, for the last row of this page, and must be unique: end it with the id.
pub fn encode<Q: Serialize + ?Sized, K: Serialize + ?Sized>(query: &Q, key: &K) -> String {
    // A key that cannot be written (no tuple of plain values is one) makes a token that `decode` refuses, rather
    // than an empty one, which would end the list in silence.
    let token = serde_json::to_vec(&(fingerprint(query), key)).unwrap_or_else(|_| b"!".to_vec());
    URL_SAFE_NO_PAD.encode(token)
}

/// The key after which the page begins; `None` for the first page.
///
/// # Errors
/// [`PageError`] for what [`encode`] did not make, or made for another query.
pub fn decode<Q: Serialize + ?Sized, K: DeserializeOwned>(token: &str, query: &Q) -> Result<Option<K>, PageError> {
    if token.is_empty() {
        return Ok(None);
    }
    if token.len() > MAX_TOKEN {
        return Err(PageError::Malformed);
    }
    let json = URL_SAFE_NO_PAD.decode(token).map_err(|_| PageError::Malformed)?;
    // The key's type belongs to its query, so the fingerprint is looked at first.
    let (fingerprint_of_token, key): (String, serde_json::Value) =
        serde_json::from_slice(&json).map_err(|_| PageError::Malformed)?;
    if fingerprint_of_token != fingerprint(query) {
        return Err(PageError::OtherQuery);
    }
    // A token can be forged, and its texts go to the database as they are: PostgreSQL fails at U+0000.
    if has_nul(&key) {
        return Err(PageError::Malformed);
    }
    serde_json::from_value(key).map(Some).map_err(|_| PageError::Malformed)
}

/// Whether a text in a key has U+0000, which no row's has.
fn has_nul(key: &serde_json::Value) -> bool {
    match key {
        serde_json::Value::String(text) => text.contains('\0'),
        serde_json::Value::Array(keys) => keys.iter().any(has_nul),
        serde_json::Value::Object(keys) => keys.iter().any(|(name, key)| name.contains('\0') || has_nul(key)),
        _ => false,
    }
}

/// Makes a page of rows that were read with a limit of `size + 1`: drops the one too many, and gives the token of
/// the next page, empty where there is none. `key` gives a row's key, as for [`encode`].
pub fn cut<T, Q, K>(mut rows: Vec<T>, size: i64, query: &Q, key: impl FnOnce(&T) -> K) -> (Vec<T>, String)
where
    Q: Serialize + ?Sized,
    K: Serialize,
{
    let size = usize::try_from(size).unwrap_or_default();
    if rows.len() <= size {
        return (rows, String::new());
    }
    rows.truncate(size);
    let token = rows.last().map(|last| encode(query, &key(last))).unwrap_or_default();
    (rows, token)
}

/// Tells one query from another. 72 bits do: a token is no secret and grants nothing.
fn fingerprint<Q: Serialize + ?Sized>(query: &Q) -> String {
    let json = serde_json::to_vec(query).unwrap_or_default();
    URL_SAFE_NO_PAD.encode(&Sha256::digest(json)[..9])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Key = (String, i64);

    const QUERY: (&str, &str) = ("orders.list", "state = ACTIVE");

    #[test]
    fn sizes_are_coerced() {
        for (asked, given) in [(0, 50), (-1, 50), (1, 1), (500, 500), (501, 500), (i32::MAX, 500)] {
            assert_eq!(size(asked), given, "{asked}");
        }
    }

    #[test]
    fn no_token_is_the_first_page() {
        assert_eq!(decode::<_, Key>("", &QUERY), Ok(None));
    }

    #[test]
    fn a_token_belongs_to_its_query() {
        let token = encode(&QUERY, &("a", 1));
        assert_eq!(decode::<_, Key>(&token, &QUERY), Ok(Some(("a".into(), 1))));
        assert_eq!(decode::<_, Key>(&token, &("orders.list", "")), Err(PageError::OtherQuery));
        // The same text, cut elsewhere.
        assert_eq!(decode::<_, Key>(&token, &("orders.lists", "tate = ACTIVE")), Err(PageError::OtherQuery));
    }

    #[test]
    fn garbage_is_refused() {
        let token = encode(&QUERY, &("a", 1));
        for bad in
            ["x", "%%%", "bnVsbA", &token[1..], &token[..token.len() - 1], &format!("{token}="), &"A".repeat(5000)]
        {
            assert_eq!(decode::<_, Key>(bad, &QUERY), Err(PageError::Malformed), "{bad}");
        }
        // Forged: no row has such a text.
        let forged = encode(&QUERY, &("a\0b", 1));
        assert_eq!(decode::<_, Key>(&forged, &QUERY), Err(PageError::Malformed));
        // Ours, but with a key of another shape.
        let other = encode(&QUERY, &1);
        assert_eq!(decode::<_, Key>(&other, &QUERY), Err(PageError::Malformed));
    }

    #[test]
    fn a_page_that_is_not_the_last_has_a_token() {
        let (rows, token) = cut(vec![1, 2, 3], 2, &QUERY, |row| ("k".to_owned(), *row));
        assert_eq!(rows, [1, 2]);
        assert_eq!(decode::<_, Key>(&token, &QUERY), Ok(Some(("k".into(), 2))));
        for rows in [vec![], vec![1], vec![1, 2]] {
            let (page, token) = cut(rows.clone(), 2, &QUERY, |row| *row);
            assert_eq!((page, token.as_str()), (rows, ""));
        }
    }

    proptest! {
        #[test]
        fn every_key_comes_back(text in "[^\\x00]*", number: i64) {
            let token = encode(&QUERY, &(&text, number));
            prop_assert!(token.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'));
            prop_assert_eq!(decode::<_, Key>(&token, &QUERY), Ok(Some((text, number))));
        }

        #[test]
        fn no_token_panics(token in ".{0,60}") {
            let _ = decode::<_, Key>(&token, &QUERY);
        }
    }
}
