//! Sagas: their leases, their data for operators, and steps that were settled manually. Sagas of orders and of
//! adjustments share this code.

use chrono::{DateTime, Utc};
use diesel::{dsl::sql, prelude::*, sql_types::Bool};
use diesel_async::RunQueryDsl;
use souk_common::{
    ids::{OrderId, ReturnId},
    page::{self, Scan, filter::Op},
};

use super::{
    super::{
        self as engine, Backend, Conn, claimable,
        schema::{orders, returns},
    },
    adjustments::find_adjustment,
    batch::Batch,
    orders::{NOT_CONFIRMED, compare, with_lines},
    rows::{OrderRow, step},
};
use crate::{
    domain::{Cause, Order, Saga, State, Step},
    error::Error,
    store::{Lease, Release, SagaCondition, SagaId, SagaKey, SagaQuery, SagaView},
};

/// Releases a lease and makes the saga due at `due`. Only the holder can do this.
pub(in crate::store) async fn release(
    conn: &mut Conn,
    saga: &Saga,
    Release { held, due, attempts, error }: Release<'_>,
) -> Result<(), Error> {
    match saga {
        Saga::Order(order) => {
            let row = orders::table.find(order.id).filter(orders::lease.eq(held));
            diesel::update(row)
                .set((
                    orders::lease.eq(None::<i64>),
                    orders::due_at.eq(due),
                    orders::attempts.eq(attempts),
                    orders::last_error.eq(error),
                ))
                .execute(conn)
                .await?
        }
        Saga::Adjustment(adjustment) => {
            let row = returns::table.find(adjustment.id).filter(returns::lease.eq(held));
            diesel::update(row)
                .set((
                    returns::lease.eq(None::<i64>),
                    returns::due_at.eq(due),
                    returns::attempts.eq(attempts),
                    returns::last_error.eq(error),
                ))
                .execute(conn)
                .await?
        }
    };
    Ok(())
}

/// True if a runner holds the lease of the order's saga.
pub(in crate::store) async fn is_leased(conn: &mut Conn, id: OrderId, now: DateTime<Utc>) -> Result<bool, Error> {
    let running = orders::table.find(id).filter(orders::lease.is_not_null()).filter(orders::due_at.gt(now));
    Ok(diesel::select(diesel::dsl::exists(running)).get_result(conn).await?)
}

/// True if any saga is due.
pub(in crate::store) async fn is_any_due(conn: &mut Conn, now: DateTime<Utc>) -> Result<bool, Error> {
    let orders: bool =
        diesel::select(diesel::dsl::exists(orders::table.filter(orders::due_at.le(now)))).get_result(conn).await?;
    let returns: bool =
        diesel::select(diesel::dsl::exists(returns::table.filter(returns::due_at.le(now)))).get_result(conn).await?;
    Ok(orders || returns)
}

/// Takes over due sagas, orders before adjustments.
pub(in crate::store) async fn claim(
    conn: &mut Conn,
    now: DateTime<Utc>,
    lease: Lease,
    limit: i64,
) -> Result<Vec<Saga>, Error> {
    let due = orders::table.filter(orders::due_at.le(now)).order(orders::due_at).limit(limit).select(orders::id);
    let ids: Vec<OrderId> = claimable!(due).load(conn).await?;
    let mut sagas = Vec::new();
    if !ids.is_empty() {
        diesel::update(orders::table.filter(orders::id.eq_any(ids.clone())))
            .set((orders::lease.eq(lease.id), orders::due_at.eq(lease.until)))
            .execute(conn)
            .await?;
        let rows = orders::table.filter(orders::id.eq_any(ids)).select(OrderRow::as_select()).load(conn).await?;
        let orders = with_lines(conn, rows).await?;
        sagas.extend(orders.into_iter().map(|order| Saga::Order(Box::new(order))));
    }
    let left = limit - i64::try_from(sagas.len()).unwrap_or(limit);
    let due = returns::table.filter(returns::due_at.le(now)).order(returns::due_at).limit(left).select(returns::id);
    let ids: Vec<ReturnId> = claimable!(due).load(conn).await?;
    for id in ids {
        diesel::update(returns::table.find(id))
            .set((returns::lease.eq(lease.id), returns::due_at.eq(lease.until)))
            .execute(conn)
            .await?;
        if let Some(adjustment) = find_adjustment(conn, id).await? {
            sagas.push(Saga::Adjustment(Box::new(adjustment)));
        }
    }
    Ok(sagas)
}

