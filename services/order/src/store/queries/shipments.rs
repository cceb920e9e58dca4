//! Shipments.

use std::collections::HashMap;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use souk_common::ids::{OrderId, ShipmentId};

use super::{
    super::{
        self as engine, Backend, Conn,
        schema::{shipment_lines, shipments as table},
    },
    rows::{ShipmentLineRow, ShipmentRow, read_shipment, shipment_row},
};
use crate::{
    domain::{Pieces, Shipment},
    error::Error,
    store::Which,
};

/// Adds a shipment with its lines.
pub(in crate::store) async fn insert_shipment(conn: &mut Conn, shipment: &Shipment) -> Result<(), Error> {
    diesel::insert_into(table::table).values(shipment_row(shipment)).execute(conn).await?;
    let lines = shipment.lines.iter().map(|line| ShipmentLineRow {
        shipment_id: shipment.id,
        line_number: line.number,
        quantity: line.quantity,
    });
    engine::insert_shipment_lines(conn, lines.collect()).await?;
    Ok(())
}

/// Shipments of an order, oldest first.
pub(in crate::store) async fn shipments(conn: &mut Conn, order: OrderId, which: Which) -> Result<Vec<Shipment>, Error> {
    let rows = table::table.filter(table::order_id.eq(order)).order(table::id).into_boxed::<Backend>();
    let rows = match which {
        Which::One(id) => rows.filter(table::id.eq(id)),
        Which::Page(None, limit) => rows.limit(limit),
        Which::Page(Some(after), limit) => rows.filter(table::id.gt(after)).limit(limit),
    };
    let rows: Vec<ShipmentRow> = rows.select(ShipmentRow::as_select()).load(conn).await?;
    let ids: Vec<ShipmentId> = rows.iter().map(|row| row.id).collect();
    let lines = shipment_lines::table
        .filter(shipment_lines::shipment_id.eq_any(ids))
        .order((shipment_lines::shipment_id, shipment_lines::line_number))
        .select(ShipmentLineRow::as_select())
        .load(conn)
        .await?;
    let mut by_id = HashMap::<ShipmentId, Vec<Pieces>>::new();
    for line in lines {
        let pieces = Pieces { number: line.line_number, quantity: line.quantity };
        by_id.entry(line.shipment_id).or_default().push(pieces);
    }
    let with_lines = |row: ShipmentRow| {
        let lines = by_id.remove(&row.id).unwrap_or_default();
        Shipment { lines, ..read_shipment(row) }
    };
    Ok(rows.into_iter().map(with_lines).collect())
}
