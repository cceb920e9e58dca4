//! WatchOrders and WatchEvents: which events are sent to whom, and how a broken stream resumes.

use std::collections::HashMap;

use souk_common::error::Reason;
use souk_proto::{
    common::v1::WatchEventsRequest,
    order::v1::{
        ListOrdersRequest, Order, WatchOrdersRequest, WatchOrdersResponse, event_service_client::EventServiceClient,
        order::State,
    },
};
use souk_testkit::wait;
use tonic::{Code, Streaming};

use crate::harness::{self, Person, SOON, Souk, order_for, refused};

/// Opens a stream. Returns it and the cursor of its first response, where it begins.
async fn watch(souk: &Souk, who: &Person, cursor: &str) -> (Streaming<WatchOrdersResponse>, String) {
    let request = WatchOrdersRequest { cursor: cursor.to_owned(), ..Default::default() };
    let mut stream = souk.api(who).watch_orders(request).await.unwrap().into_inner();
    let first = next(&mut stream).await;
    assert_eq!((first.event_type.as_str(), first.order), ("", None));
    (stream, first.cursor)
}

async fn next(stream: &mut Streaming<WatchOrdersResponse>) -> WatchOrdersResponse {
    tokio::time::timeout(SOON, stream.message()).await.unwrap().unwrap().unwrap()
}

