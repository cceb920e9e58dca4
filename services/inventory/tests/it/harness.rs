//! Boots the service and calls it.

mod requests;

use souk_common::{auth::Role, error::Problem};
use souk_inventory::Config;
use souk_proto::inventory::v1::{
    BatchUpdateReservationsRequest, CommitReservationRequest, CreateLocationRequest, CreateProductRequest,
    GetAvailabilityRequest, GetStockRequest, ListLocationsRequest, ListProductsRequest, Location, Product,
    ReleaseReservationRequest, Reservation, StockLevel,
    batch_update_reservations_request::{Change as ChangeMessage, change::Change},
    batch_update_reservations_response::{Result as BatchResult, result::Result as Changed},
    location_service_client::LocationServiceClient,
    product_service_client::ProductServiceClient,
    reservation::State,
    reservation_service_client::ReservationServiceClient,
    stock_service_client::StockServiceClient,
};
use souk_testkit::{
    db::{Engine, TestDatabase, database},
    people::{Users, people},
    service::{self, settings},
};
pub use souk_testkit::{
    goods::{draft, gbp, key, untracked},
    service::{Bearer, fields, refused},
};
use tonic::{Status, service::interceptor::InterceptedService, transport::Channel};

pub use self::requests::{adjustment, adjustments, count, give_back, item, order, reserve, transfer};

pub type Api = InterceptedService<Channel, Bearer>;

type Running = service::Running<souk_inventory::ServeError>;

/// A database with replicas of the inventory service, and a user service beside it.
pub struct Souk {
    pub replicas: Vec<Running>,
    pub config: Config,
    pub staff: Bearer,
    pub customer: Bearer,
    pub service: Bearer,
    /// Dropped last.
    pub database: TestDatabase,
    _users: Users,
}

/// The service on a fresh database of each engine.
pub async fn both() -> [Souk; 2] {
    [Souk::start(Engine::Sqlite, 1, &[]).await, Souk::start(Engine::Postgres, 1, &[]).await]
}

impl Souk {
    /// Starts `replicas` replicas of the service on a new database, with settings of `[inventory]`, named by the last
    /// part of their variables.
    pub async fn start(engine: Engine, replicas: usize, settings: &[(&str, &str)]) -> Self {
        let (users, [staff, customer]) = people([("staff", Some(Role::Staff)), ("customer", None)]).await;
        let database = database(engine, "inventory").await;
        let user = format!("http://{}", users.address());
        // By default, no result depends on a job.
        let fixed = [("CLIENTS__USER__ADDRESS", user.as_str()), ("EXPIRY_INTERVAL", "1h")];
        let given = self::settings("inventory", souk_inventory::DEFAULTS, &database, &[&fixed[..], settings].concat());
        let config = Config::from_settings(&given).unwrap();
        let mut running = Vec::new();
        // All replicas start at once; one of them creates the schema.
        for _ in 0..replicas {
            running.push(start(&config).await);
        }
        let (staff, customer, service) = (staff.bearer, customer.bearer, Bearer::service("order"));
        let souk = Self { replicas: running, config, staff, customer, service, database, _users: users };
        souk.ready().await;
        souk
    }

    /// Waits until every replica responds.
    async fn ready(&self) {
        for replica in &self.replicas {
            let mut locations = LocationServiceClient::with_interceptor(replica.channel(), self.staff.clone());
            let deadline = std::time::Duration::from_secs(30);
            souk_testkit::wait::until(deadline, "the service to answer", async || {
                locations.list_locations(souk_proto::inventory::v1::ListLocationsRequest::default()).await.is_ok()
            })
            .await;
        }
    }

    pub fn channel(&self) -> Channel {
        self.replicas[0].channel()
    }

    pub fn products(&self) -> ProductServiceClient<Api> {
        self.products_at(0)
    }

    pub fn products_at(&self, replica: usize) -> ProductServiceClient<Api> {
        ProductServiceClient::with_interceptor(self.replicas[replica].channel(), self.staff.clone())
    }

    pub fn locations(&self) -> LocationServiceClient<Api> {
        LocationServiceClient::with_interceptor(self.channel(), self.staff.clone())
    }

    pub fn stock(&self) -> StockServiceClient<Api> {
        self.stock_at(0)
    }

    pub fn stock_at(&self, replica: usize) -> StockServiceClient<Api> {
        StockServiceClient::with_interceptor(self.replicas[replica].channel(), self.staff.clone())
    }

    pub fn reservations(&self) -> ReservationServiceClient<Api> {
        self.reservations_at(0)
    }

    /// The methods of reservations as staff, who may only read them.
    pub fn reservations_of_staff(&self) -> ReservationServiceClient<Api> {
        ReservationServiceClient::with_interceptor(self.replicas[0].channel(), self.staff.clone())
    }

    pub fn reservations_at(&self, replica: usize) -> ReservationServiceClient<Api> {
        ReservationServiceClient::with_interceptor(self.replicas[replica].channel(), self.service.clone())
    }

