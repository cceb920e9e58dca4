//! The checks of `souk verify`. Each one finds rows that break a promise.

use diesel::{
    QueryableByName, sql_query,
    sql_types::{BigInt, Text},
};
use diesel_async::RunQueryDsl;
use souk_common::ids::{LocationId, OrderId, ProductId};
use souk_store::verify::{Check, LIMIT};

use super::{
    super::{Conn, schema::Id},
    stock::balances::books,
};
use crate::error::Error;

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    counted: i64,
}

/// A place with two numbers that should be equal.
#[derive(QueryableByName)]
struct Differing {
    #[diesel(sql_type = Id)]
    product_id: ProductId,
    #[diesel(sql_type = Id)]
    location_id: LocationId,
    #[diesel(sql_type = BigInt)]
    found: i64,
    #[diesel(sql_type = BigInt)]
    expected: i64,
}

/// A reservation that breaks a promise.
#[derive(QueryableByName)]
struct Odd {
    #[diesel(sql_type = Id)]
    id: OrderId,
    #[diesel(sql_type = Text)]
    state: String,
}

/// A promise about places: the table that it covers, and a query for `product_id`, `location_id`, `found` and
/// `expected`. `BOOKS` is replaced by the query for every balance with its proof.
struct PlacePromise {
    name: &'static str,
    table: &'static str,
    broken: &'static str,
}

const PLACES: &[PlacePromise] = &[
    PlacePromise {
        name: "stock on hand is the sum of its ledger",
        table: "stock",
        broken: "SELECT product_id, location_id, on_hand AS found, ledger AS expected
            FROM (BOOKS) books WHERE on_hand <> ledger",
    },
    PlacePromise {
        name: "every ledger entry follows from the one before",
        table: "ledger",
        broken: "SELECT product_id, location_id, on_hand_after AS found, CAST(before + quantity AS bigint) AS expected
            FROM (
                SELECT seq, product_id, location_id, quantity, on_hand_after, coalesce(
                    lag(on_hand_after) OVER (PARTITION BY product_id, location_id ORDER BY seq), 0) AS before
                FROM ledger
            ) entries
            WHERE on_hand_after <> before + quantity",
    },
    PlacePromise {
        name: "reserved stock is what open reservations hold",
        table: "stock",
        broken: "SELECT product_id, location_id, reserved AS found, held AS expected
            FROM (BOOKS) books WHERE reserved <> held",
    },
    PlacePromise {
        name: "reserved stock is between zero and the stock on hand",
        table: "stock",
        broken: "SELECT product_id, location_id, reserved AS found, on_hand AS expected
            FROM stock WHERE reserved < 0 OR reserved > on_hand",
    },
    PlacePromise {
        name: "every ledger entry and every reservation line has a balance",
        table: "ledger",
        broken: "SELECT l.product_id, l.location_id, count(*) AS found, CAST(0 AS bigint) AS expected
            FROM (
                SELECT product_id, location_id FROM ledger
                UNION ALL SELECT product_id, location_id FROM reservation_lines
            ) l LEFT JOIN stock s ON s.product_id = l.product_id AND s.location_id = l.location_id
            WHERE s.product_id IS NULL GROUP BY l.product_id, l.location_id",
    },
    PlacePromise {
        name: "committed reservations are the sales of the ledger",
        table: "stock",
        broken: "SELECT s.product_id, s.location_id, CAST(coalesce(l.total, 0) AS bigint) AS found,
                CAST(coalesce(c.total, 0) AS bigint) AS expected
            FROM stock s LEFT JOIN (
                SELECT product_id, location_id, -sum(quantity) AS total
                FROM ledger WHERE reason = 'SALE' GROUP BY product_id, location_id
            ) l ON l.product_id = s.product_id AND l.location_id = s.location_id
            LEFT JOIN (
                SELECT line.product_id, line.location_id, sum(line.quantity) AS total
                FROM reservation_lines line
                JOIN reservations r ON r.id = line.reservation_id AND r.state = 'COMMITTED'
                GROUP BY line.product_id, line.location_id
            ) c ON c.product_id = s.product_id AND c.location_id = s.location_id
            WHERE coalesce(l.total, 0) <> coalesce(c.total, 0)",
    },
    PlacePromise {
        // Staff can also return goods manually. Only returns that a service requested belong to reservations.
        name: "goods that came back to reservations are the returns of the ledger",
        table: "stock",
        broken: "SELECT s.product_id, s.location_id, CAST(coalesce(l.total, 0) AS bigint) AS found,
                CAST(coalesce(c.total, 0) AS bigint) AS expected
            FROM stock s LEFT JOIN (
                SELECT product_id, location_id, sum(quantity) AS total
                FROM ledger WHERE reason = 'RETURN' AND actor LIKE 'services/%'
                GROUP BY product_id, location_id
            ) l ON l.product_id = s.product_id AND l.location_id = s.location_id
            LEFT JOIN (
                SELECT product_id, location_id, sum(returned) AS total
                FROM reservation_lines GROUP BY product_id, location_id
            ) c ON c.product_id = s.product_id AND c.location_id = s.location_id
            WHERE coalesce(l.total, 0) <> coalesce(c.total, 0)",
    },
];

