//! Webhook deliveries.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::{
    dsl::{exists, not, sql},
    prelude::*,
    sql_types::Bool,
};
use diesel_async::RunQueryDsl;
use serde_json::Value;
use souk_common::{
    ids::{EventId, WebhookDeliveryId, WebhookEndpointId},
    page::{self, MAX_SCANNED, Scan},
};
use souk_store::events::{Checkpoint, Events};

use super::{
    super::{
        self as engine, Backend, Conn, Id, Time, claimable,
        schema::{webhook_deliveries, webhook_endpoints},
    },
    endpoints::{EndpointRow, endpoint, read_all},
};
use crate::{
    domain::{
        delivery::{Delivery, KEPT, State, Verdict},
        endpoint::{DisableReason, Endpoint},
    },
    error::Error,
    store::{
        Lease, now,
        webhooks::{Body, Condition, Query, Report, Sent},
    },
};

diesel::alias!(webhook_deliveries as earlier: Earlier);

/// A row of `webhook_deliveries`, without its lease.
#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = webhook_deliveries, check_for_backend(Backend))]
pub(in crate::store) struct DeliveryRow {
    id: WebhookDeliveryId,
    endpoint_id: WebhookEndpointId,
    event_id: EventId,
    kind: String,
    subject: String,
    position: i64,
    body: String,
    state: String,
    attempt_count: i32,
    tries: i32,
    attempts: Value,
    last_code: i32,
    due_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    settled_at: Option<DateTime<Utc>>,
}

impl DeliveryRow {
    fn of(delivery: &Delivery) -> Result<Self, Error> {
        Ok(Self {
            id: delivery.id,
            endpoint_id: delivery.endpoint,
            event_id: delivery.event,
            kind: delivery.kind.clone(),
            subject: delivery.subject.clone(),
            position: delivery.position,
            body: delivery.body.clone(),
            state: delivery.state.code().to_owned(),
            attempt_count: delivery.attempt_count,
            tries: delivery.tries,
            attempts: serde_json::to_value(&delivery.attempts)?,
            last_code: delivery.last_code,
            due_at: delivery.due,
            created_at: delivery.create_time,
            settled_at: delivery.settle_time,
        })
    }

    fn read(self) -> Result<Delivery, Error> {
        Ok(Delivery {
            id: self.id,
            endpoint: self.endpoint_id,
            event: self.event_id,
            kind: self.kind,
            subject: self.subject,
            position: self.position,
            body: self.body,
            state: State::from_code(&self.state)?,
            attempt_count: self.attempt_count,
            tries: self.tries,
            attempts: serde_json::from_value(self.attempts)?,
            last_code: self.last_code,
            due: self.due_at,
            create_time: self.created_at,
            settle_time: self.settled_at,
        })
    }
}

/// Records a delivery for each event and each enabled endpoint that subscribes to it, and moves the consumer's
/// checkpoint.
pub(in crate::store) async fn record_deliveries(
    conn: &mut Conn,
    checkpoint: Checkpoint,
    events: &Events,
    body: Body<'_>,
) -> Result<(), Error> {
    if !engine::advance(conn, checkpoint, events).await? {
        return Ok(());
    }
    let enabled = webhook_endpoints::table.filter(webhook_endpoints::disabled_at.is_null());
    let endpoints = read_all(enabled.select(EndpointRow::as_select()).load(conn).await?)?;
    let now = now();
    let mut rows = Vec::new();
    for event in events {
        let mut wanting = endpoints.iter().filter(|endpoint| endpoint.wants(&event.kind)).peekable();
        if wanting.peek().is_none() {
            continue;
        }
        let body = body(event).map_err(|why| Error::Event { position: event.position, why })?;
        for endpoint in wanting {
            rows.push(DeliveryRow {
                id: WebhookDeliveryId::new(),
                endpoint_id: endpoint.id,
                event_id: event.id,
                kind: event.kind.clone(),
                subject: event.subject.clone(),
                position: event.position,
                body: body.clone(),
                state: State::Pending.code().to_owned(),
                attempt_count: 0,
                tries: 0,
                attempts: Value::Array(Vec::new()),
                last_code: 0,
                due_at: Some(now),
                created_at: now,
                settled_at: None,
            });
        }
    }
    Ok(engine::insert_deliveries(conn, rows).await?)
}

