//! A disk is full. Requests are refused with 503 and the reason, `/readyz` reports the failure, and everything
//! continues once there is space. Each test uses a real file system of its own.

use std::time::Duration;

use souk_testkit::{
    servers::{self, SmallDisk},
    wait,
};
use tokio_postgres::error::SqlState;

use super::{
    cluster::{Up, administrator, running},
    rest::{Answer, Rest, order},
};

const LONG: Duration = Duration::from_secs(60);

/// A small file system. `None` if nothing can be mounted; `./test` reports that at its start.
fn disk(mebibytes: u32) -> Option<SmallDisk> {
    SmallDisk::new(mebibytes).inspect_err(|why| println!("NOT TESTED: {why:#}")).ok()
}

/// Orders until an order is refused with 503. Orders that were recorded before may still be running.
async fn refused(buyer: &Rest, product: &str, round: &str) -> Answer {
    for number in 0..2000 {
        let answer =
            buyer.post("/v1/orders", order(&format!("{round}-{number}"), &[(product, 1)], "tok_approved")).await;
        if answer.status == 503 {
            return answer;
        }
    }
    panic!("every order is taken, as if there were room");
}

async fn is_ready(buyer: &Rest) -> bool {
    buyer.get("/readyz").await.status == 200
}

/// Fills the disk and frees it again, twice, while orders are placed.
async fn refuses_until_there_is_room(admin: &Rest, fill: impl AsyncFn(), make_room: impl AsyncFn()) {
    let product = admin.product("FULL", 10_000).await;
    let buyer = Rest::anonymous(&admin.base).customer("full").await;
    for round in ["first", "second"] {
        wait::until(LONG, "souk to be ready", async || is_ready(&buyer).await).await;
        let body = order(&format!("{round}-before"), &[(&product, 1)], "tok_approved");
        assert_eq!(buyer.post("/v1/orders", body).await.ok()["state"], "STATE_CONFIRMED");
        fill().await;
        let answer = refused(&buyer, &product, round).await;
        assert_eq!(answer.problem(503), "SERVICE_UNAVAILABLE");
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(detail.contains("database cannot store anything at the moment"), "{detail}");
        wait::until(LONG, "souk not to be ready", async || !is_ready(&buyer).await).await;
        // Reads still succeed.
        buyer.get(&format!("/v1/{product}")).await.ok();
        make_room().await;
    }
    wait::until(LONG, "souk to be ready", async || is_ready(&buyer).await).await;
    let body = order("after", &[(&product, 1)], "tok_approved");
    assert_eq!(buyer.post("/v1/orders", body).await.ok()["state"], "STATE_CONFIRMED");
}

/// The orders' database is in a tablespace on the full disk.
#[tokio::test(flavor = "multi_thread")]
async fn fault_a_full_disk_postgres() {
    let Some(disk) = disk(24) else { return };
    let server = tokio::task::spawn_blocking(servers::postgres).await.unwrap().unwrap();
    let url = |database: &str| format!("{}/{database}", server.url().trim_end_matches("/postgres"));
    let sql = async |database: &str, statement: &str| {
        let (client, connection) = tokio_postgres::connect(&url(database), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute(statement).await
    };
    let tablespace = format!("CREATE TABLESPACE small LOCATION '{}'", disk.from_outside().display());
    sql("postgres", &tablespace).await.unwrap();
    sql("postgres", "CREATE DATABASE souk_order TABLESPACE small").await.unwrap();
    let up = Up::start_with(|program| program.env("SOUK_ORDER__DATABASE__URL", url("souk_order"))).await;
    let fill = async || {
        sql("souk_order", "CREATE TABLE filler (text text)").await.unwrap();
        let more = "INSERT INTO filler SELECT repeat('x', 1900) FROM generate_series(1, 64)";
        let full = loop {
            if let Err(error) = sql("souk_order", more).await {
                break error;
            }
        };
        assert_eq!(full.code(), Some(&SqlState::DISK_FULL), "{full:?}");
    };
    let make_room = async || sql("souk_order", "DROP TABLE filler").await.unwrap();
    refuses_until_there_is_room(&up.admin().await, fill, make_room).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_a_full_disk_sqlite() {
    let Some(disk) = disk(32) else { return };
    let folder = disk.path().join("data");
    let up = || {
        let program = disk.program(env!("CARGO_BIN_EXE_souk"), "grpcurl -plaintext");
        program.args(["up", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&folder)
    };
    let mut process = up().start().await;
    let seen = disk.from_outside().join("data");
    let admin = administrator(&running(&seen), &seen).await;
    refuses_until_there_is_room(&admin, async || disk.fill().unwrap(), async || disk.make_room().unwrap()).await;

    // A start names the file and what to do.
    assert!(process.terminate(LONG).await.success(), "{}", process.log());
    disk.fill().unwrap();
    let (status, log) = up().run().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("user.db is full (0 KiB free): make room in"), "{log}");
    disk.make_room().unwrap();
    let process = up().start().await;
    let admin = administrator(&running(&seen), &seen).await;
    assert!(is_ready(&admin).await, "{}", process.log());
}
