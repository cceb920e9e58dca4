//! Tests of stock and its ledger.

use souk_common::{
    error::Reason,
    ids::{LocationId, ProductId},
};
use souk_proto::inventory::v1::{
    AdjustStockRequest, AdjustStockResponse, ArchiveProductRequest, GetAvailabilityRequest, GetStockRequest,
    LedgerEntry, ListLedgerEntriesRequest, Product, WatchStockRequest, ledger_entry::Reason as LedgerReason,
};
use tonic::Status;

use crate::harness::{Souk, adjustment, adjustments, both, draft, fields, item, key, order, refused, untracked};

async fn adjust(souk: &Souk, request: AdjustStockRequest) -> Result<AdjustStockResponse, Status> {
    Ok(souk.stock().adjust_stock(request).await?.into_inner())
}

pub async fn ledger(souk: &Souk, product: &str) -> Vec<LedgerEntry> {
    let mut request = ListLedgerEntriesRequest { parent: product.to_owned(), page_size: 2, ..Default::default() };
    let mut entries = Vec::new();
    loop {
        let page = souk.stock().list_ledger_entries(request.clone()).await.unwrap().into_inner();
        entries.extend(page.ledger_entries);
        if page.next_page_token.is_empty() {
            return entries;
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_changes_as_requested_and_the_ledger_has_the_reason() {
    for souk in both().await {
        let (a, b) = (souk.product("A").await, souk.product("B").await);
        let near = souk.location("near", -1).await;
        let request = adjustments("k", vec![item(&a, "", 5), item(&b, "", 2), item(&a, &near, -1)]);
        let levels = adjust(&souk, request.clone()).await.unwrap().levels;
        let told: Vec<_> = levels.iter().map(|level| (&level.product, &level.location, level.on_hand)).collect();
        assert_eq!(told, [(&a, &near, 4), (&b, &near, 2), (&a, &near, 4)], "near comes first by priority");
        assert_eq!(souk.levels(&a).await, [levels[0].clone()]);
        souk.receive(&a, "", 3).await;

        let entries = ledger(&souk, &a).await;
        let told: Vec<_> = entries.iter().map(|entry| (entry.quantity, entry.on_hand_after)).collect();
        assert_eq!(told, [(3, 7), (-1, 4), (5, 5)], "newest first");
        let first = &entries[2];
        assert!(first.name.starts_with(&format!("{a}/ledgerEntries/led_")), "{}", first.name);
        assert!(first.actor.starts_with("users/usr_") && first.create_time.is_some());
        assert_eq!((first.reason(), first.reference.as_str()), (LedgerReason::Receipt, "delivery 7"));
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_change_leaves_everything_unchanged() {
    for souk in both().await {
        let (a, b) = (souk.stocked("A", 5).await, souk.stocked("B", 5).await);
        let post = souk.made(untracked("POST")).await.name;
        souk.reserve(&order(), &[(&a, 3)]).await.unwrap();
        let try_it = |items| adjust(&souk, adjustments(&key(), items));

        let below = refused(try_it(vec![item(&b, "", 1), item(&a, "", -3)]).await, Reason::OutOfStock);
        assert_eq!(fields(&below), ["items[1].quantity"]);
        let violation = &below.violations()[0];
        assert_eq!((violation.subject.as_str(), violation.kind.as_str()), (a.as_str(), "OUT_OF_STOCK"));
        assert_eq!(violation.description, "-3 would leave 2 of the 5 on hand, of which 3 are reserved");
        let none = refused(try_it(vec![item(&post, "", 1)]).await, Reason::StateConflict);
        assert_eq!(fields(&none), ["items[0].product"]);
        let missing = ProductId::new().name();
        let problem = refused(try_it(vec![item(&b, "", 1), item(&missing, "", 1)]).await, Reason::ResourceNotFound);
        assert_eq!(fields(&problem), ["items[1].product"]);
        let nowhere = LocationId::new().name();
        let problem = refused(try_it(vec![item(&b, &nowhere, 1)]).await, Reason::ResourceNotFound);
        assert_eq!(fields(&problem), ["items[0].location"]);
        for (items, path) in [
            (vec![item(&b, "", 0)], "items[0].quantity"),
            (vec![item(&b, "", 1), item(&b, "", 1_000_000_001)], "items[1].quantity"),
            (vec![item("products/x", "", 1)], "items[0].product"),
            (vec![item(&b, "main", 1)], "items[0].location"),
            (vec![], "items"),
        ] {
            assert_eq!(fields(&refused(try_it(items).await, Reason::FieldInvalid)), [path]);
        }
        for reason in [LedgerReason::Unspecified, LedgerReason::Sale] {
            let request = AdjustStockRequest { reason: reason.into(), ..adjustment(&key(), &b, "", 1) };
            assert_eq!(fields(&refused(adjust(&souk, request).await, Reason::FieldInvalid)), ["reason"]);
        }
        let problem = refused(adjust(&souk, adjustment("", &b, "", 1)).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["request_id"]);

        assert_eq!((souk.sums(&a).await, souk.sums(&b).await), ((5, 3, 2), (5, 0, 5)));
        adjust(&souk, adjustment(&key(), &a, "", -2)).await.unwrap();
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_changes_stock_once() {
    for souk in both().await {
        let product = souk.product("A").await;
        let first = adjust(&souk, adjustment("k", &product, "", 5)).await.unwrap();
        souk.receive(&product, "", 1).await;
        let again = adjust(&souk, adjustment("k", &product, "", 5)).await.unwrap();
        assert_eq!(again, first, "the first answer, not today's numbers");
        let other = refused(adjust(&souk, adjustment("k", &product, "", 6)).await, Reason::IdempotencyKeyReused);
        assert_eq!(fields(&other), ["request_id"]);
        // A refusal is not stored: the same request may succeed later.
        let taking = adjustment("t", &product, "", -8);
        refused(adjust(&souk, taking.clone()).await, Reason::OutOfStock);
        souk.receive(&product, "", 2).await;
        adjust(&souk, taking).await.unwrap();
        assert_eq!(souk.sums(&product).await, (0, 0, 0));
        souk.verified().await;
    }
}

/// An archived product cannot be bought, so all responses and events show no available stock.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_an_archived_product_is_available() {
    for souk in both().await {
        let product = souk.made(Product { low_stock_threshold: Some(3), ..draft("A") }).await.name;
        let post = souk.made(untracked("POST")).await.name;
        souk.receive(&product, "", 5).await;
        let held = order();
        souk.reserve(&held, &[(&product, 1)]).await.unwrap();
        for name in [&product, &post] {
            let request = ArchiveProductRequest { name: name.clone(), ..ArchiveProductRequest::default() };
            souk.products().archive_product(request).await.unwrap();
        }
        let request = WatchStockRequest { products: vec![product.clone()], ..WatchStockRequest::default() };
        let mut told = souk.stock().watch_stock(request).await.unwrap().into_inner();
        told.message().await.unwrap().unwrap();

        for name in [&product, &post] {
            let request = GetAvailabilityRequest { product: name.clone() };
            let answer = souk.stock().get_availability(request).await.unwrap().into_inner();
            assert_eq!((answer.available, answer.unlimited), (0, false), "{name}");
        }
        assert_eq!(souk.sums(&product).await, (5, 1, 0));
        // Its stock can still be corrected, and stock that was reserved before is still sold.
        let level = adjust(&souk, adjustment("k", &product, "", -2)).await.unwrap().levels.remove(0);
        assert_eq!((level.on_hand, level.reserved, level.available), (3, 1, 0));
        souk.commit(&held).await.unwrap();
        for on_hand in [3, 2] {
            let step = told.message().await.unwrap().unwrap();
            assert_eq!((step.event_type.as_str(), step.low_stock), ("stock.changed", None), "it is never low");
            let level = step.level.unwrap();
            assert_eq!((level.on_hand, level.available), (on_hand, 0));
        }
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn available_stock_can_be_bought_now() {
    for souk in both().await {
        let product = souk.stocked("A", 5).await;
        let far = souk.location("far", 9).await;
        souk.receive(&product, &far, 2).await;
        assert_eq!(souk.available(&product).await, 7);
        souk.reserve(&order(), &[(&product, 6)]).await.unwrap();
        assert_eq!(souk.available(&product).await, 1);
        assert_eq!(souk.available(&souk.product("new").await).await, 0);

        let ask = |product: String| {
            let mut client = souk.stock();
            async move { client.get_availability(GetAvailabilityRequest { product }).await }
        };
        let post = souk.made(untracked("POST")).await.name;
        let told = ask(post.clone()).await.unwrap().into_inner();
        assert!(told.unlimited && told.available == 0);
        refused(ask(ProductId::new().name()).await, Reason::ResourceNotFound);
        refused(ask(order()).await, Reason::FieldInvalid);

        assert_eq!(souk.levels(&post).await, []);
        let levels: Vec<_> = souk.levels(&product).await.iter().map(|level| level.available).collect();
        assert_eq!(levels.iter().sum::<i64>(), 1);
        let stock = GetStockRequest { product: ProductId::new().name(), read_time: None };
        refused(souk.stock().get_stock(stock).await, Reason::ResourceNotFound);
        let entries = ListLedgerEntriesRequest { parent: ProductId::new().name(), ..Default::default() };
        refused(souk.stock().list_ledger_entries(entries).await, Reason::ResourceNotFound);
    }
}
