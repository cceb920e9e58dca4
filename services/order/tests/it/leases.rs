//! A saga has one runner at a time: what a lease allows and prevents.

use chrono::{DateTime, TimeDelta, Utc};
use souk_common::{
    ids::{OrderId, ProductId, UserId},
    money::{Currency, Money},
};
use souk_order::{
    domain::{Address, Answer, Entry, Order, Placement, Saga, Wanted, price},
    store::{Key, Lease, Release, Renewal, Store, now},
};
use souk_testkit::db::both;

fn renewal(held: i64, lease: Lease) -> Renewal {
    Renewal { held, lease }
}

fn release(held: i64, due: DateTime<Utc>, attempts: i32, error: &str) -> Release<'_> {
    Release { held, due, attempts, error }
}

fn lease(id: i64, seconds: i64) -> Lease {
    Lease { id, until: now() + TimeDelta::seconds(seconds) }
}

fn order() -> (Order, Vec<Entry>) {
    let product = ProductId::new();
    let offer = souk_order::domain::Offer {
        sku: "SKU".into(),
        title: "Title".into(),
        price: Money::new(250, Currency::GBP),
        tracked: true,
        archived: false,
    };
    let wanted = [Wanted { product, quantity: 2, unit_price: None }];
    let placement = Placement {
        id: OrderId::new(),
        customer: UserId::new(),
        actor: "users/usr_x".into(),
        priced: price(&wanted, &[(product, offer)].into()).unwrap(),
        address: Address {
            recipient: "Ada".into(),
            address_lines: vec!["Line \"1\"".into()],
            locality: "Łódź".into(),
            administrative_area: String::new(),
            postal_code: String::new(),
            region_code: "PL".into(),
        },
        external_id: None,
        payment_token: "tok_approved".into(),
        place_time: None,
    };
    Order::place(placement, now()).unwrap()
}

fn key(text: &str) -> Key {
    Key { caller: "users/usr_x".into(), method: "PlaceOrder", key: text.into(), request_hash: vec![1, 2, 3] }
}

