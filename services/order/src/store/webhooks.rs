//! The tables of webhooks: endpoints, and the deliveries to them. Each function is one operation: one transaction or
//! one read.

use chrono::{DateTime, Utc};
use souk_common::{
    ids::{EventId, WebhookDeliveryId, WebhookEndpointId},
    page::Scan,
};
use souk_store::{
    db::{self, Db},
    events::{Checkpoint, Event, Events},
};

use super::{Lease, postgres, sqlite};
use crate::{
    domain::{
        delivery::{Attempt, Delivery, State, Verdict},
        endpoint::{Change, DisableReason, Endpoint},
    },
    error::Error,
};

/// The result of a try.
pub(crate) struct Report<'a> {
    /// The delivery as it was claimed, and its lease.
    pub(crate) delivery: &'a Delivery,
    pub(crate) lease: i64,
    pub(crate) attempt: &'a Attempt,
    pub(crate) verdict: Verdict,
    pub(crate) now: DateTime<Utc>,
    /// The endpoint is disabled if all tries have failed since before this time.
    pub(crate) disable_before: DateTime<Utc>,
}

/// The result of a change that is guarded by an etag.
pub(crate) enum Changed<T> {
    /// The change was made.
    Done(T),
    /// The endpoint does not exist.
    NotFound,
    /// The etag is not the current one.
    OtherEtag,
}

/// The result of a request to send something.
pub(crate) enum Sent {
    /// The delivery is due.
    Due(Box<Delivery>),
    /// The endpoint or the delivery does not exist.
    NotFound,
    /// The endpoint is disabled.
    Disabled,
}

/// A query for a page of an endpoint's log, newest first.
pub(crate) struct Query {
    pub(crate) endpoint: WebhookEndpointId,
    pub(crate) conditions: Vec<(bool, Condition)>,
    /// The last delivery of the previous page.
    pub(crate) after: Option<WebhookDeliveryId>,
    pub(crate) limit: i64,
}

impl Query {
    /// The states that the listed deliveries can have, if only rare ones can. Almost all deliveries are delivered.
    pub(crate) fn rare_states(&self) -> Option<Vec<State>> {
        let fits = |state: State| {
            let fits = |(equal, condition): &(bool, Condition)| match condition {
                Condition::State(other) => (state == *other) == *equal,
                _ => true,
            };
            self.conditions.iter().all(fits)
        };
        let common = fits(State::Delivered) || self.finds_one();
        (!common).then(|| [State::Pending, State::Failed].into_iter().filter(|state| fits(*state)).collect())
    }

    /// True if an index finds the one delivery that can match: an endpoint gets each event once.
    pub(crate) fn finds_one(&self) -> bool {
        self.conditions.iter().any(|(equal, condition)| *equal && matches!(condition, Condition::Event(_)))
    }
}

/// A condition on listed deliveries. With `false`, it is negated.
pub(crate) enum Condition {
    State(State),
    Kind(String),
    Event(EventId),
    Subject(String),
}

/// Creates the request body for an event.
pub(crate) type Body<'a> = &'a (dyn Fn(&Event) -> Result<String, String> + Send + Sync);

/// The tables of webhooks.
#[derive(Clone)]
pub(crate) struct Webhooks {
    db: Db,
}

impl Webhooks {
    /// Uses this database, whose migrations must have run.
    pub(crate) fn new(db: &Db) -> Self {
        Self { db: db.clone() }
    }

    /// Records a delivery for each event and each enabled endpoint that subscribes to it, and moves the consumer's
    /// checkpoint.
    pub(crate) async fn record(&self, checkpoint: Checkpoint, events: &Events, body: Body<'_>) -> Result<(), Error> {
        db::write!(self.db, |conn, q| -> Result<_, Error> {
            q::record_deliveries(conn, checkpoint, events, body).await
        })
    }

    /// Enabled endpoints that have due deliveries.
    pub(crate) async fn due(&self, now: DateTime<Utc>) -> Result<Vec<Endpoint>, Error> {
        db::read!(self.db, |conn, q| -> Result<_, Error> { q::due_endpoints(conn, now).await })
    }

