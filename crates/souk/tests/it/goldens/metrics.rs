//! The metrics of a process that has done every kind of work: names, types and labels, without values.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use souk_testkit::wait;

/// Metrics that may be missing, depending on time: of a job that ran, or of a retried call.
const BY_CHANCE: [&str; 6] = [
    "souk_job_",
    "rpc_client_retries",
    "souk_gateway_connections_closed",
    "souk_gateway_unread",
    "rpc_client_breaker",
    "souk_batch_wait",
];

/// The metrics at this address, once these names appear.
pub async fn text(address: &str) -> String {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let read = async || client.get(address).send().await.unwrap().text().await.unwrap();
    // They are recorded a moment after the response.
    wait::until(Duration::from_secs(20), "the metrics of the last answers", async || {
        let text = read().await;
        ["http_server_request_duration_seconds_bucket", "rpc_server_duration_seconds_bucket"]
            .iter()
            .all(|name| text.contains(name))
    })
    .await;
    describe(&read().await)
}

fn describe(text: &str) -> String {
    let mut kinds = BTreeMap::new();
    let mut labels: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            kinds.insert(name.to_owned(), kind.to_owned());
        } else if !line.starts_with('#') {
            let (name, series) = line.split_once('{').unwrap_or((line, ""));
            let name = name.split(' ').next().unwrap();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
            let name = base.filter(|base| kinds.contains_key(*base)).unwrap_or(name);
            let of = labels.entry(name.to_owned()).or_default();
            of.extend(series.split("\",").filter_map(|label| Some(label.split_once("=\"")?.0.to_owned())));
            of.remove("le");
        }
    }
    let mut lines = Vec::new();
    for (name, kind) in kinds {
        if !BY_CHANCE.iter().any(|start| name.starts_with(start)) {
            let labels: Vec<_> = labels.remove(&name).unwrap_or_default().into_iter().collect();
            lines.push(format!("{kind} {name} {{{}}}", labels.join(", ")));
        }
    }
    lines.join("\n") + "\n"
}
