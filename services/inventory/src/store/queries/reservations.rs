//! Reservations and their lines.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::{dsl::sql, prelude::*, sql_types::Bool};
use diesel_async::RunQueryDsl;
use souk_common::ids::{LocationId, OrderId, ProductId};
use souk_store::db::Keep as _;

use super::{
    super::{
        Any, Conn, clock, padded,
        schema::{reservation_lines, reservations},
    },
    CHUNK,
};
use crate::{
    domain::reservation::{Line, Reservation, State},
    error::Error,
    store::{
        codes::{value, word},
        verify::Reserved,
    },
};

/// A reservation without its lines.
#[derive(Queryable, Selectable)]
#[diesel(table_name = reservations)]
pub struct ReservationRow {
    id: OrderId,
    state: String,
    items_hash: Vec<u8>,
    expires_at: DateTime<Utc>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl ReservationRow {
    fn with(self, lines: Vec<Line>) -> Result<Reservation, Error> {
        Ok(Reservation {
            order: self.id,
            state: value(&self.state)?,
            items_hash: self.items_hash,
            lines,
            expires_at: self.expires_at,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}

/// One reservation. Its state takes account of the current time. Call it within one snapshot.
pub async fn get(conn: &mut Conn, order: OrderId) -> Result<Option<Reservation>, Error> {
    let row: Option<ReservationRow> =
        reservations::table.find(order).select(ReservationRow::as_select()).first(conn).await.optional()?;
    let Some(row) = row else { return Ok(None) };
    let now = clock(conn).await?;
    let lines = lines(conn, &[order]).await?;
    let mut found = with_lines(vec![row], lines)?;
    for reservation in &mut found {
        if reservation.has_lapsed(now) {
            reservation.state = State::Expired;
        }
    }
    Ok(found.pop())
}

/// The lines of each of these orders' reservations, by product and location.
pub type Lines = HashMap<OrderId, Vec<Line>>;

/// The lines of reservations.
pub async fn lines(conn: &mut impl Any, orders: &[OrderId]) -> Result<Lines, Error> {
    let mut lines = Lines::new();
    for chunk in orders.chunks(CHUNK) {
        let found: Vec<(OrderId, ProductId, LocationId, i64, i64)> = reservation_lines::table
            .filter(reservation_lines::reservation_id.eq_any(padded(chunk)))
            .order((reservation_lines::reservation_id, reservation_lines::product_id, reservation_lines::location_id))
            .select((
                reservation_lines::reservation_id,
                reservation_lines::product_id,
                reservation_lines::location_id,
                reservation_lines::quantity,
                reservation_lines::returned,
            ))
            .kept()
            .load(conn)
            .await?;
        for (order, product, location, quantity, returned) in found {
            lines.entry(order).or_default().push(Line { product, location, quantity, returned });
        }
    }
    Ok(lines)
}

/// Combines reservations with their lines.
pub fn with_lines(rows: Vec<ReservationRow>, mut lines: Lines) -> Result<Vec<Reservation>, Error> {
    rows.into_iter()
        .map(|row| {
            let lines = lines.remove(&row.id).unwrap_or_default();
            row.with(lines)
        })
        .collect()
}

/// Locks reservations, in key order.
pub async fn lock(conn: &mut impl Any, orders: &[OrderId]) -> Result<Vec<ReservationRow>, Error> {
    let mut rows = Vec::new();
    for chunk in orders.chunks(CHUNK) {
        let part = reservations::table
            .filter(reservations::id.eq_any(padded(chunk)))
            .order(reservations::id)
            .select(ReservationRow::as_select());
        rows.extend(locked!(part).kept().load(conn).await?);
    }
    Ok(rows)
}

/// Orders whose reservations have expired, the oldest first.
pub async fn lapsed(conn: &mut Conn, limit: i64) -> Result<Vec<OrderId>, Error> {
    let now = clock(conn).await?;
    let orders = reservations::table
        // Written as in the index's condition, so that the planner uses the index.
        .filter(sql::<Bool>("state = 'OPEN'"))
        .filter(reservations::expires_at.le(now))
        .order(reservations::expires_at)
        .limit(limit)
        .select(reservations::id);
    Ok(orders.load(conn).await?)
}

/// The products in these orders' reservations.
pub async fn products_of(conn: &mut impl Any, orders: &[OrderId]) -> Result<Vec<ProductId>, Error> {
    let mut products = Vec::new();
    for chunk in orders.chunks(CHUNK) {
        let found = reservation_lines::table
            .filter(reservation_lines::reservation_id.eq_any(padded(chunk)))
            .select(reservation_lines::product_id)
            .distinct();
        products.extend(found.kept().load::<ProductId>(conn).await?);
    }
    Ok(products)
}

/// The orders whose expired reservations still have lines of these products.
pub async fn lapsed_of(conn: &mut impl Any, products: &[ProductId], now: DateTime<Utc>) -> Result<Vec<OrderId>, Error> {
    let mut orders = Vec::new();
    for chunk in products.chunks(CHUNK) {
        let found = reservation_lines::table
            .filter(reservation_lines::product_id.eq_any(padded(chunk)))
            .filter(reservation_lines::held_until.le(now))
            .select(reservation_lines::reservation_id)
            .distinct();
        orders.extend(found.kept().load::<OrderId>(conn).await?);
    }
    Ok(orders)
}

/// The reservations of these orders that exist, as stored.
pub async fn reserved(conn: &mut Conn, orders: &[OrderId]) -> Result<HashMap<OrderId, Reserved>, Error> {
    let mut lines = lines(conn, orders).await?;
    let mut found = HashMap::new();
    for chunk in orders.chunks(CHUNK) {
        let states: Vec<(OrderId, String)> = reservations::table
            .filter(reservations::id.eq_any(padded(chunk)))
            .select((reservations::id, reservations::state))
            .kept()
            .load(conn)
            .await?;
        for (id, state) in states {
            let lines = lines.remove(&id).unwrap_or_default();
            let (pieces, returned) = (lines.iter().map(|line| line.quantity), lines.iter().map(|line| line.returned));
            found.insert(id, Reserved { state, pieces: pieces.sum(), returned: returned.sum() });
        }
    }
    Ok(found)
}

/// Orders whose reservations are committed, in order of their ids.
pub async fn committed_after(conn: &mut Conn, after: Option<OrderId>, limit: i64) -> Result<Vec<OrderId>, Error> {
    let mut query = reservations::table
        .filter(reservations::state.eq(word(State::Committed)))
        .select(reservations::id)
        .order(reservations::id)
        .limit(limit)
        .into_boxed();
    if let Some(after) = after {
        query = query.filter(reservations::id.gt(after));
    }
    Ok(query.load(conn).await?)
}
