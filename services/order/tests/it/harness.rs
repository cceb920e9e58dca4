//! Boots the services and calls them.

use std::{
    net::SocketAddr,
    ops::{Deref, DerefMut},
    time::Duration,
};

use souk_common::{auth::Role, config::Loader};
use souk_order::{Config, store::Store};
use souk_proto::{
    common::v1::Address,
    google::r#type::Money,
    inventory::v1::{
        AdjustStockRequest, CreateProductRequest, GetStockRequest, Product, adjust_stock_request,
        ledger_entry::Reason as LedgerReason, product_service_client::ProductServiceClient,
        stock_service_client::StockServiceClient,
    },
    order::v1::{
        CancelOrderRequest, CreateShipmentRequest, GetOrderRequest, ListOrdersRequest, ListTimelineEntriesRequest,
        Order, PlaceOrderRequest, Refund, RefundOrderRequest, Return, ReturnOrderItemsRequest, Shipment, TimelineEntry,
        cancel_order_request, order, order_service_client::OrderServiceClient, place_order_request,
        return_order_items_request, saga_service_client::SagaServiceClient, shipment as shipped, timeline_entry::Kind,
    },
};
use souk_store::db::Db;
use souk_testkit::{
    db::{Engine, TestDatabase, database},
    people::{Users, people},
    proxy::Proxy,
    service::{self, SECRET, settings},
    wait,
};
pub use souk_testkit::{
    goods::{draft, gbp, key, untracked},
    people::Person,
    service::{Bearer, fields, refused},
};
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status, service::interceptor::InterceptedService, transport::Channel};

/// A deadline that no step of these tests should reach.
pub const SOON: Duration = Duration::from_secs(30);

pub type Api = OrderServiceClient<InterceptedService<Channel, Bearer>>;

/// The three services on new databases, with a proxy between orders and inventory.
pub struct Souk {
    pub engine: Engine,
    pub config: Config,
    pub admin: Person,
    pub staff: Person,
    pub ada: Person,
    pub bob: Person,
    /// The proxy through which the order service calls inventory.
    pub link: Proxy,
    pub orders: Running,
    inventory: service::Running<souk_inventory::ServeError>,
    inventory_config: souk_inventory::Config,
    /// Stops the gateway.
    stop: CancellationToken,
    database: TestDatabase,
    _goods: TestDatabase,
    users: Users,
}

/// A running replica of the order service.
pub struct Running(service::Running<souk_order::ServeError>);

impl Deref for Running {
    type Target = service::Running<souk_order::ServeError>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

/// Everything on a new database of each engine.
pub async fn both() -> [Souk; 2] {
    both_with(&[]).await
}

/// The same with settings of `[order]`, named by the last part of their variables.
pub async fn both_with(settings: &[(&str, &str)]) -> [Souk; 2] {
    [Souk::start(Engine::Sqlite, settings).await, Souk::start(Engine::Postgres, settings).await]
}

impl Souk {
    pub async fn start(engine: Engine, settings: &[(&str, &str)]) -> Self {
        let who = [("admin", Some(Role::Admin)), ("staff", Some(Role::Staff)), ("ada", None), ("bob", None)];
        let (users, [admin, staff, ada, bob]) = people(who).await;
        let user = format!("http://{}", users.address());

        let goods = database(engine, "inventory").await;
        let fixed = [("CLIENTS__USER__ADDRESS", user.as_str()), ("EXPIRY_INTERVAL", "1s")];
        let given = self::settings("inventory", souk_inventory::DEFAULTS, &goods, &fixed);
        let inventory_config = souk_inventory::Config::from_settings(&given).unwrap();
        let serve = |listener, stop| souk_inventory::serve(inventory_config.clone(), listener, stop);
        let inventory = service::Running::start(serve).await;
        let link = Proxy::start(inventory.address().to_string()).await;

        let database = database(engine, "order").await;
        let through = format!("http://{}", link.address());
        let fixed = [
            ("CLIENTS__USER__ADDRESS", user.as_str()),
            ("CLIENTS__INVENTORY__ADDRESS", through.as_str()),
            ("SAGA__INTERVAL", "50ms"),
        ];
        let given = self::settings("order", souk_order::DEFAULTS, &database, &[&fixed[..], settings].concat());
        let config = Config::from_settings(&given).unwrap();
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
            stop: CancellationToken::new(),
            database,
            _goods: goods,
            users,
        };
        souk.ready().await;
        souk
    }

