//! Access to each method.

use souk_common::error::Reason;
use souk_proto::inventory::v1::{
    ArchiveProductRequest, BatchGetProductsRequest, BatchUpsertProductsRequest, CommitReservationRequest,
    CreateLocationRequest, CreateProductRequest, GetAvailabilityRequest, GetLocationRequest, GetProductRequest,
    GetReservationRequest, GetStockRequest, ListLedgerEntriesRequest, ListLocationsRequest, ListLowStockRequest,
    ListProductsRequest, Location, Product, ReconcileStockRequest, ReleaseReservationRequest, UpdateProductRequest,
    location_service_client::LocationServiceClient, product_service_client::ProductServiceClient,
    reservation_service_client::ReservationServiceClient, stock_service_client::StockServiceClient,
};
use souk_testkit::db::Engine;

use crate::harness::{Bearer, Souk, adjustment, count, draft, give_back, key, order, refused, reserve, transfer};

/// The reasons for which these callers are refused. `None`: the caller was admitted, whatever happened next.
async fn tried(souk: &Souk, bearer: &Bearer, product: &str, order: &str) -> Vec<(&'static str, Option<Reason>)> {
    let mut products = ProductServiceClient::with_interceptor(souk.channel(), bearer.clone());
    let mut locations = LocationServiceClient::with_interceptor(souk.channel(), bearer.clone());
    let mut stock = StockServiceClient::with_interceptor(souk.channel(), bearer.clone());
    let mut reservations = ReservationServiceClient::with_interceptor(souk.channel(), bearer.clone());
    let (product, order) = (product.to_owned(), order.to_owned());
    let (main, far) = (souk.main().await, souk.location(&key(), 9).await);
    let reservation = order.replace("orders/ord_", "reservations/res_");
    let mut tried = Vec::new();
    macro_rules! try_it {
        ($client:ident.$method:ident($request:expr)) => {
            let refused = match $client.$method($request).await {
                Ok(_) => None,
                Err(status) => Some(souk_common::error::Problem::from(status).reason()),
            };
            let kept_out = refused
                .filter(|reason| matches!(reason, Reason::AccessDenied | Reason::TokenMissing | Reason::TokenInvalid));
            tried.push((stringify!($method), kept_out));
        };
    }
    let changed = Product { name: product.clone(), title: "New".to_owned(), ..Product::default() };
    let place = Location { code: key(), ..Location::default() };
    try_it!(products.get_product(GetProductRequest { name: product.clone() }));
    try_it!(
        products.batch_get_products(BatchGetProductsRequest { names: vec![product.clone()], ..Default::default() })
    );
    try_it!(products.list_products(ListProductsRequest::default()));
    try_it!(stock.get_availability(GetAvailabilityRequest { product: product.clone() }));
    try_it!(products.create_product(CreateProductRequest { product: Some(draft(&key())) }));
    try_it!(products.update_product(UpdateProductRequest { product: Some(changed), update_mask: None }));
    try_it!(products.archive_product(ArchiveProductRequest { name: product.clone(), ..Default::default() }));
    try_it!(
        products.batch_upsert_products(BatchUpsertProductsRequest { products: vec![draft(&key())], update_mask: None })
    );
    try_it!(locations.create_location(CreateLocationRequest { location: Some(place) }));
    try_it!(locations.get_location(GetLocationRequest { name: main.clone() }));
    try_it!(locations.list_locations(ListLocationsRequest::default()));
    try_it!(stock.get_stock(GetStockRequest { product: product.clone(), read_time: None }));
    try_it!(stock.adjust_stock(adjustment(&key(), &product, "", 1)));
    try_it!(stock.transfer_stock(transfer(&key(), &product, (&main, &far), 1)));
    try_it!(stock.count_stock(count(&key(), &[(&product, "", 1)])));
    try_it!(stock.reconcile_stock(ReconcileStockRequest::default()));
    try_it!(stock.list_low_stock(ListLowStockRequest::default()));
    try_it!(stock.list_ledger_entries(ListLedgerEntriesRequest { parent: product.clone(), ..Default::default() }));
    try_it!(reservations.get_reservation(GetReservationRequest { name: reservation }));
    try_it!(reservations.reserve(reserve(&order, &[(&product, 1)], 60)));
    try_it!(reservations.commit_reservation(CommitReservationRequest { order: order.clone() }));
    try_it!(reservations.release_reservation(ReleaseReservationRequest { order: order.clone() }));
    try_it!(reservations.return_reservation(give_back(&order, "k", &[(&product, 1)])));
    tried
}

const PUBLIC: usize = 4;
const STAFF: usize = 14;

#[tokio::test(flavor = "multi_thread")]
async fn each_method_admits_exactly_the_callers_of_its_access_rule() {
    let souk = Souk::start(Engine::Sqlite, 1, &[]).await;
    let (product, order) = (souk.product("A").await, order());
    let denied = Some(Reason::AccessDenied);
    for (who, staff_methods, get_reservation, internal) in [
        (&Bearer::Nobody, Some(Reason::TokenMissing), Some(Reason::TokenMissing), denied),
        (&souk.customer, denied, denied, denied),
        (&souk.service, denied, denied, None),
        (&Bearer::service("gateway"), denied, denied, denied),
        (&souk.staff, None, None, denied),
    ] {
        for (at, (method, refused)) in tried(&souk, who, &product, &order).await.into_iter().enumerate() {
            let expected = match at {
                ..PUBLIC => None,
                _ if at < PUBLIC + STAFF => staff_methods,
                _ if method == "get_reservation" => get_reservation,
                _ => internal,
            };
            assert_eq!(refused, expected, "{method}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn access_is_checked_before_the_request() {
    let souk = Souk::start(Engine::Sqlite, 1, &[]).await;
    let mut products = ProductServiceClient::with_interceptor(souk.channel(), souk.customer.clone());
    let nonsense = ArchiveProductRequest { name: "nonsense".to_owned(), ..Default::default() };
    refused(products.archive_product(nonsense.clone()).await, Reason::AccessDenied);
    refused(souk.products().archive_product(nonsense).await, Reason::FieldInvalid);
}
