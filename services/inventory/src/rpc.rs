//! The controller: the generated traits, one short function an RPC: parse, act, reply.

pub(crate) mod convert;
mod listing;
mod locations;
mod product_input;
mod products;
mod reconcile;
mod reservations;
mod stock;
mod upsert;
mod watch;

use std::sync::Arc;

use souk_common::{auth::Caller, contract::Contract, error::Problem};
use souk_store::events::Log;

use crate::{
    StockChanges,
    domain::command::{Action, Command, Reply},
    error::Error,
    store::Store,
};

/// All of the service's generated traits. A clone is another handle.
#[derive(Clone)]
pub(crate) struct Rpc {
    store: Store,
    changes: StockChanges,
    log: Log,
    contract: Arc<Contract>,
}

impl Rpc {
    /// Uses this store and its event log; changes of stock go through the coalescer.
    pub(crate) fn new(store: Store, changes: StockChanges, log: Log, contract: Arc<Contract>) -> Self {
        Self { store, changes, log, contract }
    }

    /// Asks for a change of stock in the caller's name.
    async fn change(&self, caller: &Caller, action: Action) -> Result<Reply, Error> {
        Ok(self.changes.submit(Command { actor: caller.actor(), action }).await?)
    }
}

/// A field that cannot be read, with what would be right.
fn invalid(field: impl Into<String>) -> impl FnOnce(souk_common::ids::IdError) -> Problem {
    move |error| Problem::invalid(field, error.to_string())
}
