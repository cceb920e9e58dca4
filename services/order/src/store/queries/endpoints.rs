//! Webhook endpoints.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::Value;
use souk_common::{config::Secret, ids::WebhookEndpointId};

use super::super::{
    Backend, Conn, locked,
    schema::{webhook_deliveries, webhook_endpoints},
};
use crate::{
    domain::endpoint::{DisableReason, Endpoint, Secrets},
    error::Error,
    store::webhooks::Changed,
};

/// A row of `webhook_endpoints`.
#[derive(Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = webhook_endpoints, check_for_backend(Backend), treat_none_as_null = true)]
pub(super) struct EndpointRow {
    id: WebhookEndpointId,
    url: String,
    description: String,
    event_types: Value,
    secret: String,
    previous_secret: Option<String>,
    previous_secret_until: Option<DateTime<Utc>>,
    disabled_at: Option<DateTime<Utc>>,
    disable_reason: Option<String>,
    failing_since: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    version: i64,
}

impl EndpointRow {
    pub(super) fn of(endpoint: &Endpoint) -> Result<Self, Error> {
        let (previous, until) = endpoint.secrets.previous.clone().unzip();
        Ok(Self {
            id: endpoint.id,
            url: endpoint.url.clone(),
            description: endpoint.description.clone(),
            event_types: serde_json::to_value(&endpoint.event_types)?,
            secret: endpoint.secrets.current.expose().to_owned(),
            previous_secret: previous.map(|secret| secret.expose().to_owned()),
            previous_secret_until: until,
            disabled_at: endpoint.disabled.map(|(at, _)| at),
            disable_reason: endpoint.disabled.map(|(_, reason)| reason.code().to_owned()),
            failing_since: endpoint.failing_since,
            created_at: endpoint.create_time,
            updated_at: endpoint.update_time,
            version: endpoint.version,
        })
    }

    pub(super) fn read(self) -> Result<Endpoint, Error> {
        let reason = self.disable_reason.as_deref().map(DisableReason::from_code).transpose()?;
        Ok(Endpoint {
            id: self.id,
            url: self.url,
            description: self.description,
            event_types: serde_json::from_value(self.event_types)?,
            secrets: Secrets {
                current: Secret::new(self.secret),
                previous: self.previous_secret.map(Secret::new).zip(self.previous_secret_until),
            },
            disabled: self.disabled_at.zip(reason),
            failing_since: self.failing_since,
            create_time: self.created_at,
            update_time: self.updated_at,
            version: self.version,
        })
    }
}

pub(super) fn read_all(rows: Vec<EndpointRow>) -> Result<Vec<Endpoint>, Error> {
    rows.into_iter().map(EndpointRow::read).collect()
}

/// Adds an endpoint.
pub(in crate::store) async fn insert_endpoint(conn: &mut Conn, endpoint: &Endpoint) -> Result<(), Error> {
    diesel::insert_into(webhook_endpoints::table).values(EndpointRow::of(endpoint)?).execute(conn).await?;
    Ok(())
}

/// An endpoint.
pub(in crate::store) async fn endpoint(conn: &mut Conn, id: WebhookEndpointId) -> Result<Option<Endpoint>, Error> {
    let row = webhook_endpoints::table.find(id).select(EndpointRow::as_select()).first(conn).await.optional()?;
    row.map(EndpointRow::read).transpose()
}

/// An endpoint that has this etag, locked until the transaction ends. An empty etag matches any endpoint.
pub(in crate::store) async fn endpoint_to_change(
    conn: &mut Conn,
    id: WebhookEndpointId,
    etag: &str,
) -> Result<Changed<Endpoint>, Error> {
    let row = webhook_endpoints::table.find(id).select(EndpointRow::as_select());
    let row: Option<EndpointRow> = locked!(row).get_result(conn).await.optional()?;
    let Some(endpoint) = row.map(EndpointRow::read).transpose()? else { return Ok(Changed::NotFound) };
    Ok(if etag.is_empty() || etag == endpoint.etag() { Changed::Done(endpoint) } else { Changed::OtherEtag })
}

/// A page of endpoints, oldest first.
pub(in crate::store) async fn endpoints(
    conn: &mut Conn,
    after: Option<WebhookEndpointId>,
    limit: i64,
) -> Result<Vec<Endpoint>, Error> {
    let mut rows = webhook_endpoints::table.into_boxed::<Backend>();
    if let Some(after) = after {
        rows = rows.filter(webhook_endpoints::id.gt(after));
    }
    let rows = rows.order(webhook_endpoints::id).limit(limit).select(EndpointRow::as_select()).load(conn).await?;
    read_all(rows)
}

/// Writes an endpoint that this transaction has locked.
pub(in crate::store) async fn update_endpoint(conn: &mut Conn, endpoint: &Endpoint) -> Result<(), Error> {
    let row = EndpointRow::of(endpoint)?;
    diesel::update(webhook_endpoints::table.find(endpoint.id)).set(row).execute(conn).await?;
    Ok(())
}

/// Makes the deliveries that wait for an endpoint due now.
pub(in crate::store) async fn resume_deliveries(
    conn: &mut Conn,
    endpoint: WebhookEndpointId,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let waiting = webhook_deliveries::table
        .filter(webhook_deliveries::endpoint_id.eq(endpoint))
        .filter(webhook_deliveries::lease.is_null())
        .filter(webhook_deliveries::due_at.gt(now));
    diesel::update(waiting).set(webhook_deliveries::due_at.eq(now)).execute(conn).await?;
    Ok(())
}

/// Deletes an endpoint and its log.
pub(in crate::store) async fn delete_endpoint(conn: &mut Conn, id: WebhookEndpointId) -> Result<(), Error> {
    diesel::delete(webhook_endpoints::table.find(id)).execute(conn).await?;
    Ok(())
}
