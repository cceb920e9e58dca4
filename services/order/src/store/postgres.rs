//! Code for PostgreSQL alone: its types, row locks and batch inserts.

use std::collections::HashSet;

use diesel::{
    QueryDsl, QueryResult, sql_query,
    sql_types::{Array, BigInt, Binary, Integer, Nullable, Text, Timestamptz, Uuid},
};
use diesel_async::RunQueryDsl;
use serde::Serialize;
use souk_common::ids::OrderId;
use souk_store::{
    db::{DbError, Keep, postgres::Statement},
    events::postgres::{bind, insert_events},
};

pub(super) use souk_store::events::postgres::advance;

/// The connection that queries run on.
pub type Conn = souk_store::db::postgres::Conn;
pub use souk_store::db::postgres::{STOPS_EARLY, padded, position};
/// The backend type of boxed queries.
pub type Backend = diesel::pg::Pg;

/// The type of ids in handwritten SQL.
pub type Id = diesel::sql_types::Uuid;
/// The type of times in handwritten SQL.
pub type Time = diesel::sql_types::Timestamptz;
/// The payment key of order `o`, in SQL: the digits of the order's id.
pub(super) const ORDER_KEY: &str = "replace(o.id::text, '-', '')";
/// A join condition: payment `p` belongs to order `o`. It allows the planner to use a hash join.
pub(super) const ORDER_OF_PAYMENT: &str = "p.key = replace(o.id::text, '-', '')";

/// An id that no row has, in SQL.
pub(super) const NIL: &str = "CAST('00000000-0000-0000-0000-000000000000' AS uuid)";

/// PostgreSQL's tables.
#[allow(missing_docs, reason = "the migrations say what each column is")]
pub mod schema {
    super::super::schema::tables!(Uuid, Timestamptz, Jsonb);
}

#[path = "queries/mod.rs"]
pub mod queries;

use queries::{After, Batch, DeliveryRow, Nth, PaymentRow, ReturnLineRow, ShipmentLineRow};

/// Locks an order until the transaction ends. `false` if it does not exist.
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

/// Skips rows that other transactions are claiming.
macro_rules! claimable {
    ($query:expr) => {
        $query.for_update().skip_locked()
    };
}
pub(super) use claimable;

/// Locks the rows until the transaction ends.
macro_rules! locked {
    ($query:expr) => {
        $query.for_update()
    };
}
pub(super) use locked;

/// SQL that reads a table's rows out of a JSON document. The statement is the same for any number of rows, so it is
/// prepared only once.
macro_rules! rows {
    ($table:literal, $document:literal) => {
        concat!("json_populate_recordset(NULL::", $table, ", CAST(", $document, " AS json))")
    };
}

/// A statement that inserts rows out of a JSON document, if their write number is null or among those in `done`.
macro_rules! insert {
    ($table:literal, $columns:literal, $nths:literal, $document:literal) => {
        concat!(
            "INSERT INTO ",
            $table,
            " (",
            $columns,
            ") SELECT ",
            $columns,
            " FROM ROWS FROM (unnest(",
            $nths,
            "), ",
            rows!($table, $document),
            ") AS new (nth) WHERE nth IS NULL OR nth IN (SELECT nth FROM done)"
        )
    };
}

/// Encodes rows as a JSON document.
fn document<T: Serialize>(rows: &[T]) -> QueryResult<String> {
    serde_json::to_string(rows).map_err(|error| diesel::result::Error::SerializationError(error.into()))
}

pub(super) async fn insert_payments(mut conn: &Conn, rows: Vec<PaymentRow>) -> QueryResult<usize> {
    const INSERT: &str = concat!(
        "INSERT INTO simulated_payments
            (key, reference, behaviour, state, currency, amount_minor, refunded_minor, message, expires_at,
             authorize_calls, capture_calls)
         SELECT key, reference, behaviour, state, currency, amount_minor, refunded_minor, message, expires_at,
             authorize_calls, capture_calls
         FROM ",
        rows!("simulated_payments", "$1"),
        " ON CONFLICT (key) DO NOTHING"
    );
    sql_query(INSERT).bind::<Text, _>(document(&rows)?).kept().execute(&mut conn).await
}

