//! Boots the service and speaks to it.

mod requests;

use std::{net::SocketAddr, str::FromStr};

use souk_common::{
    auth::{Role, Roles, ServiceTokens},
    config::{Loader, Secret},
    error::{Problem, Reason},
    ids::UserId,
};
use souk_inventory::Config;
use souk_proto::{
    inventory::v1::{
        BatchUpdateReservationsRequest, CommitReservationRequest, CreateLocationRequest, CreateProductRequest,
        GetAvailabilityRequest, GetStockRequest, ListLocationsRequest, Location, Product, ReleaseReservationRequest,
        Reservation, StockLevel,
        batch_update_reservations_request::{Change as ChangeMessage, change::Change},
        batch_update_reservations_response::result::Result as Changed,
        location_service_client::LocationServiceClient,
        product_service_client::ProductServiceClient,
        reservation::State,
        reservation_service_client::ReservationServiceClient,
        stock_service_client::StockServiceClient,
    },
    user::v1::{
        LogInRequest, RegisterRequest, session_service_client::SessionServiceClient,
        user_service_client::UserServiceClient,
    },
};
use souk_testkit::db::{Engine, TestDatabase, database};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    metadata::{Ascii, MetadataValue},
    service::interceptor::{InterceptedService, Interceptor},
    transport::{Channel, Endpoint},
};

