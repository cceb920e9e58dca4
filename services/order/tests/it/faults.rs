//! The link to inventory breaks, the service stops, and callers leave. Every order still reaches a final state.

use std::time::Duration;

use souk_common::error::Reason;
use souk_proto::order::v1::{ListSagasRequest, order::State};
use souk_testkit::wait;

use crate::harness::{SOON, back, both, both_with, gbp, order_for, refund, refused};

#[tokio::test(flavor = "multi_thread")]
async fn without_inventory_no_order_is_recorded() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 5).await;
        souk.link.cut();
        let request = order_for(&[(&lantern, 1)], "tok_approved");
        refused(souk.place(&souk.ada, request.clone()).await, Reason::ServiceUnavailable);
        assert_eq!(souk.all().await, []);
        souk.link.restore();
        // After a failed attempt to connect, calls fail at once for a moment.
        wait::until(SOON, "inventory to be called again", async || {
            match souk.place(&souk.ada, request.clone()).await {
                Ok(order) => order.state() == State::Confirmed,
                Err(_) => false,
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_order_continues_when_inventory_is_back() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 5).await;
        let request = order_for(&[(&lantern, 1)], "tok_slow");
        let placing = souk.place(&souk.ada, request.clone());
        let breaking = async {
            let name = souk.paying().await;
            souk.link.cut();
            name
        };
        let (answer, name) = tokio::join!(placing, breaking);
        let problem = refused(answer, Reason::ServiceUnavailable);
        assert_eq!(problem.get_metadata("order"), Some(name.as_str()));
        assert!(problem.retry_delay().is_some());
        assert_eq!(souk.get(&souk.ada, &name).await.unwrap().state(), State::Pending);
        // A repeated request in the meantime is told that the first one is still running.
        let problem = refused(souk.place(&souk.ada, request.clone()).await, Reason::RequestInProgress);
        assert_eq!(problem.get_metadata("order"), Some(name.as_str()));
        souk.link.restore();
        souk.settled().await;
        let order = souk.place(&souk.ada, request).await.unwrap();
        assert_eq!((order.name.as_str(), order.state()), (name.as_str(), State::Confirmed));
        assert_eq!(souk.sums(&lantern).await, (4, 4));
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_responses_change_nothing() {
    for souk in both_with(&[("CLIENTS__INVENTORY__TIMEOUT", "1s")]).await {
        let lantern = souk.stocked("LANTERN", 200).await;
        let faults = async {
            for round in 0..6_u32 {
                tokio::time::sleep(Duration::from_millis(60)).await;
                if round % 2 == 0 {
                    souk.link.cut()
                } else {
                    souk.link.stall()
                }
                tokio::time::sleep(Duration::from_millis(150)).await;
                souk.link.restore();
            }
        };
        let orders = async {
            let tokens = ["tok_approved", "tok_lost_answer", "tok_fails_once", "tok_declined"];
            let place = |index: usize| {
                let request = order_for(&[(&lantern, 2)], tokens[index % 4]);
                let (souk, pause) = (&souk, Duration::from_millis(12 * index as u64));
                async move {
                    // The requests are spread over the time in which the link breaks.
                    tokio::time::sleep(pause).await;
                    (request.clone(), souk.place(&souk.ada, request).await)
                }
            };
            futures::future::join_all((0..80).map(place)).await
        };
        let (answers, ()) = tokio::join!(orders, faults);
        let orders = souk.settled().await;
        let mut acknowledged = 0;
        for (request, answer) in answers {
            if let Ok(answer) = answer {
                acknowledged += 1;
                assert!(orders.contains(&answer), "an acknowledged order was lost");
            }
            let again = souk.place(&souk.ada, request.clone()).await.unwrap();
            let declined = request.payment_token == "tok_declined";
            assert_eq!(again.state() == State::Rejected, declined, "{again:?}");
        }
        assert!(acknowledged < 80, "the faults hit nobody");
        // All requests were repeated at the end: three of four were confirmed, each once.
        let orders = souk.settled().await;
        assert_eq!(orders.len(), 80, "{}", souk.engine);
        assert_eq!(souk.sums(&lantern).await, (200 - 2 * 60, 200 - 2 * 60));
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_leaves_does_not_stop_an_order() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 5).await;
        let request = order_for(&[(&lantern, 1)], "tok_slow");
        let placing = souk.place(&souk.ada, request.clone());
        // The call is dropped, which resets its stream on the connection.
        let name = tokio::select! {
            answer = placing => panic!("too early: {answer:?}"),
            name = souk.paying() => name,
        };
        // Long before the lease expires.
        wait::until(Duration::from_secs(6), "the order to go on", async || {
            souk.get(&souk.ada, &name).await.unwrap().state() == State::Confirmed
        })
        .await;
        let order = souk.place(&souk.ada, request).await.unwrap();
        assert_eq!(order.name, name);
        souk.verified().await;
    }
}

/// Callers leave at any moment, also while the order is being written.
#[tokio::test(flavor = "multi_thread")]
async fn callers_who_leave_at_any_moment_leave_no_order_to_its_lease() {
    for souk in both_with(&[("SAGA__LEASE", "60s")]).await {
        let lantern = souk.stocked("LANTERN", 500).await;
        // Even on a fast machine, some callers leave too early.
        souk.link.delay(Duration::from_millis(20));
        let calls = (0..60_u64).map(|number| {
            let (souk, request) = (&souk, order_for(&[(&lantern, 1)], "tok_approved"));
            async move {
                let call = souk.place(&souk.ada, request);
                let left = tokio::time::timeout(Duration::from_millis(10 * number), call).await.is_err();
                u64::from(left)
            }
        });
        let left: u64 = futures::future::join_all(calls).await.into_iter().sum();
        assert!(left > 5, "all waited for their answers");
        wait::until(SOON, "the recorded orders to be final", async || {
            souk.all().await.iter().all(|order| order.state() == State::Confirmed)
        })
        .await;
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn staff_who_leave_at_any_moment_leave_no_refund_to_its_lease() {
    for souk in both_with(&[("SAGA__LEASE", "60s")]).await {
        let lantern = souk.stocked("LANTERN", 100).await;
        let order = souk.confirmed(&[(&lantern, 100)]).await;
        let calls = (0..60_u64).map(|number| {
            let (souk, request) = (&souk, refund(&order.name, gbp(0, 10_000_000)));
            async move {
                let call = souk.refund(&souk.staff, request);
                let left = tokio::time::timeout(Duration::from_millis(2 * number), call).await.is_err();
                u64::from(left)
            }
        });
        let left: u64 = futures::future::join_all(calls).await.into_iter().sum();
        assert!(left > 5, "all waited for their answers");
        wait::until(SOON, "the recorded orders to be final", async || {
            let unfinished = souk.sagas(&souk.staff).list_sagas(ListSagasRequest::default()).await.unwrap();
            unfinished.into_inner().sagas.is_empty()
        })
        .await;
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_is_met_and_the_order_continues() {
    for souk in both_with(&[("PAYMENT__SLOW_DELAY", "4s")]).await {
        let lantern = souk.stocked("LANTERN", 5).await;
        let message = order_for(&[(&lantern, 1)], "tok_slow");
        let mut request = tonic::Request::new(message.clone());
        request.set_timeout(Duration::from_secs(3));
        let problem = refused(souk.api(&souk.ada).place_order(request).await, Reason::ServiceUnavailable);
        let name = problem.get_metadata("order").unwrap().to_owned();
        souk.settled().await;
        let order = souk.place(&souk.ada, message).await.unwrap();
        assert_eq!((order.name.as_str(), order.state()), (name.as_str(), State::Confirmed));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_during_an_order_loses_nothing() {
    for mut souk in both().await {
        let lantern = souk.stocked("LANTERN", 50).await;
        let mut api = souk.api(&souk.ada);
        let requests: Vec<_> = (0..10).map(|_| order_for(&[(&lantern, 1)], "tok_slow")).collect();
        let placing = requests.iter().cloned().map(|request| {
            let mut api = api.clone();
            tokio::spawn(async move { api.place_order(request).await })
        });
        let placing: Vec<_> = placing.collect();
        wait::until(SOON, "all orders to be recorded", async || souk.all().await.len() == 10).await;
        souk.restart().await;
        api = souk.api(&souk.ada);
        souk.settled().await;
        for (call, request) in placing.into_iter().zip(requests) {
            let again = api.place_order(request).await.unwrap().into_inner();
            assert_eq!(again.state(), State::Confirmed);
            if let Ok(answer) = call.await.unwrap() {
                assert_eq!(answer.into_inner(), again);
            }
        }
        assert_eq!(souk.sums(&lantern).await, (40, 40));
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancellations_and_returns_continue_when_inventory_is_back() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 10).await;
        let one = souk.confirmed(&[(&lantern, 2)]).await;
        let other = souk.confirmed(&[(&lantern, 2)]).await;
        souk.link.cut();
        let problem = refused(souk.cancel(&souk.ada, &one.name, "").await, Reason::ServiceUnavailable);
        assert_eq!(problem.get_metadata("order"), Some(one.name.as_str()));
        assert_eq!(souk.get(&souk.ada, &one.name).await.unwrap().state(), State::Cancelling);
        refused(souk.cancel(&souk.ada, &one.name, "").await, Reason::RequestInProgress);
        let request = back(&other.name, &[(1, 1)]);
        refused(souk.give_back(&souk.staff, request.clone()).await, Reason::ServiceUnavailable);
        refused(souk.give_back(&souk.staff, request.clone()).await, Reason::RequestInProgress);
        // While goods are being returned, the rest cannot be cancelled.
        refused(souk.cancel(&souk.ada, &other.name, "").await, Reason::RequestInProgress);
        souk.link.restore();
        souk.settled().await;
        wait::until(SOON, "the return to be done", async || souk.give_back(&souk.staff, request.clone()).await.is_ok())
            .await;
        let other = souk.cancel(&souk.ada, &other.name, "").await.unwrap();
        assert_eq!(other.state(), State::Cancelled);
        assert_eq!(souk.sums(&lantern).await, (10, 10));
        souk.verified().await;
    }
}
