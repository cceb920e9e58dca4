//! A user service with users in it, for tests of the other services.
#![expect(clippy::unwrap_used, reason = "it stands for the tests that it serves")]

use std::time::Duration;

use souk_common::{
    auth::{Role, Roles},
    ids::UserId,
};
use souk_proto::user::v1::{
    LogInRequest, RegisterRequest, session_service_client::SessionServiceClient, user_service_client::UserServiceClient,
};
use souk_user::{
    Config, DEFAULTS, ServeError, domain,
    store::{Actor, Store},
};

use crate::{
    db::{Engine, TestDatabase, database},
    service::{Bearer, Running, With, settings},
    wait,
};

/// The default password of users.
pub const PASSWORD: &str = "correct horse battery";

/// Settings that make password hashing cheap: tests hash often, and do not test the cost.
pub const CHEAP_HASHING: [(&str, &str); 2] = [("HASHING__MEMORY", "64KiB"), ("HASHING__ITERATIONS", "1")];

/// The user service and its database.
pub type Users = With<Running<ServeError>, TestDatabase>;

/// A user who is logged in.
#[derive(Clone)]
pub struct Person {
    /// Resource name.
    pub name: String,
    /// The credentials of this user, for calls.
    pub bearer: Bearer,
}

/// A user service on SQLite with these users, logged in. Each is given by the local part of the email, and a role.
pub async fn people<const N: usize>(who: [(&str, Option<Role>); N]) -> (Users, [Person; N]) {
    let database = database(Engine::Sqlite, "user").await;
    let config = Config::from_settings(&settings("user", DEFAULTS, &database, &CHEAP_HASHING)).unwrap();
    let service = Running::start(|listener, stop| souk_user::serve(config.clone(), listener, stop)).await;
    let mut users = UserServiceClient::new(service.channel());
    let mut sessions = SessionServiceClient::new(service.channel());
    let mut people = Vec::new();
    for (who, role) in who {
        let email = format!("{who}@example.com");
        let request =
            RegisterRequest { email: email.clone(), password: PASSWORD.to_owned(), display_name: String::new() };
        let user = wait::value(Duration::from_secs(30), "the user service to answer", async || {
            users.register(request.clone()).await.ok().map(tonic::Response::into_inner)
        })
        .await;
        if let Some(role) = role {
            let store = Store::open(&config.settings.database, &config.common.data_dir).await.unwrap();
            let (id, roles) = (UserId::parse_name(&user.name).unwrap(), Roles::from_iter([role]));
            store.set_roles(Actor::Operator, id, "", roles, domain::now()).await.unwrap();
            store.db().close();
        }
        let request = LogInRequest { email, password: PASSWORD.to_owned(), ..LogInRequest::default() };
        let session = sessions.log_in(request).await.unwrap().into_inner();
        people.push(Person { name: user.name, bearer: Bearer::token(&session.access_token) });
    }
    (Users { service, database }, people.try_into().unwrap_or_else(|_| panic!("one of each")))
}
