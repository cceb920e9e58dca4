//! Limits the age of connections. Without a limit, a load balancer that balances connections would never move
//! long-lived clients to new replicas.

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

/// The future that serves one connection to its end.
pub type Served<E> = Pin<Box<dyn Future<Output = Result<(), E>> + Send>>;

/// The maximum age of a connection, and the grace period for its running calls.
#[derive(Debug, Clone, Copy)]
pub struct Age {
    /// The maximum age. Zero: no limit.
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
    /// The limits of the `[server]` settings.
    pub fn of(config: &Config) -> Self {
        Self { most: config.max_connection_age, grace: config.max_connection_age_grace }
    }

    /// Serves a connection to its end. When the connection reaches its maximum age, or at `stop`, the client is asked
    /// to open another one. On HTTP/2 the server sends a GOAWAY; running calls continue. On HTTP/1.1 the server sends
    /// `Connection: close` with the next response: if it closed the connection between two requests, a request that is
    /// already on its way would be lost. What still runs at the end of the grace period is cut off.
    ///
    /// # Errors
    /// The errors of the connection.
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
    /// Records that a request of this HTTP version arrived on the connection.
    pub fn request(&self, version: Version) {
        if version < Version::HTTP_2 {
            self.0.http1.store(true, Ordering::Relaxed);
        }
    }

    /// Adds `Connection: close` to a response if an HTTP/1.1 connection must end after it.
    pub fn response(&self, headers: &mut HeaderMap) {
        if self.0.old.load(Ordering::Relaxed) && self.0.http1.load(Ordering::Relaxed) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// Marks the connection as old. Returns true if the next response can announce this (HTTP/1.1).
    fn become_old(&self) -> bool {
        self.0.old.store(true, Ordering::Relaxed);
        self.0.http1.load(Ordering::Relaxed)
    }
}
