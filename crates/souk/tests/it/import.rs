//! Imports a real export completely, twice, with kills in between. The revenue of each day equals that of the export.
//!
//! `SOUK_TEST_LINES=100000` imports all lines of the export instead of the first ones.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
    time::Duration,
};

use souk_testkit::{
    db::{self, Engine, TestDatabase},
    process::Program,
    wait,
};

use super::{
    cluster::{Up, souk},
    kill::sqlite,
};

/// The path of the export: `SOUK_TEST_EXPORT`, or a folder beside the repository.
fn export() -> PathBuf {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/online-retail-2010-12-a.csv");
    std::env::var_os("SOUK_TEST_EXPORT").map_or(beside, PathBuf::from)
}

/// Copies the first lines of the export, so that the test is short. Some of them are invalid. An invoice may be cut in
/// the middle.
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

/// The counts in the summary, without times.
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
    let lines = std::env::var("SOUK_TEST_LINES").map_or(3000, |lines| lines.parse().unwrap());
    let file = excerpt(folder.path(), lines);
    let books = Books::of(&file);
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

    // The importer is killed while it places orders, then souk is killed.
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
    assert!(whole[0].contains(&books.lines.len().to_string()), "{log}");
    println!("{engine}: {log}");
    let rejected = std::fs::read_to_string(&report).unwrap();
    assert!(rejected.lines().count() > 10, "the excerpt has dirty lines:\n{rejected}");
    let (expected, found) = (books.revenue(&rejected), books.found(&databases[2]).await);
    println!("{engine}, by day, sold and taken back, in pence: {found:#?}");
    assert_eq!(found, expected);
    assert!(found.values().any(|(_, back)| *back > 0), "nothing was taken back");

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

/// The content of the shop: the number of orders and users, and the stock of every product.
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

/// The amounts that were sold and taken back on each day, in pence.
type Revenue = BTreeMap<String, (i64, i64)>;

/// The content of an export, read without the importer.
struct Books {
    lines: Vec<BookLine>,
    /// The day of each invoice and of each cancellation.
    days: HashMap<String, String>,
}

struct BookLine {
    /// The number of the line in the file.
    number: u64,
    invoice: String,
    day: String,
    /// Price and pieces as text.
    price: String,
    pieces: String,
}

impl Books {
    fn of(file: &Path) -> Self {
        let mut reader = csv::Reader::from_path(file).unwrap();
        // The heading is line 1, and no field spans several lines.
        let lines: Vec<_> =
            (2..).zip(reader.byte_records()).map(|(number, record)| BookLine::read(number, &record.unwrap())).collect();
        let days = lines.iter().map(|line| (line.invoice.clone(), line.day.clone())).collect();
        Self { lines, days }
    }

    /// The revenue without the lines that the importer's report names.
    fn revenue(&self, report: &str) -> Revenue {
        let mut rejected = csv::Reader::from_reader(report.as_bytes());
        let rejected: HashSet<u64> = rejected.records().map(|line| line.unwrap()[0].parse().unwrap()).collect();
        let mut revenue = Revenue::new();
        for line in self.lines.iter().filter(|line| !rejected.contains(&line.number)) {
            let (pounds, pence) = line.price.split_once('.').unwrap_or((&line.price, ""));
            let price = pounds.parse::<i64>().unwrap() * 100 + format!("{pence:0<2}").parse::<i64>().unwrap();
            let amount = price * line.pieces.parse::<i64>().unwrap();
            let (sold, back) = revenue.entry(line.day.clone()).or_default();
            if line.invoice.starts_with('C') { *back -= amount } else { *sold += amount }
        }
        revenue
    }

    /// The revenue in souk's database. A cancelled order does not store the day of its cancellation, so its reason
    /// names the cancellation.
    async fn found(&self, orders: &TestDatabase) -> Revenue {
        let mut revenue = Revenue::new();
        let rows = async |what: &str| {
            let day = |column| match orders.engine {
                Engine::Sqlite => format!("substr({column}, 1, 10)"),
                Engine::Postgres => format!("to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD')"),
            };
            let what = what.replace("{placed}", &day("placed_at")).replace("{returned}", &day("returned_at"));
            query(orders, &what).await
        };
        let sold = "SELECT {placed} AS what, sum(total_minor) AS amount FROM orders \
                    WHERE state IN ('CONFIRMED', 'CANCELLED') GROUP BY 1";
        for (day, amount) in rows(sold).await {
            revenue.entry(day).or_default().0 += amount;
        }
        let back = "SELECT {returned} AS what, sum(refund_minor) AS amount FROM returns \
                    WHERE state = 'COMPLETED' GROUP BY 1";
        for (day, amount) in rows(back).await {
            revenue.entry(day).or_default().1 += amount;
        }
        let cancelled = "SELECT detail AS what, refunded_minor AS amount FROM orders \
                         JOIN timeline_entries ON order_id = id AND kind = 'CANCEL_REQUESTED' \
                         WHERE state = 'CANCELLED'";
        for (reason, amount) in rows(cancelled).await {
            let invoice = reason.strip_prefix("cancelled by ").unwrap();
            revenue.entry(self.days[invoice].clone()).or_default().1 += amount;
        }
        revenue
    }
}

impl BookLine {
    fn read(number: u64, record: &csv::ByteRecord) -> Self {
        let text = |index: usize| String::from_utf8_lossy(&record[index]).trim().to_owned();
        let date = text(4);
        let (day, month, year) = (&date[..2], &date[3..5], &date[6..10]);
        Self { number, invoice: text(0), day: format!("{year}-{month}-{day}"), price: text(5), pieces: text(3) }
    }
}

/// The rows of a query for a text `what` and an `amount`.
async fn query(database: &TestDatabase, select: &str) -> Vec<(String, i64)> {
    let found = match database.engine {
        Engine::Sqlite => {
            let file = database.url.strip_prefix("sqlite:").unwrap();
            let select = format!("SELECT json_group_array(json_array(what, amount)) FROM ({select})");
            sqlite(Path::new(file), &select)
        }
        Engine::Postgres => {
            let (client, connection) = tokio_postgres::connect(&database.url, tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            let select = format!(
                "SELECT coalesce(json_agg(json_build_array(what, amount)), '[]')::text FROM ({select}) AS found"
            );
            client.query_one(&select, &[]).await.unwrap().get(0)
        }
    };
    serde_json::from_str(&found).unwrap()
}
