//! Boots the service and speaks to it.

use std::{net::SocketAddr, str::FromStr};

use souk_common::{
    auth::{Role, Roles},
    config::Loader,
    db::Db,
    error::{Problem, Reason},
    ids::UserId,
};
use souk_proto::user::v1::{
    LogInRequest, RefreshSessionRequest, RegisterRequest, Session, User, session_service_client::SessionServiceClient,
    user_service_client::UserServiceClient,
};
use souk_testkit::db::{Engine, TestDatabase, database};
use souk_user::{Config, DEFAULTS, ServeError, domain, store};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    metadata::{Ascii, MetadataValue},
    service::interceptor::{InterceptedService, Interceptor},
    transport::{Channel, Endpoint},
};

/// What everyone's password is who does not say otherwise.
pub const PASSWORD: &str = "correct horse battery";

/// A running replica of the service.
pub struct Service {
    pub db: Db,
    pub config: Config,
    address: SocketAddr,
    shutdown: CancellationToken,
    task: Option<JoinHandle<Result<(), ServeError>>>,
}

/// A database with one running replica of the service, which goes first when both are dropped.
pub struct Souk {
    pub service: Service,
    pub database: TestDatabase,
}

impl std::ops::Deref for Souk {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.service
    }
}

/// The service on a fresh database of each engine.
pub async fn both() -> [Souk; 2] {
    both_with(&[]).await
}

/// The same, with settings of `[user]` by their variables' last part.
pub async fn both_with(settings: &[(&str, &str)]) -> [Souk; 2] {
    [start(Engine::Sqlite, settings).await, start(Engine::Postgres, settings).await]
}

async fn start(engine: Engine, settings: &[(&str, &str)]) -> Souk {
    let database = database(engine, "user").await;
    let service = Service::start(&database, settings).await;
    Souk { service, database }
}

pub fn config(database: &TestDatabase, settings: &[(&str, &str)]) -> Config {
    let mut variables = vec![
        ("SOUK_DATA_DIR".to_owned(), database.data_dir().display().to_string()),
        ("SOUK_AUTH__INTERNAL_SECRET".to_owned(), "0123456789abcdef0123456789abcdef".to_owned()),
        // Here is one clock.
        ("SOUK_AUTH__LEEWAY".to_owned(), "0s".to_owned()),
        ("SOUK_USER__DATABASE__URL".to_owned(), database.url.clone()),
        // Tests hash a lot, and prove nothing by its cost.
        ("SOUK_USER__HASHING__MEMORY".to_owned(), "64KiB".to_owned()),
        ("SOUK_USER__HASHING__ITERATIONS".to_owned(), "1".to_owned()),
    ];
    for (name, value) in settings {
        let name = format!("SOUK_USER__{name}");
        variables.retain(|(default, _)| *default != name);
        variables.push((name, (*value).to_owned()));
    }
    let settings = Loader::new().defaults("user", DEFAULTS).variables(variables).load().unwrap();
    Config::from_settings(&settings).unwrap()
}

impl Service {
    /// Another replica of the service, on the same database as any others.
    pub async fn start(database: &TestDatabase, settings: &[(&str, &str)]) -> Self {
        let config = config(database, settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(souk_user::serve(config.clone(), listener, shutdown.clone()));
        let db = store::open(&config.settings.database, &config.common.data_dir).await.unwrap();
        Self { db, config, address, shutdown, task: Some(task) }
    }

    /// Stops it as SIGTERM does.
    pub async fn stop(mut self) -> Result<(), ServeError> {
        self.shutdown.cancel();
        self.task.take().unwrap().await.unwrap()
    }

    pub fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect_lazy()
    }

    /// The account methods, as nobody.
    pub fn users(&self) -> UserServiceClient<InterceptedService<Channel, Bearer>> {
        UserServiceClient::with_interceptor(self.channel(), Bearer(None))
    }

    /// The account methods, with an access token.
    pub fn users_as(&self, token: &str) -> UserServiceClient<InterceptedService<Channel, Bearer>> {
        let header = MetadataValue::from_str(&format!("Bearer {token}")).unwrap();
        UserServiceClient::with_interceptor(self.channel(), Bearer(Some(header)))
    }

    pub fn sessions(&self) -> SessionServiceClient<Channel> {
        SessionServiceClient::new(self.channel())
    }

    /// A new customer who has logged in.
    pub async fn customer(&self, email: &str) -> Session {
        self.register(email).await;
        self.log_in(email, PASSWORD).await.unwrap()
    }

    /// A new account with this role, logged in.
    pub async fn staff(&self, email: &str, role: Role) -> Session {
        let user = self.register(email).await;
        let roles: Roles = [role].into_iter().collect();
        store::users::set_roles(&self.db, store::users::Actor::Operator, id(&user), "", roles, domain::now())
            .await
            .unwrap();
        self.log_in(email, PASSWORD).await.unwrap()
    }

    pub async fn register(&self, email: &str) -> User {
        let request = RegisterRequest {
            email: email.to_owned(),
            password: PASSWORD.to_owned(),
            display_name: "Someone".to_owned(),
        };
        self.users().register(request).await.unwrap().into_inner()
    }

    pub async fn log_in(&self, email: &str, password: &str) -> Result<Session, Status> {
        let request =
            LogInRequest { email: email.to_owned(), password: password.to_owned(), ..LogInRequest::default() };
        Ok(self.sessions().log_in(request).await?.into_inner())
    }

    pub async fn refresh(&self, token: &str) -> Result<Session, Status> {
        let request = RefreshSessionRequest { refresh_token: token.to_owned() };
        Ok(self.sessions().refresh_session(request).await?.into_inner())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Sends an access token, if there is one.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        if let Some(header) = &self.0 {
            request.metadata_mut().insert("authorization", header.clone());
        }
        Ok(request)
    }
}

pub fn id(user: &User) -> UserId {
    UserId::parse_name(&user.name).unwrap()
}

pub fn name(session: &Session) -> String {
    session.user.as_ref().unwrap().name.clone()
}

/// That a call was refused for this reason, and that its answer shows nothing of the inside.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, Status>, reason: Reason) -> Problem {
    let status = result.expect_err("should have been refused");
    let shown = format!("{} {}", status.message(), String::from_utf8_lossy(status.details())).to_lowercase();
    for inside in ["diesel", "sql", "constraint", "_key", "argon", "panick", "/src/", "database error", "tokio"] {
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
