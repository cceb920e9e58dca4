//! A cancellation refunds the money and returns the goods to stock, once.

use souk_common::error::Reason;
use souk_proto::order::v1::{
    order::{State, payment::State as PaymentState},
    timeline_entry::Kind,
};

use crate::harness::{back, both, gbp, order_for, refused, untracked};

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_order_returns_its_goods_and_money() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 5).await;
        let postage = souk.made(untracked("POST")).await;
        let order = souk.confirmed(&[(&lantern, 2), (&postage, 1)]).await;
        refused(souk.cancel(&souk.ada, &order.name, "0").await, Reason::EtagMismatch);
        let cancelled = souk.cancel(&souk.ada, &order.name, &order.etag).await.unwrap();
        assert_eq!(cancelled.state(), State::Cancelled);
        assert_eq!(cancelled.refunded_total, order.total);
        let payment = cancelled.payment.clone().unwrap();
        assert_eq!((payment.state(), payment.refunded), (PaymentState::Refunded, order.total.clone()));
        assert!(cancelled.lines.iter().all(|line| line.cancelled_quantity == line.quantity));
        assert_ne!(cancelled.etag, order.etag);
        assert_eq!(souk.sums(&lantern).await, (5, 5));
        let kinds = souk.kinds(&order.name).await;
        let expected = [Kind::CancelRequested, Kind::StockReturned, Kind::PaymentRefunded, Kind::Cancelled];
        assert_eq!(kinds[kinds.len() - 4..], expected);
        // Repeated, even with the etag from before, it has the same response and changes nothing.
        assert_eq!(souk.cancel(&souk.ada, &order.name, &order.etag).await.unwrap(), cancelled);
        assert_eq!(souk.get(&souk.ada, &order.name).await.unwrap(), cancelled);
        assert_eq!(souk.kinds(&order.name).await, kinds);
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_cancellations_refund_once() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 5).await;
        let order = souk.confirmed(&[(&lantern, 2)]).await;
        let race = (0..20).map(|_| souk.cancel(&souk.ada, &order.name, ""));
        for answer in futures::future::join_all(race).await {
            match answer {
                Ok(order) => assert_eq!(order.state(), State::Cancelled),
                Err(status) => drop(refused(Err::<(), _>(status), Reason::RequestInProgress)),
            }
        }
        souk.settled().await;
        assert_eq!(souk.sums(&lantern).await, (5, 5));
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn returned_goods_are_not_refunded_again() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 5).await;
        let order = souk.confirmed(&[(&lantern, 3)]).await;
        souk.give_back(&souk.staff, back(&order.name, &[(1, 1)])).await.unwrap();
        let cancelled = souk.cancel(&souk.staff, &order.name, "").await.unwrap();
        assert_eq!(cancelled.state(), State::Cancelled);
        assert_eq!(cancelled.refunded_total, Some(gbp(7, 500_000_000)));
        assert_eq!(souk.sums(&lantern).await, (5, 5));
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_without_goods_or_money_left_is_cancelled_at_once() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 5).await;
        let order = souk.confirmed(&[(&lantern, 1)]).await;
        souk.give_back(&souk.staff, back(&order.name, &[(1, 1)])).await.unwrap();
        let cancelled = souk.cancel(&souk.ada, &order.name, "").await.unwrap();
        assert_eq!(cancelled.state(), State::Cancelled);
        assert_eq!(souk.sums(&lantern).await, (5, 5));
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_confirmed_orders_can_be_cancelled() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 5).await;
        let rejected = souk.place(&souk.ada, order_for(&[(&lantern, 1)], "tok_declined")).await.unwrap();
        let problem = refused(souk.cancel(&souk.ada, &rejected.name, "").await, Reason::StateConflict);
        assert_eq!(problem.violations()[0].subject, rejected.name);
        // An order that is being placed: the error asks to retry.
        let placing = souk.place(&souk.ada, order_for(&[(&lantern, 1)], "tok_slow"));
        let early = async {
            let name = souk_testkit::wait::value(crate::harness::SOON, "the order to be recorded", async || {
                souk.all().await.into_iter().find(|order| order.state() == State::Pending)
            })
            .await
            .name;
            let problem = refused(souk.cancel(&souk.ada, &name, "").await, Reason::RequestInProgress);
            assert!(problem.retry_delay().is_some());
            refused(souk.give_back(&souk.staff, back(&name, &[(1, 1)])).await, Reason::RequestInProgress);
        };
        let (placed, ()) = tokio::join!(placing, early);
        assert_eq!(placed.unwrap().state(), State::Confirmed);
        souk.verified().await;
    }
}
