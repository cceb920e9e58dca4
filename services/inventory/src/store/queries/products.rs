//! The catalogue.

pub mod list;
pub mod upsert;

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::{
    dsl::{Eq, sql},
    prelude::*,
    sql_types::Bool,
};
use diesel_async::RunQueryDsl;
use souk_common::{
    ids::ProductId,
    money::{Currency, Money},
};
use souk_store::db::{DbError, Keep as _};

use super::{
    super::{Any, Conn, append_events, change_products, clock, padded, schema::products, write_words},
    CHUNK,
};
use crate::{
    domain::{
        book::Facts,
        command::Refusal,
        product::{Change, Draft, Product, State, code_key, search::words_of, title_key},
    },
    error::Error,
    events,
    store::{
        codes::{value, word},
        collided,
    },
};

/// A product as it is stored.
#[derive(Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = products)]
pub struct Row {
    pub id: ProductId,
    pub sku: String,
    pub sku_key: String,
    pub title: String,
    pub title_key: String,
    pub description: String,
    pub price_minor: i64,
    pub price_currency: Currency,
    pub price_rank: i64,
    pub tracking: String,
    pub state: String,
    pub version: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub low_stock_threshold: Option<i64>,
}

/// A row with its search words, as it is inserted.
type WithWords<'a> = (&'a Row, Eq<products::words, String>, Eq<products::words_version, i64>);

impl Row {
    /// The search words of the product.
    pub fn words(&self) -> String {
        words_of(&self.sku, &self.title, &self.description)
    }

    /// The row with a change. Its version is still the one that was read.
    pub fn with(mut self, change: Change) -> Self {
        if let Some(title) = change.title {
            self.title_key = title_key(&title);
            self.title = title;
        }
        if let Some(description) = change.description {
            self.description = description;
        }
        if let Some(price) = change.price {
            self.price_minor = price.money().minor;
            self.price_currency = price.money().currency;
            self.price_rank = price.rank();
        }
        if let Some(threshold) = change.low_stock_threshold {
            self.low_stock_threshold = threshold;
        }
        self
    }

    /// The product after its change was written.
    pub fn written(self, now: DateTime<Utc>) -> Result<Product, Error> {
        Row { version: self.version + 1, updated_at: now, ..self }.try_into()
    }

    fn is_archived(&self) -> bool {
        self.state == word(State::Archived)
    }

    /// The row with its search words.
    pub fn insertable(&self) -> WithWords<'_> {
        (self, products::words.eq(self.words()), products::words_version.eq(self.version))
    }
}

