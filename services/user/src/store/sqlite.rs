//! Code for SQLite alone: its schema and functions. A write transaction locks the whole file, so rows need no locks.

#[path = "queries/mod.rs"]
pub mod queries;

/// SQLite's tables.
pub mod schema {
    super::super::schema::tables!(Binary, TimestamptzSqlite);
}

use diesel::{ExpressionMethods, QueryDsl, QueryResult, result::OptionalExtension};
use diesel_async::RunQueryDsl;
use souk_common::ids::UserId;
pub use souk_store::db::sqlite::{Conn, STOPS_EARLY, position};

use self::queries::users;

/// The account. No other transaction can change it until this one ends.
pub async fn lock_user(conn: &mut Conn, id: UserId) -> QueryResult<Option<users::Row>> {
    schema::users::table.find(id).select(users::COLUMNS).first(conn).await.optional()
}

/// The account. No other transaction can change it until this one ends.
pub async fn keep_user(conn: &mut Conn, id: UserId) -> QueryResult<Option<users::Row>> {
    lock_user(conn, id).await
}

/// The accounts of administrators. No other transaction can change them until this one ends.
pub async fn lock_admins(conn: &mut Conn) -> QueryResult<Vec<users::Row>> {
    use schema::users::dsl;
    dsl::users.filter(dsl::is_admin).select(users::COLUMNS).order(dsl::id.asc()).load(conn).await
}
