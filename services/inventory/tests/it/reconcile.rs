//! `ReconcileStock` checks the balances, and corrects those that were changed behind the service's back.

use std::collections::BTreeSet;

use souk_common::error::Reason;
use souk_proto::inventory::v1::{
    ReconcileStockRequest,
    ledger_entry::Reason as LedgerReason,
    reconcile_stock_response::{Drift, Repair},
};

use crate::{
    harness::{Souk, both, order, refused},
    stock::ledger,
    verify::tamper,
};

/// From all pages: the number of balances, and those with drift.
async fn reconcile(souk: &Souk, repair: bool) -> (i32, Vec<Drift>) {
    let mut request = ReconcileStockRequest { page_size: 2, page_token: String::new(), repair };
    let (mut checked, mut drifts) = (0, Vec::new());
    loop {
        let page = souk.stock().reconcile_stock(request.clone()).await.unwrap().into_inner();
        checked += page.checked_count;
        drifts.extend(page.drifts);
        if page.next_page_token.is_empty() {
            return (checked, drifts);
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn correct_balances_are_checked_and_left_unchanged() {
    for souk in both().await {
        assert_eq!(reconcile(&souk, true).await, (0, vec![]), "an empty book");
        let far = souk.location("far", 9).await;
        for number in 0..5 {
            let product = souk.stocked(&format!("P{number}"), 5).await;
            souk.receive(&product, &far, 5).await;
            souk.reserve(&order(), &[(&product, 7)]).await.unwrap();
        }
        assert_eq!(reconcile(&souk, true).await, (10, vec![]));
        let request = ReconcileStockRequest { page_size: 2, ..ReconcileStockRequest::default() };
        let page_token = souk.stock().reconcile_stock(request.clone()).await.unwrap().into_inner().next_page_token;
        let other = ReconcileStockRequest { repair: true, page_token, ..request };
        refused(souk.stock().reconcile_stock(other).await, Reason::PageTokenInvalid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_drift_is_reported_and_corrected() {
    for souk in both().await {
        let mut products = Vec::new();
        for number in 0..5 {
            let product = souk.stocked(&format!("P{number}"), 10).await;
            souk.reserve(&order(), &[(&product, 4)]).await.unwrap();
            products.push(product);
        }
        let sold = order();
        souk.reserve(&sold, &[(&products[0], 1)]).await.unwrap();
        souk.commit(&sold).await.unwrap();
        let of = |sku: &str| format!("product_id = (SELECT id FROM products WHERE sku = '{sku}')");
        for (sku, harm) in [
            ("P0", "UPDATE stock SET on_hand = 12"),
            ("P1", "UPDATE stock SET reserved = 6"),
            // More is reserved than is on hand.
            ("P2", "UPDATE stock SET on_hand = 3, reserved = 2"),
            ("P3", "UPDATE ledger SET quantity = 8, on_hand_after = 8"),
        ] {
            tamper(&souk.database, &format!("{harm} WHERE {}", of(sku))).await;
        }
        let main = souk.main().await;
        let drift = |number: usize, (on_hand, ledger_quantity, reserved, held_quantity): (i64, i64, i64, i64)| Drift {
            product: products[number].clone(),
            location: main.clone(),
            on_hand,
            ledger_quantity,
            reserved,
            held_quantity,
            repair: None,
        };
        let found =
            vec![drift(0, (12, 9, 4, 4)), drift(1, (10, 10, 6, 4)), drift(2, (3, 10, 2, 4)), drift(3, (10, 8, 4, 4))];
        let by_name = |drifts: &[Drift]| -> BTreeSet<String> { drifts.iter().map(|d| format!("{d:?}")).collect() };
        for _ in 0..2 {
            let (checked, drifts) = reconcile(&souk, false).await;
            assert_eq!((checked, by_name(&drifts)), (5, by_name(&found)), "looking changes nothing");
        }

        let (_, drifts) = reconcile(&souk, true).await;
        let mut expected = found;
        for (drift, (on_hand, reserved, entered_quantity)) in
            expected.iter_mut().zip([(12, 4, 3), (10, 4, 0), (4, 4, -6), (10, 4, 2)])
        {
            drift.repair = Some(Repair { on_hand, reserved, entered_quantity });
        }
        assert_eq!(by_name(&drifts), by_name(&expected));
        assert_eq!(reconcile(&souk, false).await, (5, vec![]), "nothing is left to mend");
        souk.verified().await;

        let entry = ledger(&souk, &products[0]).await.remove(0);
        assert_eq!((entry.reason(), entry.quantity, entry.on_hand_after), (LedgerReason::Correction, 3, 12));
        assert_eq!(
            (entry.reference.as_str(), entry.note.as_str()),
            ("reconciliation", "the book said 12, the ledger 9")
        );
        assert!(entry.actor.starts_with("users/usr_"), "{}", entry.actor);
        assert_eq!(ledger(&souk, &products[1]).await.len(), 1, "what is reserved is no matter of the ledger");
        assert_eq!(souk.sums(&products[2]).await, (4, 4, 0));
    }
}
