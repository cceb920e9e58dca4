//! The readiness of this process, for `GET /readyz` beside the metrics. Each server in the process has its own check.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use serde_json::{Value, json};

/// The timeout of a readiness check.
const LIMIT: Duration = Duration::from_secs(2);

type Ready = Pin<Box<dyn Future<Output = bool> + Send>>;
type Check = Arc<dyn Fn() -> Ready + Send + Sync>;

static PARTS: Mutex<Vec<(u64, Arc<str>, Check)>> = Mutex::new(Vec::new());

/// Makes `/readyz` check this server, under this name ("order"), until the returned value is dropped.
pub fn ready_while<F>(name: impl Into<Arc<str>>, check: impl Fn() -> F + Send + Sync + 'static) -> Probe
where
    F: Future<Output = bool> + Send + 'static,
{
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    parts().push((id, name.into(), Arc::new(move || Box::pin(check()))));
    Probe(id)
}

/// Keeps a server in the readiness report.
#[derive(Debug)]
#[must_use = "dropping it takes the server out of the probe"]
pub struct Probe(u64);

impl Drop for Probe {
    fn drop(&mut self) {
        parts().retain(|(id, ..)| *id != self.0);
    }
}

fn parts() -> MutexGuard<'static, Vec<(u64, Arc<str>, Check)>> {
    PARTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reports whether all servers are ready, and the readiness of each one. Without any server the process is not ready.
pub(super) async fn report() -> (bool, Value) {
    let asked: Vec<_> = parts().iter().map(|(_, name, check)| (name.clone(), check())).collect();
    let answers = join_all(
        asked.into_iter().map(async |(name, check)| (name, tokio::time::timeout(LIMIT, check).await.unwrap_or(false))),
    )
    .await;
    let ready = !answers.is_empty() && answers.iter().all(|(_, ready)| *ready);
    let parts: Vec<Value> = answers.iter().map(|(name, ready)| json!({"name": &**name, "ready": ready})).collect();
    (ready, json!({"ready": ready, "parts": parts}))
}
