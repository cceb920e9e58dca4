//! Lists in pages: page size, page token, filter and order (AIP-158, 160, 132).
//!
//! A list method reads one row more than fits on a page, and calls [`cut`] to make the page and its token. A list with
//! a filter reads at most [`MAX_SCANNED`] rows for a page ([`Scan`]), so that its cost does not grow with the table:
//!
//! ```
//! # use souk_common::page;
//! # struct Row { title: String, id: u32 }
//! # fn message(row: Row) -> String { row.title }
//! # fn rows(_after: Option<(String, u32)>, _limit: i64) -> Vec<Row> { Vec::new() }
//! # fn list(page_size: i32, page_token: &str, filter: &str) -> Result<(), page::PageError> {
//! // Everything that identifies the list: all arguments except page_size and page_token.
//! let query = ("products.list", filter, "title");
//! let size = page::size(page_size);
//! let after: Option<(String, u32)> = page::decode(page_token, &query)?;
//! let rows = rows(after, size + 1); // WHERE (title, id) > after ORDER BY title, id LIMIT size + 1
//! let key = |row: &Row| (row.title.clone(), row.id);
//! let (messages, next_page_token) = page::cut(rows, size, &query, key, message);
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

/// The default page size.
pub const DEFAULT_SIZE: i64 = 50;
/// The maximum page size.
pub const MAX_SIZE: i64 = 500;
/// The maximum size of a page's encoded messages, in bytes. A page has at least one message, whatever its size.
pub const MAX_BYTES: usize = 1024 * 1024;
/// The maximum number of rows that are scanned for a page of a filtered list. If few of them match, the page is short
/// or empty, but still has a token (AIP-158).
pub const MAX_SCANNED: i64 = 1000;
/// Rows that are scanned first for each row of a page. Most filters match one row of a few.
const SCANNED_PER_ROW: i64 = 10;

/// The maximum length of a page token. Longer tokens were not issued by souk.
const MAX_TOKEN: usize = 4096;

/// The reason why a page token is invalid. Its message may be shown to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PageError {
    /// The token was not issued by souk, or it is damaged.
    #[error("is not a page token of this method: send the last answer's next_page_token, or none for the first page")]
    Malformed,
    /// The token belongs to a list with other arguments.
    #[error(
        "belongs to a list with other arguments: keep all but page_size and page_token as they were, or start again without it"
    )]
    OtherQuery,
}

/// The number of rows for a `page_size`: 50 if it is 0, at most 500. The contracts refuse negative sizes; here they are
/// treated as 0.
#[must_use]
pub fn size(page_size: i32) -> i64 {
    match i64::from(page_size) {
        ..=0 => DEFAULT_SIZE,
        size => size.min(MAX_SIZE),
    }
}

/// The token of the page that continues after `key`. It is only valid for this query.
///
/// `query` contains everything that identifies the list: the method, its parent, filter and order. `key` has the values
/// that the list is sorted by, for the last row of this page. It must be unique, so its last part is the id.
pub fn encode<Q: Serialize + ?Sized, K: Serialize + ?Sized>(query: &Q, key: &K) -> String {
    // A key that cannot be serialized (tuples of plain values always can) becomes a token that `decode` refuses. An
    // empty token would end the list silently.
    let token = serde_json::to_vec(&(fingerprint(query), key)).unwrap_or_else(|_| b"!".to_vec());
    URL_SAFE_NO_PAD.encode(token)
}

/// The key after which the page begins. `None`: the first page.
///
/// # Errors
/// [`PageError`] if [`encode`] did not make the token, or made it for another query.
pub fn decode<Q: Serialize + ?Sized, K: DeserializeOwned>(token: &str, query: &Q) -> Result<Option<K>, PageError> {
    if token.is_empty() {
        return Ok(None);
    }
    if token.len() > MAX_TOKEN {
        return Err(PageError::Malformed);
    }
    let json = URL_SAFE_NO_PAD.decode(token).map_err(|_| PageError::Malformed)?;
    // The fingerprint is checked before the key is decoded, because the type of the key depends on the query.
    let (fingerprint_of_token, key): (String, serde_json::Value) =
        serde_json::from_slice(&json).map_err(|_| PageError::Malformed)?;
    if fingerprint_of_token != fingerprint(query) {
        return Err(PageError::OtherQuery);
    }
    // A token can be forged, and its texts are sent to the database: PostgreSQL fails on U+0000.
    if has_nul(&key) {
        return Err(PageError::Malformed);
    }
    serde_json::from_value(key).map(Some).map_err(|_| PageError::Malformed)
}

/// True if a text in a key contains U+0000. The texts of rows never do.
fn has_nul(key: &serde_json::Value) -> bool {
    match key {
        serde_json::Value::String(text) => text.contains('\0'),
        serde_json::Value::Array(keys) => keys.iter().any(has_nul),
        serde_json::Value::Object(keys) => keys.iter().any(|(name, key)| name.contains('\0') || has_nul(key)),
        _ => false,
    }
}

