//! A fixed tour over REST, Server-Sent Events, gRPC, Connect and gRPC-Web, against a real `souk up` on SQLite.

use reqwest::Method;
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::{
    metrics,
    tape::{Call, Caller, Tape},
};
use crate::{
    cluster::Up,
    rest::{Rest, order},
};

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PATCH: Method = Method::PATCH;
const DELETE: Method = Method::DELETE;

/// The recorded texts.
pub struct Recorded {
    pub exchanges: String,
    pub metrics: String,
}

/// A running tour.
struct Tour {
    tape: Tape,
    anyone: Caller,
    admin: Caller,
    ann: Caller,
    ben: Caller,
}

/// Runs the tour.
pub async fn record() -> Recorded {
    let up = Up::start_with(|program| {
        program.env("SOUK_GATEWAY__RATE_LIMITS__ENABLED", "false").env("SOUK_TELEMETRY__METRICS_LISTEN", "127.0.0.1:0")
    })
    .await;
    let anyone = Rest::anonymous(&up.gateway);
    let caller = |name, rest| Caller { name, rest };
    let mut tour = Tour {
        tape: Tape::new(&up.gateway),
        admin: caller("admin", up.admin().await),
        ann: caller("ann", anyone.customer("ann").await),
        ben: caller("ben", anyone.customer("ben").await),
        anyone: caller("anyone", anyone),
    };
    let lamp = tour.catalogue().await;
    tour.stock(&lamp).await;
    tour.users().await;
    let placed = tour.orders(&lamp).await;
    tour.after_sales(&lamp).await;
    tour.pages().await;
    tour.streams().await;
    let channel = Channel::from_shared(up.gateway.clone()).unwrap().connect().await.unwrap();
    tour.protocols(&channel, &lamp, &placed).await;
    let log = up.process.log();
    let line = log.lines().find(|line| line.trim_start().starts_with("metrics")).unwrap();
    let metrics = metrics::text(line.split_whitespace().nth(1).unwrap()).await;
    Recorded { exchanges: tour.tape.text(), metrics }
}

/// The resource name in a response.
fn name(answer: &Value) -> String {
    answer["name"].as_str().unwrap_or_else(|| panic!("no name in {answer:#}")).to_owned()
}

fn price(units: &str) -> Value {
    json!({ "currencyCode": "EUR", "units": units, "nanos": 500_000_000 })
}

/// Sends a call.
macro_rules! call {
    ($tour:ident, $who:ident, $method:expr, $path:expr $(; [$($header:expr),*])? $(, $body:expr)? $(,)?) => {{
        let body: Option<Value> = None$(.or(Some($body)))?;
        let headers: &[(&str, &str)] = &[$($($header),*)?];
        $tour.tape.send(Call { caller: &$tour.$who, method: $method, path: $path, headers, body }).await
    }};
}

impl Tour {
    async fn catalogue(&mut self) -> String {
        self.tape.part("The catalogue");
        call!(self, anyone, GET, "/v1/products");
        let product =
            json!({ "sku": "LAMP-1", "title": "Brass lantern", "price": price("24"), "lowStockThreshold": "5" });
        let lamp = name(&call!(self, admin, POST, "/v1/products", product.clone()));
        call!(self, admin, POST, "/v1/products", product.clone());
        call!(self, anyone, POST, "/v1/products", product.clone());
        call!(self, ann, POST, "/v1/products", product);
        call!(self, admin, POST, "/v1/products", json!({ "sku": "!", "title": "", "price": price("-1") }));
        call!(self, admin, POST, "/v1/products", json!({ "skuu": "A" }));
        call!(self, admin, POST, "/v1/products"; [("content-type", "application/json")], json!("no object"));
        let path = format!("/v1/{lamp}");
        let etag = call!(self, anyone, GET, &path)["etag"].as_str().unwrap().to_owned();
        let quoted = format!("\"{etag}\"");
        call!(self, anyone, GET, &path; [("if-none-match", &quoted)]);
        call!(self, anyone, Method::HEAD, &path);
        let change = json!({ "title": "Brass lantern, polished" });
        call!(self, admin, PATCH, &path; [("if-match", &quoted)], change.clone());
        call!(self, admin, PATCH, &path; [("if-match", &quoted)], change);
        call!(self, anyone, Method::PUT, &path, json!({}));
        call!(self, anyone, GET, "/v1/nothing");
        call!(self, anyone, GET, "/v1/products/7");
        call!(self, admin, GET, "/v1/products/prd_00000000000000000000000000");
        let feed = json!({ "products": [
            { "sku": "VASE-1", "title": "Blue vase", "price": price("12") },
            { "sku": "RUG-1", "title": "Wool rug", "price": price("180") },
            { "sku": "RUG 2!", "title": "", "price": price("180") },
        ] });
        call!(self, admin, POST, "/v1/products:batchUpsert", feed);
        call!(self, anyone, GET, "/v1/products:batchGet?skus=VASE-1&skus=NONE&allowMissing=true");
        let page = call!(self, anyone, GET, "/v1/products?pageSize=2&orderBy=sku&filter=price%20%3C=%20100");
        assert!(page["products"].is_array(), "{page}");
        let page = call!(self, anyone, GET, "/v1/products?pageSize=1&orderBy=sku");
        let next = page["nextPageToken"].as_str().unwrap();
        call!(self, anyone, GET, &format!("/v1/products?pageSize=1&orderBy=sku&pageToken={next}"));
        call!(self, anyone, GET, "/v1/products?filter=colour%20=%20%22red%22");
        call!(self, anyone, GET, "/v1/products?pageSize=x");
        call!(self, anyone, GET, "/v1/products?nope=1");
        let rug = name(&call!(self, anyone, GET, "/v1/products:batchGet?skus=RUG-1")["products"][0]);
        call!(self, admin, POST, &format!("/v1/{rug}:archive"), json!({}));
        lamp
    }

