//! The SQL of `souk verify`, compiled for each engine: it finds broken promises.

use std::collections::HashSet;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use diesel_async::RunQueryDsl;
use souk_common::ids::OrderId;
use souk_store::verify::{Check, LIMIT};

use super::super::{
    Conn, Id, NIL, ORDER_KEY, ORDER_OF_PAYMENT,
    schema::{order_lines, orders},
};
use crate::{
    domain::State,
    error::Error,
    store::verify::{Promise, SoldOrder},
};

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    counted: i64,
}

#[derive(QueryableByName)]
struct Broken {
    #[diesel(sql_type = Id)]
    id: OrderId,
    #[diesel(sql_type = Text)]
    why: String,
}

/// Counts the rows that a promise covers, and finds its violations.
pub(in crate::store) async fn check_promise(conn: &mut Conn, promise: &Promise) -> Result<Check, Error> {
    let count = format!("SELECT count(*) AS counted FROM {}", promise.counted);
    let counted: Count = diesel::sql_query(count).get_result(conn).await?;
    let rows: Vec<Broken> = diesel::sql_query(broken(promise)).load(conn).await?;
    Ok(Check {
        name: promise.name,
        counted: counted.counted,
        broken: rows.into_iter().map(|row| format!("{}: {}", row.id.name(), row.why)).collect(),
    })
}

/// The statement that finds violations of a promise. All its parts are constants of the program.
pub(in crate::store) fn broken(promise: &Promise) -> String {
    let parts = [("{key}", ORDER_KEY), ("{is_of}", ORDER_OF_PAYMENT), ("{nil}", NIL)];
    let filled = parts.iter().fold(promise.broken.to_owned(), |text, (name, part)| text.replace(name, part));
    format!("{filled} ORDER BY 1 LIMIT {LIMIT}")
}

/// A page of all orders by id, with the facts that their reservations must match.
pub(in crate::store) async fn sold_orders(
    conn: &mut Conn,
    after: OrderId,
    limit: i64,
) -> Result<Vec<SoldOrder>, Error> {
    let rows: Vec<(OrderId, String)> = orders::table
        .filter(orders::id.gt(after))
        .order(orders::id)
        .limit(limit)
        .select((orders::id, orders::state))
        .load(conn)
        .await?;
    // A separate query: as a part of the statement above, PostgreSQL would search the lines of all orders.
    let tracked: HashSet<OrderId> = order_lines::table
        .filter(order_lines::order_id.eq_any(rows.iter().map(|(id, _)| *id)))
        .filter(order_lines::tracked.eq(true))
        .select(order_lines::order_id)
        .load(conn)
        .await?
        .into_iter()
        .collect();
    rows.into_iter()
        .map(|(id, state)| Ok(SoldOrder { id, state: State::from_code(&state)?, tracked: tracked.contains(&id) }))
        .collect()
}

/// The given ids for which an order exists.
pub(in crate::store) async fn known_orders(conn: &mut Conn, ids: &[OrderId]) -> Result<Vec<OrderId>, Error> {
    Ok(orders::table.filter(orders::id.eq_any(ids)).select(orders::id).load(conn).await?)
}
