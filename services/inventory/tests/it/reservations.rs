//! Reserving and selling stock.

use souk_common::{
    error::{Problem, Reason},
    ids::{OrderId, ProductId, ReservationId},
};
use souk_proto::inventory::v1::{
    CommitReservationRequest, GetReservationRequest, ListLedgerEntriesRequest, ReleaseReservationRequest, Reservation,
    batch_update_reservations_request::change::Change,
    batch_update_reservations_response::{Shortage, result::Result as Changed},
    ledger_entry::Reason as LedgerReason,
    reservation::State,
};
use souk_testkit::db::Engine;
use tonic::Status;

use crate::harness::{Souk, both, fields, order, refused, reserve, untracked};

async fn get(souk: &Souk, order: &str) -> Result<Reservation, Status> {
    let id = OrderId::parse_name(order).unwrap().uuid();
    let request = GetReservationRequest { name: ReservationId::from_uuid(id).name() };
    Ok(souk.reservations_of_staff().get_reservation(request).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_is_reserved_and_then_sold() {
    for souk in both().await {
        let (a, b) = (souk.stocked("A", 5).await, souk.stocked("B", 5).await);
        let post = souk.made(untracked("POST")).await.name;
        let order = order();
        // Two lines of one product are added up.
        let held = souk.reserve(&order, &[(&a, 1), (&b, 5), (&a, 2), (&post, 1)]).await.unwrap();
        assert_eq!((held.state(), &held.order), (State::Open, &order));
        assert_eq!(held.name, order.replace("orders/ord_", "reservations/res_"));
        let lines: Vec<_> = held.lines.iter().map(|line| (&line.product, line.quantity)).collect();
        assert_eq!(lines, [(&a, 3), (&b, 5)]);
        assert_eq!((souk.sums(&a).await, souk.sums(&b).await), ((5, 3, 2), (5, 5, 0)));
        assert_eq!(get(&souk, &order).await.unwrap(), held);

        let sold = souk.commit(&order).await.unwrap();
        assert_eq!((sold.state(), &sold.lines), (State::Committed, &held.lines));
        assert_eq!((souk.sums(&a).await, souk.sums(&b).await), ((2, 0, 2), (0, 0, 0)));
        assert_eq!(souk.commit(&order).await.unwrap(), sold, "again changes nothing");
        assert_eq!(get(&souk, &order).await.unwrap(), sold);

        let parent = ListLedgerEntriesRequest { parent: a, ..Default::default() };
        let entries = souk.stock().list_ledger_entries(parent).await.unwrap().into_inner().ledger_entries;
        let sale = &entries[0];
        assert_eq!((sale.reason(), sale.quantity, sale.on_hand_after), (LedgerReason::Sale, -3, 2));
        assert_eq!((&sale.reference, sale.actor.as_str()), (&order, "services/order"));
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_lines_are_reserved_or_none_and_each_short_product_is_named() {
    for souk in both().await {
        let (a, b, c) = (souk.stocked("A", 3).await, souk.stocked("B", 9).await, souk.product("C").await);
        let wanted = [(a.as_str(), 2), (&a, 3), (&b, 9), (&c, 1)];
        let problem = refused(souk.reserve(&order(), &wanted).await, Reason::OutOfStock);
        let told: Vec<_> = problem
            .violations()
            .iter()
            .map(|v| (v.kind.as_str(), v.subject.as_str(), v.description.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                ("OUT_OF_STOCK", a.as_str(), "5 wanted, 3 available"),
                ("OUT_OF_STOCK", c.as_str(), "1 wanted, 0 available"),
            ]
        );
        assert_eq!(souk.sums(&b).await, (9, 0, 9));
        let nobody = ProductId::new().name();
        let problem = refused(souk.reserve(&order(), &[(&b, 1), (&nobody, 1)]).await, Reason::ResourceNotFound);
        assert!(problem.message().contains(&nobody), "{problem}");
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_request_is_refused() {
    for souk in both().await {
        let a = souk.stocked("A", 3).await;
        let order = order();
        for (request, path) in [
            (reserve("orders/x", &[(&a, 1)], 60), "order"),
            (reserve(&order, &[], 60), "items"),
            (reserve(&order, &[(&a, 0)], 60), "items[0].quantity"),
            (reserve(&order, &[(&a, 1), (&a, 1_000_000_001)], 60), "items[1].quantity"),
            (reserve(&order, &[(&order, 1)], 60), "items[0].product"),
            (reserve(&order, &[(&a, 1)], 0), "ttl"),
            (reserve(&order, &[(&a, 1)], 604_801), "ttl"),
        ] {
            let problem = refused(souk.reservations().reserve(request).await, Reason::FieldInvalid);
            assert_eq!(fields(&problem), [path]);
        }
        refused(souk.commit(&order).await, Reason::ResourceNotFound);
        refused(souk.give_back(&order, "k", &[(&a, 1)]).await, Reason::ResourceNotFound);
        refused(get(&souk, &order).await, Reason::ResourceNotFound);
        assert_eq!(souk.available(&a).await, 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_has_one_reservation() {
    for souk in both().await {
        let a = souk.stocked("A", 5).await;
        let order = order();
        let first = souk.reserve(&order, &[(&a, 2)]).await.unwrap();
        assert_eq!(souk.reserve(&order, &[(&a, 1), (&a, 1)]).await.unwrap(), first);
        refused(souk.reserve(&order, &[(&a, 3)]).await, Reason::StateConflict);
        assert_eq!(souk.sums(&a).await, (5, 2, 3));
        let sold = souk.commit(&order).await.unwrap();
        assert_eq!(souk.reserve(&order, &[(&a, 2)]).await.unwrap(), sold);
        refused(souk.reserve(&order, &[(&a, 3)]).await, Reason::StateConflict);
        refused(souk.release(&order).await, Reason::StateConflict);
        assert_eq!(souk.sums(&a).await, (3, 0, 3));
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn released_stock_is_available_and_stays_released() {
    for souk in both().await {
        let a = souk.stocked("A", 5).await;
        let (held, never) = (order(), order());
        souk.reserve(&held, &[(&a, 5)]).await.unwrap();
        for (order, lines) in [(&held, 1), (&never, 0)] {
            let released = souk.release(order).await.unwrap();
            assert_eq!((released.state(), released.lines.len()), (State::Released, lines));
            assert_eq!(souk.release(order).await.unwrap(), released, "again changes nothing");
            // A late Reserve reserves nothing.
            refused(souk.reserve(order, &[(&a, 1)]).await, Reason::StateConflict);
            refused(souk.commit(order).await, Reason::StateConflict);
            refused(souk.give_back(order, "k", &[(&a, 1)]).await, Reason::StateConflict);
            assert_eq!(souk.sums(&a).await, (5, 0, 5));
        }
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_of_untracked_products_needs_no_stock() {
    for souk in both().await {
        let post = souk.made(untracked("POST")).await.name;
        let order = order();
        let held = souk.reserve(&order, &[(&post, 1_000_000_000)]).await.unwrap();
        assert_eq!((held.state(), held.lines.len()), (State::Open, 0));
        refused(souk.reserve(&order, &[(&post, 1)]).await, Reason::StateConflict);
        assert_eq!(souk.commit(&order).await.unwrap().state(), State::Committed);
        souk.give_back(&order, "k", &[(&post, 1)]).await.unwrap();
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn goods_are_returned_once_to_their_location() {
    for souk in both().await {
        let (a, b) = (souk.stocked("A", 3).await, souk.stocked("B", 9).await);
        let far = souk.location("far", 9).await;
        souk.receive(&a, &far, 3).await;
        let order = order();
        // No location has five pieces.
        souk.reserve(&order, &[(&a, 5), (&b, 1)]).await.unwrap();
        refused(souk.give_back(&order, "k1", &[(&a, 1)]).await, Reason::StateConflict);
        souk.commit(&order).await.unwrap();
        let on_hand = async || -> Vec<_> { souk.levels(&a).await.iter().map(|level| level.on_hand).collect() };
        assert_eq!(on_hand().await, [0, 1]);

        let back = souk.give_back(&order, "k1", &[(&a, 2), (&a, 2), (&b, 1)]).await.unwrap();
        let returned: i64 = back.lines.iter().map(|line| line.returned_quantity).sum();
        assert_eq!((returned, on_hand().await), (5, vec![3, 2]));
        assert_eq!(souk.give_back(&order, "k1", &[(&a, 2), (&a, 2), (&b, 1)]).await.unwrap(), back);
        refused(souk.give_back(&order, "k1", &[(&a, 4)]).await, Reason::IdempotencyKeyReused);
        let problem = refused(souk.give_back(&order, "k2", &[(&a, 2), (&b, 1)]).await, Reason::StateConflict);
        let told: Vec<_> = problem.violations().iter().map(|v| v.description.as_str()).collect();
        assert_eq!(told, ["2 coming back, 1 sold and not back yet", "1 coming back, 0 sold and not back yet"]);
        souk.give_back(&order, "k2", &[(&a, 1)]).await.unwrap();
        assert_eq!(on_hand().await, [3, 3]);
        souk.verified().await;
    }
}

/// An error has only as many products as fit into headers, fewer than in this test.
#[tokio::test(flavor = "multi_thread")]
async fn the_batch_response_has_every_shortage_in_numbers() {
    for souk in both().await {
        let enough = souk.stocked("ENOUGH", 1).await;
        let mut wanted = vec![(enough, 1)];
        let mut expected = Vec::new();
        for number in 0..120 {
            let product = souk.product(&format!("SHORT-{number}")).await;
            expected.push(Shortage { product: product.clone(), wanted: number + 1, available: 0 });
            wanted.push((product, number + 1));
        }
        let wanted: Vec<_> = wanted.iter().map(|(product, pieces)| (product.as_str(), *pieces)).collect();
        let change = Change::Reserve(reserve(&order(), &wanted, 600));
        let mut results = souk.batch_results(vec![change]).await.unwrap();
        let result = results.pop().unwrap();
        let Some(Changed::Error(error)) = result.result else { panic!("done: {:?}", result.result) };
        let problem = Problem::from(error);
        assert_eq!(problem.reason(), Reason::OutOfStock);
        assert!(problem.violations().len() < expected.len(), "{problem}");
        let mut shortages = result.shortages;
        shortages.sort_by_key(|shortage| shortage.wanted);
        assert_eq!(shortages, expected);

        // Other reasons have no shortages.
        let mut results =
            souk.batch_results(vec![Change::Commit(CommitReservationRequest { order: order() })]).await.unwrap();
        assert_eq!(results.pop().unwrap().shortages, []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_of_a_batch_succeeds_or_fails_by_itself() {
    let hold = |order: &str, product: &str, pieces| Change::Reserve(reserve(order, &[(product, pieces)], 600));
    let commit = |order: &str| Change::Commit(CommitReservationRequest { order: order.to_owned() });
    let release = |order: &str| Change::Release(ReleaseReservationRequest { order: order.to_owned() });
    for souk in both().await {
        let a = souk.stocked("A", 5).await;
        let [held, given, never, two, greedy] = std::array::from_fn(|_| order());
        souk.reserve(&held, &[(&a, 1)]).await.unwrap();
        souk.reserve(&given, &[(&a, 1)]).await.unwrap();
        let changes =
            || vec![commit(&held), release(&given), commit(&never), hold(&two, &a, 2), hold(&greedy, &a, 100)];
        for _again in 0..2 {
            let [sold, back, unknown, open, short] = souk.batch(changes()).await.unwrap().try_into().unwrap();
            assert_eq!((sold.unwrap(), back.unwrap(), open.unwrap()), (State::Committed, State::Released, State::Open));
            // The error is the same as that of the single method.
            let alone = refused(souk.commit(&never).await, Reason::ResourceNotFound);
            assert_eq!(unknown.unwrap_err().to_string(), alone.to_string());
            let short = short.unwrap_err();
            assert_eq!(short.reason(), Reason::OutOfStock);
            assert_eq!(short.violations()[0].subject, a);
            assert_eq!(souk.sums(&a).await, (4, 2, 2), "{}", souk.database.engine);
        }

        let lines = vec![commit(&held), hold("orders/x", &a, 1)];
        let problem = refused(souk.batch(lines).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["changes[1].reserve.order"]);
        let problem = refused(souk.batch(Vec::new()).await, Reason::FieldInvalid);
        assert_eq!(fields(&problem), ["changes"]);
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_concurrent_requests_for_ten_pieces_ten_succeed() {
    for souk in both().await {
        let a = souk.stocked("A", 10).await;
        let wish = || Change::Reserve(reserve(&order(), &[(&a, 1)], 600));
        let answers = souk.batch(std::iter::repeat_with(wish).take(1000).collect()).await.unwrap();
        let short = answers.iter().filter(|answer| matches!(answer, Err(p) if p.reason() == Reason::OutOfStock));
        assert_eq!((short.count(), answers.len()), (990, 1000));
        assert_eq!(souk.sums(&a).await, (10, 10, 0));
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_some_requests_and_serves_the_others() {
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let souk = Souk::start(engine, 1, &[("QUEUE_SIZE", "1"), ("BATCH_SIZE", "1")]).await;
        let a = souk.stocked("A", 100).await;
        let wish = || Change::Reserve(reserve(&order(), &[(&a, 1)], 600));
        let mut left: Vec<_> = std::iter::repeat_with(wish).take(100).collect();
        // At least one request succeeds each time.
        for _each in 0..100 {
            let answers = souk.batch(left.clone()).await.unwrap();
            left = left
                .into_iter()
                .zip(&answers)
                .filter_map(|(wish, answer)| answer.as_ref().err().map(|_| wish))
                .collect();
            for problem in answers.into_iter().filter_map(Result::err) {
                assert_eq!(problem.reason(), Reason::Overloaded, "{problem}");
            }
            if left.is_empty() {
                break;
            }
        }
        assert_eq!((left.len(), souk.sums(&a).await), (0, (100, 100, 0)));
        souk.verified().await;
    }
}
