//! Finds payment authorisations at Stripe that belong to no order, and voids them.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use souk_common::error::chain;
use souk_store::jobs::Jobs;

use super::{CLEAN_EVERY, LIMIT};
use crate::{
    config::StripeSettings,
    domain::{Order, State},
    error::Error,
    payment::{Stripe, order_of, stripe::Held},
    store::{Store, ago, now},
};

/// How long the ids of webhooks are kept. Stripe retries for three days, or up to a month on request.
const REMEMBERED: TimeDelta = TimeDelta::days(31);

/// Starts the jobs of payments at Stripe.
pub fn start(jobs: &Jobs, settings: &StripeSettings, store: &Store, stripe: &Arc<Stripe>) {
    let (stripe, books, after) = (stripe.clone(), store.clone(), settings.reconcile_after);
    // Leased, because all replicas would send the same queries to Stripe.
    jobs.leased("payment-reconciliation", settings.reconcile_interval, LIMIT, move || {
        let (stripe, store) = (stripe.clone(), books.clone());
        async move { let_go(&stripe, &store, after).await }
    });
    let store = store.clone();
    jobs.leased("payment-notice-cleanup", CLEAN_EVERY, LIMIT, move || {
        let store = store.clone();
        async move { store.forget_notices(now() - REMEMBERED).await.map_err(|error| chain(&error)) }
    });
}

/// Voids authorisations that are older than `after` and that no order uses. Returns how many.
async fn let_go(stripe: &Stripe, store: &Store, after: Duration) -> Result<u64, String> {
    let Some(before) = ago(after) else { return Ok(0) };
    let mut let_go = 0;
    for held in stripe.held(before).await.map_err(|error| chain(&error))? {
        if is_wanted(store, &held).await.map_err(|error| chain(&error))? {
            continue;
        }
        if stripe.let_go(&held).await.map_err(|error| chain(&error))? {
            tracing::warn!(
                payment = held.payment,
                intent = held.intent,
                "payment authorisation without an order; voiding it"
            );
            let_go += 1;
        }
    }
    Ok(let_go)
}

/// True if an order uses this authorisation.
async fn is_wanted(store: &Store, held: &Held) -> Result<bool, Error> {
    let Some(order) = order_of(&held.payment) else { return Ok(false) };
    let order = store.order(order, None).await?;
    let takes = |order: Order| {
        // A manually settled payment no longer needs the authorisation.
        let manual = order.payment.is_some_and(|payment| payment.settled_manually);
        !manual && !matches!(order.state, State::Rejected | State::Cancelled)
    };
    Ok(held.current && order.is_some_and(takes))
}
