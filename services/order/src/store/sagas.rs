//! Sagas: the progress that their runners store, their leases, and what operators see and do.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use souk_common::{
    ids::{OrderId, ReturnId},
    page::{self, Scan, filter::Op},
};
use souk_store::db;
use uuid::Uuid;

use super::{Store, batch_writer, now, postgres, sqlite};
use crate::{
    domain::{Entry, Illegal, Kind, Order, Saga, State, Step, Wish},
    error::Error,
};

/// The right to run a saga until a time. Only its holder knows its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The number of the lease.
    pub id: i64,
    /// The end of the lease. Other runners may take over from then on.
    pub until: DateTime<Utc>,
}

/// A lease to renew.
#[derive(Clone, Copy, Debug)]
pub struct Renewal {
    /// The number of the lease that must still be held.
    pub held: i64,
    /// The new lease.
    pub lease: Lease,
}

/// A lease to release after a failed try.
#[derive(Clone, Copy, Debug)]
pub struct Release<'a> {
    /// The number of the lease that must still be held.
    pub held: i64,
    /// When the next try is due.
    pub due: DateTime<Utc>,
    /// Failed tries so far.
    pub attempts: i32,
    /// The error of the last try, for operators only.
    pub error: &'a str,
}

/// A completed step of an order's saga.
#[derive(Clone, Debug)]
pub(crate) struct SavedStep {
    /// The order after the step.
    pub order: Order,
    /// The order's version before the step.
    pub version: i64,
    pub entries: Vec<Entry>,
    pub response: Option<Vec<u8>>,
    /// The lease that must still be held, and the new one.
    pub held: i64,
    pub lease: Lease,
}

/// The id of a saga: that of its order or of its adjustment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SagaId {
    /// The saga that places or cancels an order.
    Order(OrderId),
    /// The saga of an adjustment.
    Adjustment(ReturnId),
}

/// A saga as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SagaView {
    /// The id of the saga.
    pub id: SagaId,
    /// The order of the saga.
    pub order: OrderId,
    /// The state of the order or the adjustment.
    pub state: State,
    /// The next step; `None` at the end.
    pub step: Option<Step>,
    /// Failed tries since its last completed step.
    pub attempts: i32,
    /// The error of the last failed try.
    pub last_error: Option<String>,
    /// When the next try is due, or when its runner's lease ends.
    pub due: Option<DateTime<Utc>>,
    /// True if a runner holds the lease.
    pub running: bool,
    /// When the saga was recorded.
    pub created: DateTime<Utc>,
    /// When a step was last stored.
    pub updated: DateTime<Utc>,
}

/// A query for a page of sagas that have not ended, oldest first.
#[derive(Clone, Debug)]
pub struct SagaQuery {
    /// The conditions that each saga must meet.
    pub conditions: Vec<SagaCondition>,
    /// The last saga of the previous page.
    pub after: Option<SagaKey>,
    /// The most sagas of the page.
    pub limit: i64,
}

/// The sort key of listed sagas: when the saga was recorded, and its id.
pub type SagaKey = (DateTime<Utc>, Uuid);

impl SagaView {
    /// The sort key of the saga.
    #[must_use]
    pub fn key(&self) -> SagaKey {
        (self.created, self.id.uuid())
    }
}

impl SagaQuery {
    /// The numbers of sagas to scan for a page, one after the other. `None`: an index finds the sagas.
    pub(super) fn scans(&self) -> impl Iterator<Item = Option<i64>> {
        let in_order =
            |condition: &SagaCondition| matches!(condition, SagaCondition::CreateTime(op, _) if *op != Op::NotEqual);
        let found = self.conditions.iter().all(in_order);
        let scans = (!found).then(|| page::scans(self.limit, false).map(Some));
        scans.into_iter().flatten().chain(found.then_some(None))
    }
}

/// A condition on sagas.
#[derive(Clone, Debug)]
pub enum SagaCondition {
    /// Compares the number of failed tries.
    Attempts(Op, i32),
    /// Compares the time at which the saga was recorded.
    CreateTime(Op, DateTime<Utc>),
    /// Compares the time of the last step.
    UpdateTime(Op, DateTime<Utc>),
}

/// The result of an operator's request.
#[derive(Clone, Debug)]
pub enum Operated<T> {
    /// The saga does not exist.
    NotFound,
    /// A runner holds the lease at this moment.
    Busy,
    /// The saga has ended, or the table has no such transition. Has the saga's current state.
    Illegal(SagaView),
    /// The request was done.
    Done(T),
}

