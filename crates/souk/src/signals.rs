//! SIGINT and SIGTERM.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The signals to stop that this process got.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Cancelled by the first signal.
    pub token: CancellationToken,
    interrupted: Arc<AtomicBool>,
}

impl Asked {
    /// True if the signal was SIGINT: a person at a terminal waits for the end. An orchestrator sends SIGTERM.
    pub fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

/// Listens for SIGINT and SIGTERM. A second one ends the process at once.
pub fn listen() -> anyhow::Result<Asked> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let asked = Asked::default();
    let told = asked.clone();
    tokio::spawn(async move {
        loop {
            let interrupted = tokio::select! {
                _ = interrupt.recv() => true,
                _ = terminate.recv() => false,
            };
            if told.token.is_cancelled() {
                #[expect(clippy::disallowed_methods, reason = "whoever asks twice does not want to wait")]
                std::process::exit(130);
            }
            told.interrupted.store(interrupted, Ordering::Relaxed);
            told.token.cancel();
        }
    });
    Ok(asked)
}
