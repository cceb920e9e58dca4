//! Code for SQLite alone: its types, the service's clock, text search, and batch writes with plain diesel in one hop to
//! a blocking thread. A write transaction locks the whole file, so rows need no locks.

use chrono::{DateTime, SubsecRound as _, Utc};
use diesel::{
    dsl::sql,
    prelude::*,
    sql_types::{Bool, Text},
    sqlite::Sqlite,
};
use souk_common::ids::LedgerEntryId;
use souk_store::{
    db::Keep as _,
    events::{Draft, sqlite::append_blocking},
};
pub use souk_store::{
    db::sqlite::{Conn, STOPS_EARLY, padded, position},
    events::sqlite::append as append_events,
};

use self::{
    queries::products::Row,
    schema::{ledger, products, requests, reservation_lines, reservations, stock},
};
use crate::{
    domain::{
        book::{Changes, Entry},
        reservation::Reservation,
    },
    error::Error,
    store::{answer_text, codes::word},
};

/// Runs independent queries. On SQLite they run one after the other.
macro_rules! at_once {
    ($conn:expr, $($($function:ident)::+ ($($argument:expr),*)),+ $(,)?) => {
        async { Ok::<_, $crate::error::Error>(($($($function)::+(&mut *$conn, $($argument),*).await?),+)) }.await
    };
}

/// On PostgreSQL, locks the rows until the transaction ends. SQLite has no concurrent writers, so this changes nothing.
macro_rules! locked {
    ($query:expr) => {
        $query
    };
}

#[path = "queries/mod.rs"]
pub mod queries;

/// SQLite's tables.
pub mod schema {
    super::super::schema::tables!(Binary, TimestamptzSqlite);
}

/// A connection. On PostgreSQL, it can also be a shared one.
pub trait Any: diesel_async::AsyncConnectionCore<Backend = Sqlite> + Send {}
impl<C: diesel_async::AsyncConnectionCore<Backend = Sqlite> + Send> Any for C {}

/// The time of the statement, in SQL, in the format of stored times.
pub const NOW: &str = "strftime('%Y-%m-%d %H:%M:%f+00:00', 'now')";

/// The products of a query for those with a threshold. SQLite would read all products of a state instead.
pub const WATCHED: &str = "products INDEXED BY products_with_threshold";

/// Counts the products that [`search_text`] finds, up to a limit.
pub const MATCHES: &str = "SELECT count(*) AS count FROM (
    SELECT 1 FROM product_search WHERE product_search MATCH $1 LIMIT $2)";

/// A condition on products.
type Condition = Box<dyn BoxableExpression<products::table, Sqlite, SqlType = Bool>>;

/// A condition that a product matches the words, by the search index.
pub fn finds(words: &[String]) -> Condition {
    let found = sql::<Bool>(
        "products.id IN (SELECT product_id FROM product_search JOIN product_numbers ON number = product_search.rowid
        WHERE product_search MATCH ",
    );
    Box::new(found.bind::<Text, _>(search_text(words)).sql(")"))
}

/// A condition that a product matches the words, without the index. A product's words are stored with a space between
/// them.
pub fn has_words(words: &[String]) -> Condition {
    let Some((last, whole)) = words.split_last() else { return Box::new(sql::<Bool>("FALSE")) };
    let begins = sql::<Bool>("instr(' ' || products.words, ").bind::<Text, _>(format!(" {last}")).sql(") > 0");
    whole.iter().fold(Box::new(begins), |others: Box<dyn BoxableExpression<_, _, SqlType = _>>, word| {
        let is = sql::<Bool>("instr(' ' || products.words || ' ', ").bind::<Text, _>(format!(" {word} ")).sql(") > 0");
        Box::new(others.and(is))
    })
}

/// The search expression for products that have all these words. The last word may be the beginning of a word. Words
/// consist of letters and digits.
pub fn search_text(words: &[String]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
    format!("{}*", quoted.join(" "))
}

/// The current time, with PostgreSQL's precision.
pub async fn clock(_: &mut Conn) -> Result<DateTime<Utc>, Error> {
    Ok(Utc::now().trunc_subsecs(6))
}

/// Inserts products. Returns the number of inserted rows.
pub async fn insert_products(conn: &mut Conn, rows: Vec<Row>) -> Result<usize, Error> {
    let insert = move |conn: &mut SqliteConnection| {
        let values: Vec<_> = rows.iter().map(Row::insertable).collect();
        diesel::insert_into(products::table).values(values).execute(conn)
    };
    Ok(conn.spawn_blocking(insert).await?)
}

/// Updates products that still have the version of their row. Returns the number of updated rows.
pub async fn change_products(conn: &mut Conn, now: DateTime<Utc>, rows: Vec<Row>) -> Result<usize, Error> {
    let change = move |conn: &mut SqliteConnection| {
        let mut changed = 0;
        for row in &rows {
            let same = products::table.filter(products::id.eq(row.id)).filter(products::version.eq(row.version));
            changed += diesel::update(same)
                .set((
                    products::title.eq(&row.title),
                    products::title_key.eq(&row.title_key),
                    products::description.eq(&row.description),
                    products::price_minor.eq(row.price_minor),
                    products::price_currency.eq(row.price_currency),
                    products::price_rank.eq(row.price_rank),
                    products::version.eq(row.version + 1),
                    products::updated_at.eq(now),
                    products::words.eq(row.words()),
                    products::words_version.eq(row.version + 1),
                    products::low_stock_threshold.eq(row.low_stock_threshold),
                    products::state.eq(&row.state),
                ))
                .execute(conn)?;
        }
        Ok(changed)
    };
    Ok(conn.spawn_blocking(change).await?)
}

