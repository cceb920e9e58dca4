//! Writes a feed's products: a statement for what is new and one for what changed, whatever their number.

use chrono::{DateTime, Utc};
use diesel::{
    sql_query,
    sql_types::{Array, BigInt, Nullable, Text, Timestamptz, Uuid},
};
use diesel_async::RunQueryDsl;

use super::{Conn, queries::products::Row};
use crate::error::Error;

/// Adds products; how many were. A stock code that is there by now is left out.
pub async fn insert_products(conn: &mut Conn, rows: Vec<Row>) -> Result<usize, Error> {
    if rows.is_empty() {
        return Ok(0);
    }
    let query = sql_query(
        "INSERT INTO products (id, sku, sku_key, title, title_key, description, price_minor, price_currency, price_rank,
            tracking, state, version, created_at, updated_at, words, low_stock_threshold,
            words_version)
         SELECT new.*, new.version FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,
            $16)
            AS new (id, sku, sku_key, title, title_key, description, price_minor, price_currency, price_rank, tracking,
                state, version, created_at, updated_at, words, low_stock_threshold)
         ON CONFLICT DO NOTHING",
    );
    let query = query
        .bind::<Array<Uuid>, _>(rows.iter().map(|row| row.id).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(rows.iter().map(|row| &row.sku).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(rows.iter().map(|row| &row.sku_key).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(rows.iter().map(|row| &row.title).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(rows.iter().map(|row| &row.title_key).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(rows.iter().map(|row| &row.description).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(rows.iter().map(|row| row.price_minor).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(rows.iter().map(|row| row.price_currency).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(rows.iter().map(|row| row.price_rank).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(rows.iter().map(|row| &row.tracking).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(rows.iter().map(|row| &row.state).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(rows.iter().map(|row| row.version).collect::<Vec<_>>())
        .bind::<Array<Timestamptz>, _>(rows.iter().map(|row| row.created_at).collect::<Vec<_>>())
        .bind::<Array<Timestamptz>, _>(rows.iter().map(|row| row.updated_at).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(rows.iter().map(Row::words).collect::<Vec<_>>())
        .bind::<Array<Nullable<BigInt>>, _>(rows.iter().map(|row| row.low_stock_threshold).collect::<Vec<_>>());
    Ok(query.execute(conn).await?)
}

/// Changes products that still have the version which their rows give; how many were.
pub async fn change_products(conn: &mut Conn, now: DateTime<Utc>, rows: Vec<Row>) -> Result<usize, Error> {
    if rows.is_empty() {
        return Ok(0);
    }
    let query = sql_query(
        "UPDATE products SET title = new.title, title_key = new.title_key, description = new.description,
            price_minor = new.price_minor, price_currency = new.price_currency, price_rank = new.price_rank,
            version = new.version + 1, updated_at = $9, words = new.words, words_version = new.version + 1,
            low_stock_threshold = new.low_stock_threshold
         FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $10, $11)
            AS new (id, version, title, title_key, description, price_minor, price_currency, price_rank, words,
                low_stock_threshold)
         WHERE products.id = new.id AND products.version = new.version",
    );
    let query = query
        .bind::<Array<Uuid>, _>(rows.iter().map(|row| row.id).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(rows.iter().map(|row| row.version).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(rows.iter().map(|row| &row.title).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(rows.iter().map(|row| &row.title_key).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(rows.iter().map(|row| &row.description).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(rows.iter().map(|row| row.price_minor).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(rows.iter().map(|row| row.price_currency).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(rows.iter().map(|row| row.price_rank).collect::<Vec<_>>())
        .bind::<Timestamptz, _>(now)
        .bind::<Array<Text>, _>(rows.iter().map(Row::words).collect::<Vec<_>>())
        .bind::<Array<Nullable<BigInt>>, _>(rows.iter().map(|row| row.low_stock_threshold).collect::<Vec<_>>());
    Ok(query.execute(conn).await?)
}

/// Writes the words of products that still have the version which their rows give.
pub async fn write_words(conn: &mut Conn, rows: Vec<Row>) -> Result<usize, Error> {
    let query = sql_query(
        "UPDATE products SET words = new.words, words_version = new.version
         FROM unnest($1, $2, $3) AS new (id, version, words)
         WHERE products.id = new.id AND products.version = new.version",
    );
    let query = query
        .bind::<Array<Uuid>, _>(rows.iter().map(|row| row.id).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(rows.iter().map(|row| row.version).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(rows.iter().map(Row::words).collect::<Vec<_>>());
    Ok(query.execute(conn).await?)
}
