//! The SQL of orders, written once and compiled for each engine.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use souk_common::{
    ids::{OrderId, ProductId, ReturnId, UserId},
    money::Currency,
    page::filter::{Op, like_pattern},
};

use super::schema::{idempotency_keys, order_lines, orders, return_lines, returns, timeline_entries};
use super::{Backend, Conn};
use crate::domain::{Entry, Kind, Line, Order, Payment, PaymentState, Return, ReturnLine, Saga, State, Step, Token};
use crate::store::{Condition, Key, Lease, Memory, Placing, Query, SavedStep, StoreError, TimelineRow};

diesel::define_sql_function! {
    /// In small letters; of an ASCII text the same on both engines.
    fn lower(text: diesel::sql_types::Nullable<diesel::sql_types::Text>) -> diesel::sql_types::Nullable<diesel::sql_types::Text>;
}

/// Compares a column that has an order.
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

/// A row of `orders`.
#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = orders, check_for_backend(Backend))]
pub(in crate::store) struct OrderRow {
    pub id: OrderId,
    pub customer_id: UserId,
    pub state: String,
    pub step: Option<String>,
    pub currency: Currency,
    pub total_minor: i64,
    pub refunded_minor: i64,
    pub shipping_address: serde_json::Value,
    pub external_id: Option<String>,
    pub rejection: Option<serde_json::Value>,
    pub payment_provider: Option<String>,
    pub payment_reference: Option<String>,
    pub payment_state: Option<String>,
    pub payment_token: Option<String>,
    pub placed_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub version: i64,
    pub entries: i32,
    pub pending_returns: i32,
    pub lease: Option<i64>,
    pub due_at: Option<DateTime<Utc>>,
    pub attempts: i32,
}

/// A row of `order_lines`.
#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = order_lines, check_for_backend(Backend))]
pub(in crate::store) struct LineRow {
    pub order_id: OrderId,
    pub number: i32,
    pub product_id: ProductId,
    pub sku: String,
    pub title: String,
    pub quantity: i64,
    pub unit_price_minor: i64,
    pub total_minor: i64,
    pub returned: i64,
    pub tracked: bool,
}

/// A row of `timeline_entries`.
#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = timeline_entries, check_for_backend(Backend))]
pub(in crate::store) struct EntryRow {
    pub order_id: OrderId,
    pub number: i32,
    pub kind: String,
    pub actor: String,
    pub detail: String,
    pub created_at: DateTime<Utc>,
}

/// A new row of `idempotency_keys`.
#[derive(Insertable)]
#[diesel(table_name = idempotency_keys)]
pub(in crate::store) struct KeyRow {
    pub caller: String,
    pub method: String,
    pub key: String,
    pub request_hash: Vec<u8>,
    pub order_id: OrderId,
    pub return_id: Option<ReturnId>,
    pub created_at: DateTime<Utc>,
}

impl KeyRow {
    fn new(key: &Key, order: OrderId, back: Option<ReturnId>, now: DateTime<Utc>) -> Self {
        Self {
            caller: key.caller.clone(),
            method: key.method.to_owned(),
            key: key.key.clone(),
            request_hash: key.request_hash.clone(),
            order_id: order,
            return_id: back,
            created_at: now,
        }
    }
}

/// A change of a row of `orders` that still has this version and, where it must, this lease.
pub(in crate::store) struct OrderUpdate {
    pub id: OrderId,
    pub version: i64,
    pub held: Option<i64>,
    pub values: OrderValues,
}

/// What may change of a row of `orders`. PostgreSQL reads a whole batch of them out of one document.
#[derive(AsChangeset, serde::Serialize)]
#[diesel(table_name = orders, treat_none_as_null = true)]
pub(in crate::store) struct OrderValues {
    pub state: &'static str,
    pub step: Option<&'static str>,
    pub refunded_minor: i64,
    pub rejection: Option<serde_json::Value>,
    pub payment_provider: Option<String>,
    pub payment_reference: Option<String>,
    pub payment_state: Option<&'static str>,
    pub payment_token: Option<String>,
    pub updated_at: DateTime<Utc>,
    pub version: i64,
    pub entries: i32,
    pub pending_returns: i32,
    pub lease: Option<i64>,
    pub due_at: Option<DateTime<Utc>>,
    pub attempts: i32,
    pub last_error: Option<&'static str>,
}

