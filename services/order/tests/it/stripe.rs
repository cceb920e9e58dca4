//! Orders paid at Stripe: the real service and `localstripe`, with a proxy in between that breaks connections.

mod faults;
mod manual;
mod peer;
mod webhooks;

use souk_proto::order::v1::order::{State, payment::State as Payment};

use self::peer::{APPROVED, DECLINED, shops};
use crate::harness::{back, draft, gbp, order_for};

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_paid_cancelled_and_returned_at_stripe() {
    for shop in shops(&[]).await {
        let souk = &shop.souk;
        let lantern = souk.stocked("LANTERN", 50).await;
        let order = souk.place(&souk.ada, order_for(&[(&lantern, 3)], APPROVED)).await.unwrap();
        assert_eq!(order.state(), State::Confirmed);
        let payment = order.payment.clone().unwrap();
        assert_eq!((payment.provider.as_str(), payment.state()), ("stripe", Payment::Captured));
        let intent = shop.intent(&payment.reference).await;
        assert_eq!((intent.status.as_str(), intent.amount, intent.currency.as_str()), ("succeeded", 750, "gbp"));

        // A part is returned, then the rest.
        souk.give_back(&souk.staff, back(&order.name, &[(1, 1)])).await.unwrap();
        assert_eq!(shop.refunds(&payment.reference).await, [250]);
        shop.agreed().await;
        let cancelled = souk.cancel(&souk.ada, &order.name, "").await.unwrap();
        assert_eq!((cancelled.state(), cancelled.refunded_total), (State::Cancelled, Some(gbp(7, 500_000_000))));
        assert_eq!(shop.refunds(&payment.reference).await, [250, 500]);

        let whole = souk.place(&souk.ada, order_for(&[(&lantern, 2)], APPROVED)).await.unwrap();
        souk.cancel(&souk.ada, &whole.name, "").await.unwrap();
        assert_eq!(shop.refunds(&whole.payment.unwrap().reference).await, [500]);
        assert_eq!(souk.sums(&lantern).await, (50, 50));
        shop.agreed().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_stripe_declines_are_rejected_and_hold_no_money() {
    for shop in shops(&[]).await {
        let souk = &shop.souk;
        let lantern = souk.stocked("LANTERN", 5).await;
        let asks = shop.card("4000002500003155").await;
        for (token, says) in [
            (DECLINED, "Your card was declined."),
            (&asks, "asks its holder to confirm"),
            ("pm_nobody_knows", "was not accepted"),
            ("tok_approved", "was not accepted"),
        ] {
            let request = order_for(&[(&lantern, 2)], token);
            let order = souk.place(&souk.ada, request.clone()).await.unwrap();
            assert_eq!(order.state(), State::Rejected, "{token}");
            let rejection = order.rejection.clone().unwrap();
            assert_eq!(rejection.reason, "PAYMENT_DECLINED");
            assert!(rejection.message.contains(says), "{token}: {rejection:?}");
            assert!(!rejection.message.contains(token), "{rejection:?}");
            assert_eq!(souk.place(&souk.ada, request).await.unwrap(), order);
        }
        // A Japanese card, because Stripe counts yen without decimals.
        let yen = souk_proto::google::r#type::Money { currency_code: "JPY".into(), units: 1250, nanos: 0 };
        let fan = souk.made(souk_proto::inventory::v1::Product { price: Some(yen), ..draft("FAN") }).await;
        souk.receive(&fan, 1).await;
        let order = souk.place(&souk.ada, order_for(&[(&fan, 1)], APPROVED)).await.unwrap();
        let intent = shop.intent(&order.payment.unwrap().reference).await;
        assert_eq!((intent.amount, intent.currency.as_str()), (1250, "jpy"));
        // Stripe refuses intents of 0, so a free order has none.
        let gift = souk.made(souk_proto::inventory::v1::Product { price: Some(gbp(0, 0)), ..draft("GIFT") }).await;
        souk.receive(&gift, 1).await;
        let order = souk.place(&souk.ada, order_for(&[(&gift, 1)], APPROVED)).await.unwrap();
        assert_eq!((order.state(), order.payment.unwrap().reference.as_str()), (State::Confirmed, ""));
        assert_eq!(souk.sums(&lantern).await, (5, 5));
        shop.agreed().await;
    }
}