    /// Waits until both services respond.
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
        OrderServiceClient::with_interceptor(self.orders.channel(), who.bearer.clone())
    }

    pub fn sagas(&self, who: &Person) -> SagaServiceClient<InterceptedService<Channel, Bearer>> {
        SagaServiceClient::with_interceptor(self.orders.channel(), who.bearer.clone())
    }

    pub fn products(&self) -> ProductServiceClient<InterceptedService<Channel, Bearer>> {
        ProductServiceClient::with_interceptor(self.inventory.channel(), self.staff.bearer.clone())
    }

    pub fn stock(&self) -> StockServiceClient<InterceptedService<Channel, Bearer>> {
        StockServiceClient::with_interceptor(self.inventory.channel(), self.staff.bearer.clone())
    }

    /// Creates a product at 2.50 GBP with stock. Returns its resource name.
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

    /// On hand and available in total.
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

    /// Places an order as Ada, which is confirmed.
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

    /// A timeline as a person sees it.
    pub async fn timeline(&self, who: &Person, order: &str) -> Vec<TimelineEntry> {
        let request = ListTimelineEntriesRequest { parent: order.to_owned(), ..Default::default() };
        self.api(who).list_timeline_entries(request).await.unwrap().into_inner().timeline_entries
    }

    /// The kinds of an order's timeline entries, in order.
    pub async fn kinds(&self, order: &str) -> Vec<Kind> {
        let entries = self.timeline(&self.staff, order).await;
        let numbers: Vec<_> = entries.iter().map(|entry| entry.number).collect();
        assert!(numbers.iter().copied().eq(1..=i32::try_from(numbers.len()).unwrap()), "{numbers:?}");
        entries.iter().map(|entry| entry.kind()).collect()
    }

    /// All orders.
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

    /// Waits until an order with tok_slow is at its payment. Returns the order's resource name.
    pub async fn paying(&self) -> String {
        wait::value(SOON, "the order to be paid", async || {
            let order = self.all().await.into_iter().find(|order| order.state() == order::State::Pending)?;
            (self.kinds(&order.name).await.len() == 2).then_some(order.name)
        })
        .await
    }

    /// Waits until every order is final.
    pub async fn settled(&self) -> Vec<Order> {
        wait::value(SOON, "every order to be final", async || {
            let orders = self.all().await;
            let running = |order: &Order| matches!(order.state(), order::State::Pending | order::State::Cancelling);
            (!orders.iter().any(running)).then_some(orders)
        })
        .await
    }

    /// Checks that every promise holds, in both databases and between them.
    pub async fn verified(&self) {
        for check in souk_order::verify(&self.config).await.unwrap() {
            assert!(check.holds(), "{}: {check:?}", self.engine);
        }
        for check in souk_inventory::verify(&self.inventory_config).await.unwrap() {
            assert!(check.holds(), "{}: {check:?}", self.engine);
        }
    }

    /// Starts a gateway in front of the three services. Returns its address. It stops with the services.
    pub async fn gateway(&self) -> SocketAddr {
        let secret = [("SOUK_AUTH__INTERNAL_SECRET".to_owned(), SECRET.to_owned())];
        let loader = Loader::new().defaults("gateway", souk_gateway::DEFAULTS).variables(secret);
        let mut config = souk_gateway::Config::from_settings(&loader.load().unwrap()).unwrap();
        let backends = &mut config.settings.backends;
        backends.set("souk.user", format!("http://{}", self.users.address()));
        backends.set("souk.order", format!("http://{}", self.orders.address()));
        backends.set("souk.inventory", format!("http://{}", self.inventory.address()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(souk_gateway::serve(config, listener, self.stop.clone()));
        address
    }

    /// A second pool on the orders' database, beside the service's own.
    pub async fn db(&self) -> Db {
        Store::connect(&self.config.settings.database, self.database.data_dir()).await.unwrap()
    }

    /// Stops the order service as SIGTERM does, and starts it again.
    pub async fn restart(&mut self) {
        self.orders.stopped().await.unwrap();
        self.orders = Running::start(&self.config).await;
        self.ready().await;
    }
}

impl Drop for Souk {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Running {
    pub async fn start(config: &Config) -> Self {
        Self(service::Running::start(|listener, stop| souk_order::serve(config.clone(), listener, stop)).await)
    }

    /// Starts the service in its own runtime. If the runtime is dropped, everything stops at once, as after SIGKILL.
    pub async fn apart(config: &Config) -> (Self, Runtime) {
        let runtime = Runtime::new().unwrap();
        let config = config.clone();
        let running = runtime.spawn(async move { Self::start(&config).await }).await.unwrap();
        (running, runtime)
    }

    pub fn api(&self, who: &Person) -> Api {
        OrderServiceClient::with_interceptor(self.channel(), who.bearer.clone())
    }
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
