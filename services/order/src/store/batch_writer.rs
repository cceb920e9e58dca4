//! The batch writer of orders: requests that wait while a batch is written form the next batch.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use souk_store::{
    coalesce::{Coalescer, Limits},
    db::{self, Db},
};

use super::{IdempotencyRecord, Placing, SavedStep, postgres, sqlite};
use crate::error::Error;

/// How long a batch is retried after conflicts with other transactions.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Writes many requests in one transaction.
pub(super) type BatchWriter = Coalescer<Write, Written, Error>;

/// A write of a batch.
#[derive(Clone)]
pub(super) enum Write {
    /// Records an order.
    Place(Arc<Placing>),
    /// Stores the result of a saga step.
    Save(Arc<SavedStep>),
}

/// The result of a write.
#[derive(Clone)]
pub(super) enum Written {
    /// `None` if the order was recorded. Otherwise the record of its key, which is known already.
    Placed(Option<IdempotencyRecord>),
    /// True if the step was stored.
    Saved(bool),
}

pub(super) fn start(db: &Db) -> BatchWriter {
    let db = db.clone();
    Coalescer::new("orders", Limits::default(), move |writes: Vec<Write>| {
        let db = db.clone();
        async move { run(&db, &writes).await }
    })
}

async fn run(db: &Db, writes: &[Write]) -> Result<Vec<Result<Written, Error>>, Error> {
    let mut placings: Vec<&Placing> = Vec::new();
    let mut steps: Vec<&SavedStep> = Vec::new();
    for write in writes {
        match write {
            Write::Place(placing) => placings.push(placing),
            Write::Save(step) => steps.push(step),
        }
    }
    let (placings, steps) = (placings.as_slice(), steps.as_slice());
    let began = Instant::now();
    let (placed, saved) = loop {
        let result = db::single!(db, |conn, q| -> Result<_, Error> { q::write(conn, placings, steps).await });
        match result {
            Err(error) if error.is_conflict() && began.elapsed() < TIMEOUT => {}
            result => break result?,
        }
    };
    let (mut placed, mut saved) = (placed.into_iter(), saved.into_iter());
    let mut answers = Vec::with_capacity(writes.len());
    for write in writes {
        answers.push(match write {
            Write::Place(placing) => match placed.next() {
                Some(true) => Ok(Written::Placed(None)),
                _ => known(db, placing).await.map(Written::Placed),
            },
            Write::Save(_) => saved.next().map(Written::Saved).ok_or(Error::Lost),
        });
    }
    Ok(answers)
}

/// The idempotency record of an order's key. `None` if an earlier try recorded this very order and its response was
/// lost.
async fn known(db: &Db, placing: &Placing) -> Result<Option<IdempotencyRecord>, Error> {
    let key = &placing.key;
    let record = db::read!(db, |conn, q| -> Result<_, Error> { q::find_record(conn, key).await })?;
    let record = record.ok_or_else(|| Error::Corrupt("a key that is and is not there".into()))?;
    Ok(Some(record).filter(|record| record.order != placing.order.id))
}
