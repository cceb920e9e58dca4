//! A souk with a lot of data: some products and orders are made over its API, and many more by SQL,
//! because the API would take hours.

use std::{fmt, path::Path, str::FromStr, sync::Arc};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use souk_common::ids::{OrderId, ProductId};
use uuid::Uuid;

use crate::{
    buyers::{Buyers, Demand},
    load::{self, Call, Target},
    souk::{NO_CACHE, Place, Souk},
};

/// Scripts that make products and orders.
const POSTGRES: [&str; 2] =
    [include_str!("../fill/postgres/products.sql"), include_str!("../fill/postgres/orders.sql")];
const SQLITE: [&str; 2] = [include_str!("../fill/sqlite/products.sql"), include_str!("../fill/sqlite/orders.sql")];

/// Every shop has at least this many products, so that pages are full.
const PRODUCTS: u64 = 1000;
const ORDERS: u64 = 60;
/// The number of names that are read for a sample.
const SAMPLE: u64 = 10_000;

/// The number of products and orders that are added by SQL.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub products: u64,
    pub orders: u64,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once(':').and_then(|(products, orders)| {
            Some(Self { products: products.parse().ok()?, orders: orders.parse().ok()? })
        });
        numbers.ok_or_else(|| format!("{text:?} must be PRODUCTS:ORDERS, as 100000:1000000"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.products, self.orders)
    }
}

/// A filled souk.
pub struct Filled<'s> {
    pub souk: Souk<'s>,
    /// A buyer who has some orders.
    pub buyers: Buyers,
    /// A sample of resource names of products, made by SQL and over the API.
    pub products: Vec<String>,
    /// A sample of resource names of orders of all customers, made by SQL and over the API.
    pub orders: Vec<String>,
}

impl<'s> Filled<'s> {
    /// Starts and fills a new souk, with additional settings, and checks its promises.
    ///
    /// # Errors
    /// If that fails, or a promise is broken.
    pub async fn new(binary: &Path, place: Place<'s>, size: Size, settings: &[(&str, &str)]) -> Result<Self> {
        let souk = Souk::start(binary, place, &[&[NO_CACHE], settings].concat()).await?;
        let buyers = Buyers::with(&souk, PRODUCTS as usize).await?;
        let order = buyers.rest(Demand::Uniform);
        for _ in 0..ORDERS {
            load::once(&order).await?;
        }
        let run = |service: &str, script: &str, variables: &[(&str, u64)]| -> Result<()> {
            let script = variables.iter().fold(script.to_owned(), |script, (name, value)| {
                script.replace(&format!(":{name}"), &value.to_string())
            });
            souk.run(service, &script).with_context(|| format!("filling the database of {service}"))
        };
        let [more_products, more_orders] = match place {
            Place::Postgres(..) => POSTGRES,
            Place::Sqlite => SQLITE,
        };
        if size.products > 0 {
            run("inventory", more_products, &[("first", PRODUCTS), ("last", PRODUCTS + size.products - 1)])?;
        }
        if size.orders > 0 {
            run("order", more_orders, &[("count", size.orders)])?;
        }
        souk.vacuum()?;
        souk.verify().await?;
        let id = match place {
            Place::Postgres(..) => "id",
            Place::Sqlite => "lower(hex(id))",
        };
        let sample = |service: &str, table: &str| -> Result<Vec<Uuid>> {
            let query = format!("SELECT {id} AS text FROM {table} ORDER BY random() LIMIT {SAMPLE}");
            let ids: Vec<Uuid> = souk.texts(service, &query)?.iter().map(|id| id.parse()).collect::<Result<_, _>>()?;
            ensure!(!ids.is_empty(), "no {table}");
            Ok(ids)
        };
        let products = sample("inventory", "products")?;
        let orders = sample("order", "orders WHERE state = 'CONFIRMED'")?;
        Ok(Self {
            products: products.into_iter().map(|id| ProductId::from_uuid(id).name()).collect(),
            orders: orders.into_iter().map(|id| OrderId::from_uuid(id).name()).collect(),
            souk,
            buyers,
        })
    }

    /// Reads of orders: any order, as staff; the newest 20 orders of the buyer; the newest 20 of all orders, those in rare
    /// states, and sagas, as staff.
    pub fn order_reads(&self) -> [(&'static str, Target); 8] {
        let (orders, staff) = (self.orders.clone(), &self.souk.shop.token);
        let any = move || format!("/v1/{}", orders[rand::random_range(0..orders.len())]);
        let page = || "/v1/orders?pageSize=20".to_owned();
        let list = |path: &'static str| {
            let check = Arc::new(|answer: &Bytes| answer.starts_with(b"{"));
            let call = Call::Get(Arc::new(move || path.to_owned()));
            Target { address: self.souk.gateway(), call, token: staff.clone(), check }
        };
        [
            ("an order", self.buyers.read(any, staff, 1)),
            ("own orders", self.buyers.read(page, &self.buyers.token, 20)),
            ("all orders", self.buyers.read(page, staff, 20)),
            ("rejected orders", list("/v1/orders?pageSize=20&filter=state%20%3D%20STATE_REJECTED")),
            ("pending orders", list("/v1/orders?pageSize=20&filter=state%20%3D%20STATE_PENDING")),
            ("orders not confirmed", list("/v1/orders?pageSize=20&filter=state%20%21%3D%20STATE_CONFIRMED")),
            ("sagas", list("/v1/sagas?pageSize=20")),
            ("failed sagas", list("/v1/sagas?pageSize=20&filter=attempts%20%3E%3D%203")),
        ]
    }
}