    async fn stock(&mut self, lamp: &str) {
        self.tape.part("Stock");
        let place = json!({ "code": "north", "displayName": "Northern warehouse", "priority": 2 });
        let north = name(&call!(self, admin, POST, "/v1/locations", place));
        call!(self, admin, GET, &format!("/v1/{north}"));
        let places = call!(self, admin, GET, "/v1/locations");
        let main = name(&places["locations"][0]);
        let items = json!([{ "product": lamp, "quantity": "10" }]);
        let receipt = json!({ "requestId": "delivery-1", "reason": "REASON_RECEIPT", "items": items });
        call!(self, admin, POST, "/v1/stock:adjust", receipt.clone());
        call!(self, admin, POST, "/v1/stock:adjust", receipt);
        let items = json!([{ "product": lamp, "quantity": "-50" }]);
        let too_much = json!({ "requestId": "damage-1", "reason": "REASON_DAMAGE", "items": items });
        call!(self, admin, POST, "/v1/stock:adjust", too_much);
        let items = json!([{ "product": lamp, "quantity": "3" }]);
        let moved = json!({ "requestId": "move-1", "source": main, "destination": north, "items": items });
        call!(self, admin, POST, "/v1/stock:transfer", moved);
        let items = json!([{ "product": lamp, "location": north, "countedQuantity": "4" }]);
        call!(self, admin, POST, "/v1/stock:count", json!({ "requestId": "count-1", "items": items }));
        call!(self, admin, GET, &format!("/v1/{lamp}/stock"));
        call!(self, anyone, GET, &format!("/v1/{lamp}/availability"));
        call!(self, admin, GET, &format!("/v1/{lamp}/ledgerEntries?pageSize=2"));
        call!(self, admin, GET, "/v1/stock:low");
        call!(self, admin, POST, "/v1/stock:reconcile", json!({}));
    }

    async fn users(&mut self) {
        self.tape.part("Users");
        let cleo = json!({ "email": "cleo@example.com", "password": "correct horse", "displayName": "Cleo" });
        call!(self, anyone, POST, "/v1/users:register", cleo.clone());
        call!(self, anyone, POST, "/v1/users:register", cleo);
        call!(self, anyone, POST, "/v1/users:register", json!({ "email": "no address", "password": "x" }));
        let wrong = json!({ "email": "cleo@example.com", "password": "wrong horse" });
        call!(self, anyone, POST, "/v1/sessions:logIn", wrong);
        let right = json!({ "email": "cleo@example.com", "password": "correct horse" });
        let session = call!(self, anyone, POST, "/v1/sessions:logIn", right);
        let refresh = json!({ "refreshToken": session["refreshToken"] });
        call!(self, anyone, POST, "/v1/sessions:refresh", refresh.clone());
        let cleo = name(&session["user"]);
        call!(self, ann, GET, "/v1/users/me");
        call!(self, anyone, GET, "/v1/users/me");
        call!(self, ann, GET, &format!("/v1/{cleo}"));
        call!(self, ann, GET, "/v1/users");
        call!(self, admin, GET, "/v1/users?pageSize=2");
        call!(self, admin, POST, &format!("/v1/{cleo}:setRoles"), json!({ "roles": ["ROLE_STAFF"] }));
        call!(self, anyone, GET, "/.well-known/jwks.json");
    }

