//! Stock levels and the ledger.

pub mod balances;

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::{
    prelude::*,
    sql_types::{BigInt, Text},
};
use diesel_async::RunQueryDsl;
use souk_common::{
    ids::{LedgerEntryId, LocationId, ProductId},
    page::{self, Scan},
};
use souk_store::db::Keep as _;
use uuid::Uuid;

use super::{
    super::{
        Any, Conn, NOW, WATCHED, clock, padded,
        schema::{self, ledger, locations, products, reservation_lines, stock},
    },
    CHUNK,
};
use crate::{
    domain::{
        book::StockRow,
        command::Refusal,
        product::{State, Tracking},
        stock::{LedgerEntry, Level, LowStock, Movement, PastLevel, StockLevel},
    },
    error::Error,
    store::codes::value,
};

/// The stock of one product at one location.
#[derive(Queryable, Selectable)]
#[diesel(table_name = stock)]
pub struct StockLine {
    product_id: ProductId,
    location_id: LocationId,
    on_hand: i64,
    reserved: i64,
    /// When the stock last changed.
    pub updated_at: DateTime<Utc>,
}

impl From<StockLine> for StockRow {
    fn from(line: StockLine) -> Self {
        Self {
            place: (line.product_id, line.location_id),
            level: Level { on_hand: line.on_hand, reserved: line.reserved },
        }
    }
}

/// Locks the stock of these products, in key order, so that batches cannot deadlock.
pub async fn lock(conn: &mut impl Any, products: &[ProductId]) -> Result<Vec<StockLine>, Error> {
    let mut rows = Vec::new();
    for chunk in products.chunks(CHUNK) {
        let part = stock::table
            .filter(stock::product_id.eq_any(padded(chunk)))
            .order((stock::product_id, stock::location_id))
            .select(StockLine::as_select());
        rows.extend(locked!(part).kept().load(conn).await?);
    }
    Ok(rows)
}

/// A product's stock, in filling order. Call it within one snapshot.
pub async fn levels(conn: &mut Conn, product: ProductId) -> Result<Vec<StockLevel>, Error> {
    let state = known(conn, product).await?;
    let rows: Vec<(LocationId, i64, i64, DateTime<Utc>)> = stock::table
        .inner_join(locations::table.on(locations::id.eq(stock::location_id)))
        .filter(stock::product_id.eq(product))
        .order((locations::priority, locations::code_key))
        .select((stock::location_id, stock::on_hand, stock::reserved, stock::updated_at))
        .load(conn)
        .await?;
    let now = clock(conn).await?;
    let lapsed: Vec<(LocationId, i64)> = reservation_lines::table
        .filter(reservation_lines::product_id.eq(product))
        .filter(reservation_lines::held_until.le(now))
        .select((reservation_lines::location_id, reservation_lines::quantity))
        .load(conn)
        .await?;
    let mut free = HashMap::<LocationId, i64>::new();
    for (location, quantity) in lapsed {
        *free.entry(location).or_default() += quantity;
    }
    let convert = |(location, on_hand, reserved, updated_at)| StockLevel {
        product,
        location,
        on_hand,
        reserved,
        available: match state {
            State::Active => on_hand - reserved + free.get(&location).copied().unwrap_or_default(),
            State::Archived => 0,
        },
        updated_at,
    };
    Ok(rows.into_iter().map(convert).collect())
}

#[derive(QueryableByName)]
struct PastRow {
    #[diesel(sql_type = schema::Id)]
    location_id: LocationId,
    #[diesel(sql_type = BigInt)]
    on_hand: i64,
    #[diesel(sql_type = schema::Time)]
    changed_at: DateTime<Utc>,
}

/// A product's stock at a time in the past, in filling order. For each location, an index finds the last ledger entry
/// up to then.
pub async fn levels_at(conn: &mut Conn, product: ProductId, time: DateTime<Utc>) -> Result<Vec<PastLevel>, Error> {
    known(conn, product).await?;
    let query = diesel::sql_query(
        "SELECT entry.location_id, entry.on_hand_after AS on_hand, entry.created_at AS changed_at
         FROM locations JOIN ledger entry ON entry.seq = (
            SELECT seq FROM ledger
            WHERE product_id = $1 AND location_id = locations.id AND created_at <= $2
            ORDER BY created_at DESC, seq DESC LIMIT 1
         )
         ORDER BY locations.priority, locations.code_key",
    );
    let rows: Vec<PastRow> = query.bind::<schema::Id, _>(product).bind::<schema::Time, _>(time).load(conn).await?;
    let convert = |row: PastRow| PastLevel {
        product,
        location: row.location_id,
        on_hand: row.on_hand,
        updated_at: row.changed_at,
    };
    Ok(rows.into_iter().map(convert).collect())
}

async fn known(conn: &mut Conn, product: ProductId) -> Result<State, Error> {
    let found = products::table.find(product).select(products::state).first::<String>(conn).await.optional()?;
    value(&found.ok_or(Refusal::NoProduct(product))?)
}

