//! A souk on PostgreSQL with a lot of data: some products and orders are made over its API, and many more by SQL,
//! because the API would take hours.

use std::{fmt, path::Path, str::FromStr};

use anyhow::{Context, Result, ensure};
use souk_common::ids::{OrderId, ProductId};
use souk_testkit::servers::Server;
use uuid::Uuid;

use crate::{
    buyers::{Buyers, Demand},
    floor,
    load::{self, Target},
    souk::{NO_CACHE, Place, Souk},
};

const MORE_PRODUCTS: &str = include_str!("../fill/products.sql");
const MORE_ORDERS: &str = include_str!("../fill/orders.sql");

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
    /// Starts and fills a new souk, and checks its promises.
    ///
    /// # Errors
    /// If that fails, or a promise is broken.
    pub async fn new(binary: &Path, (server, prefix): (&'s Server, &'s str), size: Size) -> Result<Self> {
        let souk = Souk::start(binary, Place::Postgres(server, prefix), &[NO_CACHE]).await?;
        let buyers = Buyers::with(&souk, PRODUCTS as usize).await?;
        let order = buyers.rest(Demand::Uniform);
        for _ in 0..ORDERS {
            load::once(&order).await?;
        }
        let run = |service: &str, script: &str, variables: &[(&str, u64)]| -> Result<String> {
            let script = variables.iter().fold(script.to_owned(), |script, (name, value)| {
                script.replace(&format!(":{name}"), &value.to_string())
            });
            floor::query(server, &Place::database(prefix, service), &script)
        };
        if size.products > 0 {
            run("inventory", MORE_PRODUCTS, &[("first", PRODUCTS), ("last", PRODUCTS + size.products - 1)])?;
        }
        if size.orders > 0 {
            run("order", MORE_ORDERS, &[("count", size.orders)])?;
        }
        souk.vacuum()?;
        souk.verify().await?;
        let sample = |service: &str, table: &str, all: u64| -> Result<Vec<Uuid>> {
            let share = SAMPLE as f64 / all as f64;
            let found = run(service, &format!("SELECT id FROM {table} WHERE random() < {share} LIMIT {SAMPLE}"), &[])?;
            let ids: Vec<Uuid> = found.lines().map(str::parse).collect::<Result<_, _>>().context(found)?;
            ensure!(!ids.is_empty(), "no {table}");
            Ok(ids)
        };
        let products = sample("inventory", "products", PRODUCTS + size.products)?;
        let orders = sample("order", "orders", ORDERS + size.orders)?;
        Ok(Self {
            products: products.into_iter().map(|id| ProductId::from_uuid(id).name()).collect(),
            orders: orders.into_iter().map(|id| OrderId::from_uuid(id).name()).collect(),
            souk,
            buyers,
        })
    }

    /// Reads of orders: any order, as staff; the newest 20 orders of the buyer; the newest 20 of all orders, as staff.
    pub fn order_reads(&self) -> [(&'static str, Target); 3] {
        let (orders, staff) = (self.orders.clone(), &self.souk.shop.token);
        let any = move || format!("/v1/{}", orders[rand::random_range(0..orders.len())]);
        let page = || "/v1/orders?pageSize=20".to_owned();
        [
            ("an order", self.buyers.read(any, staff, 1)),
            ("own orders", self.buyers.read(page, &self.buyers.token, 20)),
            ("all orders", self.buyers.read(page, staff, 20)),
        ]
    }
}
