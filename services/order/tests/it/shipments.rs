//! Orders are shipped in parts, and each piece once.

use souk_common::error::Reason;
use souk_proto::order::v1::{
    CreateShipmentRequest, GetShipmentRequest, ListShipmentsRequest,
    order::{FulfillmentState, State},
    timeline_entry::Kind,
};

use crate::harness::{back, both, cancel, fields, order_for, refused, shipment, untracked};

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_shipped_in_parts() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 10).await;
        let postage = souk.made(untracked("POST")).await;
        let order = souk.confirmed(&[(&lantern, 4), (&postage, 1), (&lantern, 1)]).await;
        assert_eq!(order.fulfillment_state(), FulfillmentState::Unfulfilled);

        let request = shipment(&order.name, &[(1, 1), (3, 1), (1, 1)]);
        let first = souk.ship(&souk.staff, request.clone()).await.unwrap();
        assert!(first.name.starts_with(&format!("{}/shipments/shp_", order.name)), "{}", first.name);
        let lines: Vec<_> = first.lines.iter().map(|line| (line.line_number, line.quantity)).collect();
        assert_eq!(lines, [(1, 2), (3, 1)]);
        assert_eq!((first.carrier.as_str(), first.tracking_number.as_str()), ("Royal Mail", "AB123"));
        assert_eq!(first.ship_time, first.create_time);
        // The same request again has the same response and changes nothing.
        assert_eq!(souk.ship(&souk.staff, request.clone()).await.unwrap(), first);
        let other = CreateShipmentRequest { request_id: request.request_id, ..shipment(&order.name, &[(1, 1)]) };
        refused(souk.ship(&souk.staff, other).await, Reason::IdempotencyKeyReused);

        let now = souk.get(&souk.ada, &order.name).await.unwrap();
        assert_eq!((now.state(), now.fulfillment_state()), (State::Confirmed, FulfillmentState::PartiallyShipped));
        let shipped: Vec<_> = now.lines.iter().map(|line| line.shipped_quantity).collect();
        assert_eq!(shipped, [2, 0, 1]);
        assert_ne!(now.etag, order.etag);
        let timeline = souk.timeline(&souk.ada, &order.name).await;
        let entry = timeline.last().unwrap();
        assert_eq!((entry.kind(), entry.detail.as_str()), (Kind::Shipped, "Royal Mail AB123"));
        assert_eq!(entry.actor, souk.staff.name);

        let problem =
            refused(souk.ship(&souk.staff, shipment(&order.name, &[(1, 3), (9, 1)])).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["shipment.lines[0].quantity", "shipment.lines[1].line_number"]);
        assert_eq!(souk.get(&souk.ada, &order.name).await.unwrap(), now);

        // Postage needs no shipment.
        let second = souk.ship(&souk.staff, shipment(&order.name, &[(1, 2)])).await.unwrap();
        let now = souk.get(&souk.ada, &order.name).await.unwrap();
        assert_eq!(now.fulfillment_state(), FulfillmentState::Shipped);

        // Returned pieces cannot be shipped again.
        souk.give_back(&souk.staff, back(&order.name, &[(1, 4)])).await.unwrap();
        refused(souk.ship(&souk.staff, shipment(&order.name, &[(1, 1)])).await, Reason::FieldInvalid);
        assert_eq!(souk.get(&souk.ada, &order.name).await.unwrap().fulfillment_state(), FulfillmentState::Shipped);

        let list = ListShipmentsRequest { parent: order.name.clone(), page_size: 1, ..Default::default() };
        let page = souk.api(&souk.ada).list_shipments(list.clone()).await.unwrap().into_inner();
        assert_eq!(page.shipments, std::slice::from_ref(&first));
        let rest = ListShipmentsRequest { page_token: page.next_page_token, ..list };
        let page = souk.api(&souk.ada).list_shipments(rest).await.unwrap().into_inner();
        assert_eq!((page.shipments, page.next_page_token.as_str()), (vec![second], ""));
        let one = GetShipmentRequest { name: first.name.clone() };
        assert_eq!(souk.api(&souk.ada).get_shipment(one.clone()).await.unwrap().into_inner(), first);
        refused(souk.api(&souk.bob).get_shipment(one).await, Reason::AccessDenied);
        let none = GetShipmentRequest { name: format!("{}/shipments/shp_00000000000000000000000000", order.name) };
        refused(souk.api(&souk.staff).get_shipment(none).await, Reason::ResourceNotFound);
        refused(souk.ship(&souk.ada, shipment(&order.name, &[(1, 1)])).await, Reason::AccessDenied);
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_goods_of_a_confirmed_order_can_be_shipped() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 9).await;
        let rejected = souk.place(&souk.ada, order_for(&[(&lantern, 1)], "tok_declined")).await.unwrap();
        assert_eq!(rejected.fulfillment_state(), FulfillmentState::NotNeeded);
        let problem = refused(souk.ship(&souk.staff, shipment(&rejected.name, &[(1, 1)])).await, Reason::StateConflict);
        assert!(problem.violations()[0].description.ends_with("STATE_REJECTED"), "{problem}");

        // A piece is either shipped or cancelled, even with concurrent requests.
        let order = souk.confirmed(&[(&lantern, 5)]).await;
        let ships = (0..5).map(|_| souk.ship(&souk.staff, shipment(&order.name, &[(1, 1)])));
        let cancels = (0..5).map(|_| souk.cancel_items(&souk.ada, cancel(&order.name, &[(1, 1)])));
        let (ships, cancels) = tokio::join!(futures::future::join_all(ships), futures::future::join_all(cancels));
        let cancels = cancels.into_iter().map(|answer| answer.map(|_| ()));
        let mut done = 0;
        for answer in ships.into_iter().map(|answer| answer.map(|_| ())).chain(cancels) {
            match answer {
                Ok(()) => done += 1,
                Err(status) => {
                    let reason = souk_common::error::Problem::from(status).reason();
                    let busy = [Reason::FieldInvalid, Reason::RequestInProgress, Reason::StateConflict];
                    assert!(busy.contains(&reason), "{reason:?}");
                }
            }
        }
        let now = souk.get(&souk.ada, &order.name).await.unwrap();
        let line = &now.lines[0];
        assert_eq!(line.shipped_quantity + line.cancelled_quantity, done, "{now:?}");
        assert!(done <= 5, "{now:?}");
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shipment_has_tracking_information() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 1).await;
        let order = souk.confirmed(&[(&lantern, 1)]).await;
        let mut request = shipment(&order.name, &[(1, 1)]);
        let draft = request.shipment.as_mut().unwrap();
        draft.tracking_url = "javascript:alert(1)".into();
        draft.ship_time = Some(prost_types::Timestamp { seconds: 253_402_300_799, nanos: 0 });
        let problem = refused(souk.ship(&souk.staff, request.clone()).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["shipment.tracking_url"]);
        let draft = request.shipment.as_mut().unwrap();
        draft.tracking_url.clear();
        let problem = refused(souk.ship(&souk.staff, request.clone()).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["shipment.ship_time"]);
        let draft = request.shipment.as_mut().unwrap();
        draft.ship_time = Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 });
        let made = souk.ship(&souk.staff, request).await.unwrap();
        assert_eq!(made.ship_time.unwrap().seconds, 1_700_000_000);
    }
}
