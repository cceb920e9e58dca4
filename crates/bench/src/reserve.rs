//! Reservations: Reserve of the inventory service, called as the order service calls it, compared with the minimal cost
//! of an order in PostgreSQL.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use prost::Message;
use souk_common::{auth::ServiceTokens, config::Secret, ids::OrderId};
use souk_proto::inventory::v1::{
    BatchUpdateReservationsRequest, BatchUpdateReservationsResponse, Reservation, ReservationItem, ReserveRequest,
    batch_update_reservations_request::{Change as ChangeMessage, change::Change},
    batch_update_reservations_response::result::Result as Changed,
    reservation::State,
};
use souk_testkit::servers;

use crate::{
    Rounds,
    buyers::{Basket, Buyers, Demand},
    floor::{self, Floor},
    load::{Body, Call, Check, Target},
    report::{Figures, Goal, Report},
    souk::{Place, Souk},
};

const FLOOR: &str = "pgbench, uniform";
const FLOOR_HOT: &str = "pgbench, one SKU";
const RESERVE: &str = "Reserve, uniform";
const RESERVE_HOT: &str = "Reserve, one SKU";
const TOGETHER: &str = "together, uniform";
const TOGETHER_HOT: &str = "together, one SKU";

/// The number of simulated order services. Each has one batched call at a time, for all orders that wait.
const TOGETHER_AT: usize = 2;

/// The lifetime of the reservations, which is longer than any run.
const TTL: prost_types::Duration = prost_types::Duration { seconds: 86_400, nanos: 0 };

/// Runs the case `reserve`.
pub async fn run(rounds: &Rounds, callers: usize) -> Result<()> {
    let server = servers::postgres()?;
    let floor = Floor::prepare(&server)?;
    let souk = Souk::start(&rounds.souk()?, Place::Postgres(&server, "souk"), &[]).await?;
    let products = Buyers::of(&souk).await?.products;
    let reserved = AtomicU64::new(0);

    let mut report = Report::<Figures>::new();
    for _ in 0..rounds.rounds {
        for (floor_name, script, alone, together, demand) in [
            (FLOOR, floor::UNIFORM, RESERVE, TOGETHER, Demand::Uniform),
            (FLOOR_HOT, floor::HOT, RESERVE_HOT, TOGETHER_HOT, Demand::One),
        ] {
            report.add(floor_name, floor.turn(script, souk.folder(), rounds.connections, rounds.seconds)?);
            for (name, connections, many) in [(alone, callers, 1), (together, TOGETHER_AT, callers / TOGETHER_AT)] {
                let basket = demand.of(products.clone());
                let target = if name == alone { one_each(&souk, basket)? } else { for_all(&souk, basket, many)? };
                let turn = souk.counted_turn(&target, connections, rounds.turn()).await;
                let (figures, calls) = turn.context(name)?;
                reserved.fetch_add(calls * many as u64, Relaxed);
                report.add(name, figures.for_each_of(many));
            }
        }
        souk.verify().await?;
        let (answered, stored) = (
            reserved.load(Relaxed),
            souk.number("inventory", "SELECT count(*) FROM reservations WHERE state = 'OPEN'")?,
        );
        ensure!(stored == Some(answered), "{answered} reservations answered, {stored:?} stored");
        report.show_round();
    }
    let rate = |f: &Figures| f.rate;
    report.ratio("Reserve / pgbench, uniform", Goal::Open, (RESERVE, rate), (FLOOR, rate));
    report.ratio("Reserve, one SKU / pgbench, one SKU", Goal::AtLeast(10.0), (RESERVE_HOT, rate), (FLOOR_HOT, rate));
    report.ratio("together, one SKU / pgbench, one SKU", Goal::AtLeast(10.0), (TOGETHER_HOT, rate), (FLOOR_HOT, rate));
    report.ratio("Reserve, one SKU / uniform", Goal::Open, (RESERVE_HOT, rate), (RESERVE, rate));
    report.finish(rounds.json.as_deref())
}

/// Each call reserves for one new order.
fn one_each(souk: &Souk<'_>, basket: Basket) -> Result<Target> {
    let body = move || request(&basket).encode_to_vec().into();
    let open = |answer: &Bytes| Reservation::decode(answer.slice(5..)).is_ok_and(|held| held.state() == State::Open);
    target(souk, "/souk.inventory.v1.ReservationService/Reserve", Arc::new(body), Arc::new(open))
}

/// Each call reserves for `many` new orders.
fn for_all(souk: &Souk<'_>, basket: Basket, many: usize) -> Result<Target> {
    let body = move || {
        let change = || ChangeMessage { change: Some(Change::Reserve(request(&basket))) };
        let changes = std::iter::repeat_with(change).take(many).collect();
        BatchUpdateReservationsRequest { changes }.encode_to_vec().into()
    };
    let open = move |answer: &Bytes| {
        let open = Some(Changed::State(State::Open.into()));
        BatchUpdateReservationsResponse::decode(answer.slice(5..))
            .is_ok_and(|answer| answer.results.len() == many && answer.results.iter().all(|held| held.result == open))
    };
    let path = "/souk.inventory.v1.ReservationService/BatchUpdateReservations";
    target(souk, path, Arc::new(body), Arc::new(open))
}

fn request(basket: &Basket) -> ReserveRequest {
    let item = |(product, quantity)| ReservationItem { product, quantity };
    ReserveRequest { order: OrderId::new().name(), items: basket().into_iter().map(item).collect(), ttl: Some(TTL) }
}

/// Calls the service directly.
fn target(souk: &Souk<'_>, path: &'static str, body: Body, check: Check) -> Result<Target> {
    let secret = std::fs::read_to_string(souk.folder().join("internal.secret"))?;
    // The token is valid for two minutes, which is enough for a turn.
    let bearer =
        ServiceTokens::new(&Secret::new(secret.trim()), "order").bearer("souk.inventory.v1.ReservationService")?;
    let token = bearer.to_str()?.trim_start_matches("Bearer ").to_owned();
    Ok(Target { address: souk.service("inventory")?, call: Call::Grpc(path, body), token, check })
}