/// The rows of a list in its order, one more than fits on a page if there are enough.
#[derive(Debug)]
pub struct Scan<T, K> {
    /// The rows.
    pub rows: Vec<T>,
    /// The key of the last row that was scanned, if the scan stopped before the end of the list.
    pub end: Option<K>,
}

impl<T, K> Scan<T, K> {
    /// Rows of a list that was read without a filter.
    #[must_use]
    pub fn all(rows: Vec<T>) -> Self {
        Self { rows, end: None }
    }

    /// True if there are as many rows as were asked for.
    #[must_use]
    pub fn is_full(&self, limit: i64) -> bool {
        self.rows.len() as u64 >= limit.unsigned_abs()
    }

    /// True if the page is full, or the list has no more rows.
    #[must_use]
    pub fn is_enough(&self, limit: i64) -> bool {
        self.end.is_none() || self.is_full(limit)
    }

    /// Converts each row.
    ///
    /// # Errors
    /// The error of the first row that cannot be converted.
    pub fn try_map<U, E>(self, other: impl FnMut(T) -> Result<U, E>) -> Result<Scan<U, K>, E> {
        let rows = self.rows.into_iter().map(other).collect::<Result<_, E>>()?;
        Ok(Scan { rows, end: self.end })
    }
}

/// Merges lists to one, each of them in the order of the keys and read with the same `limit`. Later rows come first if
/// `descending`. If the scan of a part stopped before its end, the merged list stops there, too.
#[must_use]
pub fn merge<T, K: Ord>(parts: Vec<Scan<T, K>>, limit: i64, descending: bool, key: impl Fn(&T) -> K) -> Scan<T, K> {
    let is_before = |one: &K, other: &K| if descending { one > other } else { one < other };
    let (mut rows, mut end) = (Vec::new(), None::<K>);
    for part in parts {
        rows.extend(part.rows);
        end = match (end, part.end) {
            (Some(one), Some(other)) => Some(if is_before(&other, &one) { other } else { one }),
            (one, other) => one.or(other),
        };
    }
    rows.retain(|row| end.as_ref().is_none_or(|end| !is_before(end, &key(row))));
    rows.sort_by(|one, other| if descending { key(other).cmp(&key(one)) } else { key(one).cmp(&key(other)) });
    rows.truncate(usize::try_from(limit).unwrap_or_default());
    Scan { rows, end }
}

/// The numbers of rows to scan for a page of at most `limit` rows, one after the other, until [`Scan::is_enough`]: first a
/// few, unless `at_once`, then [`MAX_SCANNED`]. To find the end of a scan costs as much as its length, whatever the filter
/// matches.
pub fn scans(limit: i64, at_once: bool) -> impl Iterator<Item = i64> {
    let short = limit.saturating_mul(SCANNED_PER_ROW);
    (!at_once && short < MAX_SCANNED).then_some(short).into_iter().chain([MAX_SCANNED])
}

impl<T, K> From<Vec<T>> for Scan<T, K> {
    fn from(rows: Vec<T>) -> Self {
        Self::all(rows)
    }
}

/// Makes a page of rows that were read with a limit of `size + 1`. It drops the extra row and the rows beyond
/// [`MAX_BYTES`], and returns the token of the next page, empty if there is none. `key` returns a row's key, see
/// [`encode`]; `message` converts a row to the message of the response.
pub fn cut<T, M, Q, K>(
    scan: impl Into<Scan<T, K>>,
    size: i64,
    query: &Q,
    key: impl Fn(&T) -> K,
    mut message: impl FnMut(T) -> M,
) -> (Vec<M>, String)
where
    M: prost::Message,
    Q: Serialize + ?Sized,
    K: Serialize,
{
    let Scan { rows, end } = scan.into();
    let size = usize::try_from(size).unwrap_or_default();
    let (mut messages, mut bytes, mut last) = (Vec::with_capacity(rows.len().min(size)), 0, None);
    for row in rows {
        if messages.len() == size {
            return (messages, token(query, last));
        }
        let row_key = key(&row);
        let message = message(row);
        bytes += message.encoded_len();
        if bytes > MAX_BYTES && !messages.is_empty() {
            return (messages, token(query, last));
        }
        messages.push(message);
        last = Some(row_key);
    }
    (messages, token(query, end))
}

/// The token of the page after a key. Empty if there is no key.
fn token<Q: Serialize + ?Sized, K: Serialize>(query: &Q, key: Option<K>) -> String {
    key.map(|key| encode(query, &key)).unwrap_or_default()
}

