//! Webhooks: endpoints, and the log of deliveries to them. Only administrators may call these methods, as the contract
//! specifies.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use prost_types::FieldMask;
use serde_json::json;
use souk_common::{
    error::{Problem, Reason},
    ids::{EventId, WebhookDeliveryId, WebhookEndpointId},
    page::{
        self,
        filter::{Field, Kind, Op, Term, Value},
    },
};
use souk_proto::order::v1::{
    CreateWebhookEndpointRequest, DeleteWebhookEndpointRequest, DeleteWebhookEndpointResponse,
    GetWebhookDeliveryRequest, GetWebhookEndpointRequest, ListWebhookDeliveriesRequest, ListWebhookDeliveriesResponse,
    ListWebhookEndpointsRequest, ListWebhookEndpointsResponse, RedeliverWebhookRequest, RotateWebhookSecretRequest,
    SendTestWebhookRequest, UpdateWebhookEndpointRequest, WebhookDelivery, WebhookEndpoint,
    webhook_service_server::WebhookService,
};
use tonic::{Request, Response, Status};

use super::convert;
use crate::{
    domain::{
        delivery::{Delivery, State},
        endpoint::{Change, Endpoint},
    },
    store::{
        now,
        webhooks::{Changed, Condition, Query, Sent, Webhooks as Store},
    },
    webhooks::{address::Policy, settings::Settings},
};

/// The fields that an update may change.
const MUTABLE: [&str; 4] = ["url", "description", "event_types", "disabled"];

const STATES: &[&str] = &["STATE_PENDING", "STATE_DELIVERED", "STATE_FAILED"];

const FIELDS: &[Field] = &[
    Field::new("state", Kind::Enum(STATES)),
    Field::new("event_type", Kind::Text),
    Field::new("event_id", Kind::Text),
    Field::new("subject", Kind::Text),
];

/// Implements the generated trait.
pub(crate) struct WebhookRpc {
    store: Store,
    policy: Policy,
    secret_grace: TimeDelta,
}

impl WebhookRpc {
    /// Creates the RPCs on this store.
    pub(crate) fn new(store: Store, settings: &Settings) -> Self {
        let secret_grace = TimeDelta::from_std(settings.secret_grace).unwrap_or(TimeDelta::days(1));
        Self { store, policy: Policy::new(settings), secret_grace }
    }

    /// Reads the fields that an administrator sets. `wanted` decides which fields are read.
    fn read(&self, given: WebhookEndpoint, wanted: impl Fn(&str, bool) -> bool) -> Result<Change, Problem> {
        let mut change = Change::default();
        if wanted("url", !given.url.is_empty()) {
            let url = self.policy.read(&given.url);
            change.url = Some(url.map_err(|what| Problem::invalid("webhook_endpoint.url", what))?.into());
        }
        if wanted("description", !given.description.is_empty()) {
            change.description = Some(given.description);
        }
        if wanted("event_types", !given.event_types.is_empty()) {
            change.event_types = Some(given.event_types);
        }
        change.disabled = wanted("disabled", given.disabled).then_some(given.disabled);
        Ok(change)
    }
}

#[tonic::async_trait]
impl WebhookService for WebhookRpc {
    async fn create_webhook_endpoint(
        &self,
        request: Request<CreateWebhookEndpointRequest>,
    ) -> Result<Response<WebhookEndpoint>, Status> {
        let given = request.into_inner().webhook_endpoint.unwrap_or_default();
        let Change { url, description, event_types, disabled } = self.read(given, |_, _| true)?;
        let endpoint = Endpoint::new(
            url.unwrap_or_default(),
            description.unwrap_or_default(),
            event_types.unwrap_or_default(),
            disabled.unwrap_or_default(),
            now(),
        );
        self.store.add(&endpoint).await?;
        Ok(Response::new(convert::endpoint_with_secret(&endpoint)))
    }

    async fn get_webhook_endpoint(
        &self,
        request: Request<GetWebhookEndpointRequest>,
    ) -> Result<Response<WebhookEndpoint>, Status> {
        let id = endpoint_id("name", &request.get_ref().name)?;
        let found = self.store.endpoint(id).await?;
        Ok(Response::new(convert::endpoint(&found.ok_or_else(|| Problem::not_found(id.name()))?)))
    }

