//! Concurrent requests, and several replicas of the service on one database.

use futures::future::join_all;
use souk_common::error::Reason;
use souk_proto::inventory::v1::{CommitReservationRequest, ListLedgerEntriesRequest, reservation::State};
use souk_testkit::db::Engine;

use crate::harness::{Souk, adjustment, order, refused, reserve};

/// 64 tasks want the last 10 pieces at all replicas. 10 tasks get one, and all 10 pieces are sold.
async fn race(souk: &Souk) {
    let product = souk.stocked("LAST", 10).await;
    let tasks = (0..64).map(|number| {
        let (order, product) = (order(), product.clone());
        let mut client = souk.reservations_at(number % souk.replicas.len());
        tokio::spawn(async move {
            let held = client.reserve(reserve(&order, &[(&product, 1)], 600)).await;
            (order, held)
        })
    });
    let (mut won, mut lost) = (Vec::new(), 0);
    for task in join_all(tasks).await {
        match task.unwrap() {
            (order, Ok(_)) => won.push(order),
            (_, refusal) => {
                refused(refusal, Reason::OutOfStock);
                lost += 1;
            }
        }
    }
    assert_eq!((won.len(), lost), (10, 54));
    assert_eq!(souk.sums(&product).await, (10, 10, 0));

    // Each reservation is committed twice, at different replicas.
    let commits =
        won.iter().flat_map(|order| [(order, 0), (order, souk.replicas.len() - 1)]).map(|(order, replica)| {
            let mut client = souk.reservations_at(replica);
            let request = CommitReservationRequest { order: order.clone() };
            tokio::spawn(async move { client.commit_reservation(request).await })
        });
    for sold in join_all(commits).await {
        assert_eq!(sold.unwrap().unwrap().into_inner().state(), State::Committed);
    }
    assert_eq!(souk.sums(&product).await, (0, 0, 0));
    souk.verified().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_ten_pieces_are_sold_ten_times_on_sqlite() {
    race(&Souk::start(Engine::Sqlite, 1, &[]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_ten_pieces_are_sold_ten_times_on_postgres_over_two_replicas() {
    race(&Souk::start(Engine::Postgres, 2, &[]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_succeed_with_batches_of_one() {
    for engine in Engine::ALL {
        race(&Souk::start(engine, 1, &[("BATCH_SIZE", "1")]).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_id_at_once_changes_stock_once() {
    for (engine, replicas) in [(Engine::Sqlite, 1), (Engine::Postgres, 2)] {
        let souk = Souk::start(engine, replicas, &[]).await;
        let product = souk.product("A").await;
        let tasks = (0..20).map(|number| {
            let mut client = souk.stock_at(number % replicas);
            let request = adjustment("same", &product, "", 5);
            tokio::spawn(async move { client.adjust_stock(request).await.unwrap().into_inner() })
        });
        let answers: Vec<_> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        assert_eq!(souk.sums(&product).await, (5, 0, 5));
        let parent = ListLedgerEntriesRequest { parent: product, ..Default::default() };
        let entries = souk.stock().list_ledger_entries(parent).await.unwrap().into_inner().ledger_entries;
        assert_eq!(entries.len(), 1);
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_reserved_and_released_at_once_ends_released() {
    for (engine, replicas) in [(Engine::Sqlite, 1), (Engine::Postgres, 2)] {
        let souk = Souk::start(engine, replicas, &[]).await;
        let product = souk.stocked("A", 1000).await;
        let pairs = (0..30).map(|_| {
            let (order, product) = (order(), product.clone());
            let mut reserving = souk.reservations_at(0);
            let mut releasing = souk.reservations_at(replicas - 1);
            tokio::spawn(async move {
                let held = reserve(&order, &[(&product, 1)], 600);
                let released = souk_proto::inventory::v1::ReleaseReservationRequest { order };
                let (held, released) = tokio::join!(reserving.reserve(held), releasing.release_reservation(released));
                assert_eq!(released.unwrap().into_inner().state(), State::Released);
                if held.is_err() {
                    refused(held, Reason::StateConflict);
                }
            })
        });
        join_all(pairs).await.into_iter().for_each(Result::unwrap);
        assert_eq!(souk.sums(&product).await, (1000, 0, 1000));
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_of_the_same_products_in_any_order_never_block_each_other() {
    for (engine, replicas) in [(Engine::Sqlite, 1), (Engine::Postgres, 2)] {
        // Small batches, so that many transactions conflict.
        let souk = Souk::start(engine, replicas, &[("BATCH_SIZE", "2")]).await;
        let (a, b, c) = (souk.stocked("A", 200).await, souk.stocked("B", 200).await, souk.stocked("C", 200).await);
        let tasks = (0..60).map(|number| {
            let mut wanted = [(a.clone(), 1), (b.clone(), 1), (c.clone(), 1)];
            wanted.rotate_left(number % 3);
            if number % 2 == 0 {
                wanted.reverse();
            }
            let mut client = souk.reservations_at(number % replicas);
            tokio::spawn(async move {
                let wanted: Vec<_> = wanted.iter().map(|(product, pieces)| (product.as_str(), *pieces)).collect();
                let order = order();
                client.reserve(reserve(&order, &wanted, 600)).await.unwrap();
                client.commit_reservation(CommitReservationRequest { order }).await.unwrap();
            })
        });
        join_all(tasks).await.into_iter().for_each(Result::unwrap);
        for product in [&a, &b, &c] {
            assert_eq!(souk.sums(product).await, (140, 0, 140));
        }
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_requests_are_finished_before_the_service_stops() {
    for engine in Engine::ALL {
        let mut souk = Souk::start(engine, 1, &[]).await;
        let product = souk.stocked("A", 1000).await;
        let tasks: Vec<_> = (0..50)
            .map(|_| {
                let (order, product, mut client) = (order(), product.clone(), souk.reservations());
                tokio::spawn(async move { client.reserve(reserve(&order, &[(&product, 1)], 600)).await.is_ok() })
            })
            .collect();
        souk.stop().await;
        let held: Vec<_> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
        let held = held.into_iter().filter(|held| *held).count() as i64;
        // Every acknowledged reservation exists. Others may exist whose response was lost.
        let checks = souk_inventory::verify(&souk.config).await.unwrap();
        assert!(checks.iter().all(|check| check.holds()), "{checks:?}");
        let lines = checks.iter().find(|check| check.name.starts_with("lines hold")).unwrap();
        assert!(lines.counted >= held, "{} < {held}", lines.counted);
    }
}
