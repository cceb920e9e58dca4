//! Writes many rows at once: one statement for each kind of row, whatever the number of rows.

use chrono::{DateTime, Utc};
use diesel::{
    sql_query,
    sql_types::{Array, BigInt, Binary, Integer, Nullable, Text, Timestamptz, Uuid},
};
use diesel_async::RunQueryDsl;
use futures::join;
use souk_common::ids::{LedgerEntryId, OrderId};
use souk_store::{
    db::{DbError, Keep, postgres::together},
    events::{Draft, postgres::append},
};

use super::{Conn, queries::products::Row};
use crate::{
    domain::{
        book::{Answer, Changes, Entry, StockRow},
        reservation::{Line, Reservation},
    },
    error::Error,
    store::{answer_text, codes::word, collided},
};

/// Writes all changes. Changes of stock get the time `posted_at`. Fails with a conflict if another transaction has
/// inserted one of the rows meanwhile. Independent statements run concurrently.
pub async fn write(
    conn: &mut Conn,
    now: DateTime<Utc>,
    posted_at: DateTime<Utc>,
    changes: Changes,
    events: Vec<Draft>,
) -> Result<(), Error> {
    let conn = &*conn;
    add_stock(conn, posted_at, &changes.stock_added).await?;
    let (a, b, c, d, e, f, g, h, i) = join!(
        change_stock(conn, posted_at, &changes.stock_changed),
        add_reservations(conn, now, &changes.created),
        move_reservations(conn, now, &changes.moved),
        free_lines(conn, &changes.freed),
        drop_lines(conn, &changes.relined),
        return_lines(conn, &changes.returned),
        add_ledger(conn, posted_at, &changes.ledger),
        add_answers(conn, now, &changes.answers),
        async { Ok(append(conn, &events).await?) },
    );
    together([a, b, c, d, e, f, g, h, i])?;
    add_lines(conn, &changes.relined).await
}

/// One value of each row, as an array parameter of a statement.
fn column<'a, R, T>(rows: &'a [R], of: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

async fn add_stock(mut conn: &Conn, now: DateTime<Utc>, rows: &[StockRow]) -> Result<(), Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let added = sql_query(
        "INSERT INTO stock (product_id, location_id, on_hand, reserved, updated_at)
         SELECT product_id, location_id, on_hand, reserved, $5
         FROM unnest($1, $2, $3, $4) AS new (product_id, location_id, on_hand, reserved)
         ON CONFLICT DO NOTHING",
    )
    .bind::<Array<Uuid>, _>(column(rows, |row| row.place.0))
    .bind::<Array<Uuid>, _>(column(rows, |row| row.place.1))
    .bind::<Array<BigInt>, _>(column(rows, |row| row.level.on_hand))
    .bind::<Array<BigInt>, _>(column(rows, |row| row.level.reserved))
    .bind::<Timestamptz, _>(now)
    .kept()
    .execute(&mut conn)
    .await?;
    if added == rows.len() { Ok(()) } else { Err(collided()) }
}

async fn change_stock(mut conn: &Conn, now: DateTime<Utc>, rows: &[StockRow]) -> Result<(), Error> {
    if rows.is_empty() {
        return Ok(());
    }
    sql_query(
        "UPDATE stock SET on_hand = new.on_hand, reserved = new.reserved, updated_at = $5
         FROM unnest($1, $2, $3, $4) AS new (product_id, location_id, on_hand, reserved)
         WHERE stock.product_id = new.product_id AND stock.location_id = new.location_id",
    )
    .bind::<Array<Uuid>, _>(column(rows, |row| row.place.0))
    .bind::<Array<Uuid>, _>(column(rows, |row| row.place.1))
    .bind::<Array<BigInt>, _>(column(rows, |row| row.level.on_hand))
    .bind::<Array<BigInt>, _>(column(rows, |row| row.level.reserved))
    .bind::<Timestamptz, _>(now)
    .kept()
    .execute(&mut conn)
    .await?;
    Ok(())
}