    async fn list_webhook_endpoints(
        &self,
        request: Request<ListWebhookEndpointsRequest>,
    ) -> Result<Response<ListWebhookEndpointsResponse>, Status> {
        let request = request.into_inner();
        let query = "webhooks.endpoints";
        let size = page::size(request.page_size);
        let after: Option<WebhookEndpointId> = page::decode(&request.page_token, query).map_err(convert::bad_token)?;
        let found = self.store.endpoints(after, size + 1).await?;
        let message = |endpoint| convert::endpoint(&endpoint);
        let (webhook_endpoints, next_page_token) = page::cut(found, size, query, |found| found.id, message);
        Ok(Response::new(ListWebhookEndpointsResponse { webhook_endpoints, next_page_token }))
    }

    async fn update_webhook_endpoint(
        &self,
        request: Request<UpdateWebhookEndpointRequest>,
    ) -> Result<Response<WebhookEndpoint>, Status> {
        let request = request.into_inner();
        let given = request.webhook_endpoint.unwrap_or_default();
        let id = endpoint_id("webhook_endpoint.name", &given.name)?;
        let etag = given.etag.clone();
        let paths = mask(request.update_mask)?;
        let change = self.read(given, |field, set| match paths.is_empty() {
            true => set,
            false => paths.iter().any(|path| path == "*" || path == field),
        })?;
        let changed = self.store.change(id, &etag, &change, now()).await?;
        Ok(Response::new(convert::endpoint(&done(changed, id)?)))
    }

    async fn delete_webhook_endpoint(
        &self,
        request: Request<DeleteWebhookEndpointRequest>,
    ) -> Result<Response<DeleteWebhookEndpointResponse>, Status> {
        let request = request.into_inner();
        let id = endpoint_id("name", &request.name)?;
        done(self.store.remove(id, &request.etag).await?, id)?;
        Ok(Response::new(DeleteWebhookEndpointResponse {}))
    }

    async fn rotate_webhook_secret(
        &self,
        request: Request<RotateWebhookSecretRequest>,
    ) -> Result<Response<WebhookEndpoint>, Status> {
        let request = request.into_inner();
        let id = endpoint_id("name", &request.name)?;
        let now = now();
        let rotated = self.store.rotate(id, &request.etag, now + self.secret_grace, now).await?;
        Ok(Response::new(convert::endpoint_with_secret(&done(rotated, id)?)))
    }

    async fn send_test_webhook(
        &self,
        request: Request<SendTestWebhookRequest>,
    ) -> Result<Response<WebhookDelivery>, Status> {
        let id = endpoint_id("name", &request.get_ref().name)?;
        let delivery = test_delivery(id, now());
        let sent = self.store.send(&delivery).await?;
        Ok(Response::new(convert::delivery(due(sent, &id.name(), id)?)))
    }

    async fn list_webhook_deliveries(
        &self,
        request: Request<ListWebhookDeliveriesRequest>,
    ) -> Result<Response<ListWebhookDeliveriesResponse>, Status> {
        let request = request.into_inner();
        let endpoint = endpoint_id("parent", &request.parent)?;
        let conditions = convert::conditions(&request.filter, FIELDS, condition)?;
        let query = ("webhooks.deliveries", endpoint, &request.filter);
        let size = page::size(request.page_size);
        let after: Option<WebhookDeliveryId> = page::decode(&request.page_token, &query).map_err(convert::bad_token)?;
        let wish = Query { endpoint, conditions, after, limit: size + 1 };
        let found = self.store.log(&wish).await?;
        let found = found.ok_or_else(|| Problem::not_found(endpoint.name()))?;
        let listed = |delivery| WebhookDelivery { body: String::new(), ..convert::delivery(delivery) };
        let (deliveries, next_page_token) = page::cut(found, size, &query, |found| found.id, listed);
        Ok(Response::new(ListWebhookDeliveriesResponse { deliveries, next_page_token }))
    }

    async fn get_webhook_delivery(
        &self,
        request: Request<GetWebhookDeliveryRequest>,
    ) -> Result<Response<WebhookDelivery>, Status> {
        let name = &request.get_ref().name;
        let (endpoint, id) = delivery_id(name)?;
        let found = self.store.delivery(endpoint, id).await?;
        Ok(Response::new(convert::delivery(found.ok_or_else(|| Problem::not_found(name))?)))
    }

