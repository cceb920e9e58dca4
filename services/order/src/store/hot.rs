//! The writes of every order, which share their commits: requests that wait while a batch is written form the next.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use souk_common::{
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
        async move { Ok(run(&db, &writes).await?.into_iter().map(Ok).collect()) }
    })
}

async fn run(db: &Db, writes: &[Write]) -> Result<Vec<Written>, StoreError> {
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
    loop {
        let result = db::write!(db, |conn, q| -> Result<_, StoreError> {
            let placed = if placings.is_empty() { Vec::new() } else { q::place(conn, placings).await? };
            let saved = if steps.is_empty() { Vec::new() } else { q::save(conn, steps).await? };
            Ok((placed, saved))
        });
        match result {
            Ok((placed, saved)) => return in_their_order(writes, placed, saved),
            Err(error) if error.is_conflict() && began.elapsed() < PATIENCE => {}
            Err(error) => return Err(error),
        }
    }
}

fn in_their_order(writes: &[Write], placed: Vec<Option<Memory>>, saved: Vec<bool>) -> Result<Vec<Written>, StoreError> {
    let (mut placed, mut saved) = (placed.into_iter(), saved.into_iter());
    let answers = writes.iter().map(|write| match write {
        Write::Place(_) => placed.next().map(Written::Placed),
        Write::Save(_) => saved.next().map(Written::Saved),
    });
    answers.collect::<Option<_>>().ok_or(StoreError::Lost)
}
