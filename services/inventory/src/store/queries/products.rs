//! The catalogue.

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
use souk_store::db::DbError;

use super::{
    super::{Any, Conn, append_events, clock, schema::products, write_words},
    CHUNK,
};
use crate::{
    domain::{
        product::{Change, Draft, Product, State, code_key, title_key},
        search::words_of,
    },
    error::Error,
    outbox,
    store::codes::{value, word},
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

/// A row with its words: what is inserted.
type WithWords<'a> = (&'a Row, Eq<products::words, String>, Eq<products::words_version, i64>);

impl Row {
    /// The words that the product is found by.
    pub fn words(&self) -> String {
        words_of(&self.sku, &self.title, &self.description)
    }

    /// The row with its words.
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

#[derive(AsChangeset)]
#[diesel(table_name = products)]
struct Changed {
    title: Option<String>,
    title_key: Option<String>,
    description: Option<String>,
    price_minor: Option<i64>,
    price_currency: Option<Currency>,
    price_rank: Option<i64>,
    state: Option<&'static str>,
    version: i64,
    updated_at: DateTime<Utc>,
    words: String,
    words_version: i64,
    low_stock_threshold: Option<Option<i64>>,
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
            append_events(conn, &[outbox::product("product.created", &product)]).await?;
            Ok(product)
        }
        Err(error) => match error.unique_violation() {
            Some("products_sku_key_key" | "products.sku_key") => Err(Error::SkuTaken(draft.sku.clone())),
            _ => Err(error.into()),
        },
    }
}

pub async fn by_id(conn: &mut Conn, ids: &[ProductId]) -> Result<Vec<Product>, Error> {
    let rows = products::table.filter(products::id.eq_any(ids)).select(Row::as_select());
    read(rows.load(conn).await?)
}

pub async fn by_sku(conn: &mut Conn, skus: &[String]) -> Result<Vec<Product>, Error> {
    let keys: Vec<_> = skus.iter().map(|sku| code_key(sku)).collect();
    let rows = products::table.filter(products::sku_key.eq_any(keys)).select(Row::as_select());
    read(rows.load(conn).await?)
}

/// A product's id, state, tracking and low-stock threshold.
pub type FactsRow = (ProductId, String, String, Option<i64>);

/// What a batch must know of products, in no order.
pub async fn facts(conn: &mut impl Any, ids: &[ProductId]) -> Result<Vec<FactsRow>, Error> {
    let mut all = Vec::new();
    for chunk in ids.chunks(CHUNK) {
        let rows = products::table.filter(products::id.eq_any(chunk)).select((
            products::id,
            products::state,
            products::tracking,
            products::low_stock_threshold,
        ));
        all.extend(rows.load::<FactsRow>(conn).await?);
    }
    Ok(all)
}

/// Makes the words of products whose words are not those of their version.
pub async fn make_words(conn: &mut Conn, limit: i64) -> Result<u64, Error> {
    // As it is in the index' own condition.
    let stale = products::table.filter(sql::<Bool>("words_version <> version"));
    let rows: Vec<Row> = stale.order(products::id).limit(limit).select(Row::as_select()).load(conn).await?;
    Ok(if rows.is_empty() { 0 } else { write_words(conn, rows).await? as u64 })
}

pub async fn update(conn: &mut Conn, id: ProductId, etag: Option<&str>, change: &Change) -> Result<Product, Error> {
    let product = current(conn, id, etag).await?;
    if product.state == State::Archived {
        return Err(Error::Archived(id));
    }
    if *change == Change::default() {
        return Ok(product);
    }
    let changed = Changed {
        title: change.title.clone(),
        title_key: change.title.as_deref().map(title_key),
        description: change.description.clone(),
        price_minor: change.price.map(|price| price.money().minor),
        price_currency: change.price.map(|price| price.money().currency),
        price_rank: change.price.map(|price| price.rank()),
        state: None,
        version: product.version + 1,
        updated_at: clock(conn).await?,
        low_stock_threshold: change.low_stock_threshold,
        words: words_of(
            &product.sku,
            change.title.as_deref().unwrap_or(&product.title),
            change.description.as_deref().unwrap_or(&product.description),
        ),
        words_version: product.version + 1,
    };
    save(conn, &product, &changed, "product.updated").await
}

pub async fn archive(conn: &mut Conn, id: ProductId, etag: Option<&str>) -> Result<Product, Error> {
    let product = current(conn, id, etag).await?;
    if product.state == State::Archived {
        return Ok(product);
    }
    let changed = Changed {
        title: None,
        title_key: None,
        description: None,
        price_minor: None,
        price_currency: None,
        price_rank: None,
        state: Some(word(State::Archived)),
        version: product.version + 1,
        updated_at: clock(conn).await?,
        low_stock_threshold: None,
        words: words_of(&product.sku, &product.title, &product.description),
        words_version: product.version + 1,
    };
    save(conn, &product, &changed, "product.archived").await
}

/// The product as it is, if the caller saw it so.
async fn current(conn: &mut Conn, id: ProductId, etag: Option<&str>) -> Result<Product, Error> {
    let product = by_id(conn, &[id]).await?.pop().ok_or(Error::NoProduct(id))?;
    match etag {
        Some(etag) if etag != product.etag() => Err(Error::EtagMismatch),
        _ => Ok(product),
    }
}

/// Writes a change and its event, unless another one came between reading and writing.
async fn save(conn: &mut Conn, product: &Product, changed: &Changed, event: &'static str) -> Result<Product, Error> {
    let same = products::table.filter(products::id.eq(product.id)).filter(products::version.eq(product.version));
    let saved = diesel::update(same).set(changed).execute(conn).await?;
    if saved == 0 {
        return Err(crate::store::collided());
    }
    let product = by_id(conn, &[product.id]).await?.pop().ok_or(Error::NoProduct(product.id))?;
    append_events(conn, &[outbox::product(event, &product)]).await?;
    Ok(product)
}
