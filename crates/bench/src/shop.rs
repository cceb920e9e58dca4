//! A running souk, which is filled over its API.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// Products per create request.
const AT_ONCE: usize = 1000;

/// A running souk and its administrator.
pub struct Shop {
    /// The gateway's URL.
    pub gateway: String,
    /// The access token of the administrator.
    pub token: String,
    client: reqwest::Client,
}

impl Shop {
    /// Connects to the souk on this data folder.
    ///
    /// # Errors
    /// If the administrator cannot log in.
    pub async fn open(folder: &Path) -> Result<Self> {
        let read = |file: &str| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(folder.join(file))?)?) };
        let gateway = text(&read("running.json")?["gateway"]);
        // A connection for each request: one that is idle for long may be closed just when it is used again.
        let client = reqwest::Client::builder().pool_max_idle_per_host(0).build()?;
        let mut shop = Self { gateway, token: String::new(), client };
        let admin = read("admin.json")?;
        let credentials = json!({"email": admin["email"], "password": admin["password"]});
        shop.token = text(&shop.post("/v1/sessions:logIn", &credentials).await?["accessToken"]);
        Ok(shop)
    }

    /// Posts JSON as the administrator.
    ///
    /// # Errors
    /// If the response is not good.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let request = self.client.post(format!("{}{path}", self.gateway)).json(body);
        let request = if self.token.is_empty() { request } else { request.bearer_auth(&self.token) };
        let answer = request.send().await?;
        let status = answer.status();
        let body = answer.text().await?;
        ensure!(status.is_success(), "{path} answered {status}: {body}");
        serde_json::from_str(&body).with_context(|| format!("{path} answered {body}"))
    }

    /// Makes products with more stock than anyone will order; returns their resource names.
    ///
    /// # Errors
    /// If a product cannot be made.
    pub async fn fill(&self, count: usize) -> Result<Vec<String>> {
        let numbers: Vec<usize> = (0..count).collect();
        let mut names = Vec::with_capacity(count);
        for chunk in numbers.chunks(AT_ONCE) {
            let product = |number: &usize| {
                let price =
                    json!({"currencyCode": "EUR", "units": (number % 50 + 1).to_string(), "nanos": 990_000_000});
                json!({"sku": format!("BENCH-{number}"), "title": format!("Product {number}"), "price": price})
            };
            let products: Vec<Value> = chunk.iter().map(product).collect();
            let made = self.post("/v1/products:batchUpsert", &json!({"products": products})).await?;
            let results = made["results"].as_array().context("no results")?;
            ensure!(results.iter().all(|result| result["outcome"] == "OUTCOME_CREATED"), "a product was not made");
            let made: Vec<String> = results.iter().map(|result| text(&result["product"])).collect();
            let stock = |name: &String| json!({"product": name, "countedQuantity": "100000000"});
            let items: Vec<Value> = made.iter().map(stock).collect();
            let count = json!({"requestId": format!("bench-{}", names.len()), "items": items});
            self.post("/v1/stock:count", &count).await?;
            names.extend(made);
        }
        Ok(names)
    }
}

/// The text of a JSON string; empty for any other value.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
