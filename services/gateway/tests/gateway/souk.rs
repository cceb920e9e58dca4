//! souk's own services behind the gateway: a shop's day over REST, and the same API over gRPC.

use std::{future::Future, path::Path, time::Duration};

use serde_json::{Value, json};
use souk_common::{
    config::{Loader, Settings},
    error::{Problem, Reason},
};
use souk_proto::{
    inventory::v1::{ReserveRequest, reservation_service_client::ReservationServiceClient},
    order::v1::{GetOrderRequest, order_service_client::OrderServiceClient},
};
use souk_testkit::wait;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Request};

use crate::boot::{Answer, SECRET};

const LONG: Duration = Duration::from_secs(30);

/// All of souk in a folder of its own.
struct Souk {
    url: String,
    client: reqwest::Client,
    admin: String,
    _folder: tempfile::TempDir,
    _stop: DropGuard,
}

fn settings(folder: &Path, more: &[(String, String)]) -> Settings {
    let mut variables = vec![
        ("SOUK_DATA_DIR".to_owned(), folder.display().to_string()),
        ("SOUK_AUTH__INTERNAL_SECRET".to_owned(), SECRET.to_owned()),
        // Passwords need not be hard to guess here.
        ("SOUK_USER__HASHING__MEMORY".to_owned(), "64KiB".to_owned()),
        ("SOUK_USER__HASHING__ITERATIONS".to_owned(), "1".to_owned()),
    ];
    variables.extend_from_slice(more);
    Loader::new()
        .defaults("user", souk_user::DEFAULTS)
        .defaults("inventory", souk_inventory::DEFAULTS)
        .defaults("order", souk_order::DEFAULTS)
        .defaults("gateway", souk_gateway::DEFAULTS)
        .variables(variables)
        .load()
        .unwrap()
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

fn run<E: std::error::Error + 'static>(
    name: &'static str,
    service: impl Future<Output = Result<(), E>> + Send + 'static,
) {
    tokio::spawn(async move {
        if let Err(error) = service.await {
            panic!("{name}: {}", souk_common::error::chain(&error));
        }
    });
}

impl Souk {
    async fn boot() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let ((user, user_url), (inventory, inventory_url), (order, order_url), (gateway, url)) =
            (listener().await, listener().await, listener().await, listener().await);
        let variable = |name: &str, value: &str| (format!("SOUK_{name}"), value.to_owned());
        let settings = settings(
            folder.path(),
            &[
                variable("INVENTORY__CLIENTS__USER__ADDRESS", &user_url),
                variable("ORDER__CLIENTS__USER__ADDRESS", &user_url),
                variable("ORDER__CLIENTS__INVENTORY__ADDRESS", &inventory_url),
                variable("GATEWAY__BACKENDS__SOUK__USER", &user_url),
                variable("GATEWAY__BACKENDS__SOUK__INVENTORY", &inventory_url),
                variable("GATEWAY__BACKENDS__SOUK__ORDER", &order_url),
            ],
        );
        let config = souk_user::Config::from_settings(&settings).unwrap();
        souk_user::admin::create_admin(&config, "admin@example.com", Some("a good password".into())).await.unwrap();
        run("user", souk_user::serve(config, user, stop.clone()));
        let config = souk_inventory::Config::from_settings(&settings).unwrap();
        run("inventory", souk_inventory::serve(config, inventory, stop.clone()));
        let config = souk_order::Config::from_settings(&settings).unwrap();
        run("order", souk_order::serve(config, order, stop.clone()));
        let config = souk_gateway::Config::from_settings(&settings).unwrap();
        run("gateway", souk_gateway::serve(config, gateway, stop.clone()));

