//! Background work: closes expired reservations, deletes old responses and events, and makes the search words of
//! products of an older version. Only housekeeping: available stock and used keys never depend on a job.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use futures::future::join_all;
use souk_store::{events::Log, jobs::Jobs};

use crate::{
    StockChanges,
    config::Settings,
    domain::command::{Action, Command},
    error::Error,
    store::Store,
};

/// Who closes reservations.
const ACTOR: &str = "services/inventory";
/// How many reservations are closed at a time, leaving room in the queue for callers.
const AT_A_TIME: i64 = 200;
/// How often products without search words are looked for. Only an older version of the service leaves any.
const WORDS_INTERVAL: Duration = Duration::from_secs(60);
/// How long one run may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Starts the service's jobs.
pub fn start(jobs: &Jobs, store: &Store, changes: &StockChanges, log: &Log, settings: &Settings) {
    // Leased: all replicas would find the same reservations, and only one could close them. Nobody waits for it.
    let (lapsing, through) = (store.clone(), changes.clone());
    jobs.leased("reservation-expiry", settings.expiry_interval, LIMIT, move || {
        close_lapsed(lapsing.clone(), through.clone())
    });
    // In every replica, and so at each start: it finds work only after an older version has run.
    let searched = store.clone();
    jobs.everywhere("search-words", WORDS_INTERVAL, LIMIT, move || make_words(searched.clone()));
    // Leased: replicas that clean at the same time would only wait for each other's rows.
    let answering = store.clone();
    let retention = TimeDelta::from_std(settings.idempotency_retention).unwrap_or(TimeDelta::MAX);
    jobs.leased("request-cleanup", settings.cleanup_interval, LIMIT, move || {
        let store = answering.clone();
        async move { store.forget_requests(Utc::now() - retention).await }
    });
    // Leased: as above.
    let log = log.clone();
    jobs.leased("event-cleanup", settings.cleanup_interval, LIMIT, move || {
        let log = log.clone();
        async move { log.forget().await }
    });
}

/// Makes the words that products are found by, where they are missing; returns of how many.
async fn make_words(store: Store) -> Result<u64, Error> {
    let mut made = 0;
    loop {
        match store.make_words(AT_A_TIME).await? {
            0 => return Ok(made),
            more => made += more,
        }
    }
}

/// Closes the reservations that have expired; returns how many.
async fn close_lapsed(store: Store, changes: StockChanges) -> Result<u64, Error> {
    let mut closed = 0;
    loop {
        let orders = store.lapsed(AT_A_TIME).await?;
        let more = orders.len() as i64 == AT_A_TIME;
        let expire = |order| Command { actor: ACTOR.to_owned(), action: Action::Expire { order } };
        for answer in join_all(orders.into_iter().map(|order| changes.submit(expire(order)))).await {
            match answer.map_err(Error::from) {
                Ok(_) => closed += 1,
                // Callers have priority; the next run continues.
                Err(Error::Overloaded) => return Ok(closed),
                Err(error) => return Err(error),
            }
        }
        if !more {
            return Ok(closed);
        }
    }
}
