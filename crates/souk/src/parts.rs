//! The gateway and the services in one process. They start together and stop in sequence.

use std::time::{Duration, Instant};

use souk_common::{config::Settings, local::Local, server::Stop};
use tokio::{
    net::TcpListener,
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::single::{self, Which};

/// The order in which services stop, and the fraction of the drain time at which each must have drained. A caller stops
/// before the services that it calls, so that running requests can complete. The gateway gets the most time: after it
/// has drained, the other services have only requests of direct callers. Time that one does not use is left for the
/// next.
const ORDER: [(Which, f64); 4] =
    [(Which::Gateway, 0.8), (Which::Order, 0.9), (Which::Inventory, 0.95), (Which::User, 1.0)];
/// The minimum drain time of each service.
const LEAST: Duration = Duration::from_millis(500);

/// The running gateway and services.
pub struct Parts {
    running: JoinSet<anyhow::Result<()>>,
    parts: Vec<Part>,
    local: Local,
    drain: Duration,
}

struct Part {
    which: Which,
    stop: Stop,
    shutdown: CancellationToken,
    /// Cancelled when the service has ended, for whatever reason.
    ended: CancellationToken,
}

impl Parts {
    /// No services yet. `drain` is the longest time in which all of them together may drain.
    pub fn new(drain: Duration) -> Self {
        Self { running: JoinSet::new(), parts: Vec::new(), local: Local::default(), drain }
    }

    /// Starts a service.
    pub fn start(&mut self, which: Which, settings: &Settings, listener: TcpListener) -> anyhow::Result<()> {
        let (stop, shutdown, ended) = (Stop::default(), CancellationToken::new(), CancellationToken::new());
        let serving = single::serve(which, settings, &[], &self.local, &stop, listener, shutdown.clone())?;
        let guard = ended.clone().drop_guard();
        self.running.spawn(async move {
            let _guard = guard;
            serving.await
        });
        self.parts.push(Part { which, stop, shutdown, ended });
        Ok(())
    }

    /// Waits until a service has ended; returns its result, or `None` if there is none.
    pub async fn ended(&mut self) -> Option<Result<anyhow::Result<()>, JoinError>> {
        self.running.join_next().await
    }

    /// Reports not ready for `delay`, then stops the services in sequence.
    pub async fn stop(mut self, delay: Duration) {
        self.of(Which::Gateway).for_each(|gateway| gateway.stop.announce());
        tokio::time::sleep(delay).await;
        let began = Instant::now();
        for (which, share) in ORDER {
            let by = (began + self.drain.mul_f64(share)).max(Instant::now() + LEAST);
            for part in self.of(which) {
                part.stop.drained_by(by);
                part.shutdown.cancel();
                part.ended.cancelled().await;
            }
        }
        while let Some(ended) = self.running.join_next().await {
            if let Err(error) = ended.map_err(anyhow::Error::from).and_then(|ended| ended) {
                tracing::error!(error = format!("{error:#}"), "while stopping");
            }
        }
    }

    fn of(&self, which: Which) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(move |part| part.which == which)
    }
}
