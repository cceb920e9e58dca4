//! Pages, filters and timelines.

use souk_common::error::Reason;
use souk_proto::order::v1::{ListOrdersRequest, ListTimelineEntriesRequest, order::State};

use crate::harness::{Souk, both, fields, order_for, refused};

async fn listed(souk: &Souk, filter: &str) -> Vec<String> {
    let request = ListOrdersRequest { filter: filter.to_owned(), ..Default::default() };
    let page = souk.api(&souk.staff).list_orders(request).await.unwrap().into_inner();
    page.orders.into_iter().map(|order| order.external_id).collect()
}

async fn order_named(souk: &Souk, external_id: &str) -> String {
    let filter = format!("external_id = \"{external_id}\"");
    let request = ListOrdersRequest { filter, ..Default::default() };
    souk.api(&souk.staff).list_orders(request).await.unwrap().into_inner().orders[0].name.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_listed_in_pages_and_filtered() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 100).await;
        for (index, token) in ["tok_approved", "tok_declined", "tok_approved", "tok_approved"].iter().enumerate() {
            let mut request = order_for(&[(&lantern, 1), (&lantern, 2)], token);
            request.external_id = format!("Inv_{index}");
            request.place_time = Some(prost_types::Timestamp {
                seconds: 1_000_000_000 * (4 - i64::try_from(index).unwrap()) / 4,
                nanos: 0,
            });
            souk.place(&souk.staff, request).await.unwrap();
        }
        souk.confirmed(&[(&lantern, 1)]).await;

        // Newest first, in pages, each order once.
        let mut request = ListOrdersRequest { page_size: 2, ..Default::default() };
        let mut seen = Vec::new();
        let mut pages = 0;
        loop {
            let page = souk.api(&souk.staff).list_orders(request.clone()).await.unwrap().into_inner();
            pages += 1;
            assert!(page.orders.iter().all(|order| !order.lines.is_empty()));
            seen.extend(page.orders.into_iter().map(|order| order.external_id));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(pages, 3);
        assert_eq!(seen, ["", "Inv_3", "Inv_2", "Inv_1", "Inv_0"]);

        assert_eq!(listed(&souk, "state = STATE_REJECTED").await, ["Inv_1"]);
        assert_eq!(listed(&souk, "state != STATE_CONFIRMED").await, ["Inv_1"]);
        let last = souk.get(&souk.staff, &order_named(&souk, "Inv_3").await).await.unwrap();
        souk.cancel(&souk.staff, &last.name, "").await.unwrap();
        assert_eq!(listed(&souk, "state != STATE_CONFIRMED").await, ["Inv_3", "Inv_1"]);
        assert_eq!(listed(&souk, "state != STATE_CONFIRMED AND state != STATE_REJECTED").await, ["Inv_3"]);
        assert_eq!(listed(&souk, "state = STATE_CANCELLED AND state = STATE_REJECTED").await, Vec::<String>::new());
        assert_eq!(listed(&souk, "state != STATE_CONFIRMED AND external_id:\"1\"").await, ["Inv_1"]);
        // States have an index each: their pages are merged.
        let rare = ListOrdersRequest { page_size: 1, filter: "state != STATE_CONFIRMED".into(), ..Default::default() };
        let first = souk.api(&souk.staff).list_orders(rare.clone()).await.unwrap().into_inner();
        let rest = ListOrdersRequest { page_token: first.next_page_token, ..rare };
        let rest = souk.api(&souk.staff).list_orders(rest).await.unwrap().into_inner();
        assert_eq!([&first.orders[0].external_id, &rest.orders[0].external_id], ["Inv_3", "Inv_1"]);
        assert_eq!(rest.next_page_token, "");
        assert_eq!(listed(&souk, "external_id = \"Inv_2\"").await, ["Inv_2"]);
        assert_eq!(listed(&souk, "external_id != \"Inv_2\"").await, ["", "Inv_3", "Inv_1", "Inv_0"]);
        assert_eq!(listed(&souk, "external_id:\"nv_\"").await, ["Inv_3", "Inv_2", "Inv_1", "Inv_0"]);
        assert_eq!(listed(&souk, "external_id:\"INV_3\"").await, ["Inv_3"]);
        assert_eq!(listed(&souk, "external_id:\"%\"").await, Vec::<String>::new());
        let before = "place_time < \"1990-01-01T00:00:00Z\"";
        assert_eq!(listed(&souk, before).await, ["Inv_3", "Inv_2"]);
        let both = format!("{before} AND external_id != \"Inv_3\" AND create_time > \"2020-01-01T00:00:00Z\"");
        assert_eq!(listed(&souk, &both).await, ["Inv_2"]);

        // A token belongs to its list.
        request.filter = "state = STATE_REJECTED".into();
        let answer = souk.api(&souk.staff).list_orders(request).await;
        refused(answer, Reason::PageTokenInvalid);
        for filter in ["state = 7", "total > 3", "external_id", "place_time = yesterday"] {
            let request = ListOrdersRequest { filter: filter.to_owned(), ..Default::default() };
            let problem = refused(souk.api(&souk.staff).list_orders(request).await, Reason::FieldInvalid);
            assert_eq!(fields(&problem), ["filter"], "{filter}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn timelines_name_the_actor_of_each_entry() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 5).await;
        let order = souk.confirmed(&[(&lantern, 1)]).await;
        souk.cancel(&souk.staff, &order.name, "").await.unwrap();
        let mut request = ListTimelineEntriesRequest { parent: order.name.clone(), page_size: 4, ..Default::default() };
        let mut entries = Vec::new();
        loop {
            let page = souk.api(&souk.ada).list_timeline_entries(request.clone()).await.unwrap().into_inner();
            entries.extend(page.timeline_entries);
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(entries.len(), 10);
        assert_eq!(entries[0].actor, souk.ada.name);
        assert_eq!(
            (entries[6].actor.as_str(), entries[6].detail.as_str()),
            (souk.staff.name.as_str(), "changed my mind")
        );
        for entry in entries[1..6].iter().chain(&entries[7..]) {
            assert_eq!(entry.actor, "services/order", "{entry:?}");
        }
        let rejected = souk.place(&souk.ada, order_for(&[(&lantern, 1)], "tok_declined")).await.unwrap();
        assert_eq!(rejected.state(), State::Rejected);
        let request = ListTimelineEntriesRequest { parent: rejected.name, ..Default::default() };
        let page = souk.api(&souk.ada).list_timeline_entries(request).await.unwrap().into_inner();
        assert_eq!(page.timeline_entries.last().unwrap().detail, "the card was declined");
    }
}
