//! Boots the services and speaks to them.

use std::{
    net::SocketAddr,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use souk_common::{
    auth::{Role, Roles},
    config::Loader,
    db::Db,
    error::{Problem, Reason},
    ids::UserId,
};
use souk_order::{Config, store::Store};
use souk_proto::{
    common::v1::Address,
    google::r#type::Money,
    inventory::v1::{
        AdjustStockRequest, CreateProductRequest, GetStockRequest, Product, adjust_stock_request,
        ledger_entry::Reason as LedgerReason, product::StockTracking, product_service_client::ProductServiceClient,
        stock_service_client::StockServiceClient,
    },
    order::v1::{
        CancelOrderRequest, CreateShipmentRequest, GetOrderRequest, ListOrdersRequest, ListTimelineEntriesRequest,
        Order, PlaceOrderRequest, Refund, RefundOrderRequest, Return, ReturnOrderItemsRequest, Shipment, TimelineEntry,
        cancel_order_request, order, order_service_client::OrderServiceClient, place_order_request,
        return_order_items_request, saga_service_client::SagaServiceClient, shipment as shipped, timeline_entry::Kind,
    },
    user::v1::{
        LogInRequest, RegisterRequest, session_service_client::SessionServiceClient,
        user_service_client::UserServiceClient,
    },
};
use souk_testkit::{
    db::{Engine, TestDatabase, database},
    proxy::Proxy,
    wait,
};
use tokio::{net::TcpListener, runtime::Runtime, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{
    Response, Status,
    metadata::{Ascii, MetadataValue},
    service::interceptor::{InterceptedService, Interceptor},
    transport::{Channel, Endpoint},
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const PASSWORD: &str = "correct horse battery";

/// Longer than anything here should take.
pub const SOON: Duration = Duration::from_secs(30);

pub type Api = OrderServiceClient<InterceptedService<Channel, Bearer>>;

/// The three services on fresh databases, with a proxy between orders and inventory.
pub struct Souk {
    pub engine: Engine,
    pub config: Config,
    pub admin: Person,
    pub staff: Person,
    pub ada: Person,
    pub bob: Person,
    /// Orders reach inventory through it.
    pub link: Proxy,
    pub orders: Running,
    pub inventory: SocketAddr,
    inventory_config: souk_inventory::Config,
    stop: CancellationToken,
    database: TestDatabase,
    _others: [TestDatabase; 2],
}

/// A running replica of the order service.
pub struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    task: Option<JoinHandle<Result<(), souk_order::ServeError>>>,
}

/// A user, logged in.
#[derive(Clone)]
pub struct Person {
    pub name: String,
    pub bearer: Bearer,
}

/// Sends a token, if there is one.
#[derive(Clone)]
pub struct Bearer(pub Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        if let Some(header) = &self.0 {
            request.metadata_mut().insert("authorization", header.clone());
        }
        Ok(request)
    }
}

/// All on a fresh database of each engine.
pub async fn both() -> [Souk; 2] {
    both_with(&[]).await
}

/// The same, with settings of `[order]` by their variables' last part.
pub async fn both_with(settings: &[(&str, &str)]) -> [Souk; 2] {
    [Souk::start(Engine::Sqlite, settings).await, Souk::start(Engine::Postgres, settings).await]
}

impl Souk {
    pub async fn start(engine: Engine, settings: &[(&str, &str)]) -> Self {
        let stop = CancellationToken::new();
        let people = database(Engine::Sqlite, "user").await;
        let (users, [admin, staff, ada, bob]) = people_of(&people, &stop).await;

        let goods = database(engine, "inventory").await;
        let inventory_config = inventory_config(&goods, users);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let inventory = listener.local_addr().unwrap();
        tokio::spawn(souk_inventory::serve(inventory_config.clone(), listener, stop.clone()));
        let link = Proxy::start(inventory.to_string()).await;

        let database = database(engine, "order").await;
        let config = order_config(&database, users, link.address(), settings);
        let orders = Running::start(&config).await;
        let souk = Self {
            engine,
            config,
            admin,
            staff,
            ada,
            bob,
            link,
            orders,
            inventory,
            inventory_config,
            stop,
            database,
            _others: [people, goods],
        };
        souk.ready().await;
        souk
    }

    /// Waits until both services answer.
    pub async fn ready(&self) {
        let mut stock = self.stock();
        let mut orders = self.api(&self.staff);
        let missing = GetStockRequest { product: "products/prd_00000000000000000000000000".into(), read_time: None };
        wait::until(SOON, "the services to answer", async || {
            let stock = stock.get_stock(missing.clone()).await;
            let orders = orders.list_orders(ListOrdersRequest::default()).await;
            stock.map_or_else(|status| status.code() == tonic::Code::NotFound, |_| true) && orders.is_ok()
        })
        .await;
    }

    pub fn api(&self, who: &Person) -> Api {
        OrderServiceClient::with_interceptor(channel(self.orders.address), who.bearer.clone())
    }

    pub fn sagas(&self, who: &Person) -> SagaServiceClient<InterceptedService<Channel, Bearer>> {
        SagaServiceClient::with_interceptor(channel(self.orders.address), who.bearer.clone())
    }

    pub fn products(&self) -> ProductServiceClient<InterceptedService<Channel, Bearer>> {
        ProductServiceClient::with_interceptor(channel(self.inventory), self.staff.bearer.clone())
    }

    pub fn stock(&self) -> StockServiceClient<InterceptedService<Channel, Bearer>> {
        StockServiceClient::with_interceptor(channel(self.inventory), self.staff.bearer.clone())
    }

    /// A product at 2.50 GBP with so many pieces; its resource name.
    pub async fn stocked(&self, sku: &str, pieces: i64) -> String {
        let product = self.made(draft(sku)).await;
        if pieces > 0 {
            self.receive(&product, pieces).await;
        }
        product
    }

    pub async fn made(&self, product: Product) -> String {
        let request = CreateProductRequest { product: Some(product) };
        self.products().create_product(request).await.unwrap().into_inner().name
    }

    pub async fn receive(&self, product: &str, quantity: i64) {
        let item = adjust_stock_request::Item { product: product.to_owned(), location: String::new(), quantity };
        let request = AdjustStockRequest {
            request_id: key(),
            items: vec![item],
            reason: LedgerReason::Correction.into(),
            ..AdjustStockRequest::default()
        };
        self.stock().adjust_stock(request).await.unwrap();
    }

    /// On hand and available.
    pub async fn sums(&self, product: &str) -> (i64, i64) {
        let request = GetStockRequest { product: product.to_owned(), read_time: None };
        let levels = self.stock().get_stock(request).await.unwrap().into_inner().levels;
        levels.iter().fold((0, 0), |sum, level| (sum.0 + level.on_hand, sum.1 + level.available))
    }

    pub async fn place(&self, who: &Person, request: PlaceOrderRequest) -> Result<Order, Status> {
        Ok(self.place_raw(who, request).await?.into_inner())
    }

    pub async fn place_raw(&self, who: &Person, request: PlaceOrderRequest) -> Result<Response<Order>, Status> {
        self.api(who).place_order(request).await
    }

    /// An order that Ada placed and paid for.
    pub async fn confirmed(&self, items: &[(&str, i64)]) -> Order {
        let order = self.place(&self.ada, order_for(items, "tok_approved")).await.unwrap();
        assert_eq!(order.state(), order::State::Confirmed);
        order
    }

    pub async fn get(&self, who: &Person, name: &str) -> Result<Order, Status> {
        let request = GetOrderRequest { name: name.to_owned() };
        Ok(self.api(who).get_order(request).await?.into_inner())
    }

    pub async fn cancel(&self, who: &Person, name: &str, etag: &str) -> Result<Order, Status> {
        let (name, etag) = (name.to_owned(), etag.to_owned());
        let request = CancelOrderRequest { name, etag, reason: "changed my mind".into(), ..Default::default() };
        Ok(self.api(who).cancel_order(request).await?.into_inner())
    }

    pub async fn give_back(&self, who: &Person, request: ReturnOrderItemsRequest) -> Result<Return, Status> {
        Ok(self.api(who).return_order_items(request).await?.into_inner())
    }

    pub async fn cancel_items(&self, who: &Person, request: CancelOrderRequest) -> Result<Order, Status> {
        Ok(self.api(who).cancel_order(request).await?.into_inner())
    }

    pub async fn refund(&self, who: &Person, request: RefundOrderRequest) -> Result<Refund, Status> {
        Ok(self.api(who).refund_order(request).await?.into_inner())
    }

    pub async fn ship(&self, who: &Person, request: CreateShipmentRequest) -> Result<Shipment, Status> {
        Ok(self.api(who).create_shipment(request).await?.into_inner())
    }

    /// A timeline as one sees it.
    pub async fn timeline(&self, who: &Person, order: &str) -> Vec<TimelineEntry> {
        let request = ListTimelineEntriesRequest { parent: order.to_owned(), ..Default::default() };
        self.api(who).list_timeline_entries(request).await.unwrap().into_inner().timeline_entries
    }

    /// What happened to an order, in order.
    pub async fn kinds(&self, order: &str) -> Vec<Kind> {
        let entries = self.timeline(&self.staff, order).await;
        let numbers: Vec<_> = entries.iter().map(|entry| entry.number).collect();
        assert!(numbers.iter().copied().eq(1..=i32::try_from(numbers.len()).unwrap()), "{numbers:?}");
        entries.iter().map(|entry| entry.kind()).collect()
    }

    /// Every order there is.
    pub async fn all(&self) -> Vec<Order> {
        let mut request = ListOrdersRequest { page_size: 500, ..Default::default() };
        let mut orders = Vec::new();
        loop {
            let page = self.api(&self.staff).list_orders(request.clone()).await.unwrap().into_inner();
            orders.extend(page.orders);
            if page.next_page_token.is_empty() {
                return orders;
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Waits until an order is being paid, which tok_slow draws out; its resource name.
    pub async fn paying(&self) -> String {
        wait::value(SOON, "the order to be paid", async || {
            let order = self.all().await.into_iter().find(|order| order.state() == order::State::Pending)?;
            (self.kinds(&order.name).await.len() == 2).then_some(order.name)
        })
        .await
    }

    /// Waits until no order is on its way any more.
    pub async fn settled(&self) -> Vec<Order> {
        wait::value(SOON, "every order to be final", async || {
            let orders = self.all().await;
            let running = |order: &Order| matches!(order.state(), order::State::Pending | order::State::Cancelling);
            (!orders.iter().any(running)).then_some(orders)
        })
        .await
    }

    /// That every promise holds, in both databases and between them.
    pub async fn verified(&self) {
        for check in souk_order::verify(&self.config).await.unwrap() {
            assert!(check.holds(), "{}: {check:?}", self.engine);
        }
        for check in souk_inventory::verify(&self.inventory_config).await.unwrap() {
            assert!(check.holds(), "{}: {check:?}", self.engine);
        }
    }

    /// A gateway in front of the three services: its address. It stops with them.
    pub async fn gateway(&self) -> SocketAddr {
        let variables = vec![("SOUK_AUTH__INTERNAL_SECRET".to_owned(), SECRET.to_owned())];
        let settings = load("gateway", souk_gateway::DEFAULTS, variables);
        let mut config = souk_gateway::Config::from_settings(&settings).unwrap();
        let backends = &mut config.settings.backends;
        backends.set("souk.user", self.config.settings.clients.user.address.clone());
        backends.set("souk.order", format!("http://{}", self.orders.address));
        backends.set("souk.inventory", format!("http://{}", self.inventory));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(souk_gateway::serve(config, listener, self.stop.clone()));
        address
    }

    /// A handle on the orders' database beside the service's own.
    pub async fn db(&self) -> Db {
        Store::connect(&self.config.settings.database, self.database.data_dir()).await.unwrap()
    }

    /// Stops the order service as SIGTERM does, and starts it again.
    pub async fn restart(&mut self) {
        self.orders.stopped().await;
        self.orders = Running::start(&self.config).await;
        self.ready().await;
    }
}

impl Drop for Souk {
    fn drop(&mut self) {
        self.stop.cancel();
        self.orders.stop.cancel();
    }
}

impl Running {
    pub async fn start(config: &Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(souk_order::serve(config.clone(), listener, stop.clone()));
        Self { address, stop, task: Some(task) }
    }

    /// The same in a runtime of its own: where that is dropped, everything is gone at once, as by SIGKILL.
    pub async fn apart(config: &Config) -> (Self, Runtime) {
        let runtime = Runtime::new().unwrap();
        let config = config.clone();
        let running = runtime.spawn(async move { Self::start(&config).await }).await.unwrap();
        (running, runtime)
    }

    pub fn api(&self, who: &Person) -> Api {
        OrderServiceClient::with_interceptor(channel(self.address), who.bearer.clone())
    }

    pub fn channel(&self) -> Channel {
        channel(self.address)
    }

    pub async fn stopped(&mut self) {
        self.stop.cancel();
        self.task.take().unwrap().await.unwrap().unwrap();
    }
}

fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

fn load(name: &str, defaults: &str, variables: Vec<(String, String)>) -> souk_common::config::Settings {
    Loader::new().defaults(name, defaults).variables(variables).load().unwrap()
}

fn shared(database: &TestDatabase, section: &str) -> Vec<(String, String)> {
    vec![
        ("SOUK_DATA_DIR".to_owned(), database.data_dir().display().to_string()),
        ("SOUK_AUTH__INTERNAL_SECRET".to_owned(), SECRET.to_owned()),
        (format!("SOUK_{section}__DATABASE__URL"), database.url.clone()),
    ]
}

fn inventory_config(database: &TestDatabase, users: SocketAddr) -> souk_inventory::Config {
    let mut variables = shared(database, "INVENTORY");
    variables.push(("SOUK_INVENTORY__CLIENTS__USER__ADDRESS".to_owned(), format!("http://{users}")));
    variables.push(("SOUK_INVENTORY__EXPIRY_INTERVAL".to_owned(), "1s".to_owned()));
    souk_inventory::Config::from_settings(&load("inventory", souk_inventory::DEFAULTS, variables)).unwrap()
}

fn order_config(
    database: &TestDatabase,
    users: SocketAddr,
    inventory: SocketAddr,
    settings: &[(&str, &str)],
) -> Config {
    let mut variables = shared(database, "ORDER");
    let fixed = [
        ("CLIENTS__USER__ADDRESS", format!("http://{users}")),
        ("CLIENTS__INVENTORY__ADDRESS", format!("http://{inventory}")),
        ("SAGA__INTERVAL", "50ms".to_owned()),
    ];
    variables.extend(fixed.map(|(name, value)| (format!("SOUK_ORDER__{name}"), value)));
    for (name, value) in settings {
        variables.push((format!("SOUK_ORDER__{name}"), (*value).to_owned()));
    }
    Config::from_settings(&load("order", souk_order::DEFAULTS, variables)).unwrap()
}

/// A user service with an administrator, one of the staff and two customers, logged in.
async fn people_of(database: &TestDatabase, stop: &CancellationToken) -> (SocketAddr, [Person; 4]) {
    let mut variables = shared(database, "USER");
    variables.push(("SOUK_USER__HASHING__MEMORY".to_owned(), "64KiB".to_owned()));
    variables.push(("SOUK_USER__HASHING__ITERATIONS".to_owned(), "1".to_owned()));
    let config = souk_user::Config::from_settings(&load("user", souk_user::DEFAULTS, variables)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(souk_user::serve(config.clone(), listener, stop.clone()));

    let mut users = UserServiceClient::new(channel(address));
    let mut sessions = SessionServiceClient::new(channel(address));
    let mut people = Vec::new();
    for (who, role) in [("admin", Some(Role::Admin)), ("staff", Some(Role::Staff)), ("ada", None), ("bob", None)] {
        let email = format!("{who}@example.com");
        let request =
            RegisterRequest { email: email.clone(), password: PASSWORD.to_owned(), display_name: String::new() };
        let user = wait::value(SOON, "the user service to answer", async || {
            users.register(request.clone()).await.ok().map(Response::into_inner)
        })
        .await;
        if let Some(role) = role {
            let db = souk_user::store::open(&config.settings.database, &config.common.data_dir).await.unwrap();
            let (id, roles) = (UserId::parse_name(&user.name).unwrap(), Roles::from_iter([role]));
            souk_user::store::users::set_roles(
                &db,
                souk_user::store::users::Actor::Operator,
                id,
                "",
                roles,
                souk_user::domain::now(),
            )
            .await
            .unwrap();
            db.close();
        }
        let request = LogInRequest { email, password: PASSWORD.to_owned(), ..LogInRequest::default() };
        let session = sessions.log_in(request).await.unwrap().into_inner();
        let header = MetadataValue::from_str(&format!("Bearer {}", session.access_token)).unwrap();
        people.push(Person { name: user.name, bearer: Bearer(Some(header)) });
    }
    let people: [Person; 4] = people.try_into().unwrap_or_else(|_| panic!("four people"));
    (address, people)
}

pub fn gbp(units: i64, nanos: i32) -> Money {
    Money { currency_code: "GBP".to_owned(), units, nanos }
}

/// A product that can be made, at 2.50 GBP.
pub fn draft(sku: &str) -> Product {
    Product {
        sku: sku.to_owned(),
        title: format!("Title of {sku}"),
        price: Some(gbp(2, 500_000_000)),
        ..Product::default()
    }
}

/// Postage: a product whose stock nobody counts.
pub fn untracked(sku: &str) -> Product {
    Product { stock_tracking: StockTracking::Untracked.into(), ..draft(sku) }
}

/// A key that no other request has.
pub fn key() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("key-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

pub fn address() -> Address {
    Address {
        recipient: "Ada Lovelace".into(),
        address_lines: vec!["12 St James's Square".into()],
        locality: "London".into(),
        postal_code: "SW1Y 4JH".into(),
        region_code: "GB".into(),
        ..Address::default()
    }
}

pub fn order_for(items: &[(&str, i64)], token: &str) -> PlaceOrderRequest {
    PlaceOrderRequest {
        request_id: key(),
        items: items
            .iter()
            .map(|&(product, quantity)| place_order_request::Item {
                product: product.to_owned(),
                quantity,
                unit_price: None,
            })
            .collect(),
        shipping_address: Some(address()),
        payment_token: token.to_owned(),
        ..PlaceOrderRequest::default()
    }
}

pub fn back(order: &str, items: &[(i32, i64)]) -> ReturnOrderItemsRequest {
    ReturnOrderItemsRequest {
        name: order.to_owned(),
        request_id: key(),
        items: items
            .iter()
            .map(|&(line_number, quantity)| return_order_items_request::Item { line_number, quantity })
            .collect(),
        reason: "broken".into(),
        return_time: None,
    }
}

pub fn cancel(order: &str, items: &[(i32, i64)]) -> CancelOrderRequest {
    CancelOrderRequest {
        name: order.to_owned(),
        request_id: key(),
        items: items
            .iter()
            .map(|&(line_number, quantity)| cancel_order_request::Item { line_number, quantity })
            .collect(),
        reason: "too many".into(),
        etag: String::new(),
    }
}

pub fn refund(order: &str, amount: Money) -> RefundOrderRequest {
    let (name, request_id) = (order.to_owned(), key());
    RefundOrderRequest { name, request_id, amount: Some(amount), reason: "sorry".into() }
}

pub fn shipment(order: &str, lines: &[(i32, i64)]) -> CreateShipmentRequest {
    let lines = lines.iter().map(|&(line_number, quantity)| shipped::Line { line_number, quantity });
    let shipment = Shipment {
        lines: lines.collect(),
        carrier: "Royal Mail".into(),
        tracking_number: "AB123".into(),
        tracking_url: "https://example.com/AB123".into(),
        ..Shipment::default()
    };
    CreateShipmentRequest { parent: order.to_owned(), request_id: key(), shipment: Some(shipment) }
}

/// That a call was refused for this reason, and that its answer shows nothing of the inside.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, Status>, reason: Reason) -> Problem {
    let status = result.expect_err("should have been refused");
    let shown = format!("{} {}", status.message(), String::from_utf8_lossy(status.details())).to_lowercase();
    for inside in ["diesel", "sql", "constraint", "panick", "/src/", "database error", "tokio", "127.0.0.1"] {
        assert!(!shown.contains(inside), "{inside:?} in {shown}");
    }
    let problem = Problem::from(status);
    assert_eq!(problem.reason(), reason, "{problem}");
    problem
}

/// The paths of the fields that were refused.
pub fn fields(problem: &Problem) -> Vec<&str> {
    problem.field_violations().iter().map(|field| field.path.as_str()).collect()
}
