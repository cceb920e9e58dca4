//! Products with low stock.

use prost_types::FieldMask;
use souk_common::error::Reason;
use souk_proto::inventory::v1::{
    ArchiveProductRequest, BatchUpsertProductsRequest, CreateProductRequest, ListLowStockRequest, Product,
    UpdateProductRequest,
};

use crate::harness::{Souk, both, draft, fields, order, refused, reserve, untracked};

/// The stock code, available stock and threshold of low products, from pages of two.
async fn low(souk: &Souk) -> Vec<(String, i64, i64)> {
    let mut request = ListLowStockRequest { page_size: 2, page_token: String::new() };
    let mut all = Vec::new();
    loop {
        let page = souk.stock().list_low_stock(request.clone()).await.unwrap().into_inner();
        all.extend(page.low_stocks.into_iter().map(|low| (low.sku, low.available, low.low_stock_threshold)));
        if page.next_page_token.is_empty() {
            return all;
        }
        request.page_token = page.next_page_token;
    }
}

async fn watched(souk: &Souk, sku: &str, threshold: i64, pieces: i64) -> Product {
    let product = souk.made(Product { low_stock_threshold: Some(threshold), ..draft(sku) }).await;
    assert_eq!(product.low_stock_threshold, Some(threshold));
    if pieces > 0 {
        souk.receive(&product.name, "", pieces).await;
    }
    product
}

#[tokio::test(flavor = "multi_thread")]
async fn low_stock_is_listed_by_available_pieces() {
    for souk in both().await {
        let far = souk.location("far", 9).await;
        let split = watched(&souk, "split", 5, 3).await.name;
        souk.receive(&split, &far, 3).await;
        watched(&souk, "empty", 0, 0).await;
        watched(&souk, "many", 5, 50).await;
        let held = watched(&souk, "held", 5, 9).await.name;
        souk.stocked("unwatched", 1).await;
        souk.made(Product { low_stock_threshold: Some(5), ..untracked("post") }).await;
        let gone = watched(&souk, "gone", 5, 1).await.name;
        let low_now = |list: &[(&str, i64, i64)]| -> Vec<_> {
            list.iter().map(|&(sku, available, threshold)| (sku.to_owned(), available, threshold)).collect()
        };
        assert_eq!(low(&souk).await, low_now(&[("empty", 0, 0), ("gone", 1, 5)]), "6 in two places are more than 5");
        souk.products().archive_product(ArchiveProductRequest { name: gone, ..Default::default() }).await.unwrap();
        souk.reserve(&order(), &[(&split, 1)]).await.unwrap();
        souk.reserve(&order(), &[(&held, 7)]).await.unwrap();
        assert_eq!(low(&souk).await, low_now(&[("split", 5, 5), ("empty", 0, 0), ("held", 2, 5)]));
        // The stock of an expired reservation is available.
        let short = order();
        souk.reservations().reserve(reserve(&short, &[(&held, 2)], 5)).await.unwrap();
        assert!(low(&souk).await.contains(&("held".to_owned(), 0, 5)));
        souk_testkit::wait::until(std::time::Duration::from_secs(20), "the reservation to run out", async || {
            low(&souk).await.contains(&("held".to_owned(), 2, 5))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_threshold_is_set_changed_and_removed() {
    for souk in both().await {
        let made = souk.made(draft("A")).await;
        assert_eq!(made.low_stock_threshold, None);
        let change = async |threshold: Option<i64>, mask: &[&str]| {
            let sent = Product { name: made.name.clone(), low_stock_threshold: threshold, ..Product::default() };
            let paths = mask.iter().map(|&path| path.to_owned()).collect();
            let request = UpdateProductRequest { product: Some(sent), update_mask: Some(FieldMask { paths }) };
            souk.products().update_product(request).await.unwrap().into_inner().low_stock_threshold
        };
        assert_eq!(change(Some(0), &[]).await, Some(0), "sold out is low");
        assert_eq!(change(None, &[]).await, Some(0));
        assert_eq!(change(None, &["low_stock_threshold"]).await, None);
        assert_eq!(change(Some(7), &["low_stock_threshold"]).await, Some(7));

        let feed = async |threshold: Option<i64>, mask: &[&str]| {
            let products = vec![Product { low_stock_threshold: threshold, ..draft("A") }];
            let paths = mask.iter().map(|&path| path.to_owned()).collect();
            let request = BatchUpsertProductsRequest { products, update_mask: Some(FieldMask { paths }) };
            souk.products().batch_upsert_products(request).await.unwrap();
            change(None, &[]).await
        };
        assert_eq!(feed(None, &[]).await, Some(7), "a feed that knows of no thresholds leaves them");
        assert_eq!(feed(Some(9), &["price"]).await, Some(7));
        assert_eq!(feed(Some(9), &[]).await, Some(9));
        assert_eq!(feed(None, &["low_stock_threshold"]).await, None);
        assert_eq!(feed(Some(3), &["*"]).await, Some(3));

        let minus = Product { low_stock_threshold: Some(-1), ..draft("B") };
        let create = souk.products().create_product(CreateProductRequest { product: Some(minus) }).await;
        assert_eq!(fields(&refused(create, Reason::FieldInvalid)), ["product.low_stock_threshold"]);
    }
}
