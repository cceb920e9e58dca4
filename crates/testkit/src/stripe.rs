//! A stand-in for Stripe: `localstripe` from PyPI, which speaks its HTTP API and sends its webhooks.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Process, Program};
use crate::servers::install::one_at_a_time;

/// A secret key that it takes: any that looks like one.
pub const API_KEY: &str = "sk_test_12345";

/// A running localstripe with empty books, gone when it is dropped.
#[derive(Debug)]
pub struct Localstripe {
    port: u16,
    process: Process,
}

impl Localstripe {
    /// Starts one on a free port. The first time, it is installed under `target/tools`.
    ///
    /// # Panics
    /// When it cannot be installed or started.
    pub async fn start() -> Self {
        let program = match tokio::task::spawn_blocking(installed).await {
            Ok(program) => program,
            Err(error) => panic!("localstripe could not be installed: {error}"),
        };
        let process = Program::new(program, "Running on http")
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

    /// Where it listens: `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What it has printed: a line for each request.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// The program, installed if need be, by one at a time.
fn installed() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let _one_at_a_time = match one_at_a_time(&target.join("localstripe.lock")) {
        Ok(file) => file,
        Err(error) => panic!("{error:#}"),
    };
    let output = match Command::new(root.join(".ci/tool")).args(["--path", "localstripe"]).output() {
        Ok(output) => output,
        Err(error) => panic!("cannot run .ci/tool: {error}"),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), ".ci/tool could not install localstripe from PyPI:\n{said}");
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let own = folder.join("localstripe");
    // Else it is in PATH, where .ci/tool found it.
    if own.is_file() { own } else { PathBuf::from("localstripe") }
}
