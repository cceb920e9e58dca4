//! Endpoints, as merchants set them up.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use souk_common::ids::WebhookEndpointId;

use super::{
    super::{
        super::Changed,
        Backend, Conn, locked,
        schema::{webhook_deliveries, webhook_endpoints},
    },
    rows::{EndpointRow, read_all},
};
use crate::{domain::endpoint::Endpoint, store::StoreError};

/// Adds an endpoint.
pub(in crate::store::webhooks) async fn add(conn: &mut Conn, endpoint: &Endpoint) -> Result<(), StoreError> {
    diesel::insert_into(webhook_endpoints::table).values(EndpointRow::of(endpoint)?).execute(conn).await?;
    Ok(())
}

/// An endpoint.
pub(in crate::store::webhooks) async fn endpoint(
    conn: &mut Conn,
    id: WebhookEndpointId,
) -> Result<Option<Endpoint>, StoreError> {
    let row = webhook_endpoints::table.find(id).select(EndpointRow::as_select()).first(conn).await.optional()?;
    row.map(EndpointRow::read).transpose()
}

/// An endpoint that has this etag, locked until the transaction ends; any etag will do where it is empty.
pub(in crate::store::webhooks) async fn endpoint_to_change(
    conn: &mut Conn,
    id: WebhookEndpointId,
    etag: &str,
) -> Result<Changed<Endpoint>, StoreError> {
    let row = webhook_endpoints::table.find(id).select(EndpointRow::as_select());
    let row: Option<EndpointRow> = locked!(row).get_result(conn).await.optional()?;
    let Some(endpoint) = row.map(EndpointRow::read).transpose()? else { return Ok(Changed::NotFound) };
    Ok(if etag.is_empty() || etag == endpoint.etag() { Changed::Done(endpoint) } else { Changed::OtherEtag })
}

/// A page of endpoints, oldest first.
pub(in crate::store::webhooks) async fn endpoints(
    conn: &mut Conn,
    after: Option<WebhookEndpointId>,
    limit: i64,
) -> Result<Vec<Endpoint>, StoreError> {
    let mut rows = webhook_endpoints::table.into_boxed::<Backend>();
    if let Some(after) = after {
        rows = rows.filter(webhook_endpoints::id.gt(after));
    }
    let rows = rows.order(webhook_endpoints::id).limit(limit).select(EndpointRow::as_select()).load(conn).await?;
    read_all(rows)
}

/// Writes an endpoint that this transaction has locked.
pub(in crate::store::webhooks) async fn update(conn: &mut Conn, endpoint: &Endpoint) -> Result<(), StoreError> {
    let row = EndpointRow::of(endpoint)?;
    diesel::update(webhook_endpoints::table.find(endpoint.id)).set(row).execute(conn).await?;
    Ok(())
}

/// Lets what waits for an endpoint be tried at once.
pub(in crate::store::webhooks) async fn go_on(
    conn: &mut Conn,
    endpoint: WebhookEndpointId,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let waiting = webhook_deliveries::table
        .filter(webhook_deliveries::endpoint_id.eq(endpoint))
        .filter(webhook_deliveries::lease.is_null())
        .filter(webhook_deliveries::due_at.gt(now));
    diesel::update(waiting).set(webhook_deliveries::due_at.eq(now)).execute(conn).await?;
    Ok(())
}

/// Removes an endpoint with its log.
pub(in crate::store::webhooks) async fn remove(conn: &mut Conn, id: WebhookEndpointId) -> Result<(), StoreError> {
    diesel::delete(webhook_endpoints::table.find(id)).execute(conn).await?;
    Ok(())
}