/// Enabled endpoints that have due deliveries.
pub(in crate::store) async fn due_endpoints(conn: &mut Conn, now: DateTime<Utc>) -> Result<Vec<Endpoint>, Error> {
    let waiting = webhook_deliveries::table
        .filter(webhook_deliveries::endpoint_id.eq(webhook_endpoints::id))
        .filter(webhook_deliveries::due_at.le(now));
    let rows = webhook_endpoints::table
        .filter(webhook_endpoints::disabled_at.is_null())
        .filter(exists(waiting))
        .select(EndpointRow::as_select())
        .load(conn)
        .await?;
    read_all(rows)
}

/// Claims due deliveries under a lease. Of each subject, only the first pending delivery can be claimed.
pub(in crate::store) async fn claim_deliveries(
    conn: &mut Conn,
    endpoint: WebhookEndpointId,
    limit: i64,
    now: DateTime<Utc>,
    lease: Lease,
) -> Result<Vec<Delivery>, Error> {
    let before = earlier
        .filter(earlier.field(webhook_deliveries::endpoint_id).eq(webhook_deliveries::endpoint_id))
        .filter(earlier.field(webhook_deliveries::subject).eq(webhook_deliveries::subject))
        .filter(earlier.field(webhook_deliveries::due_at).is_not_null())
        .filter(earlier.field(webhook_deliveries::position).lt(webhook_deliveries::position));
    let due = webhook_deliveries::table
        .filter(webhook_deliveries::endpoint_id.eq(endpoint))
        .filter(webhook_deliveries::due_at.le(now))
        .filter(not(exists(before)))
        .order((webhook_deliveries::due_at, webhook_deliveries::position))
        .limit(limit)
        .select(DeliveryRow::as_select());
    let rows: Vec<DeliveryRow> = claimable!(due).load(conn).await?;
    let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
    if !ids.is_empty() {
        diesel::update(webhook_deliveries::table.filter(webhook_deliveries::id.eq_any(ids)))
            .set((webhook_deliveries::lease.eq(lease.id), webhook_deliveries::due_at.eq(lease.until)))
            .execute(conn)
            .await?;
    }
    if i64::try_from(rows.len()).is_ok_and(|found| found < limit) {
        hold_back(conn, endpoint, now).await?;
    }
    rows.into_iter().map(DeliveryRow::read).collect()
}

/// Postpones due deliveries that wait behind another one of the same subject until that one is due. Otherwise they
/// would be read again and again, for hours.
async fn hold_back(conn: &mut Conn, endpoint: WebhookEndpointId, now: DateTime<Utc>) -> Result<(), Error> {
    const HOLD_BACK: &str = "
        UPDATE webhook_deliveries AS d SET due_at = (
            SELECT max(e.due_at) FROM webhook_deliveries e
            WHERE e.endpoint_id = d.endpoint_id AND e.subject = d.subject AND e.position < d.position
                AND e.due_at IS NOT NULL)
        WHERE d.endpoint_id = $1 AND d.due_at <= $2 AND EXISTS (
            SELECT 1 FROM webhook_deliveries e
            WHERE e.endpoint_id = d.endpoint_id AND e.subject = d.subject AND e.position < d.position
                AND e.due_at > $2)";
    diesel::sql_query(HOLD_BACK).bind::<Id, _>(endpoint).bind::<Time, _>(now).execute(conn).await?;
    Ok(())
}

