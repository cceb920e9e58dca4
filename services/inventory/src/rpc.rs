//! The controller: the generated traits. Each RPC is one short function: parse, act, reply.

mod convert;
mod locations;
mod products;
mod reservations;
mod stock;
mod watch;

use std::sync::Arc;

use souk_common::{
    auth::Caller,
    contract::Contract,
    error::{Problem, Reason},
    ids::IdError,
    page::PageError,
};
use souk_store::events::Log;

use crate::{
    StockChanges,
    domain::command::{Action, Command, Reply, RequestKey},
    error::Error,
    store::Store,
};

/// Implements all of the service's generated traits. A clone is another handle.
#[derive(Clone)]
pub(crate) struct Rpc {
    store: Store,
    changes: StockChanges,
    log: Log,
    contract: Arc<Contract>,
}

impl Rpc {
    /// Uses this store and its event log. Changes of stock go through the coalescer.
    pub(crate) fn new(store: Store, changes: StockChanges, log: Log, contract: Arc<Contract>) -> Self {
        Self { store, changes, log, contract }
    }

    /// Submits a change of stock on behalf of the caller.
    async fn change(&self, caller: &Caller, action: Action) -> Result<Reply, Error> {
        Ok(self.changes.submit(Command { actor: caller.actor(), action }).await?)
    }
}

/// The idempotency key of a caller's request.
fn request_key(caller: &Caller, method: &str, request_id: &str, request: &impl prost::Message) -> RequestKey {
    RequestKey::new(&caller.actor(), method, request_id, &request.encode_to_vec())
}

/// The error for an invalid field, with a description of a valid value.
fn invalid(field: impl Into<String>) -> impl FnOnce(IdError) -> Problem {
    move |error| Problem::invalid(field, error.to_string())
}

/// The error for an invalid page token.
fn bad_token(error: PageError) -> Problem {
    let text = error.to_string();
    Problem::new(Reason::PageTokenInvalid, format!("page_token {text}")).field("page_token", text)
}
