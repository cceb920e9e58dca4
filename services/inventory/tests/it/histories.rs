//! Random histories of concurrent actions. The promises are checked at the end.

use futures::future::join_all;
use souk_proto::inventory::v1::{
    CommitReservationRequest, ReleaseReservationRequest, reservation_service_client::ReservationServiceClient,
    stock_service_client::StockServiceClient,
};
use souk_testkit::db::Engine;
use tonic::{Code, Status};

use crate::harness::{Api, Souk, adjustment, count, give_back, order, reserve, transfer};

/// A small random generator. The test's output has its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// Checks the result of a random action: it must succeed or be refused by a rule. Returns whether it succeeded.
#[track_caller]
fn ruled<T>(result: Result<T, Status>) -> bool {
    match result {
        Ok(_) => true,
        Err(status) => {
            let by_rule = [Code::FailedPrecondition, Code::NotFound, Code::InvalidArgument];
            assert!(by_rule.contains(&status.code()), "{status:?}");
            false
        }
    }
}

/// Random actions of one of several tasks on the same few orders and products.
async fn act(
    seed: u64,
    (mut reservations, mut stock): (ReservationServiceClient<Api>, StockServiceClient<Api>),
    (products, orders, places): (Vec<String>, Vec<String>, [String; 2]),
) -> usize {
    let mut dice = Dice(seed);
    let mut done = 0;
    for _ in 0..40 {
        let order = orders[dice.roll(orders.len() as u64) as usize].clone();
        let mut wanted = Vec::new();
        for _ in 0..=dice.roll(3) {
            wanted.push((products[dice.roll(products.len() as u64) as usize].as_str(), dice.roll(4) as i64 + 1));
        }
        let pieces = dice.roll(12) as i64 - 4;
        let side = dice.roll(2) as usize;
        let (here, there) = (places[side].as_str(), places[1 - side].as_str());
        let key = format!("k{}", dice.roll(60));
        let success = match dice.roll(14) {
            0..4 => ruled(reservations.reserve(reserve(&order, &wanted, 1 + dice.roll(3) as i64)).await),
            4..6 => ruled(reservations.commit_reservation(CommitReservationRequest { order }).await),
            6 => ruled(reservations.release_reservation(ReleaseReservationRequest { order }).await),
            7 => ruled(reservations.return_reservation(give_back(&order, &key, &wanted)).await),
            8..10 => ruled(stock.transfer_stock(transfer(&key, wanted[0].0, (here, there), wanted[0].1)).await),
            10..12 => {
                let counted = [(wanted[0].0, here, pieces + 12), (wanted[0].0, there, wanted[0].1)];
                ruled(stock.count_stock(count(&key, &counted)).await)
            }
            _ if pieces == 0 => false,
            _ => ruled(stock.adjust_stock(adjustment(&key, wanted[0].0, here, pieces)).await),
        };
        done += usize::from(success);
    }
    done
}

async fn history(engine: Engine, replicas: usize, seed: u64) {
    let souk = Souk::start(engine, replicas, &[("BATCH_SIZE", "8"), ("EXPIRY_INTERVAL", "1s")]).await;
    let places = [souk.main().await, souk.location("far", 9).await];
    let mut products = Vec::new();
    for number in 0..4 {
        products.push(souk.stocked(&format!("P{number}"), 15).await);
    }
    let orders: Vec<_> = (0..25).map(|_| order()).collect();
    let actors = (0..12).map(|number| {
        let replica = number % replicas;
        let clients = (souk.reservations_at(replica), souk.stock_at(replica));
        let known = (products.clone(), orders.clone(), places.clone());
        tokio::spawn(act(seed.wrapping_add(number as u64), clients, known))
    });
    let done: usize = join_all(actors).await.into_iter().map(Result::unwrap).sum();
    assert!(done > 50, "{done} actions succeeded, seed {seed}");
    souk.verified().await;
}

/// The same key at once, at two replicas and for different products: their row locks do not conflict, so the key itself
/// must be unique.
#[tokio::test(flavor = "multi_thread")]
async fn one_key_at_two_replicas_takes_effect_once() {
    let souk = Souk::start(Engine::Postgres, 2, &[]).await;
    let products = [souk.stocked("A", 15).await, souk.stocked("B", 15).await];
    for round in 0..40 {
        let key = format!("round-{round}");
        let adjust = async |replica: usize| {
            let request = adjustment(&key, &products[replica], "", 1);
            souk.stock_at(replica).adjust_stock(request).await.map_err(|status| status.code())
        };
        let (one, other) = tokio::join!(adjust(0), adjust(1));
        let codes = [one.err(), other.err()];
        assert_eq!(codes.iter().flatten().collect::<Vec<_>>(), [&Code::InvalidArgument], "{codes:?}");
    }
    souk.verified().await;
}

fn seed() -> u64 {
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("seed {seed}");
    seed
}

#[tokio::test(flavor = "multi_thread")]
async fn no_history_breaks_a_promise_on_sqlite() {
    history(Engine::Sqlite, 1, seed()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_history_breaks_a_promise_on_postgres_with_three_replicas() {
    history(Engine::Postgres, 3, seed()).await;
}
