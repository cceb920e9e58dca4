//! Background work: ended sessions and old keys are cleaned away, and the signing key is replaced in time.

use std::time::Duration;

use chrono::TimeDelta;
use souk_store::jobs::Jobs;

use crate::{
    config::{Settings, delta},
    domain::now,
    error::Error,
    store::Store,
};

/// How long a session that is over is kept, for those who look into what happened.
const KEEP_SESSIONS: TimeDelta = TimeDelta::days(7);
/// How long one run may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Starts the service's jobs.
pub fn start(jobs: &Jobs, store: &Store, settings: &Settings) {
    let interval = settings.cleanup_interval;
    let grace = delta(settings.refresh_grace);
    let (session_ttl, token_ttl) = (delta(settings.session_ttl), delta(settings.access_token_ttl));
    let key_max_age = delta(settings.signing_key_max_age);

    // Leased: replicas that clean at the same time would only wait for each other's rows.
    let sessions = store.clone();
    jobs.leased("session-cleanup", interval, LIMIT, move || clean_sessions(sessions.clone(), session_ttl, grace));
    // Leased: an old key is replaced once, though replicas that did it at a time would not break anything.
    let keys = store.clone();
    jobs.leased("signing-keys", interval, LIMIT, move || turn_keys(keys.clone(), key_max_age, token_ttl));
}

/// Deletes sessions that have been over for a while, and used tokens that are older than any session may rest: by then
/// a copy of one is of no use to anyone. Returns how many. Deletes what successors were made from once the grace is
/// over within which they may be asked for again.
///
/// # Errors
/// Faults of the database.
pub async fn clean_sessions(store: Store, session_ttl: TimeDelta, grace: TimeDelta) -> Result<u64, Error> {
    let now = now();
    store.forget_salts(now - grace).await?;
    store.clean_sessions(now - KEEP_SESSIONS, now - session_ttl).await
}

/// Replaces the signing key when it is old, and deletes those no longer published. Returns how many it made or
/// deleted.
///
/// # Errors
/// Faults of the database; no randomness to be had.
pub async fn turn_keys(store: Store, max_age: TimeDelta, token_ttl: TimeDelta) -> Result<u64, Error> {
    let now = now();
    let rotated = store.rotate_key(now, now - max_age).await?;
    Ok(u64::from(rotated.is_some()) + store.clean_keys(now, token_ttl).await?)
}
