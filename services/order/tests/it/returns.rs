//! Goods are returned in parts, each with a refund.

use souk_common::error::Reason;
use souk_proto::order::v1::{
    order::{State, payment::State as PaymentState},
    r#return::State as ReturnState,
    timeline_entry::Kind,
};

use crate::harness::{back, both, fields, gbp, order_for, refused, untracked};

#[tokio::test(flavor = "multi_thread")]
async fn goods_are_returned_in_parts() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 10).await;
        let postage = souk.made(untracked("POST")).await;
        let order = souk.confirmed(&[(&lantern, 4), (&postage, 1), (&lantern, 1)]).await;
        assert_eq!(souk.sums(&lantern).await, (5, 5));

        let first = souk.give_back(&souk.staff, back(&order.name, &[(1, 1), (3, 1)])).await.unwrap();
        assert_eq!(first.state(), ReturnState::Completed);
        assert!(first.name.starts_with(&format!("{}/returns/ret_", order.name)), "{}", first.name);
        assert_eq!(first.refund, Some(gbp(5, 0)));
        assert_eq!(first.reason, "broken");
        assert_eq!(souk.sums(&lantern).await, (7, 7));
        let now = souk.get(&souk.ada, &order.name).await.unwrap();
        assert_eq!(now.state(), State::Confirmed);
        assert_eq!(now.refunded_total, Some(gbp(5, 0)));
        assert_eq!(now.payment.as_ref().unwrap().state(), PaymentState::Captured);
        let returned: Vec<_> = now.lines.iter().map(|line| line.returned_quantity).collect();
        assert_eq!(returned, [1, 0, 1]);
        assert_ne!(now.etag, order.etag);

        // More than the remaining pieces: refused with each line, and nothing changes.
        let problem =
            refused(souk.give_back(&souk.staff, back(&order.name, &[(1, 4), (9, 1)])).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["items[0].quantity", "items[1].line_number"]);
        assert!(problem.field_violations()[0].description.contains("at most 3"));
        assert_eq!(souk.get(&souk.ada, &order.name).await.unwrap(), now);

        // Untracked products have only money to return.
        let second = souk.give_back(&souk.staff, back(&order.name, &[(2, 1)])).await.unwrap();
        assert_eq!(second.refund, Some(gbp(2, 500_000_000)));
        let third = souk.give_back(&souk.staff, back(&order.name, &[(1, 2), (1, 1)])).await.unwrap();
        assert_eq!(third.lines.len(), 1);
        assert_eq!(third.lines[0].quantity, 3);
        assert_eq!(souk.sums(&lantern).await, (10, 10));
        let all = souk.get(&souk.ada, &order.name).await.unwrap();
        assert_eq!(all.refunded_total, order.total);
        assert_eq!(all.payment.as_ref().unwrap().state(), PaymentState::Refunded);
        let kinds = souk.kinds(&order.name).await;
        let expected = [Kind::ReturnRequested, Kind::StockReturned, Kind::PaymentRefunded, Kind::ReturnCompleted];
        assert_eq!(kinds[kinds.len() - 4..], expected);
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_returns_never_exceed_the_sold_pieces() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 5).await;
        let order = souk.confirmed(&[(&lantern, 5)]).await;
        let race = (0..10).map(|_| souk.give_back(&souk.staff, back(&order.name, &[(1, 1)])));
        let mut done = 0;
        for answer in futures::future::join_all(race).await {
            match answer {
                Ok(_) => done += 1,
                Err(status) => drop(refused(Err::<(), _>(status), Reason::FieldInvalid)),
            }
        }
        assert_eq!(done, 5, "{}", souk.engine);
        assert_eq!(souk.sums(&lantern).await, (5, 5));
        assert_eq!(souk.get(&souk.ada, &order.name).await.unwrap().refunded_total, order.total);
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn goods_are_returned_only_from_confirmed_orders() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 5).await;
        let rejected = souk.place(&souk.ada, order_for(&[(&lantern, 1)], "tok_declined")).await.unwrap();
        let cancelled = souk.confirmed(&[(&lantern, 1)]).await;
        souk.cancel(&souk.ada, &cancelled.name, "").await.unwrap();
        for (order, state) in [(rejected, "STATE_REJECTED"), (cancelled, "STATE_CANCELLED")] {
            let answer = souk.give_back(&souk.staff, back(&order.name, &[(1, 1)])).await;
            let problem = refused(answer, Reason::StateConflict);
            assert!(problem.violations()[0].description.ends_with(state), "{problem}");
        }
        let mut future = back("orders/ord_00000000000000000000000000", &[(1, 1)]);
        future.return_time = Some(prost_types::Timestamp { seconds: 253_402_300_799, nanos: 0 });
        let problem = refused(souk.give_back(&souk.staff, future).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["return_time"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_concurrent_cancellation_and_return_refund_each_penny_once() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 30).await;
        for _ in 0..5 {
            let order = souk.confirmed(&[(&lantern, 4)]).await;
            let back = souk.give_back(&souk.staff, back(&order.name, &[(1, 1)]));
            let (cancelled, returned) = tokio::join!(souk.cancel(&souk.ada, &order.name, ""), back);
            for refusal in [cancelled.err(), returned.err()].into_iter().flatten() {
                let reason = souk_common::error::Problem::from(refusal).reason();
                assert!(matches!(reason, Reason::RequestInProgress | Reason::StateConflict), "{reason:?}");
            }
        }
        for order in souk.settled().await {
            if order.state() == State::Confirmed {
                souk.cancel(&souk.ada, &order.name, "").await.unwrap();
            }
        }
        assert_eq!(souk.sums(&lantern).await, (30, 30));
        souk.verified().await;
    }
}