    async fn orders(&mut self, lamp: &str) -> String {
        self.tape.part("Orders");
        let first = order("ann-1", &[(lamp, 3)], "tok_approved");
        let placed = name(&call!(self, ann, POST, "/v1/orders", first.clone()));
        call!(self, ann, POST, "/v1/orders", first);
        call!(self, ann, POST, "/v1/orders", order("ann-1", &[(lamp, 4)], "tok_approved"));
        let mut keyed = order("", &[(lamp, 1)], "tok_approved");
        keyed.as_object_mut().unwrap().remove("requestId");
        call!(self, ann, POST, "/v1/orders"; [("idempotency-key", "ann-2")], keyed);
        call!(self, ann, POST, "/v1/orders", order("ann-3", &[(lamp, 50)], "tok_approved"));
        call!(self, ann, POST, "/v1/orders", order("ann-4", &[(lamp, 1)], "tok_declined"));
        call!(self, ann, POST, "/v1/orders", order("ann-5", &[("products/7", 0)], ""));
        call!(self, anyone, POST, "/v1/orders", order("ann-6", &[(lamp, 1)], "tok_approved"));
        let path = format!("/v1/{placed}");
        call!(self, ann, GET, &path);
        call!(self, ben, GET, &path);
        call!(self, ann, GET, &format!("{path}/timelineEntries"));
        call!(self, ann, GET, "/v1/orders?pageSize=2");
        call!(self, ann, GET, "/v1/orders?filter=state%20=%20%22STATE_REJECTED%22");
        call!(self, admin, GET, "/v1/sagas");
        placed
    }

    async fn after_sales(&mut self, lamp: &str) {
        self.tape.part("What follows an order");
        let cancelled = name(&call!(self, ben, POST, "/v1/orders", order("ben-1", &[(lamp, 1)], "tok_approved")));
        call!(self, ben, POST, &format!("/v1/{cancelled}:cancel"), json!({ "reason": "changed my mind" }));
        call!(self, ann, POST, &format!("/v1/{cancelled}:cancel"), json!({}));
        let sent = name(&call!(self, ben, POST, "/v1/orders", order("ben-2", &[(lamp, 2)], "tok_approved")));
        let parcel = json!({ "lines": [{ "lineNumber": 1, "quantity": "2" }], "carrier": "Royal Mail" });
        let shipments = format!("/v1/{sent}/shipments");
        let shipment = name(&call!(self, admin, POST, &format!("{shipments}?requestId=parcel-1"), parcel.clone()));
        call!(self, admin, POST, &format!("{shipments}?requestId=parcel-2"), parcel);
        call!(self, ben, GET, &shipments);
        call!(self, ben, GET, &format!("/v1/{shipment}"));
        call!(self, ben, POST, &format!("/v1/{sent}:cancel"), json!({}));
        let refund =
            json!({ "requestId": "refund-1", "amount": { "currencyCode": "EUR", "units": "5" }, "reason": "late" });
        call!(self, admin, POST, &format!("/v1/{sent}:refund"), refund);
        let refund = json!({ "requestId": "refund-2", "amount": { "currencyCode": "EUR", "units": "500" } });
        call!(self, admin, POST, &format!("/v1/{sent}:refund"), refund);
        let back =
            json!({ "requestId": "back-1", "items": [{ "lineNumber": 1, "quantity": "1" }], "reason": "broken" });
        call!(self, admin, POST, &format!("/v1/{sent}:returnItems"), back);
        call!(self, ben, GET, &format!("/v1/{sent}/refunds"));
        call!(self, admin, POST, &format!("/v1/{sent}:addNote"), json!({ "text": "called the customer" }));
        call!(self, ben, GET, &format!("/v1/{sent}/timelineEntries"));
        let hook =
            json!({ "url": "https://hooks.example.com/souk", "eventTypes": ["order.confirmed"], "disabled": true });
        let hook = name(&call!(self, admin, POST, "/v1/webhookEndpoints", hook));
        call!(self, admin, GET, "/v1/webhookEndpoints");
        call!(self, admin, PATCH, &format!("/v1/{hook}"), json!({ "description": "The shop's own" }));
        call!(self, admin, GET, &format!("/v1/{hook}/deliveries"));
        call!(self, admin, DELETE, &format!("/v1/{hook}"));
        call!(self, admin, GET, "/v1/services/order/deadLetters");
    }

