//! The output of the command line, for errors and for success.

use std::{path::Path, process::Command, time::Duration};

use serde_json::json;
use souk_testkit::process::Program;
use tokio::net::TcpListener;

use super::{
    cluster::{Up, souk},
    rest::Rest,
};

/// Runs the program to its end. Returns its exit status and its output.
async fn run(args: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let program = variables.iter().fold(souk().args(args), |program, (name, value)| program.env(name, value));
    let (status, log) = program.run().await;
    (status.code().unwrap_or(-1), log)
}

#[tokio::test]
async fn a_second_up_on_the_same_folder_is_refused() {
    let up = Up::start().await;
    let folder = up.folder.path().to_str().unwrap();
    let (status, log) = run(&["up", "--listen", "127.0.0.1:0", "--data-dir", folder], &[]).await;
    assert_eq!(status, 1, "{log}");
    assert!(log.contains("another souk runs on the data folder") && log.contains(&up.gateway), "{log}");
}

/// A service with its SQLite file in the folder is refused while another process uses the folder, and the other way
/// round.
#[tokio::test]
async fn a_service_and_up_cannot_use_one_folder_at_once() {
    let mut up = Up::start().await;
    let folder = up.folder.path().to_str().unwrap().to_owned();
    for command in [&["user"][..], &["inventory"], &["order"], &["migrate"]] {
        let listen: &[&str] = if command == ["migrate"] { &[] } else { &["--listen", "127.0.0.1:0"] };
        let (status, log) = run(&[command, listen, &["--data-dir", &folder]].concat(), &[]).await;
        assert_eq!(status, 1, "{command:?}: {log}");
        assert!(
            log.contains("another souk runs on the data folder") && log.contains(&up.gateway),
            "{command:?}: {log}"
        );
    }
    // An explicit path to the same file changes nothing.
    let url = format!("sqlite:{folder}/inventory.db");
    let named = [("SOUK_INVENTORY__DATABASE__URL", url.as_str())];
    let (status, log) = run(&["inventory", "--listen", "127.0.0.1:0", "--data-dir", &folder], &named).await;
    assert_eq!(status, 1, "{log}");
    assert!(up.process.terminate(Duration::from_secs(30)).await.success());

    let souk_service = || Program::new(env!("CARGO_BIN_EXE_souk"), "serving");
    let service = |name| souk_service().args([name, "--listen", "127.0.0.1:0", "--data-dir", &folder]).start();
    let (inventory, order) = (service("inventory").await, service("order").await);
    let (status, log) = run(&["up", "--listen", "127.0.0.1:0", "--data-dir", &folder], &[]).await;
    assert_eq!(status, 1, "{log}");
    assert!(log.contains("another souk runs on the data folder"), "{log}");
    // Only one process may use an SQLite file.
    let (status, log) = run(&["order", "--listen", "127.0.0.1:0", "--data-dir", &folder], &[]).await;
    assert_eq!(status, 1, "{log}");
    assert!(log.contains("order.lock"), "{log}");
    drop((inventory, order));
}

#[tokio::test]
async fn the_error_of_a_port_in_use_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let (status, log) = run(&["--listen", &address, "--data-dir", folder.path().to_str().unwrap()], &[]).await;
    assert_eq!(status, 1, "{log}");
    assert!(log.contains(&address) && log.contains("--listen"), "{log}");
}

#[tokio::test]
async fn the_error_of_a_wrong_setting_names_it_and_its_source() {
    for (name, value, says) in [
        ("SOUK_ORDER__LISTEN", "here", "order.listen"),
        ("SOUK_ORDER__NO_SUCH", "1", "order.no_such"),
        ("SOUK_SERVER__DEADLINE", "soon", "server.deadline"),
        ("SOUK_USER__DATABASE__URL", "mysql://x", "user.database.url"),
        ("SOUK_AUTH__INTERNAL_SECRET", "short", "auth.internal_secret"),
        ("SOUK_AUTH__INTERNAL_SECRET", "change-me-change-me-change-me-change-me", "openssl rand -hex 24"),
        ("SOUK_AUTH__LEEWAY", "5m", "auth.leeway"),
    ] {
        let (status, log) = run(&["check-config"], &[(name, value)]).await;
        assert_eq!(status, 2, "{name}: {log}");
        assert!(log.contains(says) && log.contains(name), "{name}: {log}");
        assert!(name != "SOUK_AUTH__INTERNAL_SECRET" || !log.contains(value), "{log}");
    }
}

#[tokio::test]
async fn a_shop_that_other_machines_reach_needs_a_payment_provider() {
    let folder = tempfile::tempdir().unwrap();
    let up = ["up", "--listen", "0.0.0.0:0", "--data-dir", folder.path().to_str().unwrap()];
    let order = ["order", "--data-dir", folder.path().to_str().unwrap()];
    let everywhere: &[_] = &[("SOUK_ORDER__LISTEN", "0.0.0.0:0")];
    for (args, variables, key) in [(&up[..], &[][..], "gateway.listen"), (&order[..], everywhere, "order.listen")] {
        let (status, log) = run(args, variables).await;
        assert_eq!(status, 2, "{log}");
        let says = ["order.payment.provider", key, "0.0.0.0:0", "\"simulated\"", "SOUK_ORDER__PAYMENT__PROVIDER"];
        assert!(says.iter().all(|part| log.contains(part)), "{log}");
    }
}

