//! Creates what orders need: products, customers, opening stock.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, bail};
use futures::{StreamExt, TryStreamExt, stream};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::{
    SOURCE,
    plan::{Plan, Product},
    rules,
};
use crate::api::{Api, list, text};

/// Resources per batch call.
const BATCH: usize = 200;
/// Products per create call.
const FEED: usize = 1000;

/// An amount in GBP, from minor units.
pub fn money(minor: i64) -> Value {
    json!({ "currencyCode": "GBP", "units": (minor / 100).to_string(), "nanos": (minor % 100) * 10_000_000 })
}

/// Finds or creates every product; returns their resource names by stock code.
pub async fn products(api: &Api, plan: &Plan, bar: &ProgressBar) -> anyhow::Result<HashMap<String, String>> {
    let mut names = HashMap::new();
    let skus: Vec<&String> = plan.products.keys().collect();
    for chunk in skus.chunks(BATCH) {
        let mut query: Vec<_> = chunk.iter().map(|sku| ("skus", sku.as_str())).collect();
        query.push(("allowMissing", "true"));
        let found = api.get("/v1/products:batchGet", &query).await??;
        for product in list(&found, "products") {
            names.insert(rules::sku(text(product, "sku")?), text(product, "name")?.to_owned());
        }
    }
    bar.set_position(names.len() as u64);
    let missing: Vec<_> = plan.products.iter().filter(|(sku, _)| !names.contains_key(*sku)).collect();
    for chunk in missing.chunks(FEED) {
        let product = |(sku, product): &(&String, &Product)| {
            let tracking = if rules::tracked(sku) { "STOCK_TRACKING_TRACKED" } else { "STOCK_TRACKING_UNTRACKED" };
            json!({ "sku": sku, "title": product.title, "price": money(product.price), "stockTracking": tracking })
        };
        let feed = json!({ "products": chunk.iter().map(product).collect::<Vec<_>>() });
        let answer = api.post("/v1/products:batchUpsert", &feed).await?.context("the products were not taken")?;
        for ((sku, _), result) in chunk.iter().zip(list(&answer, "results")) {
            if let Some(failure) = result.get("failure").filter(|failure| !failure.is_null()) {
                bail!("product {sku} was refused: {}", text(failure, "message")?);
            }
            names.insert((*sku).clone(), text(result, "product")?.to_owned());
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(names)
}

/// Finds or creates every customer; returns their resource names by number.
pub async fn customers(
    api: &Api,
    plan: &Plan,
    width: usize,
    bar: &ProgressBar,
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut names = BTreeMap::new();
    let mut page = String::new();
    loop {
        let users = api.get("/v1/users", &[("pageSize", "500"), ("pageToken", &page)]).await??;
        for user in list(&users, "users") {
            let number = user
                .get("externalId")
                .and_then(Value::as_str)
                .and_then(|id| id.strip_prefix(SOURCE)?.strip_prefix(':'));
            if let Some(number) = number.filter(|number| plan.customers.contains_key(customer_of(number))) {
                names.insert(customer_of(number).to_owned(), text(user, "name")?.to_owned());
            }
        }
        page = users.get("nextPageToken").and_then(Value::as_str).unwrap_or_default().to_owned();
        if page.is_empty() {
            break;
        }
    }
    bar.set_position(names.len() as u64);
    let missing: Vec<_> = plan.customers.keys().filter(|number| !names.contains_key(*number)).collect();
    let made: Vec<(String, String)> = stream::iter(missing)
        .map(|number| async move {
            let id = external_number(number);
            let body = json!({
                // Nobody can own a domain under `.invalid` (RFC 2606). The export has no email addresses, and invented
                // ones might belong to someone.
                "email": format!("{id}@{SOURCE}.invalid"),
                "displayName": if number.is_empty() { "Sales without a customer".to_owned() } else { format!("Customer {number}") },
                "externalId": format!("{SOURCE}:{id}"),
            });
            let name = match api.post("/v1/users", &body).await? {
                Ok(user) => text(&user, "name")?.to_owned(),
                Err(refusal) if refusal.reason == "RESOURCE_EXISTS" => {
                    let filter = format!("external_id = \"{SOURCE}:{id}\"");
                    let found = api.get("/v1/users", &[("filter", &filter)]).await??;
                    let user = list(&found, "users").next().with_context(|| format!("customer {id} is neither there nor free"))?;
                    text(user, "name")?.to_owned()
                }
                Err(refusal) => return Err(refusal).with_context(|| format!("customer {id} was refused")),
            };
            bar.inc(1);
            anyhow::Ok((number.clone(), name))
        })
        .buffer_unordered(width)
        .try_collect()
        .await?;
    names.extend(made);
    bar.finish_and_clear();
    Ok(names)
}

/// The customer number of the account for sales without a customer.
const NOBODY: &str = "guest";

fn external_number(customer: &str) -> &str {
    if customer.is_empty() { NOBODY } else { customer }
}

fn customer_of(number: &str) -> &str {
    if number == NOBODY { "" } else { number }
}

/// Adds the stock that the export sells, because the export has no opening stock.
pub async fn opening_stock(
    api: &Api,
    plan: &Plan,
    products: &HashMap<String, String>,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    let tracked: Vec<_> =
        plan.products.iter().filter(|(sku, product)| rules::tracked(sku) && product.sold > 0).collect();
    for (number, chunk) in tracked.chunks(BATCH).enumerate() {
        let items: Vec<_> = chunk
            .iter()
            .filter_map(|(sku, product)| {
                Some(json!({ "product": products.get(*sku)?, "quantity": product.sold.to_string() }))
            })
            .collect();
        let body = json!({
            "requestId": format!("{SOURCE}:{}:opening:{number}", plan.file_hash),
            "items": items,
            "reason": "REASON_RECEIPT",
            "reference": format!("{SOURCE} {}", plan.file_hash),
            "note": "opening stock: what the export sells",
        });
        match api.post("/v1/stock:adjust", &body).await? {
            Ok(_) => {}
            // The stock was added by an old run whose idempotency record has expired. The ledger keeps the key.
            Err(refusal) if refusal.reason == "IDEMPOTENCY_KEY_REUSED" => {}
            Err(refusal) => return Err(refusal).context("the opening stock was refused"),
        }
        bar.inc(chunk.len() as u64);
    }
    bar.finish_and_clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_exact() {
        assert_eq!(money(255), json!({ "currencyCode": "GBP", "units": "2", "nanos": 550_000_000 }));
        assert_eq!(money(5), json!({ "currencyCode": "GBP", "units": "0", "nanos": 50_000_000 }));
    }

    #[test]
    fn the_account_for_lines_without_a_customer_is_recognised() {
        assert_eq!(customer_of(external_number("")), "");
        assert_eq!(customer_of(external_number("17850")), "17850");
    }
}