fn advanced(saga: &Saga) -> (Saga, Vec<Entry>) {
    let mut next = saga.clone();
    let entries = next.advance(&Answer::Done, None, now()).unwrap();
    (next, entries)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_holder_of_the_lease_stores_a_step() {
    for database in both("order").await {
        let config = souk_store::db::Config::at(database.url.clone());
        let store = Store::open(&config, database.data_dir()).await.unwrap();
        let (order, entries) = order();
        // The first runner died, and its lease expired.
        let first = lease(1, -1);
        assert_eq!(store.place(&key("a"), &order, &entries, first).await.unwrap(), None);
        let saga = Saga::Order(Box::new(order.clone()));
        assert_eq!(store.order(order.id, None).await.unwrap().unwrap(), order);
        assert!(store.is_saved(&saga).await.unwrap());

        // Two runners claim it at once. One gets it.
        let (second, third) = (lease(2, 60), lease(3, 60));
        let (a, b) = tokio::join!(store.claim(second, 10), store.claim(third, 10));
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!(a.len() + b.len(), 1);
        let (holder, other) = if a.len() == 1 { (second, third) } else { (third, second) };
        assert_eq!(a.into_iter().chain(b).next().unwrap(), saga);
        assert_eq!(store.claim(lease(4, 60), 10).await.unwrap(), []);

        let (next, entries) = advanced(&saga);
        for stranger in [first, other] {
            let held = renewal(stranger.id, lease(stranger.id, 60));
            assert!(!store.save(&saga, &next, &entries, None, held).await.unwrap());
            store.release(&saga, release(stranger.id, now(), 1, "stranger")).await.unwrap();
        }
        assert!(!store.is_saved(&next).await.unwrap());
        assert_eq!(store.claim(lease(4, 60), 10).await.unwrap(), []);
        let held = renewal(holder.id, lease(holder.id, 60));
        assert!(store.save(&saga, &next, &entries, None, held).await.unwrap());
        assert!(store.is_saved(&next).await.unwrap());
        // A step that was stored already is refused, even for the holder.
        assert!(!store.save(&saga, &next, &entries, None, held).await.unwrap());

        // A released saga is due at the given time, not before.
        store.release(&next, release(holder.id, now() + TimeDelta::seconds(60), 1, "later")).await.unwrap();
        assert_eq!(store.claim(lease(5, 60), 10).await.unwrap(), []);
        store.close().await;
    }
}

/// A runner whose response was lost checks whether its step was stored. A step of another runner with the same version
/// does not count.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_stored_by_another_runner_is_not_mistaken_for_ones_own() {
    for database in both("order").await {
        let config = souk_store::db::Config::at(database.url.clone());
        let store = Store::open(&config, database.data_dir()).await.unwrap();
        let (order, entries) = order();
        store.place(&key("a"), &order, &entries, lease(1, -1)).await.unwrap();
        let saga = Saga::Order(Box::new(order));
        let mut short = saga.clone();
        let answer = Answer::OutOfStock { message: "none".into(), items: vec![] };
        short.advance(&answer, None, now()).unwrap();

        let taken = store.claim(lease(2, 60), 10).await.unwrap().remove(0);
        let (held, entries) = advanced(&taken);
        assert!(store.save(&taken, &held, &entries, None, renewal(2, lease(2, 60))).await.unwrap());
        assert!(store.is_saved(&held).await.unwrap());
        assert!(!store.is_saved(&short).await.unwrap());
        // The same step at another time does not count either.
        let (later, _) = advanced(&saga);
        assert!(!store.is_saved(&later).await.unwrap());
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_released_saga_is_taken_over() {
    for database in both("order").await {
        let config = souk_store::db::Config::at(database.url.clone());
        let store = Store::open(&config, database.data_dir()).await.unwrap();
        let (order, entries) = order();
        store.place(&key("a"), &order, &entries, lease(1, 60)).await.unwrap();
        let saga = Saga::Order(Box::new(order));
        store.release(&saga, release(1, now(), 3, "no answer")).await.unwrap();
        let taken = store.claim(lease(2, 60), 10).await.unwrap();
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].attempts(), 3);
        // When a step is stored, the tries are counted from zero again.
        let (next, entries) = advanced(&taken[0]);
        assert!(store.save(&taken[0], &next, &entries, None, renewal(2, lease(2, -1))).await.unwrap());
        let taken = store.claim(lease(3, 60), 10).await.unwrap();
        assert_eq!(taken[0].attempts(), 0);
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_idempotency_records_with_a_response_are_deleted_after_their_time() {
    for database in both("order").await {
        let config = souk_store::db::Config::at(database.url.clone());
        let store = Store::open(&config, database.data_dir()).await.unwrap();
        let mut sagas = Vec::new();
        for name in ["a", "b"] {
            let (order, entries) = order();
            store.place(&key(name), &order, &entries, lease(1, 60)).await.unwrap();
            sagas.push(Saga::Order(Box::new(order)));
        }
        let mut rejected = sagas[0].clone();
        let answer = Answer::OutOfStock { message: "none".into(), items: vec![] };
        let entries = rejected.advance(&answer, None, now()).unwrap();
        let held = renewal(1, lease(1, 60));
        assert!(store.save(&sagas[0], &rejected, &entries, Some(b"answer"), held).await.unwrap());
        let record = store.find_record(&key("a")).await.unwrap().unwrap();
        assert_eq!(record.response.as_deref(), Some(b"answer".as_slice()));
        assert!(record.same_request);
        let other = Key { request_hash: vec![9], ..key("a") };
        assert!(!store.find_record(&other).await.unwrap().unwrap().same_request);

        assert_eq!(store.forget(now() - TimeDelta::hours(1)).await.unwrap(), 0);
        assert_eq!(store.forget(now() + TimeDelta::hours(1)).await.unwrap(), 1);
        assert_eq!(store.find_record(&key("a")).await.unwrap(), None);
        assert!(store.find_record(&key("b")).await.unwrap().is_some());
        store.close().await;
    }
}
