//! Texts that must not reach a database are refused in the same way on each engine, in every place.

use std::fmt::Debug;

use souk_common::{
    error::Reason,
    page::{self, order},
};
use souk_proto::inventory::v1::{
    BatchGetProductsRequest, BatchUpsertProductsRequest, CreateLocationRequest, CreateProductRequest,
    ListLocationsRequest, ListProductsRequest, Location, Product, batch_upsert_products_response::Outcome,
};
use tonic::{Response, Status};

use crate::harness::{adjustments, both, draft, fields, item, key, refused};

/// The only refused field, and the error about it.
fn fault<T: Debug>(result: Result<Response<T>, Status>) -> (String, String) {
    let problem = refused(result, Reason::FieldInvalid);
    assert_eq!(fields(&problem).len(), 1, "{problem}");
    let field = &problem.field_violations()[0];
    (field.path.clone(), field.description.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nul_is_refused_in_every_text() {
    for souk in both().await {
        let product = souk.product("lamp").await;
        let nul = || "a\0b".to_owned();
        let (mut products, mut locations, mut stock) = (souk.products(), souk.locations(), souk.stock());

        let asked = BatchGetProductsRequest { skus: vec!["lamp".to_owned(), nul()], ..Default::default() };
        let (field, said) = fault(products.batch_get_products(asked).await);
        assert_eq!(field, "skus[1]");
        assert_eq!(said, "must be one line without control characters, but its character 2 is U+0000");
        for (asked, expected) in [
            (ListProductsRequest { filter: "title:\"a\0b\"".to_owned(), ..Default::default() }, "filter"),
            (ListProductsRequest { filter: "sku=\"\0\"".to_owned(), ..Default::default() }, "filter"),
            (ListProductsRequest { query: nul(), ..Default::default() }, "query"),
            (ListProductsRequest { order_by: nul(), ..Default::default() }, "order_by"),
            (ListProductsRequest { page_token: nul(), ..Default::default() }, "page_token"),
        ] {
            assert_eq!(fault(products.list_products(asked).await).0, expected, "{}", souk.database.engine);
        }
        for (product, expected) in [
            (Product { title: nul(), ..draft("x") }, "product.title"),
            (Product { description: nul(), ..draft("x") }, "product.description"),
            (Product { etag: nul(), ..draft("x") }, "product.etag"),
        ] {
            let made = products.create_product(CreateProductRequest { product: Some(product) }).await;
            assert_eq!(fault(made).0, expected);
        }
        let location = Location { code: "x".to_owned(), display_name: nul(), ..Location::default() };
        let made = locations.create_location(CreateLocationRequest { location: Some(location) }).await;
        assert_eq!(fault(made).0, "location.display_name");
        let main = souk.main().await;
        for (note, reference, expected) in [("\0", "", "note"), ("", "\0", "reference")] {
            let mut asked = adjustments(&key(), vec![item(&product, &main, 1)]);
            (asked.note, asked.reference) = (note.to_owned(), reference.to_owned());
            assert_eq!(fault(stock.adjust_stock(asked).await).0, expected);
        }
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_token_cannot_contain_a_nul() {
    for souk in both().await {
        let page_token = page::encode("inventory.locations", &(0, "a\0b"));
        let asked = ListLocationsRequest { page_token, ..Default::default() };
        refused(souk.locations().list_locations(asked).await, Reason::PageTokenInvalid);
        let order = order::parse("title", &["title"], order::OrderBy::descending("create_time")).unwrap();
        let query = ("inventory.products", "", "", order);
        let after = serde_json::json!({"Text": ["a\0b", "prd_01k9xj6v3te2q8s4m5n7r0p1wz"]});
        let page_token = page::encode(&query, &after);
        let asked = ListProductsRequest { page_token, order_by: "title".to_owned(), ..Default::default() };
        refused(souk.products().list_products(asked).await, Reason::PageTokenInvalid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_with_disguising_characters_are_refused() {
    for souk in both().await {
        let mut products = souk.products();
        // A title that is displayed as "gnp.exe", and an isolate without an end.
        for title in ["\u{202E}exe.png", "a\u{2066}b", "two\nlines", "two\u{2028}lines"] {
            let product = Product { title: title.to_owned(), ..draft("x") };
            let made = products.create_product(CreateProductRequest { product: Some(product) }).await;
            assert_eq!(fault(made).0, "product.title", "{title:?}");
        }
        let titles = ["مصباح\u{200F} (LED)", "מנורה\u{200E}", "灯"];
        for (at, title) in titles.iter().enumerate() {
            let made = souk.made(Product { title: (*title).to_owned(), ..draft(&format!("t{at}")) }).await;
            assert_eq!(made.title, *title);
        }
        let description = "One\r\n\ttwo \u{2067}שלוש\u{2069}".to_owned();
        let made = souk.made(Product { description: description.clone(), ..draft("d") }).await;
        assert_eq!(made.description, description);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_invalid_product_of_a_feed_is_refused_by_itself() {
    for souk in both().await {
        let odd = Product { title: "a\0b".to_owned(), ..draft("b") };
        let request = BatchUpsertProductsRequest { products: vec![draft("a"), odd], update_mask: None };
        let results = souk.products().batch_upsert_products(request).await.unwrap().into_inner().results;
        let outcomes: Vec<_> = results.iter().map(|result| result.outcome()).collect();
        assert_eq!(outcomes, [Outcome::Created, Outcome::Refused]);
        assert!(format!("{:?}", results[1]).contains("U+0000"), "{:?}", results[1]);
    }
}