#[tokio::test]
async fn the_default_settings_are_a_settings_file() {
    let (status, text) = run(&["default-config"], &[]).await;
    assert_eq!(status, 0, "{text}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("souk.toml");
    std::fs::write(&file, &text).unwrap();
    let (status, log) = run(&["--config", file.to_str().unwrap(), "check-config"], &[]).await;
    assert_eq!(status, 0, "{log}");
}

#[tokio::test]
async fn help_names_every_command() {
    let (status, log) = run(&["--help"], &[]).await;
    assert_eq!(status, 0);
    for command in [
        "up",
        "user",
        "inventory",
        "order",
        "gateway",
        "migrate",
        "check-config",
        "default-config",
        "import",
        "verify",
        "prove",
        "healthcheck",
        "certificates",
    ] {
        assert!(log.contains(&format!("\n  {command} ")), "{command} is not in\n{log}");
    }
}

#[tokio::test]
async fn up_prints_every_address_and_stops_cleanly() {
    let mut up = Up::start().await;
    let log = up.process.log();
    let seen = |text: &str| assert!(log.contains(text), "{text} is not in\n{log}");
    seen(&up.gateway);
    seen("/metrics");
    // The output is no terminal here, so the password stays in the file.
    let credentials = up.folder.path().join("admin.json");
    seen(&format!("password in {}", credentials.display()));
    let credentials: serde_json::Value = serde_json::from_slice(&std::fs::read(credentials).unwrap()).unwrap();
    assert!(!log.contains(credentials["password"].as_str().unwrap()), "{log}");
    assert_eq!(log.matches("curl").count(), 3, "three things to try:\n{log}");

    let client = Rest::anonymous(&up.gateway);
    assert_eq!(client.get("/livez").await.status, 200);
    assert_eq!(client.get("/readyz").await.status, 200);
    let admin = up.admin().await;
    admin.product("A", 3).await;

    let status = up.process.terminate(Duration::from_secs(30)).await;
    assert!(status.success(), "{}", up.process.log());
    assert!(!up.folder.path().join("running.json").exists());

    // After a restart it is the same shop, and the administrator is not announced again.
    up.process.restart().await;
    assert_eq!(up.process.log().matches("password in").count(), 1);
    let gateway = super::cluster::running(up.folder.path());
    let products = Rest::anonymous(&gateway).get("/v1/products").await.ok();
    assert_eq!(products["products"][0]["sku"], "A");
}

#[tokio::test]
async fn up_allows_pages_of_this_machine_unless_configured_otherwise() {
    const PAGE: &str = "http://localhost:3000";
    let allowed = async |up: &Up, origin: &str| {
        let client = reqwest::Client::new();
        let path = format!("{}/v1/products", up.gateway);
        let preflight = client.request(reqwest::Method::OPTIONS, &path).header("access-control-request-method", "POST");
        let preflight = preflight.header("origin", origin).send().await.unwrap();
        let answer = client.get(&path).header("origin", origin).send().await.unwrap();
        assert_eq!((preflight.status().as_u16(), answer.status().as_u16()), (200, 200));
        let allows = |headers: &reqwest::header::HeaderMap| {
            headers.get("access-control-allow-origin").is_some_and(|allowed| allowed == origin)
        };
        assert_eq!(allows(preflight.headers()), allows(answer.headers()));
        allows(answer.headers())
    };
    let up = Up::start().await;
    assert!(up.process.log().contains("those of http://localhost, any port, may call"), "{}", up.process.log());
    assert!(allowed(&up, PAGE).await && allowed(&up, "http://127.0.0.1:5173").await);
    assert!(!allowed(&up, "https://evil.example").await && !allowed(&up, "null").await);

    let up = Up::start_with(|program| program.env("SOUK_GATEWAY__CORS__ALLOWED_ORIGINS", "https://shop.example")).await;
    assert!(!up.process.log().contains("any port, may call"), "{}", up.process.log());
    assert!(!allowed(&up, PAGE).await && allowed(&up, "https://shop.example").await);
}

#[tokio::test]
async fn an_administrator_is_created_once_and_can_log_in() {
    let up = Up::start().await;
    let folder = up.folder.path().to_str().unwrap();
    let make = ["user", "create-admin", "--email", "Second@Example.com", "--data-dir", folder];
    let (status, log) = run(&make, &[("SOUK_ADMIN_PASSWORD", "a good password")]).await;
    assert_eq!(status, 0, "{log}");
    assert!(!log.contains("a good password"), "{log}");
    let admin = Rest::anonymous(&up.gateway).log_in("second@example.com", "a good password").await;
    assert_eq!(admin.get("/v1/users/me").await.ok()["roles"], json!(["ROLE_ADMIN"]));
    let (status, log) = run(&make, &[("SOUK_ADMIN_PASSWORD", "a good password")]).await;
    assert_eq!(status, 1, "{log}");
    assert!(log.contains("Second@Example.com") && log.contains("in use"), "{log}");
}

#[tokio::test]
async fn verify_finds_broken_promises() {
    let up = Up::start().await;
    let admin = up.admin().await;
    let product = admin.product("A", 3).await;
    let folder = up.folder.path().to_str().unwrap();
    let (status, log) = run(&["verify", "--data-dir", folder], &[]).await;
    assert_eq!(status, 0, "{log}");

    sqlite(&up.folder.path().join("inventory.db"), "UPDATE stock SET on_hand = on_hand + 1");
    let (status, log) = run(&["verify", "--data-dir", folder], &[]).await;
    assert_eq!(status, 1, "{log}");
    assert!(log.contains("ledger") && log.contains(&product), "{log}");
}

/// Uses Python, which includes SQLite; the `sqlite3` command may be missing.
fn sqlite(file: &Path, sql: &str) {
    let script = "import sqlite3,sys; c=sqlite3.connect(sys.argv[1],timeout=10); c.execute(sys.argv[2]); c.commit()";
    let status = Command::new("python3").args(["-c", script]).arg(file).arg(sql).status().unwrap();
    assert!(status.success());
}
