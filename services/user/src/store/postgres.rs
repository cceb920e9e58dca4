//! Code for PostgreSQL alone: its schema, row locks and functions.

#[path = "queries/mod.rs"]
pub mod queries;

/// PostgreSQL's tables.
pub mod schema {
    super::super::schema::tables!(Uuid, Timestamptz);
}

use diesel::{ExpressionMethods, QueryDsl, QueryResult, result::OptionalExtension};
use diesel_async::RunQueryDsl;
use souk_common::ids::UserId;
pub use souk_store::db::postgres::{Conn, STOPS_EARLY, position};

use self::queries::users;

/// The account, locked for a change until the transaction ends.
pub async fn lock_user(conn: &mut Conn, id: UserId) -> QueryResult<Option<users::Row>> {
    schema::users::table.find(id).select(users::COLUMNS).for_update().first(conn).await.optional()
}

/// The account, with a shared lock: no transaction can change it until this one ends, but others can take the same
/// lock.
pub async fn keep_user(conn: &mut Conn, id: UserId) -> QueryResult<Option<users::Row>> {
    schema::users::table.find(id).select(users::COLUMNS).for_share().first(conn).await.optional()
}

/// The accounts of administrators, locked until the transaction ends. They are locked in a fixed order, so that two
/// transactions cannot deadlock.
pub async fn lock_admins(conn: &mut Conn) -> QueryResult<Vec<users::Row>> {
    use schema::users::dsl;
    dsl::users.filter(dsl::is_admin).select(users::COLUMNS).order(dsl::id.asc()).for_update().load(conn).await
}
