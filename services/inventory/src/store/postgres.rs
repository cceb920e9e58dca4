//! What PostgreSQL does in its own way: its clock and its row locks.

use chrono::{DateTime, Utc};
use diesel::{
    dsl::sql,
    pg::Pg,
    prelude::*,
    sql_types::{Bool, Text},
};
use diesel_async::RunQueryDsl;
use souk_common::ids::{OrderId, ProductId};

use super::{
    Any, Conn,
    queries::{ReservationRow, StockLine, products::Row},
    schema::{products, reservations, stock},
};
use crate::error::Error;

/// The transaction's time, in SQL.
pub const NOW: &str = "now()";

/// Before and after what [`search_text`] makes, a condition on products, in SQL.
pub const SEARCH: (&str, &str) = ("search @@ CAST(", " AS tsquery)");

/// Counts the products that [`search_text`] finds, up to a limit.
pub const MATCHES: &str =
    "SELECT count(*) AS count FROM (SELECT 1 FROM products WHERE search @@ CAST($1 AS tsquery) LIMIT $2) AS found";

/// Whether a product that is looked at has the words.
pub fn has_words(words: &[String]) -> Box<dyn BoxableExpression<products::table, Pg, SqlType = Bool>> {
    let (before, after) = SEARCH;
    Box::new(sql::<Bool>(before).bind::<Text, _>(search_text(words)).sql(after))
}

/// Asks for all words, and of the last one for its beginning. Words are letters and digits.
pub fn search_text(words: &[String]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
    format!("{}:*", quoted.join(" & "))
}

/// The time of the transaction, by the server's clock: the same for all replicas of the service.
pub async fn clock(conn: &mut impl Any) -> Result<DateTime<Utc>, Error> {
    let now = diesel::dsl::sql::<diesel::sql_types::Timestamptz>(NOW);
    Ok(diesel::select(now).get_result(conn).await?)
}

/// Locks the stock of these products, in key order, so that no two batches wait for each other.
pub async fn lock_stock(conn: &mut impl Any, products: &[ProductId]) -> Result<Vec<StockLine>, Error> {
    let rows = stock::table
        .filter(stock::product_id.eq_any(products))
        .order((stock::product_id, stock::location_id))
        .select(StockLine::as_select())
        .for_update();
    Ok(rows.load(conn).await?)
}

/// Locks reservations, in key order.
pub async fn lock_reservations(conn: &mut impl Any, orders: &[OrderId]) -> Result<Vec<ReservationRow>, Error> {
    let rows = reservations::table
        .filter(reservations::id.eq_any(orders))
        .order(reservations::id)
        .select(ReservationRow::as_select())
        .for_update();
    Ok(rows.load(conn).await?)
}

/// Locks the products of these stock codes, in key order.
pub async fn lock_products(conn: &mut Conn, keys: &[String]) -> Result<Vec<Row>, Error> {
    let rows = products::table
        .filter(products::sku_key.eq_any(keys))
        .order(products::sku_key)
        .select(Row::as_select())
        .for_update();
    Ok(rows.load(conn).await?)
}
