//! Customers reach their own orders, and staff reach all orders.

use souk_common::error::Reason;
use souk_proto::order::v1::{ListOrdersRequest, ListTimelineEntriesRequest, PlaceOrderRequest};

use crate::harness::{Bearer, Person, back, both, fields, gbp, order_for, refused};

const NOBODYS: &str = "orders/ord_00000000000000000000000000";

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_order_and_a_missing_one_have_the_same_error() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 5).await;
        let order = souk.confirmed(&[(&lantern, 1)]).await;
        let timeline = |parent: &str| ListTimelineEntriesRequest { parent: parent.to_owned(), ..Default::default() };
        let mut messages = Vec::new();
        for name in [order.name.as_str(), NOBODYS] {
            for problem in [
                refused(souk.get(&souk.bob, name).await, Reason::AccessDenied),
                refused(souk.cancel(&souk.bob, name, "").await, Reason::AccessDenied),
                refused(souk.api(&souk.bob).list_timeline_entries(timeline(name)).await, Reason::AccessDenied),
            ] {
                messages.push(problem.message().replace(name, "X"));
            }
            refused(souk.give_back(&souk.bob, back(name, &[(1, 1)])).await, Reason::AccessDenied);
        }
        messages.dedup();
        assert_eq!(messages.len(), 1, "{messages:?}");
        // Customers cannot return their own goods themselves.
        refused(souk.give_back(&souk.ada, back(&order.name, &[(1, 1)])).await, Reason::AccessDenied);

        refused(souk.get(&souk.staff, NOBODYS).await, Reason::ResourceNotFound);
        refused(souk.cancel(&souk.staff, NOBODYS, "").await, Reason::ResourceNotFound);
        refused(souk.give_back(&souk.staff, back(NOBODYS, &[(1, 1)])).await, Reason::ResourceNotFound);
        let missing = souk.api(&souk.staff).list_timeline_entries(timeline(NOBODYS)).await;
        refused(missing, Reason::ResourceNotFound);
        assert_eq!(souk.get(&souk.staff, &order.name).await.unwrap(), order);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn customers_order_for_themselves_at_the_catalogues_prices() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 5).await;
        type Change = fn(&mut PlaceOrderRequest);
        let cases: [(&str, Change); 3] = [
            ("external_id", |request| request.external_id = "1".into()),
            ("place_time", |request| request.place_time = Some(prost_types::Timestamp { seconds: 1, nanos: 0 })),
            ("items[0].unit_price", |request| request.items[0].unit_price = Some(gbp(0, 0))),
        ];
        for (field, change) in cases {
            let mut request = order_for(&[(&lantern, 1)], "tok_approved");
            change(&mut request);
            let problem = refused(souk.place(&souk.ada, request).await, Reason::AccessDenied);
            assert_eq!(fields(&problem), [field]);
        }
        let mut request = order_for(&[(&lantern, 1)], "tok_approved");
        request.customer = souk.bob.name.clone();
        let problem = refused(souk.place(&souk.ada, request.clone()).await, Reason::AccessDenied);
        assert_eq!(fields(&problem), ["customer"]);
        // A request may name its own caller as the customer.
        request.customer = souk.ada.name.clone();
        souk.place(&souk.ada, request).await.unwrap();
        assert_eq!(souk.all().await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_show_customers_only_their_own_orders() {
    for souk in both().await {
        let lantern = souk.stocked("LANTERN", 5).await;
        souk.confirmed(&[(&lantern, 1)]).await;
        souk.place(&souk.bob, order_for(&[(&lantern, 1)], "tok_approved")).await.unwrap();
        let of = async |who: &Person, customer: &str| {
            let request = ListOrdersRequest { customer: customer.to_owned(), ..Default::default() };
            let page = souk.api(who).list_orders(request).await?.into_inner();
            Ok::<_, tonic::Status>(page.orders.into_iter().map(|order| order.customer).collect::<Vec<_>>())
        };
        let (ada, bob) = (&souk.ada.name, &souk.bob.name);
        assert_eq!(of(&souk.ada, "").await.unwrap(), std::slice::from_ref(ada));
        assert_eq!(of(&souk.ada, ada).await.unwrap(), std::slice::from_ref(ada));
        refused(of(&souk.ada, bob).await, Reason::AccessDenied);
        assert_eq!(of(&souk.staff, "").await.unwrap(), [bob.clone(), ada.clone()]);
        assert_eq!(of(&souk.staff, ada).await.unwrap(), std::slice::from_ref(ada));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_requires_a_token() {
    for souk in both().await {
        let nobody = Person { name: String::new(), bearer: Bearer::Nobody };
        refused(souk.all_of(&nobody).await, Reason::TokenMissing);
        let forged = Person { name: String::new(), bearer: Bearer::token("x.y.z") };
        refused(souk.all_of(&forged).await, Reason::TokenInvalid);
    }
}

impl crate::harness::Souk {
    async fn all_of(&self, who: &Person) -> Result<usize, tonic::Status> {
        let page = self.api(who).list_orders(ListOrdersRequest::default()).await?;
        Ok(page.into_inner().orders.len())
    }
}
