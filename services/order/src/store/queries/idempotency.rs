//! Idempotency records: the key, the hash of the request, and its response.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use souk_common::ids::{OrderId, ReturnId};
use uuid::Uuid;

use super::{
    super::{self as engine, Conn, schema::idempotency_keys},
    batch::Batch,
    rows::KeyRow,
};
use crate::{
    domain::Adjustment,
    error::Error,
    store::{IdempotencyRecord, Key},
};

/// The idempotency record of a key.
pub(in crate::store) async fn find_record(conn: &mut Conn, key: &Key) -> Result<Option<IdempotencyRecord>, Error> {
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
    Ok(found.map(|(hash, order, back, response)| IdempotencyRecord {
        same_request: hash == key.request_hash,
        order,
        back,
        response,
    }))
}

/// Inserts an idempotency record. `false` if the key has one already.
pub(super) async fn insert_record(
    conn: &mut Conn,
    key: &Key,
    order: OrderId,
    back: Option<ReturnId>,
    now: DateTime<Utc>,
) -> Result<bool, Error> {
    let mut batch = Batch::default();
    let nth = batch.insert_record(KeyRow::new(key, order, back, now));
    Ok(engine::write(conn, batch).await?.contains(&nth))
}

/// Stores the response to the request that made an adjustment, for repeated requests.
pub(in crate::store) async fn answer_adjustment(
    conn: &mut Conn,
    adjustment: &Adjustment,
    response: &[u8],
) -> Result<(), Error> {
    use idempotency_keys::dsl;
    let ours =
        dsl::idempotency_keys.filter(dsl::order_id.eq(adjustment.order)).filter(dsl::return_id.eq(adjustment.id));
    diesel::update(ours).set(dsl::response.eq(response)).execute(conn).await?;
    Ok(())
}

/// Inserts an idempotency record with its response, for requests that are final at once.
pub(in crate::store) async fn insert_answered_record(
    conn: &mut Conn,
    key: &Key,
    order: OrderId,
    response: &[u8],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    if !insert_record(conn, key, order, None, now).await? {
        // Another request used the key for another order at the same moment. The transaction must not commit.
        return Err(Error::KeyRaced);
    }
    let ours = idempotency_keys::table.find((&key.caller, key.method, &key.key));
    diesel::update(ours).set(idempotency_keys::response.eq(response)).execute(conn).await?;
    Ok(())
}

/// The number of records that are looked at in one transaction.
const FORGOTTEN_AT_ONCE: i64 = 1_000;

/// Deletes records with a response that are older than `before`, of some orders after the given one. Returns how many,
/// and the last of these orders; `None` if there are no more.
///
/// An order is older than its records, so the index by order also finds the old records.
pub(in crate::store) async fn forget(
    conn: &mut Conn,
    after: Option<OrderId>,
    before: DateTime<Utc>,
) -> Result<(usize, Option<OrderId>), Error> {
    use idempotency_keys::dsl;
    let after = after.unwrap_or(OrderId::from_uuid(Uuid::nil()));
    // The millisecond of `before` is included.
    let end = OrderId::first_at(before + TimeDelta::milliseconds(1));
    let of_old_orders = || dsl::idempotency_keys.filter(dsl::order_id.gt(after)).filter(dsl::order_id.lt(end));
    let last = of_old_orders().order(dsl::order_id).offset(FORGOTTEN_AT_ONCE - 1).limit(1).select(dsl::order_id);
    let last: Option<OrderId> = last.first(conn).await.optional()?;
    let old = of_old_orders()
        .filter(dsl::order_id.le(last.unwrap_or(end)))
        .filter(dsl::created_at.lt(before))
        .filter(dsl::response.is_not_null());
    Ok((diesel::delete(old).execute(conn).await?, last))
}