/// Updates payments. [`write`] explains the `LIMIT`.
pub(super) async fn update_payments(mut conn: &Conn, rows: Vec<PaymentRow>) -> QueryResult<usize> {
    const UPDATE: &str = concat!(
        "UPDATE simulated_payments SET
            state = new.state, refunded_minor = new.refunded_minor, message = new.message,
            authorize_calls = new.authorize_calls, capture_calls = new.capture_calls
         FROM (SELECT * FROM ",
        rows!("simulated_payments", "$1"),
        " LIMIT $2) AS new
         WHERE simulated_payments.key = new.key"
    );
    let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    sql_query(UPDATE).bind::<Text, _>(document(&rows)?).bind::<BigInt, _>(count).kept().execute(&mut conn).await
}

/// Writes a batch with one statement, whatever its size. Returns the numbers of the numbered writes that took effect
/// (see [`Nth`]). Outside of a transaction, the statement is a transaction of its own.
///
/// Dependent rows are written only if the write that they depend on took effect. `IS TRUE` and `OR` keep PostgreSQL
/// from turning those conditions into joins, which it would plan by guessed row counts. It uses a hashed subplan
/// instead. `LIMIT` has a parameter, because PostgreSQL then expects a tenth of the rows. That estimate is small enough
/// that it looks up each row by its key, even if the table was small when the plan was made.
pub(super) async fn write(conn: &mut Conn, batch: Batch) -> Result<HashSet<Nth>, DbError> {
    const WRITE: &str = concat!(
        "WITH asked AS (
            INSERT INTO idempotency_keys (caller, method, key, request_hash, order_id, return_id, created_at)
            SELECT * FROM unnest($10, $11, $12, $13, $14, $15, $16) ORDER BY 1, 2, 3
            ON CONFLICT (caller, method, key) DO NOTHING
            RETURNING order_id
        ), saved AS (
            UPDATE orders SET
                state = new.state, step = new.step, refunded_minor = new.refunded_minor, rejection = new.rejection,
                payment_provider = new.payment_provider, payment_reference = new.payment_reference,
                payment_state = new.payment_state, payment_token = new.payment_token, updated_at = new.updated_at,
                version = new.version, entries = new.entries, pending_returns = new.pending_returns,
                lease = new.lease, due_at = new.due_at, attempts = new.attempts, last_error = new.last_error
            FROM (
                SELECT * FROM ROWS FROM (
                    unnest($17), unnest($18), unnest($19), unnest($20),
                    ",
        rows!("orders", "$21"),
        "
                ) AS new (nth, order_id, was, held) LIMIT $22
            ) AS new
            WHERE orders.id = new.order_id AND orders.version = new.was
                AND (new.held IS NULL OR orders.lease = new.held)
            RETURNING new.nth, orders.id, orders.state
        ), done AS (
            SELECT nth FROM saved
            UNION ALL
            SELECT nth FROM unnest($9, $14) AS new (nth, order_id)
            WHERE (order_id IN (SELECT order_id FROM asked)) IS TRUE
        ), placed AS (",
        insert!(
            "orders",
            "id, customer_id, state, step, currency, total_minor, refunded_minor, shipping_address, external_id,
             rejection, payment_provider, payment_reference, payment_state, payment_token, placed_at, created_at,
             updated_at, version, entries, pending_returns, lease, due_at, attempts, refunding_minor",
            "$23",
            "$24"
        ),
        "), bought AS (",
        insert!(
            "order_lines",
            "order_id, number, product_id, sku, title, quantity, unit_price_minor, total_minor, returned, tracked,
             shipped, returned_shipped, cancelled",
            "$25",
            "$26"
        ),
        "), cancelled AS (
            UPDATE order_lines SET cancelled = quantity - returned FROM saved
            WHERE order_lines.order_id = saved.id AND saved.state = 'CANCELLED'
        ), entered AS (",
        insert!("timeline_entries", "order_id, number, kind, actor, detail, created_at, internal", "$27", "$28"),
        "), answered AS (
            UPDATE idempotency_keys SET response = new.response
            FROM (
                SELECT * FROM unnest($29, $30, $31) AS new (nth, order_id, response)
                WHERE new.nth IS NULL OR new.nth IN (SELECT nth FROM done) LIMIT $32
            ) AS new
            WHERE idempotency_keys.order_id = new.order_id AND idempotency_keys.method = 'PlaceOrder'
        ), told AS (",
        insert_events!(", $8", ", nth", "WHERE new.nth IS NULL OR new.nth IN (SELECT nth FROM done)"),
        ") SELECT nth FROM done"
    );
    let Batch { keys, orders, lines, updates, entries, events, answers, .. } = batch;
    let (events_after, events): (Vec<_>, Vec<_>) = events.into_iter().map(|event| (event.nth, event.row)).unzip();
    let (key_nths, keys): (Vec<_>, Vec<_>) = keys.into_iter().unzip();
    let (update_nths, updates): (Vec<_>, Vec<_>) = updates.into_iter().unzip();
    let values: Vec<_> = updates.iter().map(|update| &update.values).collect();
    let updated = i64::try_from(updates.len()).unwrap_or(i64::MAX);
    let answered = i64::try_from(answers.len()).unwrap_or(i64::MAX);
    let query = bind(sql_query(WRITE).into_boxed(), &events)
        .bind::<Array<Nullable<Integer>>, _>(events_after)
        .bind::<Array<Integer>, _>(key_nths)
        .bind::<Array<Text>, _>(keys.iter().map(|row| row.caller.as_str()).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(keys.iter().map(|row| row.method.as_str()).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(keys.iter().map(|row| row.key.as_str()).collect::<Vec<_>>())
        .bind::<Array<Binary>, _>(keys.iter().map(|row| row.request_hash.as_slice()).collect::<Vec<_>>())
        .bind::<Array<Uuid>, _>(keys.iter().map(|row| row.order_id).collect::<Vec<_>>())
        .bind::<Array<Nullable<Uuid>>, _>(keys.iter().map(|row| row.return_id).collect::<Vec<_>>())
        .bind::<Array<Timestamptz>, _>(keys.iter().map(|row| row.created_at).collect::<Vec<_>>())
        .bind::<Array<Integer>, _>(update_nths)
        .bind::<Array<Uuid>, _>(updates.iter().map(|update| update.id).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(updates.iter().map(|update| update.version).collect::<Vec<_>>())
        .bind::<Array<Nullable<BigInt>>, _>(updates.iter().map(|update| update.held).collect::<Vec<_>>())
        .bind::<Text, _>(document(&values)?)
        .bind::<BigInt, _>(updated);
    let query = bind_rows(query, &orders)?;
    let query = bind_rows(query, &lines)?;
    let query = bind_rows(query, &entries)?
        .bind::<Array<Nullable<Integer>>, _>(nths(&answers))
        .bind::<Array<Uuid>, _>(answers.iter().map(|answer| answer.row.order).collect::<Vec<_>>())
        .bind::<Array<Binary>, _>(answers.iter().map(|answer| answer.row.response.as_slice()).collect::<Vec<_>>())
        .bind::<BigInt, _>(answered);
    let done: Vec<Done> = query.kept().get_results(conn).await?;
    Ok(done.into_iter().map(|done| done.nth).collect())
}

#[derive(diesel::QueryableByName)]
struct Done {
    #[diesel(sql_type = Integer)]
    nth: Nth,
}

fn nths<T>(rows: &[After<T>]) -> Vec<Option<Nth>> {
    rows.iter().map(|row| row.nth).collect()
}

/// Binds the parameters of [`insert`].
fn bind_rows<'a, T: Serialize>(query: Statement<'a>, rows: &[After<T>]) -> QueryResult<Statement<'a>> {
    let documents: Vec<_> = rows.iter().map(|row| &row.row).collect();
    Ok(query.bind::<Array<Nullable<Integer>>, _>(nths(rows)).bind::<Text, _>(document(&documents)?))
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

pub(super) async fn insert_deliveries(conn: &mut Conn, rows: Vec<DeliveryRow>) -> QueryResult<()> {
    // A statement has 65,535 parameters at most.
    for rows in rows.chunks(1000) {
        diesel::insert_into(schema::webhook_deliveries::table).values(rows).execute(conn).await?;
    }
    Ok(())
}
