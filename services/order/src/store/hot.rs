//! The writes of every order, which share their commits: requests that wait while a batch is written form the next.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use souk_store::{
    coalesce::{Coalescer, Limits},
    db::{self, Db},
};

use super::{Memory, Placing, SavedStep, StoreError, postgres, sqlite};

/// How long a batch is tried that others' changes get in the way of.
const PATIENCE: Duration = Duration::from_secs(5);

/// Writes on their way into a commit that they share.
pub(super) type Writes = Coalescer<Write, Written, StoreError>;

/// One of them.
#[derive(Clone)]
pub(super) enum Write {
    /// Takes an order down.
    Place(Arc<Placing>),
    /// Stores how a step of its saga ended.
    Save(Arc<SavedStep>),
}

/// What became of it.
#[derive(Clone)]
pub(super) enum Written {
    /// The order was taken down, or its key is known.
    Placed(Option<Memory>),
    /// Whether the step was stored.
    Saved(bool),
}

pub(super) fn start(db: &Db) -> Writes {
    let db = db.clone();
    Coalescer::new("orders", Limits::default(), move |writes: Vec<Write>| {
        let db = db.clone();
        async move { run(&db, &writes).await }
    })
}

async fn run(db: &Db, writes: &[Write]) -> Result<Vec<Result<Written, StoreError>>, StoreError> {
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
        let result = db::single!(db, |conn, q| -> Result<_, StoreError> { q::write(conn, placings, steps).await });
        match result {
            Err(error) if error.is_conflict() && began.elapsed() < PATIENCE => {}
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
            Write::Save(_) => saved.next().map(Written::Saved).ok_or(StoreError::Lost),
        });
    }
    Ok(answers)
}

/// What is remembered under an order's key; `None` where that is this very order, taken down by a try before whose answer
/// was lost.
async fn known(db: &Db, placing: &Placing) -> Result<Option<Memory>, StoreError> {
    let key = &placing.key;
    let memory = db::read!(db, |conn, q| -> Result<_, StoreError> { q::recall(conn, key).await })?;
    let memory = memory.ok_or_else(|| StoreError::Corrupt("a key that is and is not there".into()))?;
    Ok(Some(memory).filter(|memory| memory.order != placing.order.id))
}