    /// Claims at most `limit` due deliveries under a lease. Of each subject, only the first pending delivery can be
    /// claimed.
    pub(crate) async fn claim(
        &self,
        endpoint: WebhookEndpointId,
        limit: usize,
        now: DateTime<Utc>,
        lease: Lease,
    ) -> Result<Vec<Delivery>, Error> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        db::write!(self.db, |conn, q| -> Result<_, Error> {
            q::claim_deliveries(conn, endpoint, limit, now, lease).await
        })
    }

    /// Records the result of a try, and its effects on the endpoint and on deliveries that wait behind this one.
    /// Returns why the endpoint was disabled, if it was. Does nothing if the lease was lost.
    pub(crate) async fn settle(&self, report: Report<'_>) -> Result<Option<DisableReason>, Error> {
        db::write!(self.db, |conn, q| -> Result<_, Error> { q::settle_delivery(conn, &report).await })
    }

    /// Releases a lease, so that any replica may retry at once.
    pub(crate) async fn give_up(&self, id: WebhookDeliveryId, lease: i64, now: DateTime<Utc>) -> Result<(), Error> {
        db::write!(self.db, |conn, q| -> Result<_, Error> { q::release_delivery(conn, id, lease, now).await })
    }

    /// Deletes deliveries older than `before` that succeeded, failed permanently, or wait for a disabled endpoint.
    pub(crate) async fn forget(&self, before: DateTime<Utc>) -> Result<u64, Error> {
        db::write!(self.db, |conn, q| -> Result<_, Error> { q::forget_deliveries(conn, before).await })
    }

    /// Adds an endpoint.
    pub(crate) async fn add(&self, endpoint: &Endpoint) -> Result<(), Error> {
        db::write!(self.db, |conn, q| -> Result<_, Error> { q::insert_endpoint(conn, endpoint).await })
    }

    /// An endpoint.
    pub(crate) async fn endpoint(&self, id: WebhookEndpointId) -> Result<Option<Endpoint>, Error> {
        db::read!(self.db, |conn, q| -> Result<_, Error> { q::endpoint(conn, id).await })
    }

    /// A page of endpoints, oldest first.
    pub(crate) async fn endpoints(&self, after: Option<WebhookEndpointId>, limit: i64) -> Result<Vec<Endpoint>, Error> {
        db::read!(self.db, |conn, q| -> Result<_, Error> { q::endpoints(conn, after, limit).await })
    }

    /// Changes an endpoint.
    pub(crate) async fn change(
        &self,
        id: WebhookEndpointId,
        etag: &str,
        change: &Change,
        now: DateTime<Utc>,
    ) -> Result<Changed<Endpoint>, Error> {
        db::write!(self.db, |conn, q| -> Result<_, Error> {
            let mut endpoint = match q::endpoint_to_change(conn, id, etag).await? {
                Changed::Done(endpoint) => endpoint,
                other => return Ok(other),
            };
            let go_on = endpoint.change(change.clone(), now);
            q::update_endpoint(conn, &endpoint).await?;
            if go_on {
                q::resume_deliveries(conn, id, now).await?;
            }
            Ok(Changed::Done(endpoint))
        })
    }

    /// Gives an endpoint a new secret. The previous one remains valid until a time.
    pub(crate) async fn rotate(
        &self,
        id: WebhookEndpointId,
        etag: &str,
        until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<Changed<Endpoint>, Error> {
        db::write!(self.db, |conn, q| -> Result<_, Error> {
            let mut endpoint = match q::endpoint_to_change(conn, id, etag).await? {
                Changed::Done(endpoint) => endpoint,
                other => return Ok(other),
            };
            endpoint.rotate(until, now);
            q::update_endpoint(conn, &endpoint).await?;
            Ok(Changed::Done(endpoint))
        })
    }

    /// Deletes an endpoint and its log.
    pub(crate) async fn remove(&self, id: WebhookEndpointId, etag: &str) -> Result<Changed<()>, Error> {
        db::write!(self.db, |conn, q| -> Result<_, Error> {
            match q::endpoint_to_change(conn, id, etag).await? {
                Changed::Done(_) => {}
                Changed::NotFound => return Ok(Changed::NotFound),
                Changed::OtherEtag => return Ok(Changed::OtherEtag),
            }
            q::delete_endpoint(conn, id).await?;
            Ok(Changed::Done(()))
        })
    }

    /// Adds a delivery that has no event in the log.
    pub(crate) async fn send(&self, delivery: &Delivery) -> Result<Sent, Error> {
        db::write!(self.db, |conn, q| -> Result<_, Error> { q::insert_delivery(conn, delivery).await })
    }

    /// Makes a delivery due again.
    pub(crate) async fn send_again(
        &self,
        endpoint: WebhookEndpointId,
        id: WebhookDeliveryId,
        now: DateTime<Utc>,
    ) -> Result<Sent, Error> {
        db::write!(self.db, |conn, q| -> Result<_, Error> { q::redeliver(conn, endpoint, id, now).await })
    }

    /// A delivery.
    pub(crate) async fn delivery(
        &self,
        endpoint: WebhookEndpointId,
        id: WebhookDeliveryId,
    ) -> Result<Option<Delivery>, Error> {
        db::read!(self.db, |conn, q| -> Result<_, Error> { q::delivery(conn, endpoint, id).await })
    }

    /// A page of an endpoint's log, newest first. `None` if the endpoint does not exist.
    pub(crate) async fn log(&self, query: &Query) -> Result<Option<Scan<Delivery, WebhookDeliveryId>>, Error> {
        db::read!(self.db, |conn, q| -> Result<_, Error> {
            if q::endpoint(conn, query.endpoint).await?.is_none() {
                return Ok(None);
            }
            Ok(Some(q::list_deliveries(conn, query).await?))
        })
    }
}
