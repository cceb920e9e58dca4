//! Writes a batch's changes: one statement for each kind of row, whatever their number.

use chrono::{DateTime, Utc};
use diesel::{
    sql_query,
    sql_types::{Array, BigInt, Binary, Integer, Nullable, Text, Timestamptz, Uuid},
};
use diesel_async::RunQueryDsl;
use futures::join;
use souk_common::ids::{LedgerEntryId, LocationId, OrderId, ProductId};
use souk_store::{
    db::{
        DbError,
        postgres::{Keep, together},
    },
    events::{Draft, postgres::append},
};

use super::Conn;
use crate::{
    domain::{
        book::{Answer, Changes, Entry, StockRow},
        reservation::{Line, Reservation},
    },
    error::Error,
    store::{answer_text, codes::word, collided},
};

/// Writes all changes, those of stock as of `posted_at`. Rows that somebody else has added meanwhile make it collide.
/// What does not depend on each other is under way at once.
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

/// The rows' products, locations, pieces on hand and pieces reserved.
type StockColumns = (Vec<ProductId>, Vec<LocationId>, (Vec<i64>, Vec<i64>));

fn stock_columns(rows: &[StockRow]) -> StockColumns {
    let numbers = rows.iter().map(|row| (row.level.on_hand, row.level.reserved)).unzip();
    let products = rows.iter().map(|row| row.place.0).collect();
    (products, rows.iter().map(|row| row.place.1).collect(), numbers)
}

async fn add_stock(mut conn: &Conn, now: DateTime<Utc>, rows: &[StockRow]) -> Result<(), Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let (products, locations, (on_hand, reserved)) = stock_columns(rows);
    let added = sql_query(
        "INSERT INTO stock (product_id, location_id, on_hand, reserved, updated_at)
         SELECT product_id, location_id, on_hand, reserved, $5
         FROM unnest($1, $2, $3, $4) AS new (product_id, location_id, on_hand, reserved)
         ON CONFLICT DO NOTHING",
    )
    .bind::<Array<Uuid>, _>(products)
    .bind::<Array<Uuid>, _>(locations)
    .bind::<Array<BigInt>, _>(on_hand)
    .bind::<Array<BigInt>, _>(reserved)
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
    let (products, locations, (on_hand, reserved)) = stock_columns(rows);
    sql_query(
        "UPDATE stock SET on_hand = new.on_hand, reserved = new.reserved, updated_at = $5
         FROM unnest($1, $2, $3, $4) AS new (product_id, location_id, on_hand, reserved)
         WHERE stock.product_id = new.product_id AND stock.location_id = new.location_id",
    )
    .bind::<Array<Uuid>, _>(products)
    .bind::<Array<Uuid>, _>(locations)
    .bind::<Array<BigInt>, _>(on_hand)
    .bind::<Array<BigInt>, _>(reserved)
    .bind::<Timestamptz, _>(now)
    .kept()
    .execute(&mut conn)
    .await?;
    Ok(())
}

/// The reservations' orders, states, hashes, and when they run out.
type ReservationColumns = (Vec<OrderId>, Vec<&'static str>, Vec<Vec<u8>>, Vec<DateTime<Utc>>);

fn reservation_columns(rows: &[Reservation]) -> ReservationColumns {
    (
        rows.iter().map(|row| row.order).collect(),
        rows.iter().map(|row| word(row.state)).collect(),
        rows.iter().map(|row| row.items_hash.clone()).collect(),
        rows.iter().map(|row| row.expires_at).collect(),
    )
}

async fn add_reservations(mut conn: &Conn, now: DateTime<Utc>, rows: &[Reservation]) -> Result<(), Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let (orders, states, hashes, expires_at) = reservation_columns(rows);
    let (of, products, locations, (quantities, returned), held_until) = line_columns(rows);
    sql_query(
        "WITH made AS (
            INSERT INTO reservations (id, state, items_hash, expires_at, created_at, updated_at)
            SELECT id, state, items_hash, expires_at, $5, $5
            FROM unnest($1, $2, $3, $4) AS new (id, state, items_hash, expires_at)
         )
         INSERT INTO reservation_lines (reservation_id, product_id, location_id, quantity, returned, held_until)
         SELECT * FROM unnest($6, $7, $8, $9, $10, $11)",
    )
    .bind::<Array<Uuid>, _>(orders)
    .bind::<Array<Text>, _>(states)
    .bind::<Array<Binary>, _>(hashes)
    .bind::<Array<Timestamptz>, _>(expires_at)
    .bind::<Timestamptz, _>(now)
    .bind::<Array<Uuid>, _>(of)
    .bind::<Array<Uuid>, _>(products)
    .bind::<Array<Uuid>, _>(locations)
    .bind::<Array<BigInt>, _>(quantities)
    .bind::<Array<BigInt>, _>(returned)
    .bind::<Array<Nullable<Timestamptz>>, _>(held_until)
    .kept()
    .execute(&mut conn)
    .await
    .map_err(taken)?;
    Ok(())
}

/// Where somebody else has just added a row of the same key, the transaction is worth another try.
fn taken(error: diesel::result::Error) -> Error {
    let error = DbError::from(error);
    if error.unique_violation().is_some() { collided() } else { error.into() }
}

