//! WatchStock and the event log: events of products and stock.

use std::time::Duration;

use souk_proto::{
    common::v1::{WatchEventsRequest, WatchEventsResponse},
    inventory::v1::{
        ArchiveProductRequest, BatchUpsertProductsRequest, Product, UpdateProductRequest, WatchStockRequest,
        WatchStockResponse, event_service_client::EventServiceClient,
    },
};
use tonic::{Code, Streaming};

use crate::harness::{Bearer, Souk, both, draft, order};

const SOON: Duration = Duration::from_secs(30);

async fn watch(souk: &Souk, products: &[&str], cursor: &str) -> Streaming<WatchStockResponse> {
    let products = products.iter().map(|product| (*product).to_owned()).collect();
    let request = WatchStockRequest { products, cursor: cursor.to_owned() };
    let mut stream = souk.stock().watch_stock(request).await.unwrap().into_inner();
    let first = next(&mut stream).await;
    assert_eq!((first.event_type.as_str(), first.level, first.low_stock), ("", None, None));
    stream
}

async fn next<T>(stream: &mut Streaming<T>) -> T {
    tokio::time::timeout(SOON, stream.message()).await.unwrap().unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_events_are_sent_for_changes_and_low_stock() {
    for souk in both().await {
        let lamp = souk.made(Product { low_stock_threshold: Some(5), ..draft("LAMP") }).await.name;
        let other = souk.stocked("OTHER", 100).await;
        let mut lamps = watch(&souk, &[&lamp], "").await;
        let mut all = watch(&souk, &[], "").await;
        souk.receive(&lamp, "", 10).await;
        souk.reserve(&order(), &[(&other, 1)]).await.unwrap();
        souk.reserve(&order(), &[(&lamp, 4)]).await.unwrap();
        let sold = order();
        souk.reserve(&sold, &[(&lamp, 2)]).await.unwrap();
        souk.reserve(&order(), &[(&lamp, 1)]).await.unwrap();

        let mut told = Vec::new();
        let mut cursor = String::new();
        while told.len() < 5 {
            let response = next(&mut lamps).await;
            assert!(response.event_time.is_some());
            told.push(match (response.level, response.low_stock) {
                (Some(level), None) => {
                    assert_eq!((response.event_type.as_str(), &level.product), ("stock.changed", &lamp));
                    (level.on_hand, level.reserved, level.available)
                }
                (None, Some(low)) => {
                    assert_eq!((response.event_type.as_str(), low.sku.as_str()), ("stock.low", "LAMP"));
                    (-1, low.low_stock_threshold, low.available)
                }
                neither => panic!("{neither:?}"),
            });
            if told.len() == 2 {
                cursor = response.cursor;
            }
        }
        // It becomes low once, from 6 to 4 pieces.
        let expected = [(10, 0, 10), (10, 4, 6), (10, 6, 4), (-1, 5, 4), (10, 7, 3)];
        assert_eq!(told, expected, "{:?}", souk.config.settings.database);
        let again = next(&mut watch(&souk, &[&lamp], &cursor).await).await;
        assert_eq!(again.level.unwrap().reserved, 6);
        assert_eq!(next(&mut all).await.level.unwrap().product, lamp);
        assert_eq!(next(&mut all).await.level.unwrap().product, other);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_events_of_products_too() {
    for souk in both().await {
        let mut events = EventServiceClient::with_interceptor(souk.channel(), Bearer::service("gateway"));
        let about = vec!["souk.inventory.v1.Product".to_owned()];
        let request = WatchEventsRequest { data_types: about, ..Default::default() };
        let mut stream = events.watch_events(request).await.unwrap().into_inner();
        assert!(next::<WatchEventsResponse>(&mut stream).await.event.is_none());
        let product = souk.stocked("LAMP", 3).await;
        let titled = Product { name: product.clone(), title: "Lantern".into(), ..Product::default() };
        let request = UpdateProductRequest { product: Some(titled), update_mask: None };
        souk.products().update_product(request).await.unwrap();
        let feed = BatchUpsertProductsRequest { products: vec![draft("NEW")], ..Default::default() };
        souk.products().batch_upsert_products(feed).await.unwrap();
        souk.products().archive_product(ArchiveProductRequest { name: product, ..Default::default() }).await.unwrap();
        for expected in ["product.created", "product.updated", "product.created", "product.archived"] {
            let event = next(&mut stream).await.event.unwrap();
            assert_eq!((event.r#type.as_str(), event.source.as_str()), (expected, "services/inventory"));
            let shown: Product = event.data.unwrap().to_msg().unwrap();
            assert_eq!((&shown.name, shown.title == "Lantern"), (&event.subject, !expected.ends_with("created")));
        }
        let status = souk.stock().watch_stock(WatchStockRequest { products: vec![], cursor: "12".into() }).await;
        assert_eq!(status.unwrap_err().code(), Code::InvalidArgument);
    }
}
