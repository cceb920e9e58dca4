//! Tests of the catalogue.

use prost_types::FieldMask;
use souk_common::{error::Reason, ids::ProductId};
use souk_proto::inventory::v1::{
    ArchiveProductRequest, BatchGetProductsRequest, CreateProductRequest, GetProductRequest, ListProductsRequest,
    Product, UpdateProductRequest,
    product::{State, StockTracking},
};
use souk_testkit::db::Engine;
use tonic::Status;

use crate::harness::{Souk, both, draft, fields, gbp, order, refused, untracked};

async fn get(souk: &Souk, name: &str) -> Result<Product, Status> {
    let request = GetProductRequest { name: name.to_owned() };
    Ok(souk.products().get_product(request).await?.into_inner())
}

async fn update(souk: &Souk, product: Product, mask: &[&str]) -> Result<Product, Status> {
    let paths = mask.iter().map(|&path| path.to_owned()).collect();
    let request = UpdateProductRequest { product: Some(product), update_mask: Some(FieldMask { paths }) };
    Ok(souk.products().update_product(request).await?.into_inner())
}

async fn archive(souk: &Souk, name: &str, etag: &str) -> Result<Product, Status> {
    let request = ArchiveProductRequest { name: name.to_owned(), etag: etag.to_owned() };
    Ok(souk.products().archive_product(request).await?.into_inner())
}

