//! Orders with their lines and timelines.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::{
    dsl::sql,
    prelude::*,
    sql_types::{Bool, Untyped},
};
use diesel_async::RunQueryDsl;
use souk_common::{
    ids::{OrderId, UserId},
    page::{self, MAX_SCANNED, Scan, filter::Op},
};
use souk_store::db::{Keep as _, Within, beyond};

use super::{
    super::{
        self as engine, Backend, Conn, position,
        schema::{order_lines, orders, timeline_entries},
    },
    batch::Batch,
    idempotency::find_record,
    rows::{EntryRow, LineRow, OrderRow, OrderUpdate, read_order},
};
use crate::{
    domain::{Entry, Kind, Line, Order, State, Step},
    error::Error,
    store::{Begin, Condition, Key, Lease, OrderKey, Placing, Query, SavedStep, TimelineRow},
};

diesel::define_sql_function! {
    /// Converts text to lower case. For ASCII text, both engines give the same result.
    fn lower(text: diesel::sql_types::Nullable<diesel::sql_types::Text>) -> diesel::sql_types::Nullable<diesel::sql_types::Text>;
}

/// Adds a comparison of a column to a query.
macro_rules! compare {
    ($rows:expr, $column:expr, $op:expr, $value:expr) => {
        match $op {
            Op::Equal | Op::Contains => $rows.filter($column.eq($value)),
            Op::NotEqual => $rows.filter($column.ne($value)),
            Op::Less => $rows.filter($column.lt($value)),
            Op::LessOrEqual => $rows.filter($column.le($value)),
            Op::Greater => $rows.filter($column.gt($value)),
            Op::GreaterOrEqual => $rows.filter($column.ge($value)),
        }
    };
}

pub(super) use compare;

/// An order. If `owner` is given, the order must belong to this user.
pub(in crate::store) async fn order(
    conn: &mut Conn,
    id: OrderId,
    owner: Option<UserId>,
) -> Result<Option<Order>, Error> {
    let mut query = orders::table.find(id).into_boxed::<Backend>();
    if let Some(owner) = owner {
        query = query.filter(orders::customer_id.eq(owner));
    }
    let rows = query.select(OrderRow::as_select()).load(conn).await?;
    Ok(with_lines(conn, rows).await?.pop())
}

/// True if the order exists and, if `owner` is given, belongs to this user.
pub(in crate::store) async fn exists(conn: &mut Conn, id: OrderId, owner: Option<UserId>) -> Result<bool, Error> {
    let customer: Option<UserId> = orders::table.find(id).select(orders::customer_id).first(conn).await.optional()?;
    Ok(customer.is_some_and(|customer| owner.is_none_or(|owner| owner == customer)))
}

/// True if an order has this external id.
pub(in crate::store) async fn external_id_is_taken(conn: &mut Conn, id: &str) -> Result<bool, Error> {
    let taken = orders::table.filter(orders::external_id.eq(id));
    Ok(diesel::select(diesel::dsl::exists(taken)).get_result(conn).await?)
}

/// An order, locked until the transaction ends. If `owner` is given, the order must belong to this user.
pub(in crate::store) async fn order_to_change(
    conn: &mut Conn,
    id: OrderId,
    owner: Option<UserId>,
) -> Result<Option<Order>, Error> {
    engine::lock_order(conn, id).await?;
    order(conn, id, owner).await
}

/// An order for staff to change, locked until the transaction ends. Otherwise the result of the request: the order does
/// not exist, or the key is known.
pub(in crate::store) async fn order_to_change_once<T>(
    conn: &mut Conn,
    key: &Key,
    id: OrderId,
) -> Result<Result<Order, Begin<T>>, Error> {
    let Some(order) = order_to_change(conn, id, None).await? else {
        return Ok(Err(Begin::NotFound));
    };
    Ok(find_record(conn, key).await?.map_or(Ok(order), |record| Err(Begin::Known(record))))
}

/// True if an order is stored as it is here. The version alone is not enough: another runner may have stored it after
/// another answer.
pub(in crate::store) async fn is_at(conn: &mut Conn, order: &Order) -> Result<bool, Error> {
    let row = orders::table.find(order.id).filter(orders::version.eq(order.version));
    let row = row.select((orders::state, orders::step, orders::updated_at));
    let stored: Option<(String, Option<String>, DateTime<Utc>)> = row.first(conn).await.optional()?;
    Ok(stored.is_some_and(|(state, step, time)| {
        state == order.state.code() && step.as_deref() == order.step.map(Step::code) && time == order.update_time
    }))
}

