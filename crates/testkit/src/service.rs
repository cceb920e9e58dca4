//! souk's services in the process of the test, and their clients.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "it stands for the tests that it serves")]

use std::{
    collections::BTreeMap,
    fmt::Debug,
    future::Future,
    net::SocketAddr,
    ops::{Deref, DerefMut},
    str::FromStr,
};

use souk_common::{
    auth::ServiceTokens,
    config::{Loader, Secret, Settings},
    error::{Problem, Reason},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
    transport::{Channel, Endpoint},
};

use crate::db::TestDatabase;

/// The secret that services share in tests.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A running service with its own port. It stops when this is dropped.
pub struct Running<E> {
    address: SocketAddr,
    stop: CancellationToken,
    task: Option<JoinHandle<Result<(), E>>>,
}

impl<E: Debug + Send + 'static> Running<E> {
    /// Starts a service on a free port.
    pub async fn start<F>(serve: impl FnOnce(TcpListener, CancellationToken) -> F) -> Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let task = Some(tokio::spawn(serve(listener, stop.clone())));
        Self { address, stop, task }
    }

    /// The address that the service listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A channel to the service.
    pub fn channel(&self) -> Channel {
        channel(self.address)
    }

    /// Stops the service as SIGTERM does, and waits until it has stopped.
    ///
    /// # Errors
    /// The error that the service ended with.
    pub async fn stopped(&mut self) -> Result<(), E> {
        self.stop.cancel();
        self.task.take().expect("it runs").await.unwrap()
    }
}

impl<E> Drop for Running<E> {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A service and its database, which is dropped after the service.
pub struct With<S, T> {
    /// The service.
    pub service: S,
    /// What the service needs, such as its database.
    pub database: T,
}

impl<S, T> Deref for With<S, T> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.service
    }
}

impl<S, T> DerefMut for With<S, T> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.service
    }
}

/// A channel that connects lazily.
pub fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

/// The settings of a service: its database, the shared secret, and `more`. A name in `more` is the last part of the
/// variable (`SAGA__INTERVAL`) or the whole variable (`SOUK_AUTH__LEEWAY`). If a name occurs twice, the last one
/// counts.
pub fn settings(service: &str, defaults: &str, database: &TestDatabase, more: &[(&str, &str)]) -> Settings {
    let section = service.to_uppercase();
    let mut variables = BTreeMap::from([
        ("SOUK_DATA_DIR".to_owned(), database.data_dir().display().to_string()),
        ("SOUK_AUTH__INTERNAL_SECRET".to_owned(), SECRET.to_owned()),
        (format!("SOUK_{section}__DATABASE__URL"), database.url.clone()),
    ]);
    for &(name, value) in more {
        let name = if name.starts_with("SOUK_") { name.to_owned() } else { format!("SOUK_{section}__{name}") };
        variables.insert(name, value.to_owned());
    }
    Loader::new().defaults(service, defaults).variables(variables).load().unwrap()
}

/// The caller of a request, whose token is sent if there is one.
#[derive(Clone)]
pub enum Bearer {
    /// No token.
    Nobody,
    /// A user's access token.
    User(MetadataValue<Ascii>),
    /// Another service's tokens, one for each service that it calls.
    Service(ServiceTokens),
}

impl Bearer {
    /// The caller with this access token of a user.
    pub fn token(token: &str) -> Self {
        Self::User(MetadataValue::from_str(&format!("Bearer {token}")).unwrap())
    }

    /// The caller is the service of this name.
    pub fn service(name: &str) -> Self {
        Self::Service(ServiceTokens::new(&Secret::new(SECRET), name))
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

/// Texts that no error message may contain: names of libraries, of constraints, of source files.
const INSIDE: [&str; 12] = [
    "diesel",
    "sql",
    "constraint",
    "_email_key",
    "_id_key",
    "_key_key",
    "argon",
    "panick",
    "/src/",
    "database error",
    "tokio",
    "127.0.0.1",
];

/// Asserts that a call was refused for this reason, and that the error reveals no implementation details.
#[track_caller]
pub fn refused<T: Debug>(result: Result<T, Status>, reason: Reason) -> Problem {
    let status = result.expect_err("should have been refused");
    let shown = format!("{} {}", status.message(), String::from_utf8_lossy(status.details())).to_lowercase();
    for inside in INSIDE {
        assert!(!shown.contains(inside), "{inside:?} in {shown}");
    }
    let problem = Problem::from(status);
    assert_eq!(problem.reason(), reason, "{problem}");
    problem
}

/// The paths of the invalid fields.
pub fn fields(problem: &Problem) -> Vec<&str> {
    problem.field_violations().iter().map(|field| field.path.as_str()).collect()
}