impl TryFrom<Row> for Product {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        Ok(Self {
            id: row.id,
            sku: row.sku,
            title: row.title,
            description: row.description,
            price: Money::new(row.price_minor, row.price_currency),
            tracking: value(&row.tracking)?,
            low_stock_threshold: row.low_stock_threshold,
            state: value(&row.state)?,
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

pub fn read(rows: Vec<Row>) -> Result<Vec<Product>, Error> {
    rows.into_iter().map(Product::try_from).collect()
}

/// The row of a new product.
pub fn row_of(id: ProductId, draft: &Draft, now: DateTime<Utc>) -> Row {
    let money = draft.price.money();
    Row {
        id,
        sku: draft.sku.clone(),
        sku_key: code_key(&draft.sku),
        title: draft.title.clone(),
        title_key: title_key(&draft.title),
        description: draft.description.clone(),
        price_minor: money.minor,
        price_currency: money.currency,
        price_rank: draft.price.rank(),
        tracking: word(draft.tracking).to_owned(),
        state: word(State::Active).to_owned(),
        version: 1,
        created_at: now,
        updated_at: now,
        low_stock_threshold: draft.low_stock_threshold,
    }
}

pub async fn create(conn: &mut Conn, draft: &Draft) -> Result<Product, Error> {
    let row = row_of(ProductId::new(), draft, clock(conn).await?);
    let inserted = diesel::insert_into(products::table).values(row.insertable()).execute(conn).await;
    match inserted.map_err(DbError::from) {
        Ok(_) => {
            let product = row.try_into()?;
            append_events(conn, &[events::product("product.created", &product)]).await?;
            Ok(product)
        }
        Err(error) => match error.unique_violation() {
            Some("products_sku_key_key" | "products.sku_key") => Err(Error::SkuTaken(draft.sku.clone())),
            _ => Err(error.into()),
        },
    }
}

pub async fn by_id(conn: &mut Conn, ids: &[ProductId]) -> Result<Vec<Product>, Error> {
    let rows = products::table.filter(products::id.eq_any(padded(ids))).select(Row::as_select());
    read(rows.kept().load(conn).await?)
}

pub async fn by_sku(conn: &mut Conn, skus: &[String]) -> Result<Vec<Product>, Error> {
    let keys: Vec<_> = skus.iter().map(|sku| code_key(sku)).collect();
    let rows = products::table.filter(products::sku_key.eq_any(padded(&keys))).select(Row::as_select());
    read(rows.kept().load(conn).await?)
}

/// The facts about a product that a batch needs.
#[derive(Queryable, Selectable)]
#[diesel(table_name = products)]
struct FactsRow {
    id: ProductId,
    state: String,
    tracking: String,
    low_stock_threshold: Option<i64>,
}

/// The facts about products that a batch needs.
pub async fn facts(conn: &mut impl Any, ids: &[ProductId]) -> Result<HashMap<ProductId, Facts>, Error> {
    let mut all = HashMap::new();
    for chunk in ids.chunks(CHUNK) {
        let rows = products::table.filter(products::id.eq_any(padded(chunk))).select(FactsRow::as_select());
        for FactsRow { id, state, tracking, low_stock_threshold } in rows.kept().load(conn).await? {
            all.insert(id, Facts { state: value(&state)?, tracking: value(&tracking)?, low_stock_threshold });
        }
    }
    Ok(all)
}

/// Locks the products of these stock codes, in key order.
pub async fn lock(conn: &mut Conn, keys: &[String]) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    for chunk in keys.chunks(CHUNK) {
        let part = products::table
            .filter(products::sku_key.eq_any(padded(chunk)))
            .order(products::sku_key)
            .select(Row::as_select());
        rows.extend(locked!(part).kept().load(conn).await?);
    }
    Ok(rows)
}

/// Creates the search words of products whose words are outdated.
pub async fn make_words(conn: &mut Conn, limit: i64) -> Result<u64, Error> {
    // Written as in the index's condition, so that the planner uses the index.
    let stale = products::table.filter(sql::<Bool>("words_version <> version"));
    let rows: Vec<Row> = stale.order(products::id).limit(limit).select(Row::as_select()).load(conn).await?;
    Ok(if rows.is_empty() { 0 } else { write_words(conn, rows).await? as u64 })
}

pub async fn update(conn: &mut Conn, id: ProductId, etag: Option<&str>, change: &Change) -> Result<Product, Error> {
    let row = current(conn, id, etag).await?;
    if row.is_archived() {
        return Err(Refusal::Archived(vec![id]).into());
    }
    if *change == Change::default() {
        return row.try_into();
    }
    save(conn, row.with(change.clone()), "product.updated").await
}

pub async fn archive(conn: &mut Conn, id: ProductId, etag: Option<&str>) -> Result<Product, Error> {
    let row = current(conn, id, etag).await?;
    if row.is_archived() {
        return row.try_into();
    }
    save(conn, Row { state: word(State::Archived).to_owned(), ..row }, "product.archived").await
}

/// The current product, if it has the etag that the caller sent.
async fn current(conn: &mut Conn, id: ProductId, etag: Option<&str>) -> Result<Row, Error> {
    let found = products::table.find(id).select(Row::as_select()).first::<Row>(conn).await.optional()?;
    let row = found.ok_or(Refusal::NoProduct(id))?;
    match etag {
        Some(etag) if etag != Product::try_from(row.clone())?.etag() => Err(Error::EtagMismatch),
        _ => Ok(row),
    }
}

/// Writes a change and its event, unless another change was written after the read.
async fn save(conn: &mut Conn, row: Row, event: &'static str) -> Result<Product, Error> {
    let now = clock(conn).await?;
    if change_products(conn, now, vec![row.clone()]).await? == 0 {
        return Err(collided());
    }
    let product = row.written(now)?;
    append_events(conn, &[events::product(event, &product)]).await?;
    Ok(product)
}