/// An SQL expression for the available pieces of a product, for queries over `products`.
fn available() -> String {
    format!(
        "CAST(coalesce((SELECT sum(on_hand - reserved) FROM stock WHERE product_id = products.id), 0)
            + coalesce((SELECT sum(quantity) FROM reservation_lines
                WHERE product_id = products.id AND held_until <= {NOW}), 0)
         AS bigint)"
    )
}

#[derive(QueryableByName)]
struct LowRow {
    #[diesel(sql_type = schema::Id)]
    id: ProductId,
    #[diesel(sql_type = Text)]
    sku: String,
    #[diesel(sql_type = Text)]
    title: String,
    #[diesel(sql_type = BigInt)]
    low_stock_threshold: i64,
    #[diesel(sql_type = BigInt)]
    available: i64,
}

/// Products that are low, by id, after the given one. A limited number of products with a threshold is read.
pub async fn low(conn: &mut Conn, after: Option<ProductId>, limit: i64) -> Result<Scan<LowStock, ProductId>, Error> {
    let after = after.unwrap_or_else(|| ProductId::from_uuid(Default::default()));
    let mut scan = Scan::all(Vec::new());
    for scanned in page::scans(limit, false) {
        let watched = products::table.filter(products::low_stock_threshold.is_not_null());
        let last = watched.filter(products::id.gt(after)).order(products::id).offset(scanned - 1).limit(1);
        let end: Option<ProductId> = last.select(products::id).first(conn).await.optional()?;
        scan = Scan { rows: low_within(conn, after, end, limit).await?, end };
        if scan.is_enough(limit) {
            break;
        }
    }
    Ok(scan)
}

/// Products that are low, after the first id and up to the last one.
async fn low_within(
    conn: &mut Conn,
    after: ProductId,
    end: Option<ProductId>,
    limit: i64,
) -> Result<Vec<LowStock>, Error> {
    let end = end.unwrap_or_else(|| ProductId::from_uuid(Uuid::max()));
    let query = diesel::sql_query(format!(
        "SELECT * FROM (
            SELECT id, sku, title, low_stock_threshold, {} AS available FROM {WATCHED}
            WHERE low_stock_threshold IS NOT NULL AND state = 'ACTIVE' AND tracking = 'TRACKED' AND id > $1 AND id <= $2
         ) watched
         WHERE available <= low_stock_threshold ORDER BY id LIMIT $3",
        available()
    ));
    let query = query.bind::<schema::Id, _>(after).bind::<schema::Id, _>(end).bind::<BigInt, _>(limit);
    let rows: Vec<LowRow> = query.load(conn).await?;
    let convert = |row: LowRow| LowStock {
        product: row.id,
        sku: row.sku,
        title: row.title,
        available: row.available,
        threshold: row.low_stock_threshold,
    };
    Ok(rows.into_iter().map(convert).collect())
}

#[derive(QueryableByName)]
struct Available {
    #[diesel(sql_type = Text)]
    tracking: String,
    #[diesel(sql_type = Text)]
    state: String,
    #[diesel(sql_type = BigInt)]
    available: i64,
}

/// The available pieces, in one statement: 0 for an archived product, `None` if stock is not tracked.
pub async fn availability(conn: &mut Conn, product: ProductId) -> Result<Option<i64>, Error> {
    let query =
        diesel::sql_query(format!("SELECT tracking, state, {} AS available FROM products WHERE id = $1", available()));
    let row: Option<Available> = query.bind::<schema::Id, _>(product).get_result(conn).await.optional()?;
    let row = row.ok_or(Refusal::NoProduct(product))?;
    if value::<State>(&row.state)? == State::Archived {
        return Ok(Some(0));
    }
    Ok((value::<Tracking>(&row.tracking)? == Tracking::Tracked).then_some(row.available))
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = ledger)]
struct LedgerRow {
    seq: i64,
    id: LedgerEntryId,
    product_id: ProductId,
    location_id: LocationId,
    quantity: i64,
    on_hand_after: i64,
    reason: String,
    reference: String,
    note: String,
    actor: String,
    created_at: DateTime<Utc>,
}

pub async fn ledger(
    conn: &mut Conn,
    product: ProductId,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<LedgerEntry>, Error> {
    known(conn, product).await?;
    let mut query = ledger::table
        .filter(ledger::product_id.eq(product))
        .order(ledger::seq.desc())
        .limit(limit)
        .select(LedgerRow::as_select())
        .into_boxed();
    if let Some(before) = before {
        query = query.filter(ledger::seq.lt(before));
    }
    let rows: Vec<LedgerRow> = query.load(conn).await?;
    let read = |row: LedgerRow| {
        let movement = Movement {
            product: row.product_id,
            location: row.location_id,
            quantity: row.quantity,
            on_hand_after: row.on_hand_after,
            reason: value(&row.reason)?,
            reference: row.reference,
            note: row.note,
            actor: row.actor,
        };
        Ok(LedgerEntry { id: row.id, seq: row.seq, movement, created_at: row.created_at })
    };
    rows.into_iter().map(read).collect()
}
