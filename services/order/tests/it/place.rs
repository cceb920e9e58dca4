//! Placing orders: prices, payment tokens and stock.

use souk_common::error::Reason;
use souk_proto::{
    google::r#type::Money,
    inventory::v1::{ArchiveProductRequest, Product, UpdateProductRequest},
    order::v1::{
        Order, PlaceOrderRequest,
        order::{State, payment::State as PaymentState},
        timeline_entry::Kind,
    },
};

use crate::harness::{both, both_with, draft, fields, gbp, order_for, refused, untracked};

const CONFIRMED: [Kind; 6] = [
    Kind::Placed,
    Kind::StockReserved,
    Kind::PaymentAuthorized,
    Kind::StockCommitted,
    Kind::PaymentCaptured,
    Kind::Confirmed,
];

fn payment(order: &Order) -> PaymentState {
    order.payment.as_ref().unwrap().state()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_confirmed_at_todays_price() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 10).await;
        let postage = souk.made(untracked("POST")).await;
        let request = order_for(&[(&lantern, 3), (&postage, 1), (&lantern, 1)], "tok_approved");
        let order = souk.place(&souk.ada, request).await.unwrap();
        assert_eq!(order.state(), State::Confirmed);
        assert_eq!(order.customer, souk.ada.name);
        assert_eq!(order.total, Some(gbp(12, 500_000_000)));
        assert_eq!(order.refunded_total, Some(gbp(0, 0)));
        let lines: Vec<_> = order
            .lines
            .iter()
            .map(|line| (line.number, line.sku.as_str(), line.quantity, line.total.clone()))
            .collect();
        let expected = [
            (1, "LANTERN", 3, Some(gbp(7, 500_000_000))),
            (2, "POST", 1, Some(gbp(2, 500_000_000))),
            (3, "LANTERN", 1, Some(gbp(2, 500_000_000))),
        ];
        assert_eq!(lines, expected);
        assert_eq!(order.lines[0].title, "Title of LANTERN");
        assert_eq!(payment(&order), PaymentState::Captured);
        assert_eq!(order.payment.as_ref().unwrap().provider, "simulated");
        assert_eq!(order.place_time, order.create_time);
        assert_eq!(souk.sums(&lantern).await, (6, 6));
        assert_eq!(souk.kinds(&order.name).await, CONFIRMED);
        // The stored order equals the response.
        assert_eq!(souk.get(&souk.ada, &order.name).await.unwrap(), order);

        // A later price does not change it.
        let product = Product { name: lantern.clone(), price: Some(gbp(9, 0)), ..Product::default() };
        let update = UpdateProductRequest { product: Some(product), update_mask: None };
        souk.products().update_product(update).await.unwrap();
        assert_eq!(souk.get(&souk.ada, &order.name).await.unwrap(), order);
        let next = souk.confirmed(&[(&lantern, 1)]).await;
        assert_eq!(next.total, Some(gbp(9, 0)));
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_test_token_has_its_result() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 100).await;
        for token in ["tok_approved", "tok_slow", "tok_fails_once", "tok_lost_answer"] {
            let order = souk.place(&souk.ada, order_for(&[(&lantern, 1)], token)).await.unwrap();
            assert_eq!(order.state(), State::Confirmed, "{token}");
            assert_eq!(payment(&order), PaymentState::Captured, "{token}");
            assert_eq!(souk.kinds(&order.name).await, CONFIRMED, "{token}");
        }
        assert_eq!(souk.sums(&lantern).await, (96, 96));
        for (token, message) in [("tok_declined", "the card was declined"), ("tok_of_nobody", "unknown payment token")]
        {
            let order = souk.place(&souk.ada, order_for(&[(&lantern, 1)], token)).await.unwrap();
            assert_eq!(order.state(), State::Rejected, "{token}");
            let rejection = order.rejection.clone().unwrap();
            assert_eq!((rejection.reason.as_str(), rejection.message.as_str()), ("PAYMENT_DECLINED", message));
            assert_eq!(payment(&order), PaymentState::Declined, "{token}");
            let kinds = [Kind::Placed, Kind::StockReserved, Kind::StockReleased, Kind::Rejected];
            assert_eq!(souk.kinds(&order.name).await, kinds);
        }
        assert_eq!(souk.sums(&lantern).await, (96, 96));
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_out_of_stock_is_rejected_with_the_products() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 5).await;
        let candle = souk.stocked("CANDLE", 1).await;
        // Two lines of one product are added up.
        let request = order_for(&[(&lantern, 3), (&candle, 2), (&lantern, 3)], "tok_approved");
        let order = souk.place(&souk.ada, request).await.unwrap();
        assert_eq!(order.state(), State::Rejected);
        assert_eq!(order.payment, None);
        let rejection = order.rejection.clone().unwrap();
        assert_eq!(rejection.reason, "OUT_OF_STOCK");
        let mut items: Vec<_> =
            rejection.items.iter().map(|item| (item.product.clone(), item.wanted, item.available)).collect();
        items.sort();
        let mut expected = [(lantern.clone(), 6, 5), (candle.clone(), 2, 1)];
        expected.sort();
        assert_eq!(items, expected);
        assert_eq!(souk.kinds(&order.name).await, [Kind::Placed, Kind::Rejected]);
        assert_eq!(souk.sums(&lantern).await, (5, 5));
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn untracked_products_need_no_stock() {
    for souk in both().await {
        let postage = souk.made(untracked("POST")).await;
        // Once the price is known, the inventory service is not called for it.
        let order = souk.confirmed(&[(&postage, 1000)]).await;
        let kinds = [Kind::Placed, Kind::PaymentAuthorized, Kind::PaymentCaptured, Kind::Confirmed];
        assert_eq!(souk.kinds(&order.name).await, kinds);
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn validate_only_responds_as_placing_would_and_writes_nothing() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 3).await;
        let postage = souk.made(untracked("POST")).await;
        let request = order_for(&[(&lantern, 2), (&postage, 1), (&lantern, 1)], "tok_approved");
        let trial = PlaceOrderRequest { validate_only: true, ..request.clone() };
        let would_be = souk.place(&souk.ada, trial.clone()).await.unwrap();
        assert_eq!((would_be.name.as_str(), would_be.state()), ("", State::Confirmed));
        assert_eq!((souk.all().await, souk.sums(&lantern).await), (vec![], (3, 3)));

        // The key was not used up, and the real order equals the validated one.
        let order = souk.place(&souk.ada, request).await.unwrap();
        let foretold = Order { payment: None, name: String::new(), etag: String::new(), ..order.clone() };
        let foretold = Order { place_time: None, create_time: None, update_time: None, ..foretold };
        assert_eq!(would_be, foretold);
        let again = souk.place(&souk.ada, trial).await.unwrap();
        let rejection = again.rejection.clone().unwrap();
        assert_eq!((again.state(), rejection.reason.as_str()), (State::Rejected, "OUT_OF_STOCK"));
        let item = &rejection.items[0];
        assert_eq!((item.product.as_str(), item.wanted, item.available), (lantern.as_str(), 3, 0));

        // A request that fails has the same error when it is validated.
        let nobody = "products/prd_00000000000000000000000000";
        let trial = PlaceOrderRequest { validate_only: true, ..order_for(&[(nobody, 1)], "tok_approved") };
        let problem = refused(souk.place(&souk.ada, trial).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["items[0].product"]);
        let external = PlaceOrderRequest { external_id: "W-1".into(), ..order_for(&[(&postage, 1)], "tok_approved") };
        let trial = PlaceOrderRequest { validate_only: true, request_id: "other".into(), ..external.clone() };
        souk.place(&souk.staff, trial.clone()).await.unwrap();
        souk.place(&souk.staff, external).await.unwrap();
        refused(souk.place(&souk.staff, trial).await, Reason::ResourceExists);
        assert_eq!(souk.all().await.len(), 2);
        souk.verified().await;
    }
}