/// Identifies a query. 72 bits are enough: a token is not a secret and grants nothing.
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
    fn page_sizes_are_limited() {
        for (asked, given) in [(0, 50), (-1, 50), (1, 1), (500, 500), (501, 500), (i32::MAX, 500)] {
            assert_eq!(size(asked), given, "{asked}");
        }
    }

    #[test]
    fn an_empty_token_means_the_first_page() {
        assert_eq!(decode::<_, Key>("", &QUERY), Ok(None));
    }

    #[test]
    fn a_token_belongs_to_its_query() {
        let token = encode(&QUERY, &("a", 1));
        assert_eq!(decode::<_, Key>(&token, &QUERY), Ok(Some(("a".into(), 1))));
        assert_eq!(decode::<_, Key>(&token, &("orders.list", "")), Err(PageError::OtherQuery));
        // The same characters, but split in another way.
        assert_eq!(decode::<_, Key>(&token, &("orders.lists", "tate = ACTIVE")), Err(PageError::OtherQuery));
    }

    #[test]
    fn malformed_tokens_are_refused() {
        let token = encode(&QUERY, &("a", 1));
        for bad in
            ["x", "%%%", "bnVsbA", &token[1..], &token[..token.len() - 1], &format!("{token}="), &"A".repeat(5000)]
        {
            assert_eq!(decode::<_, Key>(bad, &QUERY), Err(PageError::Malformed), "{bad}");
        }
        // A forged token: no row has such a text.
        let forged = encode(&QUERY, &("a\0b", 1));
        assert_eq!(decode::<_, Key>(&forged, &QUERY), Err(PageError::Malformed));
        // A token of souk, but with a key of another type.
        let other = encode(&QUERY, &1);
        assert_eq!(decode::<_, Key>(&other, &QUERY), Err(PageError::Malformed));
    }

    #[test]
    fn every_page_but_the_last_has_a_token() {
        let (rows, token) = cut(vec![1, 2, 3], 2, &QUERY, |row| ("k".to_owned(), *row), |row| row);
        assert_eq!(rows, [1, 2]);
        assert_eq!(decode::<_, Key>(&token, &QUERY), Ok(Some(("k".into(), 2))));
        for rows in [vec![], vec![1], vec![1, 2]] {
            let (page, token) = cut(rows.clone(), 2, &QUERY, |row| *row, |row| row);
            assert_eq!((page, token.as_str()), (rows, ""));
        }
    }

    #[test]
    fn a_page_that_reached_its_scan_limit_continues_at_the_end_of_the_scan() {
        let page = |rows: &[i64]| {
            let scan = Scan { rows: rows.to_vec(), end: Some(("z".to_owned(), 99)) };
            let (rows, token) = cut(scan, 2, &QUERY, |row| ("k".to_owned(), *row), |row| row);
            (rows, decode::<_, Key>(&token, &QUERY).unwrap().unwrap())
        };
        assert_eq!(page(&[]), (vec![], ("z".to_owned(), 99)));
        assert_eq!(page(&[1]), (vec![1], ("z".to_owned(), 99)));
        assert_eq!(page(&[1, 2]), (vec![1, 2], ("z".to_owned(), 99)));
        assert_eq!(page(&[1, 2, 3]), (vec![1, 2], ("k".to_owned(), 2)));
    }

    #[test]
    fn parts_of_a_list_are_merged_up_to_where_all_of_them_are_known() {
        let part = |rows: &[i64], end: Option<i64>| Scan { rows: rows.to_vec(), end };
        let merged = |parts: Vec<Scan<i64, i64>>, descending: bool| {
            let scan = merge(parts, 4, descending, |row| *row);
            (scan.rows, scan.end)
        };
        assert_eq!(merged(vec![part(&[1, 4], None), part(&[2, 3, 5], None)], false), (vec![1, 2, 3, 4], None));
        assert_eq!(merged(vec![part(&[4, 1], None), part(&[5, 3, 2], None)], true), (vec![5, 4, 3, 2], None));
        // The scan of one part stopped at 3: the rows of the other one after that must wait.
        assert_eq!(merged(vec![part(&[1, 9], None), part(&[2], Some(3))], false), (vec![1, 2], Some(3)));
        assert_eq!(merged(vec![part(&[9, 1], None), part(&[7], Some(3))], true), (vec![9, 7], Some(3)));
        assert_eq!(merged(vec![part(&[9], Some(8)), part(&[7], Some(3))], true), (vec![9], Some(8)));
        assert_eq!(merged(Vec::new(), true), (Vec::new(), None));
    }

    #[test]
    fn a_page_has_a_limit_in_bytes_but_at_least_one_row() {
        let third: &str = &"x".repeat(MAX_BYTES / 3);
        let page = |rows: Vec<(i64, &str)>| {
            let (messages, token) = cut(rows, 50, &QUERY, |row| ("k".to_owned(), row.0), |row| row.1.to_owned());
            (messages.len(), decode::<_, Key>(&token, &QUERY).unwrap().map(|key| key.1))
        };
        assert_eq!(page(vec![(1, third), (2, third), (3, third), (4, "x")]), (2, Some(2)));
        assert_eq!(page(vec![(1, "x"), (2, third), (3, third)]), (3, None));
        let large: &str = &"x".repeat(2 * MAX_BYTES);
        assert_eq!(page(vec![(1, large), (2, "x")]), (1, Some(1)));
        assert_eq!(page(vec![(1, "x"), (2, large), (3, "x")]), (1, Some(1)));
    }

    proptest! {
        #[test]
        fn every_key_survives_a_token(text in "[^\\x00]*", number: i64) {
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
