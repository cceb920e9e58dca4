//! What is PostgreSQL's own: its types, row locks and batch inserts.

use diesel::{QueryDsl, QueryResult};
use diesel_async::RunQueryDsl;
use souk_common::{db::postgres::Keep, ids::OrderId};

pub(super) use souk_common::events::postgres::append as append_events;

/// The connection that queries run on.
pub type Conn = souk_common::db::postgres::Conn;
/// For boxed queries.
pub type Backend = diesel::pg::Pg;

/// Ids in SQL that is written by hand.
pub type Id = diesel::sql_types::Uuid;
/// The digits of an order's id, in SQL.
pub(super) const ORDER_KEY: &str = "replace(o.id::text, '-', '')";

/// The id of nothing, in SQL.
pub(super) const NIL: &str = "CAST('00000000-0000-0000-0000-000000000000' AS uuid)";

/// Its tables.
#[allow(missing_docs, reason = "the migrations say what each column is")]
pub mod schema {
    super::super::schema::tables!(Uuid, Timestamptz, Jsonb);
}

#[path = "audit.rs"]
pub mod audit;
#[path = "queries/mod.rs"]
pub mod queries;
#[path = "simulated.rs"]
pub mod simulated;
#[path = "stripe.rs"]
pub mod stripe;

use queries::{EntryRow, KeyRow, LineRow, OrderRow, OrderUpdate, ReturnLineRow, ShipmentLineRow};

/// Keeps others from changing an order until the transaction ends. Whether there is one.
pub(super) async fn lock_order(conn: &mut Conn, id: OrderId) -> QueryResult<bool> {
    use diesel::OptionalExtension;
    let found = schema::orders::table
        .find(id)
        .select(schema::orders::id)
        .for_update()
        .get_result::<OrderId>(conn)
        .await
        .optional()?;
    Ok(found.is_some())
}

/// Makes what follows pass over rows that others are claiming.
macro_rules! claimable {
    ($query:expr) => {
        $query.for_update().skip_locked()
    };
}
use claimable;

/// Keeps others from changing the rows until the transaction ends.
macro_rules! locked {
    ($query:expr) => {
        $query.for_update()
    };
}
use locked;

pub(super) async fn insert_payments(conn: &mut Conn, rows: Vec<simulated::Row>) -> QueryResult<usize> {
    use schema::simulated_payments::dsl;
    let insert = diesel::insert_into(dsl::simulated_payments).values(rows).on_conflict(dsl::key).do_nothing();
    insert.execute(conn).await
}

/// Changes payments, all by one statement.
pub(super) async fn update_payments(conn: &mut Conn, rows: Vec<simulated::Row>) -> QueryResult<usize> {
    const UPDATE: &str = "
        UPDATE simulated_payments p SET
            state = v.state, refunded_minor = v.refunded_minor, message = v.message,
            authorize_calls = v.authorize_calls, capture_calls = v.capture_calls
        FROM jsonb_to_recordset($1) AS v(
            key text, state text, refunded_minor bigint, message text, authorize_calls integer, capture_calls integer
        )
        WHERE p.key = v.key";
    let rows = serde_json::to_value(rows).map_err(|error| diesel::result::Error::SerializationError(error.into()))?;
    diesel::sql_query(UPDATE).bind::<diesel::sql_types::Jsonb, _>(rows).kept().execute(conn).await
}

/// Remembers keys; answers with the orders of those that were new.
pub(super) async fn insert_keys(conn: &mut Conn, rows: Vec<KeyRow>) -> QueryResult<Vec<OrderId>> {
    use schema::idempotency_keys::dsl;
    diesel::insert_into(dsl::idempotency_keys)
        .values(rows)
        .on_conflict((dsl::caller, dsl::method, dsl::key))
        .do_nothing()
        .returning(dsl::order_id)
        .get_results(conn)
        .await
}

pub(super) async fn insert_orders(conn: &mut Conn, rows: Vec<OrderRow>) -> QueryResult<usize> {
    diesel::insert_into(schema::orders::table).values(rows).execute(conn).await
}

