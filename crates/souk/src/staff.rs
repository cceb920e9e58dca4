//! The client of the public API for `souk import`, `souk demo` and `souk prove`.

use anyhow::Context;
use souk_import::api::{Api, Identity};

use crate::data_dir::DataDir;

/// A client with the token in SOUK_TOKEN, or else with the administrator's credentials in the data folder.
pub fn api(server: &str, data_dir: &DataDir) -> anyhow::Result<Api> {
    let identity = match std::env::var("SOUK_TOKEN") {
        Ok(token) if !token.is_empty() => Identity::Token(token),
        _ => Identity::Credentials(data_dir.credentials().with_context(|| {
            format!(
                "no credentials: set SOUK_TOKEN to an administrator's access token, or give the --data-dir of a \
                 `souk up` ({} has none)",
                data_dir.path().display()
            )
        })?),
    };
    Api::new(server, identity)
}
