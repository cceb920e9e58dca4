//! Reservations expire by the clock, not by a job.

use std::time::Duration;

use souk_common::{
    error::Reason,
    ids::{OrderId, ReservationId},
};
use souk_proto::inventory::v1::{GetReservationRequest, reservation::State};
use souk_testkit::{db::Engine, wait};

use crate::harness::{Souk, both, order, refused, reserve};

/// Reserves stock for a second and waits until it is available again.
async fn run_out(souk: &Souk, order: &str, product: &str, pieces: i64) {
    let before = souk.available(product).await;
    souk.reservations().reserve(reserve(order, &[(product, pieces)], 1)).await.unwrap();
    wait::until(Duration::from_secs(20), "the reservation to run out", async || {
        souk.available(product).await == before
    })
    .await;
}

async fn state(souk: &Souk, order: &str) -> State {
    let id = OrderId::parse_name(order).unwrap().uuid();
    let request = GetReservationRequest { name: ReservationId::from_uuid(id).name() };
    souk.reservations_of_staff().get_reservation(request).await.unwrap().into_inner().state()
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_stock_is_available_before_the_job_runs() {
    for souk in both().await {
        let a = souk.stocked("A", 5).await;
        let b = souk.stocked("B", 5).await;
        let late = order();
        // It also reserves a second product, which the next order does not contain.
        souk.reservations().reserve(reserve(&late, &[(&a, 5), (&b, 2)], 1)).await.unwrap();
        wait::until(Duration::from_secs(20), "the reservation to run out", async || souk.available(&a).await == 5)
            .await;
        assert_eq!(souk.sums(&a).await, (5, 5, 5), "still reserved, but available");
        assert_eq!(state(&souk, &late).await, State::Expired);
        let quick = order();
        souk.reserve(&quick, &[(&a, 5)]).await.unwrap();
        assert_eq!((souk.sums(&a).await, souk.sums(&b).await), ((5, 5, 0), (5, 0, 5)));

        refused(souk.commit(&late).await, Reason::OutOfStock);
        souk.release(&quick).await.unwrap();
        let sold = souk.commit(&late).await.unwrap();
        assert_eq!(sold.state(), State::Committed);
        assert_eq!((souk.sums(&a).await, souk.sums(&b).await), ((0, 0, 0), (3, 0, 3)));
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_reservation_is_committed_renewed_or_released() {
    for souk in both().await {
        let a = souk.stocked("A", 5).await;
        let (sold, anew, released) = (order(), order(), order());
        run_out(&souk, &sold, &a, 1).await;
        run_out(&souk, &anew, &a, 2).await;
        run_out(&souk, &released, &a, 1).await;
        assert_eq!(souk.commit(&sold).await.unwrap().state(), State::Committed);
        let open = souk.reserve(&anew, &[(&a, 1)]).await.unwrap();
        assert_eq!((open.state(), open.lines[0].quantity), (State::Open, 1));
        assert_eq!(souk.release(&released).await.unwrap().state(), State::Released);
        assert_eq!(souk.sums(&a).await, (4, 1, 3));
        souk.verified().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_closes_expired_reservations() {
    for engine in Engine::ALL {
        let souk = Souk::start(engine, 1, &[("EXPIRY_INTERVAL", "1s")]).await;
        let a = souk.stocked("A", 500).await;
        for _ in 0..10 {
            souk.reservations().reserve(reserve(&order(), &[(&a, 1)], 1)).await.unwrap();
        }
        let open = order();
        souk.reserve(&open, &[(&a, 3)]).await.unwrap();
        wait::until(Duration::from_secs(20), "the job", async || souk.sums(&a).await == (500, 3, 497)).await;
        assert_eq!(state(&souk, &open).await, State::Open);
        souk.verified().await;
    }
}