async fn add_reservations(mut conn: &Conn, now: DateTime<Utc>, rows: &[Reservation]) -> Result<(), Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let lines = lines_of(rows);
    sql_query(
        "WITH made AS (
            INSERT INTO reservations (id, state, items_hash, expires_at, created_at, updated_at)
            SELECT id, state, items_hash, expires_at, $5, $5
            FROM unnest($1, $2, $3, $4) AS new (id, state, items_hash, expires_at)
         )
         INSERT INTO reservation_lines (reservation_id, product_id, location_id, quantity, returned, held_until)
         SELECT * FROM unnest($6, $7, $8, $9, $10, $11)",
    )
    .bind::<Array<Uuid>, _>(column(rows, |row| row.order))
    .bind::<Array<Text>, _>(column(rows, |row| word(row.state)))
    .bind::<Array<Binary>, _>(column(rows, |row| &row.items_hash))
    .bind::<Array<Timestamptz>, _>(column(rows, |row| row.expires_at))
    .bind::<Timestamptz, _>(now)
    .bind::<Array<Uuid>, _>(column(&lines, |line| line.of.order))
    .bind::<Array<Uuid>, _>(column(&lines, |line| line.held.product))
    .bind::<Array<Uuid>, _>(column(&lines, |line| line.held.location))
    .bind::<Array<BigInt>, _>(column(&lines, |line| line.held.quantity))
    .bind::<Array<BigInt>, _>(column(&lines, |line| line.held.returned))
    .bind::<Array<Nullable<Timestamptz>>, _>(column(&lines, |line| line.of.held_until()))
    .kept()
    .execute(&mut conn)
    .await
    .map_err(taken)?;
    Ok(())
}

/// Converts an error. If another transaction has just inserted a row with the same key, a retry may succeed.
fn taken(error: diesel::result::Error) -> Error {
    let error = DbError::from(error);
    if error.unique_violation().is_some() { collided() } else { error.into() }
}

async fn move_reservations(mut conn: &Conn, now: DateTime<Utc>, rows: &[Reservation]) -> Result<(), Error> {
    if rows.is_empty() {
        return Ok(());
    }
    sql_query(
        "UPDATE reservations
         SET state = new.state, items_hash = new.items_hash, expires_at = new.expires_at, updated_at = $5
         FROM unnest($1, $2, $3, $4) AS new (id, state, items_hash, expires_at)
         WHERE reservations.id = new.id",
    )
    .bind::<Array<Uuid>, _>(column(rows, |row| row.order))
    .bind::<Array<Text>, _>(column(rows, |row| word(row.state)))
    .bind::<Array<Binary>, _>(column(rows, |row| &row.items_hash))
    .bind::<Array<Timestamptz>, _>(column(rows, |row| row.expires_at))
    .bind::<Timestamptz, _>(now)
    .kept()
    .execute(&mut conn)
    .await?;
    Ok(())
}

async fn free_lines(mut conn: &Conn, orders: &[OrderId]) -> Result<(), Error> {
    if orders.is_empty() {
        return Ok(());
    }
    sql_query("UPDATE reservation_lines SET held_until = NULL WHERE reservation_id = ANY($1)")
        .bind::<Array<Uuid>, _>(orders)
        .kept()
        .execute(&mut conn)
        .await?;
    Ok(())
}

async fn drop_lines(mut conn: &Conn, rows: &[Reservation]) -> Result<(), Error> {
    if rows.is_empty() {
        return Ok(());
    }
    sql_query("DELETE FROM reservation_lines WHERE reservation_id = ANY($1)")
        .bind::<Array<Uuid>, _>(column(rows, |row| row.order))
        .kept()
        .execute(&mut conn)
        .await?;
    Ok(())
}

/// A line of a reservation.
struct HeldLine<'a> {
    of: &'a Reservation,
    held: &'a Line,
}

fn lines_of(rows: &[Reservation]) -> Vec<HeldLine<'_>> {
    rows.iter().flat_map(|of| of.lines.iter().map(move |held| HeldLine { of, held })).collect()
}

async fn add_lines(mut conn: &Conn, rows: &[Reservation]) -> Result<(), Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let lines = lines_of(rows);
    sql_query(
        "INSERT INTO reservation_lines (reservation_id, product_id, location_id, quantity, returned, held_until)
         SELECT * FROM unnest($1, $2, $3, $4, $5, $6)",
    )
    .bind::<Array<Uuid>, _>(column(&lines, |line| line.of.order))
    .bind::<Array<Uuid>, _>(column(&lines, |line| line.held.product))
    .bind::<Array<Uuid>, _>(column(&lines, |line| line.held.location))
    .bind::<Array<BigInt>, _>(column(&lines, |line| line.held.quantity))
    .bind::<Array<BigInt>, _>(column(&lines, |line| line.held.returned))
    .bind::<Array<Nullable<Timestamptz>>, _>(column(&lines, |line| line.of.held_until()))
    .kept()
    .execute(&mut conn)
    .await?;
    Ok(())
}

