//! What PostgreSQL alone needs: its schema, row locks and functions.

#[path = "queries/mod.rs"]
pub mod queries;

/// Its tables.
pub mod schema {
    super::super::schema::tables!(Uuid, Timestamptz);
}

use diesel::{ExpressionMethods, QueryDsl, QueryResult, result::OptionalExtension};
use diesel_async::RunQueryDsl;
use souk_common::ids::UserId;
pub use souk_store::db::postgres::{Conn, position};

use self::queries::users;

/// The account, which nobody else changes until the transaction ends.
pub async fn lock_user(conn: &mut Conn, id: UserId) -> QueryResult<Option<users::Row>> {
    schema::users::table.find(id).select(users::COLUMNS).for_update().first(conn).await.optional()
}

/// The account, which nobody changes until the transaction ends; others may keep it as it is, too.
pub async fn keep_user(conn: &mut Conn, id: UserId) -> QueryResult<Option<users::Row>> {
    schema::users::table.find(id).select(users::COLUMNS).for_share().first(conn).await.optional()
}

/// The accounts that administer souk, none of which changes until the transaction ends. In one order, so that two
/// who lock them do not deadlock.
pub async fn lock_admins(conn: &mut Conn) -> QueryResult<Vec<users::Row>> {
    use schema::users::dsl;
    dsl::users.filter(dsl::is_admin).select(users::COLUMNS).order(dsl::id.asc()).for_update().load(conn).await
}