async fn move_reservations(mut conn: &Conn, now: DateTime<Utc>, rows: &[Reservation]) -> Result<(), Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let (orders, states, hashes, expires_at) = reservation_columns(rows);
    sql_query(
        "UPDATE reservations
         SET state = new.state, items_hash = new.items_hash, expires_at = new.expires_at, updated_at = $5
         FROM unnest($1, $2, $3, $4) AS new (id, state, items_hash, expires_at)
         WHERE reservations.id = new.id",
    )
    .bind::<Array<Uuid>, _>(orders)
    .bind::<Array<Text>, _>(states)
    .bind::<Array<Binary>, _>(hashes)
    .bind::<Array<Timestamptz>, _>(expires_at)
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
    let orders: Vec<_> = rows.iter().map(|row| row.order).collect();
    sql_query("DELETE FROM reservation_lines WHERE reservation_id = ANY($1)")
        .bind::<Array<Uuid>, _>(orders)
        .kept()
        .execute(&mut conn)
        .await?;
    Ok(())
}

/// The lines' orders, products, locations, quantities and pieces that came back, and until when they hold stock.
type LineColumns = (Vec<OrderId>, Vec<ProductId>, Vec<LocationId>, (Vec<i64>, Vec<i64>), Vec<Option<DateTime<Utc>>>);

fn line_columns(rows: &[Reservation]) -> LineColumns {
    let lines = || rows.iter().flat_map(|row| row.lines.iter().map(move |line| (row, line)));
    (
        lines().map(|(row, _)| row.order).collect(),
        lines().map(|(_, line)| line.product).collect(),
        lines().map(|(_, line)| line.location).collect(),
        lines().map(|(_, line)| (line.quantity, line.returned)).unzip(),
        lines().map(|(row, _)| row.held_until()).collect(),
    )
}

async fn add_lines(mut conn: &Conn, rows: &[Reservation]) -> Result<(), Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let (orders, products, locations, (quantities, returned), held_until) = line_columns(rows);
    sql_query(
        "INSERT INTO reservation_lines (reservation_id, product_id, location_id, quantity, returned, held_until)
         SELECT * FROM unnest($1, $2, $3, $4, $5, $6)",
    )
    .bind::<Array<Uuid>, _>(orders)
    .bind::<Array<Uuid>, _>(products)
    .bind::<Array<Uuid>, _>(locations)
    .bind::<Array<BigInt>, _>(quantities)
    .bind::<Array<BigInt>, _>(returned)
    .bind::<Array<Nullable<Timestamptz>>, _>(held_until)
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
    .bind::<Array<Uuid>, _>(rows.iter().map(|(order, _)| *order).collect::<Vec<_>>())
    .bind::<Array<Uuid>, _>(rows.iter().map(|(_, line)| line.product).collect::<Vec<_>>())
    .bind::<Array<Uuid>, _>(rows.iter().map(|(_, line)| line.location).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(rows.iter().map(|(_, line)| line.returned).collect::<Vec<_>>())
    .kept()
    .execute(&mut conn)
    .await?;
    Ok(())
}

async fn add_ledger(mut conn: &Conn, now: DateTime<Utc>, entries: &[Entry]) -> Result<(), Error> {
    if entries.is_empty() {
        return Ok(());
    }
    let of = |entry: &Entry| (entry.movement.quantity, entry.movement.on_hand_after);
    let (quantities, on_hand_after): (Vec<i64>, Vec<i64>) = entries.iter().map(of).unzip();
    let request = |entry: &Entry| entry.request.clone().unzip();
    let (requests, items): (Vec<_>, Vec<_>) = entries.iter().map(request).unzip();
    let text = |field: fn(&Entry) -> &str| entries.iter().map(field).collect::<Vec<_>>();
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
    .bind::<Array<Uuid>, _>(entries.iter().map(|_| LedgerEntryId::new()).collect::<Vec<_>>())
    .bind::<Array<Uuid>, _>(entries.iter().map(|entry| entry.movement.product).collect::<Vec<_>>())
    .bind::<Array<Uuid>, _>(entries.iter().map(|entry| entry.movement.location).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(quantities)
    .bind::<Array<BigInt>, _>(on_hand_after)
    .bind::<Array<Text>, _>(text(|entry| word(entry.movement.reason)))
    .bind::<Array<Text>, _>(text(|entry| &entry.movement.reference))
    .bind::<Array<Text>, _>(text(|entry| &entry.movement.note))
    .bind::<Array<Text>, _>(text(|entry| &entry.movement.actor))
    .bind::<Array<Nullable<Binary>>, _>(requests)
    .bind::<Array<Integer>, _>(items.into_iter().map(Option::unwrap_or_default).collect::<Vec<i32>>())
    .bind::<Timestamptz, _>(now)
    .kept()
    .execute(&mut conn)
    .await?;
    // The same key on another replica of the service, at the same time.
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
    .bind::<Array<Binary>, _>(answers.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>())
    .bind::<Array<Binary>, _>(answers.iter().map(|(_, answer)| answer.hash.clone()).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(texts)
    .bind::<Timestamptz, _>(now)
    .kept()
    .execute(&mut conn)
    .await?;
    if added == answers.len() { Ok(()) } else { Err(collided()) }
}
