//! Pages of products. The cost of a page does not grow with the catalogue. A page is read from an index in the page's
//! order, or from the few products that match the search words, or from a limited number of scanned products
//! (docs/adr/0033-bounded-lists.md).

use diesel::{
    dsl::sql,
    prelude::*,
    sql_types::{BigInt, Bool, Text, Untyped},
};
use diesel_async::RunQueryDsl;
use souk_common::{
    ids::ProductId,
    page::{self, MAX_SCANNED, Scan, filter::Op},
};
use souk_store::db::{Keep as _, Within, beyond};

use super::{
    super::super::{Conn, MATCHES, STOPS_EARLY, finds, has_words, padded, position, schema::products, search_text},
    Row, read,
};
use crate::{
    domain::product::{
        Product, State,
        list::{Condition, Index, Key, Listing, Sort},
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
    ($query:expr, $listing:expr, $column:path, $key:path) => {{
        let query = match &$listing.after {
            Some($key(value, id)) if $listing.descending => {
                $query.filter(beyond!($column, products::id, "<", (value.clone(), *id)))
            }
            Some($key(value, id)) => $query.filter(beyond!($column, products::id, ">", (value.clone(), *id))),
            _ => $query,
        };
        if $listing.descending {
            query.order(($column.desc(), products::id.desc()))
        } else {
            query.order(($column.asc(), products::id.asc()))
        }
    }};
}

/// The products to scan, in order: all that the index of this order finds.
macro_rules! scanned {
    ($listing:expr, $state:expr, $select:expr, $column:path, $key:path) => {{
        let mut query = products::table.filter(products::state.eq(word($state))).select($select).into_boxed();
        for condition in $listing.conditions.iter().filter(|condition| condition.is_of($listing.sort)) {
            query = match condition {
                Condition::Price(op, rank) => compare!(query, products::price_rank, *op, *rank),
                Condition::CreateTime(op, time) => compare!(query, products::created_at, *op, *time),
                _ => query,
            };
        }
        in_order!(query, $listing, $column, $key)
    }};
}

/// Where a page ends, if it is not full before.
enum End {
    /// At the end of the list.
    List,
    /// At the last one of so many scanned products. The engine must stop early.
    Scanned(i64),
    /// At this product.
    At(Key),
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
        Some((_, few)) => !few && !listing.finds_one(),
        None => listing.scans(),
    };
    let page = Page { listing, state, words };
    if !scans {
        return Ok(Scan::all(page.read(conn, None, End::List).await?));
    }
    if STOPS_EARLY && !listing.is_narrow() {
        scan.rows = page.read(conn, None, End::Scanned(MAX_SCANNED)).await?;
        if scan.is_full(listing.limit) {
            return Ok(scan);
        }
    }
    for scanned in page::scans(listing.limit, STOPS_EARLY) {
        // Otherwise a short scan comes first: most filters match one product of a few.
        if scanned == MAX_SCANNED || listing.is_narrow() {
            for index in listing.indexes() {
                if let Some(few) = few_by(conn, listing, state, index).await? {
                    return Ok(Scan::all(page.read(conn, Some(few), End::List).await?));
                }
            }
        }
        // Found before the page is read, so that the page also covers products that are inserted in between.
        scan.end = page.end_of_scan(conn, scanned).await?;
        scan.rows = page.read(conn, None, scan.end.clone().map_or(End::List, End::At)).await?;
        if scan.is_enough(listing.limit) {
            break;
        }
    }
    Ok(scan)
}

/// The products that meet the conditions that an index serves. `None` if there are too many to read all of them.
async fn few_by(
    conn: &mut Conn,
    listing: &Listing,
    state: State,
    index: Index,
) -> Result<Option<Vec<ProductId>>, Error> {
    let mut query = products::table.filter(products::state.eq(word(state))).select(products::id).into_boxed();
    if index == Index::Untracked {
        // Written as in the index's condition, so that the planner uses the index.
        query = query.filter(sql::<Bool>("products.tracking = 'UNTRACKED'"));
    }
    for condition in listing.conditions_of(index) {
        query = match condition {
            Condition::Price(op, rank) => compare!(query, products::price_rank, *op, *rank),
            Condition::CreateTime(op, time) => compare!(query, products::created_at, *op, *time),
            Condition::Title(_, title) => query.filter(products::title_key.eq(title)),
            _ => query,
        };
    }
    let found: Vec<ProductId> = query.limit(MAX_SCANNED + 1).varied().load(conn).await?;
    Ok((found.len() as u64 <= MAX_SCANNED.unsigned_abs()).then_some(found))
}

/// A page to read.
struct Page<'a> {
    listing: &'a Listing,
    state: State,
    /// The search words, and whether few products match them.
    words: Option<(&'a [String], bool)>,
}

impl Page<'_> {
    /// The products of the page. `few` are the only products that can match, if they are known.
    async fn read(&self, conn: &mut Conn, few: Option<Vec<ProductId>>, end: End) -> Result<Vec<Product>, Error> {
        let Self { listing, state, words } = self;
        let mut query = products::table.select(Row::as_select()).into_boxed();
        query = match (few, words) {
            // Found with this state.
            (Some(few), _) if few.is_empty() => return Ok(Vec::new()),
            (Some(few), _) => query.filter(products::id.eq_any(padded(&few))),
            // Not as an index has it: SQLite would read all products of the state in the page's order.
            (None, Some((_, true))) => query.filter(products::state.concat("").eq(word(*state))),
            (None, _) => query.filter(products::state.eq(word(*state))),
        };
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
            ($column:path, $key:path) => {{
                let query = match &end {
                    End::At($key(value, id)) if listing.descending => {
                        query.filter(beyond!($column, products::id, ">=", (value.clone(), *id)))
                    }
                    End::At($key(value, id)) => {
                        query.filter(beyond!($column, products::id, "<=", (value.clone(), *id)))
                    }
                    _ => query,
                };
                let statement = in_order!(query, listing, $column, $key).limit(listing.limit);
                match end {
                    End::Scanned(rows) => {
                        let all = sql::<Untyped>("products.*");
                        let rows = scanned!(listing, *state, all, $column, $key).limit(rows);
                        Within { table: "products", rows, statement }.varied().load(conn).await?
                    }
                    _ => statement.varied().load(conn).await?,
                }
            }};
        }
        let rows: Vec<Row> = by_order!(listing, page);
        read(rows)
    }

    /// The sort key of the last of so many scanned products; `None` if the list ends before. An index finds it without
    /// reading the products.
    async fn end_of_scan(&self, conn: &mut Conn, scanned: i64) -> Result<Option<Key>, Error> {
        macro_rules! end {
            ($column:path, $key:path) => {{
                let keys = scanned!(self.listing, self.state, ($column, products::id), $column, $key);
                let last = keys.offset(scanned - 1).limit(1).varied();
                last.get_result(conn).await.optional()?.map(|(value, id)| $key(value, id))
            }};
        }
        Ok(by_order!(self.listing, end))
    }
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// True if so few products match these words that all of them can be read.
async fn have_few(conn: &mut Conn, words: &[String]) -> Result<bool, Error> {
    let query = diesel::sql_query(MATCHES).bind::<Text, _>(search_text(words));
    let Count { count } = query.bind::<BigInt, _>(MAX_SCANNED + 1).kept().get_result(conn).await?;
    Ok(count <= MAX_SCANNED)
}