impl OrderUpdate {
    fn new(order: &Order, version: i64, held: Option<i64>, lease: Lease) -> Result<Self, StoreError> {
        let running = order.step.is_some();
        let payment = order.payment.as_ref();
        let values = OrderValues {
            state: order.state.code(),
            step: order.step.map(Step::code),
            refunded_minor: order.refunded,
            rejection: order.rejection.as_ref().map(serde_json::to_value).transpose()?,
            payment_provider: payment.map(|payment| payment.provider.clone()),
            payment_reference: payment.map(|payment| payment.reference.clone()),
            payment_state: payment.map(|payment| payment.state.code()),
            payment_token: order.payment_token.as_ref().map(|token| token.0.clone()),
            updated_at: order.update_time,
            version: order.version,
            entries: order.entries,
            pending_returns: order.pending_returns,
            lease: running.then_some(lease.id),
            due_at: running.then_some(lease.until),
            // A step forward: whatever went wrong before is over.
            attempts: 0,
            last_error: None,
        };
        Ok(Self { id: order.id, version, held, values })
    }
}

/// A row of `returns`.
#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = returns, check_for_backend(Backend))]
pub(in crate::store) struct ReturnRow {
    pub id: ReturnId,
    pub order_id: OrderId,
    pub state: String,
    pub step: Option<String>,
    pub refund_minor: i64,
    pub reason: String,
    pub returned_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub lease: Option<i64>,
    pub due_at: Option<DateTime<Utc>>,
    pub attempts: i32,
}

/// A row of `return_lines`.
#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = return_lines, check_for_backend(Backend))]
pub(in crate::store) struct ReturnLineRow {
    pub return_id: ReturnId,
    pub line_number: i32,
    pub quantity: i64,
}

/// What is remembered under a key.
pub(in crate::store) async fn recall(conn: &mut Conn, key: &Key) -> Result<Option<Memory>, StoreError> {
    type Found = (Vec<u8>, OrderId, Option<ReturnId>, Option<Vec<u8>>);
    let found: Option<Found> = idempotency_keys::table
        .find((&key.caller, key.method, &key.key))
        .select((
            idempotency_keys::request_hash,
            idempotency_keys::order_id,
            idempotency_keys::return_id,
            idempotency_keys::response,
        ))
        .first(conn)
        .await
        .optional()?;
    Ok(found.map(|(hash, order, back, response)| Memory {
        same_request: hash == key.request_hash,
        order,
        back,
        response,
    }))
}

/// Remembers keys, and says of which orders or returns: a key that is remembered already is left as it is.
async fn remember_all(conn: &mut Conn, rows: Vec<KeyRow>) -> Result<HashSet<OrderId>, StoreError> {
    Ok(super::insert_keys(conn, rows).await?.into_iter().collect())
}

/// Remembers a key. `false` where it is remembered already.
pub(in crate::store) async fn remember(
    conn: &mut Conn,
    key: &Key,
    (order, back): (OrderId, Option<ReturnId>),
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    Ok(remember_all(conn, vec![KeyRow::new(key, order, back, now)]).await?.contains(&order))
}

/// Stores the answer to the request that made a return, for those who ask again.
pub(in crate::store) async fn answer_return(conn: &mut Conn, back: &Return, response: &[u8]) -> Result<(), StoreError> {
    use idempotency_keys::dsl;
    let ours = dsl::idempotency_keys.filter(dsl::order_id.eq(back.order)).filter(dsl::return_id.eq(back.id));
    diesel::update(ours).set(dsl::response.eq(response)).execute(conn).await?;
    Ok(())
}

/// Forgets answered keys that are older than this.
pub(in crate::store) async fn forget(conn: &mut Conn, before: DateTime<Utc>) -> Result<usize, StoreError> {
    use idempotency_keys::dsl;
    let old = dsl::idempotency_keys.filter(dsl::created_at.lt(before)).filter(dsl::response.is_not_null());
    Ok(diesel::delete(old).execute(conn).await?)
}

