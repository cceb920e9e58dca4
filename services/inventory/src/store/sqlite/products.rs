//! Writes a feed's products with plain diesel in one hop to a blocking thread.

use chrono::{DateTime, Utc};
use diesel::prelude::*;

use super::{Conn, queries::products::Row, schema::products};
use crate::error::Error;

/// Adds products; how many were.
pub async fn insert_products(conn: &mut Conn, rows: Vec<Row>) -> Result<usize, Error> {
    let insert = move |conn: &mut SqliteConnection| {
        let values: Vec<_> = rows.iter().map(Row::insertable).collect();
        diesel::insert_into(products::table).values(values).execute(conn)
    };
    Ok(conn.spawn_blocking(insert).await?)
}

/// Changes products that still have the version which their rows give; how many were.
pub async fn change_products(conn: &mut Conn, now: DateTime<Utc>, rows: Vec<Row>) -> Result<usize, Error> {
    let change = move |conn: &mut SqliteConnection| {
        let mut changed = 0;
        for row in &rows {
            let same = products::table.filter(products::id.eq(row.id)).filter(products::version.eq(row.version));
            changed += diesel::update(same)
                .set((
                    products::title.eq(&row.title),
                    products::title_key.eq(&row.title_key),
                    products::description.eq(&row.description),
                    products::price_minor.eq(row.price_minor),
                    products::price_currency.eq(row.price_currency),
                    products::price_rank.eq(row.price_rank),
                    products::version.eq(row.version + 1),
                    products::updated_at.eq(now),
                    products::words.eq(row.words()),
                    products::words_version.eq(row.version + 1),
                    products::low_stock_threshold.eq(row.low_stock_threshold),
                ))
                .execute(conn)?;
        }
        Ok(changed)
    };
    Ok(conn.spawn_blocking(change).await?)
}

/// Writes the words of products that still have the version which their rows give.
pub async fn write_words(conn: &mut Conn, rows: Vec<Row>) -> Result<usize, Error> {
    let write = move |conn: &mut SqliteConnection| {
        let mut written = 0;
        for row in &rows {
            let same = products::table.filter(products::id.eq(row.id)).filter(products::version.eq(row.version));
            let words = (products::words.eq(row.words()), products::words_version.eq(row.version));
            written += diesel::update(same).set(words).execute(conn)?;
        }
        Ok(written)
    };
    Ok(conn.spawn_blocking(write).await?)
}