    /// Creates a product at 2.50 GBP. Returns its resource name.
    pub async fn product(&self, sku: &str) -> String {
        self.made(draft(sku)).await.name
    }

    pub async fn made(&self, product: Product) -> Product {
        let request = CreateProductRequest { product: Some(product) };
        self.products().create_product(request).await.unwrap().into_inner()
    }

    /// The stock codes of all pages of a list.
    pub async fn listed(&self, mut request: ListProductsRequest) -> Vec<String> {
        let mut skus = Vec::new();
        loop {
            let page = self.products().list_products(request.clone()).await.unwrap().into_inner();
            skus.extend(page.products.into_iter().map(|product| product.sku));
            if page.next_page_token.is_empty() {
                return skus;
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Creates a product with stock at the main location.
    pub async fn stocked(&self, sku: &str, pieces: i64) -> String {
        let product = self.product(sku).await;
        self.receive(&product, "", pieces).await;
        product
    }

    pub async fn location(&self, code: &str, priority: i32) -> String {
        let location = Location { code: code.to_owned(), priority, ..Location::default() };
        let request = CreateLocationRequest { location: Some(location) };
        self.locations().create_location(request).await.unwrap().into_inner().name
    }

    /// The location of a new installation.
    pub async fn main(&self) -> String {
        let locations = self.locations().list_locations(ListLocationsRequest::default()).await.unwrap().into_inner();
        locations.locations.into_iter().find(|location| location.code == "main").unwrap().name
    }

    /// Adds pieces at a location.
    pub async fn receive(&self, product: &str, location: &str, pieces: i64) {
        self.stock().adjust_stock(adjustment(&key(), product, location, pieces)).await.unwrap();
    }

    /// The stock of a product at each location.
    pub async fn levels(&self, product: &str) -> Vec<StockLevel> {
        let request = GetStockRequest { product: product.to_owned(), read_time: None };
        self.stock().get_stock(request).await.unwrap().into_inner().levels
    }

    /// On hand, reserved and available in total.
    pub async fn sums(&self, product: &str) -> (i64, i64, i64) {
        let add = |sum: (i64, i64, i64), level: StockLevel| {
            (sum.0 + level.on_hand, sum.1 + level.reserved, sum.2 + level.available)
        };
        self.levels(product).await.into_iter().fold((0, 0, 0), add)
    }

    pub async fn available(&self, product: &str) -> i64 {
        let request = GetAvailabilityRequest { product: product.to_owned() };
        self.stock().get_availability(request).await.unwrap().into_inner().available
    }

    pub async fn reserve(&self, order: &str, items: &[(&str, i64)]) -> Result<Reservation, Status> {
        Ok(self.reservations().reserve(reserve(order, items, 600)).await?.into_inner())
    }

    pub async fn commit(&self, order: &str) -> Result<Reservation, Status> {
        let request = CommitReservationRequest { order: order.to_owned() };
        Ok(self.reservations().commit_reservation(request).await?.into_inner())
    }

    pub async fn release(&self, order: &str) -> Result<Reservation, Status> {
        let request = ReleaseReservationRequest { order: order.to_owned() };
        Ok(self.reservations().release_reservation(request).await?.into_inner())
    }

    /// Sends a batch of changes.
    pub async fn batch(&self, changes: Vec<Change>) -> Result<Vec<Result<State, Problem>>, Status> {
        let results = self.batch_results(changes).await?.into_iter().map(|result| match result.result.unwrap() {
            Changed::State(state) => Ok(State::try_from(state).unwrap()),
            Changed::Error(status) => Err(status.into()),
        });
        Ok(results.collect())
    }

    /// The same, with the results as in the response.
    pub async fn batch_results(&self, changes: Vec<Change>) -> Result<Vec<BatchResult>, Status> {
        let changes = changes.into_iter().map(|change| ChangeMessage { change: Some(change) }).collect();
        let request = BatchUpdateReservationsRequest { changes };
        Ok(self.reservations().batch_update_reservations(request).await?.into_inner().results)
    }

    pub async fn give_back(&self, order: &str, key: &str, items: &[(&str, i64)]) -> Result<Reservation, Status> {
        Ok(self.reservations().return_reservation(give_back(order, key, items)).await?.into_inner())
    }

    /// Checks that every promise holds in the database.
    pub async fn verified(&self) {
        for check in souk_inventory::verify(&self.config).await.unwrap() {
            assert!(check.holds(), "{}: {check:?}", self.database.engine);
        }
    }

    /// Starts one replica again, after [`Self::stop`].
    pub async fn restart(&mut self) {
        self.replicas.push(start(&self.config).await);
        self.ready().await;
    }

    /// Stops all replicas as SIGTERM does.
    pub async fn stop(&mut self) {
        for mut replica in self.replicas.drain(..) {
            replica.stopped().await.unwrap();
        }
    }
}

async fn start(config: &Config) -> Running {
    Running::start(|listener, stop| souk_inventory::serve(config.clone(), listener, stop)).await
}
