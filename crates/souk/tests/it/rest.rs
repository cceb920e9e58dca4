//! A client of the public API, as an app would contain it.

use std::{net::IpAddr, time::Duration};

use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::{Value, json};

/// A response with any status.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    /// The body of a response that must be a success.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.status.is_success(), "{self:?}");
        self.body
    }

    /// The reason of a response that must be a problem with this status.
    #[track_caller]
    pub fn problem(&self, status: u16) -> &str {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        self.body["reason"].as_str().unwrap()
    }
}

/// A client, with or without a token.
#[derive(Debug, Clone)]
pub struct Rest {
    http: reqwest::Client,
    pub base: String,
    token: Option<String>,
}

impl Rest {
    pub fn anonymous(base: &str) -> Self {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(20)).no_proxy().build().unwrap();
        Self { http, base: base.to_owned(), token: None }
    }

    /// A client that connects from this address of the machine.
    pub fn from_address(base: &str, address: IpAddr) -> Self {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(20)).no_proxy().local_address(address);
        Self { http: http.build().unwrap(), base: base.to_owned(), token: None }
    }

    /// A client that uses HTTP/2 without negotiation.
    pub fn over_http2(base: &str) -> Self {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(20)).no_proxy().http2_prior_knowledge();
        Self { http: http.build().unwrap(), base: base.to_owned(), token: None }
    }

    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// The same client for another gateway.
    pub fn at(&self, base: &str) -> Self {
        Self { base: base.to_owned(), ..self.clone() }
    }

    /// Adds the token to a gRPC call.
    pub fn sign(&self, metadata: &mut tonic::metadata::MetadataMap) {
        if let Some(token) = &self.token {
            metadata.insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
    }

    /// Logs in.
    pub async fn log_in(&self, email: &str, password: &str) -> Self {
        let session = self.post("/v1/sessions:logIn", json!({ "email": email, "password": password })).await.ok();
        self.with_token(session["accessToken"].as_str().unwrap())
    }

    /// Registers a customer and logs in.
    pub async fn customer(&self, name: &str) -> Self {
        let (email, password) = (format!("{name}@example.com"), "correct horse");
        self.post("/v1/users:register", json!({ "email": email, "password": password })).await.ok();
        self.log_in(&email, password).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await.unwrap()
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, Some(body)).await.unwrap()
    }

    /// A request with the token, if there is one.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request. An error means that the connection failed.
    pub async fn send(&self, method: Method, path: &str, body: Option<Value>) -> reqwest::Result<Answer> {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = serde_json::from_slice(&response.bytes().await?).unwrap_or_default();
        Ok(Answer { status, headers, body })
    }

    /// Creates a product with stock. Returns its resource name.
    pub async fn product(&self, sku: &str, stock: i64) -> String {
        let price = json!({ "currencyCode": "EUR", "units": "12", "nanos": 500_000_000 });
        let product = self.post("/v1/products", json!({ "sku": sku, "title": sku, "price": price })).await.ok();
        let name = product["name"].as_str().unwrap().to_owned();
        if stock > 0 {
            let body = json!({
                "requestId": format!("stock-{sku}"),
                "items": [{ "product": name, "quantity": stock.to_string() }],
                "reason": "REASON_RECEIPT",
            });
            self.post("/v1/stock:adjust", body).await.ok();
        }
        name
    }
}

/// A request to place an order.
pub fn order(request_id: &str, items: &[(&str, i64)], token: &str) -> Value {
    let items: Vec<_> =
        items.iter().map(|(product, quantity)| json!({ "product": product, "quantity": quantity })).collect();
    json!({
        "requestId": request_id,
        "items": items,
        "shippingAddress": { "recipient": "Ann", "addressLines": ["1 High Street"], "regionCode": "GB" },
        "paymentToken": token,
    })
}