    async fn redeliver_webhook(
        &self,
        request: Request<RedeliverWebhookRequest>,
    ) -> Result<Response<WebhookDelivery>, Status> {
        let name = &request.get_ref().name;
        let (endpoint, id) = delivery_id(name)?;
        let sent = self.store.send_again(endpoint, id, now()).await?;
        Ok(Response::new(convert::delivery(due(sent, name, endpoint)?)))
    }
}

fn endpoint_id(field: &str, name: &str) -> Result<WebhookEndpointId, Problem> {
    WebhookEndpointId::parse_name(name).map_err(|error| convert::bad_id(field, &error))
}

fn delivery_id(name: &str) -> Result<(WebhookEndpointId, WebhookDeliveryId), Problem> {
    // The contract has already checked the form of the name.
    let at = name.find("/deliveries/").ok_or_else(|| Problem::invalid("name", "must be that of a delivery"))?;
    let id = WebhookDeliveryId::parse_name(&name[at + 1..]).map_err(|error| convert::bad_id("name", &error))?;
    Ok((endpoint_id("name", &name[..at])?, id))
}

fn mask(mask: Option<FieldMask>) -> Result<Vec<String>, Problem> {
    let paths = mask.unwrap_or_default().paths;
    match paths.iter().find(|path| *path != "*" && !MUTABLE.contains(&path.as_str())) {
        None => Ok(paths),
        Some(path) => {
            let path: String = path.chars().take(40).collect();
            let what = format!("names `{path}`, but may name `{}`, or `*` for all", MUTABLE.join("`, `"));
            Err(Problem::invalid("update_mask", what))
        }
    }
}

fn condition(term: Term) -> Result<(bool, Condition), Problem> {
    let equal = match term.op {
        Op::Equal => true,
        Op::NotEqual => false,
        _ => return Err(Problem::invalid("filter", format!("must compare `{}` by `=` or `!=`", term.field))),
    };
    let condition = match (term.field, term.value) {
        ("state", Value::Enum(name)) => {
            let state = State::from_code(name.trim_start_matches("STATE_"));
            Condition::State(state.map_err(|error| Problem::internal().caused_by(error))?)
        }
        ("event_id", Value::Text(text)) => {
            let id: Result<EventId, _> = text.parse();
            Condition::Event(id.map_err(|error| Problem::invalid("filter", format!("event_id {error}")))?)
        }
        ("event_type", Value::Text(text)) => Condition::Kind(text),
        (_, Value::Text(text)) => Condition::Subject(text),
        (field, value) => return Err(Problem::internal().caused_by(format!("a filter of {field} by {value:?}"))),
    };
    Ok((equal, condition))
}

fn done<T>(changed: Changed<T>, id: WebhookEndpointId) -> Result<T, Problem> {
    match changed {
        Changed::Done(value) => Ok(value),
        Changed::NotFound => Err(Problem::not_found(id.name())),
        Changed::OtherEtag => Err(Problem::etag_mismatch()),
    }
}

fn due(sent: Sent, name: &str, endpoint: WebhookEndpointId) -> Result<Delivery, Problem> {
    match sent {
        Sent::Due(delivery) => Ok(*delivery),
        Sent::NotFound => Err(Problem::not_found(name)),
        Sent::Disabled => {
            let what = "nothing is sent to an endpoint that is disabled: enable it first";
            Err(Problem::new(Reason::StateConflict, what).violation(
                "WEBHOOK_ENDPOINT_DISABLED",
                endpoint.name(),
                "must not be disabled",
            ))
        }
    }
}

fn test_delivery(endpoint: WebhookEndpointId, now: DateTime<Utc>) -> Delivery {
    let (kind, subject) = ("webhook.test".to_owned(), endpoint.name());
    let timestamp = now.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    Delivery {
        id: WebhookDeliveryId::new(),
        endpoint,
        event: EventId::new(),
        body: json!({"type": kind, "timestamp": timestamp, "data": {"webhookEndpoint": subject}}).to_string(),
        kind,
        subject,
        // A test event has no position in the event log, and waits for no other event.
        position: 0,
        state: State::Pending,
        attempt_count: 0,
        tries: 0,
        attempts: Vec::new(),
        last_code: 0,
        due: Some(now),
        create_time: now,
        settle_time: None,
    }
}
