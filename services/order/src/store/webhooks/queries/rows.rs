//! Rows of the tables, and what they are in the domain.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use serde_json::Value;
use souk_common::{
    config::Secret,
    ids::{EventId, WebhookDeliveryId, WebhookEndpointId},
};

use super::super::{
    Backend,
    schema::{webhook_deliveries, webhook_endpoints},
};
use crate::{
    domain::{
        delivery::{Delivery, State},
        endpoint::{DisableReason, Endpoint, Secrets},
    },
    store::StoreError,
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

/// A row of `webhook_deliveries`, save its lease.
#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = webhook_deliveries, check_for_backend(Backend))]
pub(in crate::store::webhooks) struct DeliveryRow {
    pub(super) id: WebhookDeliveryId,
    pub(super) endpoint_id: WebhookEndpointId,
    pub(super) event_id: EventId,
    pub(super) kind: String,
    pub(super) subject: String,
    pub(super) position: i64,
    pub(super) body: String,
    pub(super) state: String,
    pub(super) attempt_count: i32,
    pub(super) tries: i32,
    pub(super) attempts: Value,
    pub(super) last_code: i32,
    pub(super) due_at: Option<DateTime<Utc>>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) settled_at: Option<DateTime<Utc>>,
}

impl EndpointRow {
    pub(super) fn of(endpoint: &Endpoint) -> Result<Self, StoreError> {
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

    pub(super) fn read(self) -> Result<Endpoint, StoreError> {
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

impl DeliveryRow {
    pub(super) fn of(delivery: &Delivery) -> Result<Self, StoreError> {
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

    pub(super) fn read(self) -> Result<Delivery, StoreError> {
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

pub(super) fn read_all(rows: Vec<EndpointRow>) -> Result<Vec<Endpoint>, StoreError> {
    rows.into_iter().map(EndpointRow::read).collect()
}