/// Records the result of a try, and its effects on other deliveries and on the endpoint.
pub(in crate::store) async fn settle_delivery(
    conn: &mut Conn,
    report: &Report<'_>,
) -> Result<Option<DisableReason>, Error> {
    let Report { delivery, attempt, now, .. } = report;
    let (state, due) = match report.verdict {
        Verdict::Delivered => (State::Delivered, None),
        Verdict::Retry(due) => (State::Pending, Some(due)),
        Verdict::Failed => (State::Failed, None),
    };
    let skip = (delivery.attempts.len() + 1).saturating_sub(KEPT);
    let kept: Vec<_> = delivery.attempts.iter().chain([*attempt]).skip(skip).collect();
    let row = webhook_deliveries::table.find(delivery.id).filter(webhook_deliveries::lease.eq(report.lease));
    let written = diesel::update(row)
        .set((
            webhook_deliveries::state.eq(state.code()),
            webhook_deliveries::attempt_count.eq(delivery.attempt_count + 1),
            webhook_deliveries::tries.eq(delivery.tries + 1),
            webhook_deliveries::attempts.eq(serde_json::to_value(kept)?),
            webhook_deliveries::last_code.eq(i32::from(attempt.code)),
            webhook_deliveries::lease.eq(None::<i64>),
            webhook_deliveries::due_at.eq(due),
            webhook_deliveries::settled_at.eq(due.is_none().then_some(*now)),
        ))
        .execute(conn)
        .await?;
    if written == 0 {
        return Ok(None);
    }
    if due.is_none() {
        resume_behind(conn, delivery, *now).await?;
    }
    let endpoint = webhook_endpoints::table.find(delivery.endpoint);
    if attempt.is_success() {
        diesel::update(endpoint.filter(webhook_endpoints::failing_since.is_not_null()))
            .set(webhook_endpoints::failing_since.eq(None::<DateTime<Utc>>))
            .execute(conn)
            .await?;
        return Ok(None);
    }
    diesel::update(endpoint.filter(webhook_endpoints::failing_since.is_null()))
        .set(webhook_endpoints::failing_since.eq(attempt.time))
        .execute(conn)
        .await?;
    let dead = webhook_endpoints::failing_since.le(report.disable_before);
    let disabled = match attempt.is_gone() {
        true => disable(conn, endpoint.into_boxed(), DisableReason::Gone, *now).await?,
        false => disable(conn, endpoint.filter(dead).into_boxed(), DisableReason::Failing, *now).await?,
    };
    Ok(disabled)
}

/// Makes deliveries due that wait behind a delivery that is settled now.
async fn resume_behind(conn: &mut Conn, delivery: &Delivery, now: DateTime<Utc>) -> Result<(), Error> {
    let behind = webhook_deliveries::table
        .filter(webhook_deliveries::endpoint_id.eq(delivery.endpoint))
        .filter(webhook_deliveries::subject.eq(&delivery.subject))
        .filter(webhook_deliveries::lease.is_null())
        .filter(webhook_deliveries::due_at.gt(now))
        .filter(webhook_deliveries::position.gt(delivery.position));
    diesel::update(behind).set(webhook_deliveries::due_at.eq(now)).execute(conn).await?;
    Ok(())
}

/// Disables an endpoint. Returns the reason if the endpoint was enabled before.
async fn disable(
    conn: &mut Conn,
    endpoint: webhook_endpoints::BoxedQuery<'_, Backend>,
    reason: DisableReason,
    now: DateTime<Utc>,
) -> Result<Option<DisableReason>, Error> {
    let enabled = endpoint.filter(webhook_endpoints::disabled_at.is_null()).select(webhook_endpoints::id);
    let Some(id) = enabled.first::<WebhookEndpointId>(conn).await.optional()? else { return Ok(None) };
    let row = webhook_endpoints::table.find(id).filter(webhook_endpoints::disabled_at.is_null());
    let written = diesel::update(row)
        .set((
            webhook_endpoints::disabled_at.eq(now),
            webhook_endpoints::disable_reason.eq(reason.code()),
            webhook_endpoints::updated_at.eq(now),
            webhook_endpoints::version.eq(webhook_endpoints::version + 1),
        ))
        .execute(conn)
        .await?;
    Ok((written == 1).then_some(reason))
}

/// Releases a lease.
pub(in crate::store) async fn release_delivery(
    conn: &mut Conn,
    id: WebhookDeliveryId,
    lease: i64,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    diesel::update(webhook_deliveries::table.find(id).filter(webhook_deliveries::lease.eq(lease)))
        .set((webhook_deliveries::lease.eq(None::<i64>), webhook_deliveries::due_at.eq(now)))
        .execute(conn)
        .await?;
    Ok(())
}