/// Changes orders, all by one statement; answers with those that were still as expected.
pub(super) async fn update_orders(conn: &mut Conn, updates: Vec<OrderUpdate>) -> QueryResult<Vec<OrderId>> {
    const UPDATE: &str = "
        UPDATE orders o SET
            state = v.state, step = v.step, refunded_minor = v.refunded_minor, rejection = v.rejection,
            payment_provider = v.payment_provider, payment_reference = v.payment_reference,
            payment_state = v.payment_state, payment_token = v.payment_token, updated_at = v.updated_at,
            version = v.version, entries = v.entries, pending_returns = v.pending_returns, lease = v.lease,
            due_at = v.due_at, attempts = v.attempts, last_error = v.last_error
        FROM jsonb_to_recordset($1) AS v(
            id uuid, expected bigint, held bigint, state text, step text, refunded_minor bigint, rejection jsonb,
            payment_provider text, payment_reference text, payment_state text, payment_token text,
            updated_at timestamptz, version bigint, entries integer, pending_returns integer, lease bigint,
            due_at timestamptz, attempts integer, last_error text
        )
        WHERE o.id = v.id AND o.version = v.expected AND (v.held IS NULL OR o.lease = v.held)
        RETURNING o.id";
    #[derive(diesel::QueryableByName)]
    struct Written {
        #[diesel(sql_type = Id)]
        id: OrderId,
    }
    let rows =
        serde_json::to_value(updates).map_err(|error| diesel::result::Error::SerializationError(error.into()))?;
    let written: Vec<Written> =
        diesel::sql_query(UPDATE).bind::<diesel::sql_types::Jsonb, _>(rows).kept().get_results(conn).await?;
    Ok(written.into_iter().map(|row| row.id).collect())
}

/// Stores the answers to the requests that made orders, all by one statement.
pub(super) async fn answer_all(conn: &mut Conn, answers: Vec<(OrderId, Vec<u8>)>) -> QueryResult<()> {
    use diesel::sql_types::{Array, Binary, Uuid};
    if answers.is_empty() {
        return Ok(());
    }
    let (orders, responses): (Vec<_>, Vec<_>) = answers.into_iter().unzip();
    diesel::sql_query(
        "UPDATE idempotency_keys k SET response = v.response
        FROM unnest($1, $2) AS v(order_id, response)
        WHERE k.order_id = v.order_id AND k.method = 'PlaceOrder'",
    )
    .bind::<Array<Uuid>, _>(orders)
    .bind::<Array<Binary>, _>(responses)
    .kept()
    .execute(conn)
    .await?;
    Ok(())
}

pub(super) async fn insert_lines(conn: &mut Conn, mut rows: Vec<LineRow>) -> QueryResult<()> {
    // A statement takes 65,535 values at most.
    const CHUNK: usize = 5000;
    while !rows.is_empty() {
        let rest = rows.split_off(rows.len().min(CHUNK));
        diesel::insert_into(schema::order_lines::table).values(rows).execute(conn).await?;
        rows = rest;
    }
    Ok(())
}

pub(super) async fn insert_entries(conn: &mut Conn, rows: Vec<EntryRow>) -> QueryResult<usize> {
    if rows.is_empty() {
        return Ok(0);
    }
    diesel::insert_into(schema::timeline_entries::table).values(rows).execute(conn).await
}

pub(super) async fn insert_return_lines(conn: &mut Conn, rows: Vec<ReturnLineRow>) -> QueryResult<usize> {
    if rows.is_empty() {
        return Ok(0);
    }
    diesel::insert_into(schema::return_lines::table).values(rows).execute(conn).await
}

pub(super) async fn insert_shipment_lines(conn: &mut Conn, rows: Vec<ShipmentLineRow>) -> QueryResult<usize> {
    diesel::insert_into(schema::shipment_lines::table).values(rows).execute(conn).await
}
