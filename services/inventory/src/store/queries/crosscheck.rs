//! What `souk verify` compares with the orders: reservations as stored, in pages.

use std::collections::HashMap;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use souk_common::ids::OrderId;

use super::{
    super::{
        Conn,
        schema::{reservation_lines, reservations},
    },
    CHUNK,
};
use crate::{crosscheck::Reserved, error::Error};

/// The reservations of these orders that exist.
pub async fn reserved(conn: &mut Conn, orders: &[OrderId]) -> Result<HashMap<OrderId, Reserved>, Error> {
    let mut found = HashMap::new();
    for chunk in orders.chunks(CHUNK) {
        let states: Vec<(OrderId, String)> = reservations::table
            .filter(reservations::id.eq_any(chunk))
            .select((reservations::id, reservations::state))
            .load(conn)
            .await?;
        for (id, state) in states {
            found.insert(id, Reserved { state, pieces: 0, returned: 0 });
        }
        let lines: Vec<(OrderId, i64, i64)> = reservation_lines::table
            .filter(reservation_lines::reservation_id.eq_any(chunk))
            .select((reservation_lines::reservation_id, reservation_lines::quantity, reservation_lines::returned))
            .load(conn)
            .await?;
        for (id, quantity, returned) in lines {
            if let Some(reserved) = found.get_mut(&id) {
                reserved.pieces += quantity;
                reserved.returned += returned;
            }
        }
    }
    Ok(found)
}

/// Orders whose reservations are committed, in order of their ids.
pub async fn committed_after(conn: &mut Conn, after: Option<OrderId>, limit: i64) -> Result<Vec<OrderId>, Error> {
    let mut query = reservations::table
        .filter(reservations::state.eq("COMMITTED"))
        .select(reservations::id)
        .order(reservations::id)
        .limit(limit)
        .into_boxed();
    if let Some(after) = after {
        query = query.filter(reservations::id.gt(after));
    }
    Ok(query.load(conn).await?)
}
