//! The saga runner: executes the next step, and stores its result before a step begins that cannot be repeated from what
//! is stored.
//!
//! A runner holds the saga's lease: a secret number that is valid until a time. Each stored step extends it. When it
//! has expired, another runner may take over, and writes of the former runner are refused.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use chrono::TimeDelta;
use souk_common::error::chain;
use tokio::{
    join,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    answer::response,
    ports::{Clock, Journal, Ports, Stock, System},
};
use crate::{
    clients::Inventory,
    config::SagaSettings,
    domain::{Action, Answer, Entry, Saga},
    error::Error,
    payment::{PaymentError, Provider},
    store::{Lease, Release, Renewal, Store},
};

/// The longest pause between two tries of a failed saga step. It is short, so that a saga continues soon after an
/// unreachable service is back.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// How long a step may take before the results of earlier steps are stored, so that others can see them.
const STORED_AFTER: Duration = Duration::from_millis(50);

/// Runs sagas, each in a task of its own that no caller can cancel.
pub struct Sagas<J = Store, S = Inventory>(Arc<Inner<J, S>>);

struct Inner<J, S> {
    journal: J,
    stock: S,
    payments: Provider,
    clock: Box<dyn Clock>,
    settings: SagaSettings,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// The result of a run.
#[derive(Clone, Debug)]
pub enum End {
    /// The saga reached its final state, which is stored.
    Final(Saga),
    /// The saga will be retried later, because a service was unreachable.
    Later,
    /// Another runner has taken over the saga.
    LeaseLost,
}

/// Why a step got no answer.
#[derive(Debug, thiserror::Error)]
enum Stuck {
    #[error(transparent)]
    Inventory(#[from] crate::clients::Unanswered),
    #[error(transparent)]
    Payment(#[from] PaymentError),
    #[error("no answer within {0:?}")]
    Slow(Duration),
    #[error("the service is stopping")]
    Stopping,
    #[error("nothing to do at this step")]
    NoAction,
    #[error(transparent)]
    Store(#[from] Error),
}

impl<J, S> Clone for Sagas<J, S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl Sagas {
    /// Creates a runner of sagas.
    #[must_use]
    pub fn new(store: Store, inventory: Inventory, payments: Provider, settings: SagaSettings) -> Self {
        Self::with(Ports { journal: store, stock: inventory, payments, clock: Box::new(System) }, settings)
    }
}

impl<J: Journal, S: Stock> Sagas<J, S> {
    /// Creates a runner that uses these ports.
    pub fn with(Ports { journal, stock, payments, clock }: Ports<J, S>, settings: SagaSettings) -> Self {
        Self(Arc::new(Inner {
            journal,
            stock,
            payments,
            clock,
            settings,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }))
    }

    /// The payment provider in use.
    #[must_use]
    pub fn payments(&self) -> &Provider {
        &self.0.payments
    }

    /// A new lease that begins now.
    #[must_use]
    pub fn lease(&self) -> Lease {
        self.extended(self.0.clock.lease_number())
    }

    fn extended(&self, id: i64) -> Lease {
        let length = TimeDelta::from_std(self.0.settings.lease).unwrap_or(TimeDelta::seconds(10));
        Lease { id, until: self.0.clock.now() + length }
    }

    /// Takes over at most `limit` due sagas, all under one new lease.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn claim(&self, limit: usize) -> Result<(Lease, Vec<Saga>), Error> {
        let lease = self.lease();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        Ok((lease, self.0.journal.claim(lease, limit).await?))
    }

    /// Spawns work that must end before the service stops.
    pub fn track<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.0.tasks.spawn(work)
    }

    /// Waits for running sagas to end. Those that run after `limit` release their leases at once, so that another
    /// replica can continue.
    pub async fn drain(&self, limit: Duration) {
        self.0.tasks.close();
        if timeout(limit, self.0.tasks.wait()).await.is_err() {
            self.0.stop.cancel();
            // Releasing a lease is one write; if even that takes too long, the lease expires by itself.
            let _ = timeout(Duration::from_secs(2), self.0.tasks.wait()).await;
        }
    }

    /// Continues a saga of another runner, which may already have sent the request of its step.
    pub async fn resume(&self, saga: Saga, lease: Lease) -> End {
        self.advance(saga, lease, true).await
    }

    /// Runs a saga that was recorded just now.
    pub async fn run(&self, saga: Saga, lease: Lease) -> End {
        self.advance(saga, lease, false).await
    }

    async fn advance(&self, mut saga: Saga, mut lease: Lease, mut unclear: bool) -> End {
        // The saga as it is stored, and the timeline entries since then.
        let (mut stored, mut entries, mut is_stored) = (saga.clone(), Vec::new(), true);
        while let (_, Some(_)) = saga.position() {
            let mut stuck = None;
            let answered = {
                let mut step = pin!(self.step(&saga, unclear));
                // The results of earlier steps wait for this one, but not for long.
                let in_time = if is_stored { None } else { timeout(STORED_AFTER, &mut step).await.ok() };
                match in_time {
                    Some(answered) => answered,
                    None if is_stored => step.await,
                    None => {
                        // Both are polled: the step may hold a connection, or its place in the queue for one, which the
                        // write needs.
                        let (saved, answered) = join!(self.store(&stored, &saga, &entries, lease), step);
                        match saved {
                            Ok(Some(extended)) => {
                                (lease, stored, is_stored) = (extended, saga.clone(), true);
                                entries.clear();
                            }
                            Ok(None) => return End::LeaseLost,
                            // These results are stored with the next one.
                            Err(why) => tracing::debug!(error = chain(&why), "cannot store a step's result yet"),
                        }
                        answered
                    }
                }
            };
            match answered {
                Ok((next, new)) => {
                    saga = next;
                    entries.extend(new);
                    (is_stored, unclear) = (false, false);
                    if saga.may_wait() && self.lasts(lease) {
                        continue;
                    }
                }
                Err(why) => stuck = Some(why),
            }
            if !is_stored {
                match self.store(&stored, &saga, &entries, lease).await {
                    Ok(Some(extended)) => lease = extended,
                    Ok(None) => return End::LeaseLost,
                    Err(why) => stuck = stuck.or(Some(why)),
                }
            }
            if let Some(stuck) = stuck {
                self.give_up(&saga, lease, &stuck).await;
                return End::Later;
            }
            (stored, is_stored) = (saga.clone(), true);
            entries.clear();
        }
        End::Final(saga)
    }

    /// Executes one step: sends its request, and decides what follows. Returns the saga after the step, and the entries
    /// for its timeline.
    async fn step(&self, saga: &Saga, unclear: bool) -> Result<(Saga, Vec<Entry>), Stuck> {
        let action = saga.action().ok_or(Stuck::NoAction)?;
        let (answer, asked_before) = self.ask(saga, &action).await?;
        let unclear = (unclear || asked_before).then(|| self.payments().name());
        let mut next = saga.clone();
        let entries = next.advance(&answer, unclear, self.0.clock.now()).map_err(Error::from)?;
        Ok((next, entries))
    }

    /// True if the lease is long enough for one step, with a margin.
    fn lasts(&self, lease: Lease) -> bool {
        let settings = &self.0.settings;
        let needed = settings.step_timeout + settings.lease.saturating_sub(settings.step_timeout) / 2;
        lease.until - self.0.clock.now() > TimeDelta::from_std(needed).unwrap_or(TimeDelta::MAX)
    }

    /// Stores a saga's progress since `before`. `None` if the lease was lost.
    async fn store(
        &self,
        before: &Saga,
        after: &Saga,
        entries: &[Entry],
        lease: Lease,
    ) -> Result<Option<Lease>, Stuck> {
        let response = response(after);
        let mut unsure = false;
        for pause in self.pauses() {
            // An update that leaves the indexed columns unchanged is cheaper, so a lease that is long enough is not
            // extended.
            let extended = if self.lasts(lease) { lease } else { self.extended(lease.id) };
            let renewal = Renewal { held: lease.id, lease: extended };
            let save = self.0.journal.save(before, after, entries, response.as_deref(), renewal);
            match save.await {
                Ok(true) => return Ok(Some(extended)),
                // A commit whose response was lost may have succeeded.
                Ok(false) if unsure && self.0.journal.is_saved(after).await? => return Ok(Some(extended)),
                Ok(false) => return Ok(None),
                Err(error) if !error.is_transient() => return Err(error.into()),
                Err(error) => match pause {
                    None => return Err(error.into()),
                    Some(pause) => {
                        unsure = true;
                        self.rest(pause).await?;
                    }
                },
            }
        }
        Ok(None)
    }

    /// Sends the step's request, with a few retries. Also returns whether it had to retry.
    async fn ask(&self, saga: &Saga, action: &Action) -> Result<(Answer, bool), Stuck> {
        let began = Instant::now();
        let limit = self.0.settings.step_timeout;
        for (tries, pause) in self.pauses().enumerate() {
            let left = limit.saturating_sub(began.elapsed());
            let answer = tokio::select! {
                // In a fixed order, so that a simulated run is repeatable: randomness comes from the clock alone.
                biased;
                answer = timeout(left, self.act(saga, action)) => answer,
                () = self.0.stop.cancelled() => return Err(Stuck::Stopping),
            };
            let stuck = match answer {
                Ok(Ok(answer)) => return Ok((answer, tries > 0)),
                Ok(Err(stuck)) => stuck,
                Err(_) => return Err(Stuck::Slow(limit)),
            };
            match pause {
                Some(pause) if began.elapsed() + pause < limit => self.rest(pause).await?,
                _ => return Err(stuck),
            }
        }
        Err(Stuck::Slow(limit))
    }

    async fn act(&self, saga: &Saga, action: &Action) -> Result<Answer, Stuck> {
        let (stock, payments) = (&self.0.stock, &self.0.payments);
        let order = saga.order();
        Ok(match action {
            Action::Reserve { goods } => {
                let ttl = self.0.settings.reservation_ttl;
                stock.reserve(order, goods, ttl).await?
            }
            Action::Commit => stock.commit(order).await?,
            Action::Release => stock.release(order).await?,
            Action::Restock { request_id, goods } => stock.restock(order, request_id.clone(), goods).await?,
            Action::Authorize { payment, amount, token } => match payments.authorize(payment, *amount, token).await {
                Ok(reference) => Answer::Authorized { provider: payments.name().to_owned(), reference },
                Err(error) => self.refused(error)?,
            },
            Action::Capture { payment } => match payments.capture(payment).await {
                Ok(()) => Answer::Done,
                Err(error) => self.refused(error)?,
            },
            Action::Void { payment } => payments.void(payment).await.map(|()| Answer::Done)?,
            Action::Refund { payment, key, amount } => {
                let refund = payments.refund(payment, key, *amount).await;
                refund.map(|()| Answer::Done)?
            }
        })
    }

    fn refused(&self, error: PaymentError) -> Result<Answer, Stuck> {
        match error {
            PaymentError::Declined { message } => {
                Ok(Answer::Refused { provider: self.0.payments.name().to_owned(), message })
            }
            error => Err(error.into()),
        }
    }

    /// Releases the lease. The next try is due after a pause.
    async fn give_up(&self, saga: &Saga, lease: Lease, stuck: &Stuck) {
        let attempts = saga.attempts().saturating_add(1);
        let pause = match stuck {
            Stuck::Stopping => Duration::ZERO,
            _ => self.0.clock.jittered(backoff(attempts)),
        };
        let why = shortened(chain(stuck));
        tracing::warn!(
            order = %saga.order(),
            position = ?saga.position(),
            attempts,
            error = why,
            "saga step failed; will retry",
        );
        let due = self.0.clock.now() + TimeDelta::from_std(pause).unwrap_or_default();
        let release = Release { held: lease.id, due, attempts, error: &why };
        if let Err(error) = self.0.journal.release(saga, release).await {
            // No further action is needed: the lease expires by itself.
            tracing::warn!(error = chain(&error), "cannot release a lease");
        }
    }

    /// Pauses between tries; `None` after the last.
    fn pauses(&self) -> impl Iterator<Item = Option<Duration>> {
        let (tries, clock) = (self.0.settings.tries, &self.0.clock);
        (1..=tries).map(move |tried| (tried < tries).then(|| clock.jittered(Duration::from_millis(25 << tried.min(6)))))
    }

    async fn rest(&self, pause: Duration) -> Result<(), Stuck> {
        tokio::select! {
            biased;
            () = tokio::time::sleep(pause) => Ok(()),
            () = self.0.stop.cancelled() => Err(Stuck::Stopping),
        }
    }
}

fn backoff(attempts: i32) -> Duration {
    Duration::from_millis(250 << attempts.clamp(0, 10)).min(MAX_BACKOFF)
}

fn shortened(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().nth(500) {
        text.truncate(at);
    }
    text
}
