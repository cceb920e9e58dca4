//! Notes are in the timeline. Customers see only those that are meant for them.

use souk_common::error::Reason;
use souk_proto::order::v1::{AddOrderNoteRequest, timeline_entry::Kind};

use crate::harness::{both, fields, key, order_for, refused};

fn note(order: &str, text: &str, visible_to_customer: bool) -> AddOrderNoteRequest {
    AddOrderNoteRequest { name: order.to_owned(), request_id: key(), text: text.to_owned(), visible_to_customer }
}

#[tokio::test(flavor = "multi_thread")]
async fn notes_are_for_staff_unless_meant_for_the_customer() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 10).await;
        let order = souk.confirmed(&[(&lantern, 1)]).await;
        let before = souk.timeline(&souk.ada, &order.name).await;
        let mut staff = souk.api(&souk.staff);
        let request = note(&order.name, "called twice, no answer", false);
        let hidden = staff.add_order_note(request.clone()).await.unwrap().into_inner();
        assert_eq!((hidden.kind(), hidden.visible_to_customer), (Kind::Note, false));
        assert_eq!(
            (hidden.actor.as_str(), hidden.detail.as_str()),
            (souk.staff.name.as_str(), "called twice, no answer")
        );
        assert_eq!(staff.add_order_note(request).await.unwrap().into_inner(), hidden);
        let shown = staff.add_order_note(note(&order.name, "we pack it today", true)).await.unwrap().into_inner();

        let seen = souk.timeline(&souk.ada, &order.name).await;
        assert_eq!((&seen[..before.len()], &seen[before.len()..]), (&before[..], std::slice::from_ref(&shown)));
        let all = souk.timeline(&souk.staff, &order.name).await;
        assert_eq!(all[before.len()..], [hidden, shown]);
        assert_ne!(souk.get(&souk.ada, &order.name).await.unwrap().etag, order.etag);

        refused(souk.api(&souk.ada).add_order_note(note(&order.name, "mine", true)).await, Reason::AccessDenied);
        let problem = refused(staff.add_order_note(note(&order.name, "a\0b", true)).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["text"]);
        let nobody = note("orders/ord_00000000000000000000000000", "hello", true);
        refused(staff.add_order_note(nobody).await, Reason::ResourceNotFound);
        // Rejected orders accept notes, too. An order that is being placed accepts them once it is final.
        let slow = souk.place(&souk.ada, order_for(&[(&lantern, 1)], "tok_slow"));
        let early = async {
            let name = souk.paying().await;
            refused(souk.api(&souk.staff).add_order_note(note(&name, "wait", false)).await, Reason::RequestInProgress)
        };
        let (placed, _) = tokio::join!(slow, early);
        staff.add_order_note(note(&placed.unwrap().name, "now", false)).await.unwrap();
        souk.verified().await;
    }
}
