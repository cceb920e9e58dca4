//! Responses of Stripe are lost. Nobody is charged twice or without an order, and no money stays held.

use std::time::Duration;

use futures::future::join_all;
use souk_common::error::Reason;
use souk_proto::order::v1::{CompensateSagaRequest, order::State};
use souk_testkit::wait;

use super::peer::{APPROVED, DECLINED, key_of, shops};
use crate::harness::{SOON, back, order_for, refused};

#[tokio::test(flavor = "multi_thread")]
async fn every_payment_step_takes_effect_once_whichever_response_is_lost() {
    for shop in shops(&[]).await {
        let souk = &shop.souk;
        let lantern = souk.stocked("LANTERN", 50).await;
        for lost in ["POST /v1/payment_intents HTTP", "/confirm HTTP", "/capture HTTP"] {
            shop.line.lose_answer(lost);
            let order = souk.place(&souk.ada, order_for(&[(&lantern, 2)], APPROVED)).await.unwrap();
            assert_eq!(shop.line.to_lose(), 0, "{lost}");
            assert_eq!(order.state(), State::Confirmed, "{lost}");
            let taken = shop.intents_of(&order.name).await.into_iter().filter(|intent| intent.captured).count();
            assert_eq!(taken, 1, "{lost}");
        }
        for lost in ["/confirm HTTP", "/cancel HTTP", "GET /v1/payment_intents/"] {
            shop.line.lose_answer(lost);
            let order = souk.place(&souk.ada, order_for(&[(&lantern, 2)], DECLINED)).await.unwrap();
            assert_eq!(shop.line.to_lose(), 0, "{lost}");
            assert_eq!(order.state(), State::Rejected, "{lost}");
            assert!(order.rejection.unwrap().message.contains("Your card was declined"), "{lost}");
            assert!(shop.intents_of(&order.name).await.iter().all(|intent| intent.status == "canceled"), "{lost}");
        }
        // The stand-in for Stripe has no idempotency keys: it would refund twice.
        let order = souk.place(&souk.ada, order_for(&[(&lantern, 3)], APPROVED)).await.unwrap();
        shop.line.lose_answer("POST /v1/refunds");
        souk.give_back(&souk.staff, back(&order.name, &[(1, 1)])).await.unwrap();
        shop.line.lose_answer("POST /v1/refunds");
        souk.cancel(&souk.ada, &order.name, "").await.unwrap();
        assert_eq!(shop.line.to_lose(), 0);
        assert_eq!(shop.refunds(&order.payment.unwrap().reference).await, [250, 500]);
        shop.agreed().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_rejected_after_a_lost_authorisation_holds_no_money() {
    for shop in shops(&[("SAGA__RESERVATION_TTL", "1s")]).await {
        let souk = &shop.souk;
        let lantern = souk.stocked("LANTERN", 1).await;
        // The money is held. souk learns that only after another customer has reserved the goods.
        let name = shop.unconfirmed(&lantern, 1).await;
        assert_eq!(shop.intents_of(&name).await[0].status, "requires_capture");
        wait::until(SOON, "the goods to be free again", async || souk.sums(&lantern).await.1 == 1).await;
        // The goods are reserved for Bob now, whose payment response is lost, too.
        refused(souk.place(&souk.bob, order_for(&[(&lantern, 1)], APPROVED)).await, Reason::ServiceUnavailable);
        shop.line.restore();
        let orders = souk.settled().await;
        let sold = orders.iter().filter(|order| order.state() == State::Confirmed).count();
        assert_eq!(sold, 1, "{orders:?}");
        for order in orders.iter().filter(|order| order.state() == State::Rejected) {
            let intents = shop.intents_of(&order.name).await;
            assert!(intents.iter().all(|intent| intent.status == "canceled"), "{order:?} {intents:?}");
        }
        shop.agreed().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_repeatedly_charges_nobody_twice() {
    for shop in shops(&[("PAYMENT__STRIPE__TIMEOUT", "1s")]).await {
        let souk = &shop.souk;
        let lantern = souk.stocked("LANTERN", 200).await;
        let faults = async {
            for round in 0..8_u32 {
                tokio::time::sleep(Duration::from_millis(80)).await;
                if round % 2 == 0 {
                    shop.line.cut();
                } else {
                    shop.line.stall();
                }
                tokio::time::sleep(Duration::from_millis(150)).await;
                shop.line.restore();
            }
        };
        let requests: Vec<_> = (0..30)
            .map(|index| order_for(&[(&lantern, 1)], if index % 5 == 4 { DECLINED } else { APPROVED }))
            .collect();
        // Each request is sent twice at the same time.
        let orders = join_all(requests.iter().chain(&requests).enumerate().map(|(index, request)| async move {
            tokio::time::sleep(Duration::from_millis(60 * (index % 30) as u64)).await;
            souk.place(&souk.ada, request.clone()).await
        }));
        let (answers, ()) = tokio::join!(orders, faults);
        assert!(answers.iter().any(Result::is_err), "the faults hit nobody");
        let orders = souk.settled().await;
        assert_eq!(orders.len(), 30);
        for request in requests {
            let declined = request.payment_token == DECLINED;
            let order = souk.place(&souk.ada, request).await.unwrap();
            assert_eq!(order.state() == State::Rejected, declined, "{order:?}");
        }
        assert_eq!(souk.sums(&lantern).await, (200 - 24, 200 - 24));
        shop.agreed().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_authorisations_without_an_order_are_voided() {
    let often = [("PAYMENT__STRIPE__RECONCILE_INTERVAL", "1s"), ("PAYMENT__STRIPE__RECONCILE_AFTER", "1s")];
    for shop in shops(&often).await {
        let souk = &shop.souk;
        let lantern = souk.stocked("LANTERN", 5).await;
        // A running order, whose money stays held.
        let live = shop.unconfirmed(&lantern, 1).await;
        let counted_on = shop.intents_of(&live).await[0].id.clone();
        let hold = async |order: &str, installation: &str| {
            let form = [
                ("amount", "100"),
                ("currency", "gbp"),
                ("payment_method", APPROVED),
                ("capture_method", "manual"),
                ("metadata[souk_order]", order),
                ("metadata[souk_installation]", installation),
            ];
            let id = shop.post("v1/payment_intents", &form).await["id"].as_str().unwrap().to_owned();
            shop.post(&format!("v1/payment_intents/{id}/confirm"), &[]).await;
            assert_eq!(shop.intent(&id).await.status, "requires_capture");
            id
        };
        let of_others = hold(&"0".repeat(32), "another shop").await;
        let of_none = hold(&"0".repeat(32), "souk").await;
        let second = hold(&key_of(&live), "souk").await;
        wait::until(SOON, "the money to be let go", async || {
            let (of_none, second) = (shop.intent(&of_none).await, shop.intent(&second).await);
            of_none.status == "canceled" && second.status == "canceled"
        })
        .await;
        for kept in [&of_others, &counted_on] {
            assert_eq!(shop.intent(kept).await.status, "requires_capture");
        }
        shop.line.restore();
        shop.post(&format!("v1/payment_intents/{of_others}/cancel"), &[]).await;
        assert_eq!(souk.settled().await[0].state(), State::Confirmed);
        shop.agreed().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_order_holds_no_money_in_any_state_of_its_payment() {
    for shop in shops(&[]).await {
        let souk = &shop.souk;
        let lantern = souk.stocked("LANTERN", 5).await;
        // One order whose money is held, and one with an intent at Stripe that souk does not know.
        for (lost, status) in
            [("/confirm HTTP", "requires_capture"), ("POST /v1/payment_intents HTTP", "requires_confirmation")]
        {
            (0..1000).for_each(|_| shop.line.lose_answer(lost));
            refused(souk.place(&souk.ada, order_for(&[(&lantern, 1)], APPROVED)).await, Reason::ServiceUnavailable);
            let pending = souk.all().await.into_iter().find(|order| order.state() == State::Pending).unwrap().name;
            assert!(shop.intents_of(&pending).await.iter().all(|intent| intent.status == status));
            let request = CompensateSagaRequest { name: pending.replace("orders", "sagas"), reason: "called".into() };
            wait::until(SOON, "the order to be abandoned", async || {
                souk.sagas(&souk.staff).compensate_saga(request.clone()).await.is_ok()
            })
            .await;
            shop.line.restore();
            souk.settled().await;
            assert_eq!(souk.get(&souk.ada, &pending).await.unwrap().state(), State::Rejected);
        }
        assert_eq!(souk.sums(&lantern).await, (5, 5));
        shop.agreed().await;
    }
}
