//! The controller: the generated traits. Each RPC is one short function: parse, act, reply.

mod convert;
mod sessions;
mod users;

use std::sync::Arc;

use chrono::TimeDelta;
use souk_common::{
    auth::{Caller, Grant, Role},
    error::Problem,
    ids::UserId,
};

use crate::{
    config::{Settings, delta},
    domain::session::Lifetime,
    error::Error,
    hasher::Hasher,
    store::{Actor, Store},
    tokens::Issuer,
};

pub use self::sessions::Accounts;

/// Implements both of the service's generated traits. A clone is another handle.
#[derive(Clone)]
pub struct Rpc(Arc<Parts>);

struct Parts {
    store: Store,
    hasher: Hasher,
    issuer: Issuer,
    lifetime: Lifetime,
    refresh_grace: TimeDelta,
}

impl Rpc {
    /// Creates the RPCs on this store.
    pub fn new(store: Store, hasher: Hasher, issuer: Issuer, settings: &Settings) -> Self {
        let lifetime = Lifetime { idle: delta(settings.session_ttl), absolute: delta(settings.session_max_age) };
        let refresh_grace = delta(settings.refresh_grace);
        Self(Arc::new(Parts { store, hasher, issuer, lifetime, refresh_grace }))
    }
}

/// The account that a request names.
fn named(field: &str, name: &str) -> Result<UserId, Problem> {
    UserId::parse_name(name).map_err(|error| Problem::invalid(field, error.to_string()))
}

/// The actor of a change of an account, for methods that allow owners and holders of a role.
fn actor(caller: &Caller, role: Role) -> Result<Actor, Problem> {
    Ok(match caller.grant {
        Grant::Own(_) => Actor::Owner,
        Grant::All => Actor::Holder { user: caller.user()?, role },
    })
}

/// The account that a request names. Fails unless it is the caller's own or the caller may reach all accounts.
fn reached(caller: &Caller, field: &str, name: &str) -> Result<UserId, Problem> {
    let id = named(field, name)?;
    if !caller.grant.covers(id) {
        return Err(Error::Denied(id).into());
    }
    Ok(id)
}
