//! Code for PostgreSQL alone: its types, its clock, row locks and text search. Batch writes are in `write`.

use chrono::{DateTime, Utc};
use diesel::{
    dsl::sql,
    pg::Pg,
    sql_types::{Bool, Text, Timestamptz},
};
use diesel_async::RunQueryDsl;
pub use souk_store::{
    db::postgres::{Conn, STOPS_EARLY, padded, position},
    events::postgres::append as append_events,
};

pub use self::write::{change_products, insert_products, write, write_words};
use crate::error::Error;

/// Runs independent queries concurrently: all are sent before the first result arrives.
macro_rules! at_once {
    ($conn:expr, $($($function:ident)::+ ($($argument:expr),*)),+ $(,)?) => {{
        let conn = &*$conn;
        futures::try_join!($(async {
            let mut conn = conn;
            $($function)::+(&mut conn, $($argument),*).await
        }),+)
    }};
}

/// Locks the rows until the transaction ends.
macro_rules! locked {
    ($query:expr) => {
        $query.for_update()
    };
}

#[path = "queries/mod.rs"]
pub mod queries;
mod write;

/// PostgreSQL's tables.
pub mod schema {
    super::super::schema::tables!(Uuid, Timestamptz);
}

/// A connection, either exclusive or shared by concurrent queries.
pub trait Any: diesel_async::AsyncConnectionCore<Backend = Pg> + Send {}
impl<C: diesel_async::AsyncConnectionCore<Backend = Pg> + Send> Any for C {}

/// The time of the transaction, in SQL.
pub const NOW: &str = "now()";

/// The products of a query for those with a threshold.
pub const WATCHED: &str = "products";

/// Counts the products that [`search_text`] finds, up to a limit.
pub const MATCHES: &str =
    "SELECT count(*) AS count FROM (SELECT 1 FROM products WHERE search @@ CAST($1 AS tsquery) LIMIT $2) AS found";

/// A condition on products.
type Condition = Box<dyn diesel::BoxableExpression<schema::products::table, Pg, SqlType = Bool>>;

/// A condition that a product matches the words, by the search index.
pub fn finds(words: &[String]) -> Condition {
    Box::new(sql::<Bool>("search @@ CAST(").bind::<Text, _>(search_text(words)).sql(" AS tsquery)"))
}

/// A condition that a product matches the words, without the index.
pub fn has_words(words: &[String]) -> Condition {
    finds(words)
}

/// The search expression for products that have all these words. The last word may be the beginning of a word. Words
/// consist of letters and digits.
pub fn search_text(words: &[String]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
    format!("{}:*", quoted.join(" & "))
}

/// The time of the transaction, by the server's clock, so that all replicas of the service use one clock.
pub async fn clock(conn: &mut impl Any) -> Result<DateTime<Utc>, Error> {
    Ok(diesel::select(sql::<Timestamptz>(NOW)).get_result(conn).await?)
}
