//! What is PostgreSQL's own: its types, row locks and batch inserts.

use diesel::{
    ExpressionMethods, QueryDsl, QueryResult, sql_query,
    sql_types::{Array, Binary, Nullable, Text, Timestamptz, Uuid},
};
use diesel_async::RunQueryDsl;
use futures::{future::join_all, join};
use serde::Serialize;
use souk_common::{
    db::{
        DbError,
        postgres::{Keep, together},
    },
    events::{Draft, postgres::append},
    ids::OrderId,
};

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

/// The statement that inserts rows out of a JSON document, whatever their number: it is prepared once.
macro_rules! insert {
    ($table:literal, $columns:literal, $document:literal) => {
        concat!(
            "INSERT INTO ",
            $table,
            " (",
            $columns,
            ") SELECT ",
            $columns,
            " FROM json_populate_recordset(NULL::",
            $table,
            ", CAST(",
            $document,
            " AS json))"
        )
    };
}

/// Rows as a JSON document.
fn document<T: Serialize>(rows: &[T]) -> QueryResult<String> {
    serde_json::to_string(rows).map_err(|error| diesel::result::Error::SerializationError(error.into()))
}

/// Runs a statement on rows that it takes as a JSON document.
async fn write_rows<T: Serialize>(mut conn: &Conn, statement: &'static str, rows: &[T]) -> QueryResult<usize> {
    if rows.is_empty() {
        return Ok(0);
    }
    sql_query(statement).bind::<Text, _>(document(rows)?).kept().execute(&mut conn).await
}

pub(super) async fn insert_payments(conn: &mut Conn, rows: Vec<simulated::Row>) -> QueryResult<usize> {
    const INSERT: &str = concat!(
        insert!(
            "simulated_payments",
            "key, reference, behaviour, state, currency, amount_minor, refunded_minor, message, expires_at,
             authorize_calls, capture_calls",
            "$1"
        ),
        " ON CONFLICT (key) DO NOTHING"
    );
    write_rows(conn, INSERT, &rows).await
}

/// Changes payments. See [`update_orders`].
pub(super) async fn update_payments(conn: &mut Conn, rows: Vec<simulated::Row>) -> Result<usize, DbError> {
    let conn = &*conn;
    let update = |row: simulated::Row| async move {
        let payment = schema::simulated_payments::table.find(row.key.clone());
        Ok::<_, DbError>(diesel::update(payment).set(row).kept().execute(&mut &*conn).await?)
    };
    Ok(together(join_all(rows.into_iter().map(update)).await)?.into_iter().sum())
}

/// Remembers keys; answers with the orders of those that were new.
pub(super) async fn insert_keys(conn: &mut Conn, rows: Vec<KeyRow>) -> QueryResult<Vec<OrderId>> {
    const INSERT: &str = "
        INSERT INTO idempotency_keys (caller, method, key, request_hash, order_id, return_id, created_at)
        SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7)
        ON CONFLICT (caller, method, key) DO NOTHING
        RETURNING order_id AS id";
    let text = |field: fn(&KeyRow) -> &str| rows.iter().map(field).collect::<Vec<_>>();
    let written: Vec<Written> = sql_query(INSERT)
        .bind::<Array<Text>, _>(text(|row| &row.caller))
        .bind::<Array<Text>, _>(text(|row| &row.method))
        .bind::<Array<Text>, _>(text(|row| &row.key))
        .bind::<Array<Binary>, _>(rows.iter().map(|row| row.request_hash.as_slice()).collect::<Vec<_>>())
        .bind::<Array<Uuid>, _>(rows.iter().map(|row| row.order_id).collect::<Vec<_>>())
        .bind::<Array<Nullable<Uuid>>, _>(rows.iter().map(|row| row.return_id).collect::<Vec<_>>())
        .bind::<Array<Timestamptz>, _>(rows.iter().map(|row| row.created_at).collect::<Vec<_>>())
        .kept()
        .get_results(conn)
        .await?;
    Ok(written.into_iter().map(|row| row.id).collect())
}

#[derive(diesel::QueryableByName)]
struct Written {
    #[diesel(sql_type = Id)]
    id: OrderId,
}

/// Inserts orders with their lines, all by one statement.
pub(super) async fn insert_orders(mut conn: &Conn, orders: Vec<OrderRow>, lines: Vec<LineRow>) -> QueryResult<usize> {
    const INSERT: &str = concat!(
        "WITH placed AS (",
        insert!(
            "orders",
            "id, customer_id, state, step, currency, total_minor, refunded_minor, shipping_address, external_id,
             rejection, payment_provider, payment_reference, payment_state, payment_token, placed_at, created_at,
             updated_at, version, entries, pending_returns, lease, due_at, attempts, refunding_minor",
            "$1"
        ),
        ") ",
        insert!(
            "order_lines",
            "order_id, number, product_id, sku, title, quantity, unit_price_minor, total_minor, returned, tracked,
             shipped, returned_shipped, cancelled",
            "$2"
        )
    );
    let insert = sql_query(INSERT).bind::<Text, _>(document(&orders)?).bind::<Text, _>(document(&lines)?);
    insert.kept().execute(&mut conn).await
}

/// Changes orders; says of each whether it was still as expected. Each by a statement of its own, all of them under way
/// at once: one for all would be planned by guesses at how many there are and how large the table is, and while it is
/// small, or was when the plan was made, read it from end to end.
pub(super) async fn update_orders(conn: &mut Conn, updates: Vec<OrderUpdate>) -> Result<Vec<bool>, DbError> {
    let conn = &*conn;
    together(join_all(updates.into_iter().map(|change| update_order(conn, change))).await)
}

async fn update_order(mut conn: &Conn, change: OrderUpdate) -> Result<bool, DbError> {
    use schema::orders::dsl;
    let OrderUpdate { id, version, held, values } = change;
    let row = dsl::orders.find(id).filter(dsl::version.eq(version));
    let changed = match held {
        Some(held) => diesel::update(row.filter(dsl::lease.eq(held))).set(values).kept().execute(&mut conn).await?,
        None => diesel::update(row).set(values).kept().execute(&mut conn).await?,
    };
    Ok(changed == 1)
}

/// Stores the answers to the requests that made orders. See [`update_orders`].
async fn answer_all(conn: &Conn, answers: Vec<(OrderId, Vec<u8>)>) -> Result<usize, DbError> {
    use schema::idempotency_keys::dsl;
    let answer = |(order, response): (OrderId, Vec<u8>)| async move {
        let row = dsl::idempotency_keys.filter(dsl::order_id.eq(order)).filter(dsl::method.eq("PlaceOrder"));
        Ok::<_, DbError>(diesel::update(row).set(dsl::response.eq(response)).kept().execute(&mut &*conn).await?)
    };
    Ok(together(join_all(answers.into_iter().map(answer)).await)?.into_iter().sum())
}

/// Writes entries of timelines, events, and the answers to the requests that made orders. All statements are under way
/// at once.
pub(super) async fn record(
    conn: &mut Conn,
    entries: Vec<EntryRow>,
    events: Vec<Draft>,
    answers: Vec<(OrderId, Vec<u8>)>,
) -> Result<(), DbError> {
    const ENTRIES: &str =
        insert!("timeline_entries", "order_id, number, kind, actor, detail, created_at, internal", "$1");
    let conn = &*conn;
    let (entries, events, answers) =
        join!(write_rows(conn, ENTRIES, &entries), append(conn, &events), answer_all(conn, answers));
    together([entries.map(drop).map_err(DbError::from), events.map_err(DbError::from), answers.map(drop)])?;
    Ok(())
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
