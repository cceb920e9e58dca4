//! `souk import`: finds the souk and the credentials for the import.

use souk_import::Options;

use crate::{cli::OnlineRetailArgs, data_dir::DataDir, staff};

/// Imports an export. `data_dir` has the credentials that `souk up` stored.
pub async fn online_retail(args: OnlineRetailArgs, data_dir: &DataDir) -> anyhow::Result<()> {
    let OnlineRetailArgs { file, server, data_dir: _, report, concurrency } = args;
    let connect = || {
        let running = data_dir.running().map(|running| running.gateway);
        let server = server.or(running).unwrap_or_else(|| "http://127.0.0.1:8080".to_owned());
        staff::api(&server, data_dir)
    };
    souk_import::online_retail(&Options { file, report, concurrency }, connect).await
}