/// A condition of the index of orders that are not confirmed, word for word, so that the planner uses the index.
pub(super) const NOT_CONFIRMED: &str = "orders.state <> 'CONFIRMED'";

/// A page of orders, newest first. If no index finds the matching orders, a limited number of orders is read.
pub(in crate::store) async fn list(conn: &mut Conn, query: &Query) -> Result<Scan<Order, OrderKey>, Error> {
    let Some(states) = query.rare_states() else { return list_in(conn, query, None).await };
    let mut parts = Vec::with_capacity(states.len());
    for state in states {
        parts.push(list_in(conn, query, Some(state)).await?);
    }
    Ok(page::merge(parts, query.limit, true, |order: &Order| (order.create_time, order.id)))
}

/// A page of orders in a rare state, or in any state.
async fn list_in(conn: &mut Conn, query: &Query, state: Option<State>) -> Result<Scan<Order, OrderKey>, Error> {
    let mut scan = Scan { rows: Vec::new(), end: None };
    if !query.scans(state) {
        scan.rows = read_page(conn, query, state, End::List).await?;
        return Ok(scan);
    }
    if engine::STOPS_EARLY {
        scan.rows = read_page(conn, query, state, End::Scanned(MAX_SCANNED)).await?;
        if scan.is_full(query.limit) {
            return Ok(scan);
        }
    }
    for scanned in page::scans(query.limit, engine::STOPS_EARLY) {
        // Found before the page is read, so that the page also covers orders that are inserted in between.
        scan.end = end_of_scan(conn, query, state, scanned).await?;
        scan.rows = read_page(conn, query, state, scan.end.map_or(End::List, End::At)).await?;
        if scan.is_enough(query.limit) {
            break;
        }
    }
    Ok(scan)
}

/// Where a page ends, if it is not full before.
enum End {
    /// At the end of the list.
    List,
    /// At the last one of so many scanned orders. The engine must stop early.
    Scanned(i64),
    /// At this order.
    At(OrderKey),
}

/// The orders to scan, newest first: all that an index finds.
macro_rules! scanned {
    ($query:expr, $state:expr, $select:expr) => {{
        let mut rows = orders::table.select($select).into_boxed::<Backend>();
        if let Some(state) = $state {
            rows = rows.filter(sql::<Bool>(NOT_CONFIRMED)).filter(orders::state.eq(state.code()));
        }
        if let Some(customer) = $query.customer {
            rows = rows.filter(orders::customer_id.eq(customer));
        }
        for condition in &$query.conditions {
            if let Condition::CreateTime(op, time) = condition
                && *op != Op::NotEqual
            {
                rows = compare!(rows, orders::created_at, op, time);
            }
        }
        if let Some(after) = $query.after {
            rows = rows.filter(beyond!(orders::created_at, orders::id, "<", after));
        }
        rows.order((orders::created_at.desc(), orders::id.desc()))
    }};
}

/// The orders of a page.
async fn read_page(conn: &mut Conn, query: &Query, state: Option<State>, end: End) -> Result<Vec<Order>, Error> {
    let mut rows = orders::table.select(OrderRow::as_select()).into_boxed::<Backend>();
    if let Some(state) = state {
        rows = rows.filter(sql::<Bool>(NOT_CONFIRMED)).filter(orders::state.eq(state.code()));
    }
    if let Some(customer) = query.customer {
        rows = rows.filter(orders::customer_id.eq(customer));
    }
    for condition in &query.conditions {
        rows = match condition {
            // The conditions on the state chose this one.
            Condition::State(..) if state.is_some() => rows,
            Condition::State(true, state) => rows.filter(orders::state.eq(state.code())),
            Condition::State(false, state) => rows.filter(orders::state.ne(state.code())),
            Condition::ExternalId(op, value) => {
                let (column, value) = (orders::external_id, value.as_str());
                match op {
                    Op::Contains => rows.filter(position(lower(column), value.to_ascii_lowercase()).gt(0)),
                    // An order without an external id counts as having another one.
                    Op::NotEqual => rows.filter(column.ne(value).or(column.is_null())),
                    _ => rows.filter(column.eq(value)),
                }
            }
            Condition::PlaceTime(op, time) => compare!(rows, orders::placed_at, op, time),
            Condition::CreateTime(op, time) => compare!(rows, orders::created_at, op, time),
        };
    }
    if let Some(after) = query.after {
        rows = rows.filter(beyond!(orders::created_at, orders::id, "<", after));
    }
    if let End::At(end) = end {
        rows = rows.filter(beyond!(orders::created_at, orders::id, ">=", end));
    }
    let statement = rows.order((orders::created_at.desc(), orders::id.desc())).limit(query.limit);
    let rows = match end {
        End::Scanned(rows) => {
            let rows = scanned!(query, state, sql::<Untyped>("orders.*")).limit(rows);
            Within { table: "orders", rows, statement }.varied().load(conn).await?
        }
        End::List | End::At(_) => statement.varied().load(conn).await?,
    };
    with_lines(conn, rows).await
}

