//! Webhooks to a receiver that accepts, fails, hangs, redirects, disappears and returns.

mod dead_letters;
mod endpoints;
mod faults;
mod receiver;
mod states;
mod tls;

use std::{path::Path, process::Stdio};

use serde_json::Value;
use souk_proto::order::v1::{
    CreateWebhookEndpointRequest, GetWebhookEndpointRequest, ListWebhookDeliveriesRequest, RedeliverWebhookRequest,
    UpdateWebhookEndpointRequest, WebhookDelivery, WebhookEndpoint, order, webhook_delivery::State,
    webhook_service_client::WebhookServiceClient,
};
use souk_testkit::wait;
use tokio::{io::AsyncWriteExt, process::Command};
use tonic::{Status, service::interceptor::InterceptedService, transport::Channel};

use self::receiver::{Behaviour, Receiver};
use crate::harness::{Bearer, Person, SOON, Souk, both_with, order_for};

/// Short times for tests.
const QUICK: &[(&str, &str)] = &[
    ("WEBHOOKS__INTERVAL", "20ms"),
    ("WEBHOOKS__RETRIES", "200ms,400ms,800ms"),
    ("WEBHOOKS__TIMEOUT", "10s"),
    ("WEBHOOKS__ALLOW_HTTP", "true"),
    ("WEBHOOKS__ALLOW_PRIVATE", "true"),
];

/// The same settings, with these added or replaced.
fn quick_but(settings: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    let kept = QUICK.iter().filter(|(name, _)| settings.iter().all(|(other, _)| other != name));
    kept.chain(settings).copied().collect()
}

type Api = WebhookServiceClient<InterceptedService<Channel, Bearer>>;

impl Souk {
    fn webhooks(&self) -> Api {
        self.webhooks_as(&self.admin)
    }

    fn webhooks_as(&self, who: &Person) -> Api {
        WebhookServiceClient::with_interceptor(self.orders.channel(), who.bearer.clone())
    }

    async fn hook(&self, url: &str, types: &[&str]) -> WebhookEndpoint {
        self.try_hook(url, types).await.unwrap()
    }

    async fn try_hook(&self, url: &str, types: &[&str]) -> Result<WebhookEndpoint, Status> {
        let event_types = types.iter().map(|kind| (*kind).to_owned()).collect();
        let endpoint = WebhookEndpoint { url: url.to_owned(), event_types, ..WebhookEndpoint::default() };
        let request = CreateWebhookEndpointRequest { webhook_endpoint: Some(endpoint) };
        Ok(self.webhooks().create_webhook_endpoint(request).await?.into_inner())
    }

    async fn endpoint(&self, name: &str) -> WebhookEndpoint {
        let request = GetWebhookEndpointRequest { name: name.to_owned() };
        self.webhooks().get_webhook_endpoint(request).await.unwrap().into_inner()
    }

    async fn change(&self, endpoint: WebhookEndpoint, paths: &[&str]) -> Result<WebhookEndpoint, Status> {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let update_mask = Some(prost_types::FieldMask { paths });
        let request = UpdateWebhookEndpointRequest { webhook_endpoint: Some(endpoint), update_mask };
        Ok(self.webhooks().update_webhook_endpoint(request).await?.into_inner())
    }

    async fn enable(&self, name: &str) {
        let endpoint = WebhookEndpoint { name: name.to_owned(), ..WebhookEndpoint::default() };
        assert!(!self.change(endpoint, &["disabled"]).await.unwrap().disabled);
    }

    /// The deliveries of an endpoint, oldest first.
    async fn deliveries(&self, endpoint: &str, filter: &str) -> Vec<WebhookDelivery> {
        let request = ListWebhookDeliveriesRequest {
            parent: endpoint.to_owned(),
            filter: filter.to_owned(),
            ..ListWebhookDeliveriesRequest::default()
        };
        let mut log = self.webhooks().list_webhook_deliveries(request).await.unwrap().into_inner().deliveries;
        log.reverse();
        log
    }

    /// Waits until `count` deliveries of an endpoint are in a state. Returns all of these, oldest first.
    async fn in_state(&self, endpoint: &str, state: State, count: usize) -> Vec<WebhookDelivery> {
        let filter = format!("state = {}", state.as_str_name());
        wait::value(SOON, &format!("{count} deliveries in {}", state.as_str_name()), async || {
            let found = self.deliveries(endpoint, &filter).await;
            (found.len() >= count).then_some(found)
        })
        .await
    }

    async fn redeliver(&self, delivery: &str) -> Result<WebhookDelivery, Status> {
        let request = RedeliverWebhookRequest { name: delivery.to_owned() };
        Ok(self.webhooks().redeliver_webhook(request).await?.into_inner())
    }

    /// Places an order as Ada, which makes two events: placed and confirmed.
    async fn ordered(&self, product: &str) -> String {
        let order = self.place(&self.ada, order_for(&[(product, 1)], "tok_approved")).await.unwrap();
        assert_eq!(order.state(), order::State::Confirmed);
        order.name
    }
}

