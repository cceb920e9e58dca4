//! Parts of an order are cancelled and refunded. Goods and money add up at each moment.

use souk_common::error::Reason;
use souk_proto::order::v1::{
    CancelOrderRequest, ListRefundsRequest, RefundOrderRequest,
    order::{FulfillmentState, State, payment::State as PaymentState},
    refund::{Cause, State as RefundState},
    timeline_entry::Kind,
};

use crate::harness::{back, both, cancel, fields, gbp, order_for, refund, refused, shipment, untracked};

#[tokio::test(flavor = "multi_thread")]
async fn some_pieces_are_cancelled_and_the_rest_stays() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 10).await;
        let postage = souk.made(untracked("POST")).await;
        let order = souk.confirmed(&[(&lantern, 4), (&postage, 1)]).await;
        let request = cancel(&order.name, &[(1, 1), (1, 1)]);
        let now = souk.cancel_items(&souk.ada, request.clone()).await.unwrap();
        assert_eq!((now.state(), now.fulfillment_state()), (State::Confirmed, FulfillmentState::Unfulfilled));
        assert_eq!(now.refunded_total, Some(gbp(5, 0)));
        assert_eq!((now.lines[0].cancelled_quantity, now.lines[0].returned_quantity), (2, 0));
        assert_eq!(souk.sums(&lantern).await, (8, 8));
        let timeline = souk.timeline(&souk.ada, &order.name).await;
        let last: Vec<_> = timeline[timeline.len() - 4..].iter().map(|entry| entry.kind()).collect();
        let expected = [Kind::ItemsCancelRequested, Kind::StockReturned, Kind::PaymentRefunded, Kind::ItemsCancelled];
        assert_eq!(last, expected);
        let asked = &timeline[timeline.len() - 4];
        assert_eq!((asked.actor.as_str(), asked.detail.as_str()), (souk.ada.name.as_str(), "too many"));

        // The same request again changes nothing. Another request with the same key is refused, and so is a request
        // without a key.
        assert_eq!(souk.cancel_items(&souk.ada, request.clone()).await.unwrap(), now);
        let other = CancelOrderRequest { request_id: request.request_id, ..cancel(&order.name, &[(1, 1)]) };
        refused(souk.cancel_items(&souk.ada, other).await, Reason::IdempotencyKeyReused);
        let keyless = CancelOrderRequest { request_id: String::new(), ..cancel(&order.name, &[(1, 1)]) };
        let problem = refused(souk.cancel_items(&souk.ada, keyless).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["request_id"]);
        let problem =
            refused(souk.cancel_items(&souk.ada, cancel(&order.name, &[(1, 3), (7, 1)])).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["items[0].quantity", "items[1].line_number"]);
        let stale = CancelOrderRequest { etag: order.etag.clone(), ..cancel(&order.name, &[(1, 1)]) };
        refused(souk.cancel_items(&souk.ada, stale).await, Reason::EtagMismatch);
        refused(souk.cancel_items(&souk.bob, cancel(&order.name, &[(1, 1)])).await, Reason::AccessDenied);
        assert_eq!(souk.get(&souk.ada, &order.name).await.unwrap(), now);
        souk.verified().await;

        // All remaining pieces: the order is cancelled once, with any key.
        let rest = cancel(&order.name, &[(1, 2), (2, 1)]);
        let gone = souk.cancel_items(&souk.ada, rest.clone()).await.unwrap();
        assert_eq!((gone.state(), gone.fulfillment_state()), (State::Cancelled, FulfillmentState::NotNeeded));
        assert_eq!(gone.refunded_total, order.total);
        assert_eq!(souk.cancel_items(&souk.ada, rest).await.unwrap(), gone);
        assert_eq!(souk.sums(&lantern).await, (10, 10));
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shipped_pieces_cannot_be_cancelled() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 10).await;
        let order = souk.confirmed(&[(&lantern, 3)]).await;
        souk.ship(&souk.staff, shipment(&order.name, &[(1, 1)])).await.unwrap();
        let problem = refused(souk.cancel(&souk.ada, &order.name, "").await, Reason::OrderShipped);
        assert_eq!(problem.violations()[0].subject, order.name);
        let problem = refused(souk.cancel_items(&souk.ada, cancel(&order.name, &[(1, 3)])).await, Reason::FieldInvalid);
        assert!(problem.field_violations()[0].description.contains("at most 2"), "{problem}");
        // Nothing is left to ship, but the order stays confirmed.
        let now = souk.cancel_items(&souk.ada, cancel(&order.name, &[(1, 2)])).await.unwrap();
        assert_eq!((now.state(), now.fulfillment_state()), (State::Confirmed, FulfillmentState::Shipped));
        assert_eq!(souk.sums(&lantern).await, (9, 9));
        // Shipped pieces can be returned.
        souk.give_back(&souk.staff, back(&order.name, &[(1, 1)])).await.unwrap();
        let now = souk.get(&souk.ada, &order.name).await.unwrap();
        assert_eq!(now.refunded_total, order.total);
        assert_eq!(now.payment.unwrap().state(), PaymentState::Refunded);
        assert_eq!(souk.sums(&lantern).await, (10, 10));
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn money_is_refunded_without_goods_and_never_more_than_was_captured() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 10).await;
        let order = souk.confirmed(&[(&lantern, 4)]).await;
        let request = refund(&order.name, gbp(6, 0));
        let first = souk.refund(&souk.staff, request.clone()).await.unwrap();
        assert_eq!(
            (first.state(), first.cause(), first.amount.clone()),
            (RefundState::Completed, Cause::Refund, Some(gbp(6, 0)))
        );
        assert!(first.name.starts_with(&format!("{}/refunds/rfd_", order.name)), "{}", first.name);
        assert_eq!(souk.refund(&souk.staff, request.clone()).await.unwrap(), first);
        let other = RefundOrderRequest { request_id: request.request_id, ..refund(&order.name, gbp(1, 0)) };
        refused(souk.refund(&souk.staff, other).await, Reason::IdempotencyKeyReused);
        refused(souk.refund(&souk.ada, refund(&order.name, gbp(1, 0))).await, Reason::AccessDenied);
        assert_eq!(souk.sums(&lantern).await, (6, 6));
        let kinds = souk.kinds(&order.name).await;
        assert_eq!(kinds[kinds.len() - 3..], [Kind::RefundRequested, Kind::PaymentRefunded, Kind::RefundCompleted]);

        let mut euro = gbp(1, 0);
        euro.currency_code = "EUR".into();
        for (amount, says) in [(gbp(4, 10_000_000), "at most"), (gbp(0, 0), "above zero"), (euro, "in GBP")] {
            let problem = refused(souk.refund(&souk.staff, refund(&order.name, amount)).await, Reason::FieldInvalid);
            assert_eq!(fields(&problem), ["amount"]);
            assert!(problem.field_violations()[0].description.contains(says), "{problem}");
        }

        // A return refunds the price of the goods, as far as it was not refunded before.
        souk.cancel_items(&souk.ada, cancel(&order.name, &[(1, 1)])).await.unwrap();
        let last = souk.give_back(&souk.staff, back(&order.name, &[(1, 2)])).await.unwrap();
        assert_eq!(last.refund, Some(gbp(1, 500_000_000)));
        let now = souk.get(&souk.ada, &order.name).await.unwrap();
        assert_eq!((now.refunded_total.clone(), now.payment.unwrap().state()), (order.total, PaymentState::Refunded));

        let list = ListRefundsRequest { parent: order.name.clone(), page_size: 2, ..Default::default() };
        let page = souk.api(&souk.ada).list_refunds(list.clone()).await.unwrap().into_inner();
        let rest = ListRefundsRequest { page_token: page.next_page_token, ..list.clone() };
        let rest = souk.api(&souk.ada).list_refunds(rest).await.unwrap().into_inner();
        assert_eq!((page.refunds.len(), rest.refunds.len(), rest.next_page_token.as_str()), (2, 1, ""));
        let causes: Vec<_> = page.refunds.iter().chain(&rest.refunds).map(|refund| refund.cause()).collect();
        assert_eq!(causes, [Cause::Refund, Cause::Cancellation, Cause::Return]);
        assert_eq!(page.refunds[0], first);
        refused(souk.api(&souk.bob).list_refunds(list).await, Reason::AccessDenied);
        souk.verified().await;

        let rejected = souk.place(&souk.ada, order_for(&[(&lantern, 1)], "tok_declined")).await.unwrap();
        refused(souk.refund(&souk.staff, refund(&rejected.name, gbp(1, 0))).await, Reason::StateConflict);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_refunds_never_exceed_the_captured_amount() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 10).await;
        let order = souk.confirmed(&[(&lantern, 2)]).await;
        let race = (0..8).map(|_| souk.refund(&souk.staff, refund(&order.name, gbp(1, 0))));
        let done = futures::future::join_all(race).await.into_iter().filter(Result::is_ok).count();
        assert_eq!(done, 5, "{}", souk.engine);
        assert_eq!(souk.get(&souk.ada, &order.name).await.unwrap().refunded_total, order.total);
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_cancellation_continues_when_inventory_is_back() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 10).await;
        let order = souk.confirmed(&[(&lantern, 2)]).await;
        souk.link.cut();
        let request = cancel(&order.name, &[(1, 1)]);
        refused(souk.cancel_items(&souk.ada, request.clone()).await, Reason::ServiceUnavailable);
        refused(souk.cancel_items(&souk.ada, request.clone()).await, Reason::RequestInProgress);
        // The promises hold in the meantime, too.
        souk.verified().await;
        souk.link.restore();
        souk_testkit::wait::until(crate::harness::SOON, "the cancellation to be done", async || {
            souk.cancel_items(&souk.ada, request.clone()).await.is_ok()
        })
        .await;
        assert_eq!(souk.sums(&lantern).await, (9, 9));
        assert_eq!(souk.get(&souk.ada, &order.name).await.unwrap().refunded_total, Some(gbp(2, 500_000_000)));
        souk.verified().await;
    }
}
