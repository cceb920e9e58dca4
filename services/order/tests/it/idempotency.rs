//! Requests with the same request_id make one order.

use souk_common::error::Reason;
use souk_proto::order::v1::order::State;

use souk_testkit::db::Engine;

use crate::harness::{Running, Souk, back, both, fields, order_for, refused};

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_returns_the_first_response_again() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 5).await;
        let request = order_for(&[(&lantern, 2)], "tok_approved");
        let first = souk.place_raw(&souk.ada, request.clone()).await.unwrap();
        assert_eq!(first.metadata().get("idempotent-replayed"), None);
        let first = first.into_inner();
        // No other service is needed for it.
        souk.link.cut();
        let again = souk.place_raw(&souk.ada, request.clone()).await.unwrap();
        assert_eq!(again.metadata().get("idempotent-replayed").unwrap(), "true");
        assert_eq!(again.into_inner(), first);
        souk.link.restore();
        // The response stays the same, whatever happened to the order later.
        souk.cancel(&souk.ada, &first.name, "").await.unwrap();
        assert_eq!(souk.place(&souk.ada, request.clone()).await.unwrap(), first);
        assert_eq!(souk.all().await.len(), 1);

        // The response of a rejected order is repeated, too.
        let declined = order_for(&[(&lantern, 1)], "tok_declined");
        let first = souk.place(&souk.ada, declined.clone()).await.unwrap();
        assert_eq!(first.state(), State::Rejected);
        assert_eq!(souk.place(&souk.ada, declined).await.unwrap(), first);

        // A key belongs to its caller.
        let bobs = souk.place(&souk.bob, request).await.unwrap();
        assert_eq!(bobs.customer, souk.bob.name);
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_request_under_the_same_key_is_refused() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 5).await;
        let request = order_for(&[(&lantern, 1)], "tok_approved");
        let first = souk.place(&souk.ada, request.clone()).await.unwrap();
        let mut other = request.clone();
        other.items[0].quantity = 2;
        let mut elsewhere = request.clone();
        elsewhere.shipping_address.as_mut().unwrap().locality = "Paris".into();
        let mut paid_otherwise = request;
        paid_otherwise.payment_token = "tok_slow".into();
        for other in [other, elsewhere, paid_otherwise] {
            let problem = refused(souk.place(&souk.ada, other).await, Reason::IdempotencyKeyReused);
            assert_eq!(problem.code(), tonic::Code::InvalidArgument);
            assert_eq!(problem.get_metadata("order"), Some(first.name.as_str()));
            assert_eq!(fields(&problem), ["request_id"]);
        }
        assert_eq!(souk.all().await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_concurrent_requests_with_one_key_make_one_order() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 100).await;
        for token in ["tok_approved", "tok_lost_answer"] {
            let request = order_for(&[(&lantern, 1)], token);
            let race = (0..50).map(|_| souk.place(&souk.ada, request.clone()));
            let mut answers = Vec::new();
            for answer in futures::future::join_all(race).await {
                match answer {
                    Ok(order) => answers.push(order),
                    Err(status) => {
                        let problem = refused(Err::<(), _>(status), Reason::RequestInProgress);
                        assert_eq!(problem.code(), tonic::Code::Aborted);
                        assert!(problem.retry_delay().is_some());
                        assert!(problem.get_metadata("order").is_some());
                    }
                }
            }
            assert!(!answers.is_empty());
            let again = souk.place(&souk.ada, request).await.unwrap();
            assert!(answers.iter().all(|answer| *answer == again));
            assert_eq!(again.state(), State::Confirmed);
        }
        assert_eq!(souk.all().await.len(), 2);
        assert_eq!(souk.sums(&lantern).await, (98, 98));
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_check_leaves_the_key_unused() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 5).await;
        let mut request = order_for(&[("products/prd_00000000000000000000000000", 1)], "tok_approved");
        refused(souk.place(&souk.ada, request.clone()).await, Reason::FieldInvalid);
        request.items[0].product = lantern;
        assert_eq!(souk.place(&souk.ada, request).await.unwrap().state(), State::Confirmed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_return_is_made_once_for_its_key() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 5).await;
        let order = souk.confirmed(&[(&lantern, 3)]).await;
        let request = back(&order.name, &[(1, 1)]);
        let race = (0..20).map(|_| souk.give_back(&souk.staff, request.clone()));
        let mut answers = Vec::new();
        for answer in futures::future::join_all(race).await {
            match answer {
                Ok(answer) => answers.push(answer),
                Err(status) => drop(refused(Err::<(), _>(status), Reason::RequestInProgress)),
            }
        }
        let again = souk.give_back(&souk.staff, request.clone()).await.unwrap();
        assert!(!answers.is_empty() && answers.iter().all(|answer| *answer == again));
        assert_eq!(souk.sums(&lantern).await, (3, 3));
        let mut other = request;
        other.items[0].quantity = 2;
        refused(souk.give_back(&souk.staff, other).await, Reason::IdempotencyKeyReused);
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_make_one_order_of_one_key() {
    let souk = Souk::start(Engine::Postgres, &[]).await;
    let mut replica = Running::start(&souk.config).await;
    let lantern = souk.stocked("LANTERN", 100).await;
    for _ in 0..10 {
        let request = order_for(&[(&lantern, 1)], "tok_approved");
        let (mut one, mut other) = (souk.api(&souk.ada), replica.api(&souk.ada));
        let (one, other) = tokio::join!(one.place_order(request.clone()), other.place_order(request.clone()));
        let again = souk.place(&souk.ada, request).await.unwrap();
        for answer in [one, other] {
            match answer {
                Ok(answer) => assert_eq!(answer.into_inner(), again),
                Err(status) => drop(refused(Err::<(), _>(status), Reason::RequestInProgress)),
            }
        }
    }
    assert_eq!(souk.all().await.len(), 10);
    assert_eq!(souk.sums(&lantern).await, (90, 90));
    replica.stopped().await.unwrap();
    souk.verified().await;
}
