//! Transfers, counts, and stock at a past time.

use chrono::{DateTime, Utc};
use souk_common::{
    error::Reason,
    ids::{LocationId, ProductId},
};
use souk_proto::inventory::v1::{
    CountStockRequest, GetStockRequest, StockLevel, TransferStockRequest, ledger_entry::Reason as LedgerReason,
};
use souk_testkit::{db::Engine, wait};
use tonic::Status;

use crate::{
    harness::{Souk, both, count, fields, key, order, refused, transfer, untracked},
    stock::ledger,
    verify::tamper,
};

async fn move_it(souk: &Souk, request: TransferStockRequest) -> Result<Vec<StockLevel>, Status> {
    Ok(souk.stock().transfer_stock(request).await?.into_inner().levels)
}

async fn count_it(souk: &Souk, request: CountStockRequest) -> Result<Vec<StockLevel>, Status> {
    Ok(souk.stock().count_stock(request).await?.into_inner().levels)
}

/// On hand at each location at this time.
async fn past(souk: &Souk, product: &str, time: DateTime<Utc>) -> Vec<(String, i64)> {
    let nanos = time.timestamp_subsec_nanos().try_into().unwrap();
    let read_time = Some(prost_types::Timestamp { seconds: time.timestamp(), nanos });
    let request = GetStockRequest { product: product.to_owned(), read_time };
    let response = souk.stock().get_stock(request).await.unwrap().into_inner();
    assert_eq!(response.levels, [], "the present is not told");
    response.past_levels.into_iter().map(|level| (level.location, level.on_hand)).collect()
}

