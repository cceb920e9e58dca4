//! Background work: deletes ended sessions and old keys, and rotates the signing key in time.

use std::time::Duration;

use chrono::TimeDelta;
use souk_store::jobs::Jobs;

use crate::{
    config::{Settings, delta},
    domain::now,
    error::Error,
    store::Store,
};

/// How long an ended session is kept for investigations.
const KEEP_SESSIONS: TimeDelta = TimeDelta::days(7);
/// The longest duration of a run.
const LIMIT: Duration = Duration::from_secs(300);

/// Starts the service's jobs.
pub fn start(jobs: &Jobs, store: &Store, settings: &Settings) {
    let interval = settings.cleanup_interval;
    let grace = delta(settings.refresh_grace);
    let (session_ttl, token_ttl) = (delta(settings.session_ttl), delta(settings.access_token_ttl));
    let key_max_age = delta(settings.signing_key_max_age);

    // Leased, because replicas that clean at the same time would only wait for each other's row locks.
    let sessions = store.clone();
    jobs.leased("session-cleanup", interval, LIMIT, move || clean_sessions(sessions.clone(), session_ttl, grace));
    // Leased, because one rotation is enough. Concurrent rotations would not break anything.
    let keys = store.clone();
    jobs.leased("signing-keys", interval, LIMIT, move || turn_keys(keys.clone(), key_max_age, token_ttl));
}

/// Deletes sessions that ended or expired some time ago. Also deletes used refresh tokens that are older than the
/// lifetime of an unused session: a stolen copy of such a token is useless. Returns the number of deleted rows. Also
/// deletes the salts of successor tokens after the grace period, in which a client may request the successor again.
///
/// # Errors
/// If the database fails.
pub async fn clean_sessions(store: Store, session_ttl: TimeDelta, grace: TimeDelta) -> Result<u64, Error> {
    let now = now();
    store.forget_salts(now - grace).await?;
    store.clean_sessions(now - KEEP_SESSIONS, now - session_ttl).await
}

/// Rotates the signing key when it is old, and deletes keys that are no longer published. Returns the number of created
/// and deleted keys.
///
/// # Errors
/// If the database fails, or the system has no randomness.
pub async fn turn_keys(store: Store, max_age: TimeDelta, token_ttl: TimeDelta) -> Result<u64, Error> {
    let now = now();
    let rotated = store.rotate_key(now, now - max_age).await?;
    Ok(u64::from(rotated.is_some()) + store.clean_keys(now, token_ttl).await?)
}
