//! A real export, imported whole, twice, and with everything killed in between.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use souk_testkit::{
    db::{self, Engine},
    process::Program,
    wait,
};

use super::cluster::{Up, souk};

/// The export: `SOUK_TEST_EXPORT`, or where the project keeps its real input beside the repository.
fn export() -> PathBuf {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/online-retail-2010-12-a.csv");
    std::env::var_os("SOUK_TEST_EXPORT").map_or(beside, PathBuf::from)
}

/// The first lines of the export, so that a test is done soon; dirty ones are among them. A cut in the middle of an
/// invoice is fine.
fn excerpt(folder: &Path, lines: usize) -> PathBuf {
    let file = folder.join("excerpt.csv");
    let bytes = std::fs::read(export()).unwrap_or_else(|error| {
        panic!("the export is not at {}: {error}; set SOUK_TEST_EXPORT to where it is", export().display())
    });
    let end =
        bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(lines).map_or(bytes.len(), |(at, _)| at + 1);
    std::fs::write(&file, &bytes[..end]).unwrap();
    file
}

fn importer(up: &Up, file: &Path, report: &Path) -> Program {
    Program::new(env!("CARGO_BIN_EXE_souk"), "invoices")
        .args(["import", "online-retail"])
        .arg(file)
        .args(["--concurrency", "16", "--data-dir"])
        .arg(up.folder.path())
        .arg("--report")
        .arg(report)
        .deadline(Duration::from_secs(600))
}

/// What the summary counts, its times left out.
fn sums(log: &str) -> Vec<String> {
    let counts = log.lines().skip_while(|line| !line.starts_with("  lines"));
    counts.take_while(|line| line.starts_with("  ")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn import_survives_kills_sqlite() {
    import_survives_kills(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn import_survives_kills_postgres() {
    import_survives_kills(Engine::Postgres).await;
}

async fn import_survives_kills(engine: Engine) {
    let folder = tempfile::tempdir().unwrap();
    let file = excerpt(folder.path(), 3000);
    let databases = [
        db::database(engine, "user").await,
        db::database(engine, "inventory").await,
        db::database(engine, "order").await,
    ];
    let names = ["USER", "INVENTORY", "ORDER"];
    let urls: Vec<_> = names
        .iter()
        .zip(&databases)
        .map(|(name, database)| (format!("SOUK_{name}__DATABASE__URL"), database.url.clone()))
        .collect();
    let mut up =
        Up::start_with(|program| urls.iter().fold(program, |program, (name, url)| program.env(name, url))).await;

    // The importer is killed while it places orders, then souk itself.
    let mut first = importer(&up, &file, &folder.path().join("first.csv")).start().await;
    let admin = up.admin().await;
    wait::until(Duration::from_secs(120), "the first orders", async || {
        admin.get("/v1/orders?pageSize=1").await.body["orders"].as_array().is_some_and(|orders| !orders.is_empty())
    })
    .await;
    first.kill().await;
    up.process.kill().await;
    up.process.restart().await;
    up.gateway = super::cluster::running(up.folder.path());

    let report = folder.path().join("report.csv");
    let (status, log) = importer(&up, &file, &report).run().await;
    assert!(status.success(), "{log}\n{}", up.process.log());
    let whole = sums(&log);
    assert!(whole[0].contains("3000"), "{log}");
    let rejected = std::fs::read_to_string(&report).unwrap();
    assert!(rejected.lines().count() > 10, "the excerpt has dirty lines:\n{rejected}");

    // A second run changes nothing.
    let stamp = stamp(&up).await;
    let again = folder.path().join("again.csv");
    let (status, log) = importer(&up, &file, &again).run().await;
    assert!(status.success(), "{log}");
    assert_eq!(sums(&log), whole);
    assert_eq!(self::stamp(&up).await, stamp);
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(lines(&std::fs::read_to_string(&again).unwrap()), lines(&rejected));

    let verify = souk().args(["verify", "--data-dir"]).arg(up.folder.path());
    let (status, log) = urls.iter().fold(verify, |program, (name, url)| program.env(name, url)).run().await;
    assert!(status.success(), "{log}");
}

/// What the shop holds: how many orders and users, and every product's stock.
async fn stamp(up: &Up) -> (usize, usize, Vec<String>) {
    let admin = up.admin().await;
    let mut count = [0, 0];
    for (index, what) in ["orders", "users"].into_iter().enumerate() {
        let mut token = String::new();
        loop {
            let page = admin.get(&format!("/v1/{what}?pageSize=500&pageToken={token}")).await.ok();
            count[index] += page[what].as_array().map_or(0, Vec::len);
            token = page["nextPageToken"].as_str().unwrap_or_default().to_owned();
            if token.is_empty() {
                break;
            }
        }
    }
    let products = admin.get("/v1/products?pageSize=100&orderBy=sku").await.ok();
    let mut stock = Vec::new();
    for product in products["products"].as_array().unwrap() {
        let levels = admin.get(&format!("/v1/{}/stock", product["name"].as_str().unwrap())).await.ok();
        stock.push(levels["levels"].to_string());
    }
    (count[0], count[1], stock)
}