        let client = reqwest::Client::builder().timeout(LONG).build().unwrap();
        let mut souk = Self { url, client, admin: String::new(), _folder: folder, _stop: stop.drop_guard() };
        wait::until(LONG, "souk to be ready", async || souk.get("/readyz", "").await.status.is_success()).await;
        souk.admin = souk.log_in("admin@example.com", "a good password").await;
        souk
    }

    async fn send(&self, method: &str, path: &str, token: &str, body: Option<Value>) -> Answer {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.client.request(method, format!("{}{path}", self.url));
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        Answer::read(request.send().await.unwrap()).await
    }

    async fn get(&self, path: &str, token: &str) -> Answer {
        self.send("GET", path, token, None).await
    }

    async fn post(&self, path: &str, token: &str, body: Value) -> Answer {
        self.send("POST", path, token, Some(body)).await
    }

    async fn log_in(&self, email: &str, password: &str) -> String {
        let session = self.post("/v1/sessions:logIn", "", json!({"email": email, "password": password})).await.ok();
        session["accessToken"].as_str().unwrap().to_owned()
    }

    /// A new customer's name and token.
    async fn customer(&self, email: &str) -> (String, String) {
        let user = self.post("/v1/users:register", "", json!({"email": email, "password": "correct horse"})).await.ok();
        (user["name"].as_str().unwrap().to_owned(), self.log_in(email, "correct horse").await)
    }

    /// A product with so many pieces in stock.
    async fn product(&self, sku: &str, pieces: i64) -> String {
        let product = json!({"sku": sku, "title": format!("A {sku}"), "price": {"currencyCode": "GBP", "units": "2", "nanos": 500_000_000}});
        let product = self.post("/v1/products", &self.admin, product).await.ok();
        let name = product["name"].as_str().unwrap().to_owned();
        let items = json!([{"product": name, "quantity": pieces.to_string()}]);
        let adjust = json!({"requestId": sku, "items": items, "reason": "REASON_RECEIPT"});
        self.post("/v1/stock:adjust", &self.admin, adjust).await.ok();
        name
    }
}