/// The results of the package `standardwebhooks` for each request: `true`, or why it refuses it.
async fn judged(requests: &[Value]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let found = Command::new(root.join(".ci/tool")).args(["--python", "standardwebhooks"]).output().await.unwrap();
    let told = String::from_utf8(found.stderr).unwrap();
    assert!(found.status.success(), "the package standardwebhooks from PyPI cannot be had: {told}");
    let mut python = Command::new(String::from_utf8(found.stdout).unwrap().trim())
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/webhooks/verify.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let lines: String = requests.iter().map(|request| format!("{request}\n")).collect();
    python.stdin.take().unwrap().write_all(lines.as_bytes()).await.unwrap();
    let said = tokio::time::timeout(SOON, python.wait_with_output()).await.unwrap().unwrap();
    assert!(said.status.success(), "{said:?}");
    let verdicts: Vec<String> = String::from_utf8(said.stdout).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(verdicts.len(), requests.len());
    verdicts
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_posted_in_order_signed_and_logged() {
    for souk in both_with(QUICK).await {
        let lamp = souk.stocked("LAMP", 5).await;
        let (all, some) = (Receiver::start(Behaviour::Take).await, Receiver::start(Behaviour::Take).await);
        let every = souk.hook(&all.url(), &[]).await;
        let confirmed = souk.hook(&some.url(), &["order.confirmed", "order.refunded"]).await;

        let order = souk.confirmed(&[(&lamp, 2)]).await;
        let cancelled = souk.cancel(&souk.ada, &order.name, "").await.unwrap();
        let got = all.after(4).await;
        let kinds: Vec<_> = got.iter().map(receiver::Got::kind).collect();
        assert_eq!(kinds, ["order.placed", "order.confirmed", "order.cancelling", "order.cancelled"]);
        let few = some.after(1).await;
        assert_eq!(few[0].kind(), "order.confirmed");
        assert_eq!((&few[0].id, &few[0].text), (&got[1].id, &got[1].text));

        // In the format of the REST API: 64-bit numbers as text, fields in lowerCamelCase, including empty ones.
        let data = &got[3].body["data"];
        assert_eq!(data["name"], order.name);
        assert_eq!(data["state"], "STATE_CANCELLED");
        assert_eq!(data["lines"][0]["quantity"], "2");
        assert_eq!(data["lines"][0]["unitPrice"]["nanos"], 500_000_000);
        assert_eq!(data["externalId"], "");
        assert_eq!(data["etag"], cancelled.etag);
        assert!(got[3].body["timestamp"].as_str().unwrap().ends_with('Z'));
        assert_eq!(got[0].header("content-type"), "application/json");
        assert!(got[0].header("user-agent").starts_with("souk-webhooks/"));

        let log = souk.in_state(&every.name, State::Delivered, 4).await;
        for (delivery, got) in log.iter().zip(&got) {
            assert_eq!((delivery.event_id.as_str(), delivery.event_type.as_str()), (got.id.as_str(), got.kind()));
            assert_eq!((delivery.subject.as_str(), delivery.attempt_count), (order.name.as_str(), 1));
            assert_eq!((delivery.last_response_code, delivery.attempts[0].response_code), (204, 204));
            assert!(delivery.complete_time.is_some() && delivery.next_attempt_time.is_none());
            assert!(delivery.body.is_empty(), "lists have no bodies");
        }
        let one = souk.deliveries(&every.name, &format!("event_id = {}", got[2].id)).await;
        assert_eq!(one, log[2..3]);
        assert_eq!(souk.deliveries(&every.name, "event_type != order.placed").await, log[1..]);
        assert_eq!(souk.in_state(&confirmed.name, State::Delivered, 1).await.len(), 1);

        // The receivers' own package accepts every request, and refuses changed ones.
        let mut requests: Vec<_> = got.iter().map(|got| got.to_json(&every.secret)).collect();
        requests.extend(few.iter().map(|got| got.to_json(&confirmed.secret)));
        let genuine = requests.len();
        requests.push(got[0].to_json(&confirmed.secret));
        let forged = |change: &dyn Fn(&mut Value)| {
            let mut request = got[0].to_json(&every.secret);
            change(&mut request);
            request
        };
        requests.push(forged(&|request| request["body"] = got[1].text.as_str().into()));
        requests.push(forged(&|request| request["headers"]["webhook-id"] = got[1].id.as_str().into()));
        requests.push(forged(&|request| request["headers"]["webhook-timestamp"] = "1614265330".into()));
        let verdicts = judged(&requests).await;
        assert!(verdicts[..genuine].iter().all(|verdict| verdict == "true"), "{verdicts:?}");
        assert!(verdicts[genuine..].iter().all(|verdict| verdict.starts_with("refused")), "{verdicts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_rotation_both_secrets_are_valid_for_a_time() {
    for souk in both_with(QUICK).await {
        let receiver = Receiver::start(Behaviour::Take).await;
        let old = souk.hook(&receiver.url(), &[]).await;
        assert!(old.secret.starts_with("whsec_") && old.previous_secret_expire_time.is_none());
        let request = souk_proto::order::v1::RotateWebhookSecretRequest { name: old.name.clone(), etag: String::new() };
        let new = souk.webhooks().rotate_webhook_secret(request).await.unwrap().into_inner();
        assert_ne!(new.secret, old.secret);
        assert!(new.previous_secret_expire_time.is_some());
        let shown = souk.endpoint(&old.name).await;
        assert_eq!(shown, WebhookEndpoint { secret: String::new(), ..new.clone() });

        let test = souk_proto::order::v1::SendTestWebhookRequest { name: old.name.clone() };
        let sent = souk.webhooks().send_test_webhook(test).await.unwrap().into_inner();
        let got = receiver.after(1).await.remove(0);
        assert_eq!((got.kind(), &got.id), ("webhook.test", &sent.event_id));
        assert_eq!(got.body["data"]["webhookEndpoint"], old.name);
        assert_eq!(judged(&[got.to_json(&old.secret), got.to_json(&new.secret)]).await, ["true", "true"]);
        souk.in_state(&old.name, State::Delivered, 1).await;
    }
}
