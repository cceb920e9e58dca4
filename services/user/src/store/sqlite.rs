//! What SQLite alone needs: its schema and functions. A write transaction is the only one, so it locks nothing.

#[path = "queries/keys.rs"]
mod keys;
#[path = "queries/sessions.rs"]
mod sessions;
#[path = "queries/users.rs"]
mod users;

/// Its tables.
pub mod schema {
    super::super::schema::tables!(Binary, TimestamptzSqlite);
}

use diesel::{ExpressionMethods, QueryDsl, QueryResult, result::OptionalExtension};
use diesel_async::RunQueryDsl;
use souk_common::ids::UserId;
pub use souk_store::db::sqlite::{Conn, position};

/// All queries, as `q` in the macros.
pub mod queries {
    pub use super::{keep_user, keys::*, lock_admins, lock_user, sessions::*, users::*};
}

/// The account, which nobody else changes until the transaction ends.
pub async fn lock_user(conn: &mut Conn, id: UserId) -> QueryResult<Option<users::Row>> {
    schema::users::table.find(id).select(users::COLUMNS).first(conn).await.optional()
}

/// The account, which nobody changes until the transaction ends.
pub async fn keep_user(conn: &mut Conn, id: UserId) -> QueryResult<Option<users::Row>> {
    lock_user(conn, id).await
}

/// The accounts that administer souk, none of which changes until the transaction ends.
pub async fn lock_admins(conn: &mut Conn) -> QueryResult<Vec<users::Row>> {
    use schema::users::dsl;
    dsl::users.filter(dsl::is_admin).select(users::COLUMNS).order(dsl::id.asc()).load(conn).await
}
