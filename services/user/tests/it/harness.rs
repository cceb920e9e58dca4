//! Boots the service and calls it.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::TimeDelta;
use souk_common::{
    auth::{Role, Roles},
    ids::UserId,
};
use souk_proto::user::v1::{
    LogInRequest, RefreshSessionRequest, RegisterRequest, Session, User, session_service_client::SessionServiceClient,
    user_service_client::UserServiceClient,
};
use souk_testkit::{
    db::{Engine, TestDatabase, database},
    people::CHEAP_HASHING,
    service::{Bearer, Running, With, settings},
};
pub use souk_testkit::{
    people::PASSWORD,
    service::{fields, refused},
};
use souk_user::{
    Config, DEFAULTS, ServeError,
    domain::{self, session::Lifetime},
    store::{Actor, Store},
};
use tonic::{Status, service::interceptor::InterceptedService, transport::Channel};

/// The life of sessions that is set by default.
pub const MONTHS: Lifetime = Lifetime { idle: TimeDelta::days(30), absolute: TimeDelta::days(90) };

/// A running replica of the service.
pub struct Service {
    pub store: Store,
    pub config: Config,
    running: Running<ServeError>,
}

/// A database with one running replica of the service.
pub type Souk = With<Service, TestDatabase>;

/// The service on a new database of each engine.
pub async fn both() -> [Souk; 2] {
    both_with(&[]).await
}

/// The same with settings of `[user]`, named by the last part of their variables.
pub async fn both_with(settings: &[(&str, &str)]) -> [Souk; 2] {
    [start(Engine::Sqlite, settings).await, start(Engine::Postgres, settings).await]
}

async fn start(engine: Engine, settings: &[(&str, &str)]) -> Souk {
    let database = database(engine, "user").await;
    let service = Service::start(&database, settings).await;
    Souk { service, database }
}

pub fn config(database: &TestDatabase, more: &[(&str, &str)]) -> Config {
    // All processes use one clock here.
    let fixed = [&[("SOUK_AUTH__LEEWAY", "0s")][..], &CHEAP_HASHING].concat();
    Config::from_settings(&settings("user", DEFAULTS, database, &[&fixed[..], more].concat())).unwrap()
}

impl Service {
    /// Starts a replica of the service on this database, which may have others.
    pub async fn start(database: &TestDatabase, settings: &[(&str, &str)]) -> Self {
        let config = config(database, settings);
        let running = Running::start(|listener, stop| souk_user::serve(config.clone(), listener, stop)).await;
        let store = Store::open(&config.settings.database, &config.common.data_dir).await.unwrap();
        Self { store, config, running }
    }

    /// Stops it as SIGTERM does.
    pub async fn stop(mut self) -> Result<(), ServeError> {
        self.running.stopped().await
    }

    pub fn channel(&self) -> Channel {
        self.running.channel()
    }

    /// The account methods without a token.
    pub fn users(&self) -> UserServiceClient<InterceptedService<Channel, Bearer>> {
        UserServiceClient::with_interceptor(self.channel(), Bearer::Nobody)
    }

    /// The account methods, with an access token.
    pub fn users_as(&self, token: &str) -> UserServiceClient<InterceptedService<Channel, Bearer>> {
        UserServiceClient::with_interceptor(self.channel(), Bearer::token(token))
    }

    pub fn sessions(&self) -> SessionServiceClient<Channel> {
        SessionServiceClient::new(self.channel())
    }

    /// The session methods, with an access token.
    pub fn sessions_as(&self, token: &str) -> SessionServiceClient<InterceptedService<Channel, Bearer>> {
        SessionServiceClient::with_interceptor(self.channel(), Bearer::token(token))
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
        self.store.set_roles(Actor::Operator, id(&user), "", roles, domain::now()).await.unwrap();
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

/// The claims of an access token.
pub fn claims(token: &str) -> serde_json::Value {
    let claims = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

pub fn id(user: &User) -> UserId {
    UserId::parse_name(&user.name).unwrap()
}

pub fn name(session: &Session) -> String {
    session.user.as_ref().unwrap().name.clone()
}
