//! The cost of a page does not grow with the catalogue: a page reads a limited number of products, and has a limited
//! size.

use std::collections::BTreeSet;

use prost::Message as _;
use souk_common::page::{MAX_BYTES, MAX_SCANNED};
use souk_proto::inventory::v1::{
    ArchiveProductRequest, BatchUpsertProductsRequest, ListProductsRequest, ListProductsResponse, Product,
};

use crate::harness::{Souk, both, draft, gbp};

/// More than two pages read.
const PRODUCTS: usize = 2 * MAX_SCANNED as usize + 300;

/// Fills the catalogue. Each product has the word `common` and a unique title. One in every 500 has the word `rare`.
async fn filled(souk: &Souk) {
    let product = |number: usize| Product {
        title: format!("Lamp {number:04}{}", if number.is_multiple_of(500) { " rare-ish" } else { "" }),
        description: "common words".to_owned(),
        price: Some(gbp(i64::try_from(number % 90).unwrap() + 1, 0)),
        ..draft(&format!("L{number:04}"))
    };
    for first in (0..PRODUCTS).step_by(500) {
        let products = (first..PRODUCTS.min(first + 500)).map(product).collect();
        let request = BatchUpsertProductsRequest { products, ..Default::default() };
        souk.products().batch_upsert_products(request).await.unwrap();
    }
}

/// All pages of a list.
async fn pages(souk: &Souk, mut request: ListProductsRequest) -> Vec<ListProductsResponse> {
    let mut pages = Vec::new();
    loop {
        let page = souk.products().list_products(request.clone()).await.unwrap().into_inner();
        request.page_token.clone_from(&page.next_page_token);
        pages.push(page);
        if request.page_token.is_empty() {
            return pages;
        }
    }
}

fn skus(pages: &[ListProductsResponse]) -> Vec<&str> {
    pages.iter().flat_map(|page| &page.products).map(|product| product.sku.as_str()).collect()
}

fn request(filter: &str, query: &str, order_by: &str) -> ListProductsRequest {
    let (filter, query, order_by) = (filter.to_owned(), query.to_owned(), order_by.to_owned());
    ListProductsRequest { filter, query, order_by, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_reads_a_limited_number_of_products_and_the_list_is_complete() {
    for souk in both().await {
        filled(&souk).await;
        let engine = souk.database.engine;
        let rare = ["L0000", "L0500", "L1000", "L1500", "L2000"];
        for order_by in ["", "create_time", "sku", "sku desc", "title", "title desc", "price", "price desc"] {
            // These pages reached their scan limit: they are empty, but the list continues.
            let none = pages(&souk, request("title:nothing", "", order_by)).await;
            assert_eq!((none.len(), skus(&none).len()), (3, 0), "{engine} {order_by}");
            for (filter, query) in [("title:rare", ""), ("title:rare AND state != ARCHIVED", "com"), ("", "rare")] {
                let found = pages(&souk, request(filter, query, order_by)).await;
                let skus = skus(&found);
                let found_skus: BTreeSet<_> = skus.iter().copied().collect();
                assert_eq!(skus.len(), rare.len(), "{engine} {filter} {query} {order_by}: {skus:?}");
                assert_eq!(found_skus, BTreeSet::from(rare), "{engine} {filter} {query} {order_by}");
                // An index finds a rare word at once.
                assert_eq!(found.len(), if query == "rare" { 1 } else { 3 }, "{engine} {filter} {query} {order_by}");
            }
            // For common words, products are read one by one in the order of the list.
            let all = pages(&souk, ListProductsRequest { page_size: 500, ..request("", "words lamp comm", order_by) });
            let all = all.await;
            assert_eq!(skus(&all).into_iter().collect::<BTreeSet<_>>().len(), PRODUCTS, "{engine} {order_by}");
            assert_eq!(skus(&all).len(), PRODUCTS, "{engine} {order_by}");
            assert!(pages(&souk, request("", "common lamp nothing", order_by)).await.len() == 1);
            // A product that an index finds is on the first page, wherever it is in the list.
            for filter in ["sku = L0001", "sku = L2299", "title = \"lamp 0001\" AND price < 9999", "state = ARCHIVED"] {
                assert_eq!(pages(&souk, request(filter, "", order_by)).await.len(), 1, "{engine} {filter} {order_by}");
            }
            let common = pages(&souk, request("sku = L0001", "common", order_by)).await;
            assert_eq!((common.len(), skus(&common)), (1, vec!["L0001"]), "{engine} {order_by}");
        }
        // If the filter limits the field of the order, the limit is the beginning or the end of the scan.
        let dear = pages(&souk, request("price > 89 AND title:lamp", "", "price")).await;
        assert_eq!((dear.len(), skus(&dear).len()), (1, 25), "{engine}");

        // Archived products do not count for the scan limit of other lists.
        let found = pages(&souk, ListProductsRequest { page_size: 500, ..request("", "", "sku desc") }).await;
        for product in found.iter().flat_map(|page| &page.products).take(20) {
            let request = ArchiveProductRequest { name: product.name.clone(), ..Default::default() };
            souk.products().archive_product(request).await.unwrap();
        }
        let archived = pages(&souk, request("state = ARCHIVED", "", "sku desc")).await;
        assert_eq!((archived.len(), skus(&archived).len(), skus(&archived)[0]), (1, 20, "L2299"), "{engine}");
        assert_eq!(skus(&pages(&souk, request("", "", "sku desc")).await)[0], "L2279", "{engine}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_has_a_limit_in_bytes() {
    for souk in both().await {
        let product =
            |number: usize| Product { description: "ä".repeat(10_000), ..draft(&format!("LARGE-{number:03}")) };
        for first in (0..150).step_by(50) {
            let products = (first..first + 50).map(product).collect();
            let request = BatchUpsertProductsRequest { products, ..Default::default() };
            souk.products().batch_upsert_products(request).await.unwrap();
        }
        let found = pages(&souk, ListProductsRequest { page_size: 500, ..request("", "", "sku") }).await;
        for page in &found {
            assert!(page.encoded_len() <= MAX_BYTES + 1024 && !page.products.is_empty(), "{}", page.encoded_len());
        }
        assert_eq!(found.len(), 3, "two pages of 1 MiB, and the rest");
        let expected: Vec<_> = (0..150).map(|number| format!("LARGE-{number:03}")).collect();
        assert_eq!(skus(&found), expected);
    }
}