fn order(product: &str, quantity: i64) -> Value {
    json!({
        "items": [{"product": product, "quantity": quantity.to_string()}],
        "shippingAddress": {"recipient": "Ann", "addressLines": ["1 Lane"], "locality": "Leeds", "postalCode": "LS1", "regionCode": "GB"},
        "paymentToken": "tok_approved",
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_in_the_shop() {
    let souk = Souk::boot().await;
    let (ann, token) = souk.customer("ann@example.com").await;
    let me = souk.get("/v1/users/me", &token).await.ok();
    assert_eq!((&me["name"], &me["email"]), (&json!(ann), &json!("ann@example.com")));
    let renamed = souk
        .send("PATCH", &format!("/v1/{ann}?updateMask=displayName"), &token, Some(json!({"displayName": "Ann"})))
        .await
        .ok();
    assert_eq!(renamed["displayName"], "Ann");

    let lantern = souk.product("LANTERN", 10).await;
    let listed = souk.get(r"/v1/products?pageSize=5&filter=price%20%3C%3D%205.00&orderBy=sku", "").await.ok();
    assert_eq!(listed["products"][0]["name"], json!(lantern));
    assert_eq!(listed["nextPageToken"], "");
    let batch = souk.get("/v1/products:batchGet?skus=lantern&skus=none&allowMissing=true", "").await.ok();
    assert_eq!(batch["products"].as_array().unwrap().len(), 1);
    let available = souk.get(&format!("/v1/{lantern}/availability"), "").await.ok();
    assert_eq!(available, json!({"available": "10", "unlimited": false}));

    // Placed twice with one key: one order, and the second answer says so.
    let mut answers = Vec::new();
    for _ in 0..2 {
        let request =
            souk.client.post(format!("{}/v1/orders", souk.url)).bearer_auth(&token).header("idempotency-key", "cart-1");
        let request = request.header("content-type", "application/json").body(order(&lantern, 3).to_string());
        answers.push(Answer::read(request.send().await.unwrap()).await);
    }
    let placed = answers[0].ok();
    assert_eq!(placed["state"], "STATE_CONFIRMED", "{placed}");
    assert_eq!(placed["total"], json!({"currencyCode": "GBP", "units": "7", "nanos": 500_000_000}));
    assert_eq!(answers[1].ok(), placed);
    assert_eq!((answers[0].header("idempotent-replayed"), answers[1].header("idempotent-replayed")), ("", "true"));
    let mut other = order(&lantern, 4);
    other["requestId"] = json!("cart-1");
    souk.post("/v1/orders", &token, other).await.problem(422, "IDEMPOTENCY_KEY_REUSED");

    let name = placed["name"].as_str().unwrap();
    assert_eq!(souk.get(&format!("/v1/{name}"), &token).await.ok()["name"], placed["name"]);
    let timeline = souk.get(&format!("/v1/{name}/timelineEntries"), &token).await.ok();
    assert!(timeline["timelineEntries"].as_array().unwrap().len() >= 4, "{timeline}");
    let cancelled = souk.post(&format!("/v1/{name}:cancel"), &token, json!({"reason": "changed my mind"})).await.ok();
    assert_eq!(cancelled["state"], "STATE_CANCELLED");
    assert_eq!(souk.get(&format!("/v1/{lantern}/availability"), "").await.ok()["available"], "10");

    // Someone else's order and one that never was: the same answer but for the name.
    let (_, bob) = souk.customer("bob@example.com").await;
    let foreign = souk.get(&format!("/v1/{name}"), &bob).await.problem(403, "ACCESS_DENIED");
    let nowhere = "orders/ord_01hzzzzzzzzzzzzzzzzzzzzzzz";
    let none = souk.get(&format!("/v1/{nowhere}"), &bob).await.problem(403, "ACCESS_DENIED");
    assert_eq!(
        foreign["detail"].as_str().unwrap().replace(name, "X"),
        none["detail"].as_str().unwrap().replace(nowhere, "X")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_gets_its_status_reason_and_place() {
    let souk = Souk::boot().await;
    let (_, token) = souk.customer("ann@example.com").await;
    let product = souk.product("CUP", 1).await;

    let bad_id = souk.get("/v1/orders/ord_1", &token).await.problem(400, "FIELD_INVALID");
    assert_eq!((&bad_id["errors"][0]["field"], &bad_id["errors"][0]["in"]), (&json!("name"), &json!("path")));
    let mut body = order(&product, 0);
    body["requestId"] = json!("r");
    let zero = souk.post("/v1/orders", &token, body.clone()).await.problem(400, "FIELD_INVALID");
    assert_eq!(zero["errors"][0]["pointer"], "/items/0/quantity");
    body["items"][0]["quantity"] = json!("many");
    let wrong = souk.post("/v1/orders", &token, body.clone()).await.problem(400, "MALFORMED_REQUEST");
    assert_eq!(wrong["errors"][0]["pointer"], "/items/0/quantity");
    body["items"][0]["quantity"] = json!(1);
    body["shipingAddress"] = json!({});
    let unknown = souk.post("/v1/orders", &token, body).await.problem(400, "UNKNOWN_FIELD");
    assert!(unknown["detail"].as_str().unwrap().contains("did you mean `shippingAddress`?"), "{unknown}");
    souk.post("/v1/orders", "", json!({})).await.problem(401, "TOKEN_MISSING");
    let login = souk.post("/v1/sessions:logIn", "", json!({"email": "ann@example.com", "password": "wrong"})).await;
    login.problem(401, "CREDENTIALS_INVALID");
    assert_eq!(login.header("www-authenticate"), "Bearer");
    souk.post("/v1/products", &token, json!({"sku": "X", "title": "X"})).await.problem(403, "ACCESS_DENIED");
    souk.post("/v1/users:register", "", json!({"email": "ann@example.com", "password": "correct horse"}))
        .await
        .problem(409, "RESOURCE_EXISTS");
    souk.get("/v1/products/prd_01hzzzzzzzzzzzzzzzzzzzzzzz", "").await.problem(404, "RESOURCE_NOT_FOUND");
    souk.get("/v1/products?pageToken=nonsense", "").await.problem(400, "PAGE_TOKEN_INVALID");
    souk.send("DELETE", "/v1/users/me", &token, None).await.problem(405, "METHOD_NOT_ALLOWED");
    let keys = souk.get("/.well-known/jwks.json", "").await.ok();
    assert_eq!(keys["keys"][0]["kty"], "OKP");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_api_speaks_grpc() {
    let souk = Souk::boot().await;
    let (_, token) = souk.customer("ann@example.com").await;
    let product = souk.product("CUP", 5).await;
    let mut body = order(&product, 1);
    body["requestId"] = json!("r1");
    let placed = souk.post("/v1/orders", &token, body).await.ok();
    let name = placed["name"].as_str().unwrap().to_owned();

    let channel = tonic::transport::Endpoint::from_shared(souk.url.clone()).unwrap().connect().await.unwrap();
    let mut orders = OrderServiceClient::new(channel.clone());
    let ask = |name: &str, token: &str| {
        let mut request = Request::new(GetOrderRequest { name: name.to_owned() });
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request
    };
    assert_eq!(orders.get_order(ask(&name, &token)).await.unwrap().into_inner().name, name);
    let status = orders.get_order(ask("orders/ord_1", &token)).await.unwrap_err();
    let problem = Problem::from_status(&status);
    assert_eq!((status.code(), problem.reason()), (Code::InvalidArgument, Reason::FieldInvalid));
    assert_eq!(problem.field_violations()[0].path, "name");

    // Not even an administrator gets at what is internal.
    let mut reservations = ReservationServiceClient::new(channel);
    let mut request = Request::new(ReserveRequest { order: name, ..ReserveRequest::default() });
    request.metadata_mut().insert("authorization", format!("Bearer {}", souk.admin).parse().unwrap());
    let status = reservations.reserve(request).await.unwrap_err();
    assert_eq!((status.code(), Problem::from_status(&status).reason()), (Code::PermissionDenied, Reason::AccessDenied));
}
