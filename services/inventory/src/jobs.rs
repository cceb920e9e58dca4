//! Background work: closes expired reservations, deletes old responses and events, and creates the search words of
//! products that an older version wrote. Available stock and idempotency keys do not depend on these jobs.

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

/// The actor of closed reservations.
const ACTOR: &str = "services/inventory";
/// The number of reservations closed at a time. It leaves room in the queue for callers.
const AT_A_TIME: i64 = 200;
/// The interval of the search for products without search words. Only an older version of the service writes such
/// products.
const WORDS_INTERVAL: Duration = Duration::from_secs(60);
/// The longest duration of a run.
const LIMIT: Duration = Duration::from_secs(300);

/// Starts the service's jobs.
pub fn start(jobs: &Jobs, store: &Store, changes: &StockChanges, log: &Log, settings: &Settings) {
    // Leased, because all replicas would find the same reservations, and only one could close them. No caller waits for
    // this.
    let (lapsing, through) = (store.clone(), changes.clone());
    jobs.leased("reservation-expiry", settings.expiry_interval, LIMIT, move || {
        close_lapsed(lapsing.clone(), through.clone())
    });
    // On every replica, and so at each start. It finds work only after an older version has run.
    let searched = store.clone();
    jobs.everywhere("search-words", WORDS_INTERVAL, LIMIT, move || make_words(searched.clone()));
    // Leased, because replicas that clean at the same time would only wait for each other's row locks.
    let answering = store.clone();
    let retention = TimeDelta::from_std(settings.idempotency_retention).unwrap_or(TimeDelta::MAX);
    jobs.leased("request-cleanup", settings.cleanup_interval, LIMIT, move || {
        let store = answering.clone();
        async move { store.forget_requests(Utc::now() - retention).await }
    });
    // Leased for the same reason.
    let log = log.clone();
    jobs.leased("event-cleanup", settings.cleanup_interval, LIMIT, move || {
        let log = log.clone();
        async move { log.forget().await }
    });
}

/// Creates the search words of products that have none. Returns the number of these products.
async fn make_words(store: Store) -> Result<u64, Error> {
    let mut made = 0;
    loop {
        match store.make_words(AT_A_TIME).await? {
            0 => return Ok(made),
            more => made += more,
        }
    }
}

/// Closes expired reservations. Returns their number.
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
