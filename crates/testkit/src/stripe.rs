//! A fake Stripe: `localstripe` from PyPI, which has Stripe's HTTP API and sends its webhooks.

use crate::process::{Process, Program};
use crate::tools;

/// A secret key for localstripe, which accepts any key of this format.
pub const API_KEY: &str = "sk_test_12345";

/// A running localstripe without data. Dropping it stops the process.
#[derive(Debug)]
pub struct Localstripe {
    port: u16,
    process: Process,
}

impl Localstripe {
    /// Starts localstripe on a free port. The first time, it is installed under `target/tools`.
    ///
    /// # Panics
    /// If it cannot be installed or started.
    pub async fn start() -> Self {
        let process = Program::new(tools::installed("localstripe").await, "Running on http")
            .args(["--port", "0", "--from-scratch"])
            .env("PYTHONUNBUFFERED", "1")
            .env("PYTHONPATH", concat!(env!("CARGO_MANIFEST_DIR"), "/src/stripe"))
            .start()
            .await;
        let line = process.ready_line();
        let port = line.trim_end_matches([' ', '=', ')']).rsplit(':').next().and_then(|port| port.parse().ok());
        let Some(port) = port else { panic!("localstripe does not say its port: {line}") };
        Self { port, process }
    }

    /// The address that localstripe listens on, as `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The output of localstripe: a line for each request.
    pub fn log(&self) -> String {
        self.process.log()
    }
}