impl SagaId {
    /// The resource name of the order, return or refund.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Order(id) => format!("sagas/{id}"),
            Self::Adjustment(id) => format!("sagas/{id}"),
        }
    }

    /// The UUID of the id.
    #[must_use]
    pub fn uuid(self) -> Uuid {
        match self {
            Self::Order(id) => id.uuid(),
            Self::Adjustment(id) => id.uuid(),
        }
    }
}

impl Store {
    /// Stores a saga's progress since `before`, and its entries in the timeline. `response` is the response to its
    /// request, once it is final. Only the holder of the lease can do this: `false` if the lease was lost.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn save(
        &self,
        before: &Saga,
        after: &Saga,
        entries: &[Entry],
        response: Option<&[u8]>,
        Renewal { held, lease }: Renewal,
    ) -> Result<bool, Error> {
        match (before, after) {
            (Saga::Order(before), Saga::Order(after)) => {
                let step = SavedStep {
                    order: (**after).clone(),
                    version: before.version,
                    entries: entries.to_vec(),
                    response: response.map(<[u8]>::to_vec),
                    held,
                    lease,
                };
                match self.notify_if_ok(self.writer.submit(batch_writer::Write::Save(Arc::new(step))).await)? {
                    batch_writer::Written::Saved(saved) => Ok(saved),
                    batch_writer::Written::Placed(_) => Err(Error::Lost),
                }
            }
            (Saga::Adjustment(before), Saga::Adjustment(after)) => {
                let now = now();
                let written = db::write!(self.db, |conn, q| -> Result<_, Error> {
                    let saved = q::update_adjustment(conn, after, before.step, held, entries, lease, now).await?;
                    if let (true, Some(response)) = (saved, response) {
                        q::answer_adjustment(conn, after, response).await?;
                    }
                    Ok(saved)
                });
                self.notify_if_ok(written)
            }
            _ => Ok(false),
        }
    }

    /// True if a saga is stored as it is here. Used to find out whether a commit with a lost response took effect.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn is_saved(&self, saga: &Saga) -> Result<bool, Error> {
        db::read!(self.db, |conn, q| -> Result<_, Error> {
            match saga {
                Saga::Order(order) => q::is_at(conn, order).await,
                Saga::Adjustment(adjustment) => {
                    let stored = q::find_adjustment(conn, adjustment.id).await?;
                    let is = (adjustment.step, adjustment.settled_manually);
                    Ok(stored.is_some_and(|stored| (stored.step, stored.settled_manually) == is))
                }
            }
        })
    }

    /// Releases a lease. Any runner may continue from `due` on.
    ///
    /// # Errors
    /// If the database fails. The lease then expires by itself.
    pub async fn release(&self, saga: &Saga, release: Release<'_>) -> Result<(), Error> {
        db::write!(self.db, |conn, q| -> Result<_, Error> { q::release(conn, saga, release).await })
    }

    /// Takes over at most `limit` due sagas.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn claim(&self, lease: Lease, limit: i64) -> Result<Vec<Saga>, Error> {
        let now = now();
        // A read first, so that an idle service does not write.
        let due = db::read!(self.db, |conn, q| -> Result<_, Error> { q::is_any_due(conn, now).await })?;
        if !due {
            return Ok(Vec::new());
        }
        db::write!(self.db, |conn, q| -> Result<_, Error> { q::claim(conn, now, lease, limit).await })
    }

    /// Makes the next try of a waiting order due now.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn wake(&self, id: OrderId) -> Result<(), Error> {
        let now = now();
        db::write!(self.db, |conn, q| -> Result<_, Error> { q::wake(conn, id, now).await })
    }

    /// A page of sagas that have not ended, oldest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn sagas(&self, query: &SagaQuery) -> Result<Scan<SagaView, SagaKey>, Error> {
        let now = now();
        db::read!(self.db, |conn, q| -> Result<_, Error> { q::list_sagas(conn, query, now).await })
    }

    /// A saga, ended or not.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn saga(&self, id: SagaId) -> Result<Option<SagaView>, Error> {
        let now = now();
        db::read!(self.db, |conn, q| -> Result<_, Error> { q::find_saga(conn, id, now).await })
    }

    /// Makes the next try of a saga due now.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn retry(&self, id: SagaId, wish: Wish<'_>) -> Result<Operated<SagaView>, Error> {
        let now = now();
        db::write!(self.db, |conn, q| -> Result<_, Error> {
            let Some(seen) = q::find_saga(conn, id, now).await? else { return Ok(Operated::NotFound) };
            let order = q::order_to_change(conn, seen.order, None).await?;
            // Read again under the lock.
            let seen = q::find_saga(conn, id, now).await?;
            let (Some(mut order), Some(seen)) = (order, seen) else { return Ok(Operated::NotFound) };
            if seen.step.is_none() {
                return Ok(Operated::Illegal(seen));
            }
            if seen.running || q::is_leased(conn, order.id, now).await? {
                return Ok(Operated::Busy);
            }
            let version = order.version;
            let entry = Entry { internal: true, ..Entry::new(Kind::RetryRequested, wish.actor, wish.reason) };
            let entries = order.record(entry, now);
            q::write_effects(conn, &order, version, &[], &entries).await?;
            q::make_due(conn, id, now).await?;
            Ok(Operated::Done(SagaView { due: Some(now), ..seen }))
        })
    }

    /// Abandons an order that is being placed, under a lease. `provider` is the payment provider in use.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn abandon(
        &self,
        id: OrderId,
        wish: Wish<'_>,
        provider: &str,
        lease: Lease,
    ) -> Result<Operated<Box<Order>>, Error> {
        let now = now();
        db::write!(self.db, |conn, q| -> Result<_, Error> {
            let Some(mut order) = q::order_to_change(conn, id, None).await? else {
                return Ok(Operated::NotFound);
            };
            if q::is_leased(conn, id, now).await? {
                return Ok(Operated::Busy);
            }
            let version = order.version;
            let entries: Result<_, Illegal> = order.abandon(wish, provider, now);
            let Ok(entries) = entries else {
                let seen = q::find_saga(conn, SagaId::Order(id), now).await?;
                return Ok(seen.map_or(Operated::NotFound, Operated::Illegal));
            };
            if !q::update_order(conn, &order, version, &entries, lease).await? {
                return Err(Error::Corrupt("a locked order that changed".into()));
            }
            Ok(Operated::Done(Box::new(order)))
        })
    }

    /// Finishes a step that an operator did outside of souk, and with it the saga. `respond` creates the response that
    /// is stored for the request that ends now.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn finish(
        &self,
        id: SagaId,
        step: Step,
        wish: Wish<'_>,
        respond: impl Fn(&Saga) -> Option<Vec<u8>> + Sync,
    ) -> Result<Operated<SagaView>, Error> {
        let now = now();
        // An expired lease without a holder. If the saga had another step, that would be due at once.
        let lease = Lease { id: 0, until: now };
        let written = db::write!(self.db, |conn, q| -> Result<_, Error> {
            let Some(seen) = q::find_saga(conn, id, now).await? else { return Ok(Operated::NotFound) };
            let order = q::order_to_change(conn, seen.order, None).await?;
            // Read again under the lock.
            let seen = q::find_saga(conn, id, now).await?;
            let (Some(mut order), Some(seen)) = (order, seen) else { return Ok(Operated::NotFound) };
            if seen.step != Some(step) || !step.can_be_done_manually() {
                return Ok(Operated::Illegal(seen));
            }
            match id {
                SagaId::Order(_) if seen.running => return Ok(Operated::Busy),
                SagaId::Order(_) => {
                    let version = order.version;
                    let entries = order.finish(step, wish, now)?;
                    if !q::update_order(conn, &order, version, &entries, lease).await? {
                        return Err(Error::Corrupt("a locked order that changed".into()));
                    }
                    let saga = Saga::Order(Box::new(order.clone()));
                    q::settle_manually(conn, &order, respond(&saga)).await?;
                }
                SagaId::Adjustment(id) => {
                    if !q::take_over(conn, id, step, lease, now).await? {
                        return Ok(Operated::Busy);
                    }
                    let Some(mut adjustment) = q::find_adjustment(conn, id).await? else {
                        return Ok(Operated::NotFound);
                    };
                    let entries = adjustment.finish(step, wish)?;
                    if !q::update_adjustment(conn, &adjustment, Some(step), lease.id, &entries, lease, now).await? {
                        return Err(Error::Corrupt("a locked adjustment that changed".into()));
                    }
                    if let Some(response) = respond(&Saga::Adjustment(Box::new(adjustment.clone()))) {
                        q::answer_adjustment(conn, &adjustment, &response).await?;
                    }
                }
            }
            let ended = q::find_saga(conn, id, now).await?;
            Ok(ended.map_or(Operated::NotFound, Operated::Done))
        });
        self.notify_if_ok(written)
    }
}
