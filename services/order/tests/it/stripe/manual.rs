//! An operator settles payments at Stripe's own pages or outside of Stripe, while souk cannot reach Stripe.

use serde_json::json;
use souk_common::error::Reason;
use souk_proto::order::v1::{
    CompensateSagaRequest, FinishSagaRequest, Saga,
    order::{State, payment::State as Payment},
};
use souk_testkit::wait;

use super::{
    peer::{APPROVED, Shop, shops},
    webhooks::{Door, event},
};
use crate::{
    harness::{SOON, back, order_for, refused},
    sagas::{list, rested},
};

/// Finishes the only saga once it is stuck at this step.
async fn finished(shop: &Shop, step: &str) -> Saga {
    let souk = &shop.souk;
    let name = wait::value(SOON, "the saga to get nowhere", async || {
        let saga = list(souk, "attempts >= 1").await.pop()?;
        (saga.step == step).then_some(saga.name)
    })
    .await;
    let request = FinishSagaRequest { name, step: step.into(), reason: "bank transfer 4711".into() };
    rested(async || Ok(souk.sagas(&souk.staff).finish_saga(request.clone()).await?.into_inner())).await
}

/// Sends webhooks of every kind about a payment. They must not change its order.
async fn told(shop: &Shop, door: &Door, order: &str, intent: &str) {
    let before = shop.souk.get(&shop.souk.ada, order).await.unwrap();
    for kind in ["succeeded", "payment_failed", "canceled", "amount_capturable_updated"] {
        let event = event(&format!("evt_{intent}_{kind}"), &format!("payment_intent.{kind}"), intent);
        assert_eq!(door.tell(&event).await, (200, json!({})), "{kind}");
    }
    assert_eq!(shop.souk.get(&shop.souk.ada, order).await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_amount_captured_outside_of_stripe_is_soon_voided_at_stripe() {
    let often = [("PAYMENT__STRIPE__RECONCILE_INTERVAL", "1s"), ("PAYMENT__STRIPE__RECONCILE_AFTER", "1s")];
    for shop in shops(&often).await {
        let souk = &shop.souk;
        let door = Door::of(&shop).await;
        let lantern = souk.stocked("LANTERN", 5).await;
        // The money is held. The stock cannot be committed until Stripe is unreachable.
        let name = shop.unconfirmed(&lantern, 2).await;
        souk.link.cut();
        shop.line.restore();
        wait::until(SOON, "the goods to be asked for", async || list(souk, "").await[0].step == "COMMIT").await;
        shop.line.cut();
        souk.link.restore();
        assert_eq!(finished(&shop, "CAPTURE").await.state, "CONFIRMED");
        let intent = shop.intents_of(&name).await[0].id.clone();
        assert_eq!(shop.intent(&intent).await.status, "requires_capture");
        shop.line.restore();
        wait::until(SOON, "the money to be let go", async || shop.intent(&intent).await.status == "canceled").await;
        told(&shop, &door, &name, &intent).await;
        let payment = souk.get(&souk.ada, &name).await.unwrap().payment.unwrap();
        assert_eq!((payment.state(), payment.settled_manually), (Payment::Captured, true));
        // Stripe cannot refund what it never captured.
        refused(souk.give_back(&souk.staff, back(&name, &[(1, 1)])).await, Reason::ServiceUnavailable);
        assert_eq!(finished(&shop, "REFUND").await.state, "COMPLETED");
        assert!(shop.refunds(&intent).await.is_empty());
        assert_eq!(souk.sums(&lantern).await, (4, 4));
        shop.agreed().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_amount_refunded_outside_of_stripe_is_not_refunded_again_by_stripe() {
    for shop in shops(&[]).await {
        let souk = &shop.souk;
        let door = Door::of(&shop).await;
        let lantern = souk.stocked("LANTERN", 50).await;
        let part = souk.place(&souk.ada, order_for(&[(&lantern, 3)], APPROVED)).await.unwrap();
        let whole = souk.place(&souk.ada, order_for(&[(&lantern, 2)], APPROVED)).await.unwrap();
        let intents = [&part, &whole].map(|order| order.payment.clone().unwrap().reference);
        shop.line.cut();
        refused(souk.give_back(&souk.staff, back(&part.name, &[(1, 1)])).await, Reason::ServiceUnavailable);
        assert_eq!(finished(&shop, "REFUND").await.state, "COMPLETED");
        refused(souk.cancel(&souk.ada, &whole.name, "").await, Reason::ServiceUnavailable);
        assert_eq!(finished(&shop, "REFUND").await.state, "CANCELLED");
        shop.line.restore();
        for (order, intent) in [&part, &whole].into_iter().zip(&intents) {
            told(&shop, &door, &order.name, intent).await;
            assert!(shop.refunds(intent).await.is_empty());
        }
        // The next refund is made by Stripe as usual.
        souk.give_back(&souk.staff, back(&part.name, &[(1, 1)])).await.unwrap();
        assert_eq!(shop.refunds(&intents[0]).await, [250]);
        shop.agreed().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorisation_settled_outside_of_stripe_holds_no_money() {
    for shop in shops(&[]).await {
        let souk = &shop.souk;
        let door = Door::of(&shop).await;
        let lantern = souk.stocked("LANTERN", 5).await;
        let name = shop.unconfirmed(&lantern, 1).await;
        shop.line.cut();
        let request = CompensateSagaRequest { name: name.replace("orders", "sagas"), reason: "called".into() };
        wait::until(SOON, "the order to be abandoned", async || {
            // The release of its held money waits for Stripe.
            let problem = souk.sagas(&souk.staff).compensate_saga(request.clone()).await.unwrap_err();
            souk_common::error::Problem::from(problem).reason() == Reason::ServiceUnavailable
        })
        .await;
        assert_eq!(finished(&shop, "VOID").await.state, "REJECTED");
        shop.line.restore();
        let intent = shop.intents_of(&name).await[0].id.clone();
        assert_eq!(shop.intent(&intent).await.status, "requires_capture");
        told(&shop, &door, &name, &intent).await;
        // The webhook made souk check the intent again.
        assert_eq!(shop.intent(&intent).await.status, "canceled");
        let order = souk.get(&souk.ada, &name).await.unwrap();
        assert_eq!((order.state(), order.payment.unwrap().state()), (State::Rejected, Payment::Voided));
        assert_eq!(souk.sums(&lantern).await, (5, 5));
        shop.agreed().await;
    }
}