/// A time after everything before and before everything after.
async fn moment() -> DateTime<Utc> {
    let now = Utc::now();
    wait::until(std::time::Duration::from_secs(5), "the clock to go on", async || {
        (Utc::now() - now).num_milliseconds() >= 2
    })
    .await;
    now
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_makes_two_ledger_entries_with_one_cause() {
    for souk in both().await {
        let (a, main, far) = (souk.stocked("A", 10).await, souk.main().await, souk.location("far", 9).await);
        souk.reserve(&order(), &[(&a, 3)]).await.unwrap();
        let request = transfer("t-1", &a, (&main, &far), 4);
        let first = move_it(&souk, request.clone()).await.unwrap();
        let told: Vec<_> = first.iter().map(|level| (&level.location, level.on_hand, level.reserved)).collect();
        assert_eq!(told, [(&main, 6, 3), (&far, 4, 0)]);
        assert_eq!(move_it(&souk, request).await.unwrap(), first, "again moves nothing");
        refused(move_it(&souk, transfer("t-1", &a, (&main, &far), 1)).await, Reason::IdempotencyKeyReused);

        let entries = ledger(&souk, &a).await;
        let told: Vec<_> =
            entries.iter().map(|e| (e.reason(), e.quantity, e.on_hand_after, e.reference.as_str())).collect();
        assert_eq!(
            told[..2],
            [(LedgerReason::TransferIn, 4, 4, "t-1"), (LedgerReason::TransferOut, -4, 6, "t-1")],
            "the key stands in for a reference"
        );
        assert_eq!((entries[0].create_time, &entries[0].actor), (entries[1].create_time, &entries[1].actor));

        let below = refused(move_it(&souk, transfer(&key(), &a, (&main, &far), 4)).await, Reason::OutOfStock);
        assert_eq!(fields(&below), ["items[0].quantity"]);
        assert_eq!(below.violations()[0].description, "-4 would leave 2 of the 6 on hand, of which 3 are reserved");
        assert_eq!(souk.sums(&a).await, (10, 3, 7));
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_transfer_moves_nothing() {
    for souk in both().await {
        let (a, main, far) = (souk.stocked("A", 5).await, souk.main().await, souk.location("far", 9).await);
        let post = souk.made(untracked("POST")).await.name;
        let nowhere = LocationId::new().name();
        for (request, reason, path) in [
            (transfer("k", &a, (&main, &main), 1), Reason::FieldInvalid, "destination"),
            (transfer("k", &a, (&nowhere, &far), 1), Reason::ResourceNotFound, "source"),
            (transfer("k", &a, (&main, &nowhere), 1), Reason::ResourceNotFound, "destination"),
            (transfer("k", &a, (&main, ""), 1), Reason::FieldInvalid, "destination"),
            (transfer("k", &ProductId::new().name(), (&main, &far), 1), Reason::ResourceNotFound, "items[0].product"),
            (transfer("k", &post, (&main, &far), 1), Reason::StateConflict, "items[0].product"),
            (transfer("k", &a, (&main, &far), 0), Reason::FieldInvalid, "items[0].quantity"),
            (transfer("k", &a, (&far, &main), 1), Reason::OutOfStock, "items[0].quantity"),
            (transfer("", &a, (&main, &far), 1), Reason::FieldInvalid, "request_id"),
        ] {
            assert_eq!(fields(&refused(move_it(&souk, request).await, reason)), [path]);
        }
        let mut two = transfer("k", &a, (&main, &far), 3);
        two.items.push(two.items[0].clone());
        assert_eq!(fields(&refused(move_it(&souk, two).await, Reason::OutOfStock)), ["items[1].quantity"]);
        assert_eq!(ledger(&souk, &a).await.len(), 1);
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_records_only_differences() {
    for souk in both().await {
        let (a, b, c) = (souk.stocked("A", 10).await, souk.stocked("B", 7).await, souk.product("C").await);
        let (main, far) = (souk.main().await, souk.location("far", 9).await);
        souk.reserve(&order(), &[(&a, 3)]).await.unwrap();
        let request = count("c-1", &[(&b, "", 7), (&a, &main, 8), (&a, &far, 2), (&c, "", 0)]);
        let first = count_it(&souk, request.clone()).await.unwrap();
        let told: Vec<_> = first.iter().map(|level| (level.on_hand, level.reserved, level.available)).collect();
        assert_eq!(told, [(7, 0, 7), (8, 3, 5), (2, 0, 2), (0, 0, 0)]);
        assert_eq!(count_it(&souk, request).await.unwrap(), first);
        let told: Vec<_> = ledger(&souk, &a).await.iter().map(|e| (e.reason(), e.quantity, e.on_hand_after)).collect();
        assert_eq!(told[..2], [(LedgerReason::Count, 2, 2), (LedgerReason::Count, -2, 8)]);
        assert_eq!((ledger(&souk, &b).await.len(), ledger(&souk, &c).await.len()), (1, 0), "the book was right");
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_below_the_reserved_stock_is_refused_with_every_such_item() {
    for souk in both().await {
        let (a, b) = (souk.stocked("A", 10).await, souk.stocked("B", 10).await);
        let main = souk.main().await;
        souk.reserve(&order(), &[(&a, 3), (&b, 4)]).await.unwrap();
        let below = count_it(&souk, count("k", &[(&a, "", 2), (&b, "", 0)])).await;
        let below = refused(below, Reason::OutOfStock);
        assert_eq!(fields(&below), ["items[0].counted_quantity", "items[1].counted_quantity"]);
        let told = "2 counted, but open reservations hold 3: release or commit some first";
        assert_eq!((below.violations()[0].subject.as_str(), below.violations()[0].description.as_str()), (&*a, told));
        let twice = count("k", &[(&a, "", 5), (&b, "", 5), (&a, &main, 6)]);
        assert_eq!(fields(&refused(count_it(&souk, twice).await, Reason::FieldInvalid)), ["items[2]"]);
        let minus = count("k", &[(&a, "", -1)]);
        assert_eq!(fields(&refused(count_it(&souk, minus).await, Reason::FieldInvalid)), ["items[0].counted_quantity"]);
        assert_eq!((souk.sums(&a).await, souk.sums(&b).await), ((10, 3, 7), (10, 4, 6)));
        count_it(&souk, count("k", &[(&a, "", 3), (&b, "", 4)])).await.unwrap();
        souk.verified().await;
    }
}

/// Pieces that are sold during a count are not added again by the result of the count.
#[tokio::test(flavor = "multi_thread")]
async fn a_count_is_refused_if_the_stock_changed_meanwhile() {
    for souk in both().await {
        let (a, b) = (souk.stocked("A", 10).await, souk.stocked("B", 7).await);
        let looked_at = |expected: [Option<i64>; 2]| {
            let mut request = count("k", &[(&a, "", 9), (&b, "", 7)]);
            for (item, expected) in request.items.iter_mut().zip(expected) {
                item.expected_on_hand = expected;
            }
            request
        };
        // One piece of A is sold while A and B are counted.
        let sold = order();
        souk.reserve(&sold, &[(&a, 1)]).await.unwrap();
        souk.commit(&sold).await.unwrap();
        let problem = refused(count_it(&souk, looked_at([Some(10), Some(7)])).await, Reason::StateConflict);
        assert_eq!(fields(&problem), ["items[0].expected_on_hand"]);
        let violation = &problem.violations()[0];
        assert_eq!((violation.kind.as_str(), violation.subject.as_str()), ("ON_HAND_CHANGED", &*a));
        assert_eq!(problem.get_metadata(&a), Some("10/9"));
        assert_eq!((souk.sums(&a).await, souk.sums(&b).await), ((9, 0, 9), (7, 0, 7)));
        let minus = looked_at([Some(-1), None]);
        assert_eq!(fields(&refused(count_it(&souk, minus).await, Reason::FieldInvalid)), ["items[0].expected_on_hand"]);
        // Counted again with the same key, which the refused request did not use up.
        let levels = count_it(&souk, looked_at([Some(9), None])).await.unwrap();
        assert_eq!(levels.iter().map(|level| level.on_hand).collect::<Vec<_>>(), [9, 7]);
        // An expected quantity of 0 is checked, too.
        let none = souk.product("C").await;
        let mut request = count("c", &[(&none, "", 4)]);
        request.items[0].expected_on_hand = Some(0);
        count_it(&souk, request).await.unwrap();
        souk.verified().await;
    }
}

/// A count without a difference makes no ledger entry. Its key must not set the stock again when its response is
/// deleted.
#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_a_count_without_entries_outlives_its_response() {
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let souk = Souk::start(engine, 1, &[("CLEANUP_INTERVAL", "1s")]).await;
        let a = souk.stocked("A", 10).await;
        let request = count("k", &[(&a, "", 10)]);
        count_it(&souk, request.clone()).await.unwrap();
        souk.receive(&a, "", 5).await;
        assert_eq!(count_it(&souk, request.clone()).await.unwrap()[0].on_hand, 10, "the first answer");
        tamper(&souk.database, "UPDATE requests SET created_at = '2020-01-01 00:00:00+00:00'").await;
        wait::until(std::time::Duration::from_secs(20), "the answer to be forgotten", async || {
            count_it(&souk, request.clone()).await.is_err()
        })
        .await;
        refused(count_it(&souk, request).await, Reason::IdempotencyKeyReused);
        assert_eq!(souk.sums(&a).await, (15, 0, 15));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_is_read_as_of_any_past_time() {
    for souk in both().await {
        let before = moment().await;
        let (a, main, far) = (souk.stocked("A", 10).await, souk.main().await, souk.location("far", -1).await);
        let received = moment().await;
        move_it(&souk, transfer("t", &a, (&main, &far), 4)).await.unwrap();
        let moved = moment().await;
        souk.reserve(&order(), &[(&a, 1)]).await.unwrap();
        count_it(&souk, count("c", &[(&a, &main, 9), (&a, &far, 1)])).await.unwrap();
        let counted = moment().await;

        assert_eq!(past(&souk, &a, before).await, []);
        assert_eq!(past(&souk, &a, received).await, [(main.clone(), 10)]);
        assert_eq!(past(&souk, &a, moved).await, [(far.clone(), 4), (main.clone(), 6)], "by priority");
        assert_eq!(past(&souk, &a, counted).await, [(far, 1), (main, 9)]);

        let ask = |product: String, read_time| {
            let mut client = souk.stock();
            async move { client.get_stock(GetStockRequest { product, read_time }).await }
        };
        let in_an_hour = Some(prost_types::Timestamp { seconds: Utc::now().timestamp() + 3600, nanos: 0 });
        assert_eq!(fields(&refused(ask(a, in_an_hour).await, Reason::FieldInvalid)), ["read_time"]);
        let then = Some(prost_types::Timestamp { seconds: 0, nanos: 0 });
        refused(ask(ProductId::new().name(), then).await, Reason::ResourceNotFound);
    }
}

/// A long ledger is not summed: only the last entry at each location is read.
#[tokio::test(flavor = "multi_thread")]
async fn stock_of_a_past_time_is_read_by_an_index() {
    let souk = Souk::start(Engine::Sqlite, 1, &[]).await;
    let plan = "EXPLAIN QUERY PLAN SELECT seq FROM ledger
        WHERE product_id = x'00' AND location_id = x'00' AND created_at <= '2026' ORDER BY created_at DESC, seq DESC LIMIT 1";
    let steps = crate::verify::plan(&souk.database, plan).await;
    assert!(steps.contains("ledger_as_of") && !steps.contains("TEMP B-TREE"), "{steps}");
}
