//! Responses other than 2xx: retries, their times, their end, and the state of the endpoint.

use std::time::Duration;

use souk_common::error::Reason;
use souk_proto::order::v1::{webhook_delivery::State, webhook_endpoint::DisableReason};
use souk_testkit::wait;

use super::{
    QUICK, quick_but,
    receiver::{Behaviour, Got, Receiver},
};
use crate::harness::{SOON, both_with, refused};

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_fails_is_tried_by_the_schedule_and_later_manually() {
    for souk in both_with(QUICK).await {
        let lamp = souk.stocked("LAMP", 5).await;
        let receiver = Receiver::start(Behaviour::Fail(500)).await;
        let endpoint = souk.hook(&receiver.url(), &[]).await;
        let order = souk.ordered(&lamp).await;

        let failed = souk.in_state(&endpoint.name, State::Failed, 1).await.remove(0);
        assert_eq!((failed.event_type.as_str(), failed.attempt_count), ("order.placed", 4));
        assert_eq!(failed.last_response_code, 500);
        for attempt in &failed.attempts {
            assert_eq!(attempt.response_code, 500);
            assert_eq!(attempt.error, "answered 500 Internal Server Error");
            assert_eq!(attempt.response_excerpt, "out of  order");
        }
        let got = receiver.got();
        let first: Vec<&Got> = got.iter().take_while(|got| got.kind() == "order.placed").collect();
        assert_eq!(first.len(), 4, "what comes after it about the same order waits");
        assert!(first.iter().all(|got| got.id == failed.event_id && got.order() == order));
        for (pair, pause) in first.windows(2).zip([200, 400, 800]) {
            let apart = pair[1].at - pair[0].at;
            assert!(apart >= Duration::from_millis(pause), "{apart:?} after {pause} ms");
        }
        // Each try has its own time and signature.
        assert!(first[3].header("webhook-timestamp") > first[0].header("webhook-timestamp"));
        assert!(souk.endpoint(&endpoint.name).await.failing_since_time.is_some());

        receiver.answer_by(Behaviour::Take);
        let delivered = souk.in_state(&endpoint.name, State::Delivered, 1).await.remove(0);
        assert_eq!(delivered.event_type, "order.confirmed");
        assert!(souk.endpoint(&endpoint.name).await.failing_since_time.is_none());

        let before = receiver.got().len();
        assert_eq!(souk.redeliver(&failed.name).await.unwrap().state(), State::Pending);
        let again = receiver.after(before + 1).await.pop().unwrap();
        assert_eq!((&again.id, &again.text), (&failed.event_id, &got[0].text));
        let log = souk.in_state(&endpoint.name, State::Delivered, 2).await;
        assert_eq!((log[0].name.as_str(), log[0].attempt_count), (failed.name.as_str(), 5));
        // A completed delivery can be sent again, too.
        souk.redeliver(&delivered.name).await.unwrap();
        let again = receiver.after(before + 2).await.pop().unwrap();
        assert_eq!(again.id, delivered.event_id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_recovers_gets_everything() {
    // Enough tries, so that none fails for good while the orders are placed.
    let pauses = "1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s";
    for souk in both_with(&quick_but(&[("WEBHOOKS__RETRIES", pauses)])).await {
        let lamp = souk.stocked("LAMP", 50).await;
        let receiver = Receiver::start(Behaviour::Fail(503)).await;
        let endpoint = souk.hook(&receiver.url(), &[]).await;
        let mut orders = Vec::new();
        for _ in 0..5 {
            orders.push(souk.ordered(&lamp).await);
        }
        receiver.after(2).await;
        receiver.answer_by(Behaviour::Take);
        let log = souk.in_state(&endpoint.name, State::Delivered, 10).await;
        assert!(log.iter().any(|delivery| delivery.attempt_count > 1));
        for order in orders {
            let kinds = log.iter().filter(|delivery| delivery.subject == order);
            let kinds: Vec<_> = kinds.map(|delivery| delivery.event_type.as_str()).collect();
            assert_eq!(kinds, ["order.placed", "order.confirmed"]);
            let mut seen: Vec<_> = receiver.got().into_iter().filter(|got| got.order() == order).collect();
            seen.dedup_by(|a, b| a.id == b.id);
            assert_eq!(seen.len(), 2, "nothing is told after what came later");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_hangs_is_cut_off_and_delays_no_other() {
    for souk in both_with(&quick_but(&[("WEBHOOKS__TIMEOUT", "700ms")])).await {
        let lamp = souk.stocked("LAMP", 50).await;
        let (dead, well) = (Receiver::start(Behaviour::Hang).await, Receiver::start(Behaviour::Take).await);
        let hanging = souk.hook(&dead.url(), &[]).await;
        souk.hook(&well.url(), &[]).await;
        for _ in 0..10 {
            souk.ordered(&lamp).await;
        }
        well.after(20).await;
        let cut = wait::value(SOON, "a try that was cut off", async || {
            let log = souk.deliveries(&hanging.name, "").await;
            log.into_iter().find_map(|delivery| delivery.attempts.into_iter().next())
        })
        .await;
        assert_eq!((cut.response_code, cut.error.as_str()), (0, "no answer within 700ms"));
        assert!(souk.deliveries(&hanging.name, "state = STATE_DELIVERED").await.is_empty());
        assert!((1..=4).contains(&dead.most_at_a_time()), "{}", dead.most_at_a_time());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_failures_and_a_busy_receiver_gets_longer_pauses() {
    for souk in both_with(QUICK).await {
        let lamp = souk.stocked("LAMP", 5).await;
        let inside = Receiver::start(Behaviour::Take).await;
        let redirecting = Receiver::start(Behaviour::Redirect(inside.url())).await;
        let busy = Receiver::start(Behaviour::Busy).await;
        let endpoint = souk.hook(&redirecting.url(), &["order.placed"]).await;
        souk.hook(&busy.url(), &["order.placed"]).await;
        souk.ordered(&lamp).await;

        let failed = souk.in_state(&endpoint.name, State::Failed, 1).await.remove(0);
        assert_eq!(failed.attempts[0].error, "answered 302 Found: redirects are not followed");
        assert!(inside.got().is_empty());
        let got = busy.after(2).await;
        assert!(got[1].at - got[0].at >= Duration::from_secs(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_responds_gone_gets_nothing_until_it_is_enabled_again() {
    for souk in both_with(QUICK).await {
        let lamp = souk.stocked("LAMP", 5).await;
        let receiver = Receiver::start(Behaviour::Fail(410)).await;
        let endpoint = souk.hook(&receiver.url(), &["order.placed"]).await;
        souk.ordered(&lamp).await;
        let failed = souk.in_state(&endpoint.name, State::Failed, 1).await.remove(0);
        assert_eq!(failed.attempt_count, 1);
        let gone = souk.endpoint(&endpoint.name).await;
        assert_eq!((gone.disabled, gone.disable_reason()), (true, DisableReason::Gone));
        assert!(gone.disable_time.is_some());
        assert_ne!(gone.etag, endpoint.etag);

        receiver.answer_by(Behaviour::Take);
        souk.ordered(&lamp).await;
        refused(souk.redeliver(&failed.name).await, Reason::StateConflict);
        let test = souk_proto::order::v1::SendTestWebhookRequest { name: endpoint.name.clone() };
        refused(souk.webhooks().send_test_webhook(test).await, Reason::StateConflict);

        // Events in the meantime were not sent to it. Another endpoint shows that they were processed.
        let other = Receiver::start(Behaviour::Take).await;
        souk.hook(&other.url(), &["order.placed"]).await;
        let last = souk.ordered(&lamp).await;
        wait::until(SOON, "all of that to be read", async || other.got().iter().any(|got| got.order() == last)).await;
        assert_eq!(receiver.got().len(), 1);
        souk.enable(&endpoint.name).await;
        let order = souk.ordered(&lamp).await;
        let got = receiver.after(2).await;
        assert_eq!((got.len(), got[1].order()), (2, order.as_str()));
        souk.redeliver(&failed.name).await.unwrap();
        assert_eq!(receiver.after(3).await[2].id, failed.event_id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_stays_down_is_disabled_and_gets_its_waiting_events_when_enabled() {
    let pauses = "300ms,300ms,300ms,300ms,300ms,300ms,300ms,300ms,300ms,300ms";
    let short = quick_but(&[("WEBHOOKS__RETRIES", pauses), ("WEBHOOKS__DISABLE_AFTER", "1s")]);
    for souk in both_with(&short).await {
        let lamp = souk.stocked("LAMP", 5).await;
        let receiver = Receiver::start(Behaviour::Fail(500)).await;
        let endpoint = souk.hook(&receiver.url(), &[]).await;
        souk.ordered(&lamp).await;
        let disabled = wait::value(SOON, "the endpoint to be disabled", async || {
            let endpoint = souk.endpoint(&endpoint.name).await;
            endpoint.disabled.then_some(endpoint)
        })
        .await;
        assert_eq!(disabled.disable_reason(), DisableReason::Failing);
        let since = |time: Option<prost_types::Timestamp>| {
            let time = time.unwrap();
            Duration::new(time.seconds.try_into().unwrap(), time.nanos.try_into().unwrap())
        };
        assert!(since(disabled.disable_time) >= since(disabled.failing_since_time) + Duration::from_secs(1));
        let waiting = souk.deliveries(&endpoint.name, "state = STATE_PENDING").await;
        assert_eq!(waiting.len(), 2);

        receiver.answer_by(Behaviour::Take);
        souk.enable(&endpoint.name).await;
        let log = souk.in_state(&endpoint.name, State::Delivered, 2).await;
        assert!(log[0].attempt_count > waiting[0].attempt_count);
        assert!(souk.endpoint(&endpoint.name).await.failing_since_time.is_none());
    }
}