pub use self::requests::{
    adjustment, adjustments, count, draft, gbp, give_back, item, key, order, reserve, transfer, untracked,
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const PASSWORD: &str = "correct horse battery";

pub type Api = InterceptedService<Channel, Bearer>;

/// A running replica of the inventory service.
pub struct Running {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: Option<JoinHandle<Result<(), souk_inventory::ServeError>>>,
}

/// A database with replicas of the inventory service, and a user service beside it.
pub struct Souk {
    pub replicas: Vec<Running>,
    pub config: Config,
    pub staff: Bearer,
    pub customer: Bearer,
    pub service: Bearer,
    users: CancellationToken,
    /// Goes last.
    pub database: TestDatabase,
    _users: TestDatabase,
}

/// Sends a token, if there is one.
#[derive(Clone)]
pub enum Bearer {
    Nobody,
    User(MetadataValue<Ascii>),
    Service(ServiceTokens),
}

pub const NOBODY: Bearer = Bearer::Nobody;

impl Bearer {
    fn token(token: &str) -> Self {
        Self::User(MetadataValue::from_str(&format!("Bearer {token}")).unwrap())
    }

    /// Another service.
    pub fn service(name: &str) -> Self {
        let secret: Secret = serde_json::from_value(SECRET.into()).unwrap();
        Self::Service(ServiceTokens::new(&secret, name))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        let header = match self {
            Self::Nobody => return Ok(request),
            Self::User(header) => header.clone(),
            Self::Service(tokens) => {
                let called = request.extensions().get::<tonic::GrpcMethod<'static>>().unwrap().service();
                MetadataValue::try_from(tokens.bearer(called).unwrap().as_bytes()).unwrap()
            }
        };
        request.metadata_mut().insert("authorization", header);
        Ok(request)
    }
}

/// The service on a fresh database of each engine.
pub async fn both() -> [Souk; 2] {
    [Souk::start(Engine::Sqlite, 1, &[]).await, Souk::start(Engine::Postgres, 1, &[]).await]
}

impl Souk {
    /// So many replicas of the service on one fresh database, with settings of `[inventory]` by their variables' last
    /// part.
    pub async fn start(engine: Engine, replicas: usize, settings: &[(&str, &str)]) -> Self {
        let (users, people) = (CancellationToken::new(), database(Engine::Sqlite, "user").await);
        let (address, staff, customer) = people_of(&people, &users).await;
        let database = database(engine, "inventory").await;
        let config = config(&database, &address, settings);
        let mut running = Vec::new();
        // All at once: the schema is made by one of them.
        for _ in 0..replicas {
            running.push(Running::start(&config).await);
        }
        let service = Bearer::service("order");
        let souk = Self { replicas: running, config, staff, customer, service, users, database, _users: people };
        souk.ready().await;
        souk
    }

    /// Waits until every replica answers.
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

    /// Of staff, who may look at reservations and no more.
    pub fn reservations_of_staff(&self) -> ReservationServiceClient<Api> {
        ReservationServiceClient::with_interceptor(self.replicas[0].channel(), self.staff.clone())
    }

    pub fn reservations_at(&self, replica: usize) -> ReservationServiceClient<Api> {
        ReservationServiceClient::with_interceptor(self.replicas[replica].channel(), self.service.clone())
    }

    /// A new product at 2.50 GBP; its resource name.
    pub async fn product(&self, sku: &str) -> String {
        self.made(draft(sku)).await.name
    }

    pub async fn made(&self, product: Product) -> Product {
        let request = CreateProductRequest { product: Some(product) };
        self.products().create_product(request).await.unwrap().into_inner()
    }

    /// A product with so many pieces at the main location.
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

    /// The location that a new installation has.
    pub async fn main(&self) -> String {
        let locations = self.locations().list_locations(ListLocationsRequest::default()).await.unwrap().into_inner();
        locations.locations.into_iter().find(|location| location.code == "main").unwrap().name
    }

    /// Puts pieces somewhere.
    pub async fn receive(&self, product: &str, location: &str, pieces: i64) {
        self.stock().adjust_stock(adjustment(&key(), product, location, pieces)).await.unwrap();
    }

    /// Stock of a product at each location.
    pub async fn levels(&self, product: &str) -> Vec<StockLevel> {
        let request = GetStockRequest { product: product.to_owned(), read_time: None };
        self.stock().get_stock(request).await.unwrap().into_inner().levels
    }

    /// On hand, reserved and available over all locations.
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

    /// Asks for changes by one call.
    pub async fn batch(&self, changes: Vec<Change>) -> Result<Vec<Result<State, Problem>>, Status> {
        let changes = changes.into_iter().map(|change| ChangeMessage { change: Some(change) }).collect();
        let request = BatchUpdateReservationsRequest { changes };
        let answer = self.reservations().batch_update_reservations(request).await?.into_inner();
        let results = answer.results.into_iter().map(|result| match result.result.unwrap() {
            Changed::State(state) => Ok(State::try_from(state).unwrap()),
            Changed::Error(status) => Err(status.into()),
        });
        Ok(results.collect())
    }

    pub async fn give_back(&self, order: &str, key: &str, items: &[(&str, i64)]) -> Result<Reservation, Status> {
        Ok(self.reservations().return_reservation(give_back(order, key, items)).await?.into_inner())
    }

    /// That every promise holds in the database.
    pub async fn verified(&self) {
        for check in souk_inventory::verify(&self.config).await.unwrap() {
            assert!(check.holds(), "{}: {check:?}", self.database.engine);
        }
    }

    /// Starts a replica again, after [`Self::stop`].
    pub async fn restart(&mut self) {
        self.replicas.push(Running::start(&self.config).await);
        self.ready().await;
    }

    /// Stops all replicas as SIGTERM does.
    pub async fn stop(&mut self) {
        for mut replica in self.replicas.drain(..) {
            replica.shutdown.cancel();
            replica.task.take().unwrap().await.unwrap().unwrap();
        }
    }
}

impl Drop for Souk {
    fn drop(&mut self) {
        self.users.cancel();
        self.replicas.iter().for_each(|replica| replica.shutdown.cancel());
    }
}

impl Running {
    async fn start(config: &Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(souk_inventory::serve(config.clone(), listener, shutdown.clone()));
        Self { address, shutdown, task: Some(task) }
    }

    fn channel(&self) -> Channel {
        channel(self.address)
    }
}

fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

fn config(database: &TestDatabase, users: &SocketAddr, settings: &[(&str, &str)]) -> Config {
    let mut variables = vec![
        ("SOUK_DATA_DIR".to_owned(), database.data_dir().display().to_string()),
        ("SOUK_AUTH__INTERNAL_SECRET".to_owned(), SECRET.to_owned()),
        ("SOUK_INVENTORY__DATABASE__URL".to_owned(), database.url.clone()),
        ("SOUK_INVENTORY__CLIENTS__USER__ADDRESS".to_owned(), format!("http://{users}")),
        // If a test does not ask for it, nothing depends on a job.
        ("SOUK_INVENTORY__EXPIRY_INTERVAL".to_owned(), "1h".to_owned()),
    ];
    for (name, value) in settings {
        variables.push((format!("SOUK_INVENTORY__{name}"), (*value).to_owned()));
    }
    let loader = Loader::new().defaults("inventory", souk_inventory::DEFAULTS).variables(variables);
    Config::from_settings(&loader.load().unwrap()).unwrap()
}

/// A user service with one of the staff and one customer, logged in.
async fn people_of(database: &TestDatabase, shutdown: &CancellationToken) -> (SocketAddr, Bearer, Bearer) {
    let variables = [
        ("SOUK_DATA_DIR", database.data_dir().display().to_string()),
        ("SOUK_AUTH__INTERNAL_SECRET", SECRET.to_owned()),
        ("SOUK_USER__DATABASE__URL", database.url.clone()),
        ("SOUK_USER__HASHING__MEMORY", "64KiB".to_owned()),
        ("SOUK_USER__HASHING__ITERATIONS", "1".to_owned()),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value));
    let loader = Loader::new().defaults("user", souk_user::DEFAULTS).variables(variables);
    let config = souk_user::Config::from_settings(&loader.load().unwrap()).unwrap();
    let db = souk_user::store::open(&config.settings.database, &config.common.data_dir).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(souk_user::serve(config, listener, shutdown.clone()));

    let mut tokens = Vec::new();
    for (email, roles) in [("staff@example.com", vec![Role::Staff]), ("customer@example.com", vec![])] {
        let request =
            RegisterRequest { email: email.to_owned(), password: PASSWORD.to_owned(), display_name: String::new() };
        let user = UserServiceClient::new(channel(address)).register(request).await.unwrap().into_inner();
        let (id, roles) = (UserId::parse_name(&user.name).unwrap(), Roles::from_iter(roles));
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
        let request =
            LogInRequest { email: email.to_owned(), password: PASSWORD.to_owned(), ..LogInRequest::default() };
        let session = SessionServiceClient::new(channel(address)).log_in(request).await.unwrap().into_inner();
        tokens.push(Bearer::token(&session.access_token));
    }
    db.close();
    let customer = tokens.pop().unwrap();
    (address, tokens.pop().unwrap(), customer)
}

/// That a call was refused for this reason, and that its answer shows nothing of the inside.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, Status>, reason: Reason) -> Problem {
    let status = result.expect_err("should have been refused");
    let shown = format!("{} {}", status.message(), String::from_utf8_lossy(status.details())).to_lowercase();
    for inside in ["diesel", "sql", "constraint", "_key_key", "panick", "/src/", "database error", "tokio"] {
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
