//! Orders: placed through the gateway with the whole saga, compared with the minimal cost of an order in PostgreSQL.

use anyhow::{Context, Result};
use souk_testkit::servers;

use crate::{
    Rounds,
    buyers::{Buyers, Demand},
    floor::{self, Floor},
    report::{Figures, Goal, Report},
    souk::{Place, Souk},
};

const FLOOR: &str = "pgbench, uniform";
const FLOOR_HOT: &str = "pgbench, one SKU";
const REST: &str = "souk, REST, uniform";
const REST_ZIPF: &str = "souk, REST, Zipf 1.1";
const REST_HOT: &str = "souk, REST, one SKU";
const GRPC: &str = "souk, gRPC, uniform";
const REST_SQLITE: &str = "souk, REST, SQLite";

/// Runs the case `orders`.
pub async fn run(rounds: &Rounds, buyers: usize) -> Result<()> {
    let binary = rounds.souk()?;
    let server = servers::postgres()?;
    let floor = Floor::prepare(&server)?;
    let souk = Souk::start(&binary, Place::Postgres(&server, "souk"), &[]).await?;
    let embedded = Souk::start(&binary, Place::Sqlite, &[]).await?;
    let (own, embedded_own) = (Buyers::of(&souk).await?, Buyers::of(&embedded).await?);

    let mut report = Report::<Figures>::new();
    for _ in 0..rounds.rounds {
        let pgbench = |script| floor.turn(script, souk.folder(), rounds.connections, rounds.seconds);
        report.add(FLOOR, pgbench(floor::UNIFORM)?);
        for (name, target) in
            [(REST, own.rest(Demand::Uniform)), (GRPC, own.grpc(Demand::Uniform)), (REST_ZIPF, own.rest(Demand::Zipf))]
        {
            report.add(name, souk.orders(&target, buyers, rounds.turn()).await.context(name)?);
        }
        report.add(FLOOR_HOT, pgbench(floor::HOT)?);
        let hot = souk.orders(&own.rest(Demand::One), buyers, rounds.turn()).await;
        report.add(REST_HOT, hot.context(REST_HOT)?);
        let turn = embedded.orders(&embedded_own.rest(Demand::Uniform), buyers, rounds.turn()).await;
        report.add(REST_SQLITE, turn.context(REST_SQLITE)?);
        souk.check().await?;
        embedded.check().await?;
        report.show_round();
    }
    let mut rates = |what, goal, a, b| report.ratio(what, goal, (a, |f| f.rate), (b, |f| f.rate));
    rates("orders over REST / pgbench, uniform", Goal::AtLeast(1.0), REST, FLOOR);
    rates("orders over gRPC / pgbench, uniform", Goal::Open, GRPC, FLOOR);
    rates("orders over REST, one SKU / pgbench, one SKU", Goal::AtLeast(3.0), REST_HOT, FLOOR_HOT);
    rates("orders over REST, one SKU / uniform", Goal::AtLeast(0.9), REST_HOT, REST);
    rates("orders over REST, Zipf 1.1 / uniform", Goal::Open, REST_ZIPF, REST);
    rates("orders over REST, SQLite / PostgreSQL", Goal::Open, REST_SQLITE, REST);
    let cpu = |f: &Figures| f.cpu_per_1000;
    report.ratio("CPU an order, all / pgbench, uniform", Goal::Open, (REST, cpu), (FLOOR, cpu));
    report.finish(rounds.json.as_deref())
}