impl PlacePromise {
    /// The statement that finds violations.
    fn statement(&self) -> String {
        format!("{} LIMIT {LIMIT}", self.broken.replace("BOOKS", &books("TRUE")))
    }
}

/// The statements that find violations of promises about places.
#[cfg(test)]
#[allow(dead_code, reason = "only the plans of SQLite are tested")]
pub fn statements() -> Vec<String> {
    PLACES.iter().map(PlacePromise::statement).chain([lines_statement()]).collect()
}

/// Runs all checks.
pub async fn all(conn: &mut Conn) -> Result<Vec<Check>, Error> {
    let mut checks = Vec::new();
    for promise in PLACES {
        let rows: Vec<Differing> = sql_query(promise.statement()).load(conn).await?;
        let words = |row: Differing| {
            let (product, location) = (row.product_id.name(), row.location_id.name());
            format!("{product} at {location}: {} found, {} expected", row.found, row.expected)
        };
        checks.push(Check {
            name: promise.name,
            counted: count(conn, promise.table).await?,
            broken: rows.into_iter().map(words).collect(),
        });
    }
    checks.push(lines_follow_their_reservation(conn).await?);
    Ok(checks)
}

/// The statement that finds reservations with lines that do not fit.
fn lines_statement() -> String {
    format!(
        "SELECT line.reservation_id AS id, coalesce(r.state, 'missing') AS state
         FROM reservation_lines line LEFT JOIN reservations r ON r.id = line.reservation_id
         WHERE r.id IS NULL
            OR (r.state = 'OPEN') <> (line.held_until IS NOT NULL)
            OR (line.held_until IS NOT NULL AND line.held_until <> r.expires_at)
            OR (line.returned > 0 AND r.state <> 'COMMITTED')
         LIMIT {LIMIT}"
    )
}

async fn lines_follow_their_reservation(conn: &mut Conn) -> Result<Check, Error> {
    let rows: Vec<Odd> = sql_query(lines_statement()).load(conn).await?;
    let words = |row: Odd| format!("{}: {}, but its lines say otherwise", row.id.name(), row.state);
    Ok(Check {
        name: "lines hold stock while their reservation is open, and come back only after it was sold",
        counted: count(conn, "reservation_lines").await?,
        broken: rows.into_iter().map(words).collect(),
    })
}

async fn count(conn: &mut Conn, table: &str) -> Result<i64, Error> {
    let count: Count = sql_query(format!("SELECT count(*) AS counted FROM {table}")).get_result(conn).await?;
    Ok(count.counted)
}
