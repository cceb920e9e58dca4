//! `souk prove`: services are killed without warning while buyers order, cancel and return goods. Nothing is lost,
//! doubled or oversold. A planted loss is reported.

use std::{path::Path, process::Command, time::Duration};

use serde_json::Value;
use souk_testkit::{
    db::{self, Engine},
    process::Program,
    wait,
};
use tempfile::TempDir;

use super::{
    cluster::{Up, souk},
    rest::Rest,
};

/// `SOUK_TEST_KILL_ORDERS` and `SOUK_TEST_KILLS` make the tests longer.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn prove(folder: &TempDir) -> Program {
    let json = folder.path().join("report.json");
    souk().args(["prove", "--json"]).arg(json).deadline(Duration::from_secs(900))
}

/// The report of the run.
fn report(folder: &TempDir) -> Value {
    serde_json::from_slice(&std::fs::read(folder.path().join("report.json")).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_under_orders_sqlite() {
    kill_under_orders(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_under_orders_postgres() {
    kill_under_orders(Engine::Postgres).await;
}

async fn kill_under_orders(engine: Engine) {
    let (orders, kills) = (setting("SOUK_TEST_KILL_ORDERS", 200), setting("SOUK_TEST_KILLS", 5));
    let folder = tempfile::tempdir().unwrap();
    let mut program = prove(&folder)
        .env("TMPDIR", folder.path())
        .args(["--orders", &orders.to_string(), "--kills", &kills.to_string(), "--buyers", "16"])
        // The stock sells out during the run.
        .args(["--seed", "4", "--products", "3", "--stock", "60"]);
    if engine == Engine::Postgres {
        let mut server = db::postgres_url().await;
        server.set_path("");
        program = program.args(["--database-url", server.as_str()]);
    }
    let (status, log) = program.run().await;
    println!("{engine}: {log}");
    assert!(status.success(), "{log}");
    let report = report(&folder);
    let (did, found) = (&report["did"], report["found"].as_array().unwrap());
    assert_eq!(did["orders"], orders, "{report:#}");
    // A slow machine may not have time for all planned kills.
    let killed: u64 = did["kills"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert!(killed >= 2, "{report:#}");
    for answer in ["confirmed", "out of stock", "payment declined"] {
        assert!(did["answers"][answer].as_u64().is_some_and(|count| count > 0), "{answer}: {report:#}");
    }
    for what in ["cancelled", "returned", "deliveries"] {
        assert!(did[what].as_u64().unwrap() > 0, "{what}: {report:#}");
    }
    assert!(did["final_after"].as_f64().unwrap() < 30.0);
    assert!(found.len() >= 8 && found.iter().all(|check| check["counted"].as_u64().unwrap() > 0), "{report:#}");
    // After a success, no files are left behind.
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 1, "more than the report is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn prove_stays_within_the_rate_limits_and_cleans_up_without_a_kill() {
    let up = Up::start_with(|program| {
        let budget = "SOUK_GATEWAY__RATE_LIMITS__WRITE__PER_CALLER";
        program.env(format!("{budget}__RATE"), "4/s").env(format!("{budget}__BURST"), "3")
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let program = prove(&folder)
        // With this seed, some orders are sent four times at once.
        .args(["--url", &up.gateway, "--orders", "60", "--buyers", "4", "--seed", "4", "--data-dir"])
        .arg(up.folder.path());
    let (status, log) = program.run().await;
    assert!(status.success(), "{log}");
    let report = report(&folder);
    assert_eq!(report["did"]["orders"], 60);
    assert!(report["did"]["repeated"]["RATE_LIMITED"].as_u64().is_some_and(|times| times > 0), "{report:#}");
    assert!(log.contains("souk verify"), "{log}");
    let products = Rest::anonymous(&up.gateway).get("/v1/products").await.ok();
    assert_eq!(products["products"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn prove_cleans_up_if_it_is_stopped_before_the_first_order_without_a_kill() {
    let up = Up::start().await;
    // This many buyers take some time to start, because their log-ins share the budget of one address.
    let program = Program::new(env!("CARGO_BIN_EXE_souk"), "Run ")
        .args(["prove", "--url", &up.gateway, "--buyers", "200", "--data-dir"])
        .arg(up.folder.path());
    let mut run = program.start().await;
    let status = run.terminate(Duration::from_secs(30)).await;
    assert_eq!(status.code(), Some(1), "{}", run.log());
    assert!(run.log().contains("stopped before the buyers began"), "{}", run.log());
    let products = Rest::anonymous(&up.gateway).get("/v1/products").await.ok();
    assert_eq!(products["products"], serde_json::json!([]));
}

/// The test changes the data behind the services' backs. The run must find that.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_order_and_an_extra_piece_are_found_without_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    // Buyers do not cancel or return the lost order: only the check at the end can find it.
    let program = prove(&folder).args(["--duration", "8s", "--no-kills", "--buyers", "4", "--data-dir"]).arg(&data);
    let run = tokio::spawn(program.run());
    wait::until(Duration::from_secs(120), "a confirmed order to lose", async || {
        !sqlite(&data.join("order.db"), LOSE).is_empty()
    })
    .await;
    sqlite(&data.join("inventory.db"), "UPDATE stock SET on_hand = on_hand + 1");
    let (status, log) = run.await.unwrap();
    assert_eq!(status.code(), Some(1), "{log}");
    let report = report(&folder);
    let broken = |promise: &str| {
        let checks = report["found"].as_array().unwrap();
        let check = checks.iter().find(|check| check["promise"].as_str().unwrap().contains(promise));
        check.map(|check| check["broken"].to_string()).unwrap_or_default()
    };
    assert!(broken("every acknowledged order is there").contains("orders/ord_"), "{report:#}");
    assert!(broken("never exceed stock").contains("products/prd_"), "{report:#}");
    assert!(broken("sum of its ledger").contains("products/prd_"), "{report:#}");
    assert!(log.contains("FAIL") && log.contains(&format!("Left to look at: {}", data.display())), "{log}");
    assert!(data.join("order.log").exists(), "the services' logs are left");
}

/// Deletes one confirmed order and returns its id. Foreign keys are off, as for connections outside of the services.
const LOSE: &str =
    "DELETE FROM orders WHERE id = (SELECT id FROM orders WHERE state = 'CONFIRMED' LIMIT 1) RETURNING hex(id)";

/// Uses Python, which includes SQLite; the `sqlite3` command may be missing. Returns an empty text if the file does not
/// exist yet.
pub fn sqlite(file: &Path, sql: &str) -> String {
    if !file.exists() {
        return String::new();
    }
    let script = "import sqlite3,sys; c=sqlite3.connect(sys.argv[1],timeout=10); r=c.execute(sys.argv[2]).fetchall(); \
                  c.commit(); print(r[0][0] if r else '')";
    let output = Command::new("python3").args(["-c", script]).arg(file).arg(sql).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
