//! Sends due deliveries. Their number at a time is bounded, and the number for each endpoint is lower, so that no
//! endpoint blocks the others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::TimeDelta;
use souk_common::{error::chain, ids::WebhookEndpointId};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{
    metrics::{Metrics, word},
    sender::Sender,
    settings::Settings,
};
use crate::{
    domain::{
        delivery::{Delivery, judge},
        endpoint::{DisableReason, Endpoint},
    },
    error::Error,
    store::{
        Lease, now,
        webhooks::{Report, Webhooks as Store},
    },
};

/// The longest duration of a run.
pub(super) const LIMIT: Duration = Duration::from_secs(300);
/// The time by which a lease is longer than a try, for the writes before and after it.
const MARGIN: Duration = Duration::from_secs(15);
/// The timeout for releasing the leases of dropped deliveries at shutdown.
const GIVE_UP: Duration = Duration::from_secs(2);

/// Sends deliveries. A clone is another handle to the same dispatcher.
#[derive(Clone)]
pub(super) struct Dispatcher(Arc<Inner>);

struct Inner {
    store: Store,
    sender: Sender,
    settings: Settings,
    metrics: Metrics,
    places: Arc<Semaphore>,
    /// The number of running tries for each endpoint.
    busy: Mutex<HashMap<WebhookEndpointId, usize>>,
    /// Notified when a try ends, so that there is room for another one.
    freed: Notify,
    tasks: TaskTracker,
    /// Cancelled when no new tries may begin.
    stop: CancellationToken,
    /// Cancelled when running tries must end, too.
    abandon: CancellationToken,
}

impl Dispatcher {
    pub(super) fn new(store: Store, sender: Sender, settings: Settings, stop: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            store,
            sender,
            metrics: Metrics::new(),
            places: Arc::new(Semaphore::new(settings.concurrency)),
            settings,
            busy: Mutex::default(),
            freed: Notify::new(),
            tasks: TaskTracker::new(),
            stop,
            abandon: CancellationToken::new(),
        }))
    }

    /// Runs until nothing is due. Returns how many tries it began.
    pub(super) async fn run(&self) -> Result<u64, Error> {
        let inner = &self.0;
        let began = Instant::now();
        let mut begun = 0;
        while !inner.stop.is_cancelled() && began.elapsed() < LIMIT / 2 {
            let due = inner.store.due(now()).await?;
            if due.is_empty() {
                break;
            }
            let before = begun;
            for endpoint in due {
                begun += self.take_up(Arc::new(endpoint)).await?;
            }
            if begun == before {
                // All due deliveries wait for a slot, or for an earlier event of the same subject.
                tokio::select! {
                    () = inner.freed.notified() => {}
                    () = tokio::time::sleep(inner.settings.interval) => {}
                    () = inner.stop.cancelled() => {}
                }
            }
        }
        Ok(begun)
    }

    /// Begins as many tries as there are free slots. Returns their number.
    async fn take_up(&self, endpoint: Arc<Endpoint>) -> Result<u64, Error> {
        let mut slots = Vec::new();
        while let Some(slot) = self.slot(&endpoint) {
            slots.push(slot);
        }
        if slots.is_empty() {
            return Ok(0);
        }
        let length = self.0.settings.timeout + MARGIN;
        let until = now() + TimeDelta::from_std(length).unwrap_or(TimeDelta::minutes(2));
        // Half of a random UUID, so that lease numbers are unique.
        let lease = i64::from_be_bytes(Uuid::new_v4().as_u64_pair().0.to_be_bytes());
        let found = self.0.store.claim(endpoint.id, slots.len(), now(), Lease { id: lease, until }).await?;
        let mut begun = 0;
        for (delivery, slot) in found.into_iter().zip(slots) {
            begun += 1;
            let inner = self.0.clone();
            let endpoint = endpoint.clone();
            self.0.tasks.spawn(async move {
                let trying = inner.attempt(&endpoint, &delivery, lease);
                if let Err(error) = trying.await {
                    // The lease expires, and the delivery is tried again.
                    tracing::warn!(error = chain(&error), delivery = %delivery.id, "cannot record a webhook delivery attempt");
                }
                drop(slot);
                inner.freed.notify_one();
            });
        }
        Ok(begun)
    }

    /// Takes a slot for one more try at an endpoint, if one is free.
    fn slot(&self, endpoint: &Endpoint) -> Option<Slot> {
        let settings = &self.0.settings;
        let most = if endpoint.failing_since.is_some() { 1 } else { settings.concurrency_per_endpoint };
        let place = self.0.places.clone().try_acquire_owned().ok()?;
        let mut busy = self.0.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let count = busy.entry(endpoint.id).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Slot { inner: self.0.clone(), endpoint: endpoint.id, _place: place })
    }

    /// Waits for running tries to end. Those that run after `limit` are dropped, so that another replica
    /// can repeat them at once.
    pub(super) async fn drain(&self, limit: Duration) {
        self.0.tasks.close();
        if tokio::time::timeout(limit, self.0.tasks.wait()).await.is_err() {
            self.0.abandon.cancel();
            let _ = tokio::time::timeout(GIVE_UP, self.0.tasks.wait()).await;
        }
    }
}

impl Inner {
    async fn attempt(&self, endpoint: &Endpoint, delivery: &Delivery, lease: i64) -> Result<(), Error> {
        let (attempt, wish) = tokio::select! {
            answered = self.sender.send(endpoint, delivery) => answered,
            () = self.abandon.cancelled() => return self.store.give_up(delivery.id, lease, now()).await,
        };
        let now = now();
        let verdict = judge(&attempt, delivery.tries, &self.settings.retries, wish, rand::random(), now);
        self.metrics.tried(&attempt, verdict);
        let disable_before = TimeDelta::from_std(self.settings.disable_after)
            .ok()
            .and_then(|days| now.checked_sub_signed(days))
            .unwrap_or_default();
        let report = Report { delivery, lease, attempt: &attempt, verdict, now, disable_before };
        if let Some(reason) = self.store.settle(report).await? {
            self.tell_disabled(endpoint, reason, &attempt.error);
        }
        Ok(())
    }

    fn tell_disabled(&self, endpoint: &Endpoint, reason: DisableReason, error: &str) {
        self.metrics.disabled(reason);
        tracing::warn!(
            endpoint = %endpoint.id.name(),
            reason = word(reason),
            error,
            "webhook endpoint disabled: nothing is sent to it until an administrator enables it"
        );
    }
}

/// The right to run one of a limited number of tries.
struct Slot {
    inner: Arc<Inner>,
    endpoint: WebhookEndpointId,
    _place: OwnedSemaphorePermit,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut busy = self.inner.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = busy.get_mut(&self.endpoint) {
            *count -= 1;
            if *count == 0 {
                busy.remove(&self.endpoint);
            }
        }
    }
}
