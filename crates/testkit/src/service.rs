//! souk's services in the test's own process, and clients that speak to them.
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

/// The secret that services share here.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A service on a port of its own. It stops when this is dropped.
pub struct Running<E> {
    address: SocketAddr,
    stop: CancellationToken,
    task: Option<JoinHandle<Result<(), E>>>,
}

impl<E: Debug + Send + 'static> Running<E> {
    /// Starts it on a free port.
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

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A channel to it.
    pub fn channel(&self) -> Channel {
        channel(self.address)
    }

    /// Stops it as SIGTERM does, and waits until it has.
    ///
    /// # Errors
    /// What the service ended with.
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

/// A service with what belongs to it, which goes after the service.
pub struct With<S, T> {
    /// The service.
    pub service: S,
    /// What it needs.
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

/// A channel that connects when it is used.
pub fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

/// A service's settings: its database, the shared secret, and these, each by the last part of its variable
/// (`SAGA__INTERVAL`) or by the whole of it (`SOUK_AUTH__LEEWAY`). The last of one name counts.
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

/// Who calls: sends a token, if there is one.
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
    /// A user, by an access token.
    pub fn token(token: &str) -> Self {
        Self::User(MetadataValue::from_str(&format!("Bearer {token}")).unwrap())
    }

    /// Another service.
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

/// What no client should read: names of libraries, of constraints, of places in the source.
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

/// That a call was refused for this reason, and that its answer shows nothing of the inside.
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

/// The paths of the fields that were refused.
pub fn fields(problem: &Problem) -> Vec<&str> {
    problem.field_violations().iter().map(|field| field.path.as_str()).collect()
}
