//! Search by words: the results are the same on every engine.

use souk_common::error::Reason;
use souk_proto::inventory::v1::{
    ArchiveProductRequest, BatchUpsertProductsRequest, ListProductsRequest, Product, UpdateProductRequest,
};
use souk_testkit::wait;

use crate::{
    harness::{Souk, both, draft, fields, gbp, refused},
    verify::tamper,
};

/// The stock codes of all pages of two products.
async fn found(souk: &Souk, query: &str, filter: &str, order_by: &str) -> Vec<String> {
    let request = ListProductsRequest {
        page_size: 2,
        query: query.to_owned(),
        filter: filter.to_owned(),
        order_by: order_by.to_owned(),
        ..Default::default()
    };
    souk.listed(request).await
}

fn product(sku: &str, title: &str, description: &str, units: i64) -> Product {
    let (title, description) = (title.to_owned(), description.to_owned());
    Product { title, description, price: Some(gbp(units, 0)), ..draft(sku) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_finds_the_same_products_on_every_engine() {
    for souk in both().await {
        let long = "x".repeat(300);
        for (sku, title, description, units) in [
            ("85123A", "WHITE HANGING HEART T-LIGHT HOLDER", "Holds one light.", 3),
            ("85123B", "Red hanging heart", "A heart, half-price: 50% off & more.", 5),
            ("ab/7.1", "Crème brûlée dish", "Oven-safe; don't drop. http://example.com/dish?id=5 1e5 5.00", 7),
            ("C 4", "Ärmel für Übergröße", "灯笼 фонарь", 9),
            ("D5", &long, "", 11),
        ] {
            souk.made(product(sku, title, description, units)).await;
        }
        for (query, expected) in [
            ("", &["85123A", "85123B", "ab/7.1", "C 4", "D5"][..]),
            ("  ", &["85123A", "85123B", "ab/7.1", "C 4", "D5"]),
            ("heart", &["85123A", "85123B"]),
            ("HEART hanging", &["85123A", "85123B"]),
            ("heart red", &["85123B"]),
            ("hear", &["85123A", "85123B"]),
            ("hear red", &[]),
            ("85123", &["85123A", "85123B"]),
            ("85123a", &["85123A"]),
            ("t-light", &["85123A"]),
            ("light", &["85123A"]),
            ("half-pri", &["85123B"]),
            ("creme brulee", &["ab/7.1"]),
            ("CRÈME", &["ab/7.1"]),
            ("cre\u{300}me", &["ab/7.1"]),
            ("ab/7", &["ab/7.1"]),
            ("example.com", &["ab/7.1"]),
            ("1e5", &["ab/7.1"]),
            ("5.00", &["ab/7.1"]),
            ("don't", &["ab/7.1"]),
            ("armel uber", &["C 4"]),
            ("ÜBERGRÖSSE", &[]),
            ("übergröße", &["C 4"]),
            ("ФОН", &["C 4"]),
            ("灯", &["C 4"]),
            (&long[..200], &["D5"]),
            ("the heart", &[]),
            // A query has no syntax.
            ("heart & !red", &["85123B"]),
            ("heart OR dish", &[]),
            ("heart*", &["85123A", "85123B"]),
            ("title:heart", &[]),
            ("\"heart", &["85123A", "85123B"]),
            ("'heart' | 'x", &[]),
            ("heart:* <-> (", &["85123A", "85123B"]),
            ("NEAR(heart", &[]),
            ("\\", &[]),
            ("%_", &[]),
            ("!!!", &[]),
        ] {
            assert_eq!(found(&souk, query, "", "sku").await, expected, "{}: {query:?}", souk.database.engine);
        }
        for (query, filter, order_by, expected) in [
            ("a", "", "", &["C 4", "ab/7.1", "85123B"][..]),
            ("h", "", "create_time", &["85123A", "85123B", "ab/7.1"]),
            ("h", "price >= 5.00", "price desc", &["ab/7.1", "85123B"]),
            ("h", "price < 5.00", "", &["85123A"]),
            ("h", "state = ARCHIVED", "", &[]),
        ] {
            let engine = souk.database.engine;
            assert_eq!(found(&souk, query, filter, order_by).await, expected, "{engine}: {query} {filter}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_product_is_found_by_its_new_words() {
    for souk in both().await {
        let made = souk.made(product("A", "Old lamp", "", 1)).await;
        souk.made(product("B", "Old chair", "", 1)).await;
        let sent = Product { name: made.name.clone(), title: "New lantern".to_owned(), ..Product::default() };
        let request = UpdateProductRequest { product: Some(sent), update_mask: None };
        souk.products().update_product(request).await.unwrap();
        assert_eq!(found(&souk, "lantern", "", "").await, ["A"]);
        assert_eq!(found(&souk, "lamp", "", "").await, Vec::<String>::new());

        let feed = vec![product("B", "New chair", "", 1), product("C", "New table", "", 1)];
        let request = BatchUpsertProductsRequest { products: feed, update_mask: None };
        souk.products().batch_upsert_products(request).await.unwrap();
        assert_eq!(found(&souk, "new", "", "sku").await, ["A", "B", "C"]);
        assert_eq!(found(&souk, "old", "", "sku").await, Vec::<String>::new());
        let request = ArchiveProductRequest { name: made.name, etag: String::new() };
        souk.products().archive_product(request).await.unwrap();
        assert_eq!(found(&souk, "new", "", "sku").await, ["B", "C"]);
        assert_eq!(found(&souk, "new", "state = ARCHIVED", "sku").await, ["A"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_search_belongs_to_its_query() {
    for souk in both().await {
        for sku in ["a", "b", "c"] {
            souk.made(product(sku, "Heart", "", 1)).await;
        }
        let ask = |query: &str, page_token: &str| {
            let request = ListProductsRequest {
                page_size: 1,
                query: query.to_owned(),
                page_token: page_token.to_owned(),
                ..Default::default()
            };
            let mut client = souk.products();
            async move { client.list_products(request).await.map(tonic::Response::into_inner) }
        };
        let token = ask("heart", "").await.unwrap().next_page_token;
        // Products that appear or disappear between pages do not move others.
        souk.made(product("d", "Heart", "", 1)).await;
        let second = ask("heart", &token).await.unwrap();
        assert_eq!(second.products[0].sku, "b");
        refused(ask("hear", &token).await, Reason::PageTokenInvalid);
        assert_eq!(fields(&refused(ask(&"x".repeat(201), "").await, Reason::FieldInvalid)), ["query"]);
    }
}

/// An older version writes products without search words. This version finds them, too.
#[tokio::test(flavor = "multi_thread")]
async fn products_of_an_older_version_are_found_after_a_start() {
    for mut souk in both().await {
        souk.made(product("A", "Heart", "", 1)).await;
        souk.stop().await;
        tamper(&souk.database, "UPDATE products SET words = '', words_version = 0, title = 'Crème'").await;
        souk.restart().await;
        wait::until(std::time::Duration::from_secs(30), "the product to be found", async || {
            found(&souk, "creme", "", "").await == ["A"]
        })
        .await;
    }
}
