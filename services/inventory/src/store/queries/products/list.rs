//! Pages of products. The cost of a page does not grow with the catalogue. A page is read from an index in the page's
//! order, or from the few products that match the search words, or from a limited number of scanned products
//! (docs/adr/0033-bounded-lists.md).

use diesel::{
    prelude::*,
    sql_types::{BigInt, Text},
};
use diesel_async::RunQueryDsl;
use souk_common::page::{self, MAX_SCANNED, Scan, filter::Op};

use super::{
    super::super::{Conn, MATCHES, finds, has_words, position, schema::products, search_text},
    Row, read,
};
use crate::{
    domain::product::{
        Product, State,
        list::{Condition, Key, Listing, Sort},
    },
    error::Error,
    store::codes::word,
};

/// Adds a comparison of a column to a query.
macro_rules! compare {
    ($query:expr, $column:expr, $op:expr, $value:expr) => {
        match $op {
            Op::Equal | Op::Contains => $query.filter($column.eq($value)),
            Op::NotEqual => $query.filter($column.ne($value)),
            Op::Less => $query.filter($column.lt($value)),
            Op::LessOrEqual => $query.filter($column.le($value)),
            Op::Greater => $query.filter($column.gt($value)),
            Op::GreaterOrEqual => $query.filter($column.ge($value)),
        }
    };
}

/// Adds a comparison of a text column to a query.
macro_rules! text {
    ($query:expr, $column:expr, $op:expr, $value:expr) => {
        match $op {
            Op::Contains => $query.filter(position($column.nullable(), $value).gt(0)),
            op => compare!($query, $column, op, $value),
        }
    };
}

/// Calls a macro with the sort column and the matching kind of key.
macro_rules! by_order {
    ($listing:expr, $with:ident) => {
        match $listing.sort {
            Sort::CreateTime => $with!(products::created_at, Key::Time),
            Sort::Sku => $with!(products::sku_key, Key::Text),
            Sort::Title => $with!(products::title_key, Key::Text),
            Sort::Price => $with!(products::price_rank, Key::Number),
        }
    };
}

/// Orders the products, and begins where the page begins.
macro_rules! in_order {
    ($query:expr, $listing:expr, $column:expr, $key:path) => {{
        // The page begins after the last product of the previous one. The first condition finds the place in the index,
        // the second one the place among equal values, by id.
        let from = match &$listing.after {
            Some($key(value, id)) if $listing.descending => {
                $query.filter($column.le(value.clone())).filter($column.lt(value.clone()).or(products::id.lt(*id)))
            }
            Some($key(value, id)) => {
                $query.filter($column.ge(value.clone())).filter($column.gt(value.clone()).or(products::id.gt(*id)))
            }
            _ => $query,
        };
        if $listing.descending {
            from.order(($column.desc(), products::id.desc()))
        } else {
            from.order(($column.asc(), products::id.asc()))
        }
    }};
}

pub async fn list(conn: &mut Conn, listing: &Listing) -> Result<Scan<Product, Key>, Error> {
    let mut scan = Scan { rows: Vec::new(), end: None };
    let Some(state) = listing.state else { return Ok(scan) };
    let words = match &listing.words {
        None => None,
        Some(words) if words.is_empty() => return Ok(scan),
        Some(words) => Some((words.as_slice(), have_few(conn, words).await?)),
    };
    let scans = match &words {
        Some((_, few)) => !few && !listing.finds_few(),
        None => listing.scans(),
    };
    if !scans {
        return read_page(conn, listing, state, words, None).await;
    }
    for scanned in page::scans(listing.limit) {
        // Found before the page is read, so that the page also covers products that are inserted in between.
        let end = end_of_scan(conn, listing, scanned).await?;
        scan = read_page(conn, listing, state, words, end).await?;
        if scan.is_enough(listing.limit) {
            break;
        }
    }
    Ok(scan)
}

/// The products of a page, up to the end of a scan. `words` are the search words, and whether few products match them.
async fn read_page(
    conn: &mut Conn,
    listing: &Listing,
    state: State,
    words: Option<(&[String], bool)>,
    end: Option<Key>,
) -> Result<Scan<Product, Key>, Error> {
    let mut query = products::table.filter(products::state.eq(word(state))).select(Row::as_select()).into_boxed();
    for condition in &listing.conditions {
        query = match condition {
            Condition::Sku(op, value) => text!(query, products::sku_key, *op, value),
            Condition::Title(op, value) => text!(query, products::title_key, *op, value),
            Condition::Price(op, rank) => compare!(query, products::price_rank, *op, *rank),
            Condition::Tracking(op, tracking) => compare!(query, products::tracking, *op, word(*tracking)),
            Condition::CreateTime(op, time) => compare!(query, products::created_at, *op, *time),
        };
    }
    query = match words {
        None => query,
        Some((words, true)) => query.filter(finds(words)),
        Some((words, false)) => query.filter(has_words(words)),
    };
    macro_rules! page {
        ($column:expr, $key:path) => {{
            let query = match &end {
                Some($key(value, id)) if listing.descending => {
                    query.filter($column.ge(value.clone())).filter($column.gt(value.clone()).or(products::id.ge(*id)))
                }
                Some($key(value, id)) => {
                    query.filter($column.le(value.clone())).filter($column.lt(value.clone()).or(products::id.le(*id)))
                }
                _ => query,
            };
            in_order!(query, listing, $column, $key).limit(listing.limit).load(conn).await?
        }};
    }
    let rows: Vec<Row> = by_order!(listing, page);
    Ok(Scan { rows: read(rows)?, end })
}

/// The sort key of the last of so many scanned products; `None` if the list ends before. An index finds it without
/// reading the products.
async fn end_of_scan(conn: &mut Conn, listing: &Listing, scanned: i64) -> Result<Option<Key>, Error> {
    let Some(state) = listing.state else { return Ok(None) };
    macro_rules! end {
        ($column:expr, $key:path) => {{
            let mut query =
                products::table.filter(products::state.eq(word(state))).select(($column, products::id)).into_boxed();
            for condition in listing.conditions.iter().filter(|condition| condition.is_of(listing.sort)) {
                query = match condition {
                    Condition::Price(op, rank) => compare!(query, products::price_rank, *op, *rank),
                    Condition::CreateTime(op, time) => compare!(query, products::created_at, *op, *time),
                    _ => query,
                };
            }
            let last = in_order!(query, listing, $column, $key).offset(scanned - 1).limit(1);
            last.get_result(conn).await.optional()?.map(|(value, id)| $key(value, id))
        }};
    }
    Ok(by_order!(listing, end))
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// True if so few products match these words that all of them can be read.
async fn have_few(conn: &mut Conn, words: &[String]) -> Result<bool, Error> {
    let query = diesel::sql_query(MATCHES).bind::<Text, _>(search_text(words));
    let Count { count } = query.bind::<BigInt, _>(MAX_SCANNED + 1).get_result(conn).await?;
    Ok(count <= MAX_SCANNED)
}
