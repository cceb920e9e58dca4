//! The gateway and the services in one process: they start together and stop one after the other.

use std::time::{Duration, Instant};

use souk_common::{config::Settings, local::Local, server::Stop};
use tokio::{
    net::TcpListener,
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::single::{self, Which};

/// In which order they stop, each with the share of the whole drain that is over when it must have drained. A caller
/// stops before what it calls, so that a request under way finds all that it needs. The gateway gets the most: once it
/// has no request left, the others have only those of callers of their own. What one does not use, the next ones have.
const ORDER: [(Which, f64); 4] =
    [(Which::Gateway, 0.8), (Which::Order, 0.9), (Which::Inventory, 0.95), (Which::User, 1.0)];
/// The least that each may drain for, however late it is.
const LEAST: Duration = Duration::from_millis(500);

/// All that runs.
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
    /// Cancelled when it has ended, in whatever way.
    ended: CancellationToken,
}

impl Parts {
    /// None yet. Together they drain for this long at most.
    pub fn new(drain: Duration) -> Self {
        Self { running: JoinSet::new(), parts: Vec::new(), local: Local::default(), drain }
    }

    /// Starts one.
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

    /// When one has ended, and how; `None` if there is none.
    pub async fn ended(&mut self) -> Option<Result<anyhow::Result<()>, JoinError>> {
        self.running.join_next().await
    }

    /// Reports not ready for `delay`, and then stops one after the other.
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
