//! Every balance with its proof. `souk verify` checks them, and `ReconcileStock` also corrects them.

use diesel::{QueryableByName, prelude::*, sql_query, sql_types::BigInt};
use diesel_async::RunQueryDsl;
use souk_common::ids::{LocationId, ProductId};

use super::super::{
    super::{
        Conn, clock,
        schema::{Id, stock},
        write,
    },
    products, stock as levels,
};
use crate::{
    domain::{
        book::{Changes, Entry, StockRow},
        product::State,
        stock::{
            Level, Movement, Place, Reason,
            balance::{Balance, BalancePage, Mended},
        },
    },
    error::Error,
    events,
};

/// A query for the `product_id`, `location_id`, `on_hand` and `reserved` of every place. It also has the sum of the
/// `ledger`, and the pieces that open reservations have `held`. `within` is a condition on `product_id` that limits all
/// tables.
pub fn books(within: &str) -> String {
    format!(
        "SELECT s.product_id, s.location_id, s.on_hand, s.reserved,
            CAST(coalesce(l.total, 0) AS bigint) AS ledger, CAST(coalesce(r.total, 0) AS bigint) AS held
        FROM (SELECT * FROM stock WHERE {within}) s
        LEFT JOIN (
            SELECT product_id, location_id, sum(quantity) AS total
            FROM ledger WHERE {within} GROUP BY product_id, location_id
        ) l ON l.product_id = s.product_id AND l.location_id = s.location_id
        LEFT JOIN (
            SELECT product_id, location_id, sum(quantity) AS total
            FROM reservations JOIN reservation_lines ON reservation_id = reservations.id
            WHERE state = 'OPEN' AND {within} GROUP BY product_id, location_id
        ) r ON r.product_id = s.product_id AND r.location_id = s.location_id"
    )
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Id)]
    product_id: ProductId,
    #[diesel(sql_type = Id)]
    location_id: LocationId,
    #[diesel(sql_type = BigInt)]
    on_hand: i64,
    #[diesel(sql_type = BigInt)]
    reserved: i64,
    #[diesel(sql_type = BigInt)]
    ledger: i64,
    #[diesel(sql_type = BigInt)]
    held: i64,
}

impl From<Row> for Balance {
    fn from(row: Row) -> Self {
        Self {
            place: (row.product_id, row.location_id),
            book: Level { on_hand: row.on_hand, reserved: row.reserved },
            proof: Level { on_hand: row.ledger, reserved: row.held },
        }
    }
}

/// The balances of a page of products. Call it within one snapshot.
pub async fn page(conn: &mut Conn, after: Option<ProductId>, size: i64) -> Result<BalancePage, Error> {
    let products = products_after(conn, after, size + 1).await?;
    let page = &products[..products.len().min(usize::try_from(size).unwrap_or_default())];
    let balances = match (page.first(), page.last()) {
        (Some(first), Some(last)) => of(conn, *first, *last).await?,
        _ => Vec::new(),
    };
    Ok(BalancePage { products, balances })
}

/// Products that have or had stock, by id, after the given one.
async fn products_after(conn: &mut Conn, after: Option<ProductId>, limit: i64) -> Result<Vec<ProductId>, Error> {
    let mut query =
        stock::table.select(stock::product_id).distinct().order(stock::product_id).limit(limit).into_boxed();
    if let Some(after) = after {
        query = query.filter(stock::product_id.gt(after));
    }
    Ok(query.load(conn).await?)
}

/// The balances of the products from `first` to `last`, by product and location.
async fn of(conn: &mut Conn, first: ProductId, last: ProductId) -> Result<Vec<Balance>, Error> {
    let query = format!("{} ORDER BY s.product_id, s.location_id", books("product_id >= $1 AND product_id <= $2"));
    let rows: Vec<Row> = sql_query(query).bind::<Id, _>(first).bind::<Id, _>(last).load(conn).await?;
    Ok(rows.into_iter().map(Balance::from).collect())
}

/// Corrects a place's balance, if it is still wrong after the place was locked.
pub async fn mend(conn: &mut Conn, place: Place, actor: &str) -> Result<Option<Mended>, Error> {
    let (product, location) = place;
    let locked = levels::lock(conn, &[product]).await?;
    let balance = of(conn, product, product).await?.into_iter().find(|balance| balance.place == place);
    let Some(balance) = balance.filter(Balance::drifts) else { return Ok(None) };
    let mended = balance.mended();
    let mut changes = Changes { stock_changed: vec![StockRow { place, level: mended.level }], ..Changes::default() };
    if mended.entry != 0 {
        let movement = Movement {
            product,
            location,
            quantity: mended.entry,
            on_hand_after: mended.level.on_hand,
            reason: Reason::Correction,
            reference: "reconciliation".to_owned(),
            note: format!("the book said {}, the ledger {}", balance.book.on_hand, balance.proof.on_hand),
            actor: actor.to_owned(),
        };
        changes.ledger.push(Entry { movement, request: None });
    }
    let now = clock(conn).await?;
    let posted_at = locked.iter().map(|line| line.updated_at).fold(now, Ord::max);
    let facts = products::facts(conn, &[product]).await?;
    let is_archived = facts.get(&product).is_some_and(|facts| facts.state == State::Archived);
    let archived = is_archived.then_some(product).into_iter().collect();
    let drafts = events::stock(changes.stock_changed.iter(), &archived, posted_at);
    write(conn, now, posted_at, changes, drafts).await?;
    Ok(Some(mended))
}
