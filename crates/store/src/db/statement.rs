//! Wrappers of diesel's statements: when a statement stays prepared, and statements that read the first rows of a table.

use std::collections::HashSet;
use std::sync::{LazyLock, Mutex};

use diesel::QueryResult;
use diesel::backend::Backend;
use diesel::query_builder::{AstPass, Query, QueryBuilder as _, QueryFragment, QueryId};

/// The most texts of [`Varied`] statements that stay prepared on a connection. A prepared statement takes about 20 KiB
/// on PostgreSQL.
const MAX_TEXTS: usize = 200;

/// The texts of [`Varied`] statements that stay prepared: the first ones of this process.
static TEXTS: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);

/// A statement with a constant text, which is prepared once on a connection. By default diesel prepares updates, and
/// statements that contain handwritten SQL, each time again, at the cost of parsing and planning, and on PostgreSQL of
/// round trips.
#[derive(Debug, Clone, Copy)]
#[must_use = "a query does nothing until it is executed or loaded"]
pub struct Kept<Q>(Q);

/// A statement whose text depends on a request. It is prepared once on a connection if its text is among the first ones
/// of this process, so that no client can fill the memory with prepared statements.
#[derive(Debug, Clone, Copy)]
#[must_use = "a query does nothing until it is executed or loaded"]
pub struct Varied<Q>(Q);

/// Says when a statement stays prepared.
pub trait Keep: Sized {
    /// Prepares the statement once on a connection. Only for a text that never changes: connections never drop a
    /// prepared statement.
    fn kept(self) -> Kept<Self> {
        Kept(self)
    }

    /// Prepares the statement once on a connection, unless there are too many different ones.
    fn varied(self) -> Varied<Self> {
        Varied(self)
    }
}

impl<Q> Keep for Q {}

impl<Q: Query> Query for Kept<Q> {
    type SqlType = Q::SqlType;
}

/// The statement's text is its key in the cache.
impl<Q> QueryId for Kept<Q> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<Q: QueryFragment<DB>, DB: Backend> QueryFragment<DB> for Kept<Q> {
    fn walk_ast<'b>(&'b self, out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        self.0.walk_ast(out)
    }

    fn is_safe_to_cache_prepared(&self, _: &DB) -> QueryResult<bool> {
        Ok(true)
    }
}

impl<Q, Conn> diesel::RunQueryDsl<Conn> for Kept<Q> {}

impl<Q: Query> Query for Varied<Q> {
    type SqlType = Q::SqlType;
}

impl<Q> QueryId for Varied<Q> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<Q: QueryFragment<DB>, DB: Backend<QueryBuilder: Default>> QueryFragment<DB> for Varied<Q> {
    fn walk_ast<'b>(&'b self, out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        self.0.walk_ast(out)
    }

    fn is_safe_to_cache_prepared(&self, backend: &DB) -> QueryResult<bool> {
        let mut text = DB::QueryBuilder::default();
        self.0.to_sql(&mut text, backend)?;
        Ok(is_among_first(&TEXTS, text.finish()))
    }
}

/// True if a text is one of the first [`MAX_TEXTS`].
fn is_among_first(texts: &Mutex<HashSet<String>>, text: String) -> bool {
    let mut texts = texts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if texts.contains(&text) {
        return true;
    }
    texts.len() < MAX_TEXTS && texts.insert(text)
}

/// A statement that sees only some rows of its table: `WITH table AS (rows) statement`. For an engine that
/// [stops early](super::postgres::STOPS_EARLY): within `rows`, the name is that of the table itself, which SQLite
/// refuses.
#[derive(Debug, Clone, Copy)]
#[must_use = "a query does nothing until it is executed or loaded"]
pub struct Within<R, Q> {
    /// The name of the table.
    pub table: &'static str,
    /// A statement that selects all columns of these rows.
    pub rows: R,
    /// The statement.
    pub statement: Q,
}

impl<R, Q: Query> Query for Within<R, Q> {
    type SqlType = Q::SqlType;
}

impl<R, Q> QueryId for Within<R, Q> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<R: QueryFragment<DB>, Q: QueryFragment<DB>, DB: Backend> QueryFragment<DB> for Within<R, Q> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        out.push_sql("WITH ");
        out.push_identifier(self.table)?;
        out.push_sql(" AS (");
        self.rows.walk_ast(out.reborrow())?;
        out.push_sql(") ");
        self.statement.walk_ast(out)
    }
}

/// A condition on rows of a list that is sorted by a column and an id: `beyond!(column, id, ">=", (value, key))` is
/// `(column, id) >= (value, key)`. Both engines find the place in an index of the two columns.
#[doc(hidden)]
#[macro_export]
macro_rules! __db_beyond {
    ($column:path, $id:path, $op:literal, $place:expr) => {{
        use ::diesel::{Column, dsl::SqlTypeOf, sql_types::Bool};
        let (value, key) = $place;
        let columns = format!(concat!("({}, {}) ", $op, " ("), <$column as Column>::NAME, <$id as Column>::NAME);
        let begin = ::diesel::dsl::sql::<Bool>(&columns).bind::<SqlTypeOf<$column>, _>(value);
        begin.sql(", ").bind::<SqlTypeOf<$id>, _>(key).sql(")")
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_texts_are_kept() {
        let texts = Mutex::default();
        for number in 0..MAX_TEXTS {
            assert!(is_among_first(&texts, number.to_string()));
        }
        assert!(!is_among_first(&texts, "one more".into()));
        assert!(is_among_first(&texts, "7".into()));
    }
}