/// Takes orders down, each with its key, lines and first entries. Where a key is remembered already, the order is
/// left out, and the answer is what is remembered.
pub(in crate::store) async fn place(conn: &mut Conn, placings: &[&Placing]) -> Result<Vec<Option<Memory>>, StoreError> {
    // The keys first: of several equal requests, they let one go on.
    let keys = placings.iter().map(|p| KeyRow::new(&p.key, p.order.id, None, p.order.create_time));
    let new = remember_all(conn, keys.collect()).await?;
    let mut known = Vec::with_capacity(placings.len());
    let (mut orders, mut lines, mut entries) = (Vec::new(), Vec::new(), Vec::new());
    for placing in placings {
        if !new.contains(&placing.order.id) {
            let memory = recall(conn, &placing.key).await?;
            known.push(Some(memory.ok_or_else(|| StoreError::Corrupt("a key that is and is not there".into()))?));
            continue;
        }
        known.push(None);
        orders.push(order_row(&placing.order, placing.lease)?);
        lines.extend(placing.order.lines.iter().map(|line| line_row(placing.order.id, line)));
        entries.extend(entry_rows(&placing.order, &placing.entries));
    }
    if !orders.is_empty() {
        super::insert_orders(conn, orders).await?;
        super::insert_lines(conn, lines).await?;
        super::insert_entries(conn, entries).await?;
    }
    Ok(known)
}

/// Stores how steps of orders ended. `false` for each whose order has moved on, or whose lease is someone else's by
/// now: nothing was written of it then.
pub(in crate::store) async fn save(conn: &mut Conn, steps: &[&SavedStep]) -> Result<Vec<bool>, StoreError> {
    let updates = steps.iter().map(|s| OrderUpdate::new(&s.order, s.version, Some(s.held), s.lease));
    let written = super::update_orders(conn, updates.collect::<Result<_, _>>()?).await?;
    let mut written: HashSet<OrderId> = written.into_iter().collect();
    // Should one batch hold two steps of one order, only one of them had the right version: the first.
    let saved: Vec<bool> = steps.iter().map(|step| written.remove(&step.order.id)).collect();
    let mut entries = Vec::new();
    for (step, saved) in steps.iter().zip(&saved) {
        if *saved {
            entries.extend(entry_rows(&step.order, &step.entries));
            after_update(conn, &step.order).await?;
        }
    }
    super::insert_entries(conn, entries).await?;
    let saved_steps = steps.iter().zip(&saved).filter(|(_, saved)| **saved);
    let answers = saved_steps.filter_map(|(step, _)| Some((step.order.id, step.response.clone()?)));
    super::answer_all(conn, answers.collect()).await?;
    Ok(saved)
}

/// Writes what changed of an order that had this version, as [`save`] does for a whole batch.
pub(in crate::store) async fn update_order(
    conn: &mut Conn,
    order: &Order,
    version: i64,
    entries: &[Entry],
    lease: Lease,
) -> Result<bool, StoreError> {
    let update = OrderUpdate::new(order, version, None, lease)?;
    if super::update_orders(conn, vec![update]).await?.is_empty() {
        return Ok(false);
    }
    after_update(conn, order).await?;
    super::insert_entries(conn, entry_rows(order, entries).collect()).await?;
    Ok(true)
}

/// What changes beside an order's own row.
async fn after_update(conn: &mut Conn, order: &Order) -> Result<(), StoreError> {
    if order.state == State::Cancelled {
        diesel::update(order_lines::table.filter(order_lines::order_id.eq(order.id)))
            .set(order_lines::returned.eq(order_lines::quantity))
            .execute(conn)
            .await?;
    }
    Ok(())
}

fn order_row(order: &Order, lease: Lease) -> Result<OrderRow, StoreError> {
    let payment = order.payment.as_ref();
    Ok(OrderRow {
        id: order.id,
        customer_id: order.customer,
        state: order.state.code().to_owned(),
        step: order.step.map(|step| step.code().to_owned()),
        currency: order.currency,
        total_minor: order.total,
        refunded_minor: order.refunded,
        shipping_address: serde_json::to_value(&order.address)?,
        external_id: order.external_id.clone(),
        rejection: order.rejection.as_ref().map(serde_json::to_value).transpose()?,
        payment_provider: payment.map(|payment| payment.provider.clone()),
        payment_reference: payment.map(|payment| payment.reference.clone()),
        payment_state: payment.map(|payment| payment.state.code().to_owned()),
        payment_token: order.payment_token.as_ref().map(|token| token.0.clone()),
        placed_at: order.place_time,
        created_at: order.create_time,
        updated_at: order.update_time,
        version: order.version,
        entries: order.entries,
        pending_returns: order.pending_returns,
        lease: Some(lease.id),
        due_at: Some(lease.until),
        attempts: order.attempts,
    })
}

fn line_row(order: OrderId, line: &Line) -> LineRow {
    LineRow {
        order_id: order,
        number: line.number,
        product_id: line.product,
        sku: line.sku.clone(),
        title: line.title.clone(),
        quantity: line.quantity,
        unit_price_minor: line.unit_price,
        total_minor: line.total,
        returned: line.returned,
        tracked: line.tracked,
    }
}