/// Writes the search words of products that still have the version of their row.
pub async fn write_words(conn: &mut Conn, rows: Vec<Row>) -> Result<usize, Error> {
    let write = move |conn: &mut SqliteConnection| {
        let mut written = 0;
        for row in &rows {
            let same = products::table.filter(products::id.eq(row.id)).filter(products::version.eq(row.version));
            let words = (products::words.eq(row.words()), products::words_version.eq(row.version));
            written += diesel::update(same).set(words).execute(conn)?;
        }
        Ok(written)
    };
    Ok(conn.spawn_blocking(write).await?)
}

/// Writes all changes. Changes of stock get the time `posted_at`.
pub async fn write(
    conn: &mut Conn,
    now: DateTime<Utc>,
    posted_at: DateTime<Utc>,
    changes: Changes,
    events: Vec<Draft>,
) -> Result<(), Error> {
    let answers = changes
        .answers
        .iter()
        .map(|(id, answer)| Ok((id.clone(), answer.hash.clone(), answer_text(answer)?)))
        .collect::<Result<Vec<_>, Error>>()?;
    conn.spawn_blocking(move |conn| {
        write_stock(conn, posted_at, &changes)?;
        write_reservations(conn, &changes)?;
        for entry in &changes.ledger {
            add_entry(conn, posted_at, entry)?;
        }
        for (id, hash, answer) in &answers {
            diesel::insert_into(requests::table)
                .values((
                    requests::id.eq(id),
                    requests::hash.eq(hash),
                    requests::answer.eq(answer),
                    requests::created_at.eq(now),
                ))
                .execute(conn)?;
        }
        append_blocking(conn, &events)
    })
    .await?;
    Ok(())
}

fn write_stock(conn: &mut SqliteConnection, now: DateTime<Utc>, changes: &Changes) -> QueryResult<()> {
    for row in &changes.stock_added {
        diesel::insert_into(stock::table)
            .values((
                stock::product_id.eq(row.place.0),
                stock::location_id.eq(row.place.1),
                stock::on_hand.eq(row.level.on_hand),
                stock::reserved.eq(row.level.reserved),
                stock::updated_at.eq(now),
            ))
            .execute(conn)?;
    }
    for row in &changes.stock_changed {
        diesel::update(stock::table.find(row.place))
            .set((
                stock::on_hand.eq(row.level.on_hand),
                stock::reserved.eq(row.level.reserved),
                stock::updated_at.eq(now),
            ))
            .kept()
            .execute(conn)?;
    }
    Ok(())
}

fn write_reservations(conn: &mut SqliteConnection, changes: &Changes) -> QueryResult<()> {
    for row in &changes.created {
        diesel::insert_into(reservations::table)
            .values((
                reservations::id.eq(row.order),
                reservations::state.eq(word(row.state)),
                reservations::items_hash.eq(&row.items_hash),
                reservations::expires_at.eq(row.expires_at),
                reservations::created_at.eq(row.created_at),
                reservations::updated_at.eq(row.updated_at),
            ))
            .execute(conn)?;
        add_lines(conn, row)?;
    }
    for row in &changes.moved {
        diesel::update(reservations::table.find(row.order))
            .set((
                reservations::state.eq(word(row.state)),
                reservations::items_hash.eq(&row.items_hash),
                reservations::expires_at.eq(row.expires_at),
                reservations::updated_at.eq(row.updated_at),
            ))
            .kept()
            .execute(conn)?;
    }
    for order in &changes.freed {
        let lines = reservation_lines::table.filter(reservation_lines::reservation_id.eq(order));
        diesel::update(lines).set(reservation_lines::held_until.eq(None::<DateTime<Utc>>)).kept().execute(conn)?;
    }
    for row in &changes.relined {
        let lines = reservation_lines::table.filter(reservation_lines::reservation_id.eq(row.order));
        diesel::delete(lines).execute(conn)?;
        add_lines(conn, row)?;
    }
    for (order, line) in &changes.returned {
        diesel::update(reservation_lines::table.find((*order, line.product, line.location)))
            .set(reservation_lines::returned.eq(line.returned))
            .kept()
            .execute(conn)?;
    }
    Ok(())
}

fn add_lines(conn: &mut SqliteConnection, row: &Reservation) -> QueryResult<()> {
    for line in &row.lines {
        diesel::insert_into(reservation_lines::table)
            .values((
                reservation_lines::reservation_id.eq(row.order),
                reservation_lines::product_id.eq(line.product),
                reservation_lines::location_id.eq(line.location),
                reservation_lines::quantity.eq(line.quantity),
                reservation_lines::returned.eq(line.returned),
                reservation_lines::held_until.eq(row.held_until()),
            ))
            .execute(conn)?;
    }
    Ok(())
}

fn add_entry(conn: &mut SqliteConnection, now: DateTime<Utc>, entry: &Entry) -> QueryResult<()> {
    let (request, item) = entry.request.as_ref().map(|of| (&of.key, of.number)).unzip();
    let movement = &entry.movement;
    diesel::insert_into(ledger::table)
        .values((
            ledger::id.eq(LedgerEntryId::new()),
            ledger::product_id.eq(movement.product),
            ledger::location_id.eq(movement.location),
            ledger::quantity.eq(movement.quantity),
            ledger::on_hand_after.eq(movement.on_hand_after),
            ledger::reason.eq(word(movement.reason)),
            ledger::reference.eq(&movement.reference),
            ledger::note.eq(&movement.note),
            ledger::actor.eq(&movement.actor),
            ledger::request.eq(request),
            ledger::item.eq(item.unwrap_or_default()),
            ledger::created_at.eq(now),
        ))
        .execute(conn)?;
    Ok(())
}
