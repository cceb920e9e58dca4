//! What clients and operators see, stored as text in `tests/goldens`, so that a review shows each change.
//! `SOUK_UPDATE_DOCS=1 cargo test -p souk --test it goldens` writes the files again. docs/openapi.json and
//! docs/errors.md are checked in the same way by other tests.

mod contract;
mod exchanges;
mod metrics;
mod sources;
mod tape;

use std::{fs, path::Path};

use super::cluster::souk;

/// Fails if a file differs from the expected text, and names the first different line.
#[track_caller]
fn compare(file: &str, made: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(file);
    if std::env::var_os("SOUK_UPDATE_DOCS").is_some() {
        fs::write(&path, made).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let differs = kept.lines().zip(made.lines()).zip(1..).find(|((kept, made), _)| kept != made);
    if let Some(((kept, made), line)) = differs {
        panic!("{file}:{line} says\n  {kept}\nand should say\n  {made}\nRun this test with SOUK_UPDATE_DOCS=1.");
    }
    let (kept, made) = (kept.lines().count(), made.lines().count());
    assert!(kept == made, "{file} has {kept} lines and should have {made}: run this test with SOUK_UPDATE_DOCS=1");
}

// The names contain `document`, because the command in CONTRIBUTING.md that writes all documents selects tests by that
// word.

#[test]
fn the_contract_document_equals_the_descriptors() {
    compare("contract.txt", &contract::text());
}

#[test]
fn the_routes_document_equals_the_routes_of_the_gateway() {
    compare("routes.txt", &contract::routes());
}

#[test]
fn the_logs_document_names_every_line_that_can_be_logged() {
    compare("logs.txt", &sources::logs());
}

#[test]
fn the_events_document_names_every_event_type() {
    compare("events.txt", &sources::events());
}

#[test]
fn the_instruments_document_names_every_metric_and_label() {
    compare("instruments.txt", &sources::metrics());
}

#[tokio::test]
async fn the_settings_document_equals_the_output_of_default_config() {
    let (status, text) = souk().arg("default-config").run().await;
    assert!(status.success(), "{text}");
    compare("settings.toml", &format!("{text}\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exchanges_and_metrics_documents_equal_the_responses_of_a_running_souk() {
    let recorded = exchanges::record().await;
    compare("exchanges.txt", &recorded.exchanges);
    compare("metrics.txt", &recorded.metrics);
}
