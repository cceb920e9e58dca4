//! The service stops between an event and its delivery, several replicas deliver, or time passes. Nothing is lost too
//! early.

use std::collections::{BTreeSet, HashMap};

use souk_proto::{
    common::v1::RunJobRequest,
    order::v1::{WebhookEndpoint, job_service_client::JobServiceClient, webhook_delivery::State},
};
use souk_testkit::{db::Engine, wait};

use super::{
    QUICK, quick_but,
    receiver::{Behaviour, Receiver},
};
use crate::{
    harness::{Running, SOON, Souk, both_with},
    verify::tamper,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_service_resumes_where_it_stopped() {
    // Long pauses, so that deliveries that were interrupted by the stop are not retried by the schedule.
    let slow = quick_but(&[("WEBHOOKS__RETRIES", "1h"), ("WEBHOOKS__TIMEOUT", "60s")]);
    for mut souk in both_with(&slow).await {
        let lamp = souk.stocked("LAMP", 5).await;
        let receiver = Receiver::start(Behaviour::Hang).await;
        let endpoint = souk.hook(&receiver.url(), &[]).await;
        souk.ordered(&lamp).await;
        receiver.after(1).await;
        receiver.answer_by(Behaviour::Take);
        souk.restart().await;
        let log = souk.in_state(&endpoint.name, State::Delivered, 2).await;
        assert_eq!(log[0].attempt_count, 1, "a try that was broken off is none: {:?}", log[0].attempts);
        let ids: BTreeSet<_> = receiver.got().into_iter().map(|got| got.id).collect();
        assert_eq!(ids, log.into_iter().map(|delivery| delivery.event_id).collect());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_killed_between_events_and_deliveries_loses_nothing() {
    const ROUNDS: usize = 4;
    const ORDERS: usize = 4;
    let quick = quick_but(&[("WEBHOOKS__TIMEOUT", "200ms")]);
    for mut souk in both_with(&quick).await {
        let lamp = souk.stocked("LAMP", 100).await;
        let receiver = Receiver::start(Behaviour::Take).await;
        let endpoint = souk.hook(&receiver.url(), &[]).await;
        souk.orders.stopped().await.unwrap();
        let mut placed = Vec::new();
        for round in 0..ROUNDS {
            let (orders, runtime) = Running::apart(&souk.config).await;
            souk.orders = orders;
            souk.ready().await;
            receiver.answer_by(if round % 2 == 0 { Behaviour::Hang } else { Behaviour::Take });
            for _ in 0..ORDERS {
                placed.push(souk.ordered(&lamp).await);
            }
            // The service stops at once: some events are not even recorded as deliveries, others are being sent.
            runtime.shutdown_background();
        }
        receiver.answer_by(Behaviour::Take);
        souk.orders = Running::start(&souk.config).await;
        souk.ready().await;
        // Deliveries of a replica that died are retried when its lease expires.
        wait::until(2 * SOON, "every event to be delivered", async || {
            let pending = souk.deliveries(&endpoint.name, "state = STATE_PENDING").await.len();
            pending == 0 && souk.deliveries(&endpoint.name, "").await.len() == 2 * placed.len()
        })
        .await;
        let mut seen = HashMap::<String, BTreeSet<(String, String)>>::new();
        for got in receiver.got() {
            seen.entry(got.order().to_owned()).or_default().insert((got.kind().to_owned(), got.id));
        }
        for order in &placed {
            let kinds: Vec<_> = seen[order].iter().map(|(kind, _)| kind.as_str()).collect();
            assert_eq!(kinds, ["order.confirmed", "order.placed"], "{}: one id for each event", souk.engine);
        }
        assert_eq!(seen.len(), placed.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_share_the_work_and_repeat_nothing() {
    const ORDERS: usize = 10;
    let souk = Souk::start(Engine::Postgres, QUICK).await;
    let mut second = Running::start(&souk.config).await;
    let lamp = souk.stocked("LAMP", 100).await;
    let receiver = Receiver::start(Behaviour::Take).await;
    let endpoint = souk.hook(&receiver.url(), &[]).await;
    let mut orders = Vec::new();
    for _ in 0..ORDERS {
        orders.push(souk.ordered(&lamp).await);
    }
    let log = souk.in_state(&endpoint.name, State::Delivered, 2 * ORDERS).await;
    assert!(log.iter().all(|delivery| delivery.attempt_count == 1));
    let got = receiver.got();
    assert_eq!(got.len(), 2 * ORDERS);
    for order in &orders {
        let kinds: Vec<_> = got.iter().filter(|got| got.order() == order).map(|got| got.kind()).collect();
        assert_eq!(kinds, ["order.placed", "order.confirmed"]);
    }
    second.stopped().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_deletes_old_processed_events() {
    for souk in both_with(&quick_but(&[("WEBHOOKS__RETRIES", "1h")])).await {
        let lamp = souk.stocked("LAMP", 5).await;
        let (taking, failing) = (Receiver::start(Behaviour::Take).await, Receiver::start(Behaviour::Fail(500)).await);
        let (done, waiting) = (souk.hook(&taking.url(), &[]).await, souk.hook(&failing.url(), &[]).await);
        souk.ordered(&lamp).await;
        souk.in_state(&done.name, State::Delivered, 2).await;
        failing.after(1).await;
        let old = souk.deliveries(&done.name, "event_type = order.placed").await.remove(0).event_id;
        // An id begins with the time of its creation.
        let old_id = match souk.engine {
            Engine::Postgres => "CAST('00000000' || substr(CAST(id AS text), 9) AS uuid)",
            Engine::Sqlite => "unhex('00000000' || substr(hex(id), 9))",
        };
        let age = format!(
            "UPDATE webhook_deliveries SET id = {old_id}, created_at = '2020-01-01 00:00:00+00:00'
             WHERE kind = 'order.placed'"
        );
        tamper(&souk, &age).await;
        let mut jobs = JobServiceClient::with_interceptor(souk.orders.channel(), souk.admin.bearer.clone());
        let mut forgotten = async |endpoint: &str, left: usize| {
            let request = RunJobRequest { name: "services/order/jobs/webhook-cleanup".into() };
            jobs.run_job(request).await.unwrap();
            wait::until(SOON, "old deliveries to be forgotten", async || {
                souk.deliveries(endpoint, "").await.len() == left
            })
            .await;
        };
        forgotten(&done.name, 1).await;
        assert_ne!(souk.deliveries(&done.name, "").await[0].event_id, old);
        assert_eq!(souk.deliveries(&waiting.name, "").await.len(), 2, "what is tried again is kept");
        let off = WebhookEndpoint { name: waiting.name.clone(), disabled: true, ..WebhookEndpoint::default() };
        souk.change(off, &["disabled"]).await.unwrap();
        forgotten(&waiting.name, 1).await;
    }
}