async fn return_lines(mut conn: &Conn, rows: &[(OrderId, Line)]) -> Result<(), Error> {
    if rows.is_empty() {
        return Ok(());
    }
    sql_query(
        "UPDATE reservation_lines AS line SET returned = new.returned
         FROM unnest($1, $2, $3, $4) AS new (reservation_id, product_id, location_id, returned)
         WHERE line.reservation_id = new.reservation_id
            AND line.product_id = new.product_id AND line.location_id = new.location_id",
    )
    .bind::<Array<Uuid>, _>(column(rows, |(order, _)| *order))
    .bind::<Array<Uuid>, _>(column(rows, |(_, line)| line.product))
    .bind::<Array<Uuid>, _>(column(rows, |(_, line)| line.location))
    .bind::<Array<BigInt>, _>(column(rows, |(_, line)| line.returned))
    .kept()
    .execute(&mut conn)
    .await?;
    Ok(())
}

async fn add_ledger(mut conn: &Conn, now: DateTime<Utc>, entries: &[Entry]) -> Result<(), Error> {
    if entries.is_empty() {
        return Ok(());
    }
    let key = |entry: &Entry| entry.request.as_ref().map(|of| of.key.clone());
    let number = |entry: &Entry| entry.request.as_ref().map_or(0, |of| of.number);
    let added = sql_query(
        "INSERT INTO ledger (id, product_id, location_id, quantity, on_hand_after, reason, reference, note, actor,
            request, item, created_at)
         SELECT id, product_id, location_id, quantity, on_hand_after, reason, reference, note, actor,
            request, item, $12
         FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) WITH ORDINALITY
            AS new (id, product_id, location_id, quantity, on_hand_after, reason, reference, note, actor,
                request, item, number)
         ORDER BY number
         ON CONFLICT DO NOTHING",
    )
    .bind::<Array<Uuid>, _>(column(entries, |_| LedgerEntryId::new()))
    .bind::<Array<Uuid>, _>(column(entries, |entry| entry.movement.product))
    .bind::<Array<Uuid>, _>(column(entries, |entry| entry.movement.location))
    .bind::<Array<BigInt>, _>(column(entries, |entry| entry.movement.quantity))
    .bind::<Array<BigInt>, _>(column(entries, |entry| entry.movement.on_hand_after))
    .bind::<Array<Text>, _>(column(entries, |entry| word(entry.movement.reason)))
    .bind::<Array<Text>, _>(column(entries, |entry| &entry.movement.reference))
    .bind::<Array<Text>, _>(column(entries, |entry| &entry.movement.note))
    .bind::<Array<Text>, _>(column(entries, |entry| &entry.movement.actor))
    .bind::<Array<Nullable<Binary>>, _>(column(entries, key))
    .bind::<Array<Integer>, _>(column(entries, number))
    .bind::<Timestamptz, _>(now)
    .kept()
    .execute(&mut conn)
    .await?;
    // A missing row means that another replica of the service used the same key at the same time.
    if added == entries.len() { Ok(()) } else { Err(collided()) }
}

async fn add_answers(mut conn: &Conn, now: DateTime<Utc>, answers: &[(Vec<u8>, Answer)]) -> Result<(), Error> {
    if answers.is_empty() {
        return Ok(());
    }
    let texts = answers.iter().map(|(_, answer)| answer_text(answer)).collect::<Result<Vec<_>, _>>()?;
    let added = sql_query(
        "INSERT INTO requests (id, hash, answer, created_at)
         SELECT id, hash, answer, $4 FROM unnest($1, $2, $3) AS new (id, hash, answer)
         ON CONFLICT DO NOTHING",
    )
    .bind::<Array<Binary>, _>(column(answers, |(id, _)| id))
    .bind::<Array<Binary>, _>(column(answers, |(_, answer)| &answer.hash))
    .bind::<Array<Text>, _>(texts)
    .bind::<Timestamptz, _>(now)
    .kept()
    .execute(&mut conn)
    .await?;
    if added == answers.len() { Ok(()) } else { Err(collided()) }
}

