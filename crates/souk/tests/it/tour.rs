//! The README's tour, run as it stands there.

use std::{path::Path, process::Stdio};

use souk_testkit::process::souk_binary;
use tokio::process::Command;

use super::cluster::Up;

/// The shell blocks of the tour, one script.
fn tour() -> String {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md")).unwrap();
    let mut blocks = readme.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect::<Vec<_>>();
    assert!(blocks.len() >= 8, "the tour has lost its blocks");
    // The gRPC lines need a program that not every machine has; `grpc.rs` makes the same calls.
    blocks.retain(|block| !block.contains("grpcurl"));
    blocks.join("echo ----\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readme_works_line_by_line() {
    let up = Up::start().await;
    let script = tour()
        .replace("http://127.0.0.1:8080", &up.gateway)
        .replace("souk-data/", &format!("{}/", up.folder.path().display()))
        .replace(
            "cargo run -- verify",
            &format!("{} verify --data-dir {}", souk_binary().display(), up.folder.path().display()),
        );
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &script])
        .stdin(Stdio::null())
        .env_remove("SOUK_TOKEN")
        .output()
        .await
        .unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{errors}");
    let parts: Vec<&str> = said.split("----\n").collect();
    let [_admin, shelf, customer, placed, again, refused, verified] = parts.as_slice() else {
        panic!("{} parts:\n{said}", parts.len());
    };
    for (part, texts) in [
        (shelf, ["\"onHand\":\"10\"", "\"available\":\"10\""].as_slice()),
        (customer, &["ann@example.com", "Brass lantern"]),
        (placed, &["STATE_CONFIRMED", "STATE_CAPTURED", "KIND_PLACED", "KIND_CONFIRMED"]),
        (again, &["idempotent-replayed: true", "\"available\":\"7\"", "IDEMPOTENCY_KEY_REUSED"]),
        (refused, &["STATE_REJECTED", "OUT_OF_STOCK", "ACCESS_DENIED"]),
        (verified, &["promises hold"]),
    ] {
        for text in texts {
            assert!(part.contains(text), "`{text}` is not in\n{part}\nof\n{said}\n{errors}");
        }
    }
}
