//! `souk demo`: a small believable shop, set up through the public API of a running souk.
//!
//! Everything has a key: stock codes, location codes, external ids, request ids. Existing resources are not changed, so
//! a run that was stopped can be run again, and a second run adds nothing.

mod orders;

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use souk_import::api::{Api, list, text};

use crate::{cli::DemoArgs, data_dir::DataDir, staff};

/// The prefix of external ids and request ids, which makes them unique.
const SOURCE: &str = "demo";
/// The currency of the shop.
const CURRENCY: &str = "EUR";

/// The content of the shop: `demo.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shop {
    locations: Vec<Location>,
    products: Vec<Product>,
    customers: Vec<Customer>,
    orders: Vec<orders::Order>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Location {
    code: String,
    display_name: String,
    priority: i32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Product {
    sku: String,
    title: String,
    description: String,
    /// The price in minor units.
    price: i64,
    /// The initial stock. Without it, stock is not tracked.
    stock: Option<Stock>,
    low_stock_threshold: Option<i64>,
}

/// Pieces at each location.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stock {
    main: i64,
    north: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Customer {
    id: String,
    name: String,
    address: Address,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Address {
    line: String,
    locality: String,
    postal_code: String,
    region: String,
}

/// Resource names by their key in the shop's file.
type Names = BTreeMap<String, String>;

impl Shop {
    fn load() -> anyhow::Result<Self> {
        toml::from_str(include_str!("demo.toml")).context("the demo shop cannot be read")
    }
}

/// Sets up the shop. `data_dir` has the credentials that `souk up` stored.
pub async fn run(args: &DemoArgs, data_dir: &DataDir) -> anyhow::Result<()> {
    let shop = Shop::load()?;
    let running = data_dir.running().map(|running| running.gateway);
    let server = args.server.clone().or(running).unwrap_or_else(|| "http://127.0.0.1:8080".to_owned());
    let api = staff::api(&server, data_dir)?;

    let products = products(&api, &shop).await?;
    println!("{} products", products.len());
    let north = locations(&api, &shop).await?;
    opening_stock(&api, &shop, &products, &north).await?;
    println!("stock at {} locations", shop.locations.len() + 1);
    let customers = customers(&api, &shop).await?;
    println!("{} customers", customers.len());
    let placed = orders::run(&api, &shop, &products, &customers).await?;
    println!("{} orders", placed.values().sum::<usize>());
    for (state, count) in &placed {
        println!("  {count:>3} {state}");
    }
    println!("{}", where_to_look(&server, data_dir));
    Ok(())
}

fn where_to_look(server: &str, data_dir: &DataDir) -> String {
    let credentials = data_dir.credentials_file();
    let credentials = credentials.display();
    format!(
        "
Look around:
  {server}/docs                          the whole API, to read and to try
  curl {server}/v1/products              what is sold
  curl -G {server}/v1/products --data-urlencode 'filter=price <= 10 AND title:\"tea\"'

As the administrator:
  TOKEN=$(jq '{{email, password}}' {credentials} | curl -s {server}/v1/sessions:logIn --json @- | jq -r .accessToken)
  curl {server}/v1/orders -H \"authorization: Bearer $TOKEN\"
  curl {server}/v1/stock:low -H \"authorization: Bearer $TOKEN\"

The demo's customers have no password and cannot log in. Register one of your own to buy something."
    )
}

/// Money from minor units.
fn money(minor: i64) -> Value {
    json!({ "currencyCode": CURRENCY, "units": (minor / 100).to_string(), "nanos": minor % 100 * 10_000_000 })
}

/// Sends the catalogue as one feed, which does not change existing products.
async fn products(api: &Api, shop: &Shop) -> anyhow::Result<Names> {
    let product = |product: &Product| {
        let tracking = if product.stock.is_some() { "STOCK_TRACKING_TRACKED" } else { "STOCK_TRACKING_UNTRACKED" };
        let mut body = json!({
            "sku": product.sku,
            "title": product.title,
            "description": product.description,
            "price": money(product.price),
            "stockTracking": tracking,
        });
        if let (Some(threshold), Some(body)) = (product.low_stock_threshold, body.as_object_mut()) {
            body.insert("lowStockThreshold".to_owned(), json!(threshold.to_string()));
        }
        body
    };
    let feed = json!({ "products": shop.products.iter().map(product).collect::<Vec<_>>() });
    let answer = api.post("/v1/products:batchUpsert", &feed).await?.context("the products were refused")?;
    let mut names = Names::new();
    for (product, result) in shop.products.iter().zip(list(&answer, "results")) {
        if let Some(failure) = result.get("failure").filter(|failure| !failure.is_null()) {
            bail!("product {} was refused: {}", product.sku, text(failure, "message")?);
        }
        names.insert(product.sku.clone(), text(result, "product")?.to_owned());
    }
    Ok(names)
}

/// Adds the missing locations; returns the resource name of the second one.
async fn locations(api: &Api, shop: &Shop) -> anyhow::Result<String> {
    for location in &shop.locations {
        let body =
            json!({ "code": location.code, "displayName": location.display_name, "priority": location.priority });
        match api.post("/v1/locations", &body).await? {
            Ok(_) => {}
            Err(refusal) if refusal.reason == "RESOURCE_EXISTS" => {}
            Err(refusal) => return Err(refusal).with_context(|| format!("location {} was refused", location.code)),
        }
    }
    let wanted = shop.locations.first().context("the demo shop has no second location")?;
    let found = api.get("/v1/locations", &[("pageSize", "500")]).await??;
    let north = list(&found, "locations").find(|location| text(location, "code").is_ok_and(|code| code == wanted.code));
    Ok(text(north.with_context(|| format!("location {} is not there", wanted.code))?, "name")?.to_owned())
}

/// Adds the initial stock: a delivery to each location.
async fn opening_stock(api: &Api, shop: &Shop, products: &Names, north: &str) -> anyhow::Result<()> {
    let delivery = async |key: &str, location: Option<&str>, pieces: fn(&Stock) -> i64| {
        let mut items = Vec::new();
        for product in &shop.products {
            let pieces = product.stock.as_ref().map_or(0, pieces);
            if let Some(name) = products.get(&product.sku).filter(|_| pieces > 0) {
                items.push(json!({ "product": name, "location": location, "quantity": pieces.to_string() }));
            }
        }
        let body = json!({
            "requestId": format!("{SOURCE}:opening:{key}"),
            "items": items,
            "reason": "REASON_RECEIPT",
            "reference": "opening stock",
        });
        match api.post("/v1/stock:adjust", &body).await? {
            Ok(_) => Ok(()),
            // The delivery was made by an old run whose idempotency record has expired. The ledger keeps the key.
            Err(refusal) if refusal.reason == "IDEMPOTENCY_KEY_REUSED" => Ok(()),
            Err(refusal) => Err(refusal).with_context(|| format!("the delivery to {key} was refused")),
        }
    };
    delivery("main", None, |stock| stock.main).await?;
    delivery("north", Some(north), |stock| stock.north).await
}

/// Adds the missing customers. They have no password, so nobody can log in as one of them.
async fn customers(api: &Api, shop: &Shop) -> anyhow::Result<Names> {
    let mut names = Names::new();
    for customer in &shop.customers {
        let external_id = format!("{SOURCE}:{}", customer.id);
        let body = json!({
            // Nobody can own a domain under `.invalid` (RFC 2606).
            "email": format!("{}@{SOURCE}.invalid", customer.id),
            "displayName": customer.name,
            "externalId": external_id,
        });
        let user = match api.post("/v1/users", &body).await? {
            Ok(user) => user,
            Err(refusal) if refusal.reason == "RESOURCE_EXISTS" => {
                let filter = format!("external_id = \"{external_id}\"");
                let found = api.get("/v1/users", &[("filter", &filter)]).await??;
                list(&found, "users")
                    .next()
                    .cloned()
                    .with_context(|| format!("{} is neither there nor free", customer.id))?
            }
            Err(refusal) => return Err(refusal).with_context(|| format!("customer {} was refused", customer.id)),
        };
        names.insert(customer.id.clone(), text(&user, "name")?.to_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_demo_orders_only_products_that_it_creates() {
        let shop = Shop::load().unwrap();
        assert!(shop.products.len() >= 40);
        let skus: BTreeSet<_> = shop.products.iter().map(|product| &product.sku).collect();
        let customers: BTreeSet<_> = shop.customers.iter().map(|customer| &customer.id).collect();
        assert_eq!((skus.len(), customers.len()), (shop.products.len(), shop.customers.len()));
        let mut numbers = BTreeSet::new();
        for order in &shop.orders {
            assert!(numbers.insert(order.number), "order {} is there twice", order.number);
            assert!(customers.contains(&order.customer), "order {}: {}", order.number, order.customer);
            for item in &order.items {
                assert!(skus.contains(&item.sku), "order {}: {}", order.number, item.sku);
            }
        }
    }

    #[test]
    fn money_is_exact() {
        assert_eq!(money(4905), json!({ "currencyCode": "EUR", "units": "49", "nanos": 50_000_000 }));
    }
}
