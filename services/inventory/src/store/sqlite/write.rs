//! Writes a batch's changes with plain diesel in one hop to a blocking thread.

use chrono::{DateTime, Utc};
use diesel::{SqliteConnection, prelude::*};
use souk_common::ids::LedgerEntryId;
use souk_store::events::{Draft, sqlite::append_blocking};

use super::{
    Conn,
    schema::{ledger, requests, reservation_lines, reservations, stock},
};
use crate::{
    domain::{
        book::{Changes, Entry},
        reservation::Reservation,
    },
    error::Error,
    store::{answer_text, codes::word},
};

/// Writes all changes, those of stock as of `posted_at`.
pub async fn write(
    conn: &mut Conn,
    now: DateTime<Utc>,
    posted_at: DateTime<Utc>,
    changes: Changes,
    events: Vec<Draft>,
) -> Result<(), Error> {
    let answers = changes
        .answers
        .iter()
        .map(|(id, answer)| Ok((id.clone(), answer.hash.clone(), answer_text(answer)?)))
        .collect::<Result<Vec<_>, Error>>()?;
    conn.spawn_blocking(move |conn| {
        write_stock(conn, posted_at, &changes)?;
        write_reservations(conn, &changes)?;
        for entry in &changes.ledger {
            add_entry(conn, posted_at, entry)?;
        }
        for (id, hash, answer) in &answers {
            diesel::insert_into(requests::table)
                .values((
                    requests::id.eq(id),
                    requests::hash.eq(hash),
                    requests::answer.eq(answer),
                    requests::created_at.eq(now),
                ))
                .execute(conn)?;
        }
        append_blocking(conn, &events)
    })
    .await?;
    Ok(())
}

fn write_stock(conn: &mut SqliteConnection, now: DateTime<Utc>, changes: &Changes) -> QueryResult<()> {
    for row in &changes.stock_added {
        diesel::insert_into(stock::table)
            .values((
                stock::product_id.eq(row.place.0),
                stock::location_id.eq(row.place.1),
                stock::on_hand.eq(row.level.on_hand),
                stock::reserved.eq(row.level.reserved),
                stock::updated_at.eq(now),
            ))
            .execute(conn)?;
    }
    for row in &changes.stock_changed {
        diesel::update(stock::table.find(row.place))
            .set((
                stock::on_hand.eq(row.level.on_hand),
                stock::reserved.eq(row.level.reserved),
                stock::updated_at.eq(now),
            ))
            .execute(conn)?;
    }
    Ok(())
}

fn write_reservations(conn: &mut SqliteConnection, changes: &Changes) -> QueryResult<()> {
    for row in &changes.created {
        diesel::insert_into(reservations::table)
            .values((
                reservations::id.eq(row.order),
                reservations::state.eq(word(row.state)),
                reservations::items_hash.eq(&row.items_hash),
                reservations::expires_at.eq(row.expires_at),
                reservations::created_at.eq(row.created_at),
                reservations::updated_at.eq(row.updated_at),
            ))
            .execute(conn)?;
        add_lines(conn, row)?;
    }
    for row in &changes.moved {
        diesel::update(reservations::table.find(row.order))
            .set((
                reservations::state.eq(word(row.state)),
                reservations::items_hash.eq(&row.items_hash),
                reservations::expires_at.eq(row.expires_at),
                reservations::updated_at.eq(row.updated_at),
            ))
            .execute(conn)?;
    }
    for order in &changes.freed {
        let lines = reservation_lines::table.filter(reservation_lines::reservation_id.eq(order));
        diesel::update(lines).set(reservation_lines::held_until.eq(None::<DateTime<Utc>>)).execute(conn)?;
    }
    for row in &changes.relined {
        let lines = reservation_lines::table.filter(reservation_lines::reservation_id.eq(row.order));
        diesel::delete(lines).execute(conn)?;
        add_lines(conn, row)?;
    }
    for (order, line) in &changes.returned {
        diesel::update(reservation_lines::table.find((*order, line.product, line.location)))
            .set(reservation_lines::returned.eq(line.returned))
            .execute(conn)?;
    }
    Ok(())
}

fn add_lines(conn: &mut SqliteConnection, row: &Reservation) -> QueryResult<()> {
    for line in &row.lines {
        diesel::insert_into(reservation_lines::table)
            .values((
                reservation_lines::reservation_id.eq(row.order),
                reservation_lines::product_id.eq(line.product),
                reservation_lines::location_id.eq(line.location),
                reservation_lines::quantity.eq(line.quantity),
                reservation_lines::returned.eq(line.returned),
                reservation_lines::held_until.eq(row.held_until()),
            ))
            .execute(conn)?;
    }
    Ok(())
}

fn add_entry(conn: &mut SqliteConnection, now: DateTime<Utc>, entry: &Entry) -> QueryResult<()> {
    let (request, item) = entry.request.as_ref().map(|(request, item)| (request, *item)).unzip();
    let movement = &entry.movement;
    diesel::insert_into(ledger::table)
        .values((
            ledger::id.eq(LedgerEntryId::new()),
            ledger::product_id.eq(movement.product),
            ledger::location_id.eq(movement.location),
            ledger::quantity.eq(movement.quantity),
            ledger::on_hand_after.eq(movement.on_hand_after),
            ledger::reason.eq(word(movement.reason)),
            ledger::reference.eq(&movement.reference),
            ledger::note.eq(&movement.note),
            ledger::actor.eq(&movement.actor),
            ledger::request.eq(request),
            ledger::item.eq(item.unwrap_or_default()),
            ledger::created_at.eq(now),
        ))
        .execute(conn)?;
    Ok(())
}
