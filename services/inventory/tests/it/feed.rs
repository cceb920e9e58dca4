//! Feeds of products and counts, a thousand at a time.

use std::time::Instant;

use prost_types::FieldMask;
use souk_common::error::Reason;
use souk_proto::inventory::v1::{
    ArchiveProductRequest, BatchUpsertProductsRequest, GetProductRequest, Product,
    batch_upsert_products_response::{Outcome, Result as UpsertResult},
    product::StockTracking,
};
use souk_testkit::db::Engine;

use crate::harness::{Souk, both, count, draft, fields, gbp, key, refused};

async fn upsert(souk: &Souk, products: &[Product], mask: &[&str]) -> Vec<UpsertResult> {
    let paths = mask.iter().map(|&path| path.to_owned()).collect();
    let request = BatchUpsertProductsRequest { products: products.to_vec(), update_mask: Some(FieldMask { paths }) };
    souk.products().batch_upsert_products(request).await.unwrap().into_inner().results
}

async fn get(souk: &Souk, name: &str) -> Product {
    souk.products().get_product(GetProductRequest { name: name.to_owned() }).await.unwrap().into_inner()
}

fn outcomes(results: &[UpsertResult]) -> Vec<Outcome> {
    results.iter().map(UpsertResult::outcome).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_creates_new_products_and_updates_changed_ones() {
    for souk in both().await {
        let described = |sku: &str, text: &str| Product { description: text.to_owned(), ..draft(sku) };
        let feed = [described("a", "Red."), draft("b"), draft("c")];
        let first = upsert(&souk, &feed, &[]).await;
        assert_eq!(outcomes(&first), [Outcome::Created; 3]);
        let made = get(&souk, &first[0].product).await;
        assert_eq!(
            (made.sku.as_str(), made.description.as_str(), made.price.clone()),
            ("a", "Red.", Some(gbp(2, 500_000_000)))
        );

        let again = upsert(&souk, &feed, &[]).await;
        assert_eq!(outcomes(&again), [Outcome::Unchanged; 3]);
        assert_eq!(get(&souk, &first[0].product).await, made, "not even its etag");

        let changed = [
            Product { title: "New".to_owned(), price: Some(gbp(9, 0)), ..draft("A") },
            draft("d"),
            Product { price: Some(gbp(9, 0)), ..draft("b") },
        ];
        let results = upsert(&souk, &changed, &["price"]).await;
        assert_eq!(outcomes(&results), [Outcome::Updated, Outcome::Created, Outcome::Updated]);
        assert_eq!(results[0].product, made.name, "letter case makes no difference");
        let priced = get(&souk, &made.name).await;
        assert_eq!((&priced.title, &priced.description, &priced.sku), (&made.title, &made.description, &made.sku));
        assert_eq!(priced.price, Some(gbp(9, 0)));
        assert_ne!(priced.etag, made.etag);

        assert_eq!(outcomes(&upsert(&souk, &changed[..1], &["*"]).await), [Outcome::Updated]);
        let whole = get(&souk, &made.name).await;
        assert_eq!((whole.title.as_str(), whole.description.as_str()), ("New", ""));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_invalid_product_of_a_feed_is_refused_by_itself() {
    for souk in both().await {
        let gone = souk.product("gone").await;
        souk.product("goods").await;
        let archive = ArchiveProductRequest { name: gone, etag: String::new() };
        souk.products().archive_product(archive).await.unwrap();
        let untracked = StockTracking::Untracked.into();
        let feed = [
            draft("-x"),
            draft("good"),
            Product { title: " ".to_owned(), price: None, ..draft("b") },
            draft("GOOD"),
            draft("gone"),
            Product { stock_tracking: untracked, ..draft("goods") },
            Product { title: "x".repeat(301), ..draft("c") },
            Product { stock_tracking: untracked, ..draft("post") },
        ];
        let results = upsert(&souk, &feed, &[]).await;
        let told = |result: &UpsertResult| {
            let failure = result.failure.clone().unwrap_or_default();
            let fields: Vec<_> = failure.field_violations.iter().map(|violation| violation.field.clone()).collect();
            (result.outcome(), failure.reason(), fields.join(" "))
        };
        let refused_for = |reason, fields: &str| (Outcome::Refused, reason, fields.to_owned());
        let made = || (Outcome::Created, Reason::Unspecified, String::new());
        assert_eq!(
            results.iter().map(told).collect::<Vec<_>>(),
            [
                refused_for(Reason::FieldInvalid, "sku"),
                made(),
                refused_for(Reason::FieldInvalid, "title price"),
                refused_for(Reason::FieldInvalid, "sku"),
                refused_for(Reason::ProductArchived, ""),
                refused_for(Reason::FieldInvalid, "stock_tracking"),
                refused_for(Reason::FieldInvalid, "title"),
                made(),
            ]
        );
        let twice = results[3].failure.clone().unwrap().field_violations.remove(0).description;
        assert_eq!(twice, "must be unique, but products[1] has it, too");
        assert_eq!(get(&souk, &results[7].product).await.stock_tracking(), StockTracking::Untracked);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_feed_is_refused_as_a_whole() {
    let souk = Souk::start(Engine::Sqlite, 1, &[]).await;
    let ask = |products: Vec<Product>, mask: &str| {
        let update_mask = (!mask.is_empty()).then(|| FieldMask { paths: vec![mask.to_owned()] });
        let mut client = souk.products();
        async move { client.batch_upsert_products(BatchUpsertProductsRequest { products, update_mask }).await }
    };
    for (products, mask, path) in
        [(vec![], "", "products"), (vec![draft("a"); 1001], "", "products"), (vec![draft("a")], "sku", "update_mask")]
    {
        assert_eq!(fields(&refused(ask(products, mask).await, Reason::FieldInvalid)), [path]);
    }
}

/// Two replicas get the same feed at once, in another order. Each product is created once.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_feed_at_two_replicas_creates_each_product_once() {
    let souk = Souk::start(Engine::Postgres, 2, &[]).await;
    let feed: Vec<_> = (0..300).map(|number| draft(&format!("P{number}"))).collect();
    let mut reversed = feed.clone();
    reversed.reverse();
    let send = |replica: usize, products: Vec<Product>| {
        let mut client = souk.products_at(replica);
        async move {
            let request = BatchUpsertProductsRequest { products, update_mask: None };
            client.batch_upsert_products(request).await.unwrap().into_inner().results
        }
    };
    let (one, mut other) = tokio::join!(send(0, feed), send(1, reversed));
    other.reverse();
    for (one, other) in one.iter().zip(&other) {
        assert_eq!(one.product, other.product);
        let created = [one, other].iter().filter(|result| result.outcome() == Outcome::Created).count();
        assert_eq!(created, 1, "{one:?} {other:?}");
    }
}

/// A long feed of products and counts, sent twice. `SOUK_TEST_FEED_ROWS=100000` sets its length; the time is printed.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_feed_is_imported_a_thousand_products_at_a_time() {
    let rows: usize = std::env::var("SOUK_TEST_FEED_ROWS").map_or(3000, |rows| rows.parse().unwrap());
    for souk in both().await {
        let product = |number: usize| Product {
            description: "A product of a feed, with a few words about what it is and what one does with it.".to_owned(),
            price: Some(gbp(number as i64 % 100, 0)),
            ..draft(&format!("SKU-{number:06}"))
        };
        let feed: Vec<_> = (0..rows).map(product).collect();
        for (round, outcome) in [("new", Outcome::Created), ("again", Outcome::Unchanged)] {
            let (began, mut names) = (Instant::now(), Vec::new());
            for chunk in feed.chunks(1000) {
                let results = upsert(&souk, chunk, &[]).await;
                assert!(results.iter().all(|result| result.outcome() == outcome), "{round}");
                names.extend(results.into_iter().map(|result| result.product));
            }
            let products = began.elapsed();
            let began = Instant::now();
            for chunk in names.chunks(1000) {
                let counted: Vec<_> = chunk.iter().map(|name| (name.as_str(), "", 7)).collect();
                souk.stock().count_stock(count(&key(), &counted)).await.unwrap();
            }
            println!(
                "{}, {round}: {rows} products in {products:?}, counts in {:?}",
                souk.database.engine,
                began.elapsed()
            );
        }
        souk.verified().await;
    }
}