/// If a price changed after the buyer saw it, the buyer must accept the new total.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_with_another_total_than_expected_is_refused() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 3).await;
        let expecting = |total: Money| PlaceOrderRequest {
            request_id: "basket-1".into(),
            expected_total: Some(total),
            ..order_for(&[(&lantern, 2)], "tok_approved")
        };
        let euros = Money { currency_code: "EUR".into(), ..gbp(5, 0) };
        for wrong in [gbp(4, 990_000_000), gbp(0, 0), euros] {
            for validate_only in [true, false] {
                let request = PlaceOrderRequest { validate_only, ..expecting(wrong.clone()) };
                let problem = refused(souk.place(&souk.ada, request).await, Reason::TotalChanged);
                assert_eq!(problem.code(), tonic::Code::FailedPrecondition);
                assert_eq!(fields(&problem), ["expected_total"]);
                let told = ["currencyCode", "units", "nanos"].map(|key| problem.get_metadata(key).unwrap());
                assert_eq!(told, ["GBP", "5", "0"]);
                assert!(problem.message().contains("5.00 GBP"), "{problem}");
            }
        }
        assert_eq!((souk.all().await, souk.sums(&lantern).await), (vec![], (3, 3)));
        for nonsense in [gbp(-5, 0), gbp(5, 1), Money { currency_code: "nonsense".into(), ..gbp(5, 0) }] {
            let problem = refused(souk.place(&souk.ada, expecting(nonsense)).await, Reason::FieldInvalid);
            assert_eq!(fields(&problem), ["expected_total"]);
        }
        // The request_id was not used up. The same amount may be written in another way.
        let order = souk.place(&souk.ada, expecting(gbp(5, 0))).await.unwrap();
        assert_eq!((order.state(), order.total), (State::Confirmed, Some(gbp(5, 0))));

        // The response is repeated, whatever the goods cost now.
        let dearer = Product { name: lantern.clone(), price: Some(gbp(9, 0)), ..Product::default() };
        let update = UpdateProductRequest { product: Some(dearer), update_mask: None };
        souk.products().update_product(update).await.unwrap();
        assert_eq!(souk.place(&souk.ada, expecting(gbp(5, 0))).await.unwrap().name, order.name);
        let next = PlaceOrderRequest { request_id: "basket-2".into(), ..expecting(gbp(5, 0)) };
        let problem = refused(souk.place(&souk.ada, next).await, Reason::TotalChanged);
        assert_eq!(problem.get_metadata("units"), Some("18"));
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_orders_are_refused_with_every_field() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 5).await;
        let euro = souk
            .made(Product {
                price: Some(souk_proto::google::r#type::Money { currency_code: "EUR".into(), units: 1, nanos: 0 }),
                ..draft("EURO")
            })
            .await;
        let old = souk.stocked("OLD", 1).await;
        let archive = ArchiveProductRequest { name: old.clone(), etag: String::new() };
        souk.products().archive_product(archive).await.unwrap();
        let nobody = "products/prd_00000000000000000000000000";
        let request = order_for(&[(&lantern, 1), (nobody, 1), (&old, 1), (&euro, 1)], "tok_approved");
        let problem = refused(souk.place(&souk.ada, request).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["items[1].product", "items[3].product", "items[2].product"]);
        // If it is the only error, the reason names it.
        let request = order_for(&[(&lantern, 1), (&old, 1)], "tok_approved");
        let problem = refused(souk.place(&souk.ada, request).await, Reason::ProductArchived);
        assert_eq!(fields(&problem), ["items[1].product"]);

        // The rules of the contract.
        let request = order_for(&[(&lantern, 0), ("lantern", 1)], "");
        let problem = refused(souk.place(&souk.ada, request).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["items[0].quantity", "items[1].product", "payment_token"]);

        let mut request = order_for(&[(&lantern, 1)], "tok_approved");
        request.shipping_address.as_mut().unwrap().recipient = "A\0da".into();
        let problem = refused(souk.place(&souk.ada, request).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["shipping_address.recipient"]);

        let mut request = order_for(&[(&lantern, 1)], "tok_approved");
        request.place_time = Some(prost_types::Timestamp { seconds: 253_402_300_799, nanos: 0 });
        let problem = refused(souk.place(&souk.staff, request).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["place_time"]);

        let mut request = order_for(&[(&lantern, 1_000_000)], "tok_approved");
        request.items[0].unit_price = Some(gbp(90_000_000_000_000_000, 0));
        let problem = refused(souk.place(&souk.staff, request).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["items[0].quantity"]);

        assert_eq!(souk.all().await, []);
        assert_eq!(souk.sums(&lantern).await, (5, 5));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn staff_place_for_others_at_agreed_prices_with_a_number_of_their_own() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 5).await;
        let mut request = order_for(&[(&lantern, 2)], "tok_approved");
        request.customer = souk.bob.name.clone();
        request.external_id = "536365".into();
        request.items[0].unit_price = Some(gbp(1, 850_000_000));
        let then = prost_types::Timestamp { seconds: 1_291_191_960, nanos: 0 };
        request.place_time = Some(then);
        let order = souk.place(&souk.staff, request.clone()).await.unwrap();
        assert_eq!(order.customer, souk.bob.name);
        assert_eq!(order.external_id, "536365");
        assert_eq!(order.total, Some(gbp(3, 700_000_000)));
        assert_eq!(order.place_time, Some(then));
        assert!(order.create_time.unwrap().seconds > then.seconds);
        assert_eq!(souk.get(&souk.bob, &order.name).await.unwrap(), order);

        // The number is taken, and nothing of the second order is stored.
        request.request_id = crate::harness::key();
        let problem = refused(souk.place(&souk.staff, request.clone()).await, Reason::ResourceExists);
        assert_eq!(fields(&problem), ["external_id"]);
        assert_eq!(souk.sums(&lantern).await, (3, 3));
        // A failure is not stored: the same key works with another number.
        request.external_id = "536366".into();
        let order = souk.place(&souk.staff, request).await.unwrap();
        assert_eq!(order.state(), State::Confirmed);
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_cannot_be_captured_returns_the_goods() {
    for souk in both_with(&[("PAYMENT__AUTHORIZATION_LIFETIME", "0s")]).await {
        let lantern = souk.stocked("LANTERN", 5).await;
        let order = souk.place(&souk.ada, order_for(&[(&lantern, 2)], "tok_approved")).await.unwrap();
        assert_eq!(order.state(), State::Rejected);
        assert_eq!(order.rejection.as_ref().unwrap().reason, "PAYMENT_DECLINED");
        assert_eq!(payment(&order), PaymentState::Voided);
        let kinds = [
            Kind::Placed,
            Kind::StockReserved,
            Kind::PaymentAuthorized,
            Kind::StockCommitted,
            Kind::StockReturned,
            Kind::PaymentVoided,
            Kind::Rejected,
        ];
        assert_eq!(souk.kinds(&order.name).await, kinds);
        assert_eq!(souk.sums(&lantern).await, (5, 5));
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_reservation_expired_is_confirmed_only_while_there_is_stock() {
    let slow = [("SAGA__RESERVATION_TTL", "1s"), ("PAYMENT__SLOW_DELAY", "3s")];
    for souk in both_with(&slow).await {
        let lantern = souk.stocked("LANTERN", 1).await;
        let order = souk.place(&souk.ada, order_for(&[(&lantern, 1)], "tok_slow")).await.unwrap();
        assert_eq!(order.state(), State::Confirmed);
        assert_eq!(souk.sums(&lantern).await, (0, 0));

        let candle = souk.stocked("CANDLE", 1).await;
        let slow = souk.place(&souk.ada, order_for(&[(&candle, 1)], "tok_slow"));
        let quick = async {
            souk.paying().await;
            // Bob gets the piece as soon as Ada's reservation has expired.
            souk_testkit::wait::value(crate::harness::SOON, "the hold to run out", async || {
                let order = souk.place(&souk.bob, order_for(&[(&candle, 1)], "tok_approved")).await.unwrap();
                (order.state() == State::Confirmed).then_some(order)
            })
            .await
        };
        let (slow, _) = tokio::join!(slow, quick);
        let order = slow.unwrap();
        assert_eq!(order.state(), State::Rejected);
        assert_eq!(order.rejection.as_ref().unwrap().reason, "OUT_OF_STOCK");
        assert_eq!(payment(&order), PaymentState::Voided);
        let kinds = souk.kinds(&order.name).await;
        assert_eq!(kinds[..3], [Kind::Placed, Kind::StockReserved, Kind::PaymentAuthorized]);
        assert_eq!(kinds[3..], [Kind::StockReleased, Kind::PaymentVoided, Kind::Rejected]);
        assert_eq!(souk.sums(&candle).await, (0, 0));
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_orders_sell_each_piece_once() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 10).await;
        let race = (0..40).map(|_| souk.place(&souk.ada, order_for(&[(&lantern, 1)], "tok_approved")));
        for answer in futures::future::join_all(race).await {
            match answer {
                Ok(order) => assert!(matches!(order.state(), State::Confirmed | State::Rejected)),
                // The machine is too busy: the order continues by itself.
                Err(status) => drop(refused(Err::<(), _>(status), Reason::ServiceUnavailable)),
            }
        }
        let orders = souk.settled().await;
        let sold = orders.iter().filter(|order| order.state() == State::Confirmed);
        assert_eq!(sold.count(), 10, "{}", souk.engine);
        assert_eq!(souk.sums(&lantern).await, (0, 0));
        souk.verified().await;
    }
}