async fn told(stream: &mut Streaming<WatchOrdersResponse>) -> (String, Order) {
    let response = next(stream).await;
    assert!(response.event_time.is_some());
    (response.event_type, response.order.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn customers_watch_their_own_orders_and_staff_all_orders() {
    for souk in harness::both().await {
        let product = souk.stocked("LAMP", 5).await;
        let (mut adas, _) = watch(&souk, &souk.ada, "").await;
        let (mut bobs, _) = watch(&souk, &souk.bob, "").await;
        let (mut everyones, _) = watch(&souk, &souk.staff, "").await;

        let order = souk.confirmed(&[(&product, 2)]).await;
        let declined = souk.place(&souk.bob, order_for(&[(&product, 1)], "tok_declined")).await.unwrap();
        let cancelled = souk.cancel(&souk.ada, &order.name, "").await.unwrap();

        for (event, state) in [
            ("order.placed", State::Pending),
            ("order.confirmed", State::Confirmed),
            ("order.cancelling", State::Cancelling),
            ("order.cancelled", State::Cancelled),
        ] {
            let (told, shown) = told(&mut adas).await;
            assert_eq!((told.as_str(), shown.state(), &shown.name), (event, state, &order.name));
            if state == State::Cancelled {
                assert_eq!(shown, cancelled);
            }
        }
        for event in ["order.placed", "order.rejected"] {
            let (told, shown) = told(&mut bobs).await;
            assert_eq!((told.as_str(), &shown.name), (event, &declined.name));
        }
        let mut seen = HashMap::<String, usize>::new();
        for _ in 0..6 {
            *seen.entry(told(&mut everyones).await.1.name).or_default() += 1;
        }
        assert_eq!(seen, HashMap::from([(order.name, 4), (declined.name, 2)]));

        let adas_orders = WatchOrdersRequest { customer: souk.ada.name.clone(), ..Default::default() };
        let status = souk.api(&souk.bob).watch_orders(adas_orders).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_broken_a_hundred_times_misses_and_repeats_nothing() {
    const ORDERS: usize = 100;
    for mut souk in harness::both().await {
        let product = souk.stocked("LAMP", 1000).await;
        let (_, mut cursor) = watch(&souk, &souk.ada, "").await;
        let mut placed = Vec::new();
        let mut seen = Vec::new();
        for number in 0..ORDERS {
            placed.push(souk.confirmed(&[(&product, 1)]).await.name);
            if number == ORDERS / 2 {
                souk.restart().await;
            }
            // Each stream is read a little and then dropped.
            let mut stream;
            (stream, cursor) = watch(&souk, &souk.ada, &cursor).await;
            for _ in 0..number % 4 {
                if seen.len() == 2 * placed.len() {
                    break;
                }
                let response = next(&mut stream).await;
                cursor = response.cursor;
                seen.push((response.event_type, response.order.unwrap().name));
            }
        }
        let (mut stream, _) = watch(&souk, &souk.ada, &cursor).await;
        while seen.len() < 2 * ORDERS {
            let (event, order) = told(&mut stream).await;
            seen.push((event, order.name));
        }
        let expected = placed
            .iter()
            .flat_map(|order| ["order.placed", "order.confirmed"].map(|event| (event.to_owned(), order.clone())));
        assert_eq!(seen, expected.collect::<Vec<_>>(), "{}", souk.engine);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_issued_cursors_are_accepted_and_they_reveal_nothing() {
    let [souk, other] = harness::both().await;
    for cursor in ["0", "1000000", "later"] {
        let request = WatchOrdersRequest { cursor: cursor.to_owned(), ..Default::default() };
        let problem = refused(souk.api(&souk.ada).watch_orders(request).await, Reason::FieldInvalid);
        assert_eq!(problem.field_violations()[0].path, "cursor");
    }
    let product = souk.stocked("LAMP", 20).await;
    let (_, empty) = watch(&souk, &souk.bob, "").await;
    for _ in 0..10 {
        souk.confirmed(&[(&product, 1)]).await;
    }
    let (_, busy) = watch(&souk, &souk.bob, "").await;
    assert!(empty.len() == 59 && busy.len() == 59, "{empty} {busy}");
    // A cursor does not even reveal that nothing has happened.
    assert_ne!(busy, watch(&souk, &souk.bob, "").await.1);
    // The cursor of another shop.
    let request = WatchOrdersRequest { cursor: busy, ..Default::default() };
    let problem = refused(other.api(&other.ada).watch_orders(request).await, Reason::CursorExpired);
    assert_eq!(problem.field_violations()[0].path, "cursor");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_may_begin_with_the_oldest_event_that_is_kept() {
    for souk in harness::both().await {
        let product = souk.stocked("LAMP", 20).await;
        let bobs = souk.place(&souk.bob, order_for(&[(&product, 1)], "tok_approved")).await.unwrap().name;
        let adas = souk.confirmed(&[(&product, 1)]).await.name;
        let (mut own, _) = watch(&souk, &souk.ada, "start").await;
        let (mut all, _) = watch(&souk, &souk.staff, "start").await;
        for stream in [&mut own, &mut all] {
            let (event, order) = told(stream).await;
            assert_eq!(event, "order.placed");
            assert!(order.name == adas || order.name == bobs);
        }
        assert_eq!(told(&mut own).await.1.name, adas);
        // Staff watch the orders of one customer.
        let request = WatchOrdersRequest { customer: souk.bob.name.clone(), cursor: "start".into() };
        let mut stream = souk.api(&souk.staff).watch_orders(request).await.unwrap().into_inner();
        next(&mut stream).await;
        assert_eq!([told(&mut stream).await.1.name, told(&mut stream).await.1.name], [bobs.clone(), bobs]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn administrators_read_events_again_from_a_position() {
    for souk in harness::both().await {
        let product = souk.stocked("LAMP", 20).await;
        souk.confirmed(&[(&product, 1)]).await;
        let mut events = EventServiceClient::with_interceptor(souk.orders.channel(), souk.admin.bearer.clone());
        let after = |position| WatchEventsRequest { after_position: Some(position), ..Default::default() };
        let mut stream = events.watch_events(after(1)).await.unwrap().into_inner();
        assert_eq!(stream.message().await.unwrap().unwrap().event, None);
        let second = stream.message().await.unwrap().unwrap();
        assert_eq!(second.event.unwrap().position, 2);
        // A cursor overrides the position, because a broken stream reconnects to the same URL.
        let request = WatchEventsRequest { cursor: second.cursor.clone(), ..after(0) };
        let mut stream = events.watch_events(request).await.unwrap().into_inner();
        assert_eq!(stream.message().await.unwrap().unwrap().event, None);
        souk.confirmed(&[(&product, 1)]).await;
        assert_eq!(stream.message().await.unwrap().unwrap().event.unwrap().position, 3);
        let problem = refused(events.watch_events(after(1000)).await, Reason::FieldInvalid);
        assert_eq!(problem.field_violations()[0].path, "after_position");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_limited_and_free_their_places_when_they_end() {
    let [mut souk, _] = harness::both().await;
    souk.config.common.server.max_streams = 2;
    souk.restart().await;
    let (first, _) = watch(&souk, &souk.ada, "").await;
    let (_second, _) = watch(&souk, &souk.bob, "").await;
    let open = async || souk.api(&souk.ada).watch_orders(WatchOrdersRequest::default()).await;
    refused(open().await, Reason::Overloaded);
    souk.api(&souk.ada).list_orders(ListOrdersRequest::default()).await.unwrap();
    drop(first);
    wait::until(SOON, "the place to be free again", async || open().await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_administrators_and_services_read_the_event_log() {
    let [souk, _] = harness::both().await;
    let mut events = EventServiceClient::with_interceptor(souk.orders.channel(), souk.staff.bearer.clone());
    let status = events.watch_events(WatchEventsRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}