/// The stock codes of all pages.
async fn listed(souk: &Souk, filter: &str, order_by: &str) -> Vec<String> {
    let request = ListProductsRequest {
        page_size: 2,
        filter: filter.to_owned(),
        order_by: order_by.to_owned(),
        ..Default::default()
    };
    souk.listed(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_product_is_created_and_read() {
    for souk in both().await {
        let made = souk.made(Product { description: "Red.".to_owned(), ..draft("Ab 1/x") }).await;
        assert_eq!(made.sku, "Ab 1/x");
        assert_eq!(made.price, Some(gbp(2, 500_000_000)));
        assert_eq!((made.state(), made.stock_tracking()), (State::Active, StockTracking::Tracked));
        assert!(made.create_time.is_some() && made.create_time == made.update_time && !made.etag.is_empty());
        assert_eq!(get(&souk, &made.name).await.unwrap(), made);
        assert_eq!(souk.made(untracked("POST")).await.stock_tracking(), StockTracking::Untracked);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_product_is_refused_with_every_error() {
    for souk in both().await {
        let create = |product: Option<Product>| {
            let mut client = souk.products();
            async move { client.create_product(CreateProductRequest { product }).await }
        };
        let nothing = refused(create(Some(Product::default())).await, Reason::FieldInvalid);
        assert_eq!(fields(&nothing), ["product.sku", "product.title", "product.price"]);
        refused(create(None).await, Reason::FieldInvalid);
        for (product, path) in [
            (draft("-x"), "product.sku"),
            (draft(&"x".repeat(65)), "product.sku"),
            (Product { title: "x".repeat(301), ..draft("A") }, "product.title"),
            (Product { title: "\u{a0} ".to_owned(), ..draft("A") }, "product.title"),
            (Product { description: "x".repeat(10_001), ..draft("A") }, "product.description"),
            (Product { price: Some(gbp(0, -10_000_000)), ..draft("A") }, "product.price"),
            (Product { price: Some(gbp(0, 1_000_000)), ..draft("A") }, "product.price.nanos"),
            (Product { stock_tracking: 9, ..draft("A") }, "product.stock_tracking"),
        ] {
            let problem = refused(create(Some(product)).await, Reason::FieldInvalid);
            assert_eq!(fields(&problem), [path], "{problem}");
        }
        create(Some(draft("Dot"))).await.unwrap();
        let taken = refused(create(Some(draft("dOT"))).await, Reason::ResourceExists);
        assert_eq!(fields(&taken), ["product.sku"]);
        refused(get(&souk, &ProductId::new().name()).await, Reason::ResourceNotFound);
        refused(get(&souk, &order()).await, Reason::FieldInvalid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_changes_only_the_fields_of_its_mask() {
    for souk in both().await {
        let made = souk.made(Product { description: "Red.".to_owned(), ..draft("A") }).await;
        let sent = Product { name: made.name.clone(), title: "New".to_owned(), ..Product::default() };
        let titled = update(&souk, sent.clone(), &[]).await.unwrap();
        assert_eq!((titled.title.as_str(), titled.description.as_str()), ("New", "Red."));
        assert_ne!(titled.etag, made.etag);
        assert_eq!(titled.create_time, made.create_time);

        let cleared = update(&souk, Product { etag: titled.etag.clone(), ..sent.clone() }, &["description"]).await;
        let cleared = cleared.unwrap();
        assert_eq!((cleared.description.as_str(), &cleared.price), ("", &made.price));
        let stale = update(&souk, Product { etag: titled.etag, ..sent.clone() }, &["title"]).await;
        refused(stale, Reason::EtagMismatch);

        let all = Product { price: Some(gbp(9, 0)), ..sent.clone() };
        assert_eq!(update(&souk, all, &["*"]).await.unwrap().price, Some(gbp(9, 0)));
        let problem = refused(update(&souk, sent.clone(), &["*"]).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["product.price"]);
        let problem = refused(update(&souk, sent.clone(), &["sku"]).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["update_mask"]);
        let nobody = Product { name: ProductId::new().name(), ..sent.clone() };
        refused(update(&souk, nobody, &["title"]).await, Reason::ResourceNotFound);
        let problem =
            refused(update(&souk, Product { name: String::new(), ..sent }, &["title"]).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["product.name"]);

        let now = get(&souk, &made.name).await.unwrap();
        let nothing = Product { name: made.name, ..Product::default() };
        assert_eq!(update(&souk, nothing, &[]).await.unwrap(), now, "no change leaves all as it is");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_concurrent_updates_with_one_etag_one_succeeds() {
    for souk in both().await {
        let made = souk.made(draft("A")).await;
        let changes = (0..16).map(|n| {
            let sent = Product { title: format!("Title {n}"), ..made.clone() };
            update(&souk, sent, &["title"])
        });
        let answers = futures::future::join_all(changes).await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
        for lost in answers.into_iter().filter(Result::is_err) {
            refused(lost, Reason::EtagMismatch);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archived_product_stays_but_is_not_sold() {
    for souk in both().await {
        let product = souk.stocked("A", 5).await;
        refused(archive(&souk, &product, "v9").await, Reason::EtagMismatch);
        let archived = archive(&souk, &product, "v1").await.unwrap();
        assert_eq!(archived.state(), State::Archived);
        assert_eq!(archive(&souk, &product, "").await.unwrap(), archived, "again changes nothing");
        let sent = Product { name: product.clone(), title: "New".to_owned(), ..Product::default() };
        refused(update(&souk, sent, &["title"]).await, Reason::ProductArchived);
        let problem = refused(souk.reserve(&order(), &[(&product, 1)]).await, Reason::ProductArchived);
        assert_eq!(problem.violations()[0].subject, product);
        // It exists, but cannot be ordered.
        assert_eq!(souk.sums(&product).await, (5, 0, 0));
        assert_eq!(listed(&souk, "", "").await, Vec::<String>::new());
        assert_eq!(listed(&souk, "state = ARCHIVED", "").await, ["A"]);
        refused(archive(&souk, &ProductId::new().name(), "").await, Reason::ResourceNotFound);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_products_are_read_at_once_in_the_requested_order() {
    for souk in both().await {
        let (a, b, c) = (souk.product("A").await, souk.product("b").await, souk.product("C").await);
        let ask = |names: &[&str], skus: &[&str], allow_missing| {
            let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
            let request = BatchGetProductsRequest { names: owned(names), skus: owned(skus), allow_missing };
            let mut client = souk.products();
            async move {
                let products = client.batch_get_products(request).await?.into_inner().products;
                Ok::<_, Status>(products.into_iter().map(|product| product.name).collect::<Vec<_>>())
            }
        };
        let missing = ProductId::new().name();
        assert_eq!(ask(&[&c, &a, &c], &["B", "a"], false).await.unwrap(), [&*c, &a, &c, &b, &a]);
        let problem = refused(ask(&[&a, &missing], &["b", "zz"], false).await, Reason::ResourceNotFound);
        assert_eq!(fields(&problem), ["names[1]", "skus[1]"]);
        assert_eq!(ask(&[&a, &missing], &["zz", "b"], true).await.unwrap(), [&*a, &b]);
        refused(ask(&[], &[], true).await, Reason::FieldInvalid);
        let many = vec![&*a; 600];
        refused(ask(&many, &["a"; 401], true).await, Reason::FieldInvalid);
        assert_eq!(ask(&many, &["a"; 400], true).await.unwrap().len(), 1000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_filtered_ordered_and_split_into_pages() {
    for souk in both().await {
        let titled = |sku: &str, title: &str, units, nanos, code: &str| Product {
            title: title.to_owned(),
            price: Some(souk_proto::google::r#type::Money { currency_code: code.to_owned(), units, nanos }),
            ..draft(sku)
        };
        souk.made(titled("b2", "RED Lantern", 5, 0, "GBP")).await;
        souk.made(titled("A1", "Ärmel 50%", 7, 0, "JPY")).await;
        souk.made(titled("c3", "red lamp", 4, 990_000_000, "GBP")).await;
        souk.made(Product { stock_tracking: StockTracking::Untracked.into(), ..titled("D4", "Post_age", 5, 0, "GBP") })
            .await;
        let gone = souk.made(titled("E5", "Gone", 1, 0, "GBP")).await;
        archive(&souk, &gone.name, "").await.unwrap();

        for (filter, order_by, skus) in [
            ("", "", &["D4", "c3", "A1", "b2"][..]),
            ("", "create_time", &["b2", "A1", "c3", "D4"]),
            ("", "sku", &["A1", "b2", "c3", "D4"]),
            ("", "sku desc", &["D4", "c3", "b2", "A1"]),
            ("", "title", &["D4", "c3", "b2", "A1"]),
            ("", "price", &["c3", "b2", "D4", "A1"]),
            ("", "price desc", &["A1", "D4", "b2", "c3"]),
            ("price <= 5.00", "sku", &["b2", "c3", "D4"]),
            ("price < 5.00", "sku", &["c3"]),
            ("price = 5 AND stock_tracking = TRACKED", "sku", &["b2"]),
            ("title:red", "sku", &["b2", "c3"]),
            ("title:\"RED L\" AND price > 4.99", "sku", &["b2"]),
            ("title:ÄRMEL", "", &["A1"]),
            ("title:%", "", &["A1"]),
            ("title:_", "", &["D4"]),
            ("sku = a1", "", &["A1"]),
            ("sku != a1", "sku", &["b2", "c3", "D4"]),
            ("state = STATE_ARCHIVED", "", &["E5"]),
            ("state = ARCHIVED AND state = ACTIVE", "", &[]),
            ("create_time > 2020-01-01", "sku", &["A1", "b2", "c3", "D4"]),
            ("create_time < 2020-01-01T00:00:00Z", "", &[]),
        ] {
            assert_eq!(listed(&souk, filter, order_by).await, skus, "{} {filter} {order_by}", souk.database.engine);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_list_request_is_refused() {
    let souk = Souk::start(Engine::Sqlite, 1, &[]).await;
    for sku in ["a", "b", "c"] {
        souk.product(sku).await;
    }
    let list = |request: ListProductsRequest| {
        let mut client = souk.products();
        async move { Ok::<_, Status>(client.list_products(request).await?.into_inner()) }
    };
    let good = ListProductsRequest { page_size: 1, order_by: "sku".to_owned(), ..Default::default() };
    let token = list(good.clone()).await.unwrap().next_page_token;
    let with = |change: fn(&mut ListProductsRequest)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    for (request, reason, path) in [
        (with(|r| r.filter = "colour = red".to_owned()), Reason::FieldInvalid, "filter"),
        (with(|r| r.filter = "price < cheap".to_owned()), Reason::FieldInvalid, "filter"),
        (with(|r| r.order_by = "colour".to_owned()), Reason::FieldInvalid, "order_by"),
        (with(|r| r.page_size = -1), Reason::FieldInvalid, "page_size"),
        (with(|r| r.page_token = "x".to_owned()), Reason::PageTokenInvalid, "page_token"),
    ] {
        assert_eq!(fields(&refused(list(request).await, reason)), [path]);
    }
    let other = ListProductsRequest { order_by: "title".to_owned(), page_token: token.clone(), ..good.clone() };
    refused(list(other).await, Reason::PageTokenInvalid);
    let next = list(ListProductsRequest { page_token: token, page_size: 2, ..good }).await.unwrap();
    assert_eq!(next.products.iter().map(|product| product.sku.as_str()).collect::<Vec<_>>(), ["b", "c"]);
}