    async fn pages(&mut self) {
        self.tape.part("Pages, and what browsers ask first");
        for path in ["/", "/docs", "/openapi.json", "/readyz", "/livez", "/healthz", "/favicon.ico"] {
            let call = Call { caller: &self.anyone, method: GET, path, headers: &[], body: None };
            self.tape.head_of(call).await;
        }
        let asked = [
            ("origin", "http://localhost:3000"),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization"),
        ];
        let call =
            Call { caller: &self.anyone, method: Method::OPTIONS, path: "/v1/orders", headers: &asked, body: None };
        self.tape.head_of(call).await;
        call!(self, ann, GET, "/v1/users/me"; [("origin", "http://localhost:3000")]);
        call!(self, ann, GET, "/v1/users/me"; [("accept-encoding", "gzip"), ("accept", "text/html")]);
    }

    async fn streams(&mut self) {
        self.tape.part("Streams");
        let sse = [("accept", "text/event-stream")];
        let call =
            Call { caller: &self.ann, method: GET, path: "/v1/orders:watch?cursor=start", headers: &sse, body: None };
        self.tape.stream(call, "\n\n", 4).await;
        let call =
            Call { caller: &self.ben, method: GET, path: "/v1/orders:watch?cursor=start", headers: &[], body: None };
        self.tape.stream(call, "\n", 4).await;
        let path = "/v1/inventory/events:watch?cursor=start";
        let call = Call { caller: &self.admin, method: GET, path, headers: &[], body: None };
        self.tape.stream(call, "\n", 6).await;
        call!(self, ann, GET, path);
        call!(self, ann, GET, "/v1/orders:watch?cursor=nonsense"; [("accept", "text/event-stream")]);
    }

    async fn protocols(&mut self, channel: &Channel, lamp: &str, placed: &str) {
        const PRODUCT: &str = "/souk.inventory.v1.ProductService/GetProduct";
        const ORDER: &str = "/souk.order.v1.OrderService/GetOrder";
        const WATCH: &str = "/souk.order.v1.OrderService/WatchOrders";
        const RESERVATION: &str = "/souk.inventory.v1.ReservationService/GetReservation";
        let (product, order) = (json!({ "name": lamp }), json!({ "name": placed }));
        let wrong = json!({ "name": "orders/7" });

        self.tape.part("gRPC");
        for (who, path, body) in [
            (&self.anyone, PRODUCT, &product),
            (&self.ann, ORDER, &order),
            (&self.anyone, ORDER, &order),
            (&self.ben, ORDER, &order),
            (&self.ann, ORDER, &wrong),
            (&self.ann, RESERVATION, &json!({ "name": placed.replace("orders/ord", "reservations/res") })),
        ] {
            self.tape.grpc(channel, who, path, body.clone(), 1).await;
        }
        self.tape.grpc(channel, &self.ann, WATCH, json!({ "cursor": "start" }), 3).await;

        self.tape.part("Connect");
        let version = [("connect-protocol-version", "1")];
        for (who, path, body) in [
            (&self.anyone, PRODUCT, &product),
            (&self.ann, ORDER, &order),
            (&self.anyone, ORDER, &order),
            (&self.ben, ORDER, &order),
            (&self.ann, ORDER, &wrong),
        ] {
            let call = Call { caller: who, method: POST, path, headers: &version, body: Some(body.clone()) };
            self.tape.send(call).await;
        }
        let escaped = lamp.replace('/', "%2F");
        let path = format!("{PRODUCT}?connect=v1&encoding=json&message=%7B%22name%22%3A%22{escaped}%22%7D");
        call!(self, anyone, GET, &path);
        self.tape.framed(&self.ann, WATCH, "application/connect+json", json!({ "cursor": "start" }), 2).await;
        self.tape.framed(&self.anyone, WATCH, "application/connect+json", json!({ "cursor": "start" }), 2).await;

        self.tape.part("gRPC-Web");
        for (who, path, body) in [
            (&self.anyone, PRODUCT, product),
            (&self.ann, ORDER, order.clone()),
            (&self.anyone, ORDER, order),
            (&self.ann, ORDER, wrong),
            (&self.ann, WATCH, json!({ "cursor": "start" })),
        ] {
            self.tape.framed(who, path, "application/grpc-web+proto", body, 2).await;
        }
    }
}