/// The sort key of the last of so many scanned orders; `None` if the list ends before.
async fn end_of_scan(
    conn: &mut Conn,
    query: &Query,
    state: Option<State>,
    scanned: i64,
) -> Result<Option<OrderKey>, Error> {
    let last = scanned!(query, state, (orders::created_at, orders::id)).offset(scanned - 1).limit(1);
    Ok(last.varied().get_result(conn).await.optional()?)
}

/// A page of an order's timeline, oldest first. Includes internal entries if `internal` is true.
pub(in crate::store) async fn timeline(
    conn: &mut Conn,
    order: OrderId,
    internal: bool,
    after: i32,
    limit: i64,
) -> Result<Vec<TimelineRow>, Error> {
    let rows = timeline_entries::table
        .filter(timeline_entries::order_id.eq(order))
        .filter(timeline_entries::number.gt(after))
        .filter(timeline_entries::internal.eq(false).or(timeline_entries::internal.eq(internal)))
        .order(timeline_entries::number)
        .limit(limit)
        .select(EntryRow::as_select())
        .load(conn)
        .await?;
    rows.into_iter()
        .map(|row| {
            Ok(TimelineRow {
                number: row.number,
                entry: Entry {
                    kind: Kind::from_code(&row.kind)?,
                    actor: row.actor,
                    detail: row.detail,
                    internal: row.internal,
                },
                time: row.created_at,
            })
        })
        .collect()
}

/// Adds the lines to orders, with one query. Keeps the order of the rows.
pub(super) async fn with_lines(conn: &mut Conn, rows: Vec<OrderRow>) -> Result<Vec<Order>, Error> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<OrderId> = rows.iter().map(|row| row.id).collect();
    let lines = order_lines::table
        .filter(order_lines::order_id.eq_any(engine::padded(&ids)))
        .order((order_lines::order_id, order_lines::number))
        .select(LineRow::as_select())
        .kept()
        .load(conn)
        .await?;
    let mut by_order = HashMap::<OrderId, Vec<Line>>::new();
    for line in lines {
        by_order.entry(line.order_id).or_default().push(Line {
            number: line.number,
            product: line.product_id,
            sku: line.sku,
            title: line.title,
            quantity: line.quantity,
            unit_price: line.unit_price_minor,
            total: line.total_minor,
            returned: line.returned,
            returned_shipped: line.returned_shipped,
            cancelled: line.cancelled,
            shipped: line.shipped,
            tracked: line.tracked,
        });
    }
    rows.into_iter()
        .map(|row| {
            let lines = by_order.remove(&row.id).unwrap_or_default();
            read_order(row, lines)
        })
        .collect()
}

/// Records orders, and stores step results of other orders. Returns for each new order whether its key was new, and for
/// each step whether its order was unchanged and its lease still held. If not, nothing of that write took effect. On
/// PostgreSQL, all of this is one statement.
pub(in crate::store) async fn write(
    conn: &mut Conn,
    placings: &[&Placing],
    steps: &[&SavedStep],
) -> Result<(Vec<bool>, Vec<bool>), Error> {
    let mut batch = Batch::default();
    let placings = placings.iter().map(|placing| batch.place(placing)).collect::<Result<Vec<_>, _>>()?;
    let steps = steps.iter().map(|step| batch.save(step)).collect::<Result<Vec<_>, _>>()?;
    let done = engine::write(conn, batch).await?;
    let is_done = |nths: Vec<_>| nths.iter().map(|nth| done.contains(nth)).collect();
    Ok((is_done(placings), is_done(steps)))
}

/// Records timeline entries of an order, and their events.
pub(super) async fn record(conn: &mut Conn, order: &Order, entries: &[Entry]) -> Result<(), Error> {
    let mut batch = Batch::default();
    batch.record(None, order, entries);
    engine::write(conn, batch).await?;
    Ok(())
}

/// Updates an order that had this version, as [`write`] does for a whole batch.
pub(in crate::store) async fn update_order(
    conn: &mut Conn,
    order: &Order,
    version: i64,
    entries: &[Entry],
    lease: Lease,
) -> Result<bool, Error> {
    let mut batch = Batch::default();
    let nth = batch.change(OrderUpdate::new(order, version, None, lease)?);
    batch.record(Some(nth), order, entries);
    Ok(engine::write(conn, batch).await?.contains(&nth))
}
