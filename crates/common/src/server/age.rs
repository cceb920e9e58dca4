//! Limits the age of connections. A load balancer of connections would otherwise never move long-lived clients to new
//! replicas.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Version, header::CONNECTION};
use hyper_util::server::graceful::GracefulConnection;
use tokio_util::sync::CancellationToken;

use super::Config;

/// The jitter of the age, so that connections that were opened together are not closed together.
const JITTER: f64 = 0.1;

/// A connection that is served.
pub type Served<E> = Pin<Box<dyn Future<Output = Result<(), E>> + Send>>;

/// The maximal age of a connection, and the grace for its calls.
#[derive(Debug, Clone, Copy)]
pub struct Age {
    /// Zero: for ever.
    most: Duration,
    grace: Duration,
}

/// State shared by a connection's age timer and its requests.
#[derive(Debug, Clone, Default)]
pub struct Aging(Arc<State>);

#[derive(Debug, Default)]
struct State {
    old: AtomicBool,
    http1: AtomicBool,
}

impl Age {
    /// As the settings have it.
    pub fn of(config: &Config) -> Self {
        Self { most: config.max_connection_age, grace: config.max_connection_age_grace }
    }

    /// Serves a connection to its end. When it is old, or at `stop`, the client is asked to call over another one: on
    /// HTTP/2 by GOAWAY, after which the calls under way continue; on HTTP/1.1 by `Connection: close` with the next
    /// response, for to close it between two requests would lose the one that is on its way. What is left at the end of
    /// the grace is cut off.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn serve<C>(self, connection: C, aging: Aging, stop: CancellationToken) -> Served<C::Error>
    where
        C: GracefulConnection + Send + 'static,
        C::Error: Send,
    {
        let most = if self.most.is_zero() {
            Duration::MAX
        } else {
            self.most.mul_f64(rand::random_range(1.0 - JITTER..=1.0 + JITTER))
        };
        Box::pin(async move {
            let mut connection = pin!(connection);
            tokio::select! {
                ended = connection.as_mut() => return ended,
                () = tokio::time::sleep(most) => {
                    if !aging.become_old() {
                        connection.as_mut().graceful_shutdown();
                    }
                }
                () = stop.cancelled() => {}
            }
            if !stop.is_cancelled() {
                tokio::select! {
                    ended = connection.as_mut() => return ended,
                    () = tokio::time::sleep(self.grace) => {
                        tracing::debug!(grace = ?self.grace, "old connection closed");
                        return Ok(());
                    }
                    () = stop.cancelled() => {}
                }
            }
            connection.as_mut().graceful_shutdown();
            connection.await
        })
    }
}

impl Aging {
    /// A request came over the connection.
    pub fn request(&self, version: Version) {
        if version < Version::HTTP_2 {
            self.0.http1.store(true, Ordering::Relaxed);
        }
    }

    /// Says so in a response where the connection is to end with it.
    pub fn response(&self, headers: &mut HeaderMap) {
        if self.0.old.load(Ordering::Relaxed) && self.0.http1.load(Ordering::Relaxed) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// Says whether the next response can tell it.
    fn become_old(&self) -> bool {
        self.0.old.store(true, Ordering::Relaxed);
        self.0.http1.load(Ordering::Relaxed)
    }
}