/// Deletes deliveries older than `before` that will not be tried again.
pub(in crate::store) async fn forget_deliveries(conn: &mut Conn, before: DateTime<Utc>) -> Result<u64, Error> {
    let disabled =
        webhook_endpoints::table.filter(webhook_endpoints::disabled_at.is_not_null()).select(webhook_endpoints::id);
    let idle = webhook_deliveries::due_at.is_null().or(webhook_deliveries::endpoint_id.eq_any(disabled));
    // The key is as old as the delivery, so no index by age is needed.
    let end = WebhookDeliveryId::first_at(before + TimeDelta::milliseconds(1));
    let old = webhook_deliveries::table
        .filter(webhook_deliveries::id.lt(end))
        .filter(webhook_deliveries::created_at.lt(before))
        .filter(idle);
    Ok(diesel::delete(old).execute(conn).await? as u64)
}

/// Adds a delivery to an enabled endpoint.
pub(in crate::store) async fn insert_delivery(conn: &mut Conn, delivery: &Delivery) -> Result<Sent, Error> {
    match endpoint(conn, delivery.endpoint).await? {
        None => return Ok(Sent::NotFound),
        Some(endpoint) if endpoint.disabled.is_some() => return Ok(Sent::Disabled),
        Some(_) => {}
    }
    engine::insert_deliveries(conn, vec![DeliveryRow::of(delivery)?]).await?;
    Ok(Sent::Due(Box::new(delivery.clone())))
}

/// Makes a delivery due, from the start of the schedule. A delivery that is being tried now stays unchanged.
pub(in crate::store) async fn redeliver(
    conn: &mut Conn,
    to: WebhookEndpointId,
    id: WebhookDeliveryId,
    now: DateTime<Utc>,
) -> Result<Sent, Error> {
    match endpoint(conn, to).await? {
        None => return Ok(Sent::NotFound),
        Some(endpoint) if endpoint.disabled.is_some() => return Ok(Sent::Disabled),
        Some(_) => {}
    }
    let idle = webhook_deliveries::table.find(id).filter(webhook_deliveries::endpoint_id.eq(to));
    diesel::update(idle.filter(webhook_deliveries::lease.is_null()))
        .set((
            webhook_deliveries::state.eq(State::Pending.code()),
            webhook_deliveries::tries.eq(0),
            webhook_deliveries::due_at.eq(now),
            webhook_deliveries::settled_at.eq(None::<DateTime<Utc>>),
        ))
        .execute(conn)
        .await?;
    Ok(delivery(conn, to, id).await?.map_or(Sent::NotFound, |delivery| Sent::Due(Box::new(delivery))))
}

/// A delivery.
pub(in crate::store) async fn delivery(
    conn: &mut Conn,
    endpoint: WebhookEndpointId,
    id: WebhookDeliveryId,
) -> Result<Option<Delivery>, Error> {
    let row = webhook_deliveries::table.find(id).filter(webhook_deliveries::endpoint_id.eq(endpoint));
    let row = row.select(DeliveryRow::as_select()).first(conn).await.optional()?;
    row.map(DeliveryRow::read).transpose()
}

/// A page of an endpoint's log, newest first. If no index finds the matching deliveries, a limited number of deliveries is
/// read.
pub(in crate::store) async fn list_deliveries(
    conn: &mut Conn,
    query: &Query,
) -> Result<Scan<Delivery, WebhookDeliveryId>, Error> {
    let Some(states) = query.rare_states() else { return list_part(conn, query, &Part::Any).await };
    let mut parts = Vec::with_capacity(states.len());
    for state in states {
        let part = match state {
            State::Failed => Part::Failed,
            _ => match few_pending(conn, query).await? {
                Some(few) if few.is_empty() => continue,
                Some(few) => Part::Few(few),
                // Then most of the newest deliveries are pending.
                None => Part::Pending,
            },
        };
        parts.push(list_part(conn, query, &part).await?);
    }
    Ok(page::merge(parts, query.limit, true, |delivery: &Delivery| delivery.id))
}

/// A part of an endpoint's log.
enum Part {
    /// Deliveries in any state.
    Any,
    /// Failed deliveries: an index has them in the log's order.
    Failed,
    /// Pending deliveries.
    Pending,
    /// The same, if there are few.
    Few(Vec<WebhookDeliveryId>),
}

