//! Runs the README's tour as it is written.

use std::{path::Path, process::Stdio};

use souk_testkit::{process::souk_binary, tools};
use tokio::process::Command;

use super::cluster::Up;

/// The shell blocks of the tour as one script.
fn tour() -> String {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md")).unwrap();
    let blocks = readme.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect::<Vec<_>>();
    assert!(blocks.len() >= 8, "the tour has lost its blocks");
    blocks.join("echo ----\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_readme_work() {
    let up = Up::start().await;
    let script = tour()
        .replace("http://127.0.0.1:8080", &up.gateway)
        .replace("127.0.0.1:8080", up.gateway.trim_start_matches("http://"))
        .replace("souk-data/", &format!("{}/", up.folder.path().display()))
        .replace(
            "cargo run -- verify",
            &format!("{} verify --data-dir {}", souk_binary().display(), up.folder.path().display()),
        );
    // If it is in PATH already, its folder is empty, and PATH stays the same.
    let grpcurl = tools::installed("grpcurl").await;
    let folder = grpcurl.parent().unwrap_or(Path::new("")).to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::env::split_paths(&path).chain([folder])).unwrap();
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &script])
        .stdin(Stdio::null())
        .env_remove("SOUK_TOKEN")
        .env("PATH", path)
        .output()
        .await
        .unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{errors}");
    let parts: Vec<&str> = said.split("----\n").collect();
    let [_admin, shelf, customer, placed, again, refused, grpc, verified] = parts.as_slice() else {
        panic!("{} parts:\n{said}", parts.len());
    };
    for (part, texts) in [
        (shelf, ["\"onHand\":\"10\"", "\"available\":\"10\""].as_slice()),
        (customer, &["ann@example.com", "Brass lantern"]),
        (placed, &["STATE_CONFIRMED", "STATE_CAPTURED", "KIND_PLACED", "KIND_CONFIRMED"]),
        (again, &["idempotent-replayed: true", "\"available\":\"7\"", "IDEMPOTENCY_KEY_REUSED"]),
        (refused, &["STATE_REJECTED", "OUT_OF_STOCK", "ACCESS_DENIED"]),
        (
            grpc,
            &[
                "souk.order.v1.OrderService\n",
                "grpc.health.v1.Health\n",
                "\"title\": \"Brass lantern\"",
                "STATE_CONFIRMED",
            ],
        ),
        (verified, &["promises hold"]),
    ] {
        for text in texts {
            assert!(part.contains(text), "`{text}` is not in\n{part}\nof\n{said}\n{errors}");
        }
    }
}
