//! Endpoints as administrators manage them, and the addresses that are not allowed.

use souk_common::error::Reason;
use souk_proto::order::v1::{
    DeleteWebhookEndpointRequest, GetWebhookDeliveryRequest, GetWebhookEndpointRequest, ListWebhookDeliveriesRequest,
    ListWebhookEndpointsRequest, WebhookEndpoint, webhook_delivery::State,
};
use souk_testkit::wait;

use super::{
    QUICK,
    receiver::{Behaviour, Receiver},
};
use crate::harness::{SOON, both_with, fields, refused};

/// Only public addresses, but `http://` is allowed.
const STRICT: &[(&str, &str)] = &[
    ("WEBHOOKS__INTERVAL", "20ms"),
    ("WEBHOOKS__RETRIES", "100ms"),
    ("WEBHOOKS__TIMEOUT", "5s"),
    ("WEBHOOKS__ALLOW_HTTP", "true"),
];

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_created_read_changed_and_deleted() {
    for souk in both_with(QUICK).await {
        let mut names = Vec::new();
        for number in 0..3 {
            let made = souk.hook(&format!("https://shop.example/{number}"), &["order.placed"]).await;
            assert_eq!((made.etag.as_str(), made.disabled), ("1", false));
            names.push(made.name);
        }
        let mut listed = Vec::new();
        let mut request = ListWebhookEndpointsRequest { page_size: 2, ..Default::default() };
        loop {
            let page = souk.webhooks().list_webhook_endpoints(request.clone()).await.unwrap().into_inner();
            listed.extend(page.webhook_endpoints);
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(listed.iter().map(|endpoint| &endpoint.name).collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
        assert!(listed.iter().all(|endpoint| endpoint.secret.is_empty()), "a secret is shown once");

        let name = names[0].clone();
        let wish = WebhookEndpoint { name: name.clone(), description: "Till 1".into(), ..Default::default() };
        let changed = souk.change(wish, &[]).await.unwrap();
        assert_eq!((changed.description.as_str(), changed.url.as_str()), ("Till 1", "https://shop.example/0"));
        assert_eq!(changed.event_types, ["order.placed"]);
        let wish = WebhookEndpoint { name: name.clone(), etag: "1".into(), ..Default::default() };
        refused(souk.change(wish.clone(), &["event_types"]).await, Reason::EtagMismatch);
        let wish = WebhookEndpoint { etag: changed.etag, ..wish };
        let changed = souk.change(wish.clone(), &["event_types"]).await.unwrap();
        assert!(changed.event_types.is_empty() && changed.description == "Till 1");
        let problem = refused(souk.change(wish, &["secret"]).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["update_mask"]);

        let stale = DeleteWebhookEndpointRequest { name: name.clone(), etag: "1".into() };
        refused(souk.webhooks().delete_webhook_endpoint(stale).await, Reason::EtagMismatch);
        let removal = DeleteWebhookEndpointRequest { name: name.clone(), etag: String::new() };
        souk.webhooks().delete_webhook_endpoint(removal.clone()).await.unwrap();
        refused(souk.webhooks().delete_webhook_endpoint(removal).await, Reason::ResourceNotFound);
        let log = ListWebhookDeliveriesRequest { parent: name.clone(), ..Default::default() };
        refused(souk.webhooks().list_webhook_deliveries(log).await, Reason::ResourceNotFound);
        refused(
            souk.redeliver(&format!("{name}/deliveries/whd_00000000000000000000000000")).await,
            Reason::ResourceNotFound,
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_administrators_manage_endpoints() {
    for souk in both_with(QUICK).await {
        let endpoint = souk.hook("https://shop.example/", &[]).await;
        for who in [&souk.staff, &souk.ada] {
            let mut api = souk.webhooks_as(who);
            refused(api.list_webhook_endpoints(ListWebhookEndpointsRequest::default()).await, Reason::AccessDenied);
            let request = GetWebhookEndpointRequest { name: endpoint.name.clone() };
            refused(api.get_webhook_endpoint(request).await, Reason::AccessDenied);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_endpoints_are_refused_with_the_valid_values() {
    for souk in both_with(&[]).await {
        for url in [
            "",
            "shop.example",
            "http://shop.example/",
            "ftp://shop.example",
            "https://ada:secret@shop.example/",
            "https://10.0.0.7/",
            "https://[::1]/",
            "https://2130706433/",
        ] {
            let problem = refused(souk.try_hook(url, &[]).await, Reason::FieldInvalid);
            assert_eq!(fields(&problem), ["webhook_endpoint.url"], "{url}");
        }
        let problem = refused(souk.try_hook("https://shop.example/", &["order placed"]).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["webhook_endpoint.event_types[0]"]);
        let endpoint = souk.hook("https://shop.example/", &[]).await;
        for filter in ["event_id = ord_1", "subject : orders", "url = x"] {
            let request = ListWebhookDeliveriesRequest {
                parent: endpoint.name.clone(),
                filter: filter.to_owned(),
                ..Default::default()
            };
            let problem = refused(souk.webhooks().list_webhook_deliveries(request).await, Reason::FieldInvalid);
            assert_eq!(fields(&problem), ["filter"], "{filter}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_into_the_private_network_is_not_followed() {
    for souk in both_with(STRICT).await {
        let lamp = souk.stocked("LAMP", 5).await;
        let receiver = Receiver::start(Behaviour::Take).await;
        refused(souk.try_hook(&receiver.url(), &[]).await, Reason::FieldInvalid);
        // A name is resolved when it is used.
        let endpoint = souk.hook(&format!("http://localhost:{}/", receiver.port), &["order.placed"]).await;
        souk.ordered(&lamp).await;
        let failed = souk.in_state(&endpoint.name, State::Failed, 1).await.remove(0);
        let attempt = &failed.attempts[0];
        assert_eq!((attempt.response_code, failed.attempt_count), (0, 2));
        assert!(attempt.error.contains("localhost has no public address"), "{}", attempt.error);
        assert!(receiver.got().is_empty());

        let whole = GetWebhookDeliveryRequest { name: failed.name.clone() };
        let whole = souk.webhooks().get_webhook_delivery(whole).await.unwrap().into_inner();
        assert!(whole.body.starts_with('{') && whole.body.contains("\"type\":\"order.placed\""), "{}", whole.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_in_an_allowed_private_network_gets_events_while_it_is_allowed() {
    let allowed = [STRICT, &[("WEBHOOKS__ALLOW_NETWORKS", "127.0.0.0/8,::1")]].concat();
    for mut souk in both_with(&allowed).await {
        let lamp = souk.stocked("LAMP", 5).await;
        let receiver = Receiver::start(Behaviour::Take).await;
        let by_number = souk.hook(&receiver.url(), &["order.placed"]).await;
        souk.hook(&format!("http://localhost:{}/", receiver.port), &["order.placed"]).await;
        refused(souk.try_hook("http://10.0.0.7/", &[]).await, Reason::FieldInvalid);
        souk.ordered(&lamp).await;
        receiver.after(2).await;

        souk.config.settings.webhooks.allow_networks.clear();
        souk.restart().await;
        souk.ordered(&lamp).await;
        wait::until(SOON, "the try to be refused", async || {
            let log = souk.deliveries(&by_number.name, "state = STATE_FAILED").await;
            log.iter().any(|delivery| delivery.attempts[0].error.contains("must be a public address"))
        })
        .await;
        assert_eq!(receiver.got().len(), 2);
    }
}
