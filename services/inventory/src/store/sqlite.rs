//! What SQLite does in its own way: our clock is its clock, and its one writer needs no row locks.

use chrono::{DateTime, SubsecRound as _, Utc};
use diesel::{
    dsl::sql,
    prelude::*,
    sql_types::{Bool, Text},
    sqlite::Sqlite,
};
use diesel_async::RunQueryDsl;
use souk_common::ids::{OrderId, ProductId};

use super::{
    Conn,
    queries::{CHUNK, ReservationRow, StockLine, products::Row},
    schema::{products, reservations, stock},
};
use crate::error::Error;

/// The statement's time, in SQL, as times are stored.
pub const NOW: &str = "strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')";

/// Before and after what [`search_text`] makes, a condition on products, in SQL.
pub const SEARCH: (&str, &str) = (
    "products.id IN (SELECT product_id FROM product_search JOIN product_numbers ON number = product_search.rowid
        WHERE product_search MATCH ",
    ")",
);

/// Counts the products that [`search_text`] finds, up to a limit.
pub const MATCHES: &str = "SELECT count(*) AS count FROM (
    SELECT 1 FROM product_search WHERE product_search MATCH $1 LIMIT $2)";

/// Whether a product that is looked at has the words. Its own stand with a space between.
pub fn has_words(words: &[String]) -> Box<dyn BoxableExpression<products::table, Sqlite, SqlType = Bool>> {
    let Some((last, whole)) = words.split_last() else { return Box::new(sql::<Bool>("FALSE")) };
    let begins = sql::<Bool>("instr(' ' || products.words, ").bind::<Text, _>(format!(" {last}")).sql(") > 0");
    whole.iter().fold(Box::new(begins), |others: Box<dyn BoxableExpression<_, _, SqlType = _>>, word| {
        let is = sql::<Bool>("instr(' ' || products.words || ' ', ").bind::<Text, _>(format!(" {word} ")).sql(") > 0");
        Box::new(others.and(is))
    })
}

/// Asks for all words, and of the last one for its beginning. Words are letters and digits.
pub fn search_text(words: &[String]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
    format!("{}*", quoted.join(" "))
}

/// The time now, no finer than PostgreSQL keeps it.
pub async fn clock(_: &mut Conn) -> Result<DateTime<Utc>, Error> {
    Ok(Utc::now().trunc_subsecs(6))
}

/// The stock of these products.
pub async fn lock_stock(conn: &mut Conn, products: &[ProductId]) -> Result<Vec<StockLine>, Error> {
    let mut rows = Vec::new();
    for chunk in products.chunks(CHUNK) {
        let part = stock::table.filter(stock::product_id.eq_any(chunk)).select(StockLine::as_select());
        rows.extend(part.load(conn).await?);
    }
    Ok(rows)
}

/// These reservations.
pub async fn lock_reservations(conn: &mut Conn, orders: &[OrderId]) -> Result<Vec<ReservationRow>, Error> {
    let mut rows = Vec::new();
    for chunk in orders.chunks(CHUNK) {
        let part = reservations::table.filter(reservations::id.eq_any(chunk)).select(ReservationRow::as_select());
        rows.extend(part.load(conn).await?);
    }
    Ok(rows)
}

/// The products of these stock codes. SQLite's one writer needs no lock.
pub async fn lock_products(conn: &mut Conn, keys: &[String]) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for chunk in keys.chunks(CHUNK) {
        let part = products::table.filter(products::sku_key.eq_any(chunk)).select(Row::as_select());
        rows.extend(part.load(conn).await?);
    }
    Ok(rows)
}