/// Inserts products, except those whose stock code exists by now. Returns the number of inserted rows.
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
        .bind::<Array<Uuid>, _>(column(&rows, |row| row.id))
        .bind::<Array<Text>, _>(column(&rows, |row| &row.sku))
        .bind::<Array<Text>, _>(column(&rows, |row| &row.sku_key))
        .bind::<Array<Text>, _>(column(&rows, |row| &row.title))
        .bind::<Array<Text>, _>(column(&rows, |row| &row.title_key))
        .bind::<Array<Text>, _>(column(&rows, |row| &row.description))
        .bind::<Array<BigInt>, _>(column(&rows, |row| row.price_minor))
        .bind::<Array<Text>, _>(column(&rows, |row| row.price_currency))
        .bind::<Array<BigInt>, _>(column(&rows, |row| row.price_rank))
        .bind::<Array<Text>, _>(column(&rows, |row| &row.tracking))
        .bind::<Array<Text>, _>(column(&rows, |row| &row.state))
        .bind::<Array<BigInt>, _>(column(&rows, |row| row.version))
        .bind::<Array<Timestamptz>, _>(column(&rows, |row| row.created_at))
        .bind::<Array<Timestamptz>, _>(column(&rows, |row| row.updated_at))
        .bind::<Array<Text>, _>(column(&rows, Row::words))
        .bind::<Array<Nullable<BigInt>>, _>(column(&rows, |row| row.low_stock_threshold));
    Ok(query.execute(conn).await?)
}

/// Updates products that still have the version of their row. Returns the number of updated rows.
pub async fn change_products(conn: &mut Conn, now: DateTime<Utc>, rows: Vec<Row>) -> Result<usize, Error> {
    if rows.is_empty() {
        return Ok(0);
    }
    let query = sql_query(
        "UPDATE products SET title = new.title, title_key = new.title_key, description = new.description,
            price_minor = new.price_minor, price_currency = new.price_currency, price_rank = new.price_rank,
            version = new.version + 1, updated_at = $9, words = new.words, words_version = new.version + 1,
            low_stock_threshold = new.low_stock_threshold, state = new.state
         FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $10, $11, $12)
            AS new (id, version, title, title_key, description, price_minor, price_currency, price_rank, words,
                low_stock_threshold, state)
         WHERE products.id = new.id AND products.version = new.version",
    );
    let query = query
        .bind::<Array<Uuid>, _>(column(&rows, |row| row.id))
        .bind::<Array<BigInt>, _>(column(&rows, |row| row.version))
        .bind::<Array<Text>, _>(column(&rows, |row| &row.title))
        .bind::<Array<Text>, _>(column(&rows, |row| &row.title_key))
        .bind::<Array<Text>, _>(column(&rows, |row| &row.description))
        .bind::<Array<BigInt>, _>(column(&rows, |row| row.price_minor))
        .bind::<Array<Text>, _>(column(&rows, |row| row.price_currency))
        .bind::<Array<BigInt>, _>(column(&rows, |row| row.price_rank))
        .bind::<Timestamptz, _>(now)
        .bind::<Array<Text>, _>(column(&rows, Row::words))
        .bind::<Array<Nullable<BigInt>>, _>(column(&rows, |row| row.low_stock_threshold))
        .bind::<Array<Text>, _>(column(&rows, |row| &row.state));
    Ok(query.execute(conn).await?)
}

/// Writes the search words of products that still have the version of their row.
pub async fn write_words(conn: &mut Conn, rows: Vec<Row>) -> Result<usize, Error> {
    let query = sql_query(
        "UPDATE products SET words = new.words, words_version = new.version
         FROM unnest($1, $2, $3) AS new (id, version, words)
         WHERE products.id = new.id AND products.version = new.version",
    );
    let query = query
        .bind::<Array<Uuid>, _>(column(&rows, |row| row.id))
        .bind::<Array<BigInt>, _>(column(&rows, |row| row.version))
        .bind::<Array<Text>, _>(column(&rows, Row::words));
    Ok(query.execute(conn).await?)
}
