//! Stock held for orders: inventory's Reserve alone, asked as the order service asks it, beside the least that an order
//! costs PostgreSQL.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use prost::Message;
use souk_common::{auth::ServiceTokens, config::Secret, ids::OrderId};
use souk_proto::inventory::v1::{Reservation, ReservationItem, ReserveRequest, reservation::State};
use souk_testkit::servers;

use crate::{
    Rounds,
    buyers::{Buyers, Demand},
    floor::{self, Floor},
    load::{Call, Target},
    report::{Figures, Goal, Report},
    souk::{Place, Souk},
};

const FLOOR: &str = "pgbench, uniform";
const FLOOR_HOT: &str = "pgbench, one SKU";
const RESERVE: &str = "Reserve, uniform";
const RESERVE_HOT: &str = "Reserve, one SKU";

/// Longer than any run.
const TTL: prost_types::Duration = prost_types::Duration { seconds: 86_400, nanos: 0 };

/// Runs the case.
pub async fn run(rounds: &Rounds, callers: usize) -> Result<()> {
    let server = servers::postgres()?;
    let floor = Floor::prepare(&server)?;
    let souk = Souk::start(&rounds.souk()?, Place::Postgres(&server, "souk"), &[]).await?;
    let products = Buyers::of(&souk).await?.products;
    let reserved = AtomicU64::new(0);

    let mut report = Report::<Figures>::new();
    for _ in 0..rounds.rounds {
        for (floor_name, script, name, demand) in
            [(FLOOR, floor::UNIFORM, RESERVE, Demand::Uniform), (FLOOR_HOT, floor::HOT, RESERVE_HOT, Demand::One)]
        {
            report.add(floor_name, floor.turn(script, souk.folder(), rounds.connections, rounds.seconds)?);
            let target = reserve(&souk, demand, products.clone())?;
            let (figures, count) = souk.counted_turn(&target, callers, rounds.turn()).await.context(name)?;
            reserved.fetch_add(count, Relaxed);
            report.add(name, figures);
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
    report.ratio("Reserve, one SKU / uniform", Goal::Open, (RESERVE_HOT, rate), (RESERVE, rate));
    report.finish(rounds.json.as_deref())
}

/// Reserves for a new order with each call, at the service itself.
fn reserve(souk: &Souk<'_>, demand: Demand, products: Arc<Vec<String>>) -> Result<Target> {
    let secret = std::fs::read_to_string(souk.folder().join("internal.secret"))?;
    // Good for two minutes: a turn's time.
    let bearer = ServiceTokens::new(&Secret::new(secret.trim()), "order").bearer()?;
    let token = bearer.to_str()?.trim_start_matches("Bearer ").to_owned();
    let basket = demand.of(products);
    let body = move || {
        let item = |(product, quantity)| ReservationItem { product, quantity };
        let items = basket().into_iter().map(item).collect();
        ReserveRequest { order: OrderId::new().name(), items, ttl: Some(TTL) }.encode_to_vec().into()
    };
    let open = |answer: &Bytes| Reservation::decode(answer.slice(5..)).is_ok_and(|held| held.state() == State::Open);
    Ok(Target {
        address: souk.service("inventory")?,
        call: Call::Grpc("/souk.inventory.v1.ReservationService/Reserve", Arc::new(body)),
        token,
        check: Arc::new(open),
    })
}