/// New entries of an order's timeline, the last of which has the number that the order counts.
fn entry_rows<'a>(order: &'a Order, entries: &'a [Entry]) -> impl Iterator<Item = EntryRow> + 'a {
    let first = order.entries - i32::try_from(entries.len()).unwrap_or(0) + 1;
    entries.iter().zip(first..).map(|(entry, number)| EntryRow {
        order_id: order.id,
        number,
        kind: entry.kind.code().to_owned(),
        actor: entry.actor.clone(),
        detail: entry.detail.clone(),
        created_at: order.update_time,
    })
}

/// Writes how many pieces of each line have come back.
pub(in crate::store) async fn update_returned(
    conn: &mut Conn,
    order: &Order,
    numbers: &[i32],
) -> Result<(), StoreError> {
    for &number in numbers {
        let line = order.lines.iter().find(|line| line.number == number);
        diesel::update(order_lines::table.find((order.id, number)))
            .set(order_lines::returned.eq(line.map_or(0, |line| line.returned)))
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// Adds a return with its lines.
pub(in crate::store) async fn insert_return(conn: &mut Conn, back: &Return, lease: Lease) -> Result<(), StoreError> {
    let running = back.step.is_some();
    let row = ReturnRow {
        id: back.id,
        order_id: back.order,
        state: back.state.code().to_owned(),
        step: back.step.map(|step| step.code().to_owned()),
        refund_minor: back.refund.minor,
        reason: back.reason.clone(),
        returned_at: back.return_time,
        created_at: back.create_time,
        updated_at: back.create_time,
        lease: running.then_some(lease.id),
        due_at: running.then_some(lease.until),
        attempts: back.attempts,
    };
    diesel::insert_into(returns::table).values(row).execute(conn).await?;
    let lines = back.lines.iter().map(|line| ReturnLineRow {
        return_id: back.id,
        line_number: line.number,
        quantity: line.quantity,
    });
    super::insert_return_lines(conn, lines.collect()).await?;
    Ok(())
}

/// Writes what changed of a return that was at this step, and of its order. `false` as in [`update_order`].
pub(in crate::store) async fn update_return(
    conn: &mut Conn,
    back: &Return,
    step: Option<Step>,
    held: i64,
    entries: &[Entry],
    (lease, now): (Lease, DateTime<Utc>),
) -> Result<bool, StoreError> {
    let running = back.step.is_some();
    // The order first, as whoever takes a return down does.
    super::lock_order(conn, back.order).await?;
    let row = returns::table
        .find(back.id)
        .filter(returns::lease.eq(held))
        .filter(returns::step.eq(step.map(|step| step.code())));
    let written = diesel::update(row)
        .set((
            returns::state.eq(back.state.code()),
            returns::step.eq(back.step.map(|step| step.code())),
            returns::updated_at.eq(now),
            returns::lease.eq(running.then_some(lease.id)),
            returns::due_at.eq(running.then_some(lease.until)),
            returns::attempts.eq(0),
            returns::last_error.eq(None::<&str>),
        ))
        .execute(conn)
        .await?;
    if written == 0 {
        return Ok(false);
    }
    let Some(mut order) = order(conn, back.order, None).await? else {
        return Err(StoreError::Corrupt("a return without its order".into()));
    };
    let version = order.version;
    order.take_return(back, entries.len(), now);
    write_return_effects(conn, &order, version, entries).await?;
    Ok(true)
}

/// Of an order that had this version, and that this transaction has locked, what its returns change.
pub(in crate::store) async fn write_return_effects(
    conn: &mut Conn,
    order: &Order,
    version: i64,
    entries: &[Entry],
) -> Result<(), StoreError> {
    let written = diesel::update(orders::table.find(order.id).filter(orders::version.eq(version)))
        .set((
            orders::refunded_minor.eq(order.refunded),
            orders::payment_state.eq(order.payment.as_ref().map(|payment| payment.state.code())),
            orders::updated_at.eq(order.update_time),
            orders::version.eq(order.version),
            orders::entries.eq(order.entries),
            orders::pending_returns.eq(order.pending_returns),
        ))
        .execute(conn)
        .await?;
    if written == 0 {
        return Err(StoreError::Corrupt("a locked order that changed".into()));
    }
    super::insert_entries(conn, entry_rows(order, entries).collect()).await?;
    Ok(())
}

/// Gives a lease up until `due`. Only whoever holds it can.
pub(in crate::store) async fn release(
    conn: &mut Conn,
    saga: &Saga,
    held: i64,
    due: DateTime<Utc>,
    (attempts, error): (i32, &str),
) -> Result<(), StoreError> {
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
        Saga::Return(back) => {
            let row = returns::table.find(back.id).filter(returns::lease.eq(held));
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

/// Whether the time of any saga has come.
pub(in crate::store) async fn is_any_due(conn: &mut Conn, now: DateTime<Utc>) -> Result<bool, StoreError> {
    let orders: bool =
        diesel::select(diesel::dsl::exists(orders::table.filter(orders::due_at.le(now)))).get_result(conn).await?;
    let returns: bool =
        diesel::select(diesel::dsl::exists(returns::table.filter(returns::due_at.le(now)))).get_result(conn).await?;
    Ok(orders || returns)
}

/// Takes over sagas that nobody has run since they were due, orders before returns.
pub(in crate::store) async fn claim(
    conn: &mut Conn,
    now: DateTime<Utc>,
    lease: Lease,
    limit: i64,
) -> Result<Vec<Saga>, StoreError> {
    let due = orders::table.filter(orders::due_at.le(now)).order(orders::due_at).limit(limit).select(orders::id);
    let ids: Vec<OrderId> = super::claimable!(due).load(conn).await?;
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
    let ids: Vec<ReturnId> = super::claimable!(due).load(conn).await?;
    for id in ids {
        diesel::update(returns::table.find(id))
            .set((returns::lease.eq(lease.id), returns::due_at.eq(lease.until)))
            .execute(conn)
            .await?;
        if let Some(back) = find_return(conn, id).await? {
            sagas.push(Saga::Return(Box::new(back)));
        }
    }
    Ok(sagas)
}

/// An order; where `owner` is given, only if it is theirs.
pub(in crate::store) async fn order(
    conn: &mut Conn,
    id: OrderId,
    owner: Option<UserId>,
) -> Result<Option<Order>, StoreError> {
    let mut query = orders::table.find(id).into_boxed::<Backend>();
    if let Some(owner) = owner {
        query = query.filter(orders::customer_id.eq(owner));
    }
    let rows = query.select(OrderRow::as_select()).load(conn).await?;
    Ok(with_lines(conn, rows).await?.pop())
}

/// Whether there is an order; where `owner` is given, whether it is theirs.
pub(in crate::store) async fn exists(conn: &mut Conn, id: OrderId, owner: Option<UserId>) -> Result<bool, StoreError> {
    let customer: Option<UserId> = orders::table.find(id).select(orders::customer_id).first(conn).await.optional()?;
    Ok(customer.is_some_and(|customer| owner.is_none_or(|owner| owner == customer)))
}

/// An order, locked until the transaction ends; where `owner` is given, only if it is theirs.
pub(in crate::store) async fn order_to_change(
    conn: &mut Conn,
    id: OrderId,
    owner: Option<UserId>,
) -> Result<Option<Order>, StoreError> {
    super::lock_order(conn, id).await?;
    order(conn, id, owner).await
}

/// Whether the saga runner that holds this lease has stored this version of the order.
pub(in crate::store) async fn is_at(conn: &mut Conn, id: OrderId, version: i64) -> Result<bool, StoreError> {
    let row = orders::table.find(id).filter(orders::version.eq(version)).select(orders::id);
    Ok(row.first::<OrderId>(conn).await.optional()?.is_some())
}

/// A page of orders, newest first.
pub(in crate::store) async fn list(conn: &mut Conn, query: &Query) -> Result<Vec<Order>, StoreError> {
    let mut rows = orders::table.into_boxed::<Backend>();
    if let Some(customer) = query.customer {
        rows = rows.filter(orders::customer_id.eq(customer));
    }
    for condition in &query.conditions {
        rows = match condition {
            Condition::State(true, state) => rows.filter(orders::state.eq(state.code())),
            Condition::State(false, state) => rows.filter(orders::state.ne(state.code())),
            Condition::ExternalId(op, value) => {
                let (column, value) = (orders::external_id, value.as_str());
                match op {
                    Op::Contains => {
                        let pattern = like_pattern(&value.to_ascii_lowercase());
                        rows.filter(lower(column).like(pattern).escape('\\'))
                    }
                    // An order without a number has another one.
                    Op::NotEqual => rows.filter(column.ne(value).or(column.is_null())),
                    _ => rows.filter(column.eq(value)),
                }
            }
            Condition::PlaceTime(op, time) => compare!(rows, orders::placed_at, op, time),
            Condition::CreateTime(op, time) => compare!(rows, orders::created_at, op, time),
        };
    }
    if let Some((time, id)) = query.after {
        // The first condition finds the place in the index, the second the one within equal times.
        rows = rows.filter(orders::created_at.le(time)).filter(orders::created_at.lt(time).or(orders::id.lt(id)));
    }
    let rows = rows
        .order((orders::created_at.desc(), orders::id.desc()))
        .limit(query.limit)
        .select(OrderRow::as_select())
        .load(conn)
        .await?;
    with_lines(conn, rows).await
}

/// A page of an order's timeline, oldest first.
pub(in crate::store) async fn timeline(
    conn: &mut Conn,
    order: OrderId,
    after: i32,
    limit: i64,
) -> Result<Vec<TimelineRow>, StoreError> {
    let rows = timeline_entries::table
        .filter(timeline_entries::order_id.eq(order))
        .filter(timeline_entries::number.gt(after))
        .order(timeline_entries::number)
        .limit(limit)
        .select(EntryRow::as_select())
        .load(conn)
        .await?;
    rows.into_iter()
        .map(|row| {
            Ok(TimelineRow {
                number: row.number,
                entry: Entry { kind: Kind::from_code(&row.kind)?, actor: row.actor, detail: row.detail },
                time: row.created_at,
            })
        })
        .collect()
}

/// A return.
pub(in crate::store) async fn find_return(conn: &mut Conn, id: ReturnId) -> Result<Option<Return>, StoreError> {
    let row = returns::table.find(id).select(ReturnRow::as_select()).first(conn).await.optional()?;
    let Some(row) = row else { return Ok(None) };
    let lines = return_lines::table
        .filter(return_lines::return_id.eq(id))
        .order(return_lines::line_number)
        .select(ReturnLineRow::as_select())
        .load(conn)
        .await?;
    let Some(order) = order(conn, row.order_id, None).await? else {
        return Err(StoreError::Corrupt("a return without its order".into()));
    };
    let lines = lines
        .into_iter()
        .map(|line| ReturnLine { number: line.line_number, quantity: line.quantity })
        .collect::<Vec<_>>();
    Ok(Some(Return {
        id: row.id,
        order: row.order_id,
        state: State::from_code(&row.state)?,
        step: step(row.step.as_deref())?,
        goods: order.goods_of(&lines),
        lines,
        refund: order.money(row.refund_minor),
        reason: row.reason,
        return_time: row.returned_at,
        create_time: row.created_at,
        attempts: row.attempts,
    }))
}

/// Puts lines to orders, in the orders' order: one query for all of them.
async fn with_lines(conn: &mut Conn, rows: Vec<OrderRow>) -> Result<Vec<Order>, StoreError> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<OrderId> = rows.iter().map(|row| row.id).collect();
    let lines = order_lines::table
        .filter(order_lines::order_id.eq_any(ids))
        .order((order_lines::order_id, order_lines::number))
        .select(LineRow::as_select())
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

fn read_order(row: OrderRow, lines: Vec<Line>) -> Result<Order, StoreError> {
    let payment = match row.payment_state {
        Some(state) => Some(Payment {
            provider: row.payment_provider.unwrap_or_default(),
            reference: row.payment_reference.unwrap_or_default(),
            state: PaymentState::from_code(&state)?,
        }),
        None => None,
    };
    Ok(Order {
        id: row.id,
        customer: row.customer_id,
        state: State::from_code(&row.state)?,
        step: step(row.step.as_deref())?,
        lines,
        currency: row.currency,
        total: row.total_minor,
        refunded: row.refunded_minor,
        address: serde_json::from_value(row.shipping_address)?,
        external_id: row.external_id,
        rejection: row.rejection.map(serde_json::from_value).transpose()?,
        payment,
        payment_token: row.payment_token.map(Token),
        place_time: row.placed_at,
        create_time: row.created_at,
        update_time: row.updated_at,
        version: row.version,
        entries: row.entries,
        pending_returns: row.pending_returns,
        attempts: row.attempts,
    })
}

fn step(code: Option<&str>) -> Result<Option<Step>, StoreError> {
    Ok(code.map(Step::from_code).transpose()?)
}