/// Makes the next try of a waiting order due now. A running saga is not affected.
pub(in crate::store) async fn wake(conn: &mut Conn, id: OrderId, now: DateTime<Utc>) -> Result<(), Error> {
    let waiting = orders::table.find(id).filter(orders::lease.is_null()).filter(orders::due_at.gt(now));
    diesel::update(waiting).set(orders::due_at.eq(now)).execute(conn).await?;
    Ok(())
}

/// The columns of `orders` that operators see.
#[derive(Queryable, Selectable)]
#[diesel(table_name = orders, check_for_backend(Backend))]
struct OrderSaga {
    id: OrderId,
    state: String,
    step: Option<String>,
    attempts: i32,
    last_error: Option<String>,
    due_at: Option<DateTime<Utc>>,
    lease: Option<i64>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// The columns of `returns` that operators see, with the cause and the order.
#[derive(Queryable, Selectable)]
#[diesel(table_name = returns, check_for_backend(Backend))]
struct AdjustmentSaga {
    id: ReturnId,
    order_id: OrderId,
    cause: String,
    state: String,
    step: Option<String>,
    attempts: i32,
    last_error: Option<String>,
    due_at: Option<DateTime<Utc>>,
    lease: Option<i64>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl OrderSaga {
    fn view(self, now: DateTime<Utc>) -> Result<SagaView, Error> {
        Ok(SagaView {
            id: SagaId::Order(self.id),
            order: self.id,
            state: State::from_code(&self.state)?,
            step: step(self.step.as_deref())?,
            attempts: self.attempts,
            last_error: self.last_error,
            due: self.due_at,
            running: self.lease.is_some() && self.due_at.is_some_and(|due| due > now),
            created: self.created_at,
            updated: self.updated_at,
        })
    }
}

impl AdjustmentSaga {
    fn view(self, now: DateTime<Utc>) -> Result<SagaView, Error> {
        let step = step(self.step.as_deref())?;
        Ok(SagaView {
            id: SagaId::Adjustment(self.id),
            order: self.order_id,
            state: if step.is_some() {
                Cause::from_code(&self.cause)?.running()
            } else {
                State::from_code(&self.state)?
            },
            step,
            attempts: self.attempts,
            last_error: self.last_error,
            due: self.due_at,
            running: self.lease.is_some() && self.due_at.is_some_and(|due| due > now),
            created: self.created_at,
            updated: self.updated_at,
        })
    }
}

/// A page of sagas that have not ended, oldest first. An index has those of orders in each state, and another one those of
/// adjustments. If a filter has other conditions, a limited number of sagas is read.
pub(in crate::store) async fn list_sagas(
    conn: &mut Conn,
    query: &SagaQuery,
    now: DateTime<Utc>,
) -> Result<Scan<SagaView, SagaKey>, Error> {
    /// The rows of a part, from where the page begins.
    macro_rules! rows {
        ($table:ident, $id:ident, $within:expr) => {{
            let mut rows = $table::table.filter($within).into_boxed::<Backend>();
            if let Some((time, id)) = query.after {
                // The first condition finds the place in the index, the second one the place among equal times.
                let further = $table::created_at.gt(time).or($table::id.gt($id::from_uuid(id)));
                rows = rows.filter($table::created_at.ge(time)).filter(further);
            }
            rows
        }};
    }
    /// A page of a part of the list.
    macro_rules! part {
        ($table:ident, $id:ident, $view:ident, $within:expr) => {{
            let mut scan = Scan::all(Vec::new());
            for scanned in query.scans() {
                let mut end = None;
                if let Some(scanned) = scanned {
                    // Found before the page is read, so that the page also covers sagas that begin in between.
                    let mut rows = rows!($table, $id, $within).select(($table::created_at, $table::id));
                    for condition in &query.conditions {
                        if let SagaCondition::CreateTime(op, time) = condition
                            && *op != Op::NotEqual
                        {
                            rows = compare!(rows, $table::created_at, op, time);
                        }
                    }
                    let last = rows.order(($table::created_at, $table::id)).offset(scanned - 1).limit(1);
                    end = last.get_result::<(DateTime<Utc>, $id)>(conn).await.optional()?;
                }
                let mut rows = rows!($table, $id, $within);
                for condition in &query.conditions {
                    rows = match condition {
                        SagaCondition::Attempts(op, value) => compare!(rows, $table::attempts, op, value),
                        SagaCondition::CreateTime(op, time) => compare!(rows, $table::created_at, op, time),
                        SagaCondition::UpdateTime(op, time) => compare!(rows, $table::updated_at, op, time),
                    };
                }
                if let Some((time, id)) = end {
                    let up_to = $table::created_at.lt(time).or($table::id.le(id));
                    rows = rows.filter($table::created_at.le(time)).filter(up_to);
                }
                let page = rows.order(($table::created_at, $table::id)).limit(query.limit);
                let found = page.select($view::as_select()).load(conn).await?;
                let rows = found.into_iter().map(|row| row.view(now)).collect::<Result<Vec<_>, _>>()?;
                scan = Scan { rows, end: end.map(|(time, id)| (time, id.uuid())) };
                if scan.is_enough(query.limit) {
                    break;
                }
            }
            scan
        }};
    }
    let mut parts = Vec::new();
    for state in [State::Pending, State::Cancelling] {
        let in_state = || sql::<Bool>(NOT_CONFIRMED).and(orders::state.eq(state.code()));
        parts.push(part!(orders, OrderId, OrderSaga, in_state()));
    }
    // Written as in the index's condition, so that the planner uses the index.
    parts.push(part!(returns, ReturnId, AdjustmentSaga, sql::<Bool>("returns.state = 'RETURNING'")));
    Ok(page::merge(parts, query.limit, false, SagaView::key))
}

/// A saga, ended or not.
pub(in crate::store) async fn find_saga(
    conn: &mut Conn,
    id: SagaId,
    now: DateTime<Utc>,
) -> Result<Option<SagaView>, Error> {
    match id {
        SagaId::Order(id) => {
            let row = orders::table.find(id).select(OrderSaga::as_select()).first(conn).await.optional()?;
            row.map(|row| row.view(now)).transpose()
        }
        SagaId::Adjustment(id) => {
            let row = returns::table.find(id).select(AdjustmentSaga::as_select()).first(conn).await.optional()?;
            row.map(|row| row.view(now)).transpose()
        }
    }
}

/// Makes the next try of a saga due now, if nobody runs it.
pub(in crate::store) async fn make_due(conn: &mut Conn, id: SagaId, now: DateTime<Utc>) -> Result<(), Error> {
    match id {
        SagaId::Order(id) => {
            let due = (orders::lease.eq(None::<i64>), orders::due_at.eq(now));
            diesel::update(orders::table.find(id)).set(due).execute(conn).await?
        }
        SagaId::Adjustment(id) => {
            let due = (returns::lease.eq(None::<i64>), returns::due_at.eq(now));
            diesel::update(returns::table.find(id)).set(due).execute(conn).await?
        }
    };
    Ok(())
}

/// Stores that an operator settled an order's payment, which no other step of the saga changes. If the request is final
/// now, also stores its response.
pub(in crate::store) async fn settle_manually(
    conn: &mut Conn,
    order: &Order,
    response: Option<Vec<u8>>,
) -> Result<(), Error> {
    let (settled, refunded) =
        order.payment.as_ref().map_or((false, 0), |payment| (payment.settled_manually, payment.refunded_manually));
    diesel::update(orders::table.find(order.id))
        .set((orders::payment_settled_manually.eq(settled), orders::refunded_manually_minor.eq(refunded)))
        .execute(conn)
        .await?;
    if let Some(response) = response {
        let mut batch = Batch::default();
        batch.answer(None, order.id, response);
        engine::write(conn, batch).await?;
    }
    Ok(())
}

/// Takes over an adjustment that is at this step. `false` if a runner holds its lease.
pub(in crate::store) async fn take_over(
    conn: &mut Conn,
    id: ReturnId,
    step: Step,
    lease: Lease,
    now: DateTime<Utc>,
) -> Result<bool, Error> {
    let free = returns::lease.is_null().or(returns::due_at.le(now));
    let row = returns::table.find(id).filter(returns::step.eq(step.code())).filter(free);
    let taken = (returns::lease.eq(lease.id), returns::due_at.eq(lease.until));
    Ok(diesel::update(row).set(taken).execute(conn).await? == 1)
}
