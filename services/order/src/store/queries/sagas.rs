//! Sagas as operators see them: orders and adjustments alike.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use souk_common::{
    ids::{OrderId, ReturnId},
    page::filter::Op,
};

use super::{
    super::{
        Backend, Conn,
        schema::{orders, returns},
    },
    reading::compare,
    rows::step,
};
use crate::{
    domain::{Cause, State},
    store::{SagaCondition, SagaId, SagaQuery, SagaView, StoreError},
};

type OrderSaga = (
    OrderId,
    String,
    Option<String>,
    i32,
    Option<String>,
    Option<DateTime<Utc>>,
    Option<i64>,
    DateTime<Utc>,
    DateTime<Utc>,
);

const ORDER_SAGA: (
    orders::id,
    orders::state,
    orders::step,
    orders::attempts,
    orders::last_error,
    orders::due_at,
    orders::lease,
    orders::created_at,
    orders::updated_at,
) = (
    orders::id,
    orders::state,
    orders::step,
    orders::attempts,
    orders::last_error,
    orders::due_at,
    orders::lease,
    orders::created_at,
    orders::updated_at,
);

/// The same of an adjustment, with what it is for and of which order.
type AdjustmentSaga = (
    (ReturnId, OrderId, String, String),
    Option<String>,
    i32,
    Option<String>,
    Option<DateTime<Utc>>,
    Option<i64>,
    DateTime<Utc>,
    DateTime<Utc>,
);

/// A page of sagas that are not done, oldest first.
pub(in crate::store) async fn list_sagas(
    conn: &mut Conn,
    query: &SagaQuery,
    now: DateTime<Utc>,
) -> Result<Vec<SagaView>, StoreError> {
    /// Narrows one of the two tables.
    macro_rules! page {
        ($table:ident, $id:ident) => {{
            let mut rows = $table::table.filter($table::due_at.is_not_null()).into_boxed::<Backend>();
            for condition in &query.conditions {
                rows = match condition {
                    SagaCondition::Attempts(op, value) => compare!(rows, $table::attempts, op, value),
                    SagaCondition::CreateTime(op, time) => compare!(rows, $table::created_at, op, time),
                    SagaCondition::UpdateTime(op, time) => compare!(rows, $table::updated_at, op, time),
                };
            }
            if let Some((time, id)) = query.after {
                let same = $table::created_at.eq(time).and($table::id.gt($id::from_uuid(id)));
                rows = rows.filter($table::created_at.gt(time).or(same));
            }
            rows.order(($table::created_at, $table::id)).limit(query.limit)
        }};
    }
    let found: Vec<OrderSaga> = page!(orders, OrderId).select(ORDER_SAGA).load(conn).await?;
    let mut sagas = found.into_iter().map(|row| order_saga(row, now)).collect::<Result<Vec<_>, _>>()?;
    let found: Vec<AdjustmentSaga> = page!(returns, ReturnId)
        .select((
            (returns::id, returns::order_id, returns::cause, returns::state),
            returns::step,
            returns::attempts,
            returns::last_error,
            returns::due_at,
            returns::lease,
            returns::created_at,
            returns::updated_at,
        ))
        .load(conn)
        .await?;
    for row in found {
        sagas.push(adjustment_saga(row, now)?);
    }
    sagas.sort_by_key(|saga| (saga.created, saga.id.uuid()));
    sagas.truncate(usize::try_from(query.limit).unwrap_or(usize::MAX));
    Ok(sagas)
}

/// A saga, done or not.
pub(in crate::store) async fn find_saga(
    conn: &mut Conn,
    id: SagaId,
    now: DateTime<Utc>,
) -> Result<Option<SagaView>, StoreError> {
    match id {
        SagaId::Order(id) => {
            let row: Option<OrderSaga> = orders::table.find(id).select(ORDER_SAGA).first(conn).await.optional()?;
            row.map(|row| order_saga(row, now)).transpose()
        }
        SagaId::Adjustment(id) => {
            let row: Option<AdjustmentSaga> = returns::table
                .find(id)
                .select((
                    (returns::id, returns::order_id, returns::cause, returns::state),
                    returns::step,
                    returns::attempts,
                    returns::last_error,
                    returns::due_at,
                    returns::lease,
                    returns::created_at,
                    returns::updated_at,
                ))
                .first(conn)
                .await
                .optional()?;
            row.map(|row| adjustment_saga(row, now)).transpose()
        }
    }
}

/// Makes the next try of a saga due, that nobody runs.
pub(in crate::store) async fn make_due(conn: &mut Conn, id: SagaId, now: DateTime<Utc>) -> Result<(), StoreError> {
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

fn order_saga(
    (id, state, next, attempts, last_error, due, lease, created, updated): OrderSaga,
    now: DateTime<Utc>,
) -> Result<SagaView, StoreError> {
    Ok(SagaView {
        id: SagaId::Order(id),
        order: id,
        state: State::from_code(&state)?,
        step: step(next.as_deref())?,
        attempts,
        last_error,
        due,
        running: lease.is_some() && due.is_some_and(|due| due > now),
        created,
        updated,
    })
}

fn adjustment_saga(
    ((id, order, cause, state), next, attempts, last_error, due, lease, created, updated): AdjustmentSaga,
    now: DateTime<Utc>,
) -> Result<SagaView, StoreError> {
    let step = step(next.as_deref())?;
    Ok(SagaView {
        id: SagaId::Adjustment(id),
        order,
        state: if step.is_some() { Cause::from_code(&cause)?.running() } else { State::from_code(&state)? },
        step,
        attempts,
        last_error,
        due,
        running: lease.is_some() && due.is_some_and(|due| due > now),
        created,
        updated,
    })
}