/// The pending deliveries of the endpoint, found by the index of due deliveries. `None` if there are too many.
async fn few_pending(conn: &mut Conn, query: &Query) -> Result<Option<Vec<WebhookDeliveryId>>, Error> {
    let pending = webhook_deliveries::table
        .filter(webhook_deliveries::endpoint_id.eq(query.endpoint))
        .filter(webhook_deliveries::due_at.is_not_null())
        .limit(MAX_SCANNED + 1)
        .select(webhook_deliveries::id);
    let found: Vec<WebhookDeliveryId> = pending.load(conn).await?;
    Ok((found.len() as u64 <= MAX_SCANNED.unsigned_abs()).then_some(found))
}

async fn list_part(conn: &mut Conn, query: &Query, part: &Part) -> Result<Scan<Delivery, WebhookDeliveryId>, Error> {
    let is_served = |condition: &Condition| matches!((condition, part), (Condition::State(_), Part::Failed));
    let all_served = query.conditions.iter().all(|(_, condition)| is_served(condition));
    if all_served || query.finds_one() || matches!(part, Part::Few(_)) {
        return read_page(conn, query, part, None).await;
    }
    let mut scan = Scan::all(Vec::new());
    for scanned in page::scans(query.limit, false) {
        // Found before the page is read, so that the page also covers deliveries that are inserted in between.
        let end = end_of_scan(conn, query, part, scanned).await?;
        scan = read_page(conn, query, part, end).await?;
        if scan.is_enough(query.limit) {
            break;
        }
    }
    Ok(scan)
}

/// The deliveries of a page, up to the end of a scan.
async fn read_page(
    conn: &mut Conn,
    query: &Query,
    part: &Part,
    end: Option<WebhookDeliveryId>,
) -> Result<Scan<Delivery, WebhookDeliveryId>, Error> {
    /// A condition that a column equals a value, or differs from it.
    macro_rules! is {
        ($rows:expr, $column:expr, $yes:expr, $value:expr) => {
            if *$yes { $rows.filter($column.eq($value)) } else { $rows.filter($column.ne($value)) }
        };
    }
    let mut rows = within(query, part);
    for (yes, condition) in &query.conditions {
        rows = match condition {
            Condition::State(_) if matches!(part, Part::Failed) => rows,
            Condition::State(state) => is!(rows, webhook_deliveries::state, yes, state.code()),
            Condition::Kind(kind) => is!(rows, webhook_deliveries::kind, yes, kind),
            Condition::Event(event) => is!(rows, webhook_deliveries::event_id, yes, event),
            Condition::Subject(subject) => is!(rows, webhook_deliveries::subject, yes, subject),
        };
    }
    if let Some(end) = end {
        rows = rows.filter(webhook_deliveries::id.ge(end));
    }
    let rows = rows
        .order(webhook_deliveries::id.desc())
        .limit(query.limit)
        .select(DeliveryRow::as_select())
        .load(conn)
        .await?;
    Ok(Scan { rows: rows.into_iter().map(DeliveryRow::read).collect::<Result<_, _>>()?, end })
}

/// The id of the last of so many scanned deliveries; `None` if the log ends before.
async fn end_of_scan(
    conn: &mut Conn,
    query: &Query,
    part: &Part,
    scanned: i64,
) -> Result<Option<WebhookDeliveryId>, Error> {
    let rows = within(query, part).select(webhook_deliveries::id).order(webhook_deliveries::id.desc());
    Ok(rows.offset(scanned - 1).limit(1).first(conn).await.optional()?)
}

/// The part of the endpoint's log, from where the page begins.
fn within<'a>(query: &Query, part: &Part) -> webhook_deliveries::BoxedQuery<'a, Backend> {
    let mut rows =
        webhook_deliveries::table.filter(webhook_deliveries::endpoint_id.eq(query.endpoint)).into_boxed::<Backend>();
    rows = match part {
        // Written as in the index's condition, so that the planner uses the index.
        Part::Failed => rows.filter(sql::<Bool>("webhook_deliveries.state = 'FAILED'")),
        Part::Few(ids) => rows.filter(webhook_deliveries::id.eq_any(ids.clone())),
        Part::Any | Part::Pending => rows,
    };
    if let Some(after) = query.after {
        rows = rows.filter(webhook_deliveries::id.lt(after));
    }
    rows
}
